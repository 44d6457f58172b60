//! Block devices: disks, partitions, volumes, loop devices.
//!
//! The device is claimed exclusively (a mounted or otherwise used one is refused, and a second path
//! to the same disk): the claim belongs to the open descriptor, through which all I/O goes, and so
//! outlasts a process that was killed until its last request has ended. Unmap uses the
//! kernel's zeroing that may deallocate, never plain discard, because reads afterwards must return
//! zeros; without it, zeros are written. Under write-back the page cache holds acknowledged
//! writes; space cannot be reserved on a block device, so thin volumes below one need watching.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::DeviceError;
use crate::file::{FileDisk, Generation, Kind, Method, Parts, Plan, Traits, Witnesses};
use crate::image::{inspect, name_of};
use crate::limits::BLOCK_SIZE_MAX;
use crate::open::{check_block_size, check_device_size};
use crate::request::CacheMode;
use crate::sysfs::Queue;

/// Opens and claims a block device.
pub(crate) fn open(
    path: &Path,
    block_size: Option<u32>,
    read_only: bool,
    mode: CacheMode,
) -> Result<FileDisk, DeviceError> {
    let file = claim(path, read_only)?;
    let stat = inspect(&file, path)?;
    let (logical, physical) = own_block_sizes(&file, path)?;
    let block_size = block_size.unwrap_or(logical);
    check_block_size(block_size)?;
    let bytes = size_of(&file, path)? / u64::from(block_size) * u64::from(block_size);
    check_device_size(bytes, block_size)?;

    let queue = Queue::under(stat.st_rdev);
    let granularity = queue.as_ref().and_then(Queue::unmap_granularity);
    let drive_cache = queue.as_ref().is_none_or(Queue::write_back);
    let kind = Kind::Block { drive_cache };
    let traits = Traits {
        path: path.into(),
        id: None,
        kind,
        block_size,
        physical_block_size: physical.max(block_size),
        thin: granularity.is_some() && !read_only,
        unmap_granularity: granularity.unwrap_or(block_size).max(block_size),
        read_only,
        rotational: queue.as_ref().is_some_and(Queue::rotational),
        padding: 0,
        zero_alignment: logical,
        direct_alignment: Some(logical),
    };
    let plan = Plan {
        file: &file,
        path,
        kind,
        read_only,
        bytes,
        block_size,
        direct_alignment: Some(logical),
    };
    let witnesses = Witnesses::open(plan)?;
    let generation = Generation::open(plan, mode)?;
    let unmap = if traits.thin {
        Method::Punch
    } else {
        Method::BlockZero
    };
    let (reserve, zero, notes) = (None, Method::BlockZero, Vec::new());
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

/// Logical and physical block of the disk itself, in bytes.
fn own_block_sizes(file: &OwnedFd, path: &Path) -> Result<(u32, u32), DeviceError> {
    let ask = |what| {
        move |errno: Errno| DeviceError::Inspect {
            path: path.into(),
            what,
            source: errno.into(),
        }
    };
    let logical = rustix::fs::ioctl_blksszget(file).map_err(ask("the logical block size"))?;
    let physical = rustix::fs::ioctl_blkpbszget(file).map_err(ask("the physical block size"))?;
    if logical > BLOCK_SIZE_MAX {
        let reason = "the disk's own blocks are larger than 4096 bytes";
        return Err(DeviceError::BlockSize {
            block_size: logical,
            reason,
        });
    }
    Ok((logical, physical))
}

fn claim(path: &Path, read_only: bool) -> Result<OwnedFd, DeviceError> {
    let wanted = "a block device";
    // Looked at before it is opened: opening a tape or a pipe has effects.
    let stat = match rustix::fs::stat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Err(DeviceError::Missing { path: path.into() }),
        Err(errno) => {
            return Err(DeviceError::Open {
                path: path.into(),
                source: errno.into(),
            });
        }
    };
    let file_type = FileType::from_raw_mode(stat.st_mode);
    if file_type != FileType::BlockDevice {
        let found = name_of(file_type);
        return Err(DeviceError::WrongKind {
            path: path.into(),
            found,
            wanted,
        });
    }
    let access = if read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    match rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::EXCL, Mode::empty()) {
        Ok(file) => Ok(file),
        Err(Errno::BUSY) => Err(DeviceError::Locked { path: path.into() }),
        Err(errno) => Err(DeviceError::Open {
            path: path.into(),
            source: errno.into(),
        }),
    }
}

/// Size in bytes now: of a block device its end is what `BLKGETSIZE64` tells. (Moves the claim's
/// own file position, which nothing uses.)
pub(crate) fn size_of(file: &OwnedFd, path: &Path) -> Result<u64, DeviceError> {
    rustix::fs::seek(file, SeekFrom::End(0)).map_err(|errno| DeviceError::Inspect {
        path: path.into(),
        what: "the size",
        source: errno.into(),
    })
}
