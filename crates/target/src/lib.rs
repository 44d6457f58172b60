//! The iSCSI target service: portals, sessions and LUNs, thread per core.
//!
//! # What it is for
//!
//! [`Service::start`] serves a [`Config`](config::Config): it opens devices, listens on portals, and
//! lets initiators in by the targets' rules. [`Service::apply`] goes over to another configuration
//! while everything runs. What happens is told as [`Notice`]s, what there is as the plain data of
//! [`info`].
//!
//! # What it is not
//!
//! No protocol: `iscsi` cuts and writes PDUs, `scsi` knows commands and reservations, and both are
//! free of I/O. No file formats: `disk` knows images, disks and the document beside them. No store
//! of settings, no events, no API: it takes typed settings and gives typed notices, and whoever
//! starts it wires these. Its errors name the thing to do, never a command to type.
//!
//! # Threads
//!
//! | thread | what runs there |
//! |---|---|
//! | `shard-N`, one a core | a ring, listeners, connections, sessions and their commands; never waits but for its ring |
//! | the caller's tokio runtime | the control plane: all that concerns more than one shard |
//! | its blocking threads | what waits for a disk outside the data path: opening, growing, cache modes, documents, the last flush |
//!
//! They meet in bounded channels (inboxes) and in short locks of each LUN: that of its gate, and
//! those with which the disk under it keeps apart what must not overlap. What is served (`Exports`)
//! and what a LUN is (its *published unit*) are immutable values behind atomic pointers, which shards
//! read without a lock.
//!
//! # Life of a command
//!
//! A connection's bytes become a PDU, the PDU a `scsi::Task`, begun against the unit published at
//! this moment (`shard/command.rs`). Data comes into a buffer of the pool; then the task is resumed,
//! against what is published *now*, and asks for the disk. It passes the LUN's gate (depth, and the
//! ranges of COMPARE AND WRITE), is checked once more where it had to wait, and the operation starts
//! in the same turn of the loop (`shard/disk.rs`). Its completion makes the status; all that one
//! turn has to send on a connection leaves in one send.
//!
//! A change of what initiators share (reservations, mode pages, medium) goes to the control plane
//! instead, with a ticket that decides whether an abort or the change came first.
//!
//! # The barrier
//!
//! A change of a unit is made under the unit's own lock: compute, write beside the device what must
//! last, publish, pass the barrier, answer. At the barrier every shard puts unit attentions to its
//! sessions, ends the commands that have to end and, where reservations changed, waits for those on
//! the disk that were allowed by the old state. Only then is anybody told. What does not end within
//! [`limits::DRAIN_TIME_MAX`] is answered as a failure, and the LUN is NOT READY until it has drained.
//! `tests/barrier_model.rs` explores every interleaving of this protocol.
//!
//! # Apply
//!
//! What an operator asks for is done one at a time and runs to its end even when nobody waits for it
//! any more. A configuration is [prepared](Service::prepare): all that can fail is done, nothing of
//! it is shown. Then the caller keeps it wherever it keeps such things, and [commits](Prepared::commit)
//! or [undoes](Prepared::undo) it. Publishing can fail at nothing but waiting: sessions follow to
//! their new LUN map or end, devices that are gone are drained, flushed and closed.
//!
//! # Shutdown
//!
//! [`Service::shutdown`] ends sessions to their last command, then flushes every device; each within
//! a bound. What does not end is named ([`Unfinished`]), and its threads are left behind: an operation
//! given to the kernel cannot be recalled, and the kernel can keep the process for it.
//!
//! # Costs
//!
//! A READ is copied nowhere in user space, a WRITE once, from the receive buffer. A command takes the
//! gate's lock twice and reads two atomic pointers, and its operation enters an image or a physical disk
//! under a shared lock; while a cache is volatile, the first write of each nexus waits for a document
//! to be written. A change costs a message to every shard and back. Memory
//! is a pool for each shard ([`limits::POOL_BYTES_PER_SHARD`] at most, of which one initiator gets a
//! share), a receive buffer for each connection, and small tables whose bounds are in [`limits`].
//!
//! # What can fail between two steps
//!
//! - *The process, between the document beside a device and the answer*: the change holds at the next
//!   start though nobody was told, as with a power cut on any disk.
//! - *The process, between preparing and keeping a configuration*: the next start serves the old one;
//!   a file that was grown stays longer, and nobody is shown that.
//! - *The process, between keeping and committing it*: the next start serves the new one.
//! - *A disk, after other cache modes were switched for the same change*: these go back; one that
//!   cannot is named, and the next change puts it right ([`ServiceError::NotUndone`]).
//! - *A device that was gone, between closing it and opening it anew*: it is NOT READY until a load
//!   succeeds ([`ServiceError::LoadFailed`]); that it lost its cache is written down before.
//! - *A disk that never answers*: its LUN alone is NOT READY; changes that had to wait for it are
//!   [`ServiceError::Stuck`] (they hold) or [`ServiceError::NotSwitched`] (they do not).
//! - *The host, with writes in a volatile cache*: each nexus that had written is told by a deferred
//!   error before its next flush may succeed.

#![forbid(unsafe_code)]

pub mod config;
pub mod info;
pub mod limits;
pub mod provision;

mod access;
mod apply;
mod check;
mod control;
mod devices;
mod door;
mod doubt;
mod exports;
mod gate;
mod listeners;
mod load;
mod message;
mod notice;
mod opening;
mod proof;
mod publish;
mod registry;
mod secrets;
mod service;
mod shard;
mod stop;
mod unit;

pub use apply::Prepared;
pub use check::{ConfigError, check};
pub use notice::{Notice, Severity};
pub use secrets::Secrets;
pub use service::{Opener, Options, Service, ServiceError};
pub use stop::Unfinished;

/// The I/O driver that [`Options`] can force.
pub use ring::DriverKind as Driver;
