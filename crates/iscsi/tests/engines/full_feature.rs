//! The target's full feature phase under a client that breaks the rules: one test for each class
//! of past vulnerabilities, and for each rule whose breach has an answer of its own.

use std::time::Duration;

use iscsi::negotiation::Offer;
use iscsi::pdu::{
    self, CONTINUE, DataIn, DataOut, FINAL, Header, LogoutRequest, LogoutResponse, NO_TAG, NopIn,
    NopOut, Opcode, READ, ReadyToTransfer, RejectReason, STATUS, ScsiResponse, TaskManagement,
    TaskManagementResponse, TextRequest, TextResponse, WRITE,
};
use iscsi::target::{
    Authentication, Config, Digest, Fatal, ScsiStatus, TargetRecord, TmfFunction, TmfResponse,
};

use crate::common::*;

// -- text --

fn text_request(raw: &mut Raw, flags: u8, ttt: u32, data: &[u8]) -> Vec<Seen> {
    let cmd_sn = raw.cmd_sn;
    raw.cmd_sn += 1;
    let request = TextRequest {
        flags,
        itt: 50,
        ttt,
        cmd_sn,
        ..TextRequest::default()
    };
    raw.send(request.encode(), data)
}

/// CVE-2021-28361: a text request without data and with the C bit.
#[test]
fn cve_2021_28361_zero_length_text_with_continue() {
    let mut raw = Raw::discovery(Config::default());
    let seen = text_request(&mut raw, CONTINUE, NO_TAG, &[]);
    let response = TextResponse::decode(&seen[0].header);
    assert_eq!((response.flags, seen[0].data.len()), (0, 0));
    assert_ne!(response.ttt, NO_TAG);
    let seen = text_request(&mut raw, CONTINUE, response.ttt, b"SendTar");
    let ttt = TextResponse::decode(&seen[0].header).ttt;
    let seen = text_request(&mut raw, FINAL, ttt, b"gets=All\0");
    let response = TextResponse::decode(&seen[0].header);
    assert_eq!((response.flags, response.ttt), (FINAL, NO_TAG));
    assert!(raw.log().contains(&"targets All".to_owned()));
    // Nothing at all is a text too.
    let seen = text_request(&mut raw, FINAL, NO_TAG, &[]);
    assert_eq!(TextResponse::decode(&seen[0].header).flags, FINAL);
    // F and C together make no sense.
    let seen = text_request(&mut raw, FINAL | CONTINUE, NO_TAG, &[]);
    assert_eq!(rejected(&seen), Some(RejectReason::InvalidField));
}

/// The kernel's over-read and double free in text commands with digests.
#[test]
fn text_of_any_length_with_digests() {
    let keys = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
    let mut raw = Raw::logged_in(Config::default(), &keys);
    assert_eq!(raw.target.negotiated().data_digest, Digest::Crc32c);
    raw.digests = iscsi::frame::Digests {
        header: true,
        data: true,
    };
    for len in 0..20 {
        let text = format!("X-{}=1", "k".repeat(len));
        let seen = text_request(&mut raw, FINAL, NO_TAG, text.as_bytes());
        assert_eq!(
            seen[0].text(),
            format!("X-{}=NotUnderstood ", "k".repeat(len))
        );
    }
    // A damaged one is rejected and its number counts.
    let mut wire = Wire::default();
    let request = TextRequest {
        flags: FINAL,
        itt: 9,
        ttt: NO_TAG,
        cmd_sn: raw.cmd_sn,
        ..TextRequest::default()
    };
    raw.cmd_sn += 1;
    iscsi::frame::send(request.encode(), b"X-a=1\0", raw.digests, &mut wire);
    *wire.0.last_mut().unwrap() ^= 1;
    let seen = raw.bytes(&wire.0).unwrap();
    assert_eq!(rejected(&seen), Some(RejectReason::DataDigest));
    assert_eq!(text_request(&mut raw, FINAL, NO_TAG, b"").len(), 1);
}

