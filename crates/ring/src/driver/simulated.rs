//! The simulation: real descriptors, a virtual clock, a seeded order, planned faults.
//!
//! An operation takes effect at a virtual time drawn when it starts, on the reactor's own thread.
//! The clock moves only when there is nothing to do before; so a run with one thread is the same
//! for the same seed, and takes no longer than its work. A socket operation that would block is
//! tried again in every turn. Only a turn without bound and without anything scheduled sleeps for
//! real, until one of those sockets or another thread stirs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::sockets::{Attempt, Pending};
use super::{Driver, DriverKind, Finished, blocking};
use crate::clock;
use crate::error::RingError;
use crate::limits::TRACE_LINES_MAX;
use crate::op::{Op, Outcome, sent};
use crate::signal::Signal;
use crate::simulation::{Fault, OpKind, Simulation};

/// What a turn takes that does not wait: even so time passes, or futures and threads that keep a
/// reactor busy would hold up all else for ever.
const TURN: Duration = Duration::from_micros(1);

/// The driver.
pub(crate) struct Simulated {
    plan: Simulation,
    random: Random,
    start: Instant,
    elapsed: Duration,
    signal: Arc<Signal>,
    /// By when they take effect, and then by when they started.
    scheduled: BTreeMap<(Duration, u64), Job>,
    /// Would have blocked, by when they started.
    blocked: BTreeMap<u64, Job>,
    started: u64,
    /// Operations started, by kind.
    counts: BTreeMap<OpKind, u64>,
    trace: VecDeque<String>,
}

struct Job {
    pending: Pending,
    fault: Option<Fault>,
}

impl Simulated {
    pub(crate) fn new(plan: Simulation) -> Result<Self, RingError> {
        Ok(Self {
            random: Random(plan.seed),
            plan,
            start: clock::now(),
            elapsed: Duration::ZERO,
            signal: Signal::new(false)?,
            scheduled: BTreeMap::new(),
            blocked: BTreeMap::new(),
            started: 0,
            counts: BTreeMap::new(),
            trace: VecDeque::new(),
        })
    }

    /// The fault of the operation that starts now, if any. Draws for every rate of its kind, so
    /// that a scripted fault does not shift what chance brings later.
    fn draw_fault(&mut self, kind: OpKind) -> Option<Fault> {
        let count = self.counts.entry(kind).or_default();
        let nth = *count;
        *count += 1;
        let mut fault = None;
        for rate in self
            .plan
            .faults
            .rates
            .iter()
            .filter(|rate| rate.operation == kind)
        {
            if self.random.below(1000) < u64::from(rate.per_mille) {
                fault = fault.or(Some(rate.fault));
            }
        }
        let scripted =
            |fault: &&crate::simulation::ScriptedFault| fault.operation == kind && fault.nth == nth;
        self.plan
            .faults
            .script
            .iter()
            .find(scripted)
            .map(|scripted| scripted.fault)
            .or(fault)
    }

    fn draw_delay(&mut self) -> Duration {
        let span = self.plan.delay_max.saturating_sub(self.plan.delay_min);
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.plan.delay_min + Duration::from_nanos(self.random.below(span.saturating_add(1)))
    }

    fn note(&mut self, number: u64, what: &str) {
        if self.trace.len() == TRACE_LINES_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(format!(
            "{:>12}us #{number} {what}",
            self.elapsed.as_micros()
        ));
    }

    /// Runs what is due by now, then what was blocked; whether anything moved.
    fn run(&mut self, ended: &mut Vec<Finished>) -> bool {
        let mut moved = false;
        while let Some(first) = self.scheduled.first_entry() {
            if first.key().0 > self.elapsed {
                break;
            }
            let ((_, number), job) = first.remove_entry();
            moved |= self.step(number, job, ended);
        }
        for (number, job) in std::mem::take(&mut self.blocked) {
            moved |= self.step(number, job, ended);
        }
        moved
    }

