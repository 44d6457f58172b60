//! SCSI disks and optical drives, without I/O.
//!
//! This crate is what a logical unit *says*: commands of SPC-4, SBC-3 and (for an optical drive that
//! reads) MMC-6, sense data, mode and vital product data pages, unit attentions, persistent
//! reservations. It has no sockets, files, clock, threads or `unsafe`, and nothing that comes from an
//! initiator can make it panic.
//!
//! It is **not** a transport (that is `iscsi`), not a disk (that is `disk`), and not the place where
//! shared state lives or is serialized (that is `target`). It does not queue: ordering and task
//! management are the target's.
//!
//! # Key types
//!
//! - [`Unit`]: a logical unit as published, one immutable value per state. Readers hold a snapshot;
//!   changing means making another one.
//! - [`Task`]: a running command. [`Task::begin`] takes a [`Command`] and a unit and gives the first
//!   [`Step`]; [`Task::resume`] takes what the step asked for and gives the next, until [`Step::Done`].
//! - [`NexusState`]: what one nexus must still be told: unit attentions, deferred errors.
//! - [`change`]: pure functions from a unit and a [`Change`] to [`change::Applied`]: the next unit, who
//!   is told, whose tasks end, whether something must be written down first.
//! - [`reservation::State`]: persistent reservations by themselves, with a naive model beside it in the
//!   tests.
//! - [`sense`]: sense data, and [`sense::from_fault`], the one table from disk errors to it.
//!
//! The table of commands (`opcodes.rs`) is the one place that says which commands there are; the
//! dispatcher, REPORT SUPPORTED OPERATION CODES and the reservation classes read it.
//!
//! # Sketch
//!
//! What the data does: of a READ nothing passes through here but the length; the disk's buffer is the
//! answer ([`DataIn::Buffer`]). Of a WRITE the data-out is named by offset. Only what must be compared
//! (VERIFY and WRITE AND VERIFY with BYTCHK, COMPARE AND WRITE) or combined (ORWRITE) is copied, once.
//! A command costs one look through a table of seventy entries, one reservation check per disk step
//! (a map look-up where something is reserved), and for writes one small allocation for the footprint.
//!
//! What can fail between two steps: the unit may have changed. So every disk step that
//! [`Task::resume`] returns was checked against the unit given in that very call: reservations, medium,
//! protection, size. A command of many steps (WRITE SAME, VERIFY) that loses its right half way ends
//! there, with what it did done. A change is checked again when it is applied, for between
//! [`Step::Change`] and [`change::apply`] another nexus may have been first.
//!
//! # How to add a command
//!
//! 1. A line in the table of `opcodes.rs`: code, service action, usage bits, reservation class, what it
//!    needs. Its tests check order and lengths.
//! 2. A handler in the module of its family that checks the CDB and returns a job; a new kind of job
//!    only when no existing one fits.
//! 3. Tests in `tests/it`: what it answers, each field it refuses, and the row of the reservation matrix.
//!
//! # Where the standards leave a choice
//!
//! - FUA and DPO are accepted in every cache mode; a write with FUA is stable before its status.
//! - START STOP UNIT does not stop a unit that others share; it makes data stable.
//! - Less data-out than the CDB calls for: the whole blocks are written and the residual tells; part of a
//!   block, or any difference for commands that compare or repeat, is an error before anything is done.
//! - WRITE ATOMIC is not offered: a write of several physical blocks over a power cut is not atomic on
//!   the disks beneath.
//! - Obsolete and reserved bits that change nothing are ignored; obsolete bits that would ask for other
//!   contents (LBDATA, PBDATA) are refused.
//! - Reservations: see [`reservation`].

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic
    )
)]

pub mod change;
pub mod limits;
pub mod mode;
pub mod reservation;
pub mod sense;

mod attention;
mod block;
mod command;
mod diagnostics;
mod inquiry;
mod job;
mod luns;
mod medium;
mod nexus;
mod opcodes;
mod optical;
mod persistent;
mod ports;
mod request_sense;
mod supported;
mod task;
mod unit;
mod wire;

pub use attention::{Attention, NexusState};
pub use change::Change;
pub use command::{
    Command, DataIn, DiskOp, DiskResult, Fault, Footprint, Response, Resume, Status, Step,
};
pub use nexus::Nexus;
pub use sense::Sense;
pub use task::{Task, no_such_lun};
pub use unit::{Identity, Kind, Limits, Medium, Unit};
