//! The store: one lock around the ring, the rate limit, the files and the followers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::clock::{Clock, SystemClock};
use crate::event::{Draft, Event};
use crate::journal::{Files, Medium, OpenError};
use crate::limits;
use crate::rate::{RateLimit, Verdict};
use crate::ring::{Filter, Ring};
use crate::subscribe::{Followers, SubscribeError, Subscription};

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events kept in memory, at most [`limits::MEMORY_EVENTS`] (the default).
    pub capacity: usize,
    /// Size in bytes at which the file is rotated, at most [`limits::ROTATE_BYTES`] (the default).
    pub rotate_bytes: u64,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capacity: limits::MEMORY_EVENTS,
            rotate_bytes: limits::ROTATE_BYTES,
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// What became of a draft.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recorded {
    /// It is an event under this number.
    As(u64),
    /// The rate limit held it back; it is counted and summed up later.
    Suppressed,
}

/// How the store itself is doing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Health {
    /// All events are written to the files (or the store is one without files).
    pub saved: bool,
    /// Why the last write failed, until one succeeds.
    pub fault: Option<String>,
    /// Since when writes have failed.
    pub fault_since: Option<Timestamp>,
    /// Events in memory that are not written yet.
    pub unsaved: u64,
    /// Events that left memory before they could be written, since the start.
    pub lost: u64,
    /// Lines of the files that could not be read at the start.
    pub skipped_lines: u64,
    /// Events held back by the rate limit, since the start.
    pub suppressed: u64,
    /// Number of the newest event; 0 when there is none.
    pub last_id: u64,
}

/// Numbered events, bounded in memory and on disk. A cheap handle: clones share the store.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ring: Ring,
    pub(crate) followers: Followers,
    pub(crate) closed: bool,
    limit: RateLimit,
    /// None: memory only.
    medium: Option<Box<dyn Medium>>,
    /// Number of the newest event on disk (or known to be lost to it).
    saved_id: u64,
    fault: Option<Fault>,
    lost: u64,
    skipped_lines: u64,
    suppressed: u64,
}

#[derive(Debug)]
struct Fault {
    text: String,
    since: Timestamp,
    retry_at: Duration,
}

