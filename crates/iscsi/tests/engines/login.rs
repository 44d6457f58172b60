//! The target's login under a client that breaks the rules: one test for each class of past
//! vulnerabilities before and during login, and for each rule whose breach has an answer.

use std::time::Duration;

use iscsi::chap;
use iscsi::limits::{LOGIN_TEXT_BYTES_MAX, NAME_BYTES_MAX};
use iscsi::pdu::{
    self, CONTINUE, DataOut, FINAL, Header, LoginRequest, LoginResponse, LogoutRequest, NopOut,
    Opcode, TRANSIT, TextRequest,
};
use iscsi::target::{
    Algorithm, Authentication, ChapPolicy, Config, Fatal, LoginPolicy, LoginStatus,
};

use crate::common::*;

const TO_OPERATIONAL: u8 = TRANSIT | 1;

fn open() -> Raw {
    Raw::new(Config::default(), accept(Authentication::None))
}

fn status(seen: &[Seen]) -> u16 {
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].header.opcode(), Some(Opcode::LoginResponse));
    LoginResponse::decode(&seen[0].header).status
}

fn refused(seen: &[Seen], raw: &Raw, expected: LoginStatus) {
    assert_eq!(status(seen), expected.to_wire(), "{:?}", raw.service.log);
    assert!(raw.target.closing());
}

// -- before login --

#[test]
fn data_before_login() {
    let headers = [
        NopOut {
            flags: FINAL,
            itt: 1,
            ..NopOut::default()
        }
        .encode(),
        pdu::ScsiCommand::default().encode(),
        DataOut::default().encode(),
        TextRequest::default().encode(),
        LogoutRequest::default().encode(),
        Header([0x3e; 48]),
    ];
    for mut header in headers {
        header.set_data_len(0);
        header.set_ahs_words(0);
        let mut raw = open();
        let error = raw.bytes(&header.0).unwrap_err();
        assert_eq!(
            error,
            Fatal::BeforeLogin {
                opcode: header.raw_opcode()
            }
        );
    }
    // In the middle of a login as well.
    let mut raw = open();
    raw.login(0, &NAMES);
    let header = pdu::ScsiCommand::default().encode();
    assert!(raw.bytes(&header.0).is_err());
}

/// MS14-028 and StarWind's socket exhaustion: neither many requests nor silence hold a connection.
#[test]
fn ms14_028_login_floods_end() {
    let mut raw = open();
    raw.login(0, &NAMES);
    let mut sent = 1;
    while !raw.target.closing() {
        raw.login(0, &[]);
        sent += 1;
        assert!(sent < 100);
        assert!(raw.target.buffered_bytes() < 64 * 1024);
    }
    assert!(
        raw.log()
            .last()
            .unwrap()
            .contains("too many login requests")
    );
}

#[test]
fn cve_2007_20001_half_open_logins_time_out() {
    let mut raw = open();
    raw.login(0, &NAMES);
    let mut out = Wire::default();
    let deadline = raw.target.tick(raw.now, &mut out).unwrap().unwrap();
    let early = deadline.checked_sub(Duration::from_millis(1)).unwrap();
    assert!(raw.target.tick(early, &mut out).is_ok());
    assert!(matches!(
        raw.target.tick(deadline, &mut out),
        Err(Fatal::LoginTimeout(_))
    ));
    assert!(out.0.is_empty());
}

/// CVE-2013-20004: memory for each login to a target that does not exist.
#[test]
fn cve_2013_20004_a_missing_target_leaves_nothing() {
    let mut raw = Raw::new(
        Config::default(),
        LoginPolicy::Refuse(LoginStatus::NotFound),
    );
    let seen = raw.login(TO_OPERATIONAL, &NAMES);
    refused(&seen, &raw, LoginStatus::NotFound);
    assert!(raw.target.buffered_bytes() < 4096);
    assert!(
        raw.bytes(&[0; 4096]).unwrap().is_empty(),
        "what follows is swallowed"
    );
}

