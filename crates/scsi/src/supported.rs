//! REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{self, Begun, Found, Opcode, Start};
use crate::wire::{self, Writer};

pub(crate) fn opcodes(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    let timeouts = cdb.bit(2, 0x80);
    let bytes = match cdb.u8(2) & 0x07 {
        0 => every(start, timeouts),
        options @ 1..=3 => one(start, options, timeouts)?,
        _ => return Err(Response::invalid_cdb(2, Some(2))),
    };
    Ok(Job::data(bytes, cdb.u32(6)))
}

/// A command timeouts descriptor: nominal not told, recommended as the table has it.
fn timeout(out: &mut Writer, opcode: &Opcode) {
    out.u16(0x0a).u8(0).u8(0).u32(0).u32(opcode.timeout_seconds);
}

fn every(start: &Start<'_>, timeouts: bool) -> Vec<u8> {
    let mut out = Writer::new();
    out.u32(0);
    for opcode in opcodes::all(start.unit) {
        let flags = u8::from(opcode.action.is_some()) | if timeouts { 0x02 } else { 0 };
        out.u8(opcode.code)
            .u8(0)
            .u16(u16::from(opcode.action.unwrap_or(0)))
            .u8(0)
            .u8(flags)
            .u16(cdb_length(opcode));
        if timeouts {
            timeout(&mut out, opcode);
        }
    }
    let len = wire::len32(out.after(4));
    out.set_u32(0, len);
    out.finish()
}

fn cdb_length(opcode: &Opcode) -> u16 {
    wire::len16(opcode.usage.len().saturating_add(1))
}

/// One command: by code alone (1), by code and service action (2), or either (3).
fn one(start: &Start<'_>, options: u8, timeouts: bool) -> Result<Vec<u8>, Response> {
    let code = start.cdb.u8(3);
    let action = start.cdb.u16(4);
    // A service action is five bits wide: a wider number names none.
    let found = match u8::try_from(action) {
        Ok(action) => opcodes::find(start.unit, code, action),
        Err(_) => match opcodes::find(start.unit, code, 0) {
            Found::Command(opcode) if opcode.action.is_some() => Found::NoAction,
            found => found,
        },
    };
    let has_actions = match &found {
        Found::Command(opcode) => opcode.action.is_some(),
        Found::NoAction => true,
        Found::Nothing => options == 2,
    };
    // Asking for a code alone that has service actions, or for an action of a code that has none, is an
    // error; asking for either (3) never is.
    if (options == 1 && has_actions) || (options == 2 && !has_actions) {
        return Err(Response::invalid_cdb(2, Some(2)));
    }
    let meant = options != 3 || has_actions || action == 0;
    let mut out = Writer::new();
    let (Found::Command(opcode), true) = (found, meant) else {
        // SUPPORT 001b: not supported.
        out.u8(0).u8(0x01).u16(0);
        return Ok(out.finish());
    };
    // SUPPORT 011b: as the standard has it.
    out.u8(0).u8(0x03 | if timeouts { 0x80 } else { 0 });
    out.u16(cdb_length(opcode))
        .u8(opcode.code)
        .bytes(opcode.usage);
    if let Some(action) = opcode.action {
        // In the field of the service action stands the action itself, beside the bits that are looked at.
        let beside = opcode.usage.first().map_or(0, |bits| bits & 0xe0);
        out.set_u8(5, beside | action);
    }
    if timeouts {
        timeout(&mut out, opcode);
    }
    Ok(out.finish())
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET and TARGET RESET.
pub(crate) fn task_management(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let allocation = start.cdb.u32(6);
    if allocation < 4 {
        return Err(Response::invalid_cdb(6, Some(7)));
    }
    let mut out = Writer::new();
    out.u8(0x80 | 0x40 | 0x10 | 0x08 | 0x02).u8(0).u8(0);
    if start.cdb.bit(2, 0x80) {
        // REPD: sixteen bytes with timeouts in units of 100 ms; 0 does not tell.
        out.u8(12).pad_to(16);
    } else {
        out.u8(0);
    }
    Ok(Job::data(out.finish(), allocation))
}
