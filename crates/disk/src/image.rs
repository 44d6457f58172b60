//! Image files: opening what exists, with the lock, the length and the abilities checked.
//!
//! A file shorter than the settings say is an error: data is missing, and growing it silently
//! would put zeros in its place. A file longer by whole blocks is served up to the size in the
//! settings and told in a note (a grow whose settings were not saved leaves this behind; nothing
//! behind the size is touched, and growing takes it in); any other length is an error.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::backing::Provisioning;
use crate::error::DeviceError;
use crate::file::{
    FileDisk, Generation, Kind, Method, Parts, Plan, Reserve, Traits, Witnesses, prepare_write_back,
};
use crate::file_id::FileId;
use crate::limits::{BLOCK_SIZE_MAX, BLOCK_SIZE_MIN};
use crate::open::{check_block_size, check_device_size};
use crate::request::CacheMode;
use crate::sysfs;

/// What to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) path: &'a Path,
    pub(crate) size: u64,
    pub(crate) provisioning: Provisioning,
    pub(crate) block_size: u32,
    pub(crate) read_only: bool,
    pub(crate) mode: CacheMode,
    /// Takes the place of what the kernel tells (tests).
    pub(crate) direct_alignment: Option<u32>,
}

/// Opens an existing image.
pub(crate) fn open(spec: &Spec<'_>) -> Result<FileDisk, DeviceError> {
    check_block_size(spec.block_size)?;
    check_device_size(spec.size, spec.block_size)?;
    let file = open_regular(spec.path, spec.read_only, "an image file")?;
    lock(&file, spec.path, spec.read_only)?;
    let stat = inspect(&file, spec.path)?;
    let mut notes: Vec<String> = check_length(spec, length(&stat))?.into_iter().collect();

    let preallocated = spec.provisioning == Provisioning::Preallocated;
    let full = u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512)
        >= spec.size;
    let file_block = file_block(&file, spec.path)?;
    let punches = !spec.read_only && can_punch(file.as_fd(), length(&stat), file_block);
    notes.extend(shortfalls(spec, full, punches));
    let kind = Kind::Image { preallocated };
    let traits = Traits {
        path: spec.path.into(),
        id: Some(id_of(&file, spec.path)?),
        kind,
        block_size: spec.block_size,
        physical_block_size: spec.block_size.max(BLOCK_SIZE_MAX),
        thin: !preallocated && punches,
        unmap_granularity: file_block.max(spec.block_size),
        read_only: spec.read_only,
        rotational: sysfs::Queue::under(stat.st_dev).is_some_and(|queue| queue.rotational()),
        padding: 0,
        zero_alignment: 1,
        direct_alignment: spec.direct_alignment,
    };
    let reserve = (!(spec.read_only || preallocated && full)).then(Reserve::default);
    if let (Some(reserve), CacheMode::WriteBack) = (&reserve, spec.mode) {
        prepare_write_back(reserve, file.as_fd(), spec.path, spec.size, kind)?;
    }
    let plan = Plan {
        file: &file,
        path: spec.path,
        kind,
        read_only: spec.read_only,
        bytes: spec.size,
        block_size: spec.block_size,
        direct_alignment: spec.direct_alignment,
    };
    let witnesses = Witnesses::open(plan)?;
    let generation = Generation::open(plan, spec.mode)?;
    let unmap = if traits.thin {
        Method::Punch
    } else {
        Method::ZeroRange
    };
    let bytes = spec.size;
    let zero = Method::ZeroRange;
    Ok(FileDisk::new(Parts {
        traits,
        file: Arc::new(file),
        witnesses,
        bytes,
        generation,
        reserve,
        unmap,
        zero,
        notes,
    }))
}