#[test]
fn text_exchanges_keep_to_their_tag() {
    let config = Config {
        text_bytes_max: 1000,
        ..Config::default()
    };
    let mut raw = Raw::discovery(config);
    let seen = text_request(&mut raw, FINAL, 77, b"SendTargets=All\0");
    assert_eq!(rejected(&seen), Some(RejectReason::InvalidField));
    // Gathered text is bounded, and what was gathered is let go.
    let mut ttt = NO_TAG;
    let mut rounds = 0;
    loop {
        let seen = text_request(&mut raw, CONTINUE, ttt, &[b'a'; 100]);
        if seen[0].header.opcode() == Some(Opcode::Reject) {
            assert_eq!(rejected(&seen), Some(RejectReason::LongOperation));
            break;
        }
        ttt = TextResponse::decode(&seen[0].header).ttt;
        rounds += 1;
    }
    assert_eq!(rounds, 10);
    assert!(raw.target.buffered_bytes() < 4096);
    // An answer of several PDUs, abandoned for a new request.
    raw.service.listing = (0..100)
        .map(|n| TargetRecord {
            name: format!("iqn.2026-01.org.example:{n}"),
            addresses: vec!["192.0.2.1:3260,1".to_owned()],
        })
        .collect();
    let seen = text_request(&mut raw, FINAL, NO_TAG, b"SendTargets=All\0");
    let response = TextResponse::decode(&seen[0].header);
    assert_eq!((response.flags, seen[0].data.len()), (CONTINUE, 1024));
    let seen = text_request(&mut raw, FINAL, response.ttt, b"X-a=1\0");
    assert_eq!(
        rejected(&seen),
        Some(RejectReason::Protocol),
        "only an empty one goes on"
    );
    let seen = text_request(&mut raw, FINAL, NO_TAG, b"X-a=1\0");
    assert_eq!(seen[0].text(), "X-a=NotUnderstood ");
    // The last word is the initiator's.
    let seen = text_request(&mut raw, 0, NO_TAG, b"X-a=1\0");
    let response = TextResponse::decode(&seen[0].header);
    assert_eq!(response.flags, 0);
    let seen = text_request(&mut raw, FINAL, response.ttt, b"X-b=1\0");
    assert_eq!(seen[0].text(), "X-b=NotUnderstood ");
}

#[test]
fn full_feature_text_changes_only_what_may_change() {
    let mut raw = Raw::logged_in(Config::default(), &[]);
    for (text, answer) in [
        ("MaxRecvDataSegmentLength=1024\0", ""),
        ("MaxBurstLength=512\0", "MaxBurstLength=Reject "),
        ("TargetName=iqn.2026-01.x\0", "TargetName=Reject "),
        ("CHAP_A=5\0", "CHAP_A=Reject "),
        ("InitiatorAlias=me\0", ""),
        ("SendTargets=All\0", "SendTargets=Reject "),
    ] {
        let seen = text_request(&mut raw, FINAL, NO_TAG, text.as_bytes());
        assert_eq!(seen[0].text(), answer);
    }
    assert_eq!(raw.target.negotiated().max_send_data_segment_length, 1024);
    for text in ["MaxRecvDataSegmentLength=5\0", "nothing\0", "A=1\0A=2\0"] {
        let seen = text_request(&mut raw, FINAL, NO_TAG, text.as_bytes());
        assert_eq!(rejected(&seen), Some(RejectReason::Protocol), "{text}");
    }
}

// -- commands --

#[test]
fn a_discovery_session_takes_no_commands() {
    let mut raw = Raw::discovery(Config::default());
    let command = raw.command(1, FINAL | READ, 512, 0x28);
    let seen = raw.send(command.encode(), &[]);
    assert_eq!(rejected(&seen), Some(RejectReason::Protocol));
    let function = TaskManagement {
        immediate: true,
        flags: FINAL | 5,
        ..Default::default()
    };
    let seen = raw.send(function.encode(), &[]);
    assert_eq!(rejected(&seen), Some(RejectReason::Protocol));
    let nop = NopOut {
        immediate: true,
        flags: FINAL,
        itt: 3,
        ttt: NO_TAG,
        ..Default::default()
    };
    let seen = raw.send(nop.encode(), b"x");
    assert_eq!(NopIn::decode(&seen[0].header).itt, 3);
}

#[test]
fn opcodes_that_do_not_belong() {
    let mut raw = Raw::logged_in(Config::default(), &[]);
    for (opcode, reason) in [
        (0x03, RejectReason::Protocol),
        (0x10, RejectReason::Snack),
        (0x07, RejectReason::NotSupported),
        (0x1c, RejectReason::NotSupported),
        (0x20, RejectReason::NotSupported),
        (0x31, RejectReason::NotSupported),
        (0x3f, RejectReason::NotSupported),
    ] {
        let mut header = Header([0; 48]);
        header.0[0] = 0x40 | opcode;
        let seen = raw.send(header, b"some data");
        assert_eq!(rejected(&seen), Some(reason), "{opcode:#x}");
        let mut quoted = header;
        quoted.set_data_len(9);
        assert_eq!(seen[0].data, quoted.0);
    }
}

