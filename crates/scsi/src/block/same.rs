//! WRITE SAME(10), WRITE SAME(16).
//!
//! Zeros, given or implied by NDOB, become one operation that makes blocks read as zeros, and with
//! UNMAP may give their space back; anything else is written chunk by chunk, UNMAP or not.

use super::{Extent, in_range, next_chunk, no_protection, prefix, wrong_length};
use crate::attention::NexusState;
use crate::command::{DiskOp, DiskResult, Response};
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};

/// A WRITE SAME under way.
#[derive(Debug)]
pub(crate) struct Same {
    lba: u64,
    blocks: u64,
    block_size: u32,
    unmap: bool,
    /// Zeros, without a data-out buffer or found in it.
    zeros: bool,
    /// Bytes of data-out: one block or none.
    transfer: u32,
    pattern: Vec<u8>,
    done: u64,
}

pub(crate) fn write_same(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    no_protection(cdb)?;
    let sixteen = cdb.opcode() == 0x93;
    let (unmap, anchor) = (cdb.bit(1, 0x08), cdb.bit(1, 0x10));
    if anchor {
        return Err(Response::invalid_cdb(1, Some(4)));
    }
    if unmap && !unit.thin {
        return Err(Response::invalid_cdb(1, Some(3)));
    }
    // LBDATA and PBDATA: obsolete, and would ask for other contents.
    if cdb.bit(1, 0x06) {
        return Err(Response::invalid_cdb(1, Some(2)));
    }
    let zeros = sixteen && cdb.bit(1, 0x01);
    let extent = Extent::of(cdb);
    let blocks = u64::from(extent.blocks);
    in_range(unit, extent.lba, blocks)?;
    // WSNZ: no blocks, which once meant "to the end", is more than one command may ask for.
    if blocks == 0 || blocks > unit.limits.max_write_same {
        return Err(Response::invalid_cdb(extent.at, Some(7)));
    }
    let wanted = if zeros { 0 } else { unit.block_size };
    if start.command.data_out_len != wanted {
        return Err(wrong_length().with_transfer(wanted));
    }
    Ok(Job::Same(Same {
        lba: extent.lba,
        blocks,
        block_size: unit.block_size,
        unmap,
        zeros,
        transfer: wanted,
        pattern: Vec::new(),
        done: 0,
    }))
}

impl Same {
    pub(crate) fn start(&self) -> Turn {
        match self.transfer {
            0 => self.zero(),
            len => Turn::Receive(len),
        }
    }

    fn zero(&self) -> Turn {
        Turn::Disk(DiskOp::Zero {
            lba: self.lba,
            blocks: self.blocks,
            unmap: self.unmap,
            fua: false,
        })
    }

    pub(crate) fn resume(&mut self, with: Input<'_>) -> Turn {
        match with {
            Input::Data(data) => {
                let block = match prefix(data, self.block_size) {
                    Ok(block) => block,
                    Err(response) => return Turn::Done(response),
                };
                if block.iter().all(|b| *b == 0) {
                    self.zeros = true;
                    return self.zero();
                }
                self.pattern = block.to_vec();
                self.write_next()
            }
            Input::Disk(DiskResult::Done) if self.zeros => Turn::GOOD,
            Input::Disk(DiskResult::Done) => self.write_next(),
            _ => Turn::confused(),
        }
    }

    fn write_next(&mut self) -> Turn {
        let Some((lba, blocks)) = next_chunk(self.lba, self.blocks, self.done, self.block_size)
        else {
            return Turn::GOOD;
        };
        self.done = self.done.saturating_add(u64::from(blocks));
        Turn::Disk(DiskOp::WritePattern {
            lba,
            blocks,
            pattern: self.pattern.clone(),
            fua: false,
        })
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        (self.lba, self.blocks)
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.transfer
    }
}
