//! The front of a reactor: slots, timers, the bound on what is in flight; and [`Io`], the handle
//! that futures work through.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use slab::Slab;

use crate::buffer::Buffer;
use crate::driver::{Driver, Finished};
use crate::error::RingError;
use crate::limits::SHUTDOWN_BOUND;
use crate::op::{AllocateMode, Completion, Fd, Op, Outcome};

/// What a reactor shares with the [`Io`] handles of its futures.
pub(crate) struct Core {
    state: RefCell<State>,
    now: Cell<Instant>,
}

struct State {
    driver: Box<dyn Driver>,
    flights: Slab<Flight>,
    /// Timers by when they are due; the number tells apart those due at the same time.
    timers: BTreeMap<(Instant, u64), u32>,
    timers_started: u64,
    /// Ended, not looked at yet.
    ended: Vec<Finished>,
    /// Scratch for `dispatch`.
    wakers: Vec<std::task::Waker>,
    /// Raw operations that were refused, for the next turn.
    refused: Vec<Completion>,
    entries: usize,
    closed: bool,
}

/// One operation in flight.
struct Flight {
    owner: Owner,
    timer: Option<(Instant, u64)>,
}

/// Who is told when an operation ends.
enum Owner {
    /// The reactor's user.
    Raw(u64),
    /// A future that waits.
    Awaited(std::task::Waker),
    /// A future that was woken and has not looked yet.
    Ended(Outcome),
    /// Nobody: the future was dropped.
    Abandoned,
}

impl Core {
    pub(crate) fn new(driver: Box<dyn Driver>, entries: usize) -> Rc<Self> {
        let now = Cell::new(driver.now());
        let state = State {
            driver,
            flights: Slab::new(),
            timers: BTreeMap::new(),
            timers_started: 0,
            ended: Vec::new(),
            refused: Vec::new(),
            wakers: Vec::new(),
            entries,
            closed: false,
        };
        Rc::new(Self {
            state: RefCell::new(state),
            now,
        })
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(crate) fn refresh_now(&self) {
        self.now.set(self.state.borrow().driver.now());
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        self.state.borrow_mut().driver.take_trace()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.state.borrow().flights.len()
    }

    /// Whether a turn has something to give without waiting.
    pub(crate) fn has_ended(&self) -> bool {
        let state = self.state.borrow();
        !state.ended.is_empty() || !state.refused.is_empty()
    }

    pub(crate) fn submit(&self, token: u64, op: Op) {
        let mut state = self.state.borrow_mut();
        if let Err((op, errno)) = state.start(op, Owner::Raw(token)) {
            let outcome = op.fail(errno);
            state.refused.push(Completion { token, outcome });
        }
    }

    pub(crate) fn cancel(&self, token: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let raw = |flight: &Flight| matches!(flight.owner, Owner::Raw(other) if other == token);
        let found: Vec<u32> = state
            .flights
            .iter()
            .filter(|(_, flight)| raw(flight))
            .filter_map(|(slot, _)| u32::try_from(slot).ok())
            .collect();
        for &slot in &found {
            state.cancel(slot);
        }
        !found.is_empty()
    }

    /// How long a turn may wait at most: until the first timer is due.
    pub(crate) fn until_timer(&self) -> Option<Duration> {
        let state = self.state.borrow();
        let (&(due, _), _) = state.timers.first_key_value()?;
        Some(due.saturating_duration_since(state.driver.now()))
    }

    /// Lets the driver work; see [`Driver::wait`].
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<(), RingError> {
        let state = &mut *self.state.borrow_mut();
        state.driver.wait(timeout, &mut state.ended)
    }

    /// Hands out what has ended: raw operations to `raw`, the others to their futures.
    pub(crate) fn dispatch(&self, mut raw: impl FnMut(Completion)) {
        let mut state = self.state.borrow_mut();
        state.end_timers();
        for completion in std::mem::take(&mut state.refused) {
            raw(completion);
        }
        let mut ended = std::mem::take(&mut state.ended);
        // Wakers are foreign code, which may come back to this core: they run without the borrow.
        let mut wakers = std::mem::take(&mut state.wakers);
        for finished in ended.drain(..) {
            match state.finish(finished) {
                Told::Raw(completion) => raw(completion),
                Told::Future(waker) => wakers.push(waker),
                Told::Nobody => {}
            }
        }
        state.ended = ended;
        drop(state);
        wakers.drain(..).for_each(std::task::Waker::wake);
        self.state.borrow_mut().wakers = wakers;
    }

    /// Ends everything, waiting for the kernel within a bound. Later operations are refused.
    pub(crate) fn close(&self) -> usize {
        let leaked = {
            let state = &mut *self.state.borrow_mut();
            state.closed = true;
            for (_, slot) in std::mem::take(&mut state.timers) {
                let outcome = Outcome::Done(Err(Errno::CANCELED.into()));
                state.ended.push(Finished { slot, outcome });
            }
            state.driver.shutdown(SHUTDOWN_BOUND, &mut state.ended)
        };
        self.dispatch(drop);
        leaked
    }
}

/// Who was told that an operation ended.
enum Told {
    Raw(Completion),
    Future(std::task::Waker),
    Nobody,
}

impl State {
    /// Starts an operation, or gives it back with the reason why not.
    fn start(&mut self, op: Op, owner: Owner) -> Result<u32, (Op, Errno)> {
        if self.closed {
            return Err((op, Errno::CANCELED));
        }
        if self.flights.len() >= self.entries {
            return Err((op, Errno::AGAIN));
        }
        if let Err(errno) = op.check() {
            return Err((op, errno));
        }
        let entry = self.flights.vacant_entry();
        let Ok(slot) = u32::try_from(entry.key()) else {
            return Err((op, Errno::AGAIN));
        };
        if let Op::Timer { after } = op {
            let now = self.driver.now();
            // A deadline that the clock cannot express is as far as it goes.
            let due = now
                .checked_add(after)
                .unwrap_or(now + Duration::from_secs(1 << 32));
            self.timers_started += 1;
            let key = (due, self.timers_started);
            entry.insert(Flight {
                owner,
                timer: Some(key),
            });
            self.timers.insert(key, slot);
        } else {
            entry.insert(Flight { owner, timer: None });
            self.driver.start(slot, op, &mut self.ended);
        }
        Ok(slot)
    }

