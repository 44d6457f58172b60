//! INQUIRY, vital product data, REPORT LUNS, and LUNs that are not there.

use scsi::sense::{Code, Key};
use scsi::{Command, DataIn, no_such_lun};

use crate::harness::{Host, NAA, TARGET, TEST_UNIT_READY, a, inquiry, nexus};

fn report_luns(select: u8, allocation: u32) -> [u8; 12] {
    let n = allocation.to_be_bytes();
    [0xa0, 0, select, 0, 0, 0, n[0], n[1], n[2], n[3], 0, 0]
}

#[test]
fn standard_inquiry_says_what_it_is() {
    let mut host = Host::disk(100);
    let data = host.send(&a(), &inquiry(None, 260)).good();
    assert_eq!(data.len(), 96);
    assert_eq!(data[..8], [0x00, 0x00, 0x06, 0x12, 91, 0x10, 0x10, 0x02]);
    assert_eq!(data[8..36], *b"SANCTUM VIRTUAL-DISK    0001");
    assert_eq!(
        data[58..66],
        [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]
    );
    host.unit.removable = true;
    assert_eq!(host.send(&a(), &inquiry(None, 2)).good(), [0, 0x80]);
    let optical = Host::optical(100).send(&a(), &inquiry(None, 96)).good();
    assert_eq!(optical[..2], [0x05, 0x80]);
}

#[test]
fn allocation_lengths_cut_and_change_nothing_else() {
    let mut host = Host::disk(100);
    let pages: Vec<u8> = host.send(&a(), &inquiry(Some(0), 255)).good()[4..].to_vec();
    let all = [None].into_iter().chain(pages.into_iter().map(Some));
    for page in all {
        let whole = host.send(&a(), &inquiry(page, u16::MAX)).good();
        for allocation in 0..600u16 {
            let outcome = host.send(&a(), &inquiry(page, allocation));
            let want = usize::from(allocation).min(whole.len());
            assert_eq!(outcome.response.transfer as usize, want);
            assert_eq!(outcome.good()[..], whole[..want]);
        }
    }
}

#[test]
fn pages_are_ascending_and_every_one_can_be_read() {
    for (mut host, want) in [
        (
            Host::disk(100),
            &[0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0xb0, 0xb1, 0xb2][..],
        ),
        (
            Host::optical(100),
            &[0x00, 0x80, 0x83, 0x86, 0x87, 0x88][..],
        ),
    ] {
        let list = host.send(&a(), &inquiry(Some(0), 255)).good();
        assert_eq!(list[4..], *want);
        for page in 0..=255u8 {
            let outcome = host.send(&a(), &inquiry(Some(page), 1024));
            if want.contains(&page) {
                let data = outcome.good();
                assert_eq!(data[1], page);
                assert_eq!(
                    usize::from(data[2]) << 8 | usize::from(data[3]),
                    data.len() - 4
                );
                assert_eq!(data[0], list[0]);
            } else {
                outcome.illegal(Code::INVALID_FIELD);
            }
        }
    }
}

#[test]
fn fields_without_meaning_are_refused() {
    let mut host = Host::disk(100);
    host.send(&a(), &[0x12, 0, 1, 1, 0, 0])
        .illegal(Code::INVALID_FIELD);
    let sense = host
        .send(&a(), &[0x12, 2, 0, 1, 0, 0])
        .illegal(Code::INVALID_FIELD);
    assert_eq!(sense.to_bytes()[15..18], [0xc9, 0, 1]);
}

/// Designators of page 83h: (protocol and code set, association and type, value).
fn designators(data: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut rest = &data[4..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(rest[3]);
        found.push((rest[0], rest[1], rest[4..4 + len].to_vec()));
        rest = &rest[4 + len..];
    }
    found
}

#[test]
fn identification_names_unit_port_and_target() {
    let mut host = Host::disk(100);
    let data = host.send(&nexus('a', 2), &inquiry(Some(0x83), 1024)).good();
    let found = designators(&data);
    assert_eq!(found[0], (0x01, 0x03, NAA.to_vec()));
    assert_eq!(found[1], (0x02, 0x01, b"SANCTUM 0123456789AB".to_vec()));
    let name = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    assert_eq!(
        found[2],
        (0x03, 0x08, name("naa.600102030405060708090a0b0c0d0e0f"))
    );
    assert_eq!(found[3], (0x51, 0x94, vec![0, 0, 0, 2]));
    assert_eq!(found[4], (0x51, 0x95, vec![0, 0, 0, 2]));
    assert_eq!(found[5], (0x53, 0x98, name(&format!("{TARGET},t,0x0002"))));
    assert_eq!(found[6], (0x53, 0xa8, name(TARGET)));
}

