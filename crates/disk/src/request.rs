//! The trait every device implements, and the words it is spoken to in.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use ring::{Buffer, Io};
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::file_id::FileId;
use crate::limits;
use crate::wanted::Wanted;

/// Size and shape.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    /// Logical block in bytes: 512 or 4096; 2048 for optical media.
    pub block_size: u32,
    /// Physical block in bytes, at least `block_size`: writes smaller than this cost a read.
    pub physical_block_size: u32,
    /// Size in logical blocks.
    pub blocks: u64,
}

impl Geometry {
    /// Size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size as u64)
    }

    /// Checks a request's alignment, bounds and buffer.
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`] for anything outside the device, not whole blocks, longer than
    /// [`limits::TRANSFER_BYTES_MAX`] or than its buffer, or with too many extents.
    pub fn check(&self, request: &Request) -> Result<(), DiskError> {
        match request {
            Request::Read {
                offset,
                len,
                buffer,
            }
            | Request::Write {
                offset,
                len,
                buffer,
                ..
            } => {
                if *len > limits::TRANSFER_BYTES_MAX || *len > buffer.len() {
                    return Err(DiskError::OutOfRange);
                }
                self.check_range(*offset, *len as u64)
            }
            Request::Flush => Ok(()),
            Request::Unmap { extents } => {
                if extents.len() > limits::UNMAP_EXTENTS_MAX {
                    return Err(DiskError::OutOfRange);
                }
                extents
                    .iter()
                    .try_for_each(|extent| self.check_range(extent.offset, extent.len))
            }
            Request::Zero { offset, len, .. } => self.check_range(*offset, *len),
            Request::Status { offset } => self.check_range(*offset, u64::from(self.block_size)),
        }
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let block = u64::from(self.block_size);
        let end = offset.checked_add(len).ok_or(DiskError::OutOfRange)?;
        if !offset.is_multiple_of(block) || !len.is_multiple_of(block) || end > self.bytes() {
            return Err(DiskError::OutOfRange);
        }
        Ok(())
    }
}

/// How a device treats writes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// Direct I/O.
    #[default]
    None,
    /// Reads cached, a write is stable before its status.
    WriteThrough,
    /// A write may be answered from the page cache.
    WriteBack,
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::WriteThrough => "write-through",
            Self::WriteBack => "write-back",
        })
    }
}

/// What the device can do, and what an initiator is told about its cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Features {
    /// Unmap gives space back.
    pub thin: bool,
    /// The unit in bytes that unmap gives back; smaller pieces are only zeroed.
    pub unmap_granularity: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// A disk that turns.
    pub rotational: bool,
    /// A write may be lost in a power cut until it is flushed: WCE in the caching mode page.
    pub volatile_cache: bool,
}

/// A run of bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// One operation, in bytes. Offsets and lengths are multiples of the block size and inside the
/// device; the disk checks this again ([`DiskError::OutOfRange`]).
#[derive(Debug)]
pub enum Request {
    /// Fills `buffer[..len]`; holes read as zero.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes, at most [`limits::TRANSFER_BYTES_MAX`].
        len: usize,
        /// Where they go; comes back in the reply.
        buffer: Buffer,
    },
    /// Writes `buffer[..len]`.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes, at most [`limits::TRANSFER_BYTES_MAX`].
        len: usize,
        /// Where they are; comes back in the reply.
        buffer: Buffer,
        /// Stable before the reply.
        fua: bool,
    },
    /// Everything replied to before this started is stable before the reply.
    Flush,
    /// Space may be given back; reads return zeros afterwards in any case.
    Unmap {
        /// At most [`limits::UNMAP_EXTENTS_MAX`].
        extents: Vec<Extent>,
    },
    /// Zeros without a transfer.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Space may be given back.
        unmap: bool,
        /// Stable before the reply.
        fua: bool,
    },
    /// The run of mapped or unmapped blocks at `offset`.
    Status {
        /// First byte.
        offset: u64,
    },
}

impl Request {
    /// Which operation it is.
    pub const fn kind(&self) -> OpKind {
        match self {
            Self::Read { .. } => OpKind::Read,
            Self::Write { .. } => OpKind::Write,
            Self::Flush => OpKind::Flush,
            Self::Unmap { .. } => OpKind::Unmap,
            Self::Zero { .. } => OpKind::Zero,
            Self::Status { .. } => OpKind::Status,
        }
    }

    /// Bytes it concerns: the transfer, or the space zeroed or unmapped.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => *len as u64,
            Self::Unmap { extents } => extents
                .iter()
                .fold(0, |sum: u64, extent| sum.saturating_add(extent.len)),
            Self::Zero { len, .. } => *len,
            Self::Flush | Self::Status { .. } => 0,
        }
    }

    /// Whether any byte of `extent` is concerned; a flush concerns all.
    pub fn touches(&self, extent: Extent) -> bool {
        let hit = |offset: u64, len: u64| {
            offset < extent.offset.saturating_add(extent.len)
                && extent.offset < offset.saturating_add(len)
        };
        match self {
            Self::Read { offset, len, .. } | Self::Write { offset, len, .. } => {
                hit(*offset, *len as u64)
            }
            Self::Flush => true,
            Self::Unmap { extents } => extents.iter().any(|each| hit(each.offset, each.len)),
            Self::Zero { offset, len, .. } => hit(*offset, *len),
            Self::Status { offset } => hit(*offset, 1),
        }
    }
}

/// Names of the operations, for statistics and fault rules.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpKind {
    /// [`Request::Read`]
    Read,
    /// [`Request::Write`]
    Write,
    /// [`Request::Flush`]
    Flush,
    /// [`Request::Unmap`]
    Unmap,
    /// [`Request::Zero`]
    Zero,
    /// [`Request::Status`]
    Status,
}

impl OpKind {
    /// All of them, in the order of their statistics.
    pub const ALL: [Self; 6] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Unmap,
        Self::Zero,
        Self::Status,
    ];
}

/// What an operation gave.
#[derive(Debug)]
pub enum Reply {
    /// The buffer of a read; its first `len` bytes are the device's.
    Read(Buffer),
    /// The buffer of a write, unchanged.
    Written(Buffer),
    /// Flush, unmap and zero.
    Done,
    /// Status.
    Status {
        /// Space is taken (or cannot be told apart from taken).
        mapped: bool,
        /// Bytes from the offset asked for on that are alike; at least one block. The run may go
        /// on after it.
        len: u64,
    },
}

/// Why an operation failed. Small and closed: one table in `scsi` turns these into sense data.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DiskError {
    /// Not inside the device, or not whole blocks.
    #[error("outside the device, or not whole blocks")]
    OutOfRange,
    /// The device takes no writes.
    #[error("the device is read-only")]
    ReadOnly,
    /// No space for the blocks.
    #[error("no space left below the device")]
    NoSpace,
    /// The medium failed.
    #[error("the medium failed in the operation at byte {offset}")]
    Medium {
        /// First byte of the operation that failed.
        offset: u64,
    },
    /// The device vanished, or its file was truncated.
    #[error("the device is gone, or its file was truncated")]
    Gone,
    /// Try again.
    #[error("the device is busy")]
    Busy,
    /// It cannot do that.
    #[error("the device cannot do that")]
    Unsupported,
    /// Anything else.
    #[error("the system answered error {errno}")]
    Io {
        /// The system's error number.
        errno: i32,
    },
}

/// A running operation. Not `Send`: it stays on the shard that started it.
///
/// Drive it to its end as long as anybody uses the device. Dropping it only gives up waiting: what
/// the kernel was already told still happens, later, and ranges held for it are no longer held.
pub type Execution = Pin<Box<dyn Future<Output = Result<Reply, DiskError>>>>;

/// A device. Shared by all shards; each operation runs on the shard that starts it.
///
/// Operations in flight at the same time are not ordered against each other; a read beside a write
/// of the same block may see the old, the new or a mixture, as with any disk. What must not happen
/// at the same time is kept apart above.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Size and shape now. The size changes only by [`Disk::grow`].
    fn geometry(&self) -> Geometry;

    /// What it can do and how its cache behaves now.
    fn features(&self) -> Features;

    /// The mode set; [`Features::volatile_cache`] says what it comes to.
    fn cache_mode(&self) -> CacheMode;

    /// Starts an operation. It does its first step when first polled.
    fn execute(&self, io: &Io, request: Request) -> Execution;

    /// Things an operator should know: a mode that the file system cannot give in full, a file
    /// longer than the device. One sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What stays until the device is opened anew, if anything: it is gone, or a flush has failed, and
    /// what was acknowledged from its cache since the last good one may be lost.
    fn broken(&self) -> Option<DiskError> {
        None
    }

    /// The image or ISO file that it has open; `None` for everything else.
    fn file(&self) -> Option<FileId> {
        None
    }

    // Control plane: these block, and are called from a blocking thread.

    /// Makes most of what is in a cache stable while operations go on, so that the change to
    /// the mode that follows holds them for a short time only. Ends within
    /// [`limits::MODE_SYNC_SECONDS`].
    ///
    /// # Errors
    /// [`DeviceError::Stuck`] and [`DeviceError::Sync`].
    fn sync_ahead(&self, mode: CacheMode) -> Result<(), DeviceError> {
        let _ = mode;
        Ok(())
    }

    /// Changes the mode; returns when everything acknowledged under the old mode is as safe as the
    /// new one promises. Operations that come meanwhile wait, within
    /// [`limits::MODE_DRAIN_SECONDS`], in which all that is in the cache has to become stable: see
    /// [`Disk::sync_ahead`]. None runs beside one of another mode. A caller that goes
    /// *to* write-back tells initiators first: writes may be volatile before the call returns.
    ///
    /// What comes before operations are held waits for the disk without a bound. Whoever gives the
    /// change up meanwhile says so by `wanted`: then it does not take effect any more, or it was
    /// taken and the call is about to return.
    ///
    /// # Errors
    /// [`DeviceError::Mode`] where the mode cannot be promised, [`DeviceError::Stuck`] and
    /// [`DeviceError::Sync`] where the old promise could not be kept, [`DeviceError::GivenUp`], and
    /// what opening can say. The old mode is then in force.
    fn set_cache_mode(&self, mode: CacheMode, wanted: &Wanted) -> Result<(), DeviceError>;

    /// Looks at the true size of what the device is made of and takes it over; never shrinks.
    /// Returns the new geometry; [`Disk::geometry`] tells it from then on.
    ///
    /// | | `Some(bytes)` | `None` |
    /// |---|---|---|
    /// | image file | extends the file to it | takes the file's own length, in whole blocks |
    /// | block device | takes the size it finds, if that is as large | takes the size it finds |
    /// | RAM disk | extends to it | as it is |
    /// | ISO image | refused | as it is |
    ///
    /// # Errors
    /// [`DeviceError::Shrink`], [`DeviceError::TooShort`], [`DeviceError::NoSpace`],
    /// [`DeviceError::NotGrown`] and others; the size is then as before.
    fn grow(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError>;

    /// Makes everything acknowledged stable; called at a clean stop.
    ///
    /// # Errors
    /// [`DeviceError::Sync`], also when an earlier flush failed.
    fn flush_blocking(&self) -> Result<(), DeviceError>;
}