#[test]
fn command_numbers() {
    let config = Config {
        command_window: 4,
        ..Config::default()
    };
    let mut raw = Raw::logged_in(config, &[]);
    let good = raw.command(1, FINAL, 0, 0);
    let seen = raw.send(good.encode(), &[]);
    let response = ScsiResponse::decode(&seen[0].header);
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (2, 5));
    for cmd_sn in [1, 0, u32::MAX, 6, 7, 1 << 31] {
        let seen = raw.send(
            pdu::ScsiCommand {
                cmd_sn,
                itt: 2,
                ..good
            }
            .encode(),
            &[],
        );
        assert!(seen.is_empty(), "CmdSN {cmd_sn} is dropped without a word");
    }
    // Immediate commands count neither way.
    let immediate = pdu::ScsiCommand {
        immediate: true,
        cmd_sn: 2,
        itt: 3,
        ..good
    };
    assert_eq!(raw.send(immediate.encode(), &[]).len(), 1);
    // A gap cannot be filled on one connection.
    let gap = pdu::ScsiCommand {
        cmd_sn: 4,
        itt: 4,
        ..good
    }
    .encode();
    let error = raw.bytes(&gap.0).unwrap_err();
    assert_eq!(
        error,
        Fatal::Gap {
            expected: 2,
            received: 4
        }
    );
}

#[test]
fn a_status_counts_as_received_when_the_initiator_says_so() {
    let mut raw = Raw::logged_in(Config::default(), &[]);
    let command = raw.command(1, FINAL, 0, 0);
    let seen = raw.send(command.encode(), &[]);
    let stat_sn = ScsiResponse::decode(&seen[0].header).stat_sn;
    assert_eq!(raw.target.last_stat_sn(), stat_sn);
    assert!(!raw.target.acknowledged(stat_sn));
    let mut ping = |exp_stat_sn| {
        let ping = pdu::NopOut {
            immediate: true,
            flags: FINAL,
            itt: NO_TAG,
            ttt: NO_TAG,
            exp_stat_sn,
            ..pdu::NopOut::decode(&Header([0; 48]))
        };
        raw.send(ping.encode(), &[]);
        raw.target.acknowledged(stat_sn)
    };
    assert!(!ping(stat_sn), "it expects this very one");
    assert!(!ping(stat_sn.wrapping_add(2)), "more than was sent");
    assert!(ping(stat_sn.wrapping_add(1)));
    assert!(ping(stat_sn), "what was said holds");
}

#[test]
fn immediate_commands_are_bounded() {
    let mut raw = Raw::logged_in(Config::default(), &[]);
    raw.service.hold = true;
    for itt in 0..17 {
        let command = pdu::ScsiCommand {
            immediate: true,
            flags: FINAL,
            itt,
            cmd_sn: 1,
            ..pdu::ScsiCommand::default()
        };
        let seen = raw.send(command.encode(), &[]);
        if itt == 16 {
            assert_eq!(rejected(&seen), Some(RejectReason::TooManyImmediate));
        }
    }
    for itt in 100..117 {
        let function = TaskManagement {
            immediate: true,
            flags: FINAL | 5,
            itt,
            ..Default::default()
        };
        let seen = raw.send(function.encode(), &[]);
        if itt == 116 {
            assert_eq!(rejected(&seen), Some(RejectReason::TooManyImmediate));
        }
    }
    assert_eq!(raw.target.tasks(), 16);
    assert_eq!(raw.service.functions.len(), 16);
}

#[test]
fn tags_in_use_and_fields_out_of_form() {
    let mut raw = Raw::logged_in(Config::default(), &[]);
    raw.service.hold = true;
    let first = raw.command(1, FINAL | READ, 512, 0x28);
    assert!(raw.send(first.encode(), &[]).is_empty());
    let again = raw.command(1, FINAL | READ, 512, 0x28);
    assert_eq!(
        rejected(&raw.send(again.encode(), &[])),
        Some(RejectReason::TaskInProgress)
    );
    let no_tag = raw.command(NO_TAG, FINAL | READ, 512, 0x28);
    assert_eq!(
        rejected(&raw.send(no_tag.encode(), &[])),
        Some(RejectReason::InvalidField)
    );
    let data = raw.command(2, FINAL | READ, 512, 0x28);
    let seen = raw.send(data.encode(), b"data with a read");
    assert_eq!(rejected(&seen), Some(RejectReason::InvalidField));
    let mut header = raw.command(3, FINAL | READ, 512, 0x28).encode();
    header.set_ahs_words(1);
    let seen = raw.bytes(&[&header.0[..], &[0, 0, 9, 0]].concat()).unwrap();
    assert_eq!(rejected(&seen), Some(RejectReason::InvalidField));
    assert_eq!(raw.target.tasks(), 1);
    let mut logout = LogoutRequest {
        immediate: true,
        flags: FINAL | 9,
        ..Default::default()
    };
    assert_eq!(
        rejected(&raw.send(logout.encode(), &[])),
        Some(RejectReason::InvalidField)
    );
    logout.flags = FINAL;
    raw.service.hold = false;
    raw.send(logout.encode(), &[]);
    assert!(raw.target.closing());
}

