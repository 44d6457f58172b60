//! From the settings' words to an open device.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::backing::Backing;
use crate::error::DeviceError;
use crate::file::{FileDisk, now};
use crate::limits::{BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, CLAIM_POLL, CLAIM_TIME_MAX, DEVICE_BYTES_MAX};
use crate::ram::RamDisk;
use crate::request::{CacheMode, Disk};
use crate::{block, image, iso};

/// Opens what a device is made of. Nothing is created or grown here: an image must exist and hold
/// what the settings say.
///
/// An image is locked against every other opener that asks (`flock`; shared where it is read-only),
/// a block device is claimed exclusively, for as long as the device lives and the kernel has a
/// request of it: also one of a process that was killed. Such a request commonly ends at once, so
/// what is in use is tried again for [`CLAIM_TIME_MAX`]. Blocks.
///
/// # Errors
/// What [`DeviceError`] says of opening: missing, wrong kind, in use, too short, too long.
pub fn open(backing: &Backing, mode: CacheMode) -> Result<Arc<dyn Disk>, DeviceError> {
    patiently(CLAIM_TIME_MAX, || open_now(backing, mode))
}

/// Tries again while the device is in use, up to a bound.
#[expect(
    clippy::disallowed_methods,
    reason = "nobody tells when the kernel lets go: tried repeatedly, within the bound"
)]
pub(crate) fn patiently(
    bound: Duration,
    mut attempt: impl FnMut() -> Result<Arc<dyn Disk>, DeviceError>,
) -> Result<Arc<dyn Disk>, DeviceError> {
    let deadline = now() + bound;
    loop {
        match attempt() {
            Err(DeviceError::Locked { .. }) if now() < deadline => thread::sleep(CLAIM_POLL),
            opened => return opened,
        }
    }
}

/// The same, without waiting for what is in use.
///
/// # Errors
/// As [`open()`].
pub fn open_now(backing: &Backing, mode: CacheMode) -> Result<Arc<dyn Disk>, DeviceError> {
    Ok(match backing {
        Backing::Image {
            path,
            size,
            provisioning,
            block_size,
            read_only,
        } => Arc::new(image::open(&image::Spec {
            path,
            size: *size,
            provisioning: *provisioning,
            block_size: *block_size,
            read_only: *read_only,
            mode,
            direct_alignment: None,
        })?),
        Backing::Block {
            path,
            block_size,
            read_only,
        } => Arc::<FileDisk>::new(block::open(path, *block_size, *read_only, mode)?),
        Backing::Ram { size, block_size } => Arc::new(RamDisk::new(*size, *block_size, mode)?),
        Backing::Iso { path } => Arc::new(iso::open(path, mode)?),
    })
}

/// Logical blocks of disks are 512 or 4096 bytes.
pub(crate) fn check_block_size(block_size: u32) -> Result<(), DeviceError> {
    if block_size == BLOCK_SIZE_MIN || block_size == BLOCK_SIZE_MAX {
        return Ok(());
    }
    Err(DeviceError::BlockSize {
        block_size,
        reason: "a disk has blocks of 512 or 4096 bytes",
    })
}

/// Sizes are whole blocks, at least one, and fit a file offset.
pub(crate) fn check_device_size(size: u64, block_size: u32) -> Result<(), DeviceError> {
    let reason = if size == 0 || !size.is_multiple_of(u64::from(block_size)) {
        "it must be a multiple of the block size and not zero"
    } else if size > DEVICE_BYTES_MAX {
        "it is larger than any file can be"
    } else {
        return Ok(());
    };
    Err(DeviceError::Size { size, reason })
}
