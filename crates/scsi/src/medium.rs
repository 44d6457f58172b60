//! Is it ready, does it turn, may it be taken out: TEST UNIT READY, START STOP UNIT, PREVENT ALLOW
//! MEDIUM REMOVAL.

use crate::attention::NexusState;
use crate::block::Flush;
use crate::change::Change;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::sense::Code;
use crate::unit::{Medium, Unit};

/// TEST UNIT READY; the gate has looked at the medium.
pub(crate) fn test_unit_ready(_: &Start<'_>, _: &mut NexusState) -> Begun {
    Ok(Job::good())
}

/// START STOP UNIT.
///
/// Nothing here can spin down, and a unit that many initiators share is not stopped for all of them by
/// one: stopping only makes data stable, starting asks whether there is a medium, power conditions are
/// accepted without effect (and LOEJ with them is ignored, as SBC has it).
pub(crate) fn start_stop(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    if cdb.u8(4) >> 4 != 0 {
        return Ok(Job::good());
    }
    let (no_flush, load_eject, starts) = (cdb.bit(4, 0x04), cdb.bit(4, 0x02), cdb.bit(4, 0x01));
    if !load_eject {
        return match unit.medium.trouble(unit.kind) {
            Some(sense) if starts => Err(Response::check(sense)),
            None if !starts && !no_flush => Ok(flush(unit, None)),
            _ => Ok(Job::good()),
        };
    }
    if !unit.removable {
        return Err(Response::invalid_cdb(4, Some(1)));
    }
    let change = Change::LoadEject { load: starts };
    if starts || no_flush || unit.medium != Medium::Present {
        return Ok(Job::Change(change));
    }
    // Nobody should wait for a flush only to hear that the medium is held.
    if !unit.prevented.is_empty() {
        return Err(Response::illegal(Code::REMOVAL_PREVENTED));
    }
    Ok(flush(unit, Some(change)))
}

/// A flush where there is anything to flush, then the change.
fn flush(unit: &Unit, then: Option<Change>) -> Job {
    match (unit.read_only, then) {
        (false, then) => Job::Flush(Flush::new(then)),
        (true, Some(change)) => Job::Change(change),
        (true, None) => Job::good(),
    }
}

/// PREVENT ALLOW MEDIUM REMOVAL. Where nothing can be removed there is nothing to remember.
pub(crate) fn prevent_allow(start: &Start<'_>, _: &mut NexusState) -> Begun {
    match (start.cdb.u8(4) & 0x03, start.unit.removable) {
        (2.., _) => Err(Response::invalid_cdb(4, Some(1))),
        (_, false) => Ok(Job::good()),
        (prevent, true) => Ok(Job::Change(Change::Prevent {
            prevent: prevent == 1,
        })),
    }
}
