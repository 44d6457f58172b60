//! What backs a LUN: image files, block devices, RAM disks and ISO images, behind one trait.
//!
//! # What it is for
//!
//! [`open()`] turns a [`Backing`] (the settings' words) into an `Arc<dyn Disk>`. A [`Disk`] is
//! shared by all shards; an operation ([`Request`]) runs as a future on the shard that starts it,
//! does its input and output through that shard's `ring::Io`, and ends in a [`Reply`] or one of the
//! few [`DiskError`]s that one table in `scsi` turns into sense data. [`create_image`] makes image
//! files, [`remove_image`] removes them with their documents. [`beside`] keeps what must move with
//! a device: identity, reservations, saved mode pages.
//!
//! # What it is not
//!
//! No SCSI, no queueing policy (the target has a gate for each device), no cache of its own (the
//! page cache is one), no ordering between operations in flight, no locking of ranges against each
//! other: that is the business of the target above. No `unsafe`.
//!
//! # Key types
//!
//! | type | what |
//! |---|---|
//! | [`Disk`] | the trait: geometry, features, `execute`, and a control plane that blocks |
//! | [`Features`] | what is told to initiators: what is done, not what was asked |
//! | [`Wanted`] | who gives a change up and who makes it agree whether it comes about |
//! | [`RamDisk`] | chunks of memory, made when written, freed by unmap |
//! | [`Stats`] | decorator of the service: counts and latencies |
//! | [`Fault`], [`Delay`] | decorators of tests: failures and stalls by rule; seeded latency |
//! | [`DeviceError`] | the control plane's errors, which say what to do |
//! | [`BesideStore`] | the document beside a device |
//!
//! Image files, block devices and ISO images share one engine (`file`), whose module chapter has
//! the table of cache modes and what each promises.
//!
//! # The sketch
//!
//! A read or write of an image is one operation of the ring into or out of the caller's buffer: no
//! copy, no lock held across it, one reference count up and down, one reader lock taken and let go
//! for a pointer. Only two cases add to that: blocks smaller than direct I/O allows cost a read of
//! the sector and hold its range (4096-byte blocks never do), and the first write-back write into
//! each 256 KiB of a thin image reserves space. A RAM disk copies once and holds one chunk's lock
//! meanwhile. Flushes that wait share one sync.
//!
//! What can fail between two steps:
//!
//! - *Power, between a write's reply and a flush*: the write may be lost, where `volatile_cache`
//!   says so; otherwise it is stable before its reply.
//! - *Power, between the writes of a read-modify-write*: it is one write of whole sectors.
//! - *Space, between reservation and write-back*: it is reserved before the reply, so a full disk
//!   shows as [`DiskError::NoSpace`] at the write and never at the flush.
//! - *The kernel's one report of a lost write*: the first failed flush is kept; no later one
//!   succeeds until the device is opened again.
//! - *A write of one cache mode beside one of another*: never; a change of the mode holds what
//!   comes, waits for what runs and makes it stable, and only then switches the descriptor between
//!   direct and cached. Where that does not end within a bound, all stays as it was.
//! - *A change of the mode that was given up, before it has taken effect*: it never does; see
//!   [`Wanted`].
//! - *A kill, between a write's start and its end*: the kernel cannot recall it. It keeps the lock or
//!   claim until then, because they belong to the one descriptor that all I/O goes through: the
//!   device cannot be opened ([`DeviceError::Locked`]) while an earlier write may still land over
//!   newer data. The same holds for a device that is closed with an operation under way.
//! - *A file truncated by somebody else*: [`DiskError::Gone`], never made-up zeros.
//! - *A crash while an image is made or a document saved*: nothing or all; the old or the new.
//!
//! Every bound is in [`limits`].

#![forbid(unsafe_code)]

pub mod backing;
pub mod beside;
pub mod delay;
pub mod fault;
pub mod limits;
pub mod stats;

mod block;
mod create;
mod decorate;
mod error;
mod file;
mod file_id;
mod gate;
mod image;
mod iso;
mod open;
mod ram;
mod request;
mod sysfs;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wanted;

pub use backing::{Backing, Provisioning};
pub use beside::{Beside, BesideError, BesideStore, document_of_image};
pub use create::{create_image, remove_image};
pub use delay::{Delay, Latency};
pub use error::DeviceError;
pub use fault::Fault;
pub use file_id::FileId;
pub use open::{open, open_now};
pub use ram::RamDisk;
pub use request::{
    CacheMode, Disk, DiskError, Execution, Extent, Features, Geometry, OpKind, Reply, Request,
};
pub use stats::Stats;
pub use wanted::Wanted;
