//! The fallback: epoll for sockets, worker threads for files.
//!
//! A socket operation is tried at once; only one that would block is kept, and then its socket is
//! registered, once and edge-triggered for both directions. From then on the driver remembers
//! whether each direction may be ready and makes no call that is known to be futile. A registration
//! ends by itself when the descriptor closes; an entry whose descriptor number was taken by another
//! socket is recognized by the identity of the [`Fd`] and replaced, so the table holds at most one
//! entry for each number the process ever had open.
//!
//! A buffered read that the page cache can serve is done at once; at depth one that takes a tenth
//! of the time that a thread takes.
//!
//! Timeouts round up to whole milliseconds, as epoll's do.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::sockets::{Attempt, Pending};
use super::workers::Workers;
use super::{Driver, DriverKind, Finished, blocking};
use crate::error::RingError;
use crate::limits::EPOLL_EVENTS;
use crate::op::{Fd, Op};
use crate::signal::Signal;

/// What marks events of the reactor's own eventfd.
const SIGNAL: u64 = u64::MAX;

/// The driver.
pub(crate) struct Epoll {
    set: OwnedFd,
    signal: Arc<Signal>,
    workers: Workers,
    /// By descriptor number.
    sockets: Vec<Option<Box<Socket>>>,
    /// Told apart two sockets that had the same number.
    generation: u32,
    events: Vec<epoll::Event>,
}

/// A socket and what waits on it.
struct Socket {
    /// Which one this is; weak, so that it can close.
    identity: Weak<OwnedFd>,
    generation: u32,
    registered: bool,
    /// The other end has said that it sends no more, or all is over: reading never blocks again.
    hung_up: bool,
    reads: Direction,
    writes: Direction,
}

/// One direction of a socket.
#[derive(Default)]
struct Direction {
    /// Only trusted once registered: before that, trying is the way to know.
    blocked: bool,
    waiting: VecDeque<Pending>,
}

impl Epoll {
    pub(crate) fn new(workers: usize) -> Result<Self, RingError> {
        let create = |errno: Errno| RingError::Create {
            what: "an epoll set",
            source: errno.into(),
        };
        let signal = Signal::new(false)?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(create)?;
        let data = epoll::EventData::new_u64(SIGNAL);
        epoll::add(&set, signal.fd(), data, epoll::EventFlags::IN).map_err(create)?;
        let workers = Workers::new(workers, Arc::clone(&signal));
        Ok(Self {
            set,
            signal,
            workers,
            sockets: Vec::new(),
            generation: 0,
            events: Vec::with_capacity(EPOLL_EVENTS),
        })
    }

    /// Starts a socket operation on the entry of its socket.
    fn start_socket(&mut self, slot: u32, op: Op, fd: &Fd, read: bool, ended: &mut Vec<Finished>) {
        let index = self.entry(fd);
        let Some(socket) = self.sockets[index].as_mut() else {
            return;
        };
        let direction = if read {
            &mut socket.reads
        } else {
            &mut socket.writes
        };
        direction.waiting.push_back(Pending::new(slot, op));
        if direction.waiting.len() > 1 {
            return;
        }
        socket.advance(read, ended);
        if socket.is_waiting() && !socket.registered {
            self.register(index, fd, ended);
        }
    }

    /// The place of a socket in the table, made anew when the number had another socket.
    fn entry(&mut self, fd: &Fd) -> usize {
        let index = usize::try_from(fd.as_raw_fd()).unwrap_or_default();
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        let known = self.sockets[index]
            .as_ref()
            .is_some_and(|socket| std::ptr::eq(socket.identity.as_ptr(), Arc::as_ptr(fd)));
        if !known {
            self.generation = self.generation.wrapping_add(1);
            self.sockets[index] = Some(Box::new(Socket {
                identity: Arc::downgrade(fd),
                generation: self.generation,
                registered: false,
                hung_up: false,
                reads: Direction::default(),
                writes: Direction::default(),
            }));
        }
        index
    }

    /// Asks for events of a socket; one that cannot be watched fails what waits on it.
    fn register(&mut self, index: usize, fd: &Fd, ended: &mut Vec<Finished>) {
        let Some(socket) = self.sockets[index].as_mut() else {
            return;
        };
        let data = epoll::EventData::new_u64(u64::from(socket.generation) << 32 | index as u64);
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let result = match epoll::add(&self.set, fd, data, flags) {
            // The number had the same socket under an earlier `Fd`.
            Err(Errno::EXIST) => epoll::modify(&self.set, fd, data, flags),
            other => other,
        };
        match result {
            Ok(()) => socket.registered = true,
            Err(errno) => socket.fail_all(errno, ended),
        }
    }