/// CVE-2013-2850: a heap overflow by echoing an unknown key.
#[test]
fn cve_2013_2850_unknown_keys() {
    // As many unknown keys as one text may have: each answered, the answer cut to what a login
    // response may carry.
    let mut raw = open();
    let keys: Vec<String> = (0..126)
        .map(|n| format!("X-{n:03}{}", "k".repeat(50)))
        .collect();
    let mut all = NAMES.to_vec();
    all.extend(keys.iter().map(|key| (key.as_str(), "value")));
    let mut seen = raw.login(TO_FULL_FEATURE, &all);
    let mut answer = Vec::new();
    loop {
        let response = LoginResponse::decode(&seen[0].header);
        assert_eq!(response.status, 0);
        assert!(seen[0].data.len() <= 8192);
        answer.extend_from_slice(&seen[0].data);
        if response.flags & CONTINUE == 0 {
            assert_ne!(response.flags & TRANSIT, 0);
            break;
        }
        seen = raw.login(TO_FULL_FEATURE, &[]);
    }
    assert!(answer.len() > 8192);
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("=NotUnderstood\0").count(), 126);
    assert!(raw.target.full_feature());

    // 64 KiB of them, in one long key, many keys, or one long value.
    for text in [
        b"k".repeat(64 * 1024),
        b"X=\0".repeat(22_000),
        [b"X-key=".to_vec(), b"v".repeat(64 * 1024)].concat(),
    ] {
        let mut raw = open();
        let mut pieces = text.chunks(8192).peekable();
        let mut last = Vec::new();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_some() { CONTINUE } else { 0 };
            last = raw.login_bytes(flags, piece);
            assert!(raw.target.buffered_bytes() <= 4 * LOGIN_TEXT_BYTES_MAX);
            if raw.target.closing() {
                break;
            }
        }
        refused(&last, &raw, LoginStatus::InitiatorError);
    }
}

/// CVE-2011-0001: a double free with login requests that grow and continue.
#[test]
fn cve_2011_0001_login_text_over_many_pdus() {
    let mut raw = open();
    let text = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0X-a=1\0");
    // Byte by byte, with empty ones between.
    for byte in text.as_bytes() {
        for piece in [&[*byte][..], &[]] {
            if raw.target.closing() {
                break;
            }
            let seen = raw.login_bytes(CONTINUE, piece);
            if !raw.target.closing() {
                assert_eq!(status(&seen), 0);
                assert!(seen[0].data.is_empty());
            }
        }
    }
    assert!(raw.target.closing(), "there is a limit to that");

    let mut raw = open();
    for piece in text.as_bytes().chunks(10) {
        raw.login_bytes(CONTINUE | 1 << 2, piece);
    }
    let seen = raw.login_bytes(TO_FULL_FEATURE, b"X-b=2\0");
    assert_eq!(status(&seen), 0);
    let text = seen[0].text();
    assert!(
        text.contains("X-a=NotUnderstood X-b=NotUnderstood"),
        "{text}"
    );
}

/// CVE-2026-53176: a login PDU shorter than its header says, or than a header.
#[test]
fn cve_2026_53176_short_login_pdus() {
    let mut raw = open();
    let mut header = raw.login_request(TO_OPERATIONAL).encode();
    header.set_data_len(100);
    for end in 0..pdu::BHS_LEN {
        let mut raw = open();
        assert!(raw.bytes(&header.0[..end]).unwrap().is_empty());
        assert!(
            raw.bytes(&header.0[end..]).unwrap().is_empty(),
            "the text is still missing"
        );
    }
    // No text at all: names are missing.
    let seen = raw.send(
        LoginRequest {
            flags: 1 << 2,
            ..raw.login_request(0)
        }
        .encode(),
        &[],
    );
    refused(&seen, &raw, LoginStatus::MissingParameter);
    // A data segment above the limit is refused by its header.
    for len in [8193, 0x00ff_ffff] {
        let mut raw = open();
        let mut header = raw.login_request(0).encode();
        header.set_data_len(len);
        assert!(matches!(raw.bytes(&header.0), Err(Fatal::Frame(_))));
        assert!(raw.target.buffered_bytes() < 4096);
    }
}

/// The kernel's nacl_info overflow: names at their limit.
#[test]
fn names_of_223_bytes_and_longer() {
    let base = "iqn.2026-01.org.example:";
    let longest = format!("{base}{}", "a".repeat(NAME_BYTES_MAX - base.len()));
    let mut raw = open();
    raw.login(
        TO_FULL_FEATURE,
        &[("InitiatorName", &longest), ("TargetName", &longest)],
    );
    assert!(raw.target.full_feature());
    assert_eq!(raw.target.identity().initiator_name, longest);
    for key in ["InitiatorName", "TargetName"] {
        let mut raw = open();
        let long = format!("{longest}a");
        let other = if key == "TargetName" {
            "InitiatorName"
        } else {
            "TargetName"
        };
        let seen = raw.login(0, &[(key, &long), (other, TARGET)]);
        refused(&seen, &raw, LoginStatus::InitiatorError);
    }
}

