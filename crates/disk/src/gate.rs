//! Ranges of bytes that operations of all shards hold, shared or alone.
//!
//! First come, first served; handed over inside the release (no thundering herd); given back when
//! the guard or the waiting future is dropped. Wakers may belong to other threads' reactors; they
//! are called after the table's lock is let go.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Whether others may hold an overlapping range at the same time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hold {
    /// Beside other shared ones.
    Shared,
    /// Alone.
    Exclusive,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    id: u64,
    start: u64,
    end: u64,
    hold: Hold,
}

impl Claim {
    fn conflicts(&self, other: &Self) -> bool {
        let overlap = self.start < other.end && other.start < self.end;
        overlap && (self.hold == Hold::Exclusive || other.hold == Hold::Exclusive)
    }
}

#[derive(Debug, Default)]
struct Ranges {
    next: u64,
    held: Vec<Claim>,
    waiting: VecDeque<(Claim, Waker)>,
}

impl Ranges {
    /// Moves every waiter that now can to the holders; collects their wakers.
    fn hand_over(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        let mut still = VecDeque::with_capacity(self.waiting.len());
        while let Some((claim, waker)) = self.waiting.pop_front() {
            let blocked = self.held.iter().any(|held| held.conflicts(&claim))
                || still
                    .iter()
                    .any(|(earlier, _): &(Claim, Waker)| earlier.conflicts(&claim));
            if blocked {
                still.push_back((claim, waker));
            } else {
                self.held.push(claim);
                woken.push(waker);
            }
        }
        self.waiting = still;
        woken
    }
}

/// Ranges of bytes that operations hold. Bounded by the operations in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeLock(Arc<Mutex<Ranges>>);

impl RangeLock {
    /// Waits until `start..end` can be held.
    pub(crate) fn acquire(&self, start: u64, end: u64, hold: Hold) -> Acquire {
        Acquire {
            lock: self.clone(),
            start,
            end,
            hold,
            id: None,
            done: false,
        }
    }

    fn release(&self, id: u64) {
        let woken = {
            let mut ranges = self.0.lock();
            ranges.held.retain(|claim| claim.id != id);
            ranges.waiting.retain(|(claim, _)| claim.id != id);
            if ranges.waiting.is_empty() {
                Vec::new()
            } else {
                ranges.hand_over()
            }
        };
        woken.into_iter().for_each(Waker::wake);
    }

    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let ranges = self.0.lock();
        (ranges.held.len(), ranges.waiting.len())
    }
}

/// Waiting for a range.
#[derive(Debug)]
pub(crate) struct Acquire {
    lock: RangeLock,
    start: u64,
    end: u64,
    hold: Hold,
    id: Option<u64>,
    done: bool,
}

impl Future for Acquire {
    type Output = RangeGuard;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<RangeGuard> {
        let this = &mut *self;
        let mut ranges = this.lock.0.lock();
        let id = match this.id {
            None => {
                let id = ranges.next;
                ranges.next += 1;
                this.id = Some(id);
                let claim = Claim {
                    id,
                    start: this.start,
                    end: this.end,
                    hold: this.hold,
                };
                let blocked = ranges.held.iter().any(|held| held.conflicts(&claim))
                    || ranges
                        .waiting
                        .iter()
                        .any(|(earlier, _)| earlier.conflicts(&claim));
                if blocked {
                    ranges.waiting.push_back((claim, context.waker().clone()));
                    return Poll::Pending;
                }
                ranges.held.push(claim);
                id
            }
            Some(id) => {
                if let Some(entry) = ranges.waiting.iter_mut().find(|(claim, _)| claim.id == id) {
                    entry.1.clone_from(context.waker());
                    return Poll::Pending;
                }
                id
            }
        };
        drop(ranges);
        this.done = true;
        Poll::Ready(RangeGuard {
            lock: this.lock.clone(),
            id,
        })
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let (Some(id), false) = (self.id, self.done) {
            self.lock.release(id);
        }
    }
}

/// A held range.
#[derive(Debug)]
pub(crate) struct RangeGuard {
    lock: RangeLock,
    id: u64,
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        self.lock.release(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F, count: &Arc<Count>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(count));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    fn ready<F: Future + Unpin>(future: &mut F, count: &Arc<Count>) -> F::Output {
        match poll(future, count) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("not ready"),
        }
    }

    #[test]
    fn ranges_wait_in_order() {
        let (lock, count) = (RangeLock::default(), Arc::new(Count::default()));
        let first = ready(&mut lock.acquire(0, 10, Hold::Shared), &count);
        let second = ready(&mut lock.acquire(5, 15, Hold::Shared), &count);
        let mut alone = lock.acquire(8, 9, Hold::Exclusive);
        assert!(poll(&mut alone, &count).is_pending());
        // A later shared one does not overtake the exclusive one that waits.
        let mut late = lock.acquire(8, 9, Hold::Shared);
        assert!(poll(&mut late, &count).is_pending());
        let elsewhere = ready(&mut lock.acquire(100, 101, Hold::Exclusive), &count);
        drop((first, elsewhere));
        assert!(poll(&mut alone, &count).is_pending());
        drop(second);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        let guard = ready(&mut alone, &count);
        assert!(poll(&mut late, &count).is_pending());
        drop(guard);
        drop(ready(&mut late, &count));
        assert_eq!(lock.counts(), (0, 0));
    }

    #[test]
    fn a_dropped_waiter_lets_others_through() {
        let (lock, count) = (RangeLock::default(), Arc::new(Count::default()));
        let held = ready(&mut lock.acquire(0, 10, Hold::Shared), &count);
        let mut alone = lock.acquire(0, 10, Hold::Exclusive);
        assert!(poll(&mut alone, &count).is_pending());
        let mut shared = lock.acquire(0, 10, Hold::Shared);
        assert!(poll(&mut shared, &count).is_pending());
        drop(alone);
        let other = ready(&mut shared, &count);
        // Granted but never polled again: the grant goes on to the next.
        let mut granted = lock.acquire(0, 10, Hold::Exclusive);
        assert!(poll(&mut granted, &count).is_pending());
        drop((held, other));
        drop(granted);
        assert_eq!(lock.counts(), (0, 0));
    }
}
