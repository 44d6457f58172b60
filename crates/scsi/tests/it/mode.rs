//! MODE SENSE, MODE SELECT.

use scsi::sense::{Code, Key};
use scsi::{Attention, mode};

use crate::harness::{Host, a, b, block, ten};

fn sense6(page: u8, subpage: u8, allocation: u8) -> [u8; 6] {
    [0x1a, 0, page, subpage, allocation, 0]
}

fn sense10(flags: u8, page: u8, subpage: u8) -> [u8; 10] {
    [0x5a, flags, page, subpage, 0, 0, 0, 4, 0, 0]
}

fn select6(flags: u8, len: usize) -> [u8; 6] {
    [0x15, flags, 0, 0, len as u8, 0]
}

/// The control page with SWP and D_SENSE as given, behind a header without block descriptor.
fn control(swp: bool, d_sense: bool) -> Vec<u8> {
    let mut list = vec![0; 4];
    list.extend([
        0x0a,
        0x0a,
        0x02 | u8::from(d_sense) << 2,
        0x10,
        u8::from(swp) << 3,
        0,
        0,
        0,
        0xff,
        0xff,
        0,
        0,
    ]);
    list
}

#[test]
fn all_pages_of_a_disk() {
    let mut host = Host::disk(1000);
    let data = host.send(&a(), &sense6(0x3f, 0, 255)).good();
    assert_eq!(usize::from(data[0]), data.len() - 1);
    assert_eq!(data[1..4], [0, 0x10, 8]);
    assert_eq!(data[4..12], [0, 0, 3, 0xe8, 0, 0, 2, 0]);
    let mut rest = &data[12..];
    let mut codes = Vec::new();
    while !rest.is_empty() {
        codes.push(rest[0] & 0x3f);
        rest = &rest[2 + usize::from(rest[1])..];
    }
    assert_eq!(codes, [0x01, 0x08, 0x0a, 0x1c]);
    let with_subpages = host.send(&a(), &sense6(0x3f, 0xff, 255)).good();
    assert_eq!(with_subpages.len(), data.len() + 32);
    let ten = host.send(&a(), &sense10(0, 0x3f, 0xff)).good();
    assert_eq!(ten[8..], with_subpages[4..]);
    assert_eq!(ten[..8], [0, (ten.len() - 2) as u8, 0, 0x10, 0, 0, 0, 8]);
}

#[test]
fn block_descriptors_short_long_and_none() {
    let mut host = Host::disk(1000);
    let long = host.send(&a(), &sense10(0x10, 0x0a, 0)).good();
    assert_eq!(long[4..8], [1, 0, 0, 16]);
    assert_eq!(
        long[8..24],
        [0, 0, 0, 0, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0, 0, 2, 0]
    );
    let none = host.send(&a(), &sense10(0x18, 0x0a, 0)).good();
    assert_eq!(none[4..8], [0, 0, 0, 0]);
    assert_eq!(none.len(), 8 + 12);
    host.unit.blocks = u64::MAX;
    assert_eq!(
        host.send(&a(), &sense6(0x0a, 0, 255)).good()[4..8],
        [0xff; 4]
    );
}

#[test]
fn pages_there_are_and_are_not() {
    let mut host = Host::disk(1000);
    for page in 0..0x40u8 {
        for subpage in [0, 1, 2, 0xff] {
            let known = matches!(
                (page, subpage),
                (0x01 | 0x08 | 0x0a | 0x1c | 0x3f, 0 | 0xff) | (0x0a, 1)
            );
            let outcome = host.send(&a(), &sense6(page, subpage, 255));
            assert_eq!(
                outcome.response.is_good(),
                known,
                "{page:02x}/{subpage:02x}"
            );
            if !known {
                outcome.illegal(Code::INVALID_FIELD);
            }
        }
    }
}

#[test]
fn protection_and_cache_are_told_as_they_are() {
    let mut host = Host::disk(1000);
    let specific = |host: &mut Host| host.send(&a(), &sense6(0x08, 0, 255)).good()[2];
    assert_eq!(specific(&mut host), 0x10);
    host.read_only = true;
    assert_eq!(specific(&mut host), 0x90);
    host.read_only = false;
    host.unit.mode.write_protect = true;
    assert_eq!(specific(&mut host), 0x90);
    let cache = |host: &mut Host, page: u8| host.send(&a(), &sense6(page, 0, 255)).good()[14];
    assert_eq!(cache(&mut host, 0x08), 0);
    host.unit.volatile_cache = true;
    assert_eq!(cache(&mut host, 0x08), 0x04);
    assert_eq!(cache(&mut host, 0x48), 0, "cannot be changed");
}