#[test]
fn names_have_to_be_there_and_once() {
    for (keys, expected) in [
        (&[][..], LoginStatus::MissingParameter),
        (&[("TargetName", TARGET)], LoginStatus::MissingParameter),
        (
            &[("InitiatorName", INITIATOR)],
            LoginStatus::MissingParameter,
        ),
        (
            &[("InitiatorName", "someone"), ("TargetName", TARGET)],
            LoginStatus::InitiatorError,
        ),
        (&[NAMES[0], NAMES[1], NAMES[0]], LoginStatus::InitiatorError),
        (&[NAMES[0], NAMES[1], NAMES[1]], LoginStatus::InitiatorError),
        (
            &[NAMES[0], NAMES[1], ("SessionType", "Other")],
            LoginStatus::SessionTypeNotSupported,
        ),
    ] {
        let mut raw = open();
        let seen = raw.login(0, keys);
        refused(&seen, &raw, expected);
    }
}

#[test]
fn names_said_again_must_be_the_same() {
    let mut raw = open();
    raw.login(0, &NAMES);
    let seen = raw.login(0, &NAMES);
    assert_eq!(status(&seen), LoginStatus::Success.to_wire());
    assert!(!raw.target.closing());
    let seen = raw.login(0, &[("TargetName", "iqn.2026-01.test:other")]);
    refused(&seen, &raw, LoginStatus::InitiatorError);
    for other in [("InitiatorAlias", "x"), ("SessionType", "Discovery")] {
        let mut raw = open();
        raw.login(0, &NAMES);
        let seen = raw.login(0, &[other]);
        refused(&seen, &raw, LoginStatus::InitiatorError);
    }
}

#[test]
fn stages_and_versions() {
    for flags in [
        2 << 2,                 // a stage that is reserved
        3 << 2,                 // full feature phase as a login's stage
        TRANSIT | 1 << 2 | 1,   // a transition to itself
        TRANSIT | 1 << 2,       // backward
        TRANSIT | 2,            // to the reserved one
        TRANSIT | CONTINUE | 1, // transition with more text to come
    ] {
        let mut raw = open();
        let seen = raw.login(flags, &NAMES);
        refused(&seen, &raw, LoginStatus::InitiatorError);
    }
    let mut raw = open();
    raw.login(TO_OPERATIONAL, &NAMES);
    let seen = raw.login(0, &[]);
    refused(&seen, &raw, LoginStatus::InitiatorError);

    let mut raw = open();
    let request = LoginRequest {
        version_max: 3,
        version_min: 1,
        ..raw.login_request(0)
    };
    let seen = raw.send(request.encode(), &[]);
    refused(&seen, &raw, LoginStatus::UnsupportedVersion);
    let mut raw = open();
    let request = LoginRequest {
        version_max: 3,
        ..raw.login_request(0)
    };
    let seen = raw.send(
        request.encode(),
        b"InitiatorName=iqn.2026-01.a\0TargetName=iqn.2026-01.b\0",
    );
    assert_eq!(status(&seen), 0, "ours is in its range");

    // Another session in the middle of a login.
    let mut raw = open();
    raw.login(0, &NAMES);
    let request = LoginRequest {
        isid: [9; 6],
        ..raw.login_request(0)
    };
    let seen = raw.send(request.encode(), &[]);
    refused(&seen, &raw, LoginStatus::InitiatorError);
}

#[test]
fn login_requests_are_not_sent_ahead() {
    let mut raw = open();
    let mut wire = Wire::default();
    let text = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
    let header = raw.login_request(TO_FULL_FEATURE).encode();
    iscsi::frame::send(header, text.as_bytes(), raw.digests, &mut wire);
    let once = wire.0.clone();
    let twice = [once.clone(), once].concat();
    // Events are answered at once here, so the second comes in full feature phase.
    let seen = raw.bytes(&twice).unwrap();
    assert_eq!(
        opcodes(&seen),
        [Some(Opcode::LoginResponse), Some(Opcode::Reject)]
    );
    // A service that takes its time sees it refused.
    let mut raw = open();
    let mut input = twice.as_slice();
    let mut out = Wire::default();
    raw.target
        .next(raw.now, &mut input, &mut out)
        .unwrap()
        .unwrap();
    assert_eq!(
        raw.target.next(raw.now, &mut input, &mut out),
        Err(Fatal::Pipelined)
    );
}