/// CVE-2026-23216: races of a logout. Nothing follows the answer, whatever was in flight.
#[test]
fn cve_2026_23216_logout_with_commands_in_flight() {
    let mut raw = Raw::logged_in(Config::default(), &[]);
    raw.service.hold = true;
    let write = raw.command(1, FINAL | WRITE, 4096, 0x2a);
    raw.send(write.encode(), &[]);
    let task = raw.service.held[0];
    let logout = LogoutRequest {
        immediate: true,
        flags: FINAL,
        itt: 9,
        ..Default::default()
    };
    let more = raw.command(2, FINAL | READ, 512, 0x28);
    let seen = raw
        .bytes(&[logout.encode().0, more.encode().0].concat())
        .unwrap();
    assert_eq!(opcodes(&seen), [Some(Opcode::LogoutResponse)]);
    assert_eq!(LogoutResponse::decode(&seen[0].header).response, 0);
    assert!(raw.target.closing());
    let late = raw.act(|target, out| {
        target.solicit(task, out);
        target.respond(task, &ScsiStatus::good(0), out);
        target.data_in(task, pattern(1, 10), 0..10, Some(&ScsiStatus::good(0)), out);
        target.async_message(
            iscsi::target::Asynchronous::LogoutRequest { seconds: 1 },
            out,
        );
    });
    assert!(late.is_empty());
    assert_eq!(raw.target.tasks(), 0);
}

// -- write data --

fn write_keys(
    initial_r2t: &'static str,
    immediate: &'static str,
) -> [(&'static str, &'static str); 5] {
    [
        ("InitialR2T", initial_r2t),
        ("ImmediateData", immediate),
        ("FirstBurstLength", "1024"),
        ("MaxBurstLength", "2048"),
        ("MaxOutstandingR2T", "2"),
    ]
}

fn data_out(itt: u32, ttt: u32, data_sn: u32, buffer_offset: u32, last: bool) -> Header {
    let flags = if last { FINAL } else { 0 };
    DataOut {
        flags,
        itt,
        ttt,
        data_sn,
        buffer_offset,
        ..DataOut::default()
    }
    .encode()
}

/// The sense that a task's failure was answered with: ASC and ASCQ.
fn sense(seen: &[Seen]) -> (u8, u8) {
    let last = seen.last().unwrap();
    assert_eq!(last.header.opcode(), Some(Opcode::ScsiResponse), "{seen:?}");
    assert_eq!(ScsiResponse::decode(&last.header).status, 2);
    assert_eq!(last.data[..2], [0, 18]);
    (last.data[2 + 12], last.data[2 + 13])
}

#[test]
fn r2ts_follow_the_unsolicited_data() {
    let mut raw = Raw::logged_in(Config::default(), &write_keys("No", "Yes"));
    let data = pattern(1, 7000);
    let command = raw.command(7, WRITE, 7000, 0x2a);
    assert!(
        raw.send(command.encode(), &data[..500]).is_empty(),
        "more is announced"
    );
    assert_eq!(raw.target.pending_write_bytes(), 6500);
    assert!(
        raw.send(data_out(7, NO_TAG, 0, 500, false), &data[500..1000])
            .is_empty()
    );
    let seen = raw.send(data_out(7, NO_TAG, 1, 1000, true), &data[1000..1024]);
    let r2ts: Vec<_> = seen
        .iter()
        .map(|s| ReadyToTransfer::decode(&s.header))
        .collect();
    let asked: Vec<_> = r2ts
        .iter()
        .map(|r| (r.r2t_sn, r.buffer_offset, r.desired_len))
        .collect();
    assert_eq!(asked, [(0, 1024, 2048), (1, 3072, 2048)], "two at a time");
    // The first in two pieces; its end brings the third.
    assert!(
        raw.send(data_out(7, r2ts[0].ttt, 0, 1024, false), &data[1024..2000])
            .is_empty()
    );
    let seen = raw.send(data_out(7, r2ts[0].ttt, 1, 2000, true), &data[2000..3072]);
    let third = ReadyToTransfer::decode(&seen[0].header);
    assert_eq!(
        (third.r2t_sn, third.buffer_offset, third.desired_len),
        (2, 5120, 1880)
    );
    assert!(
        raw.send(data_out(7, third.ttt, 0, 5120, true), &data[5120..])
            .is_empty()
    );
    let seen = raw.send(data_out(7, r2ts[1].ttt, 0, 3072, true), &data[3072..5120]);
    let response = ScsiResponse::decode(&seen[0].header);
    assert_eq!(
        (response.status, response.flags, response.exp_data_sn),
        (0, FINAL, 3)
    );
    assert!(raw.service.disk[..7000] == data[..]);
    assert_eq!(raw.target.pending_write_bytes(), 0);
}

