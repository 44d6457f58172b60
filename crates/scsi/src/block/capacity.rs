//! READ CAPACITY(10), READ CAPACITY(16).

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::unit::{Medium, Unit};
use crate::wire::Writer;

/// Bytes of READ CAPACITY(10) data, which has no allocation length.
const SHORT: u32 = 8;

/// The last block; a unit without blocks has no medium to speak of.
fn last(unit: &Unit) -> Result<u64, Response> {
    let trouble = Medium::Absent.trouble(unit.kind);
    match (unit.blocks.checked_sub(1), trouble) {
        (Some(last), _) => Ok(last),
        (None, Some(sense)) => Err(Response::check(sense)),
        (None, None) => Ok(0),
    }
}

pub(crate) fn capacity10(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let last = last(start.unit)?;
    let mut out = Writer::new();
    // Beyond 32 bits the largest value sends the initiator to READ CAPACITY(16).
    out.u32(u32::try_from(last).unwrap_or(u32::MAX))
        .u32(start.unit.block_size);
    Ok(Job::data(out.finish(), SHORT))
}

pub(crate) fn capacity16(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let unit = start.unit;
    let per_physical = unit
        .physical_block_size
        .checked_div(unit.block_size)
        .unwrap_or(1);
    let exponent = per_physical.max(1).ilog2();
    // LBPME and LBPRZ: unmapped blocks read as zeros.
    let provisioning = if unit.thin { 0xc000 } else { 0 };
    let mut out = Writer::new();
    out.u64(last(unit)?)
        .u32(unit.block_size)
        .u8(0)
        .u8(u8::try_from(exponent & 0x0f).unwrap_or(0))
        .u16(provisioning)
        .pad_to(32);
    Ok(Job::data(out.finish(), start.cdb.u32(10)))
}
