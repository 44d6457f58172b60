//! REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, logs and diagnostics.

use std::collections::BTreeSet;

use scsi::sense::Code;

use crate::harness::{Host, a, ten};

fn report(options: u8, code: u8, action: u16, allocation: u32) -> [u8; 12] {
    let s = action.to_be_bytes();
    let n = allocation.to_be_bytes();
    [
        0xa3, 0x0c, options, code, s[0], s[1], n[0], n[1], n[2], n[3], 0, 0,
    ]
}

/// (code, service action) of every command listed.
fn listed(host: &mut Host) -> Vec<(u8, Option<u16>)> {
    let data = host.send(&a(), &report(0, 0, 0, 65535)).good();
    assert_eq!(
        u32::from_be_bytes(data[..4].try_into().unwrap()) as usize,
        data.len() - 4
    );
    let entry = |d: &[u8]| {
        (
            d[0],
            (d[5] & 1 != 0).then(|| u16::from_be_bytes([d[2], d[3]])),
        )
    };
    data[4..].chunks(8).map(entry).collect()
}

#[test]
fn every_listed_command_can_be_asked_for_by_itself() {
    for mut host in [Host::disk(100), Host::optical(100)] {
        let all = listed(&mut host);
        assert!(all.len() > 30);
        for (code, action) in all {
            let (good, bad) = if action.is_some() { (2, 1) } else { (1, 2) };
            let action = action.unwrap_or(0);
            host.send(&a(), &report(bad, code, action, 255))
                .illegal(Code::INVALID_FIELD);
            for options in [good, 3] {
                let data = host.send(&a(), &report(options, code, action, 255)).good();
                let len = usize::from(data[3]);
                assert_eq!(data[1], 3);
                assert_eq!(data.len(), 4 + len);
                assert_eq!(data[4], code);
                if good == 2 {
                    assert_eq!(u16::from(data[5] & 0x1f), action);
                }
            }
            let data = host
                .send(&a(), &report(0x80 | good, code, action, 255))
                .good();
            let timeout = &data[4 + usize::from(data[3])..];
            assert_eq!(
                (data[1], &timeout[..2], timeout.len()),
                (0x83, &[0, 10][..], 12)
            );
        }
    }
}

#[test]
fn what_is_listed_runs_and_what_is_not_does_not() {
    for make in [|| Host::disk(100), || Host::optical(100)] {
        let mut host = make();
        let all: BTreeSet<_> = listed(&mut host).into_iter().collect();
        let codes: BTreeSet<u8> = all.iter().map(|(code, _)| *code).collect();
        for code in 0..=255u8 {
            for action in 0..32u8 {
                let mut cdb = [0; 32];
                cdb[..2].copy_from_slice(&[code, action]);
                let outcome = make().send(&a(), &cdb);
                let unknown = outcome
                    .response
                    .sense
                    .as_ref()
                    .is_some_and(|s| s.code == Code::INVALID_OPCODE);
                assert_eq!(unknown, !codes.contains(&code), "{code:02x}/{action:02x}");
                let has_actions = all.iter().any(|(c, s)| *c == code && s.is_some());
                if has_actions && !all.contains(&(code, Some(u16::from(action)))) {
                    let field = outcome.illegal(Code::INVALID_FIELD).field.unwrap();
                    assert_eq!((field.in_cdb, field.byte), (true, 1));
                }
            }
        }
    }
}

