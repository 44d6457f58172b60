//! The load generator: many initiators on one thread, on our own engine and ring.
//!
//! * [`verify`] drives a LUN with mixed I/O while connections are killed, tasks aborted, the unit
//!   reset and grown, and checks every block that is read: owner, place, sequence, checksum
//!   ([`block`]), against what the target acknowledged ([`model`]). Blocks shared by all initiators
//!   are counters that only COMPARE AND WRITE changes: no increment may be lost. A command that has
//!   no answer, and that nobody's reset can have ended, is a hang.
//! * [`mod@bench`] measures: closed loop (a depth is kept) and open loop (a rate is kept; latency
//!   counts from the moment a command was due, so that a slow target cannot hide by slowing its
//!   client).
//!
//! Not here: several connections a session, several LUNs, blocks of other sizes than 512 bytes,
//! reads beside a write of the same block (but for the counters). The target's memory, processor
//! time and system calls are watched by other tools.
//!
//! # Key types
//!
//! | type | what |
//! |---|---|
//! | [`verify::Options`], [`verify::Report`], [`verify::VerifyError`] | what to do; counts; the first thing found wrong |
//! | [`model::Owned`] | what an initiator knows of its blocks; pure |
//! | [`session::Session`] | one initiator over a reactor; comes back with the same ISID |
//! | [`bench::Figures`] | rates and latencies |
//!
//! # The sketch
//!
//! One reactor; a [`session::Session`] for each initiator; per turn: completions → news → the model
//! → new commands until depth or window are full → one send a session. A write is one buffer filled
//! by the model and referred to by the engine; a read is copied once, to be looked at whole. It is
//! made to find errors and to load a target from one core, not to be the fastest client.
//!
//! What can fail between two steps:
//!
//! - *Between a write and its answer* the connection may end, or a reset sweep the command away: it
//!   is *unknown* then, old or new, until it is read. It is written again, or read, only when the
//!   target has shown that the old command is dead: by the login with the same ISID, or an answered
//!   function.
//! - *Between somebody's reset and its answer here* commands of others may have ended without a
//!   word. Only those sent before the answer may be given up; all others must be answered.
//! - *Between a kill of the target and its return* ([`verify::Options::away_max`]) everything in
//!   flight is unknown, and everything acknowledged must be there.

#![forbid(unsafe_code)]

pub mod bench;
pub mod block;
pub mod cdb;
pub mod limits;
pub mod model;
pub mod sense;
pub mod session;
pub mod verify;
