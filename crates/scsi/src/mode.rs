//! Mode pages: what they say, and what MODE SELECT may change of them.
//!
//! What a page says is what is done: WCE and the write protection follow the unit, and can be changed
//! by MODE SELECT only where the change has an effect (SWP and D_SENSE of the control page).

mod pages;
mod select;

use serde::{Deserialize, Serialize};

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::sense::Code;
use crate::unit::{Kind, Unit};
use crate::wire::{self, Writer};

pub(crate) use select::{SelectJob, select};

/// Values that MODE SELECT may change, current and saved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// SWP of the control page: nobody writes.
    pub write_protect: bool,
    /// D_SENSE of the control page: sense data in descriptor format.
    pub descriptor_sense: bool,
    /// What the values return to after a reset.
    pub saved: Saved,
}

/// The changeable values as they are written down beside the device.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// SWP.
    #[serde(default)]
    pub write_protect: bool,
    /// D_SENSE.
    #[serde(default)]
    pub descriptor_sense: bool,
}

impl State {
    /// The state after power on: current values are the saved ones.
    pub const fn restore(saved: Saved) -> Self {
        Self {
            write_protect: saved.write_protect,
            descriptor_sense: saved.descriptor_sense,
            saved,
        }
    }

    /// The current values as they would be saved.
    const fn current(self) -> Saved {
        Saved {
            write_protect: self.write_protect,
            descriptor_sense: self.descriptor_sense,
        }
    }

    /// What a MODE SELECT makes of it.
    #[must_use]
    pub fn select(self, select: &Select) -> Self {
        let mut next = self;
        next.write_protect = select.write_protect.unwrap_or(next.write_protect);
        next.descriptor_sense = select.descriptor_sense.unwrap_or(next.descriptor_sense);
        if select.save {
            next.saved = next.current();
        }
        next
    }
}

/// A MODE SELECT that was well-formed: the changeable values it sets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Select {
    /// SWP.
    pub write_protect: Option<bool>,
    /// D_SENSE.
    pub descriptor_sense: Option<bool>,
    /// SP: save them too.
    pub save: bool,
}

/// PAGE CONTROL: which values a page shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Values {
    Current,
    /// A mask of what can be changed.
    Changeable,
    Default,
    Saved,
}

impl Values {
    fn of(bits: u8) -> Self {
        match bits >> 6 {
            0 => Self::Current,
            1 => Self::Changeable,
            2 => Self::Default,
            _ => Self::Saved,
        }
    }
}

/// MODE SENSE(6) and (10).
pub(crate) fn sense(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    let ten = cdb.opcode() == 0x5a;
    let (code, subpage) = (cdb.u8(2) & 0x3f, cdb.u8(3));
    let pages = pages::find(unit, code, subpage, Values::of(cdb.u8(2)))
        .ok_or_else(|| Response::invalid_cdb(2, Some(5)))?;
    let long_lba = ten && cdb.bit(1, 0x10);
    let descriptor = match cdb.bit(1, 0x08) || unit.kind == Kind::Optical {
        true => Vec::new(),
        false => block_descriptor(unit, long_lba),
    };
    let mut out = Writer::new();
    let specific = device_specific(unit, start.command.read_only);
    if ten {
        out.u16(0).u8(0).u8(specific);
        out.u8(u8::from(long_lba && !descriptor.is_empty())).u8(0);
        out.u16(wire::len16(descriptor.len()));
    } else {
        out.u8(0)
            .u8(0)
            .u8(specific)
            .u8(wire::len8(descriptor.len()));
    }
    out.bytes(&descriptor).bytes(&pages);
    if ten {
        let len = wire::len16(out.after(2));
        out.set_u16(0, len);
        return Ok(Job::data(out.finish(), u32::from(cdb.u16(7))));
    }
    let len = wire::len8(out.after(1));
    out.set_u8(0, len);
    Ok(Job::data(out.finish(), u32::from(cdb.u8(4))))
}

/// DEVICE-SPECIFIC PARAMETER of a disk: WP as this initiator meets it, and DPOFUA: FUA is honoured in
/// every cache mode. MMC has no such bits.
fn device_specific(unit: &Unit, initiator_read_only: bool) -> u8 {
    if unit.kind == Kind::Optical {
        return 0;
    }
    let protected = unit.write_trouble(initiator_read_only).is_some();
    0x10 | if protected { 0x80 } else { 0 }
}

/// Blocks there are and their length; in the short form the count saturates.
fn block_descriptor(unit: &Unit, long: bool) -> Vec<u8> {
    let blocks = if unit.medium.is_in() { unit.blocks } else { 0 };
    let mut out = Writer::new();
    if long {
        out.u64(blocks).u32(0).u32(unit.block_size);
    } else {
        out.u32(u32::try_from(blocks).unwrap_or(u32::MAX))
            .u8(0)
            .u24(unit.block_size);
    }
    out.finish()
}

/// PARAMETER LIST LENGTH ERROR.
const fn list_length() -> Response {
    Response::illegal(Code::LIST_LENGTH)
}
