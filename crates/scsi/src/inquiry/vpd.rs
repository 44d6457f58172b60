//! Vital product data pages.

use super::{peripheral, port_name};
use crate::nexus::Nexus;
use crate::unit::{Kind, Unit};
use crate::wire::{self, Writer};

/// PROTOCOL IDENTIFIER of iSCSI, in the upper half of a designator's first byte.
const ISCSI: u8 = 0x50;

/// PIV and the association of a designator.
const LOGICAL_UNIT: u8 = 0x00;
const TARGET_PORT: u8 = 0x80 | 0x10;
const TARGET_DEVICE: u8 = 0x80 | 0x20;

/// Code sets.
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;

/// Pages of every device, then those of disks alone.
const COMMON: [u8; 6] = [0x00, 0x80, 0x83, 0x86, 0x87, 0x88];
const DISK: [u8; 3] = [0xb0, 0xb1, 0xb2];

/// Length of the extended inquiry, block limits and block device characteristics pages.
const LONG: usize = 64;

fn pages(unit: &Unit) -> impl Iterator<Item = u8> {
    let disk: &[u8] = if unit.kind == Kind::Disk { &DISK } else { &[] };
    COMMON.iter().chain(disk).copied()
}

/// A page as this nexus sees it; `None` where the unit does not have it.
pub(super) fn page(unit: &Unit, nexus: &Nexus, page: u8) -> Option<Vec<u8>> {
    if !pages(unit).any(|p| p == page) {
        return None;
    }
    let mut out = Writer::new();
    out.u8(peripheral(unit)).u8(page).u16(0);
    match page {
        0x00 => pages(unit).for_each(|page| {
            out.u8(page);
        }),
        0x80 => {
            out.bytes(&text(&unit.identity.serial));
        }
        0x83 => identification(&mut out, unit, nexus),
        0x86 => extended(&mut out, unit),
        // All pages and subpages are shared by all nexuses.
        0x87 => {
            out.u8(0x3f).u8(0xff).u8(0x00).u8(0);
        }
        0x88 => ports(&mut out, unit),
        0xb0 => limits(&mut out, unit),
        0xb1 => characteristics(&mut out, unit),
        _ => provisioning(&mut out, unit),
    }
    let len = wire::len16(out.after(4));
    out.set_u16(2, len);
    Some(out.finish())
}

/// Longest value of a designator: a multiple of four that its length byte can count.
const DESIGNATOR: usize = 252;

/// Printable ASCII, at most what a designator or page can carry.
fn text(text: &str) -> Vec<u8> {
    let mut out = Writer::new();
    out.ascii(text, text.len().min(DESIGNATOR));
    out.finish()
}

fn designator(out: &mut Writer, code_set: u8, association_and_type: u8, value: &[u8]) {
    let value = value.get(..DESIGNATOR).unwrap_or(value);
    let protocol = if association_and_type & 0x80 != 0 {
        ISCSI
    } else {
        0
    };
    out.u8(protocol | code_set).u8(association_and_type).u8(0);
    out.u8(wire::len8(value.len())).bytes(value);
}

/// A SCSI name string (type 8): ends with a null, a multiple of four long.
fn name(out: &mut Writer, association: u8, value: &str) {
    let mut bytes = value.as_bytes().to_vec();
    bytes.truncate(DESIGNATOR.saturating_sub(1));
    bytes.resize(bytes.len().saturating_add(1).next_multiple_of(4), 0);
    designator(out, UTF_8, association | 8, &bytes);
}

/// 83h: the unit by NAA, by vendor and serial, by name; the port the question came through; the target.
fn identification(out: &mut Writer, unit: &Unit, nexus: &Nexus) {
    let identity = &unit.identity;
    let port = nexus.port;
    designator(out, BINARY, LOGICAL_UNIT | 3, &identity.naa);
    let mut vendor = Writer::new();
    vendor
        .ascii(&identity.vendor, 8)
        .bytes(&text(&identity.serial));
    designator(out, ASCII, LOGICAL_UNIT | 1, &vendor.finish());
    let hex: String = identity.naa.iter().map(|b| format!("{b:02x}")).collect();
    name(out, LOGICAL_UNIT, &format!("naa.{hex}"));
    let [high, low] = port.to_be_bytes();
    designator(out, BINARY, TARGET_PORT | 4, &[0, 0, high, low]);
    // One target port group for each portal group.
    designator(out, BINARY, TARGET_PORT | 5, &[0, 0, high, low]);
    name(out, TARGET_PORT, &port_name(identity, port));
    name(out, TARGET_DEVICE, &identity.target);
}

/// 86h: simple tasks only, since no order among tasks is kept; V_SUP where there is a volatile cache.
fn extended(out: &mut Writer, unit: &Unit) {
    out.u8(0)
        .u8(0x01)
        .u8(u8::from(unit.volatile_cache))
        .pad_to(LONG);
}

/// 88h: every target port by number and name.
fn ports(out: &mut Writer, unit: &Unit) {
    for port in &unit.identity.ports {
        let mut names = Writer::new();
        name(&mut names, TARGET_PORT, &port_name(&unit.identity, *port));
        let names = names.finish();
        out.u16(0).u16(*port).u16(0).u16(0).u16(0);
        out.u16(wire::len16(names.len())).bytes(&names);
    }
}

/// B0h.
fn limits(out: &mut Writer, unit: &Unit) {
    let limits = &unit.limits;
    let per = |bytes: u32| bytes.checked_div(unit.block_size).unwrap_or(0);
    let (lbas, descriptors, granularity) = if unit.thin {
        (
            limits.max_unmap_lbas,
            limits.max_unmap_descriptors,
            per(unit.unmap_granularity),
        )
    } else {
        (0, 0, 0)
    };
    // UGAVALID with alignment 0 where there is a granularity.
    let alignment = if granularity > 0 { 0x8000_0000 } else { 0 };
    let physical = per(unit.physical_block_size);
    // WSNZ: WRITE SAME of no blocks does not mean "to the end".
    out.u8(1)
        .u8(limits.max_compare_and_write)
        .u16(u16::try_from(physical).unwrap_or(0))
        .u32(limits.max_transfer_blocks)
        .u32(limits.optimal_transfer_blocks)
        .u32(0)
        .u32(lbas)
        .u32(descriptors)
        .u32(granularity)
        .u32(alignment)
        .u64(limits.max_write_same)
        .pad_to(LONG);
}

/// B1h: does not rotate; or does, at a speed that nobody told us.
fn characteristics(out: &mut Writer, unit: &Unit) {
    out.u16(if unit.rotational { 0 } else { 1 }).pad_to(LONG);
}

/// B2h: LBPU, LBPWS, LBPWS10 and LBPRZ; thin.
fn provisioning(out: &mut Writer, unit: &Unit) {
    let (flags, kind) = if unit.thin { (0xe4, 2) } else { (0, 0) };
    out.u8(0).u8(flags).u8(kind).u8(0);
}
