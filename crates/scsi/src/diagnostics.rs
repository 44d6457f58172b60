//! SEND DIAGNOSTIC, LOG SENSE, READ DEFECT DATA: answers that a healthy virtual disk has.

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::wire::{self, Writer};

/// SEND DIAGNOSTIC: the default self-test has nothing to test and passes. Background and foreground
/// self-tests, and diagnostic pages, are not offered.
pub(crate) fn send_diagnostic(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    if cdb.u8(1) >> 5 != 0 {
        return Err(Response::invalid_cdb(1, Some(7)));
    }
    if cdb.u16(3) != 0 {
        return Err(Response::invalid_cdb(3, Some(7)));
    }
    Ok(Job::good())
}

/// Log pages: the list of pages, and informational exceptions.
const LOG_PAGES: [u8; 2] = [0x00, 0x2f];

/// LOG SENSE: cumulative values of parameters that never change.
pub(crate) fn log_sense(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    // SP: nothing here could be saved.
    if cdb.bit(1, 0x01) {
        return Err(Response::invalid_cdb(1, Some(0)));
    }
    let (page, subpage) = (cdb.u8(2) & 0x3f, cdb.u8(3));
    let parameter = cdb.u16(5);
    let mut out = Writer::new();
    match (page, subpage) {
        (0x00, 0x00) => {
            out.u8(0x00).u8(0).u16(0).bytes(&LOG_PAGES);
        }
        (0x00, 0xff) => {
            out.u8(0x40).u8(0xff).u16(0);
            for page in LOG_PAGES {
                out.u8(page).u8(0x00);
            }
            out.u8(0x00).u8(0xff);
        }
        (0x2f, 0x00) if parameter == 0 => {
            // Parameter 0: format binary, list; no additional sense code, temperature not told.
            out.u8(0x2f).u8(0).u16(0).u16(0).u8(0x03).u8(4);
            out.u8(0).u8(0).u8(0xff).u8(0);
        }
        (0x2f, 0x00) => return Err(Response::invalid_cdb(5, Some(7))),
        (0x00 | 0x2f, _) => return Err(Response::invalid_cdb(3, Some(7))),
        _ => return Err(Response::invalid_cdb(2, Some(5))),
    }
    let len = wire::len16(out.after(4));
    out.set_u16(2, len);
    Ok(Job::data(out.finish(), u32::from(cdb.u16(7))))
}

/// READ DEFECT DATA(10) and (12): empty lists, in whatever format was asked for.
pub(crate) fn read_defect_data(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    let mut out = Writer::new();
    if cdb.opcode() == 0x37 {
        out.u8(0).u8(cdb.u8(2) & 0x1f).u16(0);
        return Ok(Job::data(out.finish(), u32::from(cdb.u16(7))));
    }
    out.u8(0).u8(cdb.u8(1) & 0x1f).u16(0).u32(0);
    Ok(Job::data(out.finish(), cdb.u32(6)))
}
