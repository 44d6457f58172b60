//! The shard's reactor: raw operations with tokens (sockets) and local futures (disks).

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::clock;
use crate::driver::epoll::Epoll;
use crate::driver::simulated::Simulated;
use crate::driver::uring::Uring;
use crate::driver::{Driver, DriverKind};
use crate::error::RingError;
use crate::io::{Core, Io};
use crate::limits::{
    ENTRIES_DEFAULT, ENTRIES_MAX, ENTRIES_MIN, TASK_ROUNDS, WORKERS_DEFAULT, WORKERS_MAX,
};
use crate::op::{Completion, Op};
use crate::probe::{VARIABLE, asked_for, probe_once};
use crate::signal::{Signal, Waker};
use crate::simulation::Simulation;
use crate::task::{RunQueue, TaskWake};

/// How a reactor is to be made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which driver; `None` = io_uring where probing finds that it works, else epoll. The variable
    /// `SANCTUM_RING` with the words `uring` or `epoll` goes before, except before `Simulated`.
    pub driver: Option<DriverKind>,
    /// Most operations in flight, timers included; one started beyond ends at once with a
    /// `WouldBlock` error. From [`ENTRIES_MIN`] to [`ENTRIES_MAX`].
    pub entries: u32,
    /// Most worker threads: of the epoll driver for all file operations, of io_uring for what it
    /// cannot do. They start when needed. From 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// How long a turn polls before it sleeps. Trades processor time for the delay of waking up;
    /// zero sleeps at once.
    pub spin: Duration,
    /// Seed and faults of the simulated driver; the default is seed 0 without faults.
    pub simulation: Option<Simulation>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            driver: None,
            entries: ENTRIES_DEFAULT,
            workers: WORKERS_DEFAULT,
            spin: Duration::ZERO,
            simulation: None,
        }
    }
}

/// What a turn brought.
#[derive(Debug)]
pub enum Event<T> {
    /// A raw operation has ended.
    Io(Completion),
    /// A future spawned with this key has ended.
    Task {
        /// As given to [`Reactor::spawn`].
        key: u64,
        /// What it ended with.
        output: T,
    },
    /// A [`Waker`] was used since the last `Woken`.
    Woken,
}

/// One per thread; not `Send`. `T` is what its futures end with.
///
/// Dropping it drops its futures, cancels what is in flight and waits for that, at most
/// [`crate::limits::SHUTDOWN_BOUND`]; what the kernel then still holds is leaked, never freed.
pub struct Reactor<T> {
    core: Rc<Core>,
    signal: Arc<Signal>,
    tasks: Tasks<T>,
    kind: DriverKind,
    spin: Duration,
}