#[test]
fn other_pages_say_what_the_unit_does() {
    let mut host = Host::disk(100);
    assert_eq!(
        host.send(&a(), &inquiry(Some(0x80), 255)).good()[4..],
        *b"0123456789AB"
    );
    let limits = host.send(&a(), &inquiry(Some(0xb0), 255)).good();
    assert_eq!(limits.len(), 64);
    assert_eq!(limits[4..16], [1, 255, 0, 1, 0, 0, 0x20, 0, 0, 0, 8, 0]);
    assert_eq!(
        limits[20..44],
        [
            0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff
        ]
    );
    assert_eq!(
        host.send(&a(), &inquiry(Some(0xb1), 255)).good()[4..6],
        [0, 1]
    );
    assert_eq!(
        host.send(&a(), &inquiry(Some(0xb2), 255)).good()[4..],
        [0, 0xe4, 2, 0]
    );
    assert_eq!(
        host.send(&a(), &inquiry(Some(0x86), 255)).good()[4..8],
        [0, 1, 0, 0]
    );
    host.unit.volatile_cache = true;
    host.unit.thin = false;
    host.unit.rotational = true;
    assert_eq!(host.send(&a(), &inquiry(Some(0x86), 255)).good()[6], 1);
    assert_eq!(
        host.send(&a(), &inquiry(Some(0xb0), 255)).good()[20..36],
        [0; 16]
    );
    assert_eq!(
        host.send(&a(), &inquiry(Some(0xb1), 255)).good()[4..6],
        [0, 0]
    );
    assert_eq!(
        host.send(&a(), &inquiry(Some(0xb2), 255)).good()[4..],
        [0; 4]
    );
    let ports = host.send(&a(), &inquiry(Some(0x88), 1024)).good();
    assert_eq!(ports[4..8], [0, 0, 0, 1]);
    let second = 4 + 12 + usize::from(ports[15]);
    assert_eq!(ports[second..second + 4], [0, 0, 0, 2]);
}

#[test]
fn long_names_stay_inside_their_fields() {
    let mut host = Host::disk(100);
    let mut identity = (*host.unit.identity).clone();
    identity.serial = "s".repeat(1000);
    identity.target = "t".repeat(1000);
    identity.vendor = "v\u{e9}ndor beyond".to_owned();
    host.unit.identity = std::sync::Arc::new(identity);
    for page in [0x80, 0x83, 0x88] {
        let data = host.send(&a(), &inquiry(Some(page), u16::MAX)).good();
        assert_eq!(
            usize::from(data[2]) << 8 | usize::from(data[3]),
            data.len() - 4
        );
    }
    let data = host.send(&a(), &inquiry(Some(0x83), u16::MAX)).good();
    assert_eq!(designators(&data).len(), 7);
    let data = host.send(&a(), &inquiry(None, 96)).good();
    assert_eq!(data[8..16], *b"v  ndor ");
}

#[test]
fn report_luns_shows_the_map_of_the_initiator() {
    let mut host = Host::disk(100);
    host.luns = vec![0, 1, 255, 256, 16383];
    let data = host.send(&a(), &report_luns(0, 4096)).good();
    assert_eq!(data[..4], [0, 0, 0, 40]);
    let luns: Vec<&[u8]> = data[8..].chunks(8).map(|lun| &lun[..2]).collect();
    assert_eq!(
        luns,
        [&[0, 0], &[0, 1], &[0, 255], &[0x41, 0], &[0x7f, 0xff]]
    );
    for select in [0x02, 0x11] {
        assert_eq!(host.send(&a(), &report_luns(select, 4096)).good(), data);
    }
    for select in [0x01, 0x10, 0x12] {
        assert_eq!(host.send(&a(), &report_luns(select, 4096)).good(), [0; 8]);
    }
    for select in [0x03, 0x0f, 0x13, 0xff] {
        host.send(&a(), &report_luns(select, 4096))
            .illegal(Code::INVALID_FIELD);
    }
    for allocation in 0..16 {
        host.send(&a(), &report_luns(0, allocation))
            .illegal(Code::INVALID_FIELD);
    }
    assert_eq!(host.send(&a(), &report_luns(0, 20)).good(), data[..20]);
}

#[test]
fn a_lun_that_is_not_there() {
    let luns = [3];
    let who = a();
    let ask = |cdb: &[u8]| {
        no_such_lun(&Command {
            cdb,
            nexus: &who,
            read_only: false,
            data_out_len: 0,
            data_in_len: 255,
            luns: &luns,
        })
    };
    let bytes = |cdb: &[u8]| match ask(cdb).data {
        DataIn::Inline(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    assert_eq!(bytes(&inquiry(None, 96))[0], 0x7f);
    assert_eq!(bytes(&report_luns(0, 64))[8..10], [0, 3]);
    let sense = bytes(&[0x03, 0, 0, 0, 252, 0]);
    assert_eq!((sense[2], sense[12], sense[13]), (5, 0x25, 0));
    for cdb in [&TEST_UNIT_READY[..], &[0x28; 10], &[], &[0xff; 32]] {
        let sense = ask(cdb).sense.unwrap();
        assert_eq!(
            (sense.key, sense.code),
            (Key::IllegalRequest, Code::NO_SUCH_LUN)
        );
    }
    assert!(ask(&inquiry(Some(0x83), 96)).sense.is_some());
}

#[test]
fn port_groups_are_all_active() {
    let mut host = Host::disk(100);
    let cdb = |format: u8| [0xa3, format << 5 | 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let group = |port: u8| vec![0, 1, 0, port, 0, 0, 0, 1, 0, 0, 0, port];
    let want = [vec![0, 0, 0, 24], group(1), group(2)].concat();
    assert_eq!(host.send(&a(), &cdb(0)).good(), want);
    let want = [vec![0, 0, 0, 28, 0x10, 0, 0, 0], group(1), group(2)].concat();
    assert_eq!(host.send(&a(), &cdb(1)).good(), want);
    for format in 2..8 {
        host.send(&a(), &cdb(format)).illegal(Code::INVALID_FIELD);
    }
}
