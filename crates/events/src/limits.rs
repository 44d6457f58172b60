//! Every bound of the store in one place, and the memory it implies.
//!
//! An event is at most [`CODE_BYTES`] + [`SUBJECT_BYTES`] + [`MESSAGE_BYTES`] + [`CAUSE_BYTES`] +
//! [`NEXT_STEP_BYTES`] of text (just under 3 KiB), usually some 300 bytes: memory is about 4 MB in
//! use, 30 MB at the worst. Disk is two files of [`ROTATE_BYTES`].

use std::time::Duration;

/// Events kept in memory, and so the most that a query can return.
pub const MEMORY_EVENTS: usize = 10_000;

/// Size at which `events.jsonl` becomes `events.1.jsonl`.
pub const ROTATE_BYTES: u64 = 8 * 1024 * 1024;

/// Longest line read back from a file; a longer one is damage and is skipped.
pub const LINE_BYTES: usize = 32 * 1024;

/// Longest code, in bytes.
pub const CODE_BYTES: usize = 64;

/// Longest subject, in bytes: an iSCSI name (223) with a little beside it.
pub const SUBJECT_BYTES: usize = 320;

/// Longest message, in bytes.
pub const MESSAGE_BYTES: usize = 1024;

/// Longest cause, in bytes.
pub const CAUSE_BYTES: usize = 1024;

/// Longest next step, in bytes.
pub const NEXT_STEP_BYTES: usize = 512;

/// Events a query returns when it names no limit.
pub const QUERY_DEFAULT: usize = 100;

/// Followers at once: fewer than there are connections, so that following keeps nobody out.
pub const SUBSCRIBERS: usize = 32;

/// Provoked events of one code and subject that pass at once.
pub const SUBJECT_BURST: u32 = 10;

/// After the burst, one provoked event of a code and subject passes in this time.
pub const SUBJECT_REFILL: Duration = Duration::from_secs(10);

/// Provoked events of one code, all subjects together, that pass at once: an outsider can make up
/// subjects.
pub const CODE_BURST: u32 = 100;

/// After the burst, one provoked event of a code passes in this time.
pub const CODE_REFILL: Duration = Duration::from_secs(1);

/// Codes and subjects watched by the rate limit; past it, subjects of a code are counted together.
pub const BUCKETS: usize = 4096;

/// Suppressed events are summed up at the latest after this time, when [`crate::Store::tick`] is
/// called.
pub const SUMMARY_AFTER: Duration = Duration::from_secs(60);

/// After a failed write the disk is left alone for this long.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Most that is written in one go, in bytes: no more than the smallest file that is rotated holds.
pub const BATCH_BYTES: usize = LINE_BYTES;

/// A disk that has not answered for this long is told as a fault; events wait in memory, of which
/// there are [`MEMORY_EVENTS`].
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// When the last store is dropped, the disk has this long to take what is not written yet.
pub const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

const _: () = {
    let text = CODE_BYTES + SUBJECT_BYTES + MESSAGE_BYTES + CAUSE_BYTES + NEXT_STEP_BYTES;
    // JSON makes six bytes of a control character at the worst; names, number and time come on top.
    assert!(LINE_BYTES > 6 * text + 512);
    assert!(QUERY_DEFAULT <= MEMORY_EVENTS);
    assert!((LINE_BYTES as u64) < ROTATE_BYTES);
};
