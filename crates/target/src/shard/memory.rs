//! Buffer memory, shared out among initiators.
//!
//! A shard's pool is bounded, and no initiator may hold more than its share of it, over all its
//! sessions. A buffer counts from the moment a command takes it until nothing refers to it any more:
//! what was read counts until the socket has taken it, so that an initiator that asks and does not
//! listen uses up its own share and nobody else's.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes that an initiator holds; its sessions on a shard have one together.
pub(super) type Purse = Rc<Cell<usize>>;

/// Bytes that count for an initiator until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge {
    purse: Option<Purse>,
    bytes: usize,
}

impl Charge {
    /// Adds bytes; always for the same purse.
    pub(super) fn add(&mut self, purse: &Purse, bytes: usize) {
        purse.set(purse.get() + bytes);
        self.purse.get_or_insert_with(|| Rc::clone(purse));
        self.bytes += bytes;
    }

    /// Takes over what another one counts.
    pub(super) fn absorb(&mut self, mut other: Self) {
        if let Some(purse) = other.purse.take() {
            self.purse.get_or_insert(purse);
            self.bytes += std::mem::take(&mut other.bytes);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(purse) = &self.purse {
            purse.set(purse.get() - self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_count_until_they_are_dropped() {
        let purse = Purse::default();
        let (mut first, mut second) = (Charge::default(), Charge::default());
        first.add(&purse, 10);
        first.add(&purse, 5);
        second.add(&purse, 7);
        assert_eq!(purse.get(), 22);
        let mut queued = Charge::default();
        queued.absorb(first);
        assert_eq!(purse.get(), 22, "handed on, not given back");
        queued.absorb(second);
        queued.absorb(Charge::default());
        assert_eq!(purse.get(), 22);
        drop(queued);
        assert_eq!(purse.get(), 0);
    }
}
