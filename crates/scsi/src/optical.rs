//! Commands of MMC for a drive that only reads: one data track in one finished session, which is what
//! an ISO image is.

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::sense::Code;
use crate::unit::{Medium, Unit};
use crate::wire::{self, Writer};

/// Blocks of the longest disc that is still a CD (80 minutes of 75 frames a second); more is a DVD.
const CD_BLOCKS: u64 = 80 * 60 * 75;

/// Profiles.
const CD_ROM: u16 = 0x0008;
const DVD_ROM: u16 = 0x0010;

/// ADR 1 (position) and CONTROL 4 (data track, copy prohibited).
const DATA_TRACK: u8 = 0x14;

/// The lead-out's track number.
const LEAD_OUT: u8 = 0xaa;

/// The profile of what is in the drive; 0 for nothing.
fn profile(unit: &Unit) -> u16 {
    match (unit.medium.is_in(), unit.blocks > CD_BLOCKS) {
        (false, _) => 0,
        (true, false) => CD_ROM,
        (true, true) => DVD_ROM,
    }
}

fn blocks(unit: &Unit) -> u32 {
    u32::try_from(unit.blocks).unwrap_or(u32::MAX)
}

/// SEEK(10): checked, and done.
pub(crate) fn seek(start: &Start<'_>, _: &mut NexusState) -> Begun {
    if u64::from(start.cdb.u32(2)) >= start.unit.blocks {
        return Err(Response::illegal(Code::LBA_RANGE));
    }
    Ok(Job::good())
}

/// SET CD SPEED: accepted; an image has one speed.
pub(crate) fn set_speed(_: &Start<'_>, _: &mut NexusState) -> Begun {
    Ok(Job::good())
}

/// An address as the TOC has it: a block number, or minutes, seconds and frames with the two seconds of
/// lead-in.
fn address(out: &mut Writer, lba: u32, time: bool) {
    if !time {
        out.u32(lba);
        return;
    }
    let frames = lba.saturating_add(150);
    let part = |divisor: u32, modulus: u32| {
        let units = frames.checked_div(divisor).unwrap_or(0);
        u8::try_from(units.checked_rem(modulus).unwrap_or(0)).unwrap_or(0)
    };
    out.u8(0)
        .u8(part(75 * 60, 256))
        .u8(part(75, 60))
        .u8(part(1, 75));
}

/// READ TOC/PMA/ATIP: the TOC, the sessions, the raw TOC.
pub(crate) fn read_toc(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    let time = cdb.bit(1, 0x02);
    let number = cdb.u8(6);
    // Drivers of the ATAPI age put the format into the control byte.
    let format = match cdb.u8(2) & 0x0f {
        0 => cdb.u8(9) >> 6,
        format => format,
    };
    let mut out = Writer::new();
    out.u16(0).u8(1).u8(1);
    match (format, number) {
        (0, 0 | 1 | LEAD_OUT) => {
            if number != LEAD_OUT {
                out.u8(0).u8(DATA_TRACK).u8(1).u8(0);
                address(&mut out, 0, time);
            }
            out.u8(0).u8(DATA_TRACK).u8(LEAD_OUT).u8(0);
            address(&mut out, blocks(unit), time);
        }
        (1, _) => {
            out.u8(0).u8(DATA_TRACK).u8(1).u8(0);
            address(&mut out, 0, time);
        }
        (2, 0 | 1) => raw_toc(&mut out, blocks(unit)),
        (0 | 2, _) => return Err(Response::invalid_cdb(6, Some(7))),
        _ => return Err(Response::invalid_cdb(2, Some(3))),
    }
    let len = wire::len16(out.after(2));
    out.set_u16(0, len);
    Ok(Job::data(out.finish(), u32::from(cdb.u16(7))))
}

/// First track, last track, lead-out and the track itself, as they lie in the lead-in; times always.
fn raw_toc(out: &mut Writer, blocks: u32) {
    for point in [0xa0, 0xa1, 0xa2, 1] {
        out.u8(1).u8(DATA_TRACK).u8(0).u8(point).u24(0);
        match point {
            // In minutes stands the track number; session format 00h.
            0xa0 | 0xa1 => {
                out.u8(0).u8(1).u8(0).u8(0);
            }
            0xa2 => address(out, blocks, true),
            _ => address(out, 0, true),
        }
    }
}

/// GET CONFIGURATION: the profiles and what a reading drive must say of itself.
pub(crate) fn get_configuration(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    let request = cdb.u8(1) & 0x03;
    if request == 3 {
        return Err(Response::invalid_cdb(1, Some(1)));
    }
    let from = cdb.u16(2);
    let mut out = Writer::new();
    out.u32(0).u16(0).u16(profile(unit));
    for (number, current, bytes) in features(unit) {
        let wanted = match request {
            0 => number >= from,
            1 => number >= from && current,
            _ => number == from,
        };
        if wanted {
            out.bytes(&bytes);
        }
    }
    let len = wire::len32(out.after(4));
    out.set_u32(0, len);
    Ok(Job::data(out.finish(), u32::from(cdb.u16(7))))
}

