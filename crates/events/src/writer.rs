//! The thread that alone waits for the disk.
//!
//! What waits to be written are the events of the ring after the last one that is saved: no second
//! queue, and the ring's bound is its bound. Where the disk takes nothing for so long that unsaved
//! events leave the ring, they are counted, and told by an event once lines are taken again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::MutexGuard;

use crate::event::Draft;
use crate::journal::Medium;
use crate::limits;
use crate::store::{Shared, State};

/// How far the writing is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// There are files; else memory only.
    pub(crate) files: bool,
    /// Number of the newest event on disk (or known to be lost to it).
    pub(crate) saved_id: u64,
    pub(crate) fault: Option<Fault>,
    /// Events that left the ring before they could be written.
    pub(crate) lost: u64,
    /// Since when the disk has a write or sync of ours.
    busy_since: Option<Duration>,
    /// Syncs asked for, and those of them that are answered.
    syncs_asked: u64,
    syncs_done: u64,
    /// What the last sync came to.
    synced: Option<(io::ErrorKind, String)>,
    /// No store is left; the thread ends once all is written or cannot be.
    ending: bool,
    ended: bool,
}

/// The disk did not take what it was given.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) text: String,
    pub(crate) since: Timestamp,
    retry_at: Duration,
}

/// The writer's thread; ends when the last store is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    pub(crate) fn start(shared: &Arc<Shared>, mut medium: Box<dyn Medium>) -> io::Result<Self> {
        shared.state.lock().progress.files = true;
        let writing = Arc::clone(shared);
        std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || write(&writing, &mut *medium))?;
        let shared = Arc::clone(shared);
        Ok(Self { shared })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.progress.ending = true;
        self.shared.work.notify_one();
        // A disk that does not answer keeps the thread, and nobody else.
        self.shared.moved.wait_while_for(
            &mut state,
            |state| !state.progress.ended,
            limits::CLOSE_TIME_MAX,
        );
    }
}

impl Progress {
    /// Nothing is to be written after this event.
    pub(crate) fn after(saved_id: u64) -> Self {
        Self {
            saved_id,
            ..Self::default()
        }
    }

    /// Something is to be written or synced now.
    fn is_due(&self, last_id: u64, now: Duration) -> bool {
        let rests = self
            .fault
            .as_ref()
            .is_some_and(|fault| now < fault.retry_at);
        self.syncs_asked > self.syncs_done || (self.files && last_id > self.saved_id && !rests)
    }

    /// What is wrong with the disk, and since when.
    pub(crate) fn trouble(&self, now: Duration, time: Timestamp) -> Option<(String, Timestamp)> {
        let waiting = self
            .busy_since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if waiting >= limits::ANSWER_TIME_MAX {
            let text = format!(
                "events are kept in memory only: the disk has not answered for {} s",
                waiting.as_secs()
            );
            return Some((text, time.checked_sub(waiting).unwrap_or(time)));
        }
        let fault = self.fault.as_ref()?;
        Some((fault.text.clone(), fault.since))
    }
}

impl Shared {
    /// Makes the files hold all events, stable, or says at the bound why they do not.
    pub(crate) fn sync(&self, bound: Duration) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.progress.files {
            return Ok(());
        }
        state.progress.syncs_asked += 1;
        let mine = state.progress.syncs_asked;
        self.work.notify_one();
        let waited =
            self.moved
                .wait_while_for(&mut state, |state| state.progress.syncs_done < mine, bound);
        if waited.timed_out() {
            let reason = format!("the disk did not answer within {} s", bound.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        match &state.progress.synced {
            None => Ok(()),
            Some((kind, reason)) => Err(io::Error::new(*kind, reason.clone())),
        }
    }

    /// Waits until the writer has done what it can do now.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        let mut state = self.state.lock();
        let waited = self.moved.wait_while_for(
            &mut state,
            |state| {
                let last_id = state.ring.last_id();
                let progress = &state.progress;
                progress.busy_since.is_some() || progress.is_due(last_id, self.clock.elapsed())
            },
            Duration::from_secs(60),
        );
        assert!(!waited.timed_out(), "the writer does not come to rest");
    }
}

fn write(shared: &Shared, medium: &mut dyn Medium) {
    let mut state = shared.state.lock();
    loop {
        let asked = state.progress.syncs_asked;
        let wanted = asked > state.progress.syncs_done;
        let unsaved = state.ring.last_id() > state.progress.saved_id;
        let due = state
            .progress
            .is_due(state.ring.last_id(), shared.clock.elapsed());
        if unsaved && (due || state.progress.ending) {
            let saved = save(shared, &mut state, medium);
            if saved.is_ok() {
                continue;
            }
            if wanted {
                answer(shared, &mut state, asked, saved);
            }
        } else if wanted {
            let synced = on_disk(shared, &mut state, || medium.sync());
            answer(shared, &mut state, asked, synced);
        }
        shared.moved.notify_all();
        if state.progress.ending {
            state.progress.ended = true;
            return;
        }
        if !state
            .progress
            .is_due(state.ring.last_id(), shared.clock.elapsed())
        {
            shared.work.wait(&mut state);
        }
    }
}

fn answer(shared: &Shared, state: &mut State, asked: u64, synced: io::Result<()>) {
    state.progress.syncs_done = asked;
    state.progress.synced = synced.err().map(|error| (error.kind(), error.to_string()));
    shared.moved.notify_all();
}

/// Does what waits for the disk while nobody waits for the lock.
fn on_disk<T>(shared: &Shared, state: &mut MutexGuard<'_, State>, work: impl FnOnce() -> T) -> T {
    state.progress.busy_since = Some(shared.clock.elapsed());
    let done = MutexGuard::unlocked(state, work);
    state.progress.busy_since = None;
    done
}

/// Writes the next unsaved events, as many as go into [`limits::BATCH_BYTES`].
fn save(
    shared: &Shared,
    state: &mut MutexGuard<'_, State>,
    medium: &mut dyn Medium,
) -> io::Result<()> {
    let oldest = state.ring.oldest_id().unwrap_or(0);
    let gone = oldest.saturating_sub(state.progress.saved_id + 1);
    let mut last = state.progress.saved_id + gone;
    let mut lines = Vec::new();
    for event in state.ring.after(last) {
        // Numbers and text always have a line; were there none, the next ones should not wait for
        // it.
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        if !lines.is_empty() && lines.len() + line.len() > limits::BATCH_BYTES {
            break;
        }
        lines.append(&mut line);
        last = event.id;
    }
    match on_disk(shared, state, || medium.append(&lines)) {
        Ok(()) => {
            state.progress.saved_id = last;
            state.progress.fault = None;
            if gone > 0 {
                state.progress.lost += gone;
                shared.push(state, lost(gone));
                MutexGuard::unlocked(state, || shared.wake(shared.state.lock()));
            }
            Ok(())
        }
        Err(error) => {
            let before = state.progress.fault.take();
            state.progress.fault = Some(Fault {
                text: format!("events are kept in memory only: {error}"),
                since: before.map_or_else(|| shared.clock.now(), |fault| fault.since),
                retry_at: shared.clock.elapsed() + limits::RETRY_AFTER,
            });
            Err(error)
        }
    }
}

fn lost(count: u64) -> Draft {
    let message = format!("{count} events are not in the files: the disk took them too late");
    Draft::warning("events-lost", "events", &message)
        .next_step("look at the disk of the data directory")
}
