//! Every bound of the crate in one place, with the memory it implies.
//!
//! A connection owns at most: one header ([`HEADER_BYTES_MAX`]), one text being received
//! ([`LOGIN_TEXT_BYTES_MAX`] before login, the configured text bound or one data segment after
//! it), one text being sent, and the task table ([`TASKS_MAX`] small entries). Nothing else grows.

use std::time::Duration;

/// Longest data segment either side may send before login has ended (the standard's default).
pub const LOGIN_SEGMENT_BYTES_MAX: u32 = 8192;

/// Text of one login request over all its continuation PDUs.
pub const LOGIN_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Requests in one login, unless a target is configured otherwise; who wants more goes round in
/// circles.
pub const LOGIN_REQUESTS_MAX: u32 = 64;

/// Keys in one text: an answer to each is at most a key and a short word.
pub const KEYS_MAX: usize = 128;

/// Bytes of a key's name (the standard's own bound).
pub const KEY_BYTES_MAX: usize = 63;

/// Bytes of a key's value unless the key says otherwise (the standard's own bound).
pub const VALUE_BYTES_MAX: usize = 255;

/// Bytes of a large binary value (challenge, response) once decoded.
pub const BINARY_BYTES_MAX: usize = 1024;

/// Fewest bytes of a CHAP challenge of ours: what a dictionary of answers cannot cover.
pub const CHALLENGE_BYTES_MIN: usize = 16;

/// Characters of a large binary value as text: two a byte and the prefix.
pub const BINARY_TEXT_MAX: usize = 2 * BINARY_BYTES_MAX + 2;

/// Bytes of an iSCSI name.
pub const NAME_BYTES_MAX: usize = 223;

/// Bytes of the longest CDB (an extended CDB in an additional header segment).
pub const CDB_BYTES_MAX: usize = 260;

/// Bytes of additional header segments taken: an extended CDB and a bidirectional read length.
pub const AHS_BYTES_MAX: usize = 256;

/// Header, additional header segments and header digest.
pub const HEADER_BYTES_MAX: usize = 48 + AHS_BYTES_MAX + 4;

/// Largest data segment length a side may declare (24 bits).
pub const SEGMENT_BYTES_MAX: u32 = 0x00ff_ffff;

/// Smallest data segment length a side may declare.
pub const SEGMENT_BYTES_MIN: u32 = 512;

/// Tasks of one session: the largest command window that may be configured.
pub const WINDOW_MAX: u32 = 1024;

/// Immediate commands at once (they do not count against the window).
pub const IMMEDIATE_TASKS_MAX: u32 = 16;

/// Slots in a session's task table.
pub const TASKS_MAX: u32 = WINDOW_MAX + IMMEDIATE_TASKS_MAX;

/// R2Ts outstanding for one task, whatever is negotiated.
pub const OUTSTANDING_R2T_MAX: u16 = 64;

/// Bytes of sense data in a response.
pub const SENSE_BYTES_MAX: usize = 252;

/// Requests an initiator engine has in flight.
pub const INITIATOR_TASKS_MAX: usize = 1024;

/// Text an initiator engine takes in answer to SendTargets.
pub const SEND_TARGETS_BYTES_MAX: usize = 1024 * 1024;

/// Commands in flight that a target engine offers unless told otherwise.
pub const WINDOW: u32 = 128;

/// From the first byte to full feature phase, unless told otherwise.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Text of one text request over all its PDUs that a target engine takes unless told otherwise.
pub const TEXT_BYTES: usize = 64 * 1024;

/// Longest wait for the next data of a write, unless told otherwise.
pub const DATA_TIMEOUT: Duration = Duration::from_secs(60);

/// Silence after which a target engine pings, unless told otherwise.
pub const NOP_INTERVAL: Duration = Duration::from_secs(15);

/// Silence after a ping that ends the connection, unless told otherwise.
pub const NOP_TIMEOUT: Duration = Duration::from_secs(15);

const _: () = assert!(
    TASKS_MAX < 0xffff,
    "a slot number has 16 bits and ffffh is reserved"
);
const _: () = assert!(
    INITIATOR_TASKS_MAX < 0xffff,
    "likewise; and no tag is ffffffffh"
);
const _: () = assert!(BINARY_TEXT_MAX > VALUE_BYTES_MAX);
const _: () = assert!(LOGIN_TEXT_BYTES_MAX > LOGIN_SEGMENT_BYTES_MAX as usize);
const _: () = assert!(AHS_BYTES_MAX >= CDB_BYTES_MAX - 16 + 4 + 8);
const _: () = assert!(AHS_BYTES_MAX.is_multiple_of(4));
