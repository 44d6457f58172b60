//! The one place that reads the machine's clock. A simulation has its own.

use std::time::Instant;

/// The time now, monotonic.
#[expect(
    clippy::disallowed_methods,
    reason = "this crate is where others get the time from"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
