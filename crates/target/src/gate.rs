//! Who may run on a LUN now: the queue depth, and the ranges that commands change.
//!
//! Plain writes share; COMPARE AND WRITE excludes every write that overlaps it, over all sessions
//! and shards, from its read to its write. The lock guards only this table, never I/O: what cannot
//! run at once is queued here, and whoever releases is told whom to wake.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use crate::limits::{GATE_QUEUE_MAX, GATE_QUEUE_PER_INITIATOR_MAX};

/// Blocks that a command will change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Claim {
    /// Changes nothing.
    None,
    /// Changes these ranges (LBA, blocks), beside others that do.
    Shared(Vec<(u64, u64)>),
    /// Nothing else may change this range meanwhile.
    Exclusive(u64, u64),
}

impl Claim {
    fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, _) | (_, Self::None) | (Self::Shared(_), Self::Shared(_)) => false,
            (Self::Exclusive(lba, blocks), Self::Shared(ranges))
            | (Self::Shared(ranges), Self::Exclusive(lba, blocks)) => {
                ranges.iter().any(|range| overlap(*range, (*lba, *blocks)))
            }
            (Self::Exclusive(a, n), Self::Exclusive(b, m)) => overlap((*a, *n), (*b, *m)),
        }
    }
}

const fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}

/// Who waits: a command of a shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Waiter {
    pub(crate) shard: usize,
    pub(crate) key: u64,
}

/// The right to run; given back with [`Gate::release`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Pass(usize);

/// Answer to a request to run.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Run now.
    Granted(Pass),
    /// Wait; the pass comes by way of [`Grant`].
    Queued,
    /// Too many wait already.
    Full,
}

/// A pass for one that waited.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) waiter: Waiter,
    pub(crate) pass: Pass,
}

/// One per LUN.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<Inside>);

#[derive(Debug)]
struct Inside {
    depth: usize,
    active: Slab<Claim>,
    /// How many of `active` and `queue` are exclusive: zero lets writes pass without a search.
    exclusives: usize,
    queue: VecDeque<Queued>,
    /// How many of the queue are whose: nobody fills it alone.
    shares: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Queued {
    waiter: Waiter,
    claim: Claim,
    initiator: Arc<str>,
}

impl Gate {
    pub(crate) fn new(depth: usize) -> Self {
        Self(Mutex::new(Inside {
            depth: depth.max(1),
            active: Slab::new(),
            exclusives: 0,
            queue: VecDeque::new(),
            shares: HashMap::new(),
        }))
    }

    /// Asks to run, for an initiator.
    pub(crate) fn enter(&self, claim: Claim, waiter: Waiter, initiator: &Arc<str>) -> Entry {
        let mut inside = self.0.lock();
        if matches!(claim, Claim::Exclusive(..)) {
            inside.exclusives += 1;
        }
        if inside.queue.is_empty() && inside.admits(&claim, 0) {
            return Entry::Granted(Pass(inside.active.insert(claim)));
        }
        let share = inside.shares.get(initiator).copied().unwrap_or(0);
        if inside.queue.len() >= GATE_QUEUE_MAX || share >= GATE_QUEUE_PER_INITIATOR_MAX {
            inside.forget(&claim);
            return Entry::Full;
        }
        inside.shares.insert(Arc::clone(initiator), share + 1);
        inside.queue.push_back(Queued {
            waiter,
            claim,
            initiator: Arc::clone(initiator),
        });
        // A reader must not wait behind a queued exclusive claim that it does not touch.
        // Nobody else can become free by an arrival, so this is the newcomer's grant or none.
        let grant = inside.grants().pop();
        debug_assert!(grant.as_ref().is_none_or(|grant| grant.waiter == waiter));
        grant.map_or(Entry::Queued, |grant| Entry::Granted(grant.pass))
    }

    /// Gives a pass back; the grants that follow from it must be delivered.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a pass is used up by giving it back"
    )]
    pub(crate) fn release(&self, pass: Pass) -> Vec<Grant> {
        let mut inside = self.0.lock();
        let claim = inside.active.remove(pass.0);
        inside.forget(&claim);
        if inside.queue.is_empty() {
            return Vec::new();
        }
        inside.grants()
    }

    /// Takes a waiting command out of the queue; `false` when its grant is already on the way.
    pub(crate) fn leave(&self, waiter: Waiter) -> (bool, Vec<Grant>) {
        let mut inside = self.0.lock();
        let place = inside.queue.iter().position(|it| it.waiter == waiter);
        let Some((_, claim)) = place.and_then(|place| inside.take(place)) else {
            return (false, Vec::new());
        };
        inside.forget(&claim);
        (true, inside.grants())
    }

    /// Changes the queue depth.
    #[must_use]
    pub(crate) fn set_depth(&self, depth: usize) -> Vec<Grant> {
        let mut inside = self.0.lock();
        inside.depth = depth.max(1);
        inside.grants()
    }

    /// Commands that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().queue.len()
    }

    /// Commands running now.
    pub(crate) fn running(&self) -> usize {
        self.0.lock().active.len()
    }
}

impl Inside {
    fn forget(&mut self, claim: &Claim) {
        if matches!(claim, Claim::Exclusive(..)) {
            self.exclusives -= 1;
        }
    }

