//! The load generator: many initiators on one thread, on our own engine and ring.
//!
//! * [`verify`] drives a LUN with mixed I/O while connections are killed, tasks aborted and the unit
//!   reset, and checks every block that is read: owner, place, sequence, checksum ([`block`]), against
//!   what the target acknowledged ([`model`]). Blocks shared by all initiators are counters that only
//!   COMPARE AND WRITE changes: no increment may be lost.
//! * [`bench`] measures: closed loop (a depth is kept) and open loop (a rate is kept; latency counts
//!   from the moment a command was due, so that a slow target cannot hide by slowing its client).
//!
//! # The sketch
//!
//! One reactor; a [`session::Session`] for each initiator; per turn: completions → news → the model →
//! new commands until depth or window are full → one send a session. A write is one buffer filled by
//! the model and referred to by the engine; a read is copied once, to be looked at whole. It is made
//! to find errors and to load a target from one core, not to be the fastest client.
//!
//! Not here: several connections a session, several LUNs; memory and CPU of the target are watched
//! from outside ([`watch`]).

#![forbid(unsafe_code)]

pub mod bench;
pub mod block;
pub mod cdb;
pub mod limits;
pub mod model;
pub mod sense;
pub mod session;
pub mod verify;
pub mod watch;