#[test]
fn unsolicited_data_where_none_is_allowed() {
    let unexpected = (0x0c, 0x0c);
    // Immediate data.
    let mut raw = Raw::logged_in(Config::default(), &write_keys("Yes", "No"));
    let command = raw.command(1, FINAL | WRITE, 4096, 0x2a);
    assert_eq!(sense(&raw.send(command.encode(), &[1; 512])), unexpected);
    // Announced unsolicited data: the failure waits for its end.
    let command = raw.command(2, WRITE, 4096, 0x2a);
    assert!(raw.send(command.encode(), &[]).is_empty());
    assert!(
        raw.send(data_out(2, NO_TAG, 0, 0, false), &[1; 512])
            .is_empty()
    );
    assert_eq!(
        sense(&raw.send(data_out(2, NO_TAG, 1, 512, true), &[1; 512])),
        unexpected
    );
    // More immediate data than a first burst, or than the command has.
    let mut raw = Raw::logged_in(Config::default(), &write_keys("No", "Yes"));
    let command = raw.command(1, FINAL | WRITE, 4096, 0x2a);
    assert_eq!(sense(&raw.send(command.encode(), &[1; 1025])), unexpected);
    let command = raw.command(2, FINAL | WRITE, 512, 0x2a);
    assert_eq!(sense(&raw.send(command.encode(), &[1; 513])), unexpected);
    // More unsolicited data than a first burst.
    let command = raw.command(3, WRITE, 4096, 0x2a);
    raw.send(command.encode(), &[1; 1000]);
    assert_eq!(
        sense(&raw.send(data_out(3, NO_TAG, 0, 1000, true), &[1; 25])),
        unexpected
    );
    assert!(raw.service.disk.iter().all(|byte| *byte == 0));
    assert_eq!(raw.target.tasks(), 0);
}

#[test]
fn sequences_of_a_wrong_amount() {
    let incorrect = (0x0c, 0x0d);
    let mut raw = Raw::logged_in(Config::default(), &write_keys("No", "Yes"));
    // Less unsolicited data than a first burst though there is more to send.
    let command = raw.command(1, WRITE, 4096, 0x2a);
    raw.send(command.encode(), &[1; 512]);
    assert_eq!(
        sense(&raw.send(data_out(1, NO_TAG, 0, 512, true), &[1; 100])),
        incorrect
    );
    // A command within a first burst may stop early; the rest is asked for.
    let command = raw.command(2, WRITE, 1000, 0x2a);
    raw.send(command.encode(), &[1; 512]);
    let seen = raw.send(data_out(2, NO_TAG, 0, 512, true), &[1; 100]);
    let r2t = ReadyToTransfer::decode(&seen[0].header);
    assert_eq!((r2t.buffer_offset, r2t.desired_len), (612, 388));
    // Less than was asked for.
    assert_eq!(
        sense(&raw.send(data_out(2, r2t.ttt, 0, 612, true), &[1; 100])),
        incorrect
    );
    // More than was asked for: the failure waits for all that was asked for.
    let command = raw.command(3, FINAL | WRITE, 4096, 0x2a);
    let seen = raw.send(command.encode(), &[]);
    let first = ReadyToTransfer::decode(&seen[0].header);
    let second = ReadyToTransfer::decode(&seen[1].header);
    assert!(
        raw.send(data_out(3, first.ttt, 0, 0, true), &[1; 2049])
            .is_empty()
    );
    assert!(
        raw.send(data_out(3, second.ttt, 0, 2048, false), &[1; 1])
            .is_empty()
    );
    assert_eq!(
        sense(&raw.send(data_out(3, second.ttt, 1, 2049, true), &[1; 1])),
        incorrect
    );
    assert_eq!(raw.target.tasks(), 0);
}

