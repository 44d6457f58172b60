//! The control plane of a device behind a descriptor: cache mode and size.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::generation::{Generation, Plan, Retired};
use super::{Core, Kind};
use crate::create::preallocate;
use crate::error::DeviceError;
use crate::limits::MODE_DRAIN_SECONDS;
use crate::open::check_device_size;
use crate::request::{CacheMode, Geometry};

impl Core {
    pub(super) fn set_cache_mode(&self, mode: CacheMode) -> Result<(), DeviceError> {
        self.set_cache_mode_within(mode, Duration::from_secs(MODE_DRAIN_SECONDS))
    }

    pub(crate) fn set_cache_mode_within(
        &self,
        mode: CacheMode,
        bound: Duration,
    ) -> Result<(), DeviceError> {
        let mut retired = self.change.lock();
        // What an earlier change could not wait for comes first.
        self.redeem(&mut retired, bound)?;
        if self.generation().mode() == mode {
            return Ok(());
        }
        if mode == CacheMode::WriteBack && !self.traits.read_only {
            check_write_back(self)?;
        }
        let next = Generation::open(self.plan(), mode)?;
        let volatile = next.volatile(&self.traits);
        if volatile {
            self.volatile.store(true, Ordering::Release);
        }
        let old = std::mem::replace(&mut *self.current.write(), Arc::new(next));
        retired.push(Generation::retire(&old));
        drop(old);
        self.redeem(&mut retired, bound)?;
        if !volatile {
            self.volatile.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Waits for the operations of retired generations and makes what they wrote stable.
    fn redeem(&self, retired: &mut Vec<Retired>, bound: Duration) -> Result<(), DeviceError> {
        while let Some(generation) = retired.last() {
            if !generation.wait(bound) {
                return Err(DeviceError::Stuck {
                    path: self.traits.path.clone(),
                    seconds: bound.as_secs(),
                });
            }
            if !self.traits.read_only {
                self.sync_blocking(generation.file.as_fd())?;
            }
            retired.pop();
            // An earlier change may have stopped here with the cache still told as volatile.
            let volatile = self.generation().volatile(&self.traits);
            self.volatile.store(volatile, Ordering::Release);
        }
        Ok(())
    }

    fn plan(&self) -> Plan<'_> {
        Plan {
            anchor: &self.anchor,
            path: &self.traits.path,
            kind: self.traits.kind,
            read_only: self.traits.read_only,
            bytes: self.bytes.load(Ordering::Acquire),
            block_size: self.traits.block_size,
            direct_alignment: None,
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
        let length = rustix::fs::fstat(&self.anchor).map_err(grow)?.st_size;
        let length = u64::try_from(length).unwrap_or(0);
        let block = u64::from(self.traits.block_size);
        let want = bytes.unwrap_or(length / block * block);
        if want < have {
            let what = path.display().to_string();
            return Err(DeviceError::Shrink { what, have, want });
        }
        check_device_size(want, self.traits.block_size)?;
        self.check_direct_end(want)?;
        if want == have {
            return Ok(self.geometry());
        }
        if self.traits.read_only {
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
        self.lengthen(length, want, preallocated)?;
        self.bytes.store(want, Ordering::Release);
        Ok(self.geometry())
    }

    /// The emulation of small blocks needs whole units at the end.
    fn check_direct_end(&self, size: u64) -> Result<(), DeviceError> {
        match self.emulated(&self.generation()) {
            Some(unit) if !size.is_multiple_of(unit) => Err(DeviceError::Size {
                size,
                reason: "direct I/O on this file system needs a multiple of 4096 bytes",
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
                self.anchor.as_fd(),
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
                rustix::fs::ftruncate(&self.anchor, want)
            } else {
                Ok(())
            }
        });
        if let Err(errno) = extended {
            // Best effort: a file longer than the device is allowed and told in a note.
            rustix::fs::ftruncate(&self.anchor, length).ok();
            return Err(match errno {
                Errno::NOSPC | Errno::DQUOT | Errno::FBIG => DeviceError::NoSpace {
                    path: path.clone(),
                    need: want - length.min(want),
                },
                errno => grow(errno),
            });
        }
        rustix::fs::fsync(&self.anchor).map_err(grow)
    }

    pub(super) fn grow_block(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
        let _change = self.change.lock();
        let path = self.traits.path.clone();
        let block = u64::from(self.traits.block_size);
        let found = crate::block::size_of(&self.anchor, &path)? / block * block;
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
        core.anchor.as_fd(),
        &core.traits.path,
        bytes,
        core.traits.kind,
    )
}

/// The same for a device that is being opened.
pub(crate) fn prepare_write_back(
    reserve: &super::Reserve,
    anchor: std::os::fd::BorrowedFd<'_>,
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
    match rustix::fs::fallocate(anchor, FallocateFlags::KEEP_SIZE, 0, bytes.min(4096)) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(DeviceError::Mode {
            path: path.into(),
            mode: CacheMode::WriteBack,
            reason: "its file system cannot reserve space, so an acknowledged write could later \
                     find no room; use write-through",
        }),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(DeviceError::NoSpace {
            path: path.into(),
            need: bytes.min(4096),
        }),
        Err(errno) => Err(DeviceError::Inspect {
            path: path.into(),
            what: "whether space can be reserved",
            source: errno.into(),
        }),
    }
}
