//! Bounds of what travels on the management socket.

use std::time::Duration;

/// Largest request body. The largest honest one is a settings document with some thousand LUNs.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest answer the client takes: a full page of events or sessions with every field at its longest.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest reason recorded with a change, in bytes.
pub const REASON_BYTES_MAX: usize = 500;

/// Most events answered at once.
pub const EVENTS_PER_PAGE_MAX: usize = 1000;

/// Events answered when the request does not say how many.
pub const EVENTS_PER_PAGE: usize = 100;

/// Longest that a request for a task waits for its next change before it answers with what there is.
pub const TASK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest that the service works on one request. Applying settings opens devices, which can take
/// seconds each on a tired disk.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(120);

/// Longest that the client waits for an answer: a little longer than the service works, so that the
/// service's own words about the delay arrive.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(130);

const _: () = assert!(TASK_WAIT_MAX.as_secs() < REQUEST_TIME_MAX.as_secs());
const _: () = assert!(REQUEST_TIME_MAX.as_secs() < ANSWER_TIME_MAX.as_secs());
const _: () = assert!(EVENTS_PER_PAGE <= EVENTS_PER_PAGE_MAX);
