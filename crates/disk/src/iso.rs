//! ISO images: a read-only optical medium of 2048-byte blocks.
//!
//! The page cache serves the reads whatever the cache mode says. A file that ends inside a block
//! is told with that block filled up by zeros.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::error::DeviceError;
use crate::file::{FileDisk, Generation, Kind, Method, Parts, Plan, Traits, Witnesses};
use crate::image::{id_of, inspect, length, lock, open_regular};
use crate::limits::{DEVICE_BYTES_MAX, OPTICAL_BLOCK_SIZE};
use crate::request::CacheMode;

/// Sector of the first volume descriptor.
const DESCRIPTORS_START: u64 = 16;
/// Sectors looked at: ISO 9660 descriptors end and UDF's recognition sequence lies within.
const DESCRIPTORS: u64 = 32;
/// What a volume descriptor has behind its first byte: ISO 9660, or UDF's recognition sequence.
const MARKS: [&[u8; 5]; 4] = [b"CD001", b"BEA01", b"NSR02", b"NSR03"];

/// Opens an ISO image; several devices may share one.
pub(crate) fn open(path: &Path, mode: CacheMode) -> Result<FileDisk, DeviceError> {
    let file = open_regular(path, true, "an ISO image file")?;
    lock(&file, path, true)?;
    let length = length(&inspect(&file, path)?);
    if length > DEVICE_BYTES_MAX || !is_optical(&file, path)? {
        return Err(DeviceError::NotOptical { path: path.into() });
    }
    let bytes = length.next_multiple_of(u64::from(OPTICAL_BLOCK_SIZE));
    let kind = Kind::Iso;
    let traits = Traits {
        path: path.into(),
        id: Some(id_of(&file, path)?),
        kind,
        block_size: OPTICAL_BLOCK_SIZE,
        physical_block_size: OPTICAL_BLOCK_SIZE,
        thin: false,
        unmap_granularity: OPTICAL_BLOCK_SIZE,
        read_only: true,
        rotational: true,
        padding: bytes - length,
        zero_alignment: 1,
        direct_alignment: None,
    };
    let plan = Plan {
        file: &file,
        path,
        kind,
        read_only: true,
        bytes,
        block_size: OPTICAL_BLOCK_SIZE,
        direct_alignment: None,
    };
    let witnesses = Witnesses::open(plan)?;
    let generation = Generation::open(plan, mode)?;
    let (reserve, unmap, zero, notes) = (None, Method::Write, Method::Write, Vec::new());
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

fn is_optical(file: &OwnedFd, path: &Path) -> Result<bool, DeviceError> {
    for sector in DESCRIPTORS_START..DESCRIPTORS_START + DESCRIPTORS {
        let mut head = [0; 6];
        let at = sector * u64::from(OPTICAL_BLOCK_SIZE);
        let got = rustix::io::pread(file.as_fd(), &mut head, at).map_err(|errno| {
            DeviceError::Inspect {
                path: path.into(),
                what: "the volume descriptors",
                source: errno.into(),
            }
        })?;
        if got < head.len() {
            return Ok(false);
        }
        if MARKS.iter().any(|mark| head.ends_with(*mark)) {
            return Ok(true);
        }
    }
    Ok(false)
}
