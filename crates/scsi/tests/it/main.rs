//! Tests of the crate through its public interface: commands as bytes against a disk in memory.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests build CDBs from small numbers"
)]

mod attention;
mod block;
mod change;
mod harness;
mod hostile;
mod identity;
mod matrix;
mod mode;
mod model;
mod optical;
mod reservations;
mod supported;
