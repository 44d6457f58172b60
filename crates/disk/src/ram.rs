//! RAM disk: chunks of memory made when first written, freed by unmap.
//!
//! A fixed top table holds tables of chunks, each made on demand and never moved, so operations of
//! all shards find their chunk without a common lock; each chunk has its own. A block lies in one
//! chunk, so a reader sees it whole, before or after a write. Memory that cannot be had is
//! [`DiskError::NoSpace`] for that write (where the kernel overcommits, it may promise memory it
//! does not have: size RAM disks below what the host can give).
//!
//! Contents end with the process, and no flush could change that, so no volatile cache is told and
//! the cache mode makes no difference.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use ring::{Buffer, Io};

use crate::error::DeviceError;
use crate::limits::{RAM_BYTES_MAX, RAM_CHUNK, RAM_CHUNKS_PER_TABLE, RAM_STATUS_CHUNKS_MAX};
use crate::open::check_block_size;
use crate::request::{
    CacheMode, Disk, DiskError, Execution, Extent, Features, Geometry, Reply, Request,
};
use crate::wanted::Wanted;

type Chunk = RwLock<Option<Box<[u8]>>>;

const TABLES: usize = table_count();

#[expect(
    clippy::cast_possible_truncation,
    reason = "a compile-time constant, 4096"
)]
const fn table_count() -> usize {
    (RAM_BYTES_MAX / (RAM_CHUNK * RAM_CHUNKS_PER_TABLE) as u64) as usize
}

/// A disk in memory.
pub struct RamDisk {
    shared: Arc<Shared>,
    mode: RwLock<CacheMode>,
}

struct Shared {
    block_size: u32,
    bytes: AtomicU64,
    tables: Vec<OnceLock<Box<[Chunk]>>>,
}

impl fmt::Debug for RamDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RamDisk")
            .field("bytes", &self.shared.bytes)
            .field("block_size", &self.shared.block_size)
            .finish_non_exhaustive()
    }
}

/// A piece of a request inside one chunk.
struct Piece {
    chunk: u64,
    /// Offset inside the chunk.
    from: usize,
    len: usize,
}

/// Cuts `offset..offset + len` at chunk borders.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let size = RAM_CHUNK as u64;
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (chunk, from) = (at / size, at % size);
        let len = (size - from).min(end - at);
        at += len;
        let small = |value: u64| usize::try_from(value).unwrap_or(RAM_CHUNK);
        Some(Piece {
            chunk,
            from: small(from),
            len: small(len),
        })
    })
}

impl RamDisk {
    /// An empty disk of `size` bytes.
    ///
    /// # Errors
    /// [`DeviceError::BlockSize`], [`DeviceError::Size`].
    pub fn new(size: u64, block_size: u32, mode: CacheMode) -> Result<Self, DeviceError> {
        check_block_size(block_size)?;
        check_size(size, block_size)?;
        let shared = Shared {
            block_size,
            bytes: AtomicU64::new(size),
            tables: (0..TABLES).map(|_| OnceLock::new()).collect(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            mode: RwLock::new(mode),
        })
    }
}

fn check_size(size: u64, block_size: u32) -> Result<(), DeviceError> {
    let reason = if size == 0 || !size.is_multiple_of(u64::from(block_size)) {
        "it must be a multiple of the block size and not zero"
    } else if size > RAM_BYTES_MAX {
        "a RAM disk holds at most 4 TiB"
    } else {
        return Ok(());
    };
    Err(DeviceError::Size { size, reason })
}

