//! Operations and their outcomes. Buffers and descriptors are owned by an operation while it runs,
//! so a caller can neither free nor reuse them too early.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::buffer::{Buffer, SharedBuffer};
use crate::limits::{SEND_BYTES_KEPT, SEND_PARTS_KEPT};

/// A descriptor that stays open while any operation uses it.
pub type Fd = Arc<OwnedFd>;

/// Ends both directions of a socket, so that whatever is pending on it completes: a receive with 0,
/// a send with an error, an accept with an error. The way to end a connection that has operations
/// in flight; the descriptor itself closes with its last [`Fd`].
///
/// # Errors
/// What shutdown(2) reports: mostly that the socket was not connected.
pub fn shutdown(socket: &Fd) -> io::Result<()> {
    end(socket, Shutdown::Both)
}

/// Ends one direction of a socket; see [`shutdown`].
///
/// # Errors
/// What shutdown(2) reports: mostly that the socket was not connected.
pub fn end(socket: &Fd, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => rustix::net::Shutdown::Read,
        Shutdown::Write => rustix::net::Shutdown::Write,
        Shutdown::Both => rustix::net::Shutdown::Both,
    };
    Ok(rustix::net::shutdown(socket, how)?)
}

/// One piece of a send.
#[derive(Clone, Debug)]
pub enum Part {
    /// A range of the list's own bytes.
    Own(Range<usize>),
    /// A range of a shared buffer.
    Shared(SharedBuffer, Range<usize>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Own(range) | Self::Shared(_, range) => range.len(),
        }
    }
}

/// What one send carries: small pieces copied into the list, large ones referred to. In order.
#[derive(Debug, Default)]
pub struct SendList {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    total: usize,
}

impl SendList {
    /// An empty list; allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a copy of `bytes`; follows directly on bytes appended before.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.total += bytes.len();
        let end = self.bytes.len();
        match self.parts.last_mut() {
            // Own bytes only ever grow at the end, so a preceding own part ends where these start.
            Some(Part::Own(range)) => range.end = end,
            _ => self.parts.push(Part::Own(start..end)),
        }
    }

    /// Appends `buffer[range]` without a copy. An empty range is ignored; one that does not lie in
    /// the buffer makes the send fail with `InvalidInput`, without sending anything.
    pub fn push_shared(&mut self, buffer: SharedBuffer, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        self.total = self.total.saturating_add(range.len());
        self.parts.push(Part::Shared(buffer, range));
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Pieces in all: what one send hands to the kernel.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Empties the list and lets the shared buffers go; keeps a bounded capacity for reuse.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(SEND_BYTES_KEPT);
        self.parts.clear();
        self.parts.shrink_to(SEND_PARTS_KEPT);
        self.total = 0;
    }

    /// The whole list in one piece, for whoever has no socket. Ranges outside their buffer count
    /// as empty.
    pub fn gather(&self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.bytes.len());
        for part in &self.parts {
            whole.extend_from_slice(self.slice(part).unwrap_or_default());
        }
        whole
    }

    /// Whether every range lies in its buffer.
    pub(crate) fn is_sound(&self) -> bool {
        self.parts.iter().all(|part| self.slice(part).is_some())
    }

    /// Calls `piece` for what remains after the first `done` bytes, until it says to stop.
    pub(crate) fn pieces_after<'a>(
        &'a self,
        done: usize,
        mut piece: impl FnMut(&'a [u8]) -> std::ops::ControlFlow<()>,
    ) {
        let mut skip = done;
        for part in &self.parts {
            let len = part.len();
            if skip >= len {
                skip -= len;
                continue;
            }
            let slice = self
                .slice(part)
                .and_then(|slice| slice.get(skip..))
                .unwrap_or_default();
            skip = 0;
            if piece(slice).is_break() {
                return;
            }
        }
    }

    fn slice<'a>(&'a self, part: &'a Part) -> Option<&'a [u8]> {
        match part {
            Part::Own(range) => self.bytes.get(range.clone()),
            Part::Shared(buffer, range) => buffer.get(range.clone()),
        }
    }
}

/// What [`Op::Allocate`] does with a range of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AllocateMode {
    /// Reserves space, keeping the size.
    Reserve,
    /// Reserves space and extends the size where the range ends behind it.
    Extend,
    /// Gives the space back; the range reads as zeros. Keeps the size.
    PunchHole,
    /// The range reads as zeros, with space kept. Keeps the size.
    ZeroRange,
}

