//! io_uring: every operation it can do is one entry of the submission ring, and a turn is one
//! system call that submits, runs deferred work and waits.
//!
//! # What the kernel may touch, and until when
//!
//! An operation in flight lives in a slot of its own on the heap. The slot owns the operation, and
//! with it the buffer and the descriptor, and holds what the kernel is given pointers to: the
//! message header, its pieces, the peer's address. None of that is moved, freed or read until the
//! completion of the slot's one entry has come. When it does not come within the bound of a
//! shutdown, the slot is leaked.

#![expect(
    unsafe_code,
    reason = "the kernel is handed raw pointers into what slots own"
)]

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd as Target, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;
use socket2::SockAddr;

use super::blocking::ends_read;
use super::workers::Workers;
use super::{Driver, DriverKind, Finished, sockets};
use crate::clock;
use crate::error::RingError;
use crate::limits::{BYTES_PER_CALL, PIECES_PER_SEND, SUBMISSION_RING_MAX, WAIT_MAX};
use crate::op::{Fd, Op, Outcome, SendList, sent};
use crate::signal::Signal;

/// Marks the read of the reactor's own eventfd; slots are below 2^32.
const SIGNAL: u64 = u64::MAX;
/// Marks what nobody waits for: requests to cancel.
const CANCEL: u64 = u64::MAX - 1;

/// The driver.
pub(crate) struct Uring {
    ring: IoUring,
    signal: Arc<Signal>,
    /// What the eventfd is read into; allocated apart, because the kernel writes there.
    signal_count: Box<[u8; 8]>,
    signal_armed: bool,
    workers: Workers,
    slots: Vec<Option<Box<Slot>>>,
    /// Empty slots, for reuse with their allocations.
    #[expect(
        clippy::vec_box,
        reason = "they move to and from `slots` without a copy"
    )]
    spare: Vec<Box<Slot>>,
    /// Slots whose entry the kernel has or is about to get.
    in_kernel: usize,
    /// Entries that found the submission ring full and the kernel unwilling.
    backlog: VecDeque<squeue::Entry>,
    /// Scratch for `reap`.
    completions: Vec<(u64, i32)>,
}

/// An operation in the kernel's hands.
struct Slot {
    op: Option<Op>,
    /// Bytes transferred so far.
    done: usize,
    /// The entry in flight waits for readiness instead of doing the operation.
    polling: bool,
    cancelled: bool,
    pieces: Vec<libc::iovec>,
    message: libc::msghdr,
    address: libc::sockaddr_storage,
    address_len: libc::socklen_t,
}

/// What follows on the completion of an entry.
enum Next {
    End(Outcome),
    /// Submit the rest, or the same again.
    Repeat(Op),
    /// Wait for readiness, then go on.
    Poll(Op),
    /// The kernel would have to wait and will not: a thread does it.
    Worker(Op),
}

impl Uring {
    /// Sets up a ring for `entries` operations in flight.
    pub(crate) fn new(entries: u32, workers: usize) -> Result<Self, RingError> {
        let ring = set_up(entries).map_err(|source| RingError::Create {
            what: "an io_uring instance",
            source,
        })?;
        let signal = Signal::new(true)?;
        let workers = Workers::new(workers, Arc::clone(&signal));
        Ok(Self {
            ring,
            signal,
            signal_count: Box::new([0; 8]),
            signal_armed: false,
            workers,
            slots: Vec::new(),
            spare: Vec::new(),
            in_kernel: 0,
            backlog: VecDeque::new(),
            completions: Vec::new(),
        })
    }