/// What the file is not, though its kind of provisioning says so; for the operator.
fn shortfalls(spec: &Spec<'_>, full: bool, punches: bool) -> Vec<String> {
    let path = spec.path.display();
    match spec.provisioning {
        Provisioning::Preallocated if !full => vec![format!(
            "{path} is declared preallocated but is sparse: writes into its holes can find no space"
        )],
        Provisioning::Thin if !spec.read_only && !punches => vec![format!(
            "{path}: its file system cannot give space back, so unmapped blocks keep theirs"
        )],
        Provisioning::Thin | Provisioning::Preallocated => Vec::new(),
    }
}

/// The file system's block, in which it gives space back.
fn file_block(file: &OwnedFd, path: &Path) -> Result<u32, DeviceError> {
    let system = rustix::fs::fstatvfs(file).map_err(|errno| DeviceError::Inspect {
        path: path.into(),
        what: "the file system",
        source: errno.into(),
    })?;
    let block = u32::try_from(system.f_frsize).unwrap_or(BLOCK_SIZE_MAX);
    Ok(block.max(BLOCK_SIZE_MIN))
}

fn check_length(spec: &Spec<'_>, have: u64) -> Result<Option<String>, DeviceError> {
    let (path, want) = (spec.path.to_path_buf(), spec.size);
    if have < want {
        return Err(DeviceError::TooShort { path, have, want });
    }
    if !(have - want).is_multiple_of(u64::from(spec.block_size)) {
        return Err(DeviceError::TooLong { path, have, want });
    }
    Ok((have > want).then(|| {
        format!(
            "{} holds {have} bytes; {want} of them are served",
            path.display()
        )
    }))
}

pub(crate) fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Opens a regular file; anything else is named.
pub(crate) fn open_regular(
    path: &Path,
    read_only: bool,
    wanted: &'static str,
) -> Result<OwnedFd, DeviceError> {
    // Non-blocking: a FIFO must not hold the service up before it is refused.
    let access = if read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Err(DeviceError::Missing { path: path.into() }),
        Err(Errno::ISDIR) => {
            let found = "a directory";
            return Err(DeviceError::WrongKind {
                path: path.into(),
                found,
                wanted,
            });
        }
        Err(errno) => {
            return Err(DeviceError::Open {
                path: path.into(),
                source: errno.into(),
            });
        }
    };
    let stat = inspect(&file, path)?;
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(file),
        other => name_of(other),
    };
    Err(DeviceError::WrongKind {
        path: path.into(),
        found,
        wanted,
    })
}

pub(crate) fn name_of(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::BlockDevice => "a block device",
        FileType::CharacterDevice => "a character device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "something else",
    }
}

pub(crate) fn inspect(file: &OwnedFd, path: &Path) -> Result<Stat, DeviceError> {
    rustix::fs::fstat(file).map_err(|errno| DeviceError::Inspect {
        path: path.into(),
        what: "size and kind",
        source: errno.into(),
    })
}

/// Which file this is.
pub(crate) fn id_of(file: &OwnedFd, path: &Path) -> Result<FileId, DeviceError> {
    FileId::of(file).map_err(|source| DeviceError::Inspect {
        path: path.into(),
        what: "which file it is",
        source,
    })
}

/// Takes the lock that keeps two services apart: shared for readers, alone for a writer. It belongs
/// to the open descriptor, through which all I/O goes: the kernel gives it up when the last request
/// on that has ended, not when its process has.
pub(crate) fn lock(file: &OwnedFd, path: &Path, shared: bool) -> Result<(), DeviceError> {
    let how = if shared {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match rustix::fs::flock(file, how) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(DeviceError::Locked { path: path.into() }),
        Err(errno) => Err(DeviceError::Inspect {
            path: path.into(),
            what: "the lock",
            source: errno.into(),
        }),
    }
}

/// Asks by punching behind the end, where there is nothing to lose. (ext4 and others wait here for
/// all direct I/O on the file. Nothing relies on that: the lock is what waits for earlier writes.)
fn can_punch(file: BorrowedFd<'_>, length: u64, block: u32) -> bool {
    let behind = length.next_multiple_of(u64::from(block));
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, behind, u64::from(block)).is_ok()
}
