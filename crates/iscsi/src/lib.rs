//! iSCSI (RFC 7143) without I/O: bytes and time in, bytes and events out.
//!
//! Both ends live here. [`target::Connection`] is the engine behind a portal,
//! [`initiator::Connection`] the one that logs in to it. Neither knows sockets, threads, clocks,
//! files or SCSI: the caller reads bytes and hands them over with the time; the engine hands back
//! events (borrowing write data from those bytes) and appends PDUs to the caller's [`Output`].
//!
//! # The sketch
//!
//! A header (48 bytes, additional header segments, digest) is gathered in a buffer of the
//! connection, since it may arrive in pieces. A data segment is *not* gathered when it is data of
//! a SCSI command: each piece goes on as an event that borrows from the input, while the CRC runs
//! along. So a 4 KiB write costs the engine one copy of 48 bytes, two table look-ups and the CRC,
//! and a read costs one 48-byte header; payloads are passed by reference. Text (login keys,
//! SendTargets, ping data) is gathered, within the bounds of [`limits`].
//!
//! What can fail between two steps: the peer can stop in the middle of a PDU (the login and
//! keep-alive timers answer that), break a digest (a header digest ends the connection, a data
//! digest ends one task), or break the protocol (one task, one PDU by Reject, or the connection,
//! as the standard says). Nothing from the wire can make the engine panic, and nothing allocates
//! by a length from the wire that is above what was negotiated.
//!
//! # Where things are
//!
//! | module | what |
//! |---|---|
//! | [`pdu`] | the wire structures, each once, for both directions |
//! | [`frame`] | cutting PDUs from a byte stream, digests, sending |
//! | [`text`], [`negotiation`] | `key=value` pairs and the rules by which both ends agree |
//! | [`name`] | iSCSI names |
//! | [`chap`] | authentication |
//! | [`command`] | names both engines share: tasks, CDBs |
//! | [`target`], [`initiator`] | the engines |
//! | [`limits`] | every bound |
//!
//! Not here: SCSI commands (crate `scsi`), sessions across connections and reconnecting (the
//! services), iSNS. Several connections per session and error recovery levels 1 and 2 are not
//! negotiated yet; the session's state stands apart from the connection's so that they fit.
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

pub mod chap;
pub mod command;
pub mod frame;
pub mod initiator;
pub mod limits;
pub mod name;
pub mod negotiation;
pub mod pdu;
pub mod serial;
pub mod target;
pub mod text;

use std::ops::Range;

/// Where outgoing PDUs go; the caller appends to its send list.
///
/// Calls arrive in wire order. The engine never looks back at what it has written.
pub trait Output {
    /// A piece of data passed by reference, such as a slice of a pooled buffer.
    type Payload: AsRef<[u8]>;

    /// Appends bytes (headers, digests, padding, text, ping data); never empty, and at most one data
    /// segment that the other side takes.
    fn bytes(&mut self, bytes: &[u8]);

    /// Appends `payload[range]` without copying it. The range is never empty and lies within the
    /// payload.
    fn payload(&mut self, payload: Self::Payload, range: Range<usize>);
}
