//! File operations as plain blocking calls: for worker threads and for the simulation.

#![expect(unsafe_code, reason = "the block device ioctls have no safe wrapper")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::limits::BYTES_PER_CALL;
use crate::op::{AllocateMode, Op, Outcome};

/// BLKDISCARD: `_IO(0x12, 119)`, which libc does not name.
const BLKDISCARD: libc::Ioctl = 0x1277;
/// BLKZEROOUT: `_IO(0x12, 127)`.
const BLKZEROOUT: libc::Ioctl = 0x127f;

/// Runs a file operation to its end on the calling thread. Socket operations do not come here;
/// they fail with `EOPNOTSUPP`.
pub(crate) fn run(op: Op) -> Outcome {
    match op {
        Op::Read {
            file,
            mut buffer,
            range,
            offset,
        } => {
            let into = buffer.get_mut(range).unwrap_or_default();
            let result = read(&file, into, offset).map_err(Into::into);
            Outcome::Read { buffer, result }
        }
        Op::Write {
            file,
            buffer,
            range,
            offset,
            durable,
        } => {
            let from = buffer.get(range).unwrap_or_default();
            let result = write(&file, from, offset, durable).map_err(Into::into);
            Outcome::Written { buffer, result }
        }
        Op::Sync { file, data_only } => Outcome::Done(sync(&file, data_only).map_err(Into::into)),
        Op::Allocate {
            file,
            mode,
            offset,
            len,
        } => {
            let result = again(|| rustix::fs::fallocate(&file, mode.flags(), offset, len));
            Outcome::Done(result.map_err(Into::into))
        }
        Op::BlockDiscard { file, offset, len } => {
            Outcome::Done(block_range(&file, BLKDISCARD, offset, len).map_err(Into::into))
        }
        Op::BlockZero { file, offset, len } => {
            Outcome::Done(block_range(&file, BLKZEROOUT, offset, len).map_err(Into::into))
        }
        Op::Extent { file, offset } => Outcome::Extent(extent(&file, offset).map_err(Into::into)),
        other => other.fail(Errno::OPNOTSUPP),
    }
}

impl AllocateMode {
    /// The flags of fallocate(2).
    pub(crate) fn flags(self) -> FallocateFlags {
        match self {
            Self::Reserve => FallocateFlags::KEEP_SIZE,
            Self::Extend => FallocateFlags::empty(),
            Self::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Self::ZeroRange => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        }
    }
}

/// Reads until `into` is full or the file ends.
fn read(file: &OwnedFd, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < into.len() {
        let end = into.len().min(done + BYTES_PER_CALL);
        let mut piece = [IoSliceMut::new(&mut into[done..end])];
        let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
        match again(|| rustix::io::preadv(file, &mut piece, at)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(errno) if ends_read(errno, done) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Reads what the page cache holds whole, without waiting; gives anything else back. Not for
/// direct I/O, which waits for the disk even when told not to.
pub(crate) fn read_cached(op: Op) -> Result<Outcome, Op> {
    let Op::Read {
        file,
        mut buffer,
        range,
        offset,
    } = op
    else {
        return Err(op);
    };
    let is_buffered = rustix::fs::fcntl_getfl(&file)
        .is_ok_and(|flags| !flags.contains(rustix::fs::OFlags::DIRECT));
    let into = buffer.get_mut(range.clone()).unwrap_or_default();
    let asked = into.len();
    if is_buffered && asked <= BYTES_PER_CALL {
        let mut piece = [IoSliceMut::new(into)];
        let read = rustix::io::preadv2(&file, &mut piece, offset, ReadWriteFlags::NOWAIT);
        if read == Ok(asked) {
            return Ok(Outcome::Read {
                buffer,
                result: Ok(asked),
            });
        }
    }
    Err(Op::Read {
        file,
        buffer,
        range,
        offset,
    })
}

/// Whether an error after `done` bytes means that the file ended: a direct read that stopped at an
/// unaligned end refuses to go on from there.
pub(crate) fn ends_read(errno: Errno, done: usize) -> bool {
    errno == Errno::INVAL && done > 0
}

fn write(file: &OwnedFd, from: &[u8], offset: u64, durable: bool) -> Result<(), Errno> {
    let flags = if durable {
        ReadWriteFlags::DSYNC
    } else {
        ReadWriteFlags::empty()
    };
    let mut done = 0;
    while done < from.len() {
        let end = from.len().min(done + BYTES_PER_CALL);
        let piece = [IoSlice::new(&from[done..end])];
        let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
        match again(|| rustix::io::pwritev2(file, &piece, at, flags))? {
            // No progress and no reason: not to be repeated for ever.
            0 => return Err(Errno::IO),
            count => done += count,
        }
    }
    Ok(())
}

fn sync(file: &OwnedFd, data_only: bool) -> Result<(), Errno> {
    again(|| {
        if data_only {
            rustix::fs::fdatasync(file)
        } else {
            rustix::fs::fsync(file)
        }
    })
}

fn block_range(file: &OwnedFd, request: libc::Ioctl, offset: u64, len: u64) -> Result<(), Errno> {
    let range = [offset, len];
    again(|| {
        // SAFETY: both requests read two 64-bit integers from their argument and keep no pointer;
        // `range` outlives the call, and the descriptor is open.
        let status = unsafe { libc::ioctl(file.as_raw_fd(), request, range.as_ptr()) };
        if status == 0 {
            Ok(())
        } else {
            Err(last_errno())
        }
    })
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Whether there is data at `offset`, and where that run ends.
fn extent(file: &OwnedFd, offset: u64) -> Result<(bool, u64), Errno> {
    let size = rustix::fs::seek(file, SeekFrom::End(0))?;
    if offset >= size {
        return Err(Errno::NXIO);
    }
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Ok((false, data.min(size))),
        Ok(_) => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(offset))?;
            // A hole punched in between the two calls.
            Ok((true, hole.max(offset + 1).min(size)))
        }
        Err(Errno::NXIO) => Ok((false, size)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((true, size)),
        Err(errno) => Err(errno),
    }
}

/// Repeats a call that a signal interrupted.
pub(crate) fn again<R>(mut call: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