#[test]
fn select_changes_what_sense_shows_and_what_is_done() {
    let mut host = Host::disk(1000);
    host.greet(&b());
    let list = control(true, true);
    host.out(&a(), &select6(0x10, list.len()), &list).good();
    assert_eq!(host.pending(&b()), [Attention::ModeChanged]);
    assert!(!host.applied.as_ref().unwrap().persist);
    host.out(&a(), &ten(0x2a, 0, 0, 1), &block(0))
        .check(Key::DataProtect, Code::SOFTWARE_WRITE_PROTECTED);
    let page = |host: &mut Host, pc: u8| {
        host.send(&a(), &sense6(pc << 6 | 0x0a, 0, 255)).good()[12..24].to_vec()
    };
    assert_eq!(
        page(&mut host, 0),
        [0x8a, 10, 0x06, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0]
    );
    assert_eq!(
        page(&mut host, 1),
        [0x8a, 10, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        page(&mut host, 2),
        [0x8a, 10, 0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0]
    );
    assert_eq!(page(&mut host, 3), page(&mut host, 2));
    // The same once more changes nothing and tells nobody.
    host.greet(&b());
    host.out(&a(), &select6(0x10, list.len()), &list).good();
    assert_eq!(host.pending(&b()), []);
    // SP saves; a reset brings the saved values back.
    host.out(&a(), &select6(0x11, list.len()), &list).good();
    assert!(host.applied.as_ref().unwrap().persist);
    let off = control(false, false);
    host.out(&a(), &select6(0x10, off.len()), &off).good();
    assert!(!host.unit.mode.write_protect);
    let reset = scsi::change::reset(&host.unit, None);
    assert!(reset.unit.mode.write_protect && reset.unit.mode.descriptor_sense);
    let json = serde_json::to_string(&host.unit.mode.saved).unwrap();
    assert_eq!(json, r#"{"write_protect":true,"descriptor_sense":true}"#);
    let restored = mode::State::restore(serde_json::from_str(&json).unwrap());
    assert_eq!(restored, reset.unit.mode);
}

#[test]
fn select_accepts_what_sense_gave() {
    for flags in [0x08, 0x00, 0x10] {
        let mut host = Host::disk(1000);
        host.unit.volatile_cache = true;
        let data = host.send(&a(), &sense10(flags, 0x3f, 0xff)).good();
        let cdb = [0x55, 0x10, 0, 0, 0, 0, 0, 0, data.len() as u8, 0];
        let before = host.unit.mode;
        host.out(&a(), &cdb, &data).good();
        assert_eq!(host.unit.mode, before);
    }
}

#[test]
fn select_refuses_what_cannot_be_changed_and_points_at_it() {
    let mut host = Host::disk(1000);
    let good = control(false, false);
    for at in 6..good.len() {
        for bit in 0..8 {
            let changeable = matches!((at, bit), (6, 2) | (8, 3));
            let mut list = good.clone();
            list[at] ^= 1 << bit;
            let outcome = host.out(&a(), &select6(0x10, list.len()), &list);
            if changeable {
                outcome.good();
                let back = good.clone();
                host.out(&a(), &select6(0x10, back.len()), &back).good();
            } else {
                let field = outcome.illegal(Code::INVALID_PARAMETER).field.unwrap();
                assert_eq!((usize::from(field.byte), field.bit), (at, Some(bit)));
            }
        }
    }
    // WCE cannot be switched: what is told is what is done.
    let mut cache = vec![0; 4 + 20];
    cache[4..7].copy_from_slice(&[0x08, 0x12, 0x04]);
    host.out(&a(), &select6(0x10, cache.len()), &cache)
        .illegal(Code::INVALID_PARAMETER);
}

#[test]
fn select_lists_that_disagree_with_themselves() {
    let mut host = Host::disk(1000);
    let list = control(true, false);
    for len in 1..list.len() {
        let outcome = host.out(&a(), &select6(0x10, len), &list);
        if len == 4 {
            outcome.good();
        } else {
            outcome.illegal(Code::LIST_LENGTH);
        }
    }
    host.out(&a(), &select6(0x10, 200), &list)
        .illegal(Code::LIST_LENGTH);
    host.out(&a(), &select6(0x00, list.len()), &list)
        .illegal(Code::INVALID_FIELD);
    host.out(&a(), &select6(0x10, 0), &[]).good();
    host.out(
        &a(),
        &[0x55, 0x10, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        &vec![0; 65535],
    )
    .illegal(Code::LIST_LENGTH);
    let mut wrong = list.clone();
    wrong[5] = 9;
    host.out(&a(), &select6(0x10, wrong.len() - 1), &wrong)
        .illegal(Code::INVALID_PARAMETER);
    for code in [0x00, 0x02, 0x3f, 0x7f] {
        let mut wrong = list.clone();
        wrong[4] = code;
        let outcome = host.out(&a(), &select6(0x10, wrong.len()), &wrong);
        assert!(!outcome.response.is_good(), "{code:02x}");
    }
    let mut descriptor = list.clone();
    descriptor[3] = 7;
    host.out(&a(), &select6(0x10, descriptor.len()), &descriptor)
        .illegal(Code::INVALID_PARAMETER);
    // Another block length, or fewer blocks, cannot be had.
    for (blocks, size, good) in [
        (0u32, 0u32, true),
        (1000, 512, true),
        (999, 512, false),
        (0, 4096, false),
    ] {
        let mut list = vec![0, 0, 0, 8];
        list.extend(blocks.to_be_bytes());
        list.extend(size.to_be_bytes());
        let outcome = host.out(&a(), &select6(0x10, list.len()), &list);
        assert_eq!(outcome.response.is_good(), good);
    }
    assert!(!host.unit.mode.write_protect);
}
