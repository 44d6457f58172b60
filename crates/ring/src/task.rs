//! The run queue of a reactor's futures.
//!
//! Each place in the task table has one waker for its whole life, so spawning allocates nothing
//! but the future. A waker that outlives its future may wake the next one in that place; futures
//! bear a spurious poll. Wakers are real ones: a future woken from another thread runs too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::thread::ThreadId;

use parking_lot::Mutex;

use crate::signal::Signal;

/// Which futures are to be polled. Each is in it at most once, so it is bounded by their number.
#[derive(Debug)]
pub(crate) struct RunQueue {
    woken: Mutex<Vec<u32>>,
    owner: ThreadId,
    signal: Arc<Signal>,
}

impl RunQueue {
    /// Of the reactor that lives on the calling thread.
    pub(crate) fn new(signal: Arc<Signal>) -> Arc<Self> {
        Arc::new(Self {
            woken: Mutex::default(),
            owner: std::thread::current().id(),
            signal,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.woken.lock().is_empty()
    }

    /// Takes all that is queued into the (empty) `batch`.
    pub(crate) fn take(&self, batch: &mut Vec<u32>) {
        debug_assert!(batch.is_empty());
        std::mem::swap(&mut *self.woken.lock(), batch);
    }

    fn push(&self, index: u32) {
        self.woken.lock().push(index);
        // The reactor looks at the queue before it sleeps; only a wake from elsewhere can come
        // while it does.
        if std::thread::current().id() != self.owner {
            self.signal.write();
        }
    }
}

/// The waker of one place in the task table.
#[derive(Debug)]
pub(crate) struct TaskWake {
    index: u32,
    queued: AtomicBool,
    queue: Arc<RunQueue>,
}

impl TaskWake {
    pub(crate) fn new(index: u32, queue: Arc<RunQueue>) -> Arc<Self> {
        Arc::new(Self {
            index,
            queued: AtomicBool::new(false),
            queue,
        })
    }

    /// Called before the future is polled, so that a wake during the poll queues it again.
    pub(crate) fn about_to_run(&self) {
        self.queued.swap(false, Ordering::AcqRel);
    }
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.queue.push(self.index);
        }
    }
}