impl<T: 'static> Reactor<T> {
    /// Makes a reactor that belongs to the calling thread.
    ///
    /// # Errors
    /// An option outside its limits, an unknown word in `SANCTUM_RING`, io_uring asked for where
    /// it does not work, or no descriptors left.
    pub fn new(options: &Options) -> Result<Self, RingError> {
        within(
            "entries",
            options.entries.into(),
            ENTRIES_MIN.into(),
            ENTRIES_MAX.into(),
        )?;
        within("workers", options.workers as u64, 1, WORKERS_MAX as u64)?;
        let driver = make_driver(options)?;
        let (kind, signal) = (driver.kind(), Arc::clone(driver.signal()));
        // Polling a virtual clock would not make anything happen.
        let spin = if kind == DriverKind::Simulated {
            Duration::ZERO
        } else {
            options.spin
        };
        Ok(Self {
            core: Core::new(driver, options.entries as usize),
            tasks: Tasks::new(RunQueue::new(Arc::clone(&signal))),
            signal,
            kind,
            spin,
        })
    }

    /// Which driver it has.
    pub fn kind(&self) -> DriverKind {
        self.kind
    }

    /// The clock, cached at the start of a turn and when its waiting ends. Virtual in a simulation.
    pub fn now(&self) -> Instant {
        self.core.now()
    }

    /// A handle that wakes this reactor from any thread.
    pub fn waker(&self) -> Waker {
        Waker::new(Arc::clone(&self.signal))
    }

    /// A handle for futures.
    pub fn io(&self) -> Io {
        Io::new(Rc::clone(&self.core))
    }

    /// Starts a raw operation; how it ends comes as [`Event::Io`] with this token. Tokens below
    /// 2^63 are the caller's. One beyond the bound of [`Options::entries`] ends in the next turn
    /// with a `WouldBlock` error.
    pub fn submit(&mut self, token: u64, op: Op) {
        self.core.submit(token, op);
    }

    /// Asks for the raw operations with this token to end early; whether there are any. Best
    /// effort: one that can still be taken back ends with `ECANCELED`, any other as it would have.
    /// Looks through all that is in flight; meant for listeners and timers. (A connection is ended
    /// by [`crate::op::shutdown`].)
    pub fn cancel(&mut self, token: u64) -> bool {
        self.core.cancel(token)
    }

    /// Runs a local future, polling it at once; its end comes as [`Event::Task`] with this key. One
    /// that is ready already yields its event in the next turn, which then does not wait.
    ///
    /// The future may await operations of this reactor's [`Io`] and whatever else uses its waker
    /// properly, from this thread or another. How many run is for the caller to bound.
    pub fn spawn(&mut self, key: u64, future: Pin<Box<dyn Future<Output = T>>>) {
        self.tasks.spawn(key, future);
    }

    /// Futures that have not ended.
    pub fn tasks(&self) -> usize {
        self.tasks.running
    }

    /// Operations that have not ended, or whose future has not seen it yet.
    pub fn in_flight(&self) -> usize {
        self.core.in_flight()
    }

    /// Appends what has ended to `events`; waits at most `timeout` (`None` = until something
    /// happens) when there is nothing yet. May return early, and without an event.
    ///
    /// # Errors
    /// The driver cannot go on; the reactor is to be dropped.
    pub fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event<T>>,
    ) -> Result<(), RingError> {
        let before = events.len();
        self.core.refresh_now();
        self.tasks.run(events);
        let idle = events.len() == before && !self.core.has_ended() && self.tasks.are_idle();
        self.wait(if idle { timeout } else { Some(Duration::ZERO) })?;
        self.core.refresh_now();
        if self.signal.take_woken() {
            events.push(Event::Woken);
        }
        self.core
            .dispatch(|completion| events.push(Event::Io(completion)));
        self.tasks.run(events);
        Ok(())
    }

    /// The trace of a simulation since it was last taken; empty with other drivers.
    pub fn take_trace(&mut self) -> Vec<String> {
        self.core.take_trace()
    }

    /// Waits for the driver, polling for a while before sleeping.
    fn wait(&self, timeout: Option<Duration>) -> Result<(), RingError> {
        let timeout = earlier(timeout, self.core.until_timer());
        if self.spin.is_zero() || timeout == Some(Duration::ZERO) {
            return self.core.wait(timeout);
        }
        let start = clock::now();
        let spin = earlier(timeout, Some(self.spin)).unwrap_or(self.spin);
        loop {
            self.core.wait(Some(Duration::ZERO))?;
            if self.core.has_ended() || self.signal.is_raised() || !self.tasks.are_idle() {
                return Ok(());
            }
            if start.elapsed() >= spin {
                break;
            }
            std::hint::spin_loop();
        }
        let rest = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
        if rest == Some(Duration::ZERO) {
            return Ok(());
        }
        self.core.wait(rest)
    }
}

impl<T> Drop for Reactor<T> {
    fn drop(&mut self) {
        // Futures first: what they were waiting for then ends unseen.
        self.tasks.places.clear();
        self.core.close();
    }
}

