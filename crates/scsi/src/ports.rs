//! REPORT TARGET PORT GROUPS: one group for each portal group, all active/optimized.

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::wire::{self, Writer};

pub(crate) fn report_groups(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let extended = match start.cdb.u8(1) >> 5 {
        0 => false,
        1 => true,
        _ => return Err(Response::invalid_cdb(1, Some(7))),
    };
    let mut out = Writer::new();
    out.u32(0);
    if extended {
        // Format 001b; an implicit transition takes no time, for there is none.
        out.u8(0x10).u8(0).u16(0);
    }
    for port in &start.unit.identity.ports {
        // Active/optimized, the only state supported; one port, of the same number.
        out.u8(0x00).u8(0x01).u16(*port).u8(0).u8(0).u8(0).u8(1);
        out.u16(0).u16(*port);
    }
    let len = wire::len32(out.after(4));
    out.set_u32(0, len);
    Ok(Job::data(out.finish(), start.cdb.u32(6)))
}
