//! REPORT LUNS: the initiator's own map, nothing beyond it.

use crate::attention::{Attention, NexusState};
use crate::command::Response;
use crate::job::Job;
use crate::limits;
use crate::opcodes::{Begun, Start};
use crate::wire::{self, Cdb, Writer};

/// Shortest allocation length that SPC allows.
const SHORTEST: u32 = 16;

pub(crate) fn begin(start: &Start<'_>, state: &mut NexusState) -> Begun {
    let response = report(&start.cdb, start.command.luns)?;
    // Whoever reads the list knows of its change.
    state.clear(Attention::LunsChanged);
    Ok(Job::Answer(response))
}

/// The list for a CDB.
pub(crate) fn report(cdb: &Cdb, luns: &[u16]) -> Result<Response, Response> {
    let allocation = cdb.u32(6);
    if allocation < SHORTEST {
        return Err(Response::invalid_cdb(6, Some(7)));
    }
    let shown = match cdb.u8(2) {
        // All that can be addressed; all; all that are not part of a conglomerate.
        0x00 | 0x02 | 0x11 => luns,
        // Well known, administrative and subsidiary logical units: there are none.
        0x01 | 0x10 | 0x12 => &[],
        _ => return Err(Response::invalid_cdb(2, Some(7))),
    };
    let mut out = Writer::new();
    out.u32(0).u32(0);
    for lun in shown.iter().take(limits::REPORTED_LUNS) {
        // Peripheral device addressing up to 255, flat space addressing beyond.
        let address = if *lun < 256 {
            *lun
        } else {
            0x4000 | (*lun & 0x3fff)
        };
        out.u16(address).u16(0).u32(0);
    }
    let len = wire::len32(out.after(8));
    out.set_u32(0, len);
    Ok(Response::data(out.finish(), allocation))
}
