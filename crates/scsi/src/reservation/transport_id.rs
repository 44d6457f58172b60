//! TransportIDs of iSCSI initiator ports.

use super::InitiatorPort;
use crate::limits;
use crate::nexus::Nexus;
use crate::sense::Sense;
use crate::wire::{self, Writer};

/// PROTOCOL IDENTIFIER of iSCSI.
const ISCSI: u8 = 5;

/// TPID FORMAT 01b in the two highest bits: name and ISID.
const PORT_FORMAT: u8 = 0x40;

/// Between name and ISID.
const SEPARATOR: &str = ",i,0x";

/// The TransportID of a nexus' initiator port.
pub(super) fn write(nexus: &Nexus) -> Vec<u8> {
    let name = nexus.port_name();
    // The name ends with at least one null, and the whole is a multiple of four, at least 24.
    let len = name.len().saturating_add(1).next_multiple_of(4).max(20);
    let mut out = Writer::new();
    out.u8(PORT_FORMAT | ISCSI).u8(0).u16(wire::len16(len));
    out.bytes(name.as_bytes()).pad_to(len.saturating_add(4));
    out.finish()
}

/// Reads the TransportID at `at`; returns it with the bytes it takes.
pub(super) fn parse(list: &[u8], at: usize) -> Result<(InitiatorPort, usize), Sense> {
    let pointer =
        |offset: usize| Sense::invalid_parameter(wire::len16(at.saturating_add(offset)), Some(7));
    if wire::byte(list, at) & 0x0f != ISCSI {
        return Err(Sense::invalid_parameter(wire::len16(at), Some(3)));
    }
    if wire::byte(list, at) & 0xc0 != PORT_FORMAT {
        return Err(pointer(0));
    }
    let len = usize::from(wire::be16(list, at.saturating_add(2)));
    if len < 20 || !len.is_multiple_of(4) {
        return Err(pointer(2));
    }
    let start = at.saturating_add(4);
    let text = list
        .get(start..start.saturating_add(len))
        .ok_or_else(|| pointer(2))?;
    let text = text.split(|b| *b == 0).next().unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|_| pointer(4))?;
    let port = parse_name(text).ok_or_else(|| pointer(4))?;
    Ok((port, len.saturating_add(4)))
}

/// The additional data of REGISTER with SPEC_I_PT: a length, then TransportIDs that fill it exactly.
pub(super) fn parse_list(list: &[u8]) -> Result<Vec<InitiatorPort>, Sense> {
    let announced = wire::index(wire::be32(list, 24));
    let end = announced.saturating_add(28);
    if list.len() < 28 || end != list.len() {
        return Err(Sense::invalid_parameter(24, Some(7)));
    }
    let mut ports = Vec::new();
    let mut at = 28;
    while at < end {
        let (port, used) = parse(list, at)?;
        if !ports.contains(&port) {
            ports.push(port);
        }
        at = at.saturating_add(used);
    }
    Ok(ports)
}

fn parse_name(text: &str) -> Option<InitiatorPort> {
    let (name, isid) = text.rsplit_once(SEPARATOR)?;
    if name.is_empty()
        || name.len() > limits::INITIATOR_NAME
        || isid.len() != 12
        || !isid.is_ascii()
    {
        return None;
    }
    let value = u64::from_str_radix(isid, 16).ok()?;
    let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
    Some(InitiatorPort {
        name: name.to_lowercase(),
        isid: [a, b, c, d, e, f],
    })
}