    /// Tries one job; whether it moved.
    fn step(&mut self, number: u64, job: Job, ended: &mut Vec<Finished>) -> bool {
        let Job { pending, fault } = job;
        let (slot, name, done) = (pending.slot, pending.op.name(), pending.done);
        let outcome = match fault {
            Some(Fault::Errno(errno)) => pending.op.fail(Errno::from_raw_os_error(errno)),
            Some(Fault::Short) if does_partly(&pending.op) => partly(pending.op),
            _ => match attempt(pending) {
                Attempt::Ended(outcome) | Attempt::Drained(outcome) => outcome,
                Attempt::Blocked(pending) => {
                    let moved = pending.done > done;
                    self.blocked.insert(number, Job { pending, fault });
                    return moved;
                }
            },
        };
        self.note(number, &format!("{name} {}", summary(&outcome)));
        ended.push(Finished { slot, outcome });
        true
    }

    /// Sleeps for real until a socket or another thread stirs.
    fn sleep(&self) -> Result<(), RingError> {
        let mut fds: Vec<PollFd<'_>> =
            vec![PollFd::from_borrowed_fd(self.signal.fd(), PollFlags::IN)];
        fds.extend(
            self.blocked
                .values()
                .filter_map(|job| match &job.pending.op {
                    Op::Accept { listener: fd } | Op::Recv { socket: fd, .. } => {
                        Some(PollFd::new(fd, PollFlags::IN))
                    }
                    Op::Connect { socket: fd, .. } | Op::Send { socket: fd, .. } => {
                        Some(PollFd::new(fd, PollFlags::OUT))
                    }
                    _ => None,
                }),
        );
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(RingError::Wait {
                driver: "simulated",
                source: errno.into(),
            }),
        }
    }

    /// Empties the eventfd; whether it held anything.
    fn take_signal(&self) -> Result<bool, RingError> {
        self.signal.drain().map_err(|source| RingError::Wait {
            driver: "simulated",
            source,
        })
    }

    fn all(&mut self) -> impl Iterator<Item = (u64, Job)> + use<> {
        let scheduled = std::mem::take(&mut self.scheduled);
        let blocked = std::mem::take(&mut self.blocked);
        scheduled
            .into_iter()
            .map(|((_, number), job)| (number, job))
            .chain(blocked)
    }
}

impl Driver for Simulated {
    fn kind(&self) -> DriverKind {
        DriverKind::Simulated
    }

    fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    fn start(&mut self, slot: u32, op: Op, _: &mut Vec<Finished>) {
        let fault = kind_of(&op).and_then(|kind| self.draw_fault(kind));
        let mut due = self.elapsed + self.draw_delay();
        if let Some(Fault::Stall(time)) = fault {
            due += time;
        }
        let number = self.started;
        self.started += 1;
        self.note(number, &format!("{} starts", describe(&op)));
        let op = if fault == Some(Fault::Short) {
            shortened(op)
        } else {
            op
        };
        self.scheduled.insert(
            (due, number),
            Job {
                pending: Pending::new(slot, op),
                fault,
            },
        );
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        ended: &mut Vec<Finished>,
    ) -> Result<(), RingError> {
        let mut timeout = if ended.is_empty() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        if timeout == Some(Duration::ZERO) {
            self.elapsed += TURN;
        }
        loop {
            let stirred = self.take_signal()?;
            if stirred {
                self.elapsed += TURN;
            }
            while self.run(ended) && ended.is_empty() {}
            if stirred || !ended.is_empty() {
                return Ok(());
            }
            let next = self
                .scheduled
                .first_key_value()
                .map(|(&(due, _), _)| due - self.elapsed);
            match (next, timeout) {
                (Some(next), None) => self.elapsed += next,
                (Some(next), Some(left)) if next <= left => {
                    self.elapsed += next;
                    timeout = Some(left - next);
                }
                (_, Some(left)) => {
                    self.elapsed += left;
                    return Ok(());
                }
                (None, None) => self.sleep()?,
            }
        }
    }

    fn cancel(&mut self, slot: u32, ended: &mut Vec<Finished>) {
        let scheduled = self
            .scheduled
            .iter()
            .find(|(_, job)| job.pending.slot == slot);
        let blocked = self
            .blocked
            .iter()
            .find(|(_, job)| job.pending.slot == slot);
        let job = match (scheduled.map(|(&key, _)| key), blocked.map(|(&key, _)| key)) {
            (Some(key), _) => self.scheduled.remove(&key).map(|job| (key.1, job)),
            (None, Some(key)) => self.blocked.remove(&key).map(|job| (key, job)),
            (None, None) => None,
        };
        if let Some((number, job)) = job {
            self.note(number, "cancelled");
            ended.push(job.pending.fail(Errno::CANCELED));
        }
    }