    fn cancel(&mut self, slot: u32) {
        let Some(flight) = self.flights.get(slot as usize) else {
            return;
        };
        match flight.timer {
            Some(key) => {
                if self.timers.remove(&key).is_some() {
                    let outcome = Outcome::Done(Err(Errno::CANCELED.into()));
                    self.ended.push(Finished { slot, outcome });
                }
            }
            None => self.driver.cancel(slot, &mut self.ended),
        }
    }

    /// Moves the timers that are due to what has ended.
    fn end_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = self.driver.now();
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > now {
                return;
            }
            let slot = first.remove();
            self.ended.push(Finished {
                slot,
                outcome: Outcome::Done(Ok(())),
            });
        }
    }

    fn finish(&mut self, finished: Finished) -> Told {
        let Finished { slot, outcome } = finished;
        let slot = slot as usize;
        let Some(flight) = self.flights.get_mut(slot) else {
            debug_assert!(false, "slot {slot} ended twice");
            return Told::Nobody;
        };
        match std::mem::replace(&mut flight.owner, Owner::Abandoned) {
            Owner::Raw(token) => {
                self.flights.remove(slot);
                Told::Raw(Completion { token, outcome })
            }
            Owner::Awaited(waker) => {
                flight.owner = Owner::Ended(outcome);
                Told::Future(waker)
            }
            Owner::Ended(first) => {
                debug_assert!(false, "slot {slot} ended twice");
                flight.owner = Owner::Ended(first);
                Told::Nobody
            }
            Owner::Abandoned => {
                self.flights.remove(slot);
                Told::Nobody
            }
        }
    }

    /// Lets a future look at its operation.
    fn look(&mut self, slot: u32, waker: &std::task::Waker) -> Poll<Outcome> {
        let index = slot as usize;
        match self.flights.get_mut(index) {
            Some(Flight {
                owner: Owner::Awaited(known),
                ..
            }) => {
                known.clone_from(waker);
                Poll::Pending
            }
            Some(Flight {
                owner: Owner::Ended(_),
                ..
            }) => match self.flights.remove(index).owner {
                Owner::Ended(outcome) => Poll::Ready(outcome),
                _ => Poll::Pending,
            },
            // Not this future's operation: cannot be, and waiting is the harmless answer.
            _ => Poll::Pending,
        }
    }

    /// The future of an operation was dropped.
    fn abandon(&mut self, slot: u32) {
        let index = slot as usize;
        let Some(flight) = self.flights.get_mut(index) else {
            return;
        };
        if matches!(flight.owner, Owner::Ended(_)) {
            self.flights.remove(index);
            return;
        }
        flight.owner = Owner::Abandoned;
        // A timer nobody waits for is given up; other operations run to their end, with what
        // they own.
        if let Some(key) = flight.timer
            && self.timers.remove(&key).is_some()
        {
            self.flights.remove(index);
        }
    }
}

/// What a future does its work with. A clone is the same handle; not `Send`.
///
/// A handle may outlive its reactor: operations then end with `ECANCELED`.
#[derive(Clone)]
pub struct Io(Rc<Core>);

impl Io {
    pub(crate) fn new(core: Rc<Core>) -> Self {
        Self(core)
    }

