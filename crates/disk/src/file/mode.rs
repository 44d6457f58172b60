//! The control plane of a device behind a descriptor: cache mode and size.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use super::generation::{Generation, Plan};
use super::{Core, Kind};
use crate::create::preallocate;
use crate::error::DeviceError;
use crate::limits::{
    BLOCK_SIZE_MAX, MODE_DRAIN_POLL, MODE_DRAIN_SECONDS, MODE_SYNC_SECONDS, MODE_SYNCS_BEFORE,
};
use crate::open::check_device_size;
use crate::request::{CacheMode, Geometry};
use crate::wanted::Wanted;

/// What one change of the control plane leaves to the next.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// A sync that was given up on and still runs.
    unheard: Option<Receiver<Result<(), DeviceError>>>,
}

/// The control plane blocks on real threads and disks, so no virtual clock reaches it.
#[expect(
    clippy::disallowed_methods,
    reason = "one bound over several blocking waits"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

impl Core {
    pub(super) fn set_cache_mode(
        self: &Arc<Self>,
        mode: CacheMode,
        wanted: &Wanted,
    ) -> Result<(), DeviceError> {
        self.set_cache_mode_within(mode, Duration::from_secs(MODE_DRAIN_SECONDS), wanted)
    }

    /// Makes most of what is to be made stable so, and clean pages let go, before anybody is held.
    pub(super) fn sync_ahead(self: &Arc<Self>, mode: CacheMode) -> Result<(), DeviceError> {
        let mut change = self.change.lock();
        let old = self.entrance.generation().mode();
        if old == mode {
            return Ok(());
        }
        let other_path = (old == CacheMode::None) != (mode == CacheMode::None);
        let ample = Duration::from_secs(MODE_SYNC_SECONDS);
        let deadline = now() + ample;
        for _ in 0..MODE_SYNCS_BEFORE {
            self.sync_within(&mut change, deadline, ample)?;
            self.drop_cached(other_path);
        }
        Ok(())
    }

    /// Holds new operations, waits for those inside, makes all stable, then goes on in the new
    /// mode; or, on any error, in the old one. Operations are held for at most `bound`; what comes
    /// before that waits for an earlier change and for the disk, and nobody knows how long.
    pub(crate) fn set_cache_mode_within(
        self: &Arc<Self>,
        mode: CacheMode,
        bound: Duration,
        wanted: &Wanted,
    ) -> Result<(), DeviceError> {
        let mut change = self.change.lock();
        self.still(wanted)?;
        let old = self.entrance.generation();
        if old.mode() == mode {
            return Ok(());
        }
        if mode == CacheMode::WriteBack && !self.traits.read_only {
            check_write_back(self)?;
        }
        let next = Generation::plan(self.plan(), mode)?;
        let other_path = old.direct().is_some() != next.direct().is_some();
        self.still(wanted)?;
        let deadline = now() + bound;
        let closed = self.entrance.close();
        if !closed.drain(deadline) || !self.let_go(deadline) {
            return Err(self.stuck(bound));
        }
        self.sync_within(&mut change, deadline, bound)?;
        self.drop_cached(other_path);
        if !wanted.take() {
            return Err(self.given_up());
        }
        // From here on nothing waits: whoever finds the change taken waits for its end.
        next.put_in_force(self.plan())?;
        closed.publish(next);
        Ok(())
    }

    fn still(&self, wanted: &Wanted) -> Result<(), DeviceError> {
        if wanted.is_given_up() {
            return Err(self.given_up());
        }
        Ok(())
    }

    fn given_up(&self) -> DeviceError {
        DeviceError::GivenUp {
            what: self.traits.path.display().to_string(),
        }
    }

