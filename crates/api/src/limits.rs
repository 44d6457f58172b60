//! Bounds of what travels on the management socket.

use std::time::Duration;

pub use target::limits::{BLOCK_SIZE_DEFAULT, QUEUE_DEPTH_DEFAULT, QUEUE_DEPTH_MAX};

/// Largest request body that is not a settings document.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Largest request body with a settings document: the largest document (8 MiB), as a JSON string in
/// which line ends and quotes take two bytes.
pub const SETTINGS_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest settings document that the client sends, in bytes.
pub const SETTINGS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Largest answer the client takes: a full page of events or sessions with every field at its
/// longest.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest reason recorded with a change, in bytes.
pub const REASON_BYTES_MAX: usize = 500;

/// Most events answered at once.
pub const EVENTS_PER_PAGE_MAX: usize = 1000;

/// Longest that a request for a task waits for its next change before it answers with what there
/// is.
pub const TASK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest that a request for the next events waits before it answers with none.
pub const EVENT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest that the service works on one request. Applying settings opens devices, which can take
/// seconds each on a tired disk.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(120);

/// Longest that the client waits for an answer: a little longer than the service works, so that the
/// service's own words about the delay arrive.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(130);

const _: () = assert!(EVENT_WAIT_MAX.as_secs() < REQUEST_TIME_MAX.as_secs());
const _: () = assert!(TASK_WAIT_MAX.as_secs() < REQUEST_TIME_MAX.as_secs());
const _: () = assert!(REQUEST_TIME_MAX.as_secs() < ANSWER_TIME_MAX.as_secs());
const _: () = assert!(SETTINGS_BYTES_MAX * 2 <= SETTINGS_BODY_BYTES_MAX);
