//! READ(6), READ(10), READ(12), READ(16).

use super::{Extent, bytes_of, no_protection};
use crate::attention::NexusState;
use crate::command::{DataIn, DiskOp, DiskResult, Response};
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};

/// A read: one disk operation, whose buffer is the data.
#[derive(Debug)]
pub(crate) struct Read {
    extent: Extent,
    bytes: u32,
}

pub(crate) fn read(start: &Start<'_>, _: &mut NexusState) -> Begun {
    no_protection(&start.cdb)?;
    let extent = Extent::checked(&start.cdb, start.unit)?;
    let bytes = bytes_of(start.unit, extent.blocks).unwrap_or(0);
    Ok(Job::Read(Read { extent, bytes }))
}

impl Read {
    pub(crate) fn start(&self) -> Turn {
        if self.extent.blocks == 0 {
            return Turn::GOOD;
        }
        Turn::Disk(DiskOp::Read {
            lba: self.extent.lba,
            blocks: self.extent.blocks,
        })
    }

    pub(crate) fn resume(&self, with: Input<'_>) -> Turn {
        let Input::Disk(DiskResult::Read(_)) = with else {
            return Turn::confused();
        };
        let mut response = Response::good().with_transfer(self.bytes);
        response.data = DataIn::Buffer { len: self.bytes };
        Turn::Done(response)
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        self.extent.range()
    }
}
