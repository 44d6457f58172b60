//! The pages themselves.

use super::{Saved, Values};
use crate::unit::{Kind, Unit};
use crate::wire::{self, Writer};

/// PS: the page can be saved.
const SAVABLE: u8 = 0x80;

/// SPF: the page has a subpage code.
const SUBPAGE: u8 = 0x40;

/// All pages.
const ALL: u8 = 0x3f;

/// All subpages.
const ALL_SUBPAGES: u8 = 0xff;

/// SWP, in byte 4 of the control page.
pub(super) const SWP: u8 = 0x08;

/// D_SENSE, in byte 2 of the control page.
pub(super) const D_SENSE: u8 = 0x04;

/// Page and subpage codes, ascending.
const DISK: &[(u8, u8)] = &[(0x01, 0), (0x08, 0), (0x0a, 0), (0x0a, 0x01), (0x1c, 0)];
const OPTICAL: &[(u8, u8)] = &[(0x01, 0), (0x0a, 0), (0x2a, 0)];

/// The pages that a page and subpage code ask for, one after another; `None` when there are none such.
pub(super) fn find(unit: &Unit, code: u8, subpage: u8, values: Values) -> Option<Vec<u8>> {
    let list = match unit.kind {
        Kind::Disk => DISK,
        Kind::Optical => OPTICAL,
    };
    let wanted = |(c, s): &&(u8, u8)| match (code, subpage) {
        (ALL, 0) => *s == 0,
        (ALL, ALL_SUBPAGES) => true,
        (code, ALL_SUBPAGES) => *c == code,
        (code, subpage) => (*c, *s) == (code, subpage),
    };
    let mut out = Writer::new();
    for (code, subpage) in list.iter().filter(wanted) {
        out.bytes(&page(unit, *code, *subpage, values));
    }
    match out.len() {
        0 => None,
        _ => Some(out.finish()),
    }
}

fn page(unit: &Unit, code: u8, subpage: u8, values: Values) -> Vec<u8> {
    let mut out = Writer::new();
    let header = if subpage == 0 {
        out.u8(code).u8(0);
        2
    } else {
        out.u8(SUBPAGE | code).u8(subpage).u16(0);
        4
    };
    // Of most pages nothing can be changed: their mask is all zeros.
    let shown = values != Values::Changeable;
    match (code, subpage) {
        // AWRE and ARRE.
        (0x01, _) => out
            .u8(if shown && unit.kind == Kind::Disk {
                0xc0
            } else {
                0
            })
            .pad_to(12),
        // WCE.
        (0x08, _) => out
            .u8(if shown && unit.volatile_cache {
                0x04
            } else {
                0
            })
            .pad_to(20),
        (0x0a, 0) => control(&mut out, unit, values),
        (0x0a, _) => out.pad_to(32),
        // DEXCPT: no informational exceptions are reported.
        (0x1c, _) => out.u8(if shown { 0x08 } else { 0 }).pad_to(12),
        _ => capabilities(&mut out, unit, shown),
    };
    let len = out.after(header);
    if header == 2 {
        out.set_u8(1, wire::len8(len));
    } else {
        out.set_u16(2, wire::len16(len));
    }
    out.finish()
}

/// 0Ah: one task set, GLTSD, unrestricted reordering, no busy timeout limit; SWP and D_SENSE.
fn control<'a>(out: &'a mut Writer, unit: &Unit, values: Values) -> &'a mut Writer {
    let disk = unit.kind == Kind::Disk;
    let set = match values {
        Values::Current => unit.mode.current(),
        Values::Saved => unit.mode.saved,
        Values::Default => Saved::default(),
        Values::Changeable => Saved {
            write_protect: disk,
            descriptor_sense: true,
        },
    };
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let (fixed, order, busy) = match values {
        Values::Changeable => (0, 0, 0),
        _ => (0x02, 0x10, 0xffff),
    };
    out.set_u8(0, SAVABLE | 0x0a);
    out.u8(fixed | flag(set.descriptor_sense, D_SENSE))
        .u8(order)
        .u8(flag(set.write_protect, SWP))
        .u8(0)
        .u16(0)
        .u16(busy)
        .u16(0)
}

/// Kilobytes a second that the drive claims: 40 times the speed of an audio disc.
const SPEED: u16 = 7056;

/// 2Ah: what the drive reads (CD-R, CD-RW, DVD-ROM, DVD-R; mode 2; sessions), a tray that ejects and
/// locks, its speed.
fn capabilities<'a>(out: &'a mut Writer, unit: &Unit, shown: bool) -> &'a mut Writer {
    if !shown {
        return out.pad_to(22);
    }
    let locked = if unit.prevented.is_empty() { 0 } else { 0x02 };
    out.u8(0x1b)
        .u8(0)
        .u8(0x70)
        .u8(0)
        .u8(0x20 | 0x08 | 0x01 | locked)
        .u8(0)
        .u16(SPEED)
        .u16(0)
        .u16(512)
        .u16(SPEED)
        .pad_to(22)
}
