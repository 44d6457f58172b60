//! Making data stable: one sync at a time, shared by those that waited, and the first failure kept.
//!
//! The kernel tells each descriptor once that written data was lost. Were two syncs to run at the
//! same time, one would hear of the loss and the other would succeed; were a failed one repeated,
//! it would succeed although the data is gone. Hence the queue, and hence the latch.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use parking_lot::Mutex;
use ring::Io;
use rustix::io::Errno;

use super::{Core, Generation, Kind};
use crate::error::DeviceError;
use crate::gate::{Hold, RangeLock};
use crate::request::DiskError;

/// The state of one device's syncs.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    /// Held by the running sync.
    turn: RangeLock,
    /// Syncs started.
    started: AtomicU64,
    /// The latest started one that succeeded.
    good: AtomicU64,
    /// Error number of the first failure; 0 while all is well.
    failed: AtomicI32,
    /// One blocking sync at a time: on one descriptor only one would hear of a loss.
    blocking: Mutex<()>,
}

impl Syncs {
    fn verdict(&self) -> Result<(), DiskError> {
        match self.failed.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(DiskError::Io { errno }),
        }
    }

    #[cfg(test)]
    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::Acquire)
    }

    /// Keeps the first failure; says it.
    pub(crate) fn fail(&self, error: &io::Error) -> DiskError {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        let kept = self
            .failed
            .compare_exchange(0, errno, Ordering::AcqRel, Ordering::Acquire)
            .unwrap_or_else(|earlier| earlier);
        DiskError::Io {
            errno: if kept == 0 { errno } else { kept },
        }
    }
}

impl Core {
    /// SYNCHRONIZE CACHE: everything replied to before is stable.
    pub(super) async fn flush(&self, io: &Io, files: &Generation) -> Result<(), DiskError> {
        if self.traits.read_only {
            return Ok(());
        }
        self.check_length()?;
        self.stable(io, files).await
    }

    /// Waits for a sync that starts after now to succeed.
    pub(super) async fn stable(&self, io: &Io, files: &Generation) -> Result<(), DiskError> {
        let seen = self.syncs.started.load(Ordering::Acquire);
        let _turn = self.syncs.turn.acquire(0, 1, Hold::Exclusive).await;
        self.syncs.verdict()?;
        if self.syncs.good.load(Ordering::Acquire) > seen {
            return Ok(());
        }
        let number = self.syncs.started.fetch_add(1, Ordering::AcqRel) + 1;
        match io.sync(files.file(), true).await {
            Ok(()) => {
                // A blocking sync on another descriptor may have failed meanwhile.
                self.syncs.verdict()?;
                self.syncs.good.store(number, Ordering::Release);
                Ok(())
            }
            Err(error) => Err(self.syncs.fail(&error)),
        }
    }

    /// A file that became shorter than the device: data is missing, whatever a write would do.
    fn check_length(&self) -> Result<(), DiskError> {
        if !matches!(self.traits.kind, Kind::Image { .. }) {
            return Ok(());
        }
        let needed = self.bytes.load(Ordering::Acquire);
        match rustix::fs::fstat(&self.anchor) {
            Ok(stat) if u64::try_from(stat.st_size).unwrap_or(0) < needed => Err(self.lost()),
            Ok(_) => Ok(()),
            Err(_) => Err(self.lost()),
        }
    }

    /// The same from a blocking thread, on the anchor's own descriptor: it hears of every loss by
    /// itself and takes no news away from the shards.
    pub(super) fn flush_blocking(&self) -> Result<(), DeviceError> {
        if self.traits.read_only {
            return Ok(());
        }
        let _turn = self.syncs.blocking.lock();
        let failure = |source| DeviceError::Sync {
            path: self.traits.path.clone(),
            source,
        };
        match self.syncs.failed.load(Ordering::Acquire) {
            0 => {}
            errno => return Err(failure(io::Error::from_raw_os_error(errno))),
        }
        rustix::fs::fdatasync(&self.anchor).map_err(|errno| {
            let source = io::Error::from(errno);
            self.syncs.fail(&source);
            failure(source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_kept() {
        let syncs = Syncs::default();
        assert_eq!(syncs.verdict(), Ok(()));
        let first = DiskError::Io {
            errno: Errno::IO.raw_os_error(),
        };
        assert_eq!(syncs.fail(&io::Error::from(Errno::IO)), first);
        assert_eq!(syncs.fail(&io::Error::from(Errno::NOSPC)), first);
        assert_eq!(syncs.verdict(), Err(first));
    }
}
