//! Commands that read and write in one: COMPARE AND WRITE, ORWRITE(16).
//!
//! Their footprint is exclusive: between their read and their write no other command of this unit may
//! touch the blocks.

use super::{
    Extent, bytes_of, difference, fua, in_range, miscompare, no_protection, prefix, wrong_length,
};
use crate::attention::NexusState;
use crate::command::{DiskOp, DiskResult, Response};
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};
use crate::wire;

/// COMPARE AND WRITE: the first half of the data-out is compared, the second written.
#[derive(Debug)]
pub(crate) struct Compare {
    extent: Extent,
    /// Bytes of one half.
    half: u32,
    expected: Vec<u8>,
    fua: bool,
}

pub(crate) fn compare_and_write(start: &Start<'_>, _: &mut NexusState) -> Begun {
    no_protection(&start.cdb)?;
    let blocks = start.cdb.u8(13);
    let extent = Extent {
        lba: start.cdb.u64(2),
        blocks: u32::from(blocks),
        at: 13,
    };
    in_range(start.unit, extent.lba, u64::from(extent.blocks))?;
    let half = bytes_of(start.unit, extent.blocks).filter(|half| *half <= u32::MAX / 2);
    let wrong = Response::invalid_cdb(extent.at, Some(7));
    let Some(half) = half.filter(|_| blocks <= start.unit.limits.max_compare_and_write) else {
        return Err(wrong);
    };
    // Less or more than both halves means that initiator and target do not speak of the same blocks.
    if start.command.data_out_len != half.saturating_mul(2) {
        return Err(wrong);
    }
    Ok(Job::Compare(Compare {
        extent,
        half,
        expected: Vec::new(),
        fua: fua(&start.cdb),
    }))
}

impl Compare {
    pub(crate) fn start(&self) -> Turn {
        match self.transfer() {
            0 => Turn::GOOD,
            len => Turn::Receive(len),
        }
    }

    pub(crate) fn resume(&mut self, with: Input<'_>) -> Turn {
        match with {
            Input::Data(data) => {
                if let Err(response) = prefix(data, self.transfer()) {
                    return Turn::Done(response);
                }
                self.expected = prefix(data, self.half).unwrap_or_default().to_vec();
                Turn::Disk(DiskOp::Read {
                    lba: self.extent.lba,
                    blocks: self.extent.blocks,
                })
            }
            Input::Disk(DiskResult::Read(found)) => match difference(&self.expected, found) {
                Some(at) => Turn::Done(miscompare(u64::try_from(at).unwrap_or(u64::MAX))),
                None => Turn::Disk(DiskOp::Write {
                    lba: self.extent.lba,
                    blocks: self.extent.blocks,
                    data_offset: self.half,
                    fua: self.fua,
                }),
            },
            Input::Disk(DiskResult::Done) => Turn::GOOD,
            _ => Turn::confused(),
        }
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        self.extent.range()
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.half.saturating_mul(2)
    }
}

/// ORWRITE(16): what is there, or-ed with the data-out.
#[derive(Debug)]
pub(crate) struct OrWrite {
    extent: Extent,
    transfer: u32,
    data: Vec<u8>,
    fua: bool,
}

pub(crate) fn or_write(start: &Start<'_>, _: &mut NexusState) -> Begun {
    no_protection(&start.cdb)?;
    let extent = Extent::checked(&start.cdb, start.unit)?;
    let transfer = bytes_of(start.unit, extent.blocks).unwrap_or(0);
    if start.command.data_out_len < transfer {
        return Err(wrong_length().with_transfer(transfer));
    }
    Ok(Job::Or(OrWrite {
        extent,
        transfer,
        data: Vec::new(),
        fua: fua(&start.cdb),
    }))
}

impl OrWrite {
    pub(crate) fn start(&self) -> Turn {
        match self.transfer {
            0 => Turn::GOOD,
            len => Turn::Receive(len),
        }
    }

    pub(crate) fn resume(&mut self, with: Input<'_>) -> Turn {
        match with {
            Input::Data(data) => {
                self.data = match prefix(data, self.transfer) {
                    Ok(data) => data.to_vec(),
                    Err(response) => return Turn::Done(response),
                };
                Turn::Disk(DiskOp::Read {
                    lba: self.extent.lba,
                    blocks: self.extent.blocks,
                })
            }
            Input::Disk(DiskResult::Read(found)) if found.len() == wire::index(self.transfer) => {
                let mut pattern = std::mem::take(&mut self.data);
                for (to, from) in pattern.iter_mut().zip(found) {
                    *to |= *from;
                }
                Turn::Disk(DiskOp::WritePattern {
                    lba: self.extent.lba,
                    blocks: self.extent.blocks,
                    pattern,
                    fua: self.fua,
                })
            }
            Input::Disk(DiskResult::Done) => Turn::GOOD,
            _ => Turn::confused(),
        }
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        self.extent.range()
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.transfer
    }
}
