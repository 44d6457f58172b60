//! Socket operations as single non-blocking attempts: for the epoll driver and the simulation.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::{ControlFlow, Range};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};

use super::Finished;
use super::blocking::again;
use crate::buffer::Buffer;
use crate::limits::PIECES_PER_SEND;
use crate::op::{Fd, Op, Outcome, SendList, sent};

/// Makes calls on a descriptor return instead of waiting.
fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, true)
}

/// Accepts one connection, or `EAGAIN`. The new socket does not block.
fn accept(listener: &Fd) -> Result<(OwnedFd, SocketAddr), Errno> {
    set_nonblocking(listener)?;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::acceptfrom_with(listener, flags) {
            Ok((socket, Some(address))) => {
                let address = SocketAddr::try_from(address).map_err(|_| Errno::AFNOSUPPORT)?;
                return Ok((socket, address));
            }
            Ok((_, None)) => return Err(Errno::AFNOSUPPORT),
            // The connection was gone before it was taken: there may be another.
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Begins to connect, or goes on: done, or `EAGAIN` when the socket becomes writable at the end
/// of it.
fn connect(socket: &Fd, address: &SocketAddr, begun: bool) -> Result<(), Errno> {
    if begun {
        return connected(socket);
    }
    set_nonblocking(socket)?;
    match rustix::net::connect(socket, address) {
        Err(Errno::INPROGRESS | Errno::INTR | Errno::ALREADY) => Err(Errno::AGAIN),
        other => other,
    }
}

/// How a connect that was begun has ended; `EAGAIN` while it has not.
pub(crate) fn connected(socket: &Fd) -> Result<(), Errno> {
    rustix::net::sockopt::socket_error(socket)??;
    match rustix::net::getpeername(socket) {
        Ok(_) => Ok(()),
        Err(Errno::NOTCONN) => Err(Errno::AGAIN),
        Err(errno) => Err(errno),
    }
}

/// Receives what is there, or `EAGAIN`.
fn recv(socket: &Fd, into: &mut [u8]) -> Result<usize, Errno> {
    again(|| rustix::net::recv(socket, &mut *into, RecvFlags::DONTWAIT).map(|(count, _)| count))
}

/// Sends what remains of a list after `done` bytes, as far as the socket takes it. Ends with the
/// new `done`, which is less than the list's length where `EAGAIN` stopped it.
fn send(socket: &Fd, list: &SendList, mut done: usize) -> Result<usize, Errno> {
    let mut pieces: Vec<IoSlice<'_>> = Vec::with_capacity(list.parts().len().min(PIECES_PER_SEND));
    while done < list.len() {
        pieces.clear();
        list.pieces_after(done, |piece| {
            pieces.push(IoSlice::new(piece));
            if pieces.len() < PIECES_PER_SEND {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let call =
            || rustix::net::sendmsg(socket, &pieces, &mut SendAncillaryBuffer::default(), flags);
        match again(call) {
            Ok(count) => done += count,
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// The outcome of a list that was sent whole or failed.
pub(crate) fn io_result<R>(result: Result<R, Errno>) -> io::Result<R> {
    result.map_err(io::Error::from)
}

/// A socket operation that is tried until it does not block.
pub(crate) struct Pending {
    pub(crate) slot: u32,
    pub(crate) op: Op,
    /// Bytes sent, or whether (1) a connect was begun.
    pub(crate) done: usize,
}

/// How a try ended.
pub(crate) enum Attempt {
    Ended(Outcome),
    /// Ended, and the direction was drained by it.
    Drained(Outcome),
    Blocked(Pending),
}

impl Pending {
    pub(crate) fn new(slot: u32, op: Op) -> Self {
        Self { slot, op, done: 0 }
    }

    pub(crate) fn fail(self, errno: Errno) -> Finished {
        Finished {
            slot: self.slot,
            outcome: self.op.fail(errno),
        }
    }

    /// Tries once; what would block comes back with what it has done so far.
    pub(crate) fn attempt(self) -> Attempt {
        let Self { slot, op, done } = self;
        match op {
            Op::Recv {
                socket,
                buffer,
                range,
            } => attempt_recv(slot, socket, buffer, range),
            Op::Send { socket, list } => match send(&socket, &list, done) {
                Ok(done) if done < list.len() => Attempt::Blocked(Self {
                    slot,
                    op: Op::Send { socket, list },
                    done,
                }),
                other => Attempt::Ended(sent(list, io_result(other.map(drop)))),
            },
            Op::Accept { listener } => match accept(&listener) {
                Err(Errno::AGAIN) => Attempt::Blocked(Self {
                    slot,
                    op: Op::Accept { listener },
                    done,
                }),
                other => Attempt::Ended(Outcome::Accepted(io_result(other))),
            },
            Op::Connect { socket, address } => match connect(&socket, &address, done > 0) {
                Err(Errno::AGAIN) => Attempt::Blocked(Self {
                    slot,
                    op: Op::Connect { socket, address },
                    done: 1,
                }),
                other => Attempt::Ended(Outcome::Connected(io_result(other))),
            },
            other => Attempt::Ended(other.fail(Errno::OPNOTSUPP)),
        }
    }
}

fn attempt_recv(slot: u32, socket: Fd, mut buffer: Buffer, range: Range<usize>) -> Attempt {
    let into = buffer.get_mut(range.clone()).unwrap_or_default();
    let asked = into.len();
    match recv(&socket, into) {
        Err(Errno::AGAIN) => Attempt::Blocked(Pending::new(
            slot,
            Op::Recv {
                socket,
                buffer,
                range,
            },
        )),
        Ok(count) if count > 0 && count < asked => Attempt::Drained(Outcome::Received {
            buffer,
            result: Ok(count),
        }),
        other => Attempt::Ended(Outcome::Received {
            buffer,
            result: io_result(other),
        }),
    }
}
