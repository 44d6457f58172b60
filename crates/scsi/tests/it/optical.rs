//! The optical drive: what Linux' sr driver and udev ask of it, and the rest of MMC that is here.

use scsi::sense::{Code, Key};
use scsi::{Medium, change};

use crate::harness::{Host, TEST_UNIT_READY, a, ten};

fn toc(flags: u8, format: u8, number: u8, control: u8) -> [u8; 10] {
    [0x43, flags, format, 0, 0, 0, number, 4, 0, control]
}

fn event(class: u8) -> [u8; 10] {
    [0x4a, 1, 0, 0, class, 0, 0, 0, 8, 0]
}

#[test]
fn a_driver_finds_and_reads_the_disc() {
    let mut host = Host::optical(300);
    host.bytes[16 * 2048..17 * 2048].fill(0xcd);
    host.send(&a(), &TEST_UNIT_READY).good();
    assert_eq!(
        host.send(&a(), &ten(0x25, 0, 0, 0)).good(),
        [0, 0, 1, 0x2b, 0, 0, 8, 0]
    );
    assert_eq!(
        host.send(&a(), &ten(0x28, 0, 16, 1)).good(),
        vec![0xcd; 2048]
    );
    let long = [0xa8, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0];
    assert_eq!(host.send(&a(), &long).good(), vec![0xcd; 2048]);
    host.send(&a(), &ten(0x28, 0, 300, 1))
        .illegal(Code::LBA_RANGE);
    host.out(&a(), &ten(0x2a, 0, 0, 1), &vec![0; 2048])
        .illegal(Code::INVALID_OPCODE);
    host.send(&a(), &ten(0x2b, 0, 299, 0)).good();
    host.send(&a(), &ten(0x2b, 0, 300, 0))
        .illegal(Code::LBA_RANGE);
    host.send(&a(), &[0xbb, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0])
        .good();
}

