//! A fair counting semaphore for futures: how a disk bounds its queue depth.
//!
//! It uses wakers only, so it serves futures of one shard and of several alike; a permit that is
//! given up on one shard may wake a future on another.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Permits that futures wait for, first come first served. A clone is the same semaphore.
///
/// Waiters are not bounded here: each is a future that somebody bounds.
#[derive(Clone)]
pub struct Semaphore(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// In order of arrival, by ticket. Empty whenever `free` is not zero.
    waiting: VecDeque<(u64, Waker)>,
    /// Tickets that were given a permit and have not taken it yet.
    granted: Vec<u64>,
    tickets: u64,
}

impl Semaphore {
    /// With `permits` to give.
    pub fn new(permits: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: permits,
            waiting: VecDeque::new(),
            granted: Vec::new(),
            tickets: 0,
        })))
    }

    /// Waits for a permit. Dropping the future gives up its place.
    pub fn acquire(&self) -> Acquire {
        Acquire {
            semaphore: self.clone(),
            ticket: None,
        }
    }

    /// A permit if one is free now and nobody waits for it.
    pub fn try_acquire(&self) -> Option<Permit> {
        let mut state = self.0.lock();
        state.free = state.free.checked_sub(1)?;
        drop(state);
        Some(Permit(Some(self.clone())))
    }

    /// Permits to give now.
    pub fn free(&self) -> usize {
        self.0.lock().free
    }

    /// Futures that wait now.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    /// Adds permits, for good.
    pub fn add(&self, permits: usize) {
        for _ in 0..permits {
            self.give();
        }
    }

    /// One permit to the first who waits, or to the free ones.
    fn give(&self) {
        let waker = {
            let mut state = self.0.lock();
            match state.waiting.pop_front() {
                Some((ticket, waker)) => {
                    state.granted.push(ticket);
                    Some(waker)
                }
                None => {
                    state.free += 1;
                    None
                }
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("free", &self.free())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// The future of a permit; made by [`Semaphore::acquire`].
#[derive(Debug)]
#[must_use = "a place in the queue is taken when the future is first polled"]
pub struct Acquire {
    semaphore: Semaphore,
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let this = &mut *self;
        let mut state = this.semaphore.0.lock();
        match this.ticket {
            None => {
                if let Some(free) = state.free.checked_sub(1) {
                    state.free = free;
                } else {
                    let ticket = state.tickets;
                    state.tickets += 1;
                    state.waiting.push_back((ticket, context.waker().clone()));
                    this.ticket = Some(ticket);
                    return Poll::Pending;
                }
            }
            Some(ticket) => {
                if let Some(place) = state.granted.iter().position(|&other| other == ticket) {
                    state.granted.swap_remove(place);
                    this.ticket = None;
                } else {
                    let place = state.waiting.iter_mut().find(|(other, _)| *other == ticket);
                    if let Some((_, waker)) = place {
                        waker.clone_from(context.waker());
                    }
                    return Poll::Pending;
                }
            }
        }
        drop(state);
        Poll::Ready(Permit(Some(this.semaphore.clone())))
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.semaphore.0.lock();
        if let Some(place) = state.granted.iter().position(|&other| other == ticket) {
            state.granted.swap_remove(place);
            drop(state);
            self.semaphore.give();
        } else {
            state.waiting.retain(|(other, _)| *other != ticket);
        }
    }
}

/// A permit; given back on drop.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub struct Permit(Option<Semaphore>);

impl Permit {
    /// Takes the permit out of circulation instead of giving it back.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(semaphore) = self.0.take() {
            semaphore.give();
        }
    }
}
