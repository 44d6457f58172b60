//! PERSISTENT RESERVE IN and OUT, and the RESERVE and RELEASE of SPC-2, as commands. What they mean is
//! in [`crate::reservation`] and [`crate::change`].

use crate::attention::NexusState;
use crate::change::{Change, Legacy};
use crate::command::Response;
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};
use crate::reservation;
use crate::sense::Code;
use crate::unit::Unit;
use crate::wire::{self, Cdb};

/// While RESERVE holds the unit, the persistent kind conflicts for everybody, its holder included.
fn no_legacy(unit: &Unit) -> Result<(), Response> {
    match unit.legacy {
        Some(_) => Err(Response::conflict()),
        None => Ok(()),
    }
}

pub(crate) fn reserve_in(start: &Start<'_>, _: &mut NexusState) -> Begun {
    no_legacy(start.unit)?;
    let cdb = &start.cdb;
    let bytes = reservation::read(&start.unit.reservations, cdb.u8(1) & 0x1f);
    match bytes {
        Some(bytes) => Ok(Job::data(bytes, u32::from(cdb.u16(7)))),
        None => Err(Response::invalid_cdb(1, Some(4))),
    }
}

/// A PERSISTENT RESERVE OUT that waits for its parameter list.
#[derive(Debug)]
pub(crate) struct ReserveOut {
    cdb: Cdb,
    list: u32,
}

pub(crate) fn reserve_out(start: &Start<'_>, _: &mut NexusState) -> Begun {
    no_legacy(start.unit)?;
    let list = reservation::precheck(&start.cdb).map_err(Response::check)?;
    if start.command.data_out_len < list {
        return Err(Response::illegal(Code::LIST_LENGTH).with_transfer(list));
    }
    Ok(Job::ReserveOut(ReserveOut {
        cdb: start.cdb,
        list,
    }))
}

impl ReserveOut {
    pub(crate) fn start(&self) -> Turn {
        Turn::Receive(self.list)
    }

    pub(crate) fn resume(&self, with: Input<'_>, unit: &Unit) -> Turn {
        let Input::Data(data) = with else {
            return Turn::confused();
        };
        let list = data.get(..wire::index(self.list)).unwrap_or(data);
        match reservation::parse(&self.cdb, list, &unit.identity.ports) {
            Ok(out) => Turn::Change(Change::Reservation(out)),
            Err(sense) => Turn::Done(Response::check(sense)),
        }
    }

    pub(crate) fn transfer(&self) -> u32 {
        self.list
    }
}

/// RESERVE(6), RESERVE(10), RELEASE(6), RELEASE(10): of the whole unit, for the sender.
pub(crate) fn legacy(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    // Third parties, long identifiers and extents are obsolete.
    if cdb.bit(1, 0x10) {
        return Err(Response::invalid_cdb(1, Some(4)));
    }
    if cdb.bit(1, 0x03) {
        return Err(Response::invalid_cdb(1, Some(1)));
    }
    let legacy = match cdb.opcode() {
        0x16 | 0x56 => Legacy::Reserve,
        _ => Legacy::Release,
    };
    Ok(Job::Change(Change::Legacy(legacy)))
}
