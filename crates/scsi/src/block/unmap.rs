//! UNMAP: giving space back, range by range.

use super::in_range;
use crate::attention::NexusState;
use crate::command::{DiskOp, DiskResult, Footprint, Response};
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};
use crate::sense::Code;
use crate::unit::Unit;
use crate::wire;

/// Bytes before the first block descriptor.
const HEADER: usize = 8;

/// Bytes of a block descriptor.
const DESCRIPTOR: usize = 16;

/// An UNMAP under way.
#[derive(Debug)]
pub(crate) struct Unmap {
    list: u32,
    ranges: Vec<(u64, u32)>,
}

pub(crate) fn unmap(start: &Start<'_>, _: &mut NexusState) -> Begun {
    if start.cdb.bit(1, 0x01) {
        return Err(Response::invalid_cdb(1, Some(0)));
    }
    let list = u32::from(start.cdb.u16(7));
    let too_short = list > 0 && wire::index(list) < HEADER;
    if too_short || start.command.data_out_len < list {
        return Err(Response::illegal(Code::LIST_LENGTH).with_transfer(list));
    }
    Ok(Job::Unmap(Unmap {
        list,
        ranges: Vec::new(),
    }))
}

/// Reads and checks the whole list before any of it is done. Descriptors of no blocks are left out.
fn parse(list: &[u8], unit: &Unit) -> Result<Vec<(u64, u32)>, Response> {
    let data = usize::from(wire::be16(list, 0)).saturating_add(2);
    let descriptors = usize::from(wire::be16(list, 2));
    if data > list.len() || descriptors.saturating_add(HEADER) > list.len() {
        return Err(Response::illegal(Code::LIST_LENGTH));
    }
    if descriptors.saturating_add(HEADER) > data {
        return Err(Response::invalid_parameter(2, Some(7)));
    }
    // A last descriptor that is cut off counts for nothing, as SBC-3 has it.
    let count = descriptors.checked_div(DESCRIPTOR).unwrap_or(0);
    if wire::len32(count) > unit.limits.max_unmap_descriptors {
        return Err(Response::invalid_parameter(2, Some(7)));
    }
    let mut ranges = Vec::with_capacity(count);
    let mut total: u64 = 0;
    for i in 0..count {
        let at = HEADER.saturating_add(i.saturating_mul(DESCRIPTOR));
        let (lba, blocks) = (wire::be64(list, at), wire::be32(list, at.saturating_add(8)));
        in_range(unit, lba, u64::from(blocks))?;
        total = total.saturating_add(u64::from(blocks));
        if total > u64::from(unit.limits.max_unmap_lbas) {
            let field = wire::len16(at.saturating_add(8));
            return Err(Response::invalid_parameter(field, Some(7)));
        }
        if blocks > 0 {
            ranges.push((lba, blocks));
        }
    }
    Ok(ranges)
}

impl Unmap {
    pub(crate) fn start(&self) -> Turn {
        match self.list {
            0 => Turn::GOOD,
            len => Turn::Receive(len),
        }
    }

    pub(crate) fn resume(&mut self, with: Input<'_>, unit: &Unit) -> Turn {
        match with {
            Input::Data(data) => {
                let list = data.get(..wire::index(self.list)).unwrap_or(data);
                match parse(list, unit) {
                    Ok(ranges) if ranges.is_empty() => Turn::GOOD,
                    Ok(ranges) => {
                        self.ranges = ranges;
                        Turn::Disk(DiskOp::Unmap(self.ranges.clone()))
                    }
                    Err(response) => Turn::Done(response),
                }
            }
            Input::Disk(DiskResult::Done) => Turn::GOOD,
            _ => Turn::confused(),
        }
    }

    pub(crate) fn ranges(&self) -> &[(u64, u32)] {
        &self.ranges
    }

    pub(crate) fn footprint(&self) -> Footprint {
        if self.ranges.is_empty() {
            return Footprint::None;
        }
        let ranges = self
            .ranges
            .iter()
            .map(|(lba, blocks)| (*lba, u64::from(*blocks)));
        Footprint::Shared(ranges.collect())
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.list
    }
}
