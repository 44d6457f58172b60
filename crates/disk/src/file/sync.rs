//! Making data stable: one sync at a time, shared by those that waited, and the first failure kept.
//!
//! The kernel tells each descriptor once that written data was lost. Were two syncs to run on one
//! descriptor at the same time, one would hear of the loss and the other would succeed; were a
//! failed one repeated, it would succeed although the data is gone. Hence the queue, and hence the
//! latch.
//!
//! A flush whose future is dropped while the kernel works on it leaves a sync that nobody hears,
//! and that may run for long. From then on those of the shards go to a descriptor of their own, which
//! hears by itself of all that was lost. Where one is dropped there, too, nobody can tell any more
//! what was lost, and every later one fails. Those of the control plane run beside the shards', and
//! so have a third. Only syncs go to these two: they do not hold the claim.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use ring::{Fd, Io};
use rustix::io::Errno;

use super::errors::translate;
use super::{Core, Kind, Plan, reopen};
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
    /// Where the shards' syncs go: [`FILE`], [`WITNESS`] or [`DEAF`]. One further while a sync is
    /// with the kernel, and for good when it ends unheard. Written by whoever has the turn.
    ear: AtomicU8,
    /// One blocking sync at a time: on one descriptor only one would hear of a loss.
    blocking: Mutex<()>,
}

/// The shards' syncs go to the descriptor that does everything.
const FILE: u8 = 0;
/// They go to one of their own.
const WITNESS: u8 = 1;
/// Both may have been told of a loss that nobody heard of.
const DEAF: u8 = 2;

/// Descriptors that only hear of lost writes: syncs go there and nothing else.
#[derive(Debug)]
pub(crate) struct Witnesses {
    shards: Fd,
    control: Fd,
}

impl Witnesses {
    /// Before anything is written: of what was lost earlier they may not hear.
    pub(crate) fn open(plan: Plan<'_>) -> Result<Self, DeviceError> {
        Ok(Self {
            shards: Arc::new(reopen(plan)?),
            control: Arc::new(reopen(plan)?),
        })
    }

    /// Whether the kernel has a sync of a shard.
    pub(super) fn are_busy(&self) -> bool {
        Arc::strong_count(&self.shards) > 1
    }
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
        let ear = self.syncs.ear.load(Ordering::Acquire);
        let file = match ear {
            FILE => self.file(),
            WITNESS => Fd::clone(&self.witnesses.shards),
            DEAF.. => return Err(self.syncs.fail(&Errno::IO.into())),
        };
        self.syncs.ear.store(ear + 1, Ordering::Release);
        let result = io.sync(file, true).await;
        let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
        let errno = errno.map(Errno::from_raw_os_error);
        // Broken off, and whether the kernel had something to tell by then is unknown.
        let is_unheard = matches!(errno, Some(Errno::CANCELED | Errno::INTR));
        if !is_unheard {
            self.syncs.ear.store(ear, Ordering::Release);
        }
        match result {
            // Not even begun: no news of the data.
            Err(error) if is_unheard || errno == Some(Errno::AGAIN) => Err(translate(&error, 0)),
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

    /// The same from a blocking thread, on a descriptor that hears of every loss by itself and
    /// takes no news away from the shards.
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
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.witnesses.control)).map_err(
            |errno| {
                let source = io::Error::from(errno);
                self.syncs.fail(&source);
                failure(source)
            },
        )
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