    fn shutdown(&mut self, _: Duration, ended: &mut Vec<Finished>) -> usize {
        ended.extend(self.all().map(|(_, job)| job.pending.fail(Errno::CANCELED)));
        0
    }

    fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace).into()
    }
}

/// Tries an operation on whichever side it belongs to.
fn attempt(pending: Pending) -> Attempt {
    match pending.op {
        Op::Accept { .. } | Op::Connect { .. } | Op::Recv { .. } | Op::Send { .. } => {
            pending.attempt()
        }
        _ => Attempt::Ended(blocking::run(pending.op)),
    }
}

fn kind_of(op: &Op) -> Option<OpKind> {
    Some(match op {
        Op::Accept { .. } => OpKind::Accept,
        Op::Connect { .. } => OpKind::Connect,
        Op::Recv { .. } => OpKind::Recv,
        Op::Send { .. } => OpKind::Send,
        Op::Read { .. } => OpKind::Read,
        Op::Write { .. } => OpKind::Write,
        Op::Sync { .. } => OpKind::Sync,
        Op::Allocate { .. } | Op::BlockDiscard { .. } | Op::BlockZero { .. } => OpKind::Allocate,
        Op::Extent { .. } => OpKind::Extent,
        Op::Timer { .. } => return None,
    })
}

/// Whether a short fault means: a part, and then an error.
fn does_partly(op: &Op) -> bool {
    matches!(op, Op::Write { .. } | Op::Send { .. })
}

/// Does the first half, and fails.
fn partly(op: Op) -> Outcome {
    match op {
        Op::Write {
            file,
            buffer,
            range,
            offset,
            durable,
        } => {
            let range = range.start..range.start + range.len() / 2;
            match blocking::run(Op::Write {
                file,
                buffer,
                range,
                offset,
                durable,
            }) {
                Outcome::Written { buffer, result } => Outcome::Written {
                    buffer,
                    result: result.and_then(|()| Err(Errno::IO.into())),
                },
                other => other,
            }
        }
        Op::Send { socket, list } => {
            let mut half = list.gather();
            half.truncate(half.len() / 2);
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            // How far it goes is all the same: the send fails.
            let _ = rustix::net::send(&socket, &half, flags);
            sent(list, Err(Errno::CONNRESET.into()))
        }
        other => other.fail(Errno::IO),
    }
}

/// A receive or read that asks for half of what it asked for.
fn shortened(mut op: Op) -> Op {
    if let Op::Recv { range, .. } | Op::Read { range, .. } = &mut op {
        range.end = range.start + (range.len() / 2).max(1).min(range.len());
    }
    op
}

/// An operation in a trace. Names no descriptor: their numbers differ from run to run.
fn describe(op: &Op) -> String {
    let name = op.name();
    match op {
        Op::Read { range, offset, .. } | Op::Write { range, offset, .. } => {
            format!("{name} {} at {offset}", range.len())
        }
        Op::Recv { range, .. } => format!("{name} up to {}", range.len()),
        Op::Send { list, .. } => format!("{name} {}", list.len()),
        Op::Allocate { offset, len, .. }
        | Op::BlockDiscard { offset, len, .. }
        | Op::BlockZero { offset, len, .. } => format!("{name} {len} at {offset}"),
        Op::Extent { offset, .. } => format!("{name} at {offset}"),
        _ => name.to_owned(),
    }
}

/// An outcome in a trace.
fn summary(outcome: &Outcome) -> String {
    let error = |error: &std::io::Error| match error.raw_os_error() {
        Some(errno) => format!("fails with errno {errno}"),
        None => format!("fails: {error}"),
    };
    let (count, result) = match outcome {
        Outcome::Received { result, .. } | Outcome::Read { result, .. } => {
            (result.as_ref().ok(), result.as_ref().err())
        }
        Outcome::Accepted(result) => (None, result.as_ref().err()),
        Outcome::Extent(result) => (None, result.as_ref().err()),
        Outcome::Connected(result)
        | Outcome::Sent { result, .. }
        | Outcome::Written { result, .. }
        | Outcome::Done(result) => (None, result.as_ref().err()),
    };
    match (result, count) {
        (Some(found), _) => error(found),
        (None, Some(count)) => format!("ends with {count}"),
        (None, None) => "ends".to_owned(),
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, or 0 where that is 0. Evenly enough for faults and delays.
    fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or_default()
    }
}