#[test]
fn every_option_code_and_action_is_answered_within_bounds() {
    let mut host = Host::disk(100);
    let all: BTreeSet<_> = listed(&mut host).into_iter().collect();
    for option in 0..8u8 {
        for timeouts in [0, 0x80] {
            for code in 0..=255u8 {
                for action in (0..=32).chain([0xff, 0x100, 0xffff]) {
                    let outcome = host.send(&a(), &report(timeouts | option, code, action, 20));
                    assert!(outcome.data.len() <= 20);
                    let known = all.contains(&(code, Some(action)));
                    let plain = all.contains(&(code, None));
                    let exists = known || (plain && (option != 3 || action == 0));
                    if option > 3 {
                        outcome.illegal(Code::INVALID_FIELD);
                    } else if option > 0 && outcome.response.is_good() {
                        assert_eq!(
                            outcome.data[1] & 7,
                            if exists { 3 } else { 1 },
                            "{option} {code:02x}/{action}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn allocation_lengths_cut() {
    let mut host = Host::disk(100);
    for options in [0x00, 0x80, 0x01, 0x81] {
        let whole = host.send(&a(), &report(options, 0x28, 0, u32::MAX)).good();
        for allocation in 0..whole.len() {
            let data = host
                .send(&a(), &report(options, 0x28, 0, allocation as u32))
                .good();
            assert_eq!(data[..], whole[..allocation]);
        }
    }
    let timeouts = host.send(&a(), &report(0x80, 0, 0, 65535)).good();
    for entry in timeouts[4..].chunks(20) {
        assert_eq!((entry[5] & 2, &entry[8..10]), (2, &[0, 10][..]));
    }
}

#[test]
fn dpo_and_fua_show_in_the_usage_data() {
    let mut host = Host::disk(100);
    for code in [0x28, 0x2a, 0xa8, 0xaa, 0x88, 0x8a, 0x8b, 0x89] {
        assert_eq!(
            host.send(&a(), &report(1, code, 0, 255)).good()[5] & 0x18,
            0x18
        );
    }
    for code in [0x2e, 0x2f, 0xae, 0xaf, 0x8e, 0x8f] {
        assert_eq!(
            host.send(&a(), &report(1, code, 0, 255)).good()[5] & 0x18,
            0x10
        );
    }
}

#[test]
fn unmap_is_listed_only_where_there_is_thin_provisioning() {
    let mut host = Host::disk(100);
    assert!(listed(&mut host).contains(&(0x42, None)));
    host.unit.thin = false;
    assert!(!listed(&mut host).contains(&(0x42, None)));
}

#[test]
fn task_management_functions() {
    let mut host = Host::disk(100);
    let cdb = |repd: u8, n: u8| [0xa3, 0x0d, repd, 0, 0, 0, 0, 0, 0, n, 0, 0];
    assert_eq!(host.send(&a(), &cdb(0, 16)).good(), [0xda, 0, 0, 0]);
    let long = host.send(&a(), &cdb(0x80, 16)).good();
    assert_eq!((long.len(), long[3]), (16, 12));
    host.send(&a(), &cdb(0, 3)).illegal(Code::INVALID_FIELD);
}

#[test]
fn logs_list_themselves() {
    let mut host = Host::disk(100);
    let log = |page: u8, subpage: u8| [0x4d, 0, 0x40 | page, subpage, 0, 0, 0, 1, 0, 0];
    assert_eq!(host.send(&a(), &log(0, 0)).good(), [0, 0, 0, 2, 0, 0x2f]);
    assert_eq!(
        host.send(&a(), &log(0, 0xff)).good(),
        [0x40, 0xff, 0, 6, 0, 0, 0x2f, 0, 0, 0xff]
    );
    assert_eq!(host.send(&a(), &log(0x2f, 0)).good().len(), 12);
    for (page, subpage) in [(0x2f, 1), (0x0d, 0), (0x01, 0), (0, 1)] {
        host.send(&a(), &log(page, subpage))
            .illegal(Code::INVALID_FIELD);
    }
    host.send(&a(), &[0x4d, 1, 0, 0, 0, 0, 0, 1, 0, 0])
        .illegal(Code::INVALID_FIELD);
}

#[test]
fn diagnostics_and_defects() {
    let mut host = Host::disk(100);
    host.send(&a(), &[0x1d, 0x04, 0, 0, 0, 0]).good();
    host.send(&a(), &[0x1d, 0x20, 0, 0, 0, 0])
        .illegal(Code::INVALID_FIELD);
    host.send(&a(), &[0x1d, 0x10, 0, 0, 8, 0])
        .illegal(Code::INVALID_FIELD);
    let mut cdb = ten(0x37, 0, 0, 32);
    cdb[2] = 0x1d;
    assert_eq!(host.send(&a(), &cdb).good(), [0, 0x1d, 0, 0]);
    assert_eq!(
        host.send(&a(), &[0xb7, 0x0d, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0])
            .good(),
        [0, 0x0d, 0, 0, 0, 0, 0, 0]
    );
}
