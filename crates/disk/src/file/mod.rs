//! The engine under image files, block devices and ISO images: everything behind a descriptor.
//!
//! | mode | I/O | a write | flush | volatile |
//! |---|---|---|---|---|
//! | none | direct | direct; FUA adds `RWF_DSYNC` | `fdatasync` | yes (block: as the drive says) |
//! | write-through | buffered | `RWF_DSYNC` | `fdatasync` | no |
//! | write-back | buffered | page cache, space first; FUA adds `fdatasync` | `fdatasync` | yes |
//!
//! **One descriptor.** All input and output of a device goes through the descriptor that holds its
//! lock or claim. The kernel keeps that one for every request it has, so a process that is killed,
//! or a shard that is given up, leaves the device claimed until its last write has ended: nobody opens
//! it before, and no old write lands over a newer one.
//!
//! **Generations.** What the mode means for the descriptor is one immutable [`Generation`]; an
//! operation enters it and stays to its end. A mode change first makes most of the data stable,
//! then holds operations that come, waits for those inside and for the kernel, makes the rest
//! stable, drops the cached pages where direct I/O begins or ends, switches direct I/O, publishes
//! the new generation, and lets the held go on. So direct and cached I/O never meet on a page:
//! there a cached neighbour would be written back from an old copy, or a sector read for a small
//! block would be. Where the old ones do not end, or the sync does not, within
//! [`crate::limits::MODE_DRAIN_SECONDS`], the change fails, the old mode stays, and the held go on
//! in it. So it is where whoever asked gives up ([`Wanted`]): the change is taken when nothing that
//! waits for a disk is left to be done, and before anything shows.
//!
//! **Direct I/O on coarser alignment** (512-byte blocks over 4 KiB sectors): misaligned ends are
//! read, changed and written back by direct I/O, too, and while that is so every write
//! holds its aligned range alone (one table for all shards). There is never buffered I/O beside
//! direct, so there are no two caches to keep coherent.
//!
//! **A flush never lies.** The kernel reports a lost write once per descriptor. So syncs on one
//! descriptor run one at a time (those that waited share the next one), the first failure is kept,
//! and every later flush fails until the device is opened again; so it does once syncs may have
//! been told what nobody heard (see `sync`). One gap is the kernel's: of two
//! *concurrent* write-through writes on a failing medium it may report the failure to only one.
//!
//! **A file truncated under us** shows as a short read, or as a length check in a flush; the device
//! is then [`DiskError::Gone`] until it is opened again. Zeros are never made up.

mod entrance;
mod errors;
mod generation;
mod mode;
mod reserve;
mod sync;
mod transfer;
mod zero;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use ring::{Fd, Io, Op, Outcome};

pub(crate) use generation::{Generation, Plan, reopen};
pub(crate) use mode::{now, prepare_write_back};
pub(crate) use reserve::Reserve;
pub(crate) use sync::Witnesses;
pub(crate) use zero::Method;

use crate::error::DeviceError;
use crate::file_id::FileId;
use crate::gate::RangeLock;
use crate::request::{CacheMode, Disk, DiskError, Execution, Features, Geometry, Reply, Request};
use crate::wanted::Wanted;

/// What differs between the users of the engine, fixed when the device is opened.
#[derive(Debug)]
pub(crate) struct Traits {
    pub(crate) path: PathBuf,
    /// Of a file: what is at `path` may be another one by now.
    pub(crate) id: Option<FileId>,
    pub(crate) kind: Kind,
    pub(crate) block_size: u32,
    pub(crate) physical_block_size: u32,
    pub(crate) thin: bool,
    pub(crate) unmap_granularity: u32,
    pub(crate) read_only: bool,
    pub(crate) rotational: bool,
    /// Zero bytes told behind the file's own end (an ISO image that ends inside a block).
    pub(crate) padding: u64,
    /// Zeroing by the kernel wants multiples of this many bytes.
    pub(crate) zero_alignment: u32,
    /// Direct-I/O alignment that takes the place of what the kernel tells.
    pub(crate) direct_alignment: Option<u32>,
}