    /// Lets clean pages of the cache go where direct I/O begins or ends, so that neither side finds
    /// an old copy. Local file systems see to that by themselves, hence no error.
    fn drop_cached(&self, other_path: bool) {
        if other_path {
            rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed).ok();
        }
    }

    /// Waits until the kernel has let go of the descriptors, too; false at the deadline. What an
    /// operation whose future was dropped gave to the kernel keeps its descriptor to its end, and
    /// it began with direct I/O as it is now.
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody tells when the kernel lets go: looked at repeatedly, within the bound"
    )]
    fn let_go(&self, deadline: Instant) -> bool {
        while Arc::strong_count(&self.file) > 1 || self.witnesses.are_busy() {
            if now() >= deadline {
                return false;
            }
            thread::sleep(MODE_DRAIN_POLL);
        }
        true
    }

    /// A sync that may never end, waited for until a deadline, which is `bound` after what began.
    fn sync_within(
        self: &Arc<Self>,
        change: &mut Change,
        deadline: Instant,
        bound: Duration,
    ) -> Result<(), DeviceError> {
        if self.traits.read_only {
            return Ok(());
        }
        let left = || deadline.saturating_duration_since(now());
        // One at a time, so that repeated tries on a stuck disk do not pile up threads.
        if let Some(unheard) = change.unheard.take()
            && matches!(unheard.recv_timeout(left()), Err(RecvTimeoutError::Timeout))
        {
            change.unheard = Some(unheard);
            return Err(self.stuck(bound));
        }
        let (tell, heard) = sync_channel(1);
        let core = Arc::clone(self);
        let work = move || {
            let result = core.flush_blocking();
            // Before it tells: who closes the device next may open it again at once.
            drop(core);
            tell.send(result).ok();
        };
        let name = "disk-sync".to_owned();
        // Not made here instead: that would have no bound.
        if thread::Builder::new().name(name).spawn(work).is_err() {
            return Err(self.stuck(bound));
        }
        heard.recv_timeout(left()).unwrap_or_else(|_| {
            change.unheard = Some(heard);
            Err(self.stuck(bound))
        })
    }

    fn stuck(&self, bound: Duration) -> DeviceError {
        DeviceError::Stuck {
            path: self.traits.path.clone(),
            seconds: bound.as_secs(),
        }
    }

    fn plan(&self) -> Plan<'_> {
        Plan {
            file: &self.file,
            path: &self.traits.path,
            kind: self.traits.kind,
            read_only: self.traits.read_only,
            bytes: self.bytes.load(Ordering::Acquire),
            block_size: self.traits.block_size,
            direct_alignment: self.traits.direct_alignment,
        }
    }

    pub(super) fn grow_image(
        &self,
        bytes: Option<u64>,
        preallocated: bool,
    ) -> Result<Geometry, DeviceError> {
        let _change = self.change.lock();
        let path = &self.traits.path;
        let grow = |errno: Errno| DeviceError::Grow {
            path: path.clone(),
            source: errno.into(),
        };
        let have = self.bytes.load(Ordering::Acquire);
        let length = rustix::fs::fstat(&self.file).map_err(grow)?.st_size;
        let length = u64::try_from(length).unwrap_or(0);
        if length < have {
            // Made longer again, it would have zeros in place of what it lost.
            self.lost();
            return Err(DeviceError::TooShort {
                path: path.clone(),
                have: length,
                want: have,
            });
        }
        let block = u64::from(self.traits.block_size);
        let unit = self.emulated(&self.entrance.generation()).unwrap_or(block);
        let whole = (length / unit * unit).max(have);
        let want = bytes.unwrap_or(whole);
        if want < have {
            let what = path.display().to_string();
            return Err(DeviceError::Shrink { what, have, want });
        }
        check_device_size(want, self.traits.block_size)?;
        self.check_direct_end(want)?;
        if want == have {
            return Ok(self.geometry());
        }
        if self.traits.read_only && want > length {
            let what = path.display().to_string();
            return Err(DeviceError::Unsupported {
                what,
                verb: "grow: it is read-only",
            });
        }
        if self
            .reserve
            .as_ref()
            .is_some_and(|reserve| !reserve.cover(want))
        {
            return Err(DeviceError::Memory {
                what: path.display().to_string(),
            });
        }
        if !self.traits.read_only {
            self.lengthen(length, want, preallocated)?;
        }
        self.bytes.store(want, Ordering::Release);
        Ok(self.geometry())
    }

    /// The emulation of small blocks needs whole units at the end.
    fn check_direct_end(&self, size: u64) -> Result<(), DeviceError> {
        match self.emulated(&self.entrance.generation()) {
            Some(unit) if !size.is_multiple_of(unit) => Err(DeviceError::Size {
                size,
                reason: "direct I/O on this file system needs a multiple of its alignment",
            }),
            _ => Ok(()),
        }
    }

    fn lengthen(&self, length: u64, want: u64, preallocated: bool) -> Result<(), DeviceError> {
        let path = &self.traits.path;
        let grow = |errno: Errno| DeviceError::Grow {
            path: path.clone(),
            source: errno.into(),
        };
        let extended = if preallocated {
            preallocate(
                self.file.as_fd(),
                self.bytes.load(Ordering::Acquire),
                want,
                &mut |_| true,
            )
            .map(|_| ())
        } else {
            Ok(())
        };
        let extended = extended.and_then(|()| {
            if length < want {
                rustix::fs::ftruncate(&self.file, want)
            } else {
                Ok(())
            }
        });
        if let Err(errno) = extended {
            // Best effort: a file longer than the device is allowed and told in a note.
            rustix::fs::ftruncate(&self.file, length).ok();
            return Err(match errno {
                Errno::NOSPC | Errno::DQUOT | Errno::FBIG => DeviceError::NoSpace {
                    path: path.clone(),
                    need: want - length.min(want),
                },
                errno => grow(errno),
            });
        }
        // On the one descriptor whose news of lost writes the control plane hears.
        self.flush_blocking()
    }

    pub(super) fn grow_block(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
        let _change = self.change.lock();
        let path = self.traits.path.clone();
        let block = u64::from(self.traits.block_size);
        let found = crate::block::size_of(&self.file, &path)? / block * block;
        let have = self.bytes.load(Ordering::Acquire);
        if found < have {
            let what = path.display().to_string();
            return Err(DeviceError::Shrink {
                what,
                have,
                want: found,
            });
        }
        if let Some(want) = bytes.filter(|want| *want > found) {
            return Err(DeviceError::NotGrown {
                path,
                have: found,
                want,
            });
        }
        self.check_direct_end(found)?;
        self.bytes.store(found, Ordering::Release);
        Ok(self.geometry())
    }
}

