//! Worker threads for file operations that would block a shard.
//!
//! Operations started in one turn are handed over together, and their outcomes come back through
//! one list and the reactor's eventfd, written only when the list was empty. Threads start when
//! there is work that no idle thread takes. The queue holds at most what the reactor lets be in
//! flight, so it needs no bound of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::{Finished, blocking};
use crate::clock;
use crate::op::Op;
use crate::signal::Signal;

/// The threads of one reactor.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    staged: Vec<(u32, Op)>,
    threads: usize,
    threads_max: usize,
    /// Handed over or staged, not collected yet.
    pending: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Signalled when a thread finds nothing more to do, for `shutdown`.
    rest: Condvar,
    ended: Mutex<Vec<Finished>>,
    signal: Arc<Signal>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(u32, Op)>,
    idle: usize,
    busy: usize,
    closed: bool,
}

impl Workers {
    pub(crate) fn new(threads_max: usize, signal: Arc<Signal>) -> Self {
        let shared = Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            rest: Condvar::new(),
            ended: Mutex::default(),
            signal,
        };
        Self {
            shared: Arc::new(shared),
            staged: Vec::new(),
            threads: 0,
            threads_max,
            pending: 0,
        }
    }

    /// Takes an operation over; it runs after the next `flush`.
    pub(crate) fn start(&mut self, slot: u32, op: Op) {
        self.pending += 1;
        self.staged.push((slot, op));
    }

    /// Hands over what was started since the last time.
    pub(crate) fn flush(&mut self, ended: &mut Vec<Finished>) {
        if self.staged.is_empty() {
            return;
        }
        let (wake, missing) = {
            let mut queue = self.shared.queue.lock();
            queue.jobs.extend(self.staged.drain(..));
            let waiting = queue.jobs.len();
            (waiting.min(queue.idle), waiting.saturating_sub(queue.idle))
        };
        for _ in 0..wake {
            self.shared.work.notify_one();
        }
        for _ in 0..missing.min(self.threads_max - self.threads) {
            if !self.add_thread() {
                break;
            }
        }
        if self.threads == 0 {
            // Not one thread could be made: nothing would ever take the work.
            for (slot, op) in self.shared.queue.lock().jobs.drain(..) {
                self.pending -= 1;
                ended.push(Finished {
                    slot,
                    outcome: op.fail(Errno::AGAIN),
                });
            }
        }
    }

    /// Collects what has ended. To be called after the eventfd was emptied, or at any time.
    pub(crate) fn collect(&mut self, ended: &mut Vec<Finished>) {
        if self.pending == 0 {
            return;
        }
        let mut list = self.shared.ended.lock();
        self.pending -= list.len();
        ended.append(&mut list);
    }

    /// Takes back an operation that no thread has begun.
    pub(crate) fn cancel(&mut self, slot: u32, ended: &mut Vec<Finished>) {
        let mut queue = self.shared.queue.lock();
        let staged = self.staged.iter().position(|&(other, _)| other == slot);
        let queued = queue.jobs.iter().position(|&(other, _)| other == slot);
        let taken = match (staged, queued) {
            (Some(place), _) => Some(self.staged.swap_remove(place)),
            (None, Some(place)) => queue.jobs.remove(place),
            (None, None) => None,
        };
        if let Some((slot, op)) = taken {
            self.pending -= 1;
            ended.push(Finished {
                slot,
                outcome: op.fail(Errno::CANCELED),
            });
        }
    }

    /// Takes back what no thread has begun and waits for the rest, at most `bound`. A thread that
    /// is stuck in the kernel keeps what it works on; returns how many are.
    pub(crate) fn shutdown(&mut self, bound: Duration, ended: &mut Vec<Finished>) -> usize {
        let end = clock::now() + bound;
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        for (slot, op) in self.staged.drain(..).chain(queue.jobs.drain(..)) {
            self.pending -= 1;
            ended.push(Finished {
                slot,
                outcome: op.fail(Errno::CANCELED),
            });
        }
        self.shared.work.notify_all();
        while queue.busy > 0 {
            if self.shared.rest.wait_until(&mut queue, end).timed_out() {
                break;
            }
        }
        drop(queue);
        self.collect(ended);
        self.pending
    }

    fn add_thread(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new().name("ring-worker".to_owned());
        let started = builder.spawn(move || shared.work()).is_ok();
        self.threads += usize::from(started);
        started
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// The life of one thread.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some((slot, op)) = queue.jobs.pop_front() {
                queue.busy += 1;
                drop(queue);
                let outcome = blocking::run(op);
                self.report(Finished { slot, outcome });
                queue = self.queue.lock();
                queue.busy -= 1;
            } else if queue.closed {
                self.rest.notify_all();
                return;
            } else {
                queue.idle += 1;
                self.work.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }

    fn report(&self, finished: Finished) {
        let was_empty = {
            let mut ended = self.ended.lock();
            ended.push(finished);
            ended.len() == 1
        };
        if was_empty {
            self.signal.write();
        }
    }
}
