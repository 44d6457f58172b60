//! Where the store's time comes from.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Time for events and for the rate limit.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time of day, as people read it; may jump.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment; never goes back.
    fn elapsed(&self) -> Duration;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose [`Clock::elapsed`] counts from here.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the store's time comes from"
    )]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
