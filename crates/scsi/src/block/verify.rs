//! VERIFY(10), VERIFY(12), VERIFY(16): reading the medium, and comparing it.

use super::{
    Extent, bytes_of, difference, miscompare, next_chunk, no_protection, prefix, wrong_length,
};
use crate::attention::NexusState;
use crate::command::{DiskOp, DiskResult, Response};
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};
use crate::wire;

/// What the medium is compared with.
#[derive(Debug)]
pub(super) enum Against {
    /// Nothing: it must be readable (BYTCHK 00b).
    Medium,
    /// As many blocks of data (01b). Copied, for the reads come after the data-out is gone.
    Data(Vec<u8>),
    /// One block of data, each block of the medium (11b).
    Block(Vec<u8>),
}

/// A verification, chunk by chunk.
#[derive(Debug)]
pub(crate) struct Verify {
    extent: Extent,
    block_size: u32,
    against: Against,
    /// Data-out that is still to come.
    coming: u32,
    transfer: u32,
    done: u64,
}

pub(crate) fn verify(start: &Start<'_>, _: &mut NexusState) -> Begun {
    no_protection(&start.cdb)?;
    let extent = Extent::checked(&start.cdb, start.unit)?;
    let all = bytes_of(start.unit, extent.blocks).unwrap_or(0);
    let block_size = start.unit.block_size;
    let (against, transfer) = match start.cdb.u8(1) & 0x06 {
        0 => (Against::Medium, 0),
        2 => (Against::Data(Vec::new()), all),
        6 => (Against::Block(Vec::new()), block_size),
        _ => return Err(Response::invalid_cdb(1, Some(2))),
    };
    let mut verify = Verify::new(extent, block_size, against);
    if extent.blocks > 0 {
        verify.coming = transfer;
        verify.transfer = transfer;
    }
    if start.command.data_out_len < verify.coming {
        return Err(wrong_length().with_transfer(transfer));
    }
    Ok(Job::Verify(verify))
}

impl Verify {
    pub(super) fn new(extent: Extent, block_size: u32, against: Against) -> Self {
        Self {
            extent,
            block_size,
            against,
            coming: 0,
            transfer: 0,
            done: 0,
        }
    }

    pub(crate) fn start(&self) -> Turn {
        match self.coming {
            0 => self.read_next(),
            len => Turn::Receive(len),
        }
    }

    pub(super) fn read_next(&self) -> Turn {
        let blocks = u64::from(self.extent.blocks);
        match next_chunk(self.extent.lba, blocks, self.done, self.block_size) {
            Some((lba, blocks)) => Turn::Disk(DiskOp::Read { lba, blocks }),
            None => Turn::GOOD,
        }
    }

    pub(crate) fn resume(&mut self, with: Input<'_>) -> Turn {
        match with {
            Input::Data(data) => {
                let data = match prefix(data, self.coming) {
                    Ok(data) => data.to_vec(),
                    Err(response) => return Turn::Done(response),
                };
                match &mut self.against {
                    Against::Medium => {}
                    Against::Data(kept) | Against::Block(kept) => *kept = data,
                }
                self.coming = 0;
                self.read_next()
            }
            Input::Disk(DiskResult::Read(found)) => self.compare(found),
            _ => Turn::confused(),
        }
    }

    fn compare(&mut self, found: &[u8]) -> Turn {
        let size = wire::index(self.block_size).max(1);
        let offset = wire::index(u32::try_from(self.done).unwrap_or(u32::MAX)).saturating_mul(size);
        let differs = match &self.against {
            Against::Medium => None,
            Against::Data(data) => {
                let rest = data.get(offset..).unwrap_or_default();
                let here = rest.get(..found.len()).unwrap_or(rest);
                difference(here, found).map(|at| at.saturating_add(offset))
            }
            Against::Block(block) => found.chunks(size).find_map(|b| difference(block, b)),
        };
        if let Some(at) = differs {
            return Turn::Done(miscompare(u64::try_from(at).unwrap_or(u64::MAX)));
        }
        let read = found.len().checked_div(size).unwrap_or(0);
        if read == 0 {
            return Turn::confused();
        }
        self.done = self.done.saturating_add(u64::from(wire::len32(read)));
        self.read_next()
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        self.extent.range()
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.transfer
    }
}