/// An operation, owning all it works on.
///
/// Ranges are of the buffer and in bytes; one that does not lie in it ends with `InvalidInput`.
/// A buffer of a direct-I/O file must have its range, offset and length aligned as the file asks.
#[derive(Debug)]
pub enum Op {
    /// Takes one connection from a listening TCP socket.
    Accept {
        /// The listening socket.
        listener: Fd,
    },
    /// Connects a TCP socket.
    Connect {
        /// The socket, not connected yet.
        socket: Fd,
        /// Where to.
        address: SocketAddr,
    },
    /// Receives at least one byte into `buffer[range]`; 0 = peer closed. An empty range ends with
    /// `InvalidInput`, because its 0 would mean that. One at a time per socket.
    Recv {
        /// The connected socket.
        socket: Fd,
        /// Where the bytes go.
        buffer: Buffer,
        /// What part of it may be filled.
        range: Range<usize>,
    },
    /// Sends the whole list, however many calls that takes, or fails. One at a time per socket:
    /// two at once may mix their bytes.
    Send {
        /// The connected socket.
        socket: Fd,
        /// What to send.
        list: SendList,
    },
    /// Reads at `offset` until the range is full or the file ends.
    ///
    /// On a direct-I/O file a short read whose remainder is not aligned any more counts as the end
    /// of the file.
    Read {
        /// The file or block device.
        file: Fd,
        /// Where the bytes go.
        buffer: Buffer,
        /// What part of it is to be filled.
        range: Range<usize>,
        /// Byte offset in the file.
        offset: u64,
    },
    /// Writes `buffer[range]` at `offset` until all is written.
    Write {
        /// The file or block device.
        file: Fd,
        /// What to write.
        buffer: Buffer,
        /// What part of it.
        range: Range<usize>,
        /// Byte offset in the file.
        offset: u64,
        /// Stable before it ends, the drive's volatile cache included (`RWF_DSYNC`).
        durable: bool,
    },
    /// Makes all that was written before stable.
    Sync {
        /// The file or block device.
        file: Fd,
        /// Without metadata that is not needed to read the data back (fdatasync).
        data_only: bool,
    },
    /// fallocate(2).
    Allocate {
        /// The file.
        file: Fd,
        /// What to do.
        mode: AllocateMode,
        /// Start of the range in bytes.
        offset: u64,
        /// Length of the range in bytes.
        len: u64,
    },
    /// Discards a range of a block device (BLKDISCARD); what it reads as afterwards is the
    /// device's. On a worker thread in every driver.
    BlockDiscard {
        /// The block device.
        file: Fd,
        /// Start of the range in bytes, a multiple of the sector size.
        offset: u64,
        /// Length of the range in bytes, a multiple of the sector size.
        len: u64,
    },
    /// Zeros a range of a block device without transfer where it can (BLKZEROOUT). On a worker
    /// thread in every driver.
    BlockZero {
        /// The block device.
        file: Fd,
        /// Start of the range in bytes, a multiple of the sector size.
        offset: u64,
        /// Length of the range in bytes, a multiple of the sector size.
        len: u64,
    },
    /// Whether there is data at `offset`, and where that run of data or hole ends; by SEEK_DATA and
    /// SEEK_HOLE, on a worker thread. What cannot tell (a block device) is data to its end.
    Extent {
        /// The file or block device.
        file: Fd,
        /// Byte offset in it; at or behind the end is `ENXIO`.
        offset: u64,
    },
    /// Ends after this long; not earlier.
    Timer {
        /// How long from now.
        after: Duration,
    },
}

/// How an operation ended, with what it owned.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Op::Accept`]: the connection and where it comes from.
    Accepted(io::Result<(OwnedFd, SocketAddr)>),
    /// Of [`Op::Connect`].
    Connected(io::Result<()>),
    /// Of [`Op::Recv`]: bytes received, counted from the start of the range.
    Received {
        /// The operation's buffer.
        buffer: Buffer,
        /// Bytes received; 0 = peer closed.
        result: io::Result<usize>,
    },
    /// Of [`Op::Send`]. The list comes back cleared, for reuse.
    Sent {
        /// The operation's list, empty.
        list: SendList,
        /// After an error part of the list may have been sent.
        result: io::Result<()>,
    },
    /// Of [`Op::Read`]: bytes read, counted from the start of the range.
    Read {
        /// The operation's buffer.
        buffer: Buffer,
        /// Bytes read; less than asked only where the file ends.
        result: io::Result<usize>,
    },
    /// Of [`Op::Write`].
    Written {
        /// The operation's buffer.
        buffer: Buffer,
        /// After an error any part of the range may have been written.
        result: io::Result<()>,
    },
    /// Of [`Op::Sync`], [`Op::Allocate`], [`Op::BlockDiscard`], [`Op::BlockZero`], [`Op::Timer`].
    Done(io::Result<()>),
    /// Of [`Op::Extent`]: whether it is data, and the byte offset where that run ends.
    Extent(io::Result<(bool, u64)>),
}

