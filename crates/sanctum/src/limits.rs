//! Bounds of what the command line reads.

/// Largest settings file read, the service's own limit.
pub(crate) const SETTINGS_BYTES_MAX: u64 = api::limits::SETTINGS_BYTES_MAX as u64;

/// Longest secret read from standard input or a terminal, in bytes; CHAP itself ends well below.
pub(crate) const SECRET_BYTES_MAX: u64 = 1024;

/// Longest answer to a question of `sanctum setup`, in bytes.
pub(crate) const ANSWER_BYTES_MAX: u64 = 4096;

/// How often a question is asked again after an answer that does not do.
pub(crate) const QUESTION_TRIES: usize = 5;

/// Most that is read of what `sanctumd init` prints.
pub(crate) const INIT_OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// Operations at once of a device, for the command line's parser; the service checks its own bound.
pub(crate) const DEPTH: std::ops::RangeInclusive<i64> = 1..=api::limits::QUEUE_DEPTH_MAX as i64;

/// Events listed when nothing else is said.
pub(crate) const EVENTS_LISTED: usize = 30;

/// Events asked for at once while following.
pub(crate) const EVENTS_AT_ONCE: u64 = 100;