/// libiscsi's DataSN cases, and offsets that jump.
#[test]
fn data_out_of_sequence() {
    for (unsolicited, first, second) in [
        (true, (0, 0), (0, 512)),
        (true, (27, 0), (1, 512)),
        (true, (u32::MAX, 0), (1, 512)),
        (true, (1, 0), (0, 512)),
        (true, (0, 0), (1, 511)),
        (true, (0, 512), (1, 0)),
        (false, (0, 0), (0, 512)),
        (false, (1, 0), (0, 512)),
        (false, (0, 0), (1, 0)),
        (false, (0, u32::MAX), (1, 512)),
    ] {
        let mut raw = Raw::logged_in(Config::default(), &write_keys("No", "Yes"));
        let flags = if unsolicited { WRITE } else { FINAL | WRITE };
        let command = raw.command(5, flags, 1024, 0x2a);
        let seen = raw.send(command.encode(), &[]);
        let ttt = seen
            .first()
            .map_or(NO_TAG, |s| ReadyToTransfer::decode(&s.header).ttt);
        let mut seen = raw.send(data_out(5, ttt, first.0, first.1, false), &[1; 512]);
        seen.extend(raw.send(data_out(5, ttt, second.0, second.1, true), &[1; 512]));
        assert_eq!(rejected(&seen[..1]), Some(RejectReason::Protocol));
        assert_eq!(
            sense(&seen),
            (0x47, 0x05),
            "{unsolicited} {first:?} {second:?}"
        );
        assert_eq!(raw.log().last().unwrap(), "aborted Sequence");
    }
}

#[test]
fn data_that_nobody_asked_for() {
    let mut raw = Raw::logged_in(Config::default(), &write_keys("No", "Yes"));
    let command = raw.command(1, FINAL | WRITE, 4096, 0x2a);
    let seen = raw.send(command.encode(), &[]);
    let ttt = ReadyToTransfer::decode(&seen[0].header).ttt;
    // Unsolicited beside R2Ts; a tag that was not given.
    let seen = raw.send(data_out(1, NO_TAG, 0, 0, true), &[1; 10]);
    assert_eq!(rejected(&seen), Some(RejectReason::InvalidField));
    let seen = raw.send(data_out(1, ttt ^ 0x8000, 0, 0, true), &[1; 10]);
    assert_eq!(rejected(&seen), Some(RejectReason::InvalidField));
    // For tasks that are not there, or no longer: swallowed.
    assert!(
        raw.send(data_out(99, NO_TAG, 0, 0, true), &[1; 10])
            .is_empty()
    );
    assert!(raw.send(data_out(99, ttt, 0, 0, true), &[1; 10]).is_empty());
    assert!(
        raw.send(data_out(1, ttt | 0xfff0_0000, 0, 0, true), &[1; 10])
            .is_empty()
    );
    assert_eq!(raw.target.tasks(), 1);
}

/// The kernel's hang on aborting a write that waits for its data.
#[test]
fn abort_before_the_data_comes() {
    let mut raw = Raw::logged_in(Config::default(), &write_keys("No", "Yes"));
    let command = raw.command(1, FINAL | WRITE, 4096, 0x2a);
    let seen = raw.send(command.encode(), &[]);
    let ttt = ReadyToTransfer::decode(&seen[0].header).ttt;
    raw.send(data_out(1, ttt, 0, 0, false), &[1; 512]);
    let abort = TaskManagement {
        immediate: true,
        flags: FINAL | TmfFunction::AbortTask.to_wire(),
        itt: 2,
        referenced_itt: 1,
        ref_cmd_sn: command.cmd_sn,
        cmd_sn: raw.cmd_sn,
        ..TaskManagement::default()
    };
    let seen = raw.send(abort.encode(), &[]);
    let answer = TaskManagementResponse::decode(&seen[0].header);
    assert_eq!(
        (answer.itt, answer.response),
        (2, TmfResponse::Complete.to_wire())
    );
    assert_eq!(
        (raw.target.tasks(), raw.target.pending_write_bytes()),
        (0, 0)
    );
    assert!(
        raw.send(data_out(1, ttt, 1, 512, true), &[1; 1536])
            .is_empty()
    );
    // The tag may be used again at once.
    let command = raw.command(1, FINAL | WRITE, 100, 0x2a);
    let seen = raw.send(command.encode(), &[2; 100]);
    assert_eq!(ScsiResponse::decode(&seen[0].header).status, 0);
}

