//! GET LBA STATUS: which blocks have space.

use super::in_range;
use crate::attention::NexusState;
use crate::command::{DiskOp, DiskResult, Response};
use crate::job::{Input, Job, Turn};
use crate::limits;
use crate::opcodes::{Begun, Start};
use crate::sense::Code;
use crate::wire::{self, Writer};

/// Bytes of one descriptor.
const DESCRIPTOR: u32 = 16;

/// Asks the disk run by run, until the allocation length, the end of the unit or the bound on
/// descriptors is reached.
#[derive(Debug)]
pub(crate) struct Scan {
    next: u64,
    end: u64,
    allocation: u32,
    /// `(first block, blocks, mapped)`, neighbours of one kind joined.
    runs: Vec<(u64, u64, bool)>,
    wanted: u32,
    asked: u32,
    thin: bool,
}

pub(crate) fn lba_status(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    let lba = cdb.u64(2);
    in_range(unit, lba, 1)?;
    // REPORT TYPE: all descriptors, the only report there is.
    if cdb.u8(14) != 0 {
        return Err(Response::invalid_cdb(14, Some(7)));
    }
    let allocation = cdb.u32(10);
    let room = allocation
        .saturating_sub(8)
        .checked_div(DESCRIPTOR)
        .unwrap_or(0);
    let mut scan = Scan {
        next: lba,
        end: unit.blocks,
        allocation,
        runs: Vec::new(),
        wanted: room.clamp(1, limits::STATUS_DESCRIPTORS),
        asked: 0,
        thin: unit.thin,
    };
    if !unit.thin {
        scan.runs.push((lba, unit.blocks.saturating_sub(lba), true));
    }
    Ok(Job::Scan(scan))
}

impl Scan {
    pub(crate) fn start(&self) -> Turn {
        if !self.thin {
            return self.answer();
        }
        Turn::Disk(DiskOp::Status { lba: self.next })
    }

    pub(crate) fn resume(&mut self, with: Input<'_>) -> Turn {
        let Input::Disk(DiskResult::Status { mapped, blocks }) = with else {
            return Turn::confused();
        };
        let left = self.end.saturating_sub(self.next);
        let blocks = blocks.clamp(1, left.max(1));
        match self.runs.last_mut() {
            Some((_, count, kind)) if *kind == mapped => *count = count.saturating_add(blocks),
            _ => self.runs.push((self.next, blocks, mapped)),
        }
        self.next = self.next.saturating_add(blocks);
        self.asked = self.asked.saturating_add(1);
        if self.next >= self.end || self.asked >= self.wanted {
            return self.answer();
        }
        Turn::Disk(DiskOp::Status { lba: self.next })
    }

    fn answer(&self) -> Turn {
        let mut out = Writer::new();
        out.u32(0).u32(0);
        for (lba, blocks, mapped) in &self.runs {
            out.u64(*lba)
                .u32(u32::try_from(*blocks).unwrap_or(u32::MAX))
                .u8(u8::from(!mapped))
                .u24(0);
        }
        if out.len() == 8 {
            return Turn::Done(Response::illegal(Code::LBA_RANGE));
        }
        let len = wire::len32(out.after(4));
        out.set_u32(0, len);
        Turn::Done(Response::data(out.finish(), self.allocation))
    }

    /// One past the block it asks for next.
    pub(crate) fn end_block(&self) -> u64 {
        self.next.saturating_add(1)
    }
}
