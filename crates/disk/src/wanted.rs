//! Whether a change is still wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WANTED: u8 = 0;
const GIVEN_UP: u8 = 1;
const TAKEN: u8 = 2;

/// Whoever waits for a change and whoever makes it agree by this whether it comes about: the one
/// gives it up at a deadline, the other takes it before the first step that shows, and only one of
/// them can. A change that was given up never takes effect later, when nobody expects it any more;
/// after one that was taken there is nothing left to wait long for.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<AtomicU8>);

impl Wanted {
    /// Gives the change up. False: it was taken already; its end is near and says how it ended.
    pub fn give_up(&self) -> bool {
        self.decide(GIVEN_UP)
    }

    /// Takes the change, for good. False: it was given up, and must leave all as it was.
    pub fn take(&self) -> bool {
        self.decide(TAKEN)
    }

    /// Whether it was given up: then nothing more needs to be prepared for it.
    pub fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == GIVEN_UP
    }

    fn decide(&self, verdict: u8) -> bool {
        let decided = self
            .0
            .compare_exchange(WANTED, verdict, Ordering::AcqRel, Ordering::Acquire);
        decided.is_ok() || decided == Err(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_verdict_is_final() {
        let wanted = Wanted::default();
        assert!(!wanted.is_given_up());
        assert!(wanted.clone().take() && !wanted.give_up() && wanted.take());
        let wanted = Wanted::default();
        assert!(wanted.clone().give_up() && !wanted.take() && wanted.give_up());
        assert!(wanted.is_given_up());
    }
}
