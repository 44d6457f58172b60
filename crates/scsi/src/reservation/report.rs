//! PERSISTENT RESERVE IN: the four reports.

use super::{Key, State, transport_id};
use crate::wire::{self, Writer};

/// TYPE MASK: all six types.
const TYPE_MASK: u16 = 0xea01;

/// The answer to a service action; `None` where there is no such action.
pub(crate) fn read(state: &State, action: u8) -> Option<Vec<u8>> {
    Some(match action {
        0 => keys(state),
        1 => reservation(state),
        2 => capabilities(state),
        3 => full_status(state),
        _ => return None,
    })
}

/// READ KEYS
fn keys(state: &State) -> Vec<u8> {
    let mut out = Writer::new();
    out.u32(state.generation).u32(0);
    for (_, key) in state.registrations() {
        out.u64(key.0);
    }
    finish(out)
}

/// READ RESERVATION
fn reservation(state: &State) -> Vec<u8> {
    let mut out = Writer::new();
    out.u32(state.generation).u32(0);
    if let Some(reservation) = &state.reservation {
        // Under an all-registrants type there is no one holder: the key reads as zero.
        let holder = reservation.holder.as_ref();
        let key = holder
            .and_then(|holder| state.key_of(holder))
            .unwrap_or(Key::ZERO);
        out.u64(key.0)
            .u32(0)
            .u8(0)
            .u8(reservation.kind.code())
            .u16(0);
    }
    finish(out)
}

/// REPORT CAPABILITIES: CRH, SIP_C, ATP_C, PTPL_C; PTPL_A as it is; the types; what else is allowed.
fn capabilities(state: &State) -> Vec<u8> {
    let mut out = Writer::new();
    // ALLOW COMMANDS 011b: TEST UNIT READY passes every reservation; MODE SENSE, READ DEFECT DATA and the
    // REPORT SUPPORTED commands pass the write exclusive ones.
    out.u16(8)
        .u8(0x10 | 0x08 | 0x04 | 0x01)
        .u8(0x80 | 0x30 | u8::from(state.aptpl))
        .u16(TYPE_MASK)
        .u16(0);
    out.finish()
}

/// READ FULL STATUS
fn full_status(state: &State) -> Vec<u8> {
    let mut out = Writer::new();
    out.u32(state.generation).u32(0);
    for (nexus, key) in state.registrations() {
        let holder = state.reservation.as_ref().filter(|_| state.holds(nexus));
        let transport_id = transport_id::write(nexus);
        out.u64(key.0)
            .u32(0)
            .u8(u8::from(holder.is_some()))
            .u8(holder.map_or(0, |r| r.kind.code()))
            .u32(0)
            .u16(nexus.port)
            .u32(wire::len32(transport_id.len()))
            .bytes(&transport_id);
    }
    finish(out)
}

/// Sets the additional length at byte 4.
fn finish(mut out: Writer) -> Vec<u8> {
    let len = wire::len32(out.after(8));
    out.set_u32(4, len);
    out.finish()
}