#[test]
fn aborting_what_is_not_there() {
    let config = Config {
        command_window: 8,
        ..Config::default()
    };
    let mut raw = Raw::logged_in(config, &[]);
    let command = raw.command(1, FINAL, 0, 0);
    raw.send(command.encode(), &[]);
    let mut abort = |ref_cmd_sn, cmd_sn| {
        let function = TaskManagement {
            immediate: true,
            flags: FINAL | TmfFunction::AbortTask.to_wire(),
            itt: 2,
            referenced_itt: 1,
            ref_cmd_sn,
            cmd_sn,
            ..TaskManagement::default()
        };
        let seen = raw.send(function.encode(), &[]);
        TaskManagementResponse::decode(&seen[0].header).response
    };
    assert_eq!(
        abort(1, 2),
        TmfResponse::TaskDoesNotExist.to_wire(),
        "it has been answered"
    );
    assert_eq!(
        abort(2, 2),
        TmfResponse::TaskDoesNotExist.to_wire(),
        "not before the function"
    );
    assert_eq!(
        abort(2, 4),
        TmfResponse::Complete.to_wire(),
        "it never comes now"
    );
    assert_eq!(abort(3, 4), TmfResponse::Complete.to_wire());
    raw.cmd_sn = 4;
    let next = raw.command(5, FINAL, 0, 0);
    assert_eq!(
        raw.send(next.encode(), &[]).len(),
        1,
        "the numbers count as received"
    );
    let mut strange = TaskManagement {
        immediate: true,
        itt: 3,
        ..TaskManagement::default()
    };
    for function in [0, 13, 127] {
        strange.flags = FINAL | function;
        let seen = raw.send(strange.encode(), &[]);
        let answer = TaskManagementResponse::decode(&seen[0].header).response;
        assert_eq!(answer, TmfResponse::NotSupported.to_wire());
    }
}

/// The initiator gives a sign of life; then the target's timers run.
fn ping_and_tick(raw: &mut Raw) -> Result<(), Fatal> {
    let ping = pdu::NopOut {
        immediate: true,
        flags: FINAL,
        itt: 9,
        ttt: NO_TAG,
        ..pdu::NopOut::decode(&Header([0; 48]))
    };
    assert_eq!(raw.send(ping.encode(), &[]).len(), 1);
    let mut out = Wire::default();
    raw.target.tick(raw.now, &mut out).map(|_| ())
}

#[test]
fn data_that_does_not_come_ends_the_connection() {
    let mut raw = Raw::logged_in(Config::default(), &write_keys("Yes", "No"));
    let limit = Config::default().data_timeout;
    let mut out = Wire::default();
    let command = raw.command(1, FINAL | WRITE, 2048, 0x2a);
    let seen = raw.send(command.encode(), &[]);
    let r2t = ReadyToTransfer::decode(&seen[0].header);
    let first = raw.now;
    assert!(raw.target.tick(first, &mut out).is_ok());
    // Pings are no substitute for data.
    for _ in 0..4 {
        raw.now += limit / 5;
        assert!(ping_and_tick(&mut raw).is_ok());
    }
    // Some data starts the wait anew.
    assert!(
        raw.send(data_out(1, r2t.ttt, 0, 0, false), &[1; 1024])
            .is_empty()
    );
    let second = raw.now;
    raw.target.tick(second, &mut out).unwrap();
    let early = limit.checked_sub(Duration::from_millis(1)).unwrap();
    raw.now = second + early;
    assert!(ping_and_tick(&mut raw).is_ok());
    raw.now = second + limit;
    let error = ping_and_tick(&mut raw).unwrap_err();
    assert_eq!(error, Fatal::DataTimeout(limit));
}

#[test]
fn a_write_that_has_its_data_has_no_deadline() {
    let config = Config {
        nop_interval: Duration::ZERO,
        ..Config::default()
    };
    let limit = config.data_timeout;
    let mut raw = Raw::logged_in(config, &write_keys("No", "Yes"));
    raw.service.hold = true;
    let command = raw.command(1, FINAL | WRITE, 512, 0x2a);
    raw.send(command.encode(), &[1; 512]);
    assert_eq!(raw.target.tasks(), 1);
    let mut out = Wire::default();
    for n in 0..4 {
        let deadline = raw.target.tick(raw.now + limit * n, &mut out).unwrap();
        assert_eq!(deadline, None);
    }
}

#[test]
fn damaged_data_fails_its_task_only() {
    let mut keys = write_keys("No", "Yes").to_vec();
    keys.push(("DataDigest", "CRC32C"));
    for case in 0..3 {
        let mut raw = Raw::logged_in(Config::default(), &keys);
        raw.digests.data = true;
        let damaged = |header: Header, digests| {
            let mut wire = Wire::default();
            iscsi::frame::send(header, &[1; 512], digests, &mut wire);
            wire.0[48 + 100] ^= 4;
            wire.0
        };
        let digests = raw.digests;
        let (bytes, rest) = match case {
            // Immediate data.
            0 => {
                let command = raw.command(1, FINAL | WRITE, 512, 0x2a);
                (damaged(command.encode(), digests), None)
            }
            // Unsolicited data, with more to come.
            1 => {
                let command = raw.command(1, WRITE, 1024, 0x2a);
                raw.send(command.encode(), &[]);
                let next = data_out(1, NO_TAG, 1, 512, true);
                (
                    damaged(data_out(1, NO_TAG, 0, 0, false), digests),
                    Some(next),
                )
            }
            // Solicited data, with more to come.
            _ => {
                let command = raw.command(1, FINAL | WRITE, 1024, 0x2a);
                let seen = raw.send(command.encode(), &[]);
                let ttt = ReadyToTransfer::decode(&seen[0].header).ttt;
                let next = data_out(1, ttt, 1, 512, true);
                (damaged(data_out(1, ttt, 0, 0, false), digests), Some(next))
            }
        };
        let mut seen = raw.bytes(&bytes).unwrap();
        if let Some(next) = rest {
            assert_eq!(
                seen.len(),
                1,
                "the failure waits for the end of the sequence"
            );
            seen.extend(raw.send(next, &[1; 512]));
        }
        assert_eq!(rejected(&seen[..1]), Some(RejectReason::DataDigest));
        assert_eq!(sense(&seen), (0x47, 0x05));
        assert!(raw.service.disk.iter().all(|byte| *byte == 0));
        // The session goes on.
        let command = raw.command(2, FINAL | WRITE, 512, 0x2a);
        let seen = raw.send(command.encode(), &[1; 512]);
        assert_eq!(ScsiResponse::decode(&seen[0].header).status, 0);
    }
}

