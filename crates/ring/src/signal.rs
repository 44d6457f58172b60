//! Waking a reactor from other threads: one eventfd, and a flag that coalesces.
//!
//! The protocol: a waker raises the flag and writes the eventfd only when the flag was down. The
//! reactor, seeing the eventfd, first empties it and then lowers the flag; whoever finds the flag
//! up before that moment is served by the [`crate::Event::Woken`] that follows, and whoever comes
//! after finds it down and writes again. So no wake is lost, and many are one.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::RingError;

/// Wakes a reactor from any thread. Coalesced: many wakes, one [`crate::Event::Woken`].
///
/// Costs an atomic exchange, and one system call for the first wake since the last `Woken`. A
/// waker may outlive its reactor and then does nothing that anyone sees.
#[derive(Clone)]
pub struct Waker(Arc<Signal>);

impl Waker {
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        Self(signal)
    }

    /// Makes a turn of the reactor, the present one or the next, bring `Event::Woken`. What was
    /// written to shared memory before is visible to whoever handles that event.
    pub fn wake(&self) {
        if self.0.flag.raise() {
            self.0.write();
        }
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

/// The eventfd of one reactor and what may be behind it.
#[derive(Debug)]
pub(crate) struct Signal {
    event: OwnedFd,
    flag: Flag<AtomicBool>,
}

impl Signal {
    /// `blocking` for a driver that reads the eventfd through io_uring.
    pub(crate) fn new(blocking: bool) -> Result<Arc<Self>, RingError> {
        let mut flags = EventfdFlags::CLOEXEC;
        if !blocking {
            flags |= EventfdFlags::NONBLOCK;
        }
        let event = eventfd(0, flags).map_err(|errno| RingError::Create {
            what: "an eventfd",
            source: errno.into(),
        })?;
        Ok(Arc::new(Self {
            event,
            flag: Flag(AtomicBool::new(false)),
        }))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Ends a wait of the reactor, whatever the reason.
    pub(crate) fn write(&self) {
        // Fails only when the counter is full, and then the reactor is about to look anyway.
        #[expect(
            clippy::host_endian_bytes,
            reason = "an eventfd counts in the host's order"
        )]
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Empties a non-blocking eventfd; whether it held anything.
    pub(crate) fn drain(&self) -> io::Result<bool> {
        let mut count = [0; 8];
        match rustix::io::read(&self.event, &mut count[..]) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether a waker was used and the reactor has not answered yet.
    pub(crate) fn is_raised(&self) -> bool {
        self.flag.0.load(Ordering::Acquire)
    }

    /// Whether a waker was used; call after the eventfd was emptied.
    pub(crate) fn take_woken(&self) -> bool {
        self.flag.lower()
    }
}

/// The exchange of an atomic flag, so that a model checker can stand in for the real one.
pub(crate) trait Exchange {
    /// Stores `value` and returns what was there, ordering all before and after (acquire-release).
    fn exchange(&self, value: bool) -> bool;
}

impl Exchange for AtomicBool {
    fn exchange(&self, value: bool) -> bool {
        self.swap(value, Ordering::AcqRel)
    }
}

/// The coalescing half of the protocol.
#[derive(Debug)]
pub(crate) struct Flag<A>(pub(crate) A);

impl<A: Exchange> Flag<A> {
    /// Whether the eventfd is to be written.
    pub(crate) fn raise(&self) -> bool {
        !self.0.exchange(true)
    }

    /// Whether anyone raised it since it was last lowered.
    pub(crate) fn lower(&self) -> bool {
        self.0.exchange(false)
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::{Exchange, Flag};

    struct Swap(AtomicBool);

    impl Exchange for Swap {
        fn exchange(&self, value: bool) -> bool {
            self.0.swap(value, Ordering::AcqRel)
        }
    }

    /// An eventfd: a counter one can wait on.
    struct Shared {
        flag: Flag<Swap>,
        written: Mutex<bool>,
        readable: Condvar,
        /// What the wakers tell the reactor, by a bit each.
        told: AtomicU64,
    }

    impl Shared {
        fn wake(&self, bit: u64) {
            self.told.fetch_or(bit, Ordering::Relaxed);
            if self.flag.raise() {
                *self.written.lock().expect("not poisoned") = true;
                self.readable.notify_one();
            }
        }

        /// Sleeps until the eventfd is readable, and empties it.
        fn wait(&self) {
            let mut written = self.written.lock().expect("not poisoned");
            while !*written {
                written = self.readable.wait(written).expect("not poisoned");
            }
            *written = false;
        }
    }

    /// In every interleaving: whoever wakes is seen after a `Woken`, and the reactor never sleeps
    /// for ever (which loom reports as a deadlock).
    #[test]
    fn every_wake_is_followed_by_an_answer() {
        loom::model(|| {
            let shared = Arc::new(Shared {
                flag: Flag(Swap(AtomicBool::new(false))),
                written: Mutex::new(false),
                readable: Condvar::new(),
                told: AtomicU64::new(0),
            });
            let wakers: Vec<_> = [1, 2]
                .map(|bit| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.wake(bit))
                })
                .into();
            let mut seen = 0;
            while seen != 3 {
                shared.wait();
                if shared.flag.lower() {
                    seen |= shared.told.load(Ordering::Relaxed);
                }
            }
            for waker in wakers {
                waker.join().expect("no panic");
            }
        });
    }
}
