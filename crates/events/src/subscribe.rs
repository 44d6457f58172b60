//! Followers of the store.
//!
//! A follower is a position in the ring, not a queue: the store keeps nothing for it but a waker.
//! One that falls behind by more than the ring holds is told how many events it missed.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::event::Event;
use crate::limits;
use crate::store::{Shared, State};

/// Why nobody more may follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SubscribeError {
    /// As many follow as may.
    #[error(
        "{} readers follow the events already; close one of them",
        limits::SUBSCRIBERS
    )]
    TooMany,
    /// The store was closed.
    #[error("the service is shutting down; no more events will come")]
    Closed,
}

/// What a follower gets next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// An event.
    Event(Box<Event>),
    /// So many events were overwritten before the follower came to them; the oldest still there
    /// comes next.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// The store was closed and everything before that was delivered.
    Closed,
}

/// Follows a store; ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    key: u64,
    /// Number of the last event delivered.
    last_id: u64,
}

/// Who follows: keys, with a waker while one waits asynchronously.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    waiting: HashMap<u64, Option<Waker>>,
    next_key: u64,
}

impl Followers {
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        self.waiting.values_mut().filter_map(Option::take).collect()
    }
}

impl Subscription {
    pub(crate) fn new(shared: &Arc<Shared>, after_id: Option<u64>) -> Result<Self, SubscribeError> {
        let mut state = shared.state.lock();
        if state.closed {
            return Err(SubscribeError::Closed);
        }
        if state.followers.waiting.len() >= limits::SUBSCRIBERS {
            return Err(SubscribeError::TooMany);
        }
        let key = state.followers.next_key;
        state.followers.next_key += 1;
        state.followers.waiting.insert(key, None);
        let newest = state.ring.last_id();
        drop(state);
        Ok(Self {
            shared: Arc::clone(shared),
            key,
            last_id: after_id.map_or(newest, |id| id.min(newest)),
        })
    }

    /// Number of the last event delivered; before the first, of the one it follows after.
    pub const fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The next delivery, if there is one now.
    pub fn try_next(&mut self) -> Option<Delivery> {
        let shared = Arc::clone(&self.shared);
        let state = shared.state.lock();
        self.take(&state)
    }

    /// Waits for the next delivery. Can be dropped and called again without losing any.
    pub async fn next(&mut self) -> Delivery {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Subscription::next`] for hand-written futures and streams.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Delivery> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        if let Some(delivery) = self.take(&state) {
            return Poll::Ready(delivery);
        }
        state
            .followers
            .waiting
            .insert(self.key, Some(context.waker().clone()));
        Poll::Pending
    }

    fn take(&mut self, state: &State) -> Option<Delivery> {
        let Some(event) = state.ring.after(self.last_id).next() else {
            return state.closed.then_some(Delivery::Closed);
        };
        let missed = event.id - self.last_id - 1;
        if missed > 0 {
            self.last_id = event.id - 1;
            return Some(Delivery::Lagged { missed });
        }
        self.last_id = event.id;
        Some(Delivery::Event(Box::new(event.clone())))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.followers.waiting.remove(&self.key);
    }
}