impl Store {
    /// Opens the store in a directory (made unless it is there), with the numbers going on from
    /// what it holds. A line that cannot be read is skipped; a full disk is no obstacle.
    ///
    /// # Errors
    /// The directory cannot be made, or a file in it cannot be read.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let (files, restored) = Files::open(directory, options.rotate_bytes, options.capacity)?;
        let store = Self::with_medium(options, Some(Box::new(files)));
        {
            let mut state = store.shared.state.lock();
            state.skipped_lines = restored.skipped;
            for event in restored.events {
                state.ring.push(event);
            }
            state.saved_id = state.ring.last_id();
        }
        Ok(store)
    }

    /// A store without files.
    pub fn in_memory(options: Options) -> Self {
        Self::with_medium(options, None)
    }

    pub(crate) fn with_medium(options: Options, medium: Option<Box<dyn Medium>>) -> Self {
        let state = State {
            ring: Ring::new(options.capacity),
            followers: Followers::default(),
            closed: false,
            limit: RateLimit::default(),
            medium,
            saved_id: 0,
            fault: None,
            lost: 0,
            skipped_lines: 0,
            suppressed: 0,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                clock: options.clock,
            }),
        }
    }

    /// Records an event, unless it is a provoked one above the rate. Never fails: what the disk
    /// does not take is kept in memory and told by [`Store::health`].
    pub fn record(&self, draft: Draft) -> Recorded {
        let now = self.shared.clock.elapsed();
        let mut state = self.shared.state.lock();
        if draft.provoked {
            match state.limit.ask(&draft, now) {
                Verdict::Pass(summaries) => {
                    for summary in summaries {
                        self.push(&mut state, summary);
                    }
                }
                Verdict::Suppressed => {
                    state.suppressed += 1;
                    return Recorded::Suppressed;
                }
            }
        }
        let id = self.push(&mut state, draft);
        self.save_and_wake(state, now);
        Recorded::As(id)
    }

    /// Records summaries of suppressed events that are due, and tries the disk again after a fault.
    /// To be called about once a second; cheap when there is nothing to do.
    pub fn tick(&self) {
        let now = self.shared.clock.elapsed();
        let mut state = self.shared.state.lock();
        for summary in state.limit.due(now) {
            self.push(&mut state, summary);
        }
        self.save_and_wake(state, now);
    }

    /// Events that pass a filter, oldest first: the first ones after `since_id` where given, else
    /// the newest.
    pub fn query(&self, filter: &Filter) -> Vec<Event> {
        self.shared.state.lock().ring.query(filter)
    }

    /// Follows events recorded from now on, or (for a reader that comes back) after a number.
    ///
    /// # Errors
    /// [`limits::SUBSCRIBERS`] follow already, or the store is closed.
    pub fn subscribe(&self, after_id: Option<u64>) -> Result<Subscription, SubscribeError> {
        Subscription::new(&self.shared, after_id)
    }

    /// Ends all subscriptions; recording and queries go on.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        self.wake(state);
    }

    /// How the store itself is doing.
    pub fn health(&self) -> Health {
        let state = self.shared.state.lock();
        let unsaved = match state.medium {
            Some(_) => state.ring.after(state.saved_id).count() as u64,
            None => 0,
        };
        Health {
            saved: unsaved == 0 && state.fault.is_none(),
            fault: state.fault.as_ref().map(|fault| fault.text.clone()),
            fault_since: state.fault.as_ref().map(|fault| fault.since),
            unsaved,
            lost: state.lost,
            skipped_lines: state.skipped_lines,
            suppressed: state.suppressed,
            last_id: state.ring.last_id(),
        }
    }

    /// Writes what is not written yet, at once, and makes the file stable. Blocks on the disk.
    ///
    /// # Errors
    /// What the system said; [`Store::health`] says it, too.
    pub fn sync(&self) -> std::io::Result<()> {
        let mut state = self.shared.state.lock();
        state.fault = None;
        while state.unsaved() {
            state.save(self.shared.clock.as_ref())?;
        }
        match &mut state.medium {
            Some(medium) => medium.sync(),
            None => Ok(()),
        }
    }

    fn push(&self, state: &mut State, draft: Draft) -> u64 {
        let id = state.ring.last_id() + 1;
        state
            .ring
            .push(draft.into_event(id, self.shared.clock.now()));
        id
    }

    fn save_and_wake(&self, mut state: MutexGuard<'_, State>, now: Duration) {
        let blocked = state
            .fault
            .as_ref()
            .is_some_and(|fault| now < fault.retry_at);
        if !blocked && state.unsaved() {
            // A failure is kept in the state; recording goes on in memory.
            let _ = state.save(self.shared.clock.as_ref());
        }
        self.wake(state);
    }

    /// Wakes followers after the lock is given back: a waker may run what it wakes.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let wakers = state.followers.take_wakers();
        drop(state);
        for waker in wakers {
            waker.wake();
        }
    }
}

impl State {
    fn unsaved(&self) -> bool {
        self.medium.is_some() && self.ring.last_id() > self.saved_id
    }

    /// Writes the next unsaved events, at most [`limits::CATCH_UP_EVENTS`] of them.
    fn save(&mut self, clock: &dyn Clock) -> std::io::Result<()> {
        let Some(medium) = &mut self.medium else {
            return Ok(());
        };
        let oldest = self.ring.oldest_id().unwrap_or(0);
        let gone = oldest.saturating_sub(self.saved_id + 1);
        let mut lines = Vec::new();
        let mut last = self.saved_id + gone;
        for event in self.ring.after(last).take(limits::CATCH_UP_EVENTS) {
            serde_json::to_writer(&mut lines, event)?;
            lines.push(b'\n');
            last = event.id;
        }
        match medium.append(&lines) {
            Ok(()) => {
                self.lost += gone;
                self.saved_id = last;
                self.fault = None;
                Ok(())
            }
            Err(error) => {
                let since = match &self.fault {
                    Some(fault) => fault.since,
                    None => clock.now(),
                };
                self.fault = Some(Fault {
                    text: format!("events are kept in memory only: {error}"),
                    since,
                    retry_at: clock.elapsed() + limits::RETRY_AFTER,
                });
                Err(error)
            }
        }
    }
}
