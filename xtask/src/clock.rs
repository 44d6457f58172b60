//! The clock: xtask is wiring, and the only part of it that looks at the time is this.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const STEP: Duration = Duration::from_millis(50);

/// Now.
#[expect(clippy::disallowed_methods, reason = "xtask measures real programs")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Looks at `condition` until it gives something, or the bound is over.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when another program is ready: look, wait, look"
)]
pub(crate) fn wait_for<T>(bound: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = now() + bound;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if now() > deadline {
            return None;
        }
        std::thread::sleep(STEP);
    }
}