/// What ended, with the token it was started with.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`crate::Reactor::submit`].
    pub token: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Op {
    /// What is wrong with it before the kernel is asked.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        let sound = match self {
            Self::Recv { buffer, range, .. } => {
                !range.is_empty() && buffer.get(range.clone()).is_some()
            }
            Self::Read {
                buffer,
                range,
                offset,
                ..
            }
            | Self::Write {
                buffer,
                range,
                offset,
                ..
            } => {
                // The kernel's offsets are signed, and io_uring takes -1 for "where the file is".
                let end = offset.checked_add(range.len() as u64);
                buffer.get(range.clone()).is_some() && end.is_some_and(|end| end <= OFFSET_MAX)
            }
            Self::Send { list, .. } => list.is_sound(),
            _ => true,
        };
        if sound { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// The outcome of an operation that ends without having been started, or fails as a whole.
    pub(crate) fn fail(self, errno: Errno) -> Outcome {
        let error = io::Error::from(errno);
        match self {
            Self::Accept { .. } => Outcome::Accepted(Err(error)),
            Self::Connect { .. } => Outcome::Connected(Err(error)),
            Self::Recv { buffer, .. } => Outcome::Received {
                buffer,
                result: Err(error),
            },
            Self::Send { list, .. } => sent(list, Err(error)),
            Self::Read { buffer, .. } => Outcome::Read {
                buffer,
                result: Err(error),
            },
            Self::Write { buffer, .. } => Outcome::Written {
                buffer,
                result: Err(error),
            },
            Self::Sync { .. }
            | Self::Allocate { .. }
            | Self::BlockDiscard { .. }
            | Self::BlockZero { .. }
            | Self::Timer { .. } => Outcome::Done(Err(error)),
            Self::Extent { .. } => Outcome::Extent(Err(error)),
        }
    }

    /// Whether a worker thread does it in every driver.
    pub(crate) fn needs_worker(&self) -> bool {
        matches!(
            self,
            Self::BlockDiscard { .. } | Self::BlockZero { .. } | Self::Extent { .. }
        )
    }

    /// A word for traces.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Accept { .. } => "accept",
            Self::Connect { .. } => "connect",
            Self::Recv { .. } => "recv",
            Self::Send { .. } => "send",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Sync { .. } => "sync",
            Self::Allocate { .. } => "allocate",
            Self::BlockDiscard { .. } => "block-discard",
            Self::BlockZero { .. } => "block-zero",
            Self::Extent { .. } => "extent",
            Self::Timer { .. } => "timer",
        }
    }
}

/// Where files end at the latest.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// The outcome of a send: the list goes back cleared.
pub(crate) fn sent(mut list: SendList, result: io::Result<()>) -> Outcome {
    list.clear();
    Outcome::Sent { list, result }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn shared(bytes: &[u8]) -> SharedBuffer {
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer.share()
    }

    fn list() -> SendList {
        let mut list = SendList::new();
        list.push_bytes(b"ab");
        list.push_bytes(b"");
        list.push_bytes(b"cd");
        list.push_shared(shared(b"0123456789"), 2..5);
        list.push_shared(shared(b"0123456789"), 4..4);
        list.push_bytes(b"ef");
        list
    }

    #[test]
    fn neighbouring_bytes_merge_and_empty_ranges_vanish() {
        let list = list();
        assert_eq!(list.parts().len(), 3);
        assert_eq!(list.len(), 9);
        assert_eq!(list.gather(), b"abcd234ef");
    }

    #[test]
    fn pieces_after_any_count_are_the_rest() {
        let list = list();
        let whole = list.gather();
        for done in 0..=whole.len() {
            let mut rest = Vec::new();
            list.pieces_after(done, |piece| {
                assert!(!piece.is_empty());
                rest.extend_from_slice(piece);
                ControlFlow::Continue(())
            });
            assert_eq!(rest, &whole[done..]);
        }
    }

    #[test]
    fn clearing_lets_shared_buffers_go() {
        let buffer = shared(b"x");
        let mut list = SendList::new();
        list.push_shared(buffer.clone(), 0..1);
        list.clear();
        assert!(list.is_empty());
        assert!(buffer.try_unique().is_ok());
    }

    #[test]
    fn ranges_outside_their_buffer_are_found() {
        let mut list = list();
        assert!(list.is_sound());
        list.push_shared(shared(b"abc"), 2..4);
        assert!(!list.is_sound());
    }
}
