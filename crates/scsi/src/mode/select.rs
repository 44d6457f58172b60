//! MODE SELECT(6) and (10): a parameter list in, the few changeable values out.

use super::pages::{self, D_SENSE, SWP};
use super::{Select, Values, list_length};
use crate::attention::NexusState;
use crate::change::Change;
use crate::command::Response;
use crate::job::{Input, Job, Turn};
use crate::limits;
use crate::opcodes::{Begun, Start};
use crate::unit::Unit;
use crate::wire;

/// A MODE SELECT that waits for its parameter list.
#[derive(Debug)]
pub(crate) struct SelectJob {
    ten: bool,
    save: bool,
    list: u32,
}

pub(crate) fn select(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    let ten = cdb.opcode() == 0x55;
    let list = if ten {
        u32::from(cdb.u16(7))
    } else {
        u32::from(cdb.u8(4))
    };
    if list == 0 {
        return Ok(Job::good());
    }
    // PF: pages in the format of the standard are the only ones there are.
    if !cdb.bit(1, 0x10) {
        return Err(Response::invalid_cdb(1, Some(4)));
    }
    if list > limits::MODE_SELECT_LIST || start.command.data_out_len < list {
        return Err(list_length().with_transfer(list));
    }
    Ok(Job::ModeSelect(SelectJob {
        ten,
        save: cdb.bit(1, 0x01),
        list,
    }))
}

impl SelectJob {
    pub(crate) fn start(&self) -> Turn {
        Turn::Receive(self.list)
    }

    pub(crate) fn resume(&self, with: Input<'_>, unit: &Unit) -> Turn {
        let Input::Data(data) = with else {
            return Turn::confused();
        };
        let Some(list) = data.get(..wire::index(self.list)) else {
            return Turn::Done(list_length());
        };
        match self.parse(list, unit) {
            Ok(select) => Turn::Change(Change::Mode(select)),
            Err(response) => Turn::Done(response),
        }
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.list
    }

    fn parse(&self, list: &[u8], unit: &Unit) -> Result<Select, Response> {
        let (header, descriptor, long) = if self.ten {
            (
                8,
                usize::from(wire::be16(list, 6)),
                wire::byte(list, 4) & 1 != 0,
            )
        } else {
            (4, usize::from(wire::byte(list, 3)), false)
        };
        let mut at = descriptor.saturating_add(header);
        if list.len() < at {
            return Err(list_length());
        }
        check_descriptor(list, header, descriptor, long, unit)?;
        let mut select = Select {
            save: self.save,
            ..Select::default()
        };
        while at < list.len() {
            at = page(list, at, unit, &mut select)?;
        }
        Ok(select)
    }
}

/// The block descriptor may only say what is: the block length, and all blocks.
fn check_descriptor(
    list: &[u8],
    at: usize,
    len: usize,
    long: bool,
    unit: &Unit,
) -> Result<(), Response> {
    let pointer = |offset: usize| {
        Response::invalid_parameter(wire::len16(at.saturating_add(offset)), Some(7))
    };
    let (blocks, size, size_at) = match (len, long) {
        (0, _) => return Ok(()),
        (8, false) => {
            let blocks = match wire::be32(list, at) {
                u32::MAX => 0,
                blocks => u64::from(blocks),
            };
            (blocks, wire::be24(list, at.saturating_add(5)), 5)
        }
        (16, true) => (
            wire::be64(list, at),
            wire::be32(list, at.saturating_add(12)),
            12,
        ),
        // The length field ends right before the descriptor.
        _ => {
            return Err(Response::invalid_parameter(
                wire::len16(at.saturating_sub(1)),
                Some(7),
            ));
        }
    };
    if blocks != 0 && blocks != u64::MAX && blocks != unit.blocks {
        return Err(pointer(0));
    }
    if size != 0 && size != unit.block_size {
        return Err(pointer(size_at));
    }
    Ok(())
}

/// Reads one page and returns where the next begins.
fn page(list: &[u8], at: usize, unit: &Unit, select: &mut Select) -> Result<usize, Response> {
    let pointer = |at: usize, bit: u8| Response::invalid_parameter(wire::len16(at), Some(bit));
    let first = wire::byte(list, at);
    let next = at.saturating_add(1);
    let (code, subpage, length, body) = if first & 0x40 == 0 {
        (
            first & 0x3f,
            0,
            usize::from(wire::byte(list, next)),
            at.saturating_add(2),
        )
    } else {
        let length = usize::from(wire::be16(list, at.saturating_add(2)));
        (
            first & 0x3f,
            wire::byte(list, next),
            length,
            at.saturating_add(4),
        )
    };
    let end = body.saturating_add(length);
    let Some(given) = list.get(body..end) else {
        return Err(list_length());
    };
    // Not the codes that mean many pages, nor a subpage format for page code 0.
    let single = code != 0x3f && subpage != 0xff;
    let find = |values| pages::find(unit, code, subpage, values).filter(|_| single);
    let (Some(current), Some(mask)) = (find(Values::Current), find(Values::Changeable)) else {
        return Err(pointer(at, 5));
    };
    let header = body.saturating_sub(at);
    if current.len() != header.saturating_add(length) {
        return Err(pointer(next, 7));
    }
    let known = current.iter().zip(&mask).skip(header);
    for (i, (given, (current, mask))) in given.iter().zip(known).enumerate() {
        let wrong = (given ^ current) & !mask;
        if wrong != 0 {
            let bit = u8::try_from(wrong.ilog2()).unwrap_or(7);
            return Err(pointer(body.saturating_add(i), bit));
        }
    }
    if (code, subpage) == (0x0a, 0) {
        select.descriptor_sense = Some(wire::byte(given, 0) & D_SENSE != 0);
        select.write_protect = Some(wire::byte(given, 2) & SWP != 0);
    }
    Ok(end)
}