    fn socket_event(&mut self, event: epoll::Event, ended: &mut Vec<Finished>) {
        let data = event.data.u64();
        let (index, generation) = (data & u64::from(u32::MAX), data >> 32);
        let socket = usize::try_from(index)
            .ok()
            .and_then(|index| self.sockets.get_mut(index));
        let Some(Some(socket)) = socket else { return };
        if u64::from(socket.generation) != generation {
            return;
        }
        let flags = event.flags;
        let over = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let reads = over | epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let writes = over | epoll::EventFlags::OUT;
        if flags.intersects(over | epoll::EventFlags::RDHUP) {
            socket.hung_up = true;
        }
        if flags.intersects(reads) {
            socket.reads.blocked = false;
            socket.advance(true, ended);
        }
        if flags.intersects(writes) {
            socket.writes.blocked = false;
            socket.advance(false, ended);
        }
    }
}

impl Driver for Epoll {
    fn kind(&self) -> DriverKind {
        DriverKind::Epoll
    }

    fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    fn start(&mut self, slot: u32, op: Op, ended: &mut Vec<Finished>) {
        let (fd, read) = match &op {
            Op::Accept { listener: fd } | Op::Recv { socket: fd, .. } => (Arc::clone(fd), true),
            Op::Send { socket: fd, .. } | Op::Connect { socket: fd, .. } => (Arc::clone(fd), false),
            _ => {
                return match blocking::read_cached(op) {
                    Ok(outcome) => ended.push(Finished { slot, outcome }),
                    Err(op) => self.workers.start(slot, op),
                };
            }
        };
        self.start_socket(slot, op, &fd, read, ended);
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        ended: &mut Vec<Finished>,
    ) -> Result<(), RingError> {
        self.workers.flush(ended);
        let timeout = if ended.is_empty() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        // A timeout too long for the kernel is as good as none: waits may end early anyway.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(
            &self.set,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(RingError::Wait {
                    driver: "epoll",
                    source: errno.into(),
                });
            }
        }
        for &event in &events {
            if event.data.u64() == SIGNAL {
                self.signal.drain().map_err(|source| RingError::Wait {
                    driver: "epoll",
                    source,
                })?;
                self.workers.collect(ended);
            } else {
                self.socket_event(event, ended);
            }
        }
        self.events = events;
        Ok(())
    }

    fn cancel(&mut self, slot: u32, ended: &mut Vec<Finished>) {
        for socket in self.sockets.iter_mut().flatten() {
            for direction in [&mut socket.reads, &mut socket.writes] {
                let place = direction
                    .waiting
                    .iter()
                    .position(|pending| pending.slot == slot);
                if let Some(pending) = place.and_then(|place| direction.waiting.remove(place)) {
                    ended.push(pending.fail(Errno::CANCELED));
                    return;
                }
            }
        }
        self.workers.cancel(slot, ended);
    }

    fn shutdown(&mut self, bound: Duration, ended: &mut Vec<Finished>) -> usize {
        for socket in self.sockets.iter_mut().flatten() {
            socket.fail_all(Errno::CANCELED, ended);
        }
        self.workers.shutdown(bound, ended)
    }
}

impl Socket {
    fn is_waiting(&self) -> bool {
        !self.reads.waiting.is_empty() || !self.writes.waiting.is_empty()
    }

    /// Tries what waits in one direction until it would block.
    fn advance(&mut self, read: bool, ended: &mut Vec<Finished>) {
        let direction = if read {
            &mut self.reads
        } else {
            &mut self.writes
        };
        while !(self.registered && direction.blocked) {
            let Some(pending) = direction.waiting.pop_front() else {
                return;
            };
            let slot = pending.slot;
            match pending.attempt() {
                Attempt::Ended(outcome) => ended.push(Finished { slot, outcome }),
                Attempt::Drained(outcome) => {
                    ended.push(Finished { slot, outcome });
                    // After the end of the stream was announced no further event comes for it.
                    direction.blocked = !self.hung_up;
                }
                Attempt::Blocked(pending) => {
                    direction.waiting.push_front(pending);
                    direction.blocked = true;
                    return;
                }
            }
        }
    }

    fn fail_all(&mut self, errno: Errno, ended: &mut Vec<Finished>) {
        let waiting = self
            .reads
            .waiting
            .drain(..)
            .chain(self.writes.waiting.drain(..));
        ended.extend(waiting.map(|pending| pending.fail(errno)));
    }
}
