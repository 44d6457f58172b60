//! SCSI disks and optical drives, without I/O.

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
