//! Socket operations as single non-blocking attempts: for the epoll driver and the simulation.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};

use super::blocking::again;
use crate::limits::PIECES_PER_SEND;
use crate::op::{Fd, SendList};

/// Makes calls on a descriptor return instead of waiting.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, true)
}

/// Accepts one connection, or `EAGAIN`. The new socket does not block.
pub(crate) fn accept(listener: &Fd) -> Result<(OwnedFd, SocketAddr), Errno> {
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

/// Begins to connect: done, or `EAGAIN` when the socket becomes writable at the end of it.
pub(crate) fn connect(socket: &Fd, address: &SocketAddr) -> Result<(), Errno> {
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
pub(crate) fn recv(socket: &Fd, into: &mut [u8]) -> Result<usize, Errno> {
    again(|| rustix::net::recv(socket, &mut *into, RecvFlags::DONTWAIT).map(|(count, _)| count))
}

/// Sends what remains of a list after `done` bytes, as far as the socket takes it. Ends with the
/// new `done`, which is less than the list's length where `EAGAIN` stopped it.
pub(crate) fn send(socket: &Fd, list: &SendList, mut done: usize) -> Result<usize, Errno> {
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
