//! WRITE(6), WRITE(10), WRITE(12), WRITE(16), and WRITE AND VERIFY.

use super::verify::{Against, Verify};
use super::{Extent, bytes_of, fua, no_protection, prefix, wrong_length};
use crate::attention::NexusState;
use crate::command::{DiskOp, DiskResult, Response};
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};

/// A write, and what checks it afterwards.
///
/// Where the initiator announces less than the CDB calls for, the whole blocks it announces are
/// written, and the residual tells the rest; part of a block is an error before anything is written.
#[derive(Debug)]
pub(crate) struct Write {
    extent: Extent,
    block_size: u32,
    /// Bytes that the CDB calls for.
    transfer: u32,
    /// Bytes that will come.
    coming: u32,
    fua: bool,
    check: Check,
}

/// What follows the write.
#[derive(Debug)]
enum Check {
    Nothing,
    /// Read back.
    Medium,
    /// Read back and compare.
    Data,
    /// Going on.
    Running(Verify),
}

pub(crate) fn write(start: &Start<'_>, _: &mut NexusState) -> Begun {
    Ok(Job::Write(Write::new(start, Check::Nothing)?))
}

pub(crate) fn write_and_verify(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let check = match start.cdb.u8(1) & 0x06 {
        0 => Check::Medium,
        2 => Check::Data,
        _ => return Err(Response::invalid_cdb(1, Some(2))),
    };
    let mut write = Write::new(start, check)?;
    // What is verified is the medium, not a cache.
    write.fua = true;
    Ok(Job::Write(write))
}

impl Write {
    fn new(start: &Start<'_>, check: Check) -> Result<Self, Response> {
        no_protection(&start.cdb)?;
        let mut extent = Extent::checked(&start.cdb, start.unit)?;
        let transfer = bytes_of(start.unit, extent.blocks).unwrap_or(0);
        let coming = transfer.min(start.command.data_out_len);
        let block_size = start.unit.block_size;
        if !coming.is_multiple_of(block_size) {
            return Err(wrong_length().with_transfer(transfer));
        }
        extent.blocks = coming.checked_div(block_size).unwrap_or(0);
        Ok(Self {
            extent,
            block_size,
            transfer,
            coming,
            fua: fua(&start.cdb),
            check,
        })
    }

    pub(crate) fn start(&self) -> Turn {
        if self.coming == 0 {
            return Turn::GOOD;
        }
        Turn::Receive(self.coming)
    }

    pub(crate) fn resume(&mut self, with: Input<'_>) -> Turn {
        match with {
            Input::Data(data) => self.received(data),
            Input::Disk(DiskResult::Done) => match &mut self.check {
                Check::Running(verify) => verify.read_next(),
                _ => Turn::GOOD,
            },
            with => match &mut self.check {
                Check::Running(verify) => verify.resume(with),
                _ => Turn::confused(),
            },
        }
    }

    fn received(&mut self, data: &[u8]) -> Turn {
        let data = match prefix(data, self.coming) {
            Ok(data) => data,
            Err(response) => return Turn::Done(response),
        };
        let against = match self.check {
            Check::Medium => Some(Against::Medium),
            Check::Data => Some(Against::Data(data.to_vec())),
            Check::Nothing | Check::Running(_) => None,
        };
        if let Some(against) = against {
            self.check = Check::Running(Verify::new(self.extent, self.block_size, against));
        }
        Turn::Disk(DiskOp::Write {
            lba: self.extent.lba,
            blocks: self.extent.blocks,
            data_offset: 0,
            fua: self.fua,
        })
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        self.extent.range()
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.transfer
    }
}