    /// Gives the entry for what remains of the slot's operation to the kernel.
    fn submit(&mut self, slot: u32) {
        let Some(Some(state)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let entry = state.entry().user_data(u64::from(slot));
        self.in_kernel += 1;
        self.push(entry);
    }

    /// Waits for a socket to be ready for the slot's operation.
    fn submit_poll(&mut self, slot: u32) {
        let Some(Some(state)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        state.polling = true;
        let Some(fd) = state.op.as_ref().and_then(socket_of) else {
            return;
        };
        let reads = matches!(state.op, Some(Op::Accept { .. } | Op::Recv { .. }));
        let flags = if reads { libc::POLLIN } else { libc::POLLOUT };
        let entry = opcode::PollAdd::new(Target(fd.as_raw_fd()), flags.unsigned_abs().into())
            .build()
            .user_data(u64::from(slot));
        self.in_kernel += 1;
        self.push(entry);
    }

    /// Queues an entry, making room by submitting where the ring is full.
    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            if self.try_push(&entry) {
                return;
            }
            // A failure leaves the ring full; the backlog then waits for the next turn.
            let _ = self.ring.submit();
            if self.try_push(&entry) {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: whatever the entry points to is owned by its slot (or is `signal_count`), stays
        // in place there, and is kept until the entry has completed or leaked for good.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn arm_signal(&mut self) {
        if self.signal_armed {
            return;
        }
        self.signal_armed = true;
        let entry = opcode::Read::new(
            Target(self.signal.fd().as_raw_fd()),
            self.signal_count.as_mut_ptr(),
            8,
        );
        self.push(entry.build().user_data(SIGNAL));
    }

    /// One system call: submits, and waits unless `timeout` is zero.
    fn enter(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        let result = match timeout {
            Some(Duration::ZERO) => {
                let submission = self.ring.submission();
                let nothing =
                    submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
                drop(submission);
                if nothing { Ok(0) } else { self.ring.submit() }
            }
            Some(timeout) => {
                let timespec = Timespec::from(timeout.min(WAIT_MAX));
                self.ring
                    .submitter()
                    .submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
            None => self.ring.submit_and_wait(1),
        };
        match result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
            Ok(_) => Ok(()),
            // The time is over; a signal came; or the kernel wants completions to be taken first
            // or is short of memory for now, and the next turn tries again.
            Err(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes what the kernel has completed.
    fn reap(&mut self, ended: &mut Vec<Finished>) {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(
            self.ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result())),
        );
        for (user_data, result) in completions.drain(..) {
            match user_data {
                CANCEL => {}
                SIGNAL => {
                    self.signal_armed = false;
                    self.workers.collect(ended);
                }
                slot => {
                    if let Ok(slot) = u32::try_from(slot) {
                        self.complete(slot, result, ended);
                    }
                }
            }
        }
        self.completions = completions;
    }

    /// Goes on with a slot whose entry has completed.
    fn complete(&mut self, slot: u32, result: i32, ended: &mut Vec<Finished>) {
        let Some(Some(state)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        self.in_kernel -= 1;
        let Some(next) = state.next(result) else {
            return;
        };
        match next {
            Next::End(outcome) => {
                self.free(slot);
                ended.push(Finished { slot, outcome });
            }
            Next::Repeat(op) => {
                state.op = Some(op);
                self.submit(slot);
            }
            Next::Poll(op) => {
                state.op = Some(op);
                self.submit_poll(slot);
            }
            Next::Worker(op) => {
                self.free(slot);
                self.workers.start(slot, op);
            }
        }
    }

    /// Keeps the slot's allocations for the next operation.
    fn free(&mut self, slot: u32) {
        if let Some(state) = self.slots.get_mut(slot as usize).and_then(Option::take) {
            self.spare.push(state);
        }
    }

    fn push_cancel(&mut self, slot: u32) {
        let Some(Some(state)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        state.cancelled = true;
        let entry = opcode::AsyncCancel::new(u64::from(slot))
            .build()
            .user_data(CANCEL);
        self.push(entry);
    }

    /// Submits all that waits and reaps, until the kernel holds nothing or the time is over.
    fn drain(&mut self, end: Instant, ended: &mut Vec<Finished>) {
        while self.in_kernel > 0 || self.signal_armed {
            let left = end.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            self.push_backlog();
            if self.enter(Some(left)).is_err() {
                return;
            }
            self.reap(ended);
        }
    }

    /// Leaks what the kernel still holds; returns how many operations that are.
    fn leak(&mut self) -> usize {
        let mut leaked = 0;
        for state in self.slots.drain(..).flatten() {
            // The kernel may yet write to the buffer or read the header: both stay for ever.
            Box::leak(state);
            leaked += 1;
        }
        if self.signal_armed {
            Box::leak(std::mem::take(&mut self.signal_count));
            self.signal_armed = false;
        }
        self.in_kernel = 0;
        leaked
    }
}

impl Driver for Uring {
    fn kind(&self) -> DriverKind {
        DriverKind::Uring
    }

    fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    fn start(&mut self, slot: u32, op: Op, ended: &mut Vec<Finished>) {
        if op.needs_worker() {
            return self.workers.start(slot, op);
        }
        if let Some(outcome) = empty(&op) {
            let outcome = outcome(op);
            return ended.push(Finished { slot, outcome });
        }
        let index = slot as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        let mut state = self.spare.pop().unwrap_or_else(|| Box::new(Slot::new()));
        state.reset(op);
        self.slots[index] = Some(state);
        self.submit(slot);
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        ended: &mut Vec<Finished>,
    ) -> Result<(), RingError> {
        self.workers.flush(ended);
        self.push_backlog();
        self.arm_signal();
        let has_some = !ended.is_empty() || !self.ring.completion().is_empty();
        let timeout = if has_some {
            Some(Duration::ZERO)
        } else {
            timeout
        };
        self.enter(timeout).map_err(|errno| RingError::Wait {
            driver: "io_uring",
            source: errno.into(),
        })?;
        self.reap(ended);
        Ok(())
    }

    fn cancel(&mut self, slot: u32, ended: &mut Vec<Finished>) {
        self.push_cancel(slot);
        self.workers.cancel(slot, ended);
    }

    fn shutdown(&mut self, bound: Duration, ended: &mut Vec<Finished>) -> usize {
        let end = clock::now() + bound;
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            self.push_cancel(slot);
        }
        // Ends the read of the eventfd, too.
        self.signal.write();
        self.drain(end, ended);
        let stuck = self
            .workers
            .shutdown(end.saturating_duration_since(clock::now()), ended);
        stuck + self.leak()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // After a shutdown there is nothing left; without one, memory is still to be kept.
        if self.in_kernel > 0 || self.signal_armed {
            self.shutdown(crate::limits::SHUTDOWN_BOUND, &mut Vec::new());
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            op: None,
            done: 0,
            polling: false,
            cancelled: false,
            pieces: Vec::new(),
            // SAFETY: a C structure of integers and pointers, for which all zeros are a value.
            message: unsafe { MaybeUninit::zeroed().assume_init() },
            // SAFETY: a C structure of integers, for which all zeros are a value.
            address: unsafe { MaybeUninit::zeroed().assume_init() },
            address_len: 0,
        }
    }

    fn reset(&mut self, op: Op) {
        self.op = Some(op);
        self.done = 0;
        self.polling = false;
        self.cancelled = false;
    }

    /// The entry for what remains of the operation.
    fn entry(&mut self) -> squeue::Entry {
        match &self.op {
            Some(op) if socket_of(op).is_some() => self.socket_entry(),
            _ => self.file_entry(),
        }
    }

    fn socket_entry(&mut self) -> squeue::Entry {
        let done = self.done;
        match &mut self.op {
            Some(Op::Accept { listener }) => {
                self.address_len = storage_len();
                let address = (&raw mut self.address).cast();
                opcode::Accept::new(target(listener), address, &raw mut self.address_len)
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
            }
            Some(Op::Connect { socket, address }) => {
                let len = store(&mut self.address, *address);
                let address = (&raw const self.address).cast();
                opcode::Connect::new(target(socket), address, len).build()
            }
            Some(Op::Recv {
                socket,
                buffer,
                range,
            }) => {
                let into = buffer.get_mut(range.clone()).unwrap_or_default();
                let len = call_len(into.len());
                opcode::Recv::new(target(socket), into.as_mut_ptr(), len).build()
            }
            Some(Op::Send { socket, list }) => {
                gather(list, done, &mut self.pieces);
                self.message.msg_iov = self.pieces.as_mut_ptr();
                self.message.msg_iovlen = self.pieces.len();
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                opcode::SendMsg::new(target(socket), &raw const self.message)
                    .flags(flags.unsigned_abs())
                    .build()
            }
            _ => opcode::Nop::new().build(),
        }
    }

    fn file_entry(&mut self) -> squeue::Entry {
        let done = self.done;
        match &mut self.op {
            Some(Op::Read {
                file,
                buffer,
                range,
                offset,
            }) => {
                let into = buffer
                    .get_mut(range.clone())
                    .and_then(|into| into.get_mut(done..))
                    .unwrap_or_default();
                let len = call_len(into.len());
                opcode::Read::new(target(file), into.as_mut_ptr(), len)
                    .offset(*offset + done as u64)
                    .build()
            }
            Some(Op::Write {
                file,
                buffer,
                range,
                offset,
                durable,
            }) => {
                let from = buffer
                    .get(range.clone())
                    .and_then(|from| from.get(done..))
                    .unwrap_or_default();
                let len = call_len(from.len());
                opcode::Write::new(target(file), from.as_ptr(), len)
                    .offset(*offset + done as u64)
                    .rw_flags(if *durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Some(Op::Sync { file, data_only }) => {
                let flags = if *data_only {
                    FsyncFlags::DATASYNC
                } else {
                    FsyncFlags::empty()
                };
                opcode::Fsync::new(target(file)).flags(flags).build()
            }
            Some(Op::Allocate {
                file,
                mode,
                offset,
                len,
            }) => opcode::Fallocate::new(target(file), *len)
                .offset(*offset)
                .mode(mode.flags().bits().cast_signed())
                .build(),
            // Never given here (`start` sees to it); completes at once as what it is: nothing.
            _ => opcode::Nop::new().build(),
        }
    }

    /// What follows on a completion with `result`, the kernel's count or negative errno.
    fn next(&mut self, result: i32) -> Option<Next> {
        let op = self.op.take()?;
        let was_polling = std::mem::take(&mut self.polling);
        let count =
            usize::try_from(result).map_err(|_| Errno::from_raw_os_error(result.saturating_neg()));
        if was_polling {
            return Some(match count {
                Err(errno) => Next::End(op.fail(errno)),
                Ok(_) if self.cancelled => Next::End(op.fail(Errno::CANCELED)),
                Ok(_) => after_poll(op),
            });
        }
        Some(match (count, op) {
            (Err(Errno::INTR | Errno::AGAIN), op) if self.cancelled => {
                Next::End(op.fail(Errno::CANCELED))
            }
            (Err(errno), op) => after_error(op, errno, self.done),
            (Ok(_), Op::Accept { .. }) => {
                let address = load(&self.address, self.address_len);
                // SAFETY: a successful accept yields a new descriptor that nobody else knows.
                let socket = unsafe { OwnedFd::from_raw_fd(result) };
                let result = address.map(|address| (socket, address));
                Next::End(Outcome::Accepted(sockets::io_result(result)))
            }
            (Ok(_), Op::Connect { .. }) => Next::End(Outcome::Connected(Ok(()))),
            (Ok(count), Op::Recv { buffer, .. }) => Next::End(Outcome::Received {
                buffer,
                result: Ok(count),
            }),
            (Ok(count), op) => self.after_count(count, op),
        })
    }

    /// Goes on after `count` more bytes, or ends.
    fn after_count(&mut self, count: usize, op: Op) -> Next {
        self.done += count;
        let done = self.done;
        match op {
            Op::Send { list, .. } if done >= list.len() => Next::End(sent(list, Ok(()))),
            Op::Write { buffer, range, .. } if done >= range.len() => Next::End(Outcome::Written {
                buffer,
                result: Ok(()),
            }),
            Op::Read { buffer, range, .. } if done >= range.len() || count == 0 => {
                Next::End(Outcome::Read {
                    buffer,
                    result: Ok(done),
                })
            }
            Op::Send { .. } | Op::Write { .. } | Op::Read { .. } => {
                if self.cancelled {
                    Next::End(op.fail(Errno::CANCELED))
                } else if count == 0 {
                    // No progress and no reason: not to be repeated for ever.
                    Next::End(op.fail(Errno::IO))
                } else {
                    Next::Repeat(op)
                }
            }
            Op::Sync { .. } | Op::Allocate { .. } => Next::End(Outcome::Done(Ok(()))),
            other => Next::End(other.fail(Errno::OPNOTSUPP)),
        }
    }
}

/// A socket became ready.
fn after_poll(op: Op) -> Next {
    let Op::Connect { socket, .. } = &op else {
        return Next::Repeat(op);
    };
    match sockets::connected(socket) {
        Ok(()) => Next::End(Outcome::Connected(Ok(()))),
        Err(Errno::AGAIN) => Next::Poll(op),
        Err(errno) => Next::End(op.fail(errno)),
    }
}

/// An entry failed.
fn after_error(op: Op, errno: Errno, done: usize) -> Next {
    match (errno, op) {
        (Errno::INTR, op) => Next::Repeat(op),
        (Errno::INPROGRESS | Errno::ALREADY, op @ Op::Connect { .. }) => Next::Poll(op),
        (Errno::CONNABORTED, op @ Op::Accept { .. }) => Next::Repeat(op),
        (Errno::AGAIN, op) if socket_of(&op).is_some() => Next::Poll(op),
        (Errno::AGAIN, op) => Next::Worker(op),
        (errno, Op::Read { buffer, .. }) if ends_read(errno, done) => Next::End(Outcome::Read {
            buffer,
            result: Ok(done),
        }),
        (errno, op) => Next::End(op.fail(errno)),
    }
}

/// The outcome of an operation that has nothing to transfer.
fn empty(op: &Op) -> Option<fn(Op) -> Outcome> {
    let is_empty = match op {
        Op::Read { range, .. } | Op::Write { range, .. } => range.is_empty(),
        Op::Send { list, .. } => list.is_empty(),
        _ => false,
    };
    is_empty.then_some(|op| match op {
        Op::Read { buffer, .. } => Outcome::Read {
            buffer,
            result: Ok(0),
        },
        Op::Write { buffer, .. } => Outcome::Written {
            buffer,
            result: Ok(()),
        },
        Op::Send { list, .. } => sent(list, Ok(())),
        other => other.fail(Errno::INVAL),
    })
}

fn socket_of(op: &Op) -> Option<&Fd> {
    match op {
        Op::Accept { listener: fd }
        | Op::Connect { socket: fd, .. }
        | Op::Recv { socket: fd, .. }
        | Op::Send { socket: fd, .. } => Some(fd),
        _ => None,
    }
}

/// Points `pieces` at what remains of a list, as far as one call goes.
fn gather(list: &SendList, done: usize, pieces: &mut Vec<libc::iovec>) {
    pieces.clear();
    list.pieces_after(done, |piece| {
        let iov_base = piece.as_ptr().cast_mut().cast();
        pieces.push(libc::iovec {
            iov_base,
            iov_len: piece.len(),
        });
        if pieces.len() < PIECES_PER_SEND {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
}

fn target(fd: &Fd) -> Target {
    Target(fd.as_raw_fd())
}

/// The length of one call; what is beyond follows in the next.
fn call_len(len: usize) -> u32 {
    u32::try_from(len.min(BYTES_PER_CALL)).unwrap_or(u32::MAX)
}

fn storage_len() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(libc::socklen_t::MAX)
}

/// Puts an address where the kernel can read it; its length.
fn store(storage: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    let address = SockAddr::from(address);
    // SAFETY: the source is valid for `len` bytes, which a `sockaddr_storage` always holds, and the
    // two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut *storage).cast::<u8>(),
            (address.len() as usize).min(size_of::<libc::sockaddr_storage>()),
        );
    }
    address.len()
}

/// The address the kernel wrote.
fn load(storage: &libc::sockaddr_storage, len: libc::socklen_t) -> Result<SocketAddr, Errno> {
    let init = |to: *mut socket2::SockAddrStorage, to_len: *mut libc::socklen_t| {
        // SAFETY: both storages have the size and layout of a `sockaddr_storage`, and `try_init`
        // passes valid pointers.
        unsafe {
            to.cast::<libc::sockaddr_storage>().write(*storage);
            to_len.write(len.min(storage_len()));
        }
        Ok(())
    };
    // SAFETY: the closure initializes the whole storage and a length within it.
    let address = unsafe { SockAddr::try_init(init) };
    let ((), address) = address.map_err(|_| Errno::AFNOSUPPORT)?;
    address.as_socket().ok_or(Errno::AFNOSUPPORT)
}

/// A ring with the cheapest kind of task work that this kernel has.
fn set_up(entries: u32) -> io::Result<IoUring> {
    let submission = entries.min(SUBMISSION_RING_MAX);
    // Each operation has one completion outstanding, a request to cancel it one more.
    let completions = entries.saturating_mul(2);
    let mut error = None;
    for level in [2, 1, 0] {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(completions);
        if level > 0 {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if level > 1 {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        match builder.build(submission) {
            Ok(ring) => return Ok(ring),
            Err(found) if found.raw_os_error() == Some(libc::EINVAL) => error = Some(found),
            Err(found) => return Err(found),
        }
    }
    Err(error.unwrap_or_else(|| io::Error::from(Errno::INVAL)))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::buffer::{Pool, PoolLimits};

    fn ring() -> Option<Uring> {
        match &crate::probe::probe_once().uring {
            Ok(()) => Some(Uring::new(8, 1).expect("a ring")),
            Err(cause) => {
                eprintln!("left out: {cause}");
                None
            }
        }
    }

    /// A receive that waits, its buffer from a pool, and the other end of its socket.
    fn start_recv(ring: &mut Uring, pool: &Pool) -> OwnedFd {
        let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
        let (one, other) =
            socketpair(AddressFamily::UNIX, kind, flags, None).expect("a socket pair");
        let op = Op::Recv {
            socket: Arc::new(one),
            buffer: pool.take(4096).expect("a buffer"),
            range: 0..4096,
        };
        let mut ended = Vec::new();
        ring.start(0, op, &mut ended);
        ring.wait(Some(Duration::ZERO), &mut ended)
            .expect("submitted");
        assert!(ended.is_empty());
        other
    }

    fn pool() -> Pool {
        Pool::new(PoolLimits {
            bytes_max: 1 << 20,
            idle_bytes_max: 0,
        })
    }

    #[test]
    fn what_does_not_end_in_time_is_leaked_with_its_buffer() {
        let Some(mut ring) = ring() else { return };
        let pool = pool();
        let other = start_recv(&mut ring, &pool);
        let mut ended = Vec::new();
        assert_eq!(ring.shutdown(Duration::ZERO, &mut ended), 1);
        assert!(ended.is_empty());
        drop(ring);
        // Never back in the pool: whoever took it next could see the kernel write there.
        assert_eq!(pool.bytes_out(), 4096);
        drop(other);
    }

    #[test]
    fn what_ends_in_time_gives_its_buffer_back() {
        let Some(mut ring) = ring() else { return };
        let pool = pool();
        let _other = start_recv(&mut ring, &pool);
        let mut ended = Vec::new();
        assert_eq!(ring.shutdown(crate::limits::SHUTDOWN_BOUND, &mut ended), 0);
        assert_eq!(ended.len(), 1);
        drop(ended);
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn a_ring_dropped_without_shutdown_gives_buffers_back() {
        let Some(mut ring) = ring() else { return };
        let pool = pool();
        let _other = start_recv(&mut ring, &pool);
        drop(ring);
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn addresses_survive_their_storage() {
        for address in ["127.0.0.1:3260", "[fe80::1%7]:3260"] {
            let address: SocketAddr = address.parse().expect("an address");
            let mut slot = Slot::new();
            let len = store(&mut slot.address, address);
            assert_eq!(load(&slot.address, len), Ok(address));
        }
        assert_eq!(load(&Slot::new().address, 0), Err(Errno::AFNOSUPPORT));
    }
}