/// Who uses the engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Image { preallocated: bool },
    Block { drive_cache: bool },
    Iso,
}

/// Everything an operation needs; shared by all shards.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) traits: Traits,
    /// Holds the lock or claim, and all input and output goes through it: what a process that was
    /// killed left to the kernel keeps the claim until it has ended.
    pub(crate) file: Fd,
    pub(crate) witnesses: Witnesses,
    pub(crate) bytes: AtomicU64,
    entrance: entrance::Entrance,
    ranges: RangeLock,
    /// Images that are not fully allocated reserve space before a write-back write.
    reserve: Option<Reserve>,
    syncs: sync::Syncs,
    gone: AtomicBool,
    unmap_method: zero::MethodCell,
    zero_method: zero::MethodCell,
    /// One control-plane change at a time.
    change: Mutex<mode::Change>,
    notes: Mutex<Vec<String>>,
}

/// A device behind a descriptor.
#[derive(Debug)]
pub(crate) struct FileDisk {
    core: Arc<Core>,
}

/// What [`FileDisk::new`] starts from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) traits: Traits,
    pub(crate) file: Fd,
    pub(crate) witnesses: Witnesses,
    pub(crate) bytes: u64,
    pub(crate) generation: Generation,
    pub(crate) reserve: Option<Reserve>,
    pub(crate) unmap: Method,
    pub(crate) zero: Method,
    pub(crate) notes: Vec<String>,
}

impl FileDisk {
    pub(crate) fn new(parts: Parts) -> Self {
        let core = Core {
            traits: parts.traits,
            file: parts.file,
            witnesses: parts.witnesses,
            bytes: AtomicU64::new(parts.bytes),
            entrance: entrance::Entrance::new(parts.generation),
            ranges: RangeLock::default(),
            reserve: parts.reserve,
            syncs: sync::Syncs::default(),
            gone: AtomicBool::new(false),
            unmap_method: zero::MethodCell::new(parts.unmap),
            zero_method: zero::MethodCell::new(parts.zero),
            change: Mutex::default(),
            notes: Mutex::new(parts.notes),
        };
        Self {
            core: Arc::new(core),
        }
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Core {
    /// For an operation: it has the descriptor until the kernel is done.
    fn file(&self) -> Fd {
        Arc::clone(&self.file)
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: self.traits.block_size,
            physical_block_size: self.traits.physical_block_size,
            blocks: self.bytes.load(Ordering::Acquire) / u64::from(self.traits.block_size),
        }
    }

    /// Operations that a mode change holds; `None` while there is none.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Option<usize> {
        self.entrance.held()
    }

    /// Syncs given to the kernel by shards so far.
    #[cfg(test)]
    pub(crate) fn syncs_started(&self) -> u64 {
        self.syncs.started()
    }

    /// Remembers that the file lost bytes; nothing is served any more.
    fn lost(&self) -> DiskError {
        self.gone.store(true, Ordering::Release);
        DiskError::Gone
    }

    async fn run(&self, io: &Io, request: Request) -> Result<Reply, DiskError> {
        self.geometry().check(&request)?;
        if self.gone.load(Ordering::Acquire) {
            return Err(DiskError::Gone);
        }
        let changes = matches!(
            request,
            Request::Write { .. } | Request::Unmap { .. } | Request::Zero { .. }
        );
        if changes && self.traits.read_only {
            return Err(DiskError::ReadOnly);
        }
        let files = self.entrance.enter().await;
        match request {
            Request::Read {
                offset,
                len,
                buffer,
            } => self
                .read(io, &files, offset, len, buffer)
                .await
                .map(Reply::Read),
            Request::Write {
                offset,
                len,
                buffer,
                fua,
            } => self
                .write(io, &files, offset, len, buffer, fua)
                .await
                .map(Reply::Written),
            Request::Flush => self.flush(io).await.map(|()| Reply::Done),
            Request::Unmap { extents } => {
                self.unmap(io, &files, &extents).await.map(|()| Reply::Done)
            }
            Request::Zero {
                offset,
                len,
                unmap,
                fua,
            } => self
                .zero(io, &files, offset, len, unmap, fua)
                .await
                .map(|()| Reply::Done),
            Request::Status { offset } => self.status(io, offset).await,
        }
    }

