//! What a cache mode means for the device's one descriptor.
//!
//! A device has one descriptor for all its input and output, and that one holds the claim (of a
//! block device) or the lock (of a file). The kernel keeps a descriptor, and so the claim, until the
//! last request on it has ended, even when the process is killed: nobody opens the device while a
//! write of an earlier process can still land. So a change of the mode does not take another
//! descriptor; it switches direct I/O on or off on this one, when nothing runs on it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::{Kind, Traits};
use crate::error::DeviceError;
use crate::limits::{DIRECT_ALIGNMENT_ASSUMED, DIRECT_ALIGNMENT_MAX};
use crate::request::CacheMode;

/// `STATX_DIOALIGN`, Linux 6.1.
const STATX_DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);

/// File systems in memory take the direct flag but have nothing to be direct to.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// One meaning of the descriptor. Immutable.
#[derive(Debug)]
pub(crate) struct Generation {
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
    pub(crate) file: &'a OwnedFd,
    pub(crate) path: &'a Path,
    pub(crate) kind: Kind,
    pub(crate) read_only: bool,
    pub(crate) bytes: u64,
    pub(crate) block_size: u32,
    /// Takes the place of what the kernel tells (tests).
    pub(crate) direct_alignment: Option<u32>,
}

impl Generation {
    /// Decides what `mode` means for a device; its descriptor stays as it is.
    pub(crate) fn plan(plan: Plan<'_>, mode: CacheMode) -> Result<Self, DeviceError> {
        let (mut direct, mut note) = (None, None);
        if mode == CacheMode::None && plan.kind != Kind::Iso {
            match direct_alignment(plan)? {
                Ok(alignment) => direct = Some(alignment),
                Err(reason) => {
                    note = Some(format!(
                        "{}: direct I/O cannot be had ({reason}); writes go through the page cache \
                         and are made stable one by one, as in write-through",
                        plan.path.display()
                    ));
                }
            }
        }
        Ok(Self {
            mode,
            direct,
            durable: direct.is_none() && mode != CacheMode::WriteBack,
            note,
        })
    }

    /// Plans and puts in force, for a device that is being opened.
    pub(crate) fn open(plan: Plan<'_>, mode: CacheMode) -> Result<Self, DeviceError> {
        let generation = Self::plan(plan, mode)?;
        generation.put_in_force(plan)?;
        Ok(generation)
    }

    /// Switches direct I/O on or off. Nothing may be under way on the descriptor. On an error it is
    /// as before.
    pub(super) fn put_in_force(&self, plan: Plan<'_>) -> Result<(), DeviceError> {
        let flags = match self.direct {
            Some(_) => OFlags::DIRECT,
            None => OFlags::empty(),
        };
        rustix::fs::fcntl_setfl(plan.file, flags).map_err(|_| DeviceError::Mode {
            path: plan.path.into(),
            mode: self.mode,
            reason: "its file system does not let direct I/O be switched on or off; use another \
                     mode",
        })
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

    /// A buffered one.
    #[cfg(test)]
    pub(super) const fn buffered(mode: CacheMode) -> Self {
        Self {
            mode,
            direct: None,
            durable: true,
            note: None,
        }
    }
}

/// A further descriptor of the very file or device, whatever its path names now. It holds no claim,
/// so nothing is written through it.
pub(crate) fn reopen(plan: Plan<'_>) -> Result<OwnedFd, DeviceError> {
    let access = if plan.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    let path = format!("/proc/self/fd/{}", plan.file.as_raw_fd());
    rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        DeviceError::Open {
            path: plan.path.into(),
            source: errno.into(),
        }
    })
}

/// The alignment of direct I/O, or the reason why there is none. Tried on a descriptor of its own.
fn direct_alignment(plan: Plan<'_>) -> Result<Result<u32, &'static str>, DeviceError> {
    let inspect = |what| {
        move |errno: Errno| DeviceError::Inspect {
            path: plan.path.into(),
            what,
            source: errno.into(),
        }
    };
    let file = reopen(plan)?;
    match rustix::fs::fcntl_setfl(&file, OFlags::DIRECT) {
        Ok(()) => {}
        Err(Errno::INVAL) => return Ok(Err("the file system refuses it")),
        Err(errno) => return Err(inspect("whether direct I/O can be had")(errno)),
    }
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
    Ok(Ok(alignment))
}
