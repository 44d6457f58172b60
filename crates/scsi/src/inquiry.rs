//! INQUIRY: who this is. Vital product data pages are in [`vpd`].

mod vpd;

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::unit::{Identity, Kind, Unit};
use crate::wire::{self, Cdb, Writer};

/// Bytes of standard INQUIRY data: up to the last version descriptor and the reserved bytes behind.
const STANDARD: usize = 96;

/// SPC-4 in the VERSION field.
const SPC_4: u8 = 0x06;

/// Version descriptors (no version claimed): SAM-5, iSCSI, SPC-4.
const VERSIONS: [u16; 3] = [0x00a0, 0x0960, 0x0460];

/// Version descriptor of SBC-3.
const SBC_3: u16 = 0x04c0;

/// Version descriptor of MMC-6.
const MMC_6: u16 = 0x04e0;

pub(crate) fn begin(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    let allocation = u32::from(cdb.u16(3));
    let page = cdb.u8(2);
    // CMDDT is obsolete.
    if cdb.bit(1, 0x02) {
        return Err(Response::invalid_cdb(1, Some(1)));
    }
    let bytes = match (cdb.bit(1, 0x01), page) {
        (true, page) => vpd::page(start.unit, start.command.nexus, page),
        (false, 0) => Some(standard(start.unit)),
        (false, _) => None,
    };
    match bytes {
        Some(bytes) => Ok(Job::data(bytes, allocation)),
        None => Err(Response::invalid_cdb(2, Some(7))),
    }
}

/// PERIPHERAL QUALIFIER 000b and the device type.
fn peripheral(unit: &Unit) -> u8 {
    match unit.kind {
        Kind::Disk => 0x00,
        Kind::Optical => 0x05,
    }
}

fn standard(unit: &Unit) -> Vec<u8> {
    let standard = match unit.kind {
        Kind::Disk => SBC_3,
        Kind::Optical => MMC_6,
    };
    let mut out = Writer::new();
    out.u8(peripheral(unit))
        .u8(if unit.removable { 0x80 } else { 0 });
    common(&mut out, &unit.identity);
    for version in VERSIONS {
        out.u16(version);
    }
    out.u16(standard).pad_to(STANDARD);
    out.finish()
}

/// From byte 2 to the version descriptors.
fn common(out: &mut Writer, identity: &Identity) {
    let multiport = if identity.ports.len() > 1 { 0x10 } else { 0 };
    // HISUP and response data format 2; TPGS implicit only; MULTIP; CMDQUE.
    out.u8(SPC_4)
        .u8(0x12)
        .u8(wire::len8(STANDARD.saturating_sub(5)))
        .u8(0x10)
        .u8(multiport)
        .u8(0x02)
        .ascii(&identity.vendor, 8)
        .ascii(&identity.product, 16)
        .ascii(&identity.revision, 4)
        .pad_to(58);
}

/// Standard data for a LUN that is not there: qualifier 011b, no device type.
pub(crate) fn absent(cdb: &Cdb) -> Response {
    if cdb.bit(1, 0x03) || cdb.u8(2) != 0 {
        return Response::invalid_cdb(2, Some(7));
    }
    let nobody = Identity::new(Kind::Disk, "", [0; 16], "");
    let mut out = Writer::new();
    out.u8(0x7f).u8(0);
    common(&mut out, &nobody);
    out.pad_to(STANDARD);
    Response::data(out.finish(), u32::from(cdb.u16(3)))
}

/// The target port's SCSI name string.
fn port_name(identity: &Identity, port: u16) -> String {
    format!("{},t,0x{port:04x}", identity.target)
}