    /// Takes one out of the queue.
    fn take(&mut self, place: usize) -> Option<(Waiter, Claim)> {
        let Queued {
            waiter,
            claim,
            initiator,
        } = self.queue.remove(place)?;
        if let Some(share) = self.shares.get_mut(&initiator) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&initiator);
            }
        }
        Some((waiter, claim))
    }

    /// Whether `claim` may run beside what runs and what waits in the first `ahead` places.
    fn admits(&self, claim: &Claim, ahead: usize) -> bool {
        if self.active.len() >= self.depth {
            return false;
        }
        if self.exclusives == 0 || matches!(claim, Claim::None) {
            return true;
        }
        !self.active.iter().any(|(_, other)| claim.conflicts(other))
            && !self
                .queue
                .iter()
                .take(ahead)
                .any(|other| claim.conflicts(&other.claim))
    }

    fn grants(&mut self) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut place = 0;
        while place < self.queue.len() && self.active.len() < self.depth {
            let Some(Queued { claim, .. }) = self.queue.get(place) else {
                break;
            };
            if !self.admits(claim, place) {
                place += 1;
                continue;
            }
            if let Some((waiter, claim)) = self.take(place) {
                let pass = Pass(self.active.insert(claim));
                grants.push(Grant { waiter, pass });
            }
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(key: u64) -> Waiter {
        Waiter { shard: 0, key }
    }

    fn enter(gate: &Gate, claim: Claim, waiter: Waiter) -> Entry {
        gate.enter(claim, waiter, &"iqn.2026-11.test:a".into())
    }

    fn granted(entry: Entry) -> Pass {
        match entry {
            Entry::Granted(pass) => pass,
            other => panic!("not granted: {other:?}"),
        }
    }

    #[test]
    fn writes_share_and_an_exclusive_claim_waits_for_them() {
        let gate = Gate::new(8);
        let first = granted(enter(&gate, Claim::Shared(vec![(0, 8)]), waiter(1)));
        let second = granted(enter(&gate, Claim::Shared(vec![(4, 8)]), waiter(2)));
        assert!(matches!(
            enter(&gate, Claim::Exclusive(6, 1), waiter(3)),
            Entry::Queued
        ));
        // A later overlapping write must not overtake; one elsewhere and a read may.
        assert!(matches!(
            enter(&gate, Claim::Shared(vec![(6, 1)]), waiter(4)),
            Entry::Queued
        ));
        let elsewhere = granted(enter(&gate, Claim::Shared(vec![(100, 1)]), waiter(5)));
        let read = granted(enter(&gate, Claim::None, waiter(6)));
        assert!(gate.release(first).is_empty());
        let grants = gate.release(second);
        assert_eq!(grants.iter().map(|g| g.waiter.key).collect::<Vec<_>>(), [3]);
        let exclusive = grants.into_iter().next().unwrap();
        let grants = gate.release(exclusive.pass);
        assert_eq!(grants.iter().map(|g| g.waiter.key).collect::<Vec<_>>(), [4]);
        for grant in grants {
            assert!(gate.release(grant.pass).is_empty());
        }
        assert!(gate.release(elsewhere).is_empty());
        assert!(gate.release(read).is_empty());
        assert_eq!(gate.running(), 0);
    }

    #[test]
    fn depth_one_runs_one_at_a_time_in_order() {
        let gate = Gate::new(1);
        let pass = granted(enter(&gate, Claim::None, waiter(1)));
        assert!(matches!(
            enter(&gate, Claim::None, waiter(2)),
            Entry::Queued
        ));
        assert!(matches!(
            enter(&gate, Claim::None, waiter(3)),
            Entry::Queued
        ));
        let (left, grants) = gate.leave(waiter(2));
        assert!(left && grants.is_empty());
        let mut grants = gate.release(pass);
        assert_eq!(grants.len(), 1);
        let grant = grants.remove(0);
        assert_eq!(grant.waiter, waiter(3));
        assert!(gate.release(grant.pass).is_empty());
    }

    #[test]
    fn leaving_lets_the_next_go() {
        let gate = Gate::new(8);
        let write = granted(enter(&gate, Claim::Shared(vec![(0, 1)]), waiter(1)));
        assert!(matches!(
            enter(&gate, Claim::Exclusive(0, 1), waiter(2)),
            Entry::Queued
        ));
        assert!(matches!(
            enter(&gate, Claim::Shared(vec![(0, 1)]), waiter(3)),
            Entry::Queued
        ));
        let (left, grants) = gate.leave(waiter(2));
        assert!(left);
        assert_eq!(grants.iter().map(|g| g.waiter.key).collect::<Vec<_>>(), [3]);
        for grant in grants {
            assert!(gate.release(grant.pass).is_empty());
        }
        assert!(gate.release(write).is_empty());
        assert!(!gate.leave(waiter(9)).0);
    }

    #[test]
    fn one_initiator_does_not_fill_the_queue() {
        let gate = Gate::new(1);
        let running = granted(enter(&gate, Claim::None, waiter(0)));
        let share = GATE_QUEUE_PER_INITIATOR_MAX as u64;
        for key in 1..=share {
            let entry = enter(&gate, Claim::None, waiter(key));
            assert!(matches!(entry, Entry::Queued));
        }
        let exclusive = enter(&gate, Claim::Exclusive(0, 1), waiter(share + 1));
        assert!(matches!(exclusive, Entry::Full));
        let other = "iqn.2026-11.test:b".into();
        let entry = gate.enter(Claim::None, waiter(share + 2), &other);
        assert!(matches!(entry, Entry::Queued));
        // One that runs, or leaves, makes room for one.
        let granted = gate.release(running);
        assert_eq!(granted[0].waiter, waiter(1));
        assert!(gate.leave(waiter(2)).0);
        for key in [1, 2] {
            let entry = enter(&gate, Claim::None, waiter(share + 2 + key));
            assert!(matches!(entry, Entry::Queued));
        }
        let full = enter(&gate, Claim::None, waiter(share + 5));
        assert!(matches!(full, Entry::Full));
        for key in 3..=share + 4 {
            gate.leave(waiter(key));
        }
        assert!(gate.0.lock().shares.is_empty());
        assert_eq!(gate.0.lock().exclusives, 0);
    }
}