#[test]
fn the_table_of_contents() {
    let mut host = Host::optical(300);
    let whole = host.send(&a(), &toc(0, 0, 0, 0)).good();
    assert_eq!(whole[..4], [0, 18, 1, 1]);
    assert_eq!(whole[4..12], [0, 0x14, 1, 0, 0, 0, 0, 0]);
    assert_eq!(whole[12..20], [0, 0x14, 0xaa, 0, 0, 0, 1, 0x2c]);
    // In time: lead-out at 300 + 150 frames, six seconds.
    let time = host.send(&a(), &toc(2, 0, 0xaa, 0)).good();
    assert_eq!(time, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 6, 0]);
    let sessions = host.send(&a(), &toc(0, 1, 0, 0)).good();
    assert_eq!(sessions, [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    assert_eq!(
        host.send(&a(), &toc(0, 0, 0, 0x40)).good(),
        sessions,
        "format in the control byte"
    );
    let raw = host.send(&a(), &toc(2, 2, 1, 0)).good();
    assert_eq!((raw.len(), &raw[..4]), (4 + 4 * 11, &[0, 46, 1, 1][..]));
    for (format, number) in [(0, 2), (0, 0xa9), (2, 2), (3, 0), (4, 0), (5, 0), (15, 0)] {
        host.send(&a(), &toc(0, format, number, 0))
            .illegal(Code::INVALID_FIELD);
    }
}

#[test]
fn media_events_are_told_once() {
    let mut host = Host::optical(300);
    assert_eq!(
        host.send(&a(), &event(0x10)).good(),
        [0, 6, 4, 0x10, 0, 2, 0, 0]
    );
    let applied = change::medium(&host.unit, Medium::Ejected);
    host.publish(applied);
    assert_eq!(host.send(&a(), &event(0x10)).good()[4..6], [3, 1]);
    assert_eq!(host.send(&a(), &event(0x10)).good()[4..6], [0, 1]);
    host.send(&a(), &TEST_UNIT_READY)
        .check(Key::NotReady, Code::NO_MEDIUM_OPEN);
    let applied = change::medium(&host.unit, Medium::Present);
    host.publish(applied);
    // The event does not wait for the attention to be told.
    assert_eq!(host.send(&a(), &event(0x10)).good()[4..6], [2, 2]);
    host.send(&a(), &TEST_UNIT_READY)
        .check(Key::UnitAttention, Code(0x2800));
    assert_eq!(host.send(&a(), &event(0x40)).good(), [0, 2, 0x80, 0x10]);
    host.send(&a(), &[0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8, 0])
        .illegal(Code::INVALID_FIELD);
    host.unit.medium = Medium::Absent;
    host.send(&a(), &TEST_UNIT_READY)
        .check(Key::NotReady, Code::NO_MEDIUM_CLOSED);
}

#[test]
fn configuration_by_feature() {
    let mut host = Host::optical(300);
    let ask = |request: u8, from: u16| {
        let f = from.to_be_bytes();
        [0x46, request, f[0], f[1], 0, 0, 0, 4, 0, 0]
    };
    let all = host.send(&a(), &ask(0, 0)).good();
    assert_eq!(
        u32::from_be_bytes(all[..4].try_into().unwrap()) as usize,
        all.len() - 4
    );
    assert_eq!(all[6..8], [0, 8], "a CD");
    let mut rest = &all[8..];
    let mut numbers = Vec::new();
    while !rest.is_empty() {
        numbers.push(u16::from_be_bytes([rest[0], rest[1]]));
        rest = &rest[4 + usize::from(rest[3])..];
    }
    assert_eq!(numbers, [0, 1, 2, 3, 0x10, 0x1d, 0x1e, 0x1f, 0x100, 0x105]);
    let one = host.send(&a(), &ask(2, 0x1f)).good();
    assert_eq!(one[8..], [0, 0x1f, 0, 0]);
    let current = host.send(&a(), &ask(1, 0)).good();
    assert!(!current[8..].windows(2).any(|w| w == [0, 0x1f]));
    host.send(&a(), &ask(3, 0)).illegal(Code::INVALID_FIELD);
    host.unit.blocks = 2_000_000;
    assert_eq!(host.send(&a(), &ask(0, 0)).good()[6..8], [0, 0x10], "a DVD");
    host.unit.medium = Medium::Ejected;
    assert_eq!(host.send(&a(), &ask(0, 0)).good()[6..8], [0, 0]);
}

#[test]
fn disc_track_and_mechanism() {
    let mut host = Host::optical(300);
    let disc = host.send(&a(), &[0x51, 0, 0, 0, 0, 0, 0, 0, 255, 0]).good();
    assert_eq!(
        (disc.len(), &disc[..8]),
        (34, &[0, 32, 0x0e, 1, 1, 1, 1, 0x20][..])
    );
    host.send(&a(), &[0x51, 1, 0, 0, 0, 0, 0, 0, 255, 0])
        .illegal(Code::INVALID_FIELD);
    let track = host.send(&a(), &[0x52, 1, 0, 0, 0, 1, 0, 0, 255, 0]).good();
    assert_eq!((track.len(), &track[24..28]), (36, &[0, 0, 1, 0x2c][..]));
    host.send(&a(), &[0x52, 0, 0, 0, 1, 0x2b, 0, 0, 255, 0])
        .good();
    host.send(&a(), &[0x52, 0, 0, 0, 1, 0x2c, 0, 0, 255, 0])
        .illegal(Code::INVALID_FIELD);
    host.send(&a(), &[0x52, 1, 0, 0, 0, 2, 0, 0, 255, 0])
        .illegal(Code::INVALID_FIELD);
    let mechanism = [0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    assert_eq!(host.send(&a(), &mechanism).good(), [0, 0, 0, 0, 0, 1, 0, 0]);
    host.unit.medium = Medium::Ejected;
    assert_eq!(host.send(&a(), &mechanism).good()[1], 0x10);
}

#[test]
fn capabilities_page_follows_the_lock() {
    let mut host = Host::optical(300);
    let page = |host: &mut Host| {
        host.send(&a(), &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255, 0])
            .good()
    };
    let data = page(&mut host);
    assert_eq!(
        (data.len(), &data[..8]),
        (8 + 22, &[0, 28, 0, 0, 0, 0, 0, 0][..])
    );
    assert_eq!((data[8], data[9], data[14]), (0x2a, 20, 0x29));
    host.send(&a(), &[0x1e, 0, 0, 0, 1, 0]).good();
    assert_eq!(page(&mut host)[14], 0x2b);
    let six = host.send(&a(), &[0x1a, 8, 0x2a, 0, 255, 0]).good();
    assert_eq!(six.len(), 4 + 22);
}

#[test]
fn eject_and_load() {
    let mut host = Host::optical(300);
    host.send(&a(), &[0x1b, 0, 0, 0, 2, 0]).good();
    assert!(host.log.is_empty(), "nothing to flush");
    host.send(&a(), &[0x1b, 0, 0, 0, 1, 0])
        .check(Key::NotReady, Code::NO_MEDIUM_OPEN);
    host.send(&a(), &[0x1b, 0, 0, 0, 3, 0]).good();
    host.send(&a(), &TEST_UNIT_READY).good();
}
