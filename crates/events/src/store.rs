//! The store: one lock around the ring, the rate limit and the followers, never held over the
//! disk's work. What writes is in [`crate::writer`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::Serialize;

use crate::clock::{Clock, SystemClock};
use crate::event::{Draft, Event};
use crate::journal::{Files, Medium, OpenError, Restored};
use crate::limits;
use crate::rate::{RateLimit, Verdict};
use crate::ring::{Filter, Ring};
use crate::subscribe::{Followers, SubscribeError, Subscription};
use crate::writer::{Progress, Writer};

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
    /// None: memory only.
    _writer: Option<Arc<Writer>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// The writer has something to do.
    pub(crate) work: Condvar,
    /// The writer is further than before.
    pub(crate) moved: Condvar,
    pub(crate) clock: Arc<dyn Clock>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ring: Ring,
    pub(crate) followers: Followers,
    pub(crate) closed: bool,
    pub(crate) progress: Progress,
    limit: RateLimit,
    skipped_lines: u64,
    suppressed: u64,
}

impl Store {
    /// Opens the store in a directory (made unless it is there), with the numbers going on from
    /// what it holds. A line that cannot be read is skipped; a full disk is no obstacle.
    ///
    /// # Errors
    /// The directory cannot be made, a file in it cannot be read, or no thread can be had.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let (files, restored) = Files::open(directory, options.rotate_bytes, options.capacity)?;
        Self::with_medium(options, Box::new(files), restored)
    }

    /// A store without files.
    pub fn in_memory(options: Options) -> Self {
        let shared = Shared::new(options, Restored::default());
        Self {
            shared: Arc::new(shared),
            _writer: None,
        }
    }

    pub(crate) fn with_medium(
        options: Options,
        medium: Box<dyn Medium>,
        restored: Restored,
    ) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::new(options, restored));
        let writer = Writer::start(&shared, medium).map_err(OpenError::Writer)?;
        Ok(Self {
            shared,
            _writer: Some(Arc::new(writer)),
        })
    }

    /// Records an event, unless it is a provoked one above the rate. Never fails and never waits:
    /// what the disk does not take, or not yet, is kept in memory and told by [`Store::health`].
    pub fn record(&self, draft: Draft) -> Recorded {
        let now = self.shared.clock.elapsed();
        let mut state = self.shared.state.lock();
        if draft.provoked {
            match state.limit.ask(&draft, now) {
                Verdict::Pass(summaries) => {
                    for summary in summaries {
                        self.shared.push(&mut state, summary);
                    }
                }
                Verdict::Suppressed => {
                    state.suppressed += 1;
                    return Recorded::Suppressed;
                }
            }
        }
        let id = self.shared.push(&mut state, draft);
        self.shared.save_and_wake(state);
        Recorded::As(id)
    }

    /// Records summaries of suppressed events that are due, and tries the disk again after a fault.
    /// To be called about once a second; cheap when there is nothing to do.
    pub fn tick(&self) {
        let now = self.shared.clock.elapsed();
        let mut state = self.shared.state.lock();
        for summary in state.limit.due(now) {
            self.shared.push(&mut state, summary);
        }
        self.shared.save_and_wake(state);
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
        self.shared.wake(state);
    }

    /// How the store itself is doing.
    pub fn health(&self) -> Health {
        let (now, time) = (self.shared.clock.elapsed(), self.shared.clock.now());
        let state = self.shared.state.lock();
        let progress = &state.progress;
        let unsaved = match progress.files {
            true => state.ring.after(progress.saved_id).count() as u64,
            false => 0,
        };
        let (fault, fault_since) = progress.trouble(now, time).unzip();
        Health {
            saved: unsaved == 0 && fault.is_none(),
            fault,
            fault_since,
            unsaved,
            lost: progress.lost,
            skipped_lines: state.skipped_lines,
            suppressed: state.suppressed,
            last_id: state.ring.last_id(),
        }
    }

    /// Waits until what was recorded is written and the files are stable, at most as long as
    /// `bound`.
    ///
    /// # Errors
    /// What the system said, or that the disk did not answer; [`Store::health`] says it, too.
    pub fn sync(&self, bound: Duration) -> std::io::Result<()> {
        self.shared.sync(bound)
    }

    #[cfg(test)]
    pub(crate) fn settle(&self) {
        self.shared.settle();
    }
}

impl Shared {
    fn new(options: Options, restored: Restored) -> Self {
        let mut ring = Ring::new(options.capacity);
        for event in restored.events {
            ring.push(event);
        }
        let progress = Progress::after(ring.last_id());
        let state = State {
            ring,
            followers: Followers::default(),
            closed: false,
            progress,
            limit: RateLimit::default(),
            skipped_lines: restored.skipped,
            suppressed: 0,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            moved: Condvar::new(),
            clock: options.clock,
        }
    }

    pub(crate) fn push(&self, state: &mut State, draft: Draft) -> u64 {
        let id = state.ring.last_id() + 1;
        state.ring.push(draft.into_event(id, self.clock.now()));
        id
    }

    fn save_and_wake(&self, state: MutexGuard<'_, State>) {
        self.work.notify_one();
        self.wake(state);
    }

    /// Wakes followers after the lock is given back: a waker may run what it wakes.
    pub(crate) fn wake(&self, mut state: MutexGuard<'_, State>) {
        let wakers = state.followers.take_wakers();
        drop(state);
        for waker in wakers {
            waker.wake();
        }
    }
}