#[test]
fn keys_at_the_wrong_time() {
    for (flags, key, value, expected) in [
        (
            0,
            "MaxBurstLength",
            "65536",
            Err(LoginStatus::InitiatorError),
        ),
        (
            1 << 2,
            "AuthMethod",
            "None",
            Err(LoginStatus::InitiatorError),
        ),
        (1 << 2, "CHAP_A", "5", Err(LoginStatus::InitiatorError)),
        (
            1 << 2,
            "MaxRecvDataSegmentLength",
            "1",
            Err(LoginStatus::InitiatorError),
        ),
        (0, "CHAP_A", "5", Err(LoginStatus::AuthenticationFailure)),
        (0, "CHAP_N", "user", Err(LoginStatus::AuthenticationFailure)),
        (1 << 2, "TargetAlias", "x", Ok("TargetAlias=Reject")),
        (1 << 2, "SendTargets", "All", Ok("SendTargets=Reject")),
        (
            0,
            "X-org.example.thing",
            "x",
            Ok("X-org.example.thing=NotUnderstood"),
        ),
    ] {
        let mut raw = open();
        let seen = raw.login(flags, &[NAMES[0], NAMES[1], (key, value)]);
        match expected {
            Err(status) => refused(&seen, &raw, status),
            Ok(answer) => assert!(seen[0].text().contains(answer), "{}", seen[0].text()),
        }
    }
    // The same key in two requests, then in one.
    let mut raw = open();
    raw.login(1 << 2, &[NAMES[0], NAMES[1], ("InitialR2T", "No")]);
    let seen = raw.login(1 << 2, &[("InitialR2T", "No")]);
    refused(&seen, &raw, LoginStatus::InitiatorError);
    let mut raw = open();
    let seen = raw.login(
        1 << 2,
        &[
            NAMES[0],
            NAMES[1],
            ("InitialR2T", "No"),
            ("InitialR2T", "No"),
        ],
    );
    refused(&seen, &raw, LoginStatus::InitiatorError);
}

// -- CHAP --

/// A login up to the point where the response is due.
fn challenged(policy: ChapPolicy) -> Raw {
    let mut raw = Raw::new(Config::default(), require_chap(policy));
    let seen = raw.login(
        TO_OPERATIONAL,
        &[NAMES[0], NAMES[1], ("AuthMethod", "CHAP,None")],
    );
    assert!(seen[0].text().contains("AuthMethod=CHAP"));
    assert_eq!(LoginResponse::decode(&seen[0].header).flags & TRANSIT, 0);
    let seen = raw.login(0, &[("CHAP_A", "5")]);
    assert!(
        seen[0].text().starts_with("CHAP_A=5 CHAP_I=77 CHAP_C=0x"),
        "{}",
        seen[0].text()
    );
    raw
}

fn proof() -> String {
    let policy = chap_policy();
    let response = Algorithm::Md5.response(77, &secret("users-secret-1"), &policy.challenge);
    chap::encode_value(&response)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = "0b".to_owned();
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes(word);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = char::from(ALPHABET[(word >> shift & 63) as usize]);
            value.push(if place <= group.len() { letter } else { '=' });
        }
    }
    value
}