/// Write-back needs bits for its reservations and a file system that can reserve.
pub(crate) fn check_write_back(core: &Core) -> Result<(), DeviceError> {
    let Some(reserve) = &core.reserve else {
        return Ok(());
    };
    let bytes = core.bytes.load(Ordering::Acquire);
    prepare_write_back(
        reserve,
        core.file.as_fd(),
        &core.traits.path,
        bytes,
        core.traits.kind,
    )
}

/// The same for a device that is being opened.
pub(crate) fn prepare_write_back(
    reserve: &super::Reserve,
    file: std::os::fd::BorrowedFd<'_>,
    path: &std::path::Path,
    bytes: u64,
    kind: Kind,
) -> Result<(), DeviceError> {
    if !reserve.cover(bytes) {
        return Err(DeviceError::Memory {
            what: path.display().to_string(),
        });
    }
    let Kind::Image { .. } = kind else {
        return Ok(());
    };
    // Takes one file system block at the start, which any use of the device takes as well.
    let need = bytes.min(BLOCK_SIZE_MAX.into());
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, need) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(DeviceError::Mode {
            path: path.into(),
            mode: CacheMode::WriteBack,
            reason: "its file system cannot reserve space, so an acknowledged write could later \
                     find no room; use write-through",
        }),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(DeviceError::NoSpace {
            path: path.into(),
            need,
        }),
        Err(errno) => Err(DeviceError::Inspect {
            path: path.into(),
            what: "whether space can be reserved",
            source: errno.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Shape;

    #[test]
    fn a_sync_that_does_not_end_is_waited_for_by_the_next_try() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        Shape::thin(1 << 20).create(&path);
        let disk = Shape::thin(1 << 20).open(&path, CacheMode::WriteBack);
        let core = disk.core();
        let (tell, heard) = sync_channel(1);
        let mut change = Change {
            unheard: Some(heard),
        };
        for _ in 0..2 {
            let bound = Duration::from_millis(5);
            let stuck = core.sync_within(&mut change, now() + bound, bound);
            assert!(matches!(stuck, Err(DeviceError::Stuck { .. })), "{stuck:?}");
            assert!(change.unheard.is_some());
        }
        tell.send(Ok(())).unwrap();
        let bound = Duration::from_secs(30);
        core.sync_within(&mut change, now() + bound, bound).unwrap();
        assert!(change.unheard.is_none());
    }
}
