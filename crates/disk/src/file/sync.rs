//! Making data stable: one sync at a time, shared by those that waited, and the first failure kept.
//!
//! The kernel tells each descriptor once that written data was lost. Were two syncs to run at the
//! same time, one would hear of the loss and the other would succeed; were a failed one repeated,
//! it would succeed although the data is gone. Hence the queue, and hence the latch.
//!
//! A flush whose future is dropped while the kernel works on it leaves a sync that nobody hears.
//! The next one goes to the witness, a second descriptor, which hears by itself of all that was
//! lost. Only syncs go there: it does not hold the claim.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use parking_lot::Mutex;
use ring::{Fd, Io};
use rustix::io::Errno;

use super::errors::translate;
use super::{Core, Kind};
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
    /// A sync is with the kernel, or ended unheard. Written by whoever has the turn.
    unheard: AtomicBool,
    /// One blocking sync at a time: on one descriptor only one would hear of a loss.
    blocking: Mutex<()>,
}

impl Syncs {
    pub(super) fn verdict(&self) -> Result<(), DiskError> {
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
    pub(super) async fn flush(&self, io: &Io) -> Result<(), DiskError> {
        if self.traits.read_only {
            return Ok(());
        }
        self.check_length(io).await?;
        self.stable(io).await
    }

    /// Waits for a sync that starts after now to succeed.
    pub(super) async fn stable(&self, io: &Io) -> Result<(), DiskError> {
        let seen = self.syncs.started.load(Ordering::Acquire);
        let _turn = self.syncs.turn.acquire(0, 1, Hold::Exclusive).await;
        self.syncs.verdict()?;
        if self.syncs.good.load(Ordering::Acquire) > seen {
            return Ok(());
        }
        let number = self.syncs.started.fetch_add(1, Ordering::AcqRel) + 1;
        let file = if self.syncs.unheard.swap(true, Ordering::AcqRel) {
            Fd::clone(&self.witness)
        } else {
            self.file()
        };
        let result = io.sync(file, true).await;
        if let Err(error) = &result
            && says_nothing(error)
        {
            return Err(translate(error, 0));
        }
        self.syncs.unheard.store(false, Ordering::Release);
        match result {
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
    /// Asked through the ring, because a file system may have to ask another machine.
    async fn check_length(&self, io: &Io) -> Result<(), DiskError> {
        if !matches!(self.traits.kind, Kind::Image { .. }) {
            return Ok(());
        }
        let last = self.bytes.load(Ordering::Acquire).saturating_sub(1);
        match io.extent(self.file(), last).await {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                Err(self.lost())
            }
            Err(error) => Err(translate(&error, last)),
        }
    }

    /// The same from a blocking thread, on the witness: it hears of every loss by
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
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.witness)).map_err(|errno| {
            let source = io::Error::from(errno);
            self.syncs.fail(&source);
            failure(source)
        })
    }
}

/// Errors of a sync that was not made, or not to its end: no news of the data.
fn says_nothing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AGAIN | Errno::CANCELED | Errno::INTR))
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