impl Shared {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: self.block_size,
            physical_block_size: self.block_size,
            blocks: self.bytes.load(Ordering::Acquire) / u64::from(self.block_size),
        }
    }

    fn place(&self, chunk: u64) -> Option<(&OnceLock<Box<[Chunk]>>, usize)> {
        let chunk = usize::try_from(chunk).ok()?;
        Some((
            self.tables.get(chunk / RAM_CHUNKS_PER_TABLE)?,
            chunk % RAM_CHUNKS_PER_TABLE,
        ))
    }

    fn chunk(&self, chunk: u64) -> Option<&Chunk> {
        let (table, at) = self.place(chunk)?;
        table.get()?.get(at)
    }

    fn chunk_or_make(&self, chunk: u64) -> Result<&Chunk, DiskError> {
        let (table, at) = self.place(chunk).ok_or(DiskError::OutOfRange)?;
        if table.get().is_none() {
            let mut chunks: Vec<Chunk> = Vec::new();
            chunks
                .try_reserve_exact(RAM_CHUNKS_PER_TABLE)
                .map_err(|_| DiskError::NoSpace)?;
            chunks.resize_with(RAM_CHUNKS_PER_TABLE, || RwLock::new(None));
            // Lost to another shard: ours is dropped, theirs is used.
            drop(table.set(chunks.into_boxed_slice()));
        }
        table
            .get()
            .and_then(|chunks| chunks.get(at))
            .ok_or(DiskError::OutOfRange)
    }

    fn read(&self, offset: u64, len: usize, mut buffer: Buffer) -> Reply {
        let mut done = 0;
        for piece in pieces(offset, len as u64) {
            let target = &mut buffer[done..done + piece.len];
            match self.chunk(piece.chunk).map(|chunk| chunk.read()).as_deref() {
                Some(Some(bytes)) => target.copy_from_slice(&bytes[piece.from..][..piece.len]),
                _ => target.fill(0),
            }
            done += piece.len;
        }
        Reply::Read(buffer)
    }

    fn write(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Reply, DiskError> {
        let mut done = 0;
        for piece in pieces(offset, len as u64) {
            let mut chunk = self.chunk_or_make(piece.chunk)?.write();
            let bytes = match &mut *chunk {
                Some(bytes) => bytes,
                empty => empty.insert(fresh_chunk()?),
            };
            bytes[piece.from..][..piece.len].copy_from_slice(&buffer[done..done + piece.len]);
            done += piece.len;
        }
        Ok(Reply::Written(buffer))
    }

    /// Zeros; whole chunks are freed where `free`.
    fn zero(&self, extent: Extent, free: bool) {
        for piece in pieces(extent.offset, extent.len) {
            let Some(chunk) = self.chunk(piece.chunk) else {
                continue;
            };
            let mut chunk = chunk.write();
            if free && piece.len == RAM_CHUNK {
                *chunk = None;
            } else if let Some(bytes) = &mut *chunk {
                bytes[piece.from..][..piece.len].fill(0);
            }
        }
    }

    fn status(&self, offset: u64) -> Reply {
        let size = RAM_CHUNK as u64;
        let bytes = self.bytes.load(Ordering::Acquire);
        let mapped = |chunk| {
            self.chunk(chunk)
                .is_some_and(|chunk| chunk.read().is_some())
        };
        let first = offset / size;
        let here = mapped(first);
        let last = bytes.div_ceil(size).min(first + RAM_STATUS_CHUNKS_MAX);
        let end = (first + 1..last)
            .find(|chunk| mapped(*chunk) != here)
            .unwrap_or(last);
        Reply::Status {
            mapped: here,
            len: (end * size).min(bytes) - offset,
        }
    }

    fn run(&self, request: Request) -> Result<Reply, DiskError> {
        self.geometry().check(&request)?;
        match request {
            Request::Read {
                offset,
                len,
                buffer,
            } => Ok(self.read(offset, len, buffer)),
            Request::Write {
                offset,
                len,
                buffer,
                ..
            } => self.write(offset, len, buffer),
            Request::Flush => Ok(Reply::Done),
            Request::Unmap { extents } => {
                extents
                    .into_iter()
                    .for_each(|extent| self.zero(extent, true));
                Ok(Reply::Done)
            }
            Request::Zero {
                offset, len, unmap, ..
            } => {
                self.zero(Extent { offset, len }, unmap);
                Ok(Reply::Done)
            }
            Request::Status { offset } => Ok(self.status(offset)),
        }
    }
}

fn fresh_chunk() -> Result<Box<[u8]>, DiskError> {
    let mut bytes: Vec<u8> = Vec::new();
    bytes
        .try_reserve_exact(RAM_CHUNK)
        .map_err(|_| DiskError::NoSpace)?;
    bytes.resize(RAM_CHUNK, 0);
    Ok(bytes.into_boxed_slice())
}

impl Disk for RamDisk {
    fn geometry(&self) -> Geometry {
        self.shared.geometry()
    }

    fn features(&self) -> Features {
        Features {
            thin: true,
            unmap_granularity: u32::try_from(RAM_CHUNK).unwrap_or(u32::MAX),
            read_only: false,
            rotational: false,
            volatile_cache: false,
        }
    }

    fn cache_mode(&self) -> CacheMode {
        *self.mode.read()
    }

    fn execute(&self, _io: &Io, request: Request) -> Execution {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.run(request) })
    }

    fn set_cache_mode(&self, mode: CacheMode, wanted: &Wanted) -> Result<(), DeviceError> {
        if !wanted.take() {
            let what = "the RAM disk".to_owned();
            return Err(DeviceError::GivenUp { what });
        }
        *self.mode.write() = mode;
        Ok(())
    }

    fn grow(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
        let have = self.shared.bytes.load(Ordering::Acquire);
        let want = bytes.unwrap_or(have);
        if want < have {
            return Err(DeviceError::Shrink {
                what: "the RAM disk".to_owned(),
                have,
                want,
            });
        }
        check_size(want, self.shared.block_size)?;
        self.shared.bytes.fetch_max(want, Ordering::AcqRel);
        Ok(self.geometry())
    }

    fn flush_blocking(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