    /// The reactor's clock as of its present turn.
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// Runs one operation. It starts at the first poll; several may run at once in one future.
    ///
    /// Dropping the future does not take an operation back that was started: it ends unseen, and
    /// keeps its buffer and descriptor until then. (A timer is given up at once.) When as many
    /// operations are in flight as [`crate::Options::entries`] allows, the outcome is a
    /// `WouldBlock` error.
    pub fn run(&self, op: Op) -> Run {
        Run {
            core: Rc::clone(&self.0),
            state: RunState::Unstarted(op),
        }
    }

    /// [`Op::Read`]: the buffer, and how many bytes of the range were read.
    pub async fn read(
        &self,
        file: Fd,
        buffer: Buffer,
        range: Range<usize>,
        offset: u64,
    ) -> (Buffer, io::Result<usize>) {
        match self
            .run(Op::Read {
                file,
                buffer,
                range,
                offset,
            })
            .await
        {
            Outcome::Read { buffer, result } => (buffer, result),
            other => unreachable!("a read ended as {other:?}"),
        }
    }

    /// [`Op::Write`]: the buffer, and whether all of the range was written.
    pub async fn write(
        &self,
        file: Fd,
        buffer: Buffer,
        range: Range<usize>,
        offset: u64,
        durable: bool,
    ) -> (Buffer, io::Result<()>) {
        match self
            .run(Op::Write {
                file,
                buffer,
                range,
                offset,
                durable,
            })
            .await
        {
            Outcome::Written { buffer, result } => (buffer, result),
            other => unreachable!("a write ended as {other:?}"),
        }
    }

    /// [`Op::Sync`].
    ///
    /// # Errors
    /// What the kernel reports; data may then be lost, however often it is repeated.
    pub async fn sync(&self, file: Fd, data_only: bool) -> io::Result<()> {
        self.done(Op::Sync { file, data_only }).await
    }

    /// [`Op::Allocate`].
    ///
    /// # Errors
    /// What fallocate(2) reports: `EOPNOTSUPP` where the file system cannot.
    pub async fn allocate(
        &self,
        file: Fd,
        mode: AllocateMode,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        self.done(Op::Allocate {
            file,
            mode,
            offset,
            len,
        })
        .await
    }

    /// [`Op::BlockDiscard`].
    ///
    /// # Errors
    /// What the ioctl reports: `EOPNOTSUPP` where the device cannot, `ENOTTY` for a file.
    pub async fn block_discard(&self, file: Fd, offset: u64, len: u64) -> io::Result<()> {
        self.done(Op::BlockDiscard { file, offset, len }).await
    }

    /// [`Op::BlockZero`].
    ///
    /// # Errors
    /// What the ioctl reports: `ENOTTY` for a file.
    pub async fn block_zero(&self, file: Fd, offset: u64, len: u64) -> io::Result<()> {
        self.done(Op::BlockZero { file, offset, len }).await
    }

    /// [`Op::Extent`]: whether there is data at `offset`, and where that run ends.
    ///
    /// # Errors
    /// `ENXIO` at or behind the end; otherwise what lseek(2) reports.
    pub async fn extent(&self, file: Fd, offset: u64) -> io::Result<(bool, u64)> {
        match self.run(Op::Extent { file, offset }).await {
            Outcome::Extent(result) => result,
            other => unreachable!("an extent query ended as {other:?}"),
        }
    }

    /// Ends after `after`, not earlier; at once when the reactor has no room for a timer or is
    /// gone.
    pub async fn sleep(&self, after: Duration) {
        // The two reasons for an error are the two named above.
        let _ = self.done(Op::Timer { after }).await;
    }

    async fn done(&self, op: Op) -> io::Result<()> {
        match self.run(op).await {
            Outcome::Done(result) => result,
            other => unreachable!("an operation without a value ended as {other:?}"),
        }
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").finish_non_exhaustive()
    }
}

/// The future of one operation; made by [`Io::run`].
#[must_use = "an operation starts when its future is first polled"]
pub struct Run {
    core: Rc<Core>,
    state: RunState,
}

enum RunState {
    Unstarted(Op),
    Started(u32),
    Over,
}

impl Future for Run {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let mut state = this.core.state.borrow_mut();
        match std::mem::replace(&mut this.state, RunState::Over) {
            RunState::Unstarted(op) => {
                match state.start(op, Owner::Awaited(context.waker().clone())) {
                    Ok(slot) => {
                        this.state = RunState::Started(slot);
                        Poll::Pending
                    }
                    Err((op, errno)) => Poll::Ready(op.fail(errno)),
                }
            }
            RunState::Started(slot) => {
                let poll = state.look(slot, context.waker());
                if poll.is_pending() {
                    this.state = RunState::Started(slot);
                }
                poll
            }
            RunState::Over => panic!("the future of an I/O operation was polled after its end"),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let RunState::Started(slot) = self.state {
            self.core.state.borrow_mut().abandon(slot);
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}