    /// Only image files tell holes from data.
    async fn status(&self, io: &Io, offset: u64) -> Result<Reply, DiskError> {
        let block = u64::from(self.traits.block_size);
        let rest = self.geometry().bytes() - offset;
        if !matches!(self.traits.kind, Kind::Image { .. }) {
            return Ok(Reply::Status {
                mapped: true,
                len: rest,
            });
        }
        let outcome = io
            .run(Op::Extent {
                file: self.file(),
                offset,
            })
            .await;
        let (data, end) = match outcome {
            Outcome::Extent(Ok(found)) => found,
            Outcome::Extent(Err(error)) => return Err(errors::translate(&error, offset)),
            _ => return Err(DiskError::Unsupported),
        };
        let run = end.saturating_sub(offset).min(rest);
        // A block that is partly data is mapped; a hole counts in whole blocks.
        let whole = run / block * block;
        Ok(match (data, whole) {
            (false, 1..) => Reply::Status {
                mapped: false,
                len: whole,
            },
            (false, 0) => Reply::Status {
                mapped: true,
                len: block,
            },
            (true, _) => Reply::Status {
                mapped: true,
                len: run.next_multiple_of(block).clamp(block, rest),
            },
        })
    }
}

impl Disk for FileDisk {
    fn geometry(&self) -> Geometry {
        self.core.geometry()
    }

    fn features(&self) -> Features {
        let traits = &self.core.traits;
        Features {
            thin: traits.thin && self.core.unmap_method.get() == Method::Punch,
            unmap_granularity: traits.unmap_granularity,
            read_only: traits.read_only,
            rotational: traits.rotational,
            volatile_cache: self.core.entrance.generation().volatile(traits),
        }
    }

    fn cache_mode(&self) -> CacheMode {
        self.core.entrance.generation().mode()
    }

    fn execute(&self, io: &Io, request: Request) -> Execution {
        let (core, io) = (Arc::clone(&self.core), io.clone());
        Box::pin(async move { core.run(&io, request).await })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.core.notes.lock().clone();
        notes.extend(self.core.entrance.generation().note());
        notes
    }

    fn broken(&self) -> Option<DiskError> {
        if self.core.gone.load(Ordering::Acquire) {
            return Some(DiskError::Gone);
        }
        self.core.syncs.verdict().err()
    }

    fn file(&self) -> Option<FileId> {
        self.core.traits.id
    }

    fn sync_ahead(&self, mode: CacheMode) -> Result<(), DeviceError> {
        self.core.sync_ahead(mode)
    }

    fn set_cache_mode(&self, mode: CacheMode, wanted: &Wanted) -> Result<(), DeviceError> {
        self.core.set_cache_mode(mode, wanted)
    }

    fn grow(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
        match self.core.traits.kind {
            Kind::Image { preallocated } => self.core.grow_image(bytes, preallocated),
            Kind::Block { .. } => self.core.grow_block(bytes),
            // A medium is what it was when it was loaded.
            Kind::Iso if bytes.is_none() => Ok(self.geometry()),
            Kind::Iso => Err(DeviceError::Unsupported {
                what: format!("the ISO image {}", self.core.traits.path.display()),
                verb: "grow",
            }),
        }
    }

    fn flush_blocking(&self) -> Result<(), DeviceError> {
        self.core.flush_blocking()
    }
}