impl<T> fmt::Debug for Reactor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("kind", &self.kind)
            .field("in_flight", &self.core.in_flight())
            .field("tasks", &self.tasks.running)
            .finish_non_exhaustive()
    }
}

/// The futures of a reactor.
struct Tasks<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    running: usize,
    queue: Arc<RunQueue>,
    /// Scratch for `run`.
    batch: Vec<u32>,
    /// Ended in `spawn`.
    early: Vec<Event<T>>,
}

/// A place for a future, kept with its waker when that has ended.
struct Place<T> {
    wake: Arc<TaskWake>,
    waker: std::task::Waker,
    key: u64,
    future: Option<Pin<Box<dyn Future<Output = T>>>>,
}

impl<T> Tasks<T> {
    fn new(queue: Arc<RunQueue>) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            running: 0,
            queue,
            batch: Vec::new(),
            early: Vec::new(),
        }
    }

    fn are_idle(&self) -> bool {
        self.early.is_empty() && self.queue.is_empty()
    }

    fn spawn(&mut self, key: u64, future: Pin<Box<dyn Future<Output = T>>>) {
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        let place = &mut self.places[index as usize];
        (place.key, place.future) = (key, Some(future));
        self.running += 1;
        if let Some(event) = self.poll(index) {
            self.early.push(event);
        }
    }

    fn add_place(&mut self) -> u32 {
        let Ok(index) = u32::try_from(self.places.len()) else {
            panic!("2^32 futures in one reactor");
        };
        let wake = TaskWake::new(index, Arc::clone(&self.queue));
        let waker = std::task::Waker::from(Arc::clone(&wake));
        self.places.push(Place {
            wake,
            waker,
            key: 0,
            future: None,
        });
        index
    }

    /// Polls what was woken, and what that wakes, in a bounded number of rounds.
    fn run(&mut self, events: &mut Vec<Event<T>>) {
        events.append(&mut self.early);
        for _ in 0..TASK_ROUNDS {
            let mut batch = std::mem::take(&mut self.batch);
            self.queue.take(&mut batch);
            let is_last = batch.is_empty();
            for index in batch.drain(..) {
                events.extend(self.poll(index));
            }
            self.batch = batch;
            if is_last {
                return;
            }
        }
    }

    fn poll(&mut self, index: u32) -> Option<Event<T>> {
        let place = self.places.get_mut(index as usize)?;
        place.wake.about_to_run();
        let future = place.future.as_mut()?;
        let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&place.waker))
        else {
            return None;
        };
        place.future = None;
        self.running -= 1;
        self.free.push(index);
        Some(Event::Task {
            key: place.key,
            output,
        })
    }
}

/// The driver that options, environment and probing lead to.
fn make_driver(options: &Options) -> Result<Box<dyn Driver>, RingError> {
    let word = std::env::var_os(VARIABLE).map(|word| word.to_string_lossy().into_owned());
    let kind = match asked_for(word.as_deref(), options.driver)? {
        Some(DriverKind::Uring) => match &probe_once().uring {
            Ok(()) => DriverKind::Uring,
            Err(cause) => {
                return Err(RingError::UringUnavailable {
                    cause: cause.clone(),
                });
            }
        },
        Some(kind) => kind,
        None if probe_once().uring.is_ok() => DriverKind::Uring,
        None => DriverKind::Epoll,
    };
    Ok(match kind {
        DriverKind::Uring => Box::new(Uring::new(options.entries, options.workers)?),
        DriverKind::Epoll => Box::new(Epoll::new(options.workers)?),
        DriverKind::Simulated => Box::new(Simulated::new(
            options.simulation.clone().unwrap_or_default(),
        )?),
    })
}

fn within(option: &'static str, value: u64, min: u64, max: u64) -> Result<(), RingError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(RingError::OutOfLimits {
            option,
            value,
            min,
            max,
        })
    }
}

/// The shorter of two waits, where `None` is without bound.
fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
