//! Block commands of SBC: where their CDBs keep address and length, and the checks they share.

mod atomic;
mod capacity;
mod read;
mod same;
mod status;
mod sync;
mod unmap;
mod verify;
mod write;

pub(crate) use atomic::{Compare, OrWrite, compare_and_write, or_write};
pub(crate) use capacity::{capacity10, capacity16};
pub(crate) use read::{Read, read};
pub(crate) use same::{Same, write_same};
pub(crate) use status::{Scan, lba_status};
pub(crate) use sync::{Flush, prefetch, synchronize_cache};
pub(crate) use unmap::{Unmap, unmap};
pub(crate) use verify::{Verify, verify};
pub(crate) use write::{Write, write, write_and_verify};

use crate::command::Response;
use crate::limits;
use crate::sense::{Code, Key, Sense};
use crate::unit::Unit;
use crate::wire::{self, Cdb};

/// Blocks that a command names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Extent {
    lba: u64,
    blocks: u32,
    /// Where the CDB keeps the count, for field pointers.
    at: u16,
}

impl Extent {
    /// Reads address and count from where the CDB's group keeps them.
    fn of(cdb: &Cdb) -> Self {
        let (lba, blocks, at) = match cdb.opcode() >> 5 {
            0 => {
                // Six-byte commands have no way to ask for nothing: 0 means 256.
                let blocks = match cdb.u8(4) {
                    0 => 256,
                    n => u32::from(n),
                };
                (u64::from(cdb.u24(1) & 0x1f_ffff), blocks, 4)
            }
            1 | 2 => (u64::from(cdb.u32(2)), u32::from(cdb.u16(7)), 7),
            5 => (u64::from(cdb.u32(2)), cdb.u32(6), 6),
            _ => (cdb.u64(2), cdb.u32(10), 10),
        };
        Self { lba, blocks, at }
    }

    /// Reads them and checks them: inside the unit, and no more than one command may ask for.
    fn checked(cdb: &Cdb, unit: &Unit) -> Result<Self, Response> {
        let extent = Self::of(cdb);
        in_range(unit, extent.lba, u64::from(extent.blocks))?;
        let too_long = extent.blocks > unit.limits.max_transfer_blocks;
        if too_long || bytes_of(unit, extent.blocks).is_none() {
            return Err(Response::invalid_cdb(extent.at, Some(7)));
        }
        Ok(extent)
    }

    fn range(self) -> (u64, u64) {
        (self.lba, u64::from(self.blocks))
    }
}

/// LOGICAL BLOCK ADDRESS OUT OF RANGE unless all blocks are inside the unit. Asking for no blocks right
/// behind the last one is still inside.
fn in_range(unit: &Unit, lba: u64, blocks: u64) -> Result<(), Response> {
    match lba.checked_add(blocks) {
        Some(end) if end <= unit.blocks => Ok(()),
        _ => Err(Response::illegal(Code::LBA_RANGE)),
    }
}

/// Blocks as bytes, where a transfer can be that long at all.
fn bytes_of(unit: &Unit, blocks: u32) -> Option<u32> {
    blocks.checked_mul(unit.block_size)
}

/// Refuses RDPROTECT, WRPROTECT and VRPROTECT: there is no protection information. Six-byte commands
/// have no such field.
fn no_protection(cdb: &Cdb) -> Result<(), Response> {
    if cdb.opcode() >> 5 != 0 && cdb.u8(1) >> 5 != 0 {
        return Err(Response::invalid_cdb(1, Some(7)));
    }
    Ok(())
}

/// FUA, which six-byte commands do not have.
fn fua(cdb: &Cdb) -> bool {
    cdb.opcode() >> 5 != 0 && cdb.bit(1, 0x08)
}

/// Blocks that a task handles in one disk operation of its own making.
fn chunk(block_size: u32) -> u32 {
    limits::CHUNK_BYTES
        .checked_div(block_size)
        .unwrap_or(1)
        .max(1)
}

/// Blocks from `done` on, at most a chunk: `(first, count)`; none when all are done.
fn next_chunk(lba: u64, blocks: u64, done: u64, block_size: u32) -> Option<(u64, u32)> {
    let left = blocks.checked_sub(done).filter(|left| *left > 0)?;
    let count = u32::try_from(left)
        .unwrap_or(u32::MAX)
        .min(chunk(block_size));
    Some((lba.saturating_add(done), count))
}

/// The transport's length and the CDB's disagree.
const fn wrong_length() -> Response {
    Response::illegal(Code::DATA_LENGTH)
}

/// MISCOMPARE with the offset of the first byte that differs.
const fn miscompare(offset: u64) -> Response {
    Response::check(Sense::new(Key::Miscompare, Code::MISCOMPARE).with_information(offset))
}

/// The first byte in which two buffers differ, a shorter one included.
fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    let shorter = a.len().min(b.len());
    Some(a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(shorter))
}

/// A usable prefix of data-out; shorter than asked for is an error of the transport.
fn prefix(data: &[u8], len: u32) -> Result<&[u8], Response> {
    data.get(..wire::index(len)).ok_or_else(wrong_length)
}