/// Feature descriptors: `(number, current, bytes)`, ascending.
fn features(unit: &Unit) -> Vec<(u16, bool, Vec<u8>)> {
    let now = profile(unit);
    let (cd, dvd) = (now == CD_ROM, now == DVD_ROM);
    let feature = |number: u16, version: u8, persistent: bool, current: bool, data: &[u8]| {
        let mut out = Writer::new();
        let flags = version << 2 | u8::from(persistent) << 1 | u8::from(current);
        out.u16(number)
            .u8(flags)
            .u8(wire::len8(data.len()))
            .bytes(data);
        (number, current, out.finish())
    };
    let [dvd_high, dvd_low] = DVD_ROM.to_be_bytes();
    let [cd_high, cd_low] = CD_ROM.to_be_bytes();
    let profiles = [
        dvd_high,
        dvd_low,
        u8::from(dvd),
        0,
        cd_high,
        cd_low,
        u8::from(cd),
        0,
    ];
    let [_, _, size_high, size_low] = unit.block_size.to_be_bytes();
    vec![
        feature(0x0000, 0, true, true, &profiles),
        // Core: physical interface SCSI family; DBE.
        feature(0x0001, 2, true, true, &[0, 0, 0, 1, 1, 0, 0, 0]),
        // Morphing: no asynchronous events.
        feature(0x0002, 1, true, true, &[0, 0, 0, 0]),
        // Removable medium: tray, ejects, locks.
        feature(0x0003, 0, true, true, &[0x29, 0, 0, 0]),
        // Random readable: one block at a time.
        feature(
            0x0010,
            0,
            false,
            cd || dvd,
            &[0, 0, size_high, size_low, 0, 1, 0, 0],
        ),
        feature(0x001d, 0, false, cd || dvd, &[]),
        feature(0x001e, 2, false, cd, &[0, 0, 0, 0]),
        feature(0x001f, 0, false, dvd, &[]),
        // Power management, timeouts.
        feature(0x0100, 0, true, true, &[]),
        feature(0x0105, 0, true, true, &[]),
    ]
}

/// Class of media events, and the bit that asks for it.
const MEDIA: u8 = 4;
const MEDIA_BIT: u8 = 1 << MEDIA;

/// GET EVENT STATUS NOTIFICATION, polled: media events, each told once to each nexus.
pub(crate) fn get_event_status(start: &Start<'_>, state: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    // Asynchronous operation is not offered.
    if !cdb.bit(1, 0x01) {
        return Err(Response::invalid_cdb(1, Some(0)));
    }
    let mut out = Writer::new();
    if !cdb.bit(4, MEDIA_BIT) {
        // NEA: no event of a class that was asked for.
        out.u16(2).u8(0x80).u8(MEDIA_BIT);
        return Ok(Job::data(out.finish(), u32::from(cdb.u16(7))));
    }
    let changed = state.medium_seen != unit.medium_changes;
    state.medium_seen = unit.medium_changes;
    let event = match (changed, unit.medium.is_in()) {
        (false, _) => 0,
        (true, true) => 2,
        (true, false) => 3,
    };
    out.u16(6)
        .u8(MEDIA)
        .u8(MEDIA_BIT)
        .u8(event)
        .u8(medium_status(unit))
        .u16(0);
    Ok(Job::data(out.finish(), u32::from(cdb.u16(7))))
}

/// Medium present, tray open.
fn medium_status(unit: &Unit) -> u8 {
    match unit.medium {
        Medium::Ejected => 0x01,
        Medium::Absent => 0x00,
        Medium::Present | Medium::Loading | Medium::Stuck => 0x02,
    }
}

/// MECHANISM STATUS: idle, the tray open or not, no changer.
pub(crate) fn mechanism_status(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let open = if start.unit.medium == Medium::Ejected {
        0x10
    } else {
        0
    };
    let mut out = Writer::new();
    out.u8(0).u8(open).u24(0).u8(1).u16(0);
    Ok(Job::data(out.finish(), u32::from(start.cdb.u16(8))))
}

/// READ DISC INFORMATION: complete, one session, one track.
pub(crate) fn read_disc_information(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let cdb = &start.cdb;
    if cdb.u8(1) & 0x07 != 0 {
        return Err(Response::invalid_cdb(1, Some(2)));
    }
    let mut out = Writer::new();
    // Disc complete, last session complete; URU: use is not restricted; type CD-ROM; no lead-in times.
    out.u16(32).u8(0x0e).u8(1).u8(1).u8(1).u8(1).u8(0x20).u8(0);
    out.pad_to(16).u32(u32::MAX).u32(u32::MAX).pad_to(34);
    Ok(Job::data(out.finish(), u32::from(cdb.u16(7))))
}

/// READ TRACK INFORMATION: the one track.
pub(crate) fn read_track_information(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let (cdb, unit) = (&start.cdb, start.unit);
    let address = cdb.u32(2);
    let exists = match cdb.u8(1) & 0x03 {
        0 => u64::from(address) < unit.blocks,
        1 | 2 => address == 1,
        _ => return Err(Response::invalid_cdb(1, Some(1))),
    };
    if !exists {
        return Err(Response::invalid_cdb(2, Some(7)));
    }
    let mut out = Writer::new();
    // Track 1 of session 1: data, uninterrupted; data mode 1; starts at 0; nothing left to write.
    out.u16(34).u8(1).u8(1).u8(0).u8(0x04).u8(0x01).u8(0);
    out.u32(0).u32(0).u32(0).u32(0).u32(blocks(unit)).pad_to(36);
    Ok(Job::data(out.finish(), u32::from(cdb.u16(7))))
}