/// CVE-2018-14633: a stack overflow by the length of CHAP_R.
#[test]
fn cve_2018_14633_responses_of_a_wrong_length() {
    let good = chap::decode_value(&proof()).unwrap();
    for (response, passes) in [
        (proof(), true),
        (proof().to_uppercase(), true),
        (base64(&good), true),
        (chap::encode_value(&good[..15]), false),
        (chap::encode_value(&[good.clone(), vec![0]].concat()), false),
        (chap::encode_value(&[0xaa; 1024]), false),
        (base64(&good[..15]), false),
        (base64(&[0xaa; 768]), false),
        (base64(&[0xaa; 1023]), false),
        ("0x".to_owned(), false),
        ("0b".to_owned(), false),
        ("0b====".to_owned(), false),
        ("0x0".to_owned(), false),
        (String::new(), false),
    ] {
        let mut raw = challenged(chap_policy());
        let seen = raw.login(TO_OPERATIONAL, &[("CHAP_N", "user"), ("CHAP_R", &response)]);
        let expected = if passes {
            LoginStatus::Success
        } else {
            LoginStatus::AuthenticationFailure
        };
        assert_eq!(status(&seen), expected.to_wire(), "{response}");
    }
    // Longer than any value may be: the text itself is out of form.
    for response in [
        format!("0x{}", "a".repeat(2049)),
        format!("0b{}", "A".repeat(4096)),
    ] {
        let mut raw = challenged(chap_policy());
        let seen = raw.login(TO_OPERATIONAL, &[("CHAP_N", "user"), ("CHAP_R", &response)]);
        refused(&seen, &raw, LoginStatus::InitiatorError);
    }
}

#[test]
fn chap_out_of_step() {
    let response = proof();
    for keys in [
        &[("CHAP_N", "user")][..],
        &[("CHAP_R", &response)],
        &[],
        &[("CHAP_N", "user"), ("CHAP_R", &response), ("CHAP_A", "5")],
        &[("CHAP_N", "user"), ("CHAP_R", &response), ("CHAP_I", "1")],
        &[
            ("CHAP_N", "user"),
            ("CHAP_R", &response),
            ("CHAP_C", "0x00"),
        ],
        &[
            ("CHAP_N", "user"),
            ("CHAP_R", &response),
            ("CHAP_I", "1"),
            ("CHAP_C", "0x01"),
        ],
    ] {
        let mut raw = challenged(chap_policy());
        let seen = raw.login(TO_OPERATIONAL, keys);
        refused(&seen, &raw, LoginStatus::AuthenticationFailure);
    }
    // A second AuthMethod does not begin anew.
    let mut raw = challenged(chap_policy());
    let seen = raw.login(TO_OPERATIONAL, &[("AuthMethod", "None")]);
    refused(&seen, &raw, LoginStatus::InitiatorError);
    // Going around the stage.
    for flags in [TO_OPERATIONAL, TRANSIT | 3, TO_FULL_FEATURE, 1 << 2] {
        let mut raw = Raw::new(Config::default(), require_chap(chap_policy()));
        let seen = raw.login(flags, &NAMES);
        refused(&seen, &raw, LoginStatus::AuthenticationFailure);
    }
    // Asking for the next stage before the proof is not granted.
    let mut raw = Raw::new(Config::default(), require_chap(chap_policy()));
    let keys = [NAMES[0], NAMES[1], ("AuthMethod", "CHAP"), ("CHAP_A", "5")];
    let seen = raw.login(TRANSIT | 3, &keys);
    assert!(seen[0].text().contains("CHAP_C="));
    assert_eq!(LoginResponse::decode(&seen[0].header).flags & TRANSIT, 0);
    assert!(!raw.target.full_feature());
}

/// CHAP_I and CHAP_C of an initiator that wants proof.
#[test]
fn challenges_out_of_form() {
    let policy = ChapPolicy {
        mutual: Some(account("me", "targets-secret")),
        ..chap_policy()
    };
    let long = format!("0x{}", "ab".repeat(1024));
    for (identifier, challenge, passes) in [
        ("0", "0x00", true),
        ("255", &long, true),
        ("256", "0x00", false),
        ("-1", "0x00", false),
        ("1", "0x", false),
        ("1", "0xabc", false),
        ("1", "plain", false),
        ("1", "0bAA=", false),
    ] {
        let mut raw = challenged(policy.clone());
        let keys = [
            ("CHAP_N", "user"),
            ("CHAP_R", &proof()),
            ("CHAP_I", identifier),
            ("CHAP_C", challenge),
        ];
        let seen = raw.login(TO_OPERATIONAL, &keys);
        if passes {
            assert_eq!(status(&seen), 0);
            let bytes = chap::decode_value(challenge).unwrap();
            let identifier = identifier.parse().unwrap();
            let expected = Algorithm::Md5.response(identifier, &secret("targets-secret"), &bytes);
            let expected = format!("CHAP_N=me CHAP_R={} ", chap::encode_value(&expected));
            assert_eq!(seen[0].text(), expected);
        } else {
            refused(&seen, &raw, LoginStatus::AuthenticationFailure);
        }
    }
}