#[test]
fn a_damaged_header_ends_the_connection() {
    let mut raw = Raw::logged_in(Config::default(), &[("HeaderDigest", "CRC32C")]);
    let command = raw.command(1, FINAL, 0, 0).encode();
    let mut wire = Wire::default();
    let digests = iscsi::frame::Digests {
        header: true,
        data: false,
    };
    iscsi::frame::send(command, &[], digests, &mut wire);
    wire.0[20] ^= 1;
    let error = raw.bytes(&wire.0).unwrap_err();
    assert_eq!(error, Fatal::Frame(iscsi::frame::FrameError::HeaderDigest));
}

#[test]
fn segments_above_what_we_declared() {
    let config = Config {
        offer: Offer {
            max_recv_data_segment_length: 4096,
            ..Offer::default()
        },
        ..Config::default()
    };
    let mut raw = Raw::logged_in(config, &[]);
    let mut header = raw.command(1, FINAL | WRITE, 8192, 0x2a).encode();
    header.set_data_len(4097);
    assert!(matches!(raw.bytes(&header.0), Err(Fatal::Frame(_))));
    assert!(raw.target.buffered_bytes() < 4096);
}

// -- read data --

#[test]
fn data_in_is_cut_by_segment_and_burst() {
    let keys = [
        ("MaxRecvDataSegmentLength", "1000"),
        ("MaxBurstLength", "2500"),
    ];
    let mut raw = Raw::new(Config::default(), accept(Authentication::None));
    raw.login(TO_FULL_FEATURE, &[NAMES[0], NAMES[1], keys[0], keys[1]]);
    let command = raw.command(3, FINAL | READ, 6000, 0x28);
    let seen = raw.send(command.encode(), &[]);
    let pieces: Vec<_> = seen
        .iter()
        .map(|seen| {
            let data = DataIn::decode(&seen.header);
            (
                data.data_sn,
                data.buffer_offset,
                seen.data.len(),
                data.flags,
            )
        })
        .collect();
    assert_eq!(
        pieces,
        [
            (0, 0, 1000, 0),
            (1, 1000, 1000, 0),
            (2, 2000, 500, FINAL),
            (3, 2500, 1000, 0),
            (4, 3500, 1000, 0),
            (5, 4500, 500, FINAL),
            (6, 5000, 1000, FINAL | STATUS),
        ]
    );
    let last = DataIn::decode(&seen[6].header);
    assert_eq!((last.status, last.exp_cmd_sn, last.stat_sn), (0, 2, 2));
}

#[test]
fn pings_are_answered_up_to_what_the_initiator_takes() {
    let mut raw = Raw::new(Config::default(), accept(Authentication::None));
    raw.login(
        TO_FULL_FEATURE,
        &[NAMES[0], NAMES[1], ("MaxRecvDataSegmentLength", "512")],
    );
    let nop = NopOut {
        immediate: true,
        flags: FINAL,
        itt: 5,
        ttt: NO_TAG,
        ..NopOut::default()
    };
    let data = pattern(1, 600);
    let seen = raw.send(nop.encode(), &data);
    assert_eq!(seen[0].data, data[..512]);
    let silent = NopOut { itt: NO_TAG, ..nop };
    assert!(raw.send(silent.encode(), &data).is_empty());
    let numbered = NopOut {
        immediate: false,
        cmd_sn: 1,
        ..nop
    };
    let seen = raw.send(numbered.encode(), &[]);
    assert_eq!(NopIn::decode(&seen[0].header).exp_cmd_sn, 2);
    assert!(raw.send(numbered.encode(), &[]).is_empty(), "a duplicate");
}
