//! A descriptor together with what its cache mode means.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use ring::Fd;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::{Kind, Traits};
use crate::error::DeviceError;
use crate::limits::{DIRECT_ALIGNMENT_ASSUMED, DIRECT_ALIGNMENT_MAX};
use crate::request::CacheMode;

/// `STATX_DIOALIGN`, Linux 6.1.
const STATX_DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);

/// File systems in memory take the direct flag but have nothing to be direct to.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// One descriptor, one meaning. Immutable.
pub(crate) struct Generation {
    file: Fd,
    mode: CacheMode,
    /// Alignment in bytes that direct I/O asks of offsets and lengths; `None`: buffered.
    direct: Option<u32>,
    /// Every write is stable before its reply.
    durable: bool,
    /// Direct I/O was asked for but cannot be had: why.
    note: Option<String>,
}

/// What a generation is opened from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) anchor: &'a OwnedFd,
    pub(crate) path: &'a Path,
    pub(crate) kind: Kind,
    pub(crate) read_only: bool,
    pub(crate) bytes: u64,
    pub(crate) block_size: u32,
    /// Takes the place of what the kernel tells (tests).
    pub(crate) direct_alignment: Option<u32>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("mode", &self.mode)
            .field("direct", &self.direct)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// Opens a descriptor of its own for `mode`.
    pub(crate) fn open(plan: Plan<'_>, mode: CacheMode) -> Result<Self, DeviceError> {
        let wants_direct = mode == CacheMode::None && plan.kind != Kind::Iso;
        let mut note = None;
        if wants_direct {
            match open_direct(plan)? {
                Ok((file, alignment)) => {
                    return Ok(Self::of(file, mode, Some(alignment), false, None));
                }
                Err(reason) => {
                    note = Some(format!(
                        "{}: direct I/O cannot be had ({reason}); writes go through the page cache \
                         and are made stable one by one, as in write-through",
                        plan.path.display()
                    ));
                }
            }
        }
        let file = reopen(plan, OFlags::empty()).map_err(|source| DeviceError::Open {
            path: plan.path.into(),
            source,
        })?;
        let durable = mode != CacheMode::WriteBack;
        Ok(Self::of(file, mode, None, durable, note))
    }

    fn of(
        file: OwnedFd,
        mode: CacheMode,
        direct: Option<u32>,
        durable: bool,
        note: Option<String>,
    ) -> Self {
        Self {
            file: Arc::new(file),
            mode,
            direct,
            durable,
            note,
        }
    }

    pub(crate) fn file(&self) -> Fd {
        Arc::clone(&self.file)
    }

    pub(crate) const fn mode(&self) -> CacheMode {
        self.mode
    }

    pub(crate) const fn direct(&self) -> Option<u32> {
        self.direct
    }

    pub(crate) const fn durable(&self) -> bool {
        self.durable
    }

    pub(crate) fn write_back(&self) -> bool {
        self.mode == CacheMode::WriteBack
    }

    pub(crate) fn note(&self) -> Option<String> {
        self.note.clone()
    }

    /// Whether an acknowledged write may be lost in a power cut.
    pub(crate) const fn volatile(&self, traits: &Traits) -> bool {
        if traits.read_only {
            return false;
        }
        match (self.mode, traits.kind) {
            (CacheMode::WriteBack, _) => true,
            (CacheMode::WriteThrough, _) => false,
            (CacheMode::None, Kind::Block { drive_cache }) => drive_cache && !self.durable,
            (CacheMode::None, _) => !self.durable,
        }
    }

    /// No operation in the kernel holds the descriptor.
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.file) == 1
    }

    /// A buffered one over any file.
    #[cfg(test)]
    pub(super) fn of_file(file: OwnedFd, mode: CacheMode) -> Self {
        Self::of(file, mode, None, true, None)
    }
}

/// A further descriptor of the very file or device the anchor holds, whatever its path names now.
fn reopen(plan: Plan<'_>, extra: OFlags) -> io::Result<OwnedFd> {
    let access = if plan.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    let path = format!("/proc/self/fd/{}", plan.anchor.as_raw_fd());
    let flags = access | OFlags::CLOEXEC | extra;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A direct descriptor and its alignment, or the reason why there is none.
fn open_direct(plan: Plan<'_>) -> Result<Result<(OwnedFd, u32), &'static str>, DeviceError> {
    let file = match reopen(plan, OFlags::DIRECT) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            return Ok(Err("the file system refuses it"));
        }
        Err(source) => {
            return Err(DeviceError::Open {
                path: plan.path.into(),
                source,
            });
        }
    };
    let inspect = |what| {
        move |error: rustix::io::Errno| DeviceError::Inspect {
            path: plan.path.into(),
            what,
            source: error.into(),
        }
    };
    let told = match plan.direct_alignment {
        Some(alignment) => Some(alignment),
        None => {
            let system = rustix::fs::fstatfs(&file).map_err(inspect("the file system"))?;
            #[expect(
                clippy::useless_conversion,
                reason = "the field's type differs by architecture"
            )]
            if MEMORY_FILE_SYSTEMS.contains(&i64::from(system.f_type)) {
                return Ok(Err("the file system lives in memory"));
            }
            let flags = StatxFlags::BASIC_STATS | STATX_DIOALIGN;
            let answer = rustix::fs::statx(file.as_fd(), "", AtFlags::EMPTY_PATH, flags)
                .map_err(inspect("the direct I/O alignment"))?;
            let known = answer.stx_mask & STATX_DIOALIGN.bits() != 0;
            known.then_some(answer.stx_dio_offset_align)
        }
    };
    let alignment = match told {
        Some(0) => return Ok(Err("the file system does not offer it for this file")),
        Some(alignment) => alignment,
        None => DIRECT_ALIGNMENT_ASSUMED.max(plan.block_size),
    };
    if !alignment.is_power_of_two() || alignment > DIRECT_ALIGNMENT_MAX {
        return Ok(Err("its alignment is out of the ordinary"));
    }
    // A read-modify-write of the last, partial unit would lengthen the file.
    if !plan.bytes.is_multiple_of(u64::from(alignment)) {
        return Ok(Err("the size is no multiple of its alignment"));
    }
    Ok(Ok((file, alignment)))
}
