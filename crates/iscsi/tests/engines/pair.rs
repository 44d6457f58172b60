//! Initiator engine and target engine against each other.

use std::sync::Arc;
use std::time::Duration;

use iscsi::initiator::{
    self, Algorithm, ChapLogin, Completion, Event, LogoutReason, LogoutStatus, Message, Mutual,
    Offer, Request, Residual, Settings, SubmitError, TmfFunction, TmfResponse,
};
use iscsi::negotiation::Digest;
use iscsi::target::{
    Asynchronous, Authentication, ChapPolicy, Config, LoginPolicy, LoginStatus, ScsiStatus,
    TargetRecord,
};
use proptest::prelude::*;

use crate::common::*;

fn login(policy: LoginPolicy, settings: Settings) -> Pair {
    let mut pair = Pair::new(Config::default(), policy, settings);
    pair.settle().unwrap();
    pair
}

fn with_chap(chap: ChapLogin) -> Settings {
    Settings {
        chap: Some(chap),
        ..Settings::new(INITIATOR, TARGET, ISID)
    }
}

fn user(text: &str) -> ChapLogin {
    ChapLogin {
        user: "user".to_owned(),
        secret: secret(text),
        algorithms: Vec::new(),
        optional: false,
        mutual: None,
    }
}

fn mutual(text: &str) -> Mutual {
    Mutual {
        user: Some("target".to_owned()),
        secret: secret(text),
        challenge: pattern(9, 24).to_vec(),
        identifier: 200,
    }
}

// -- login --

#[test]
fn login_without_authentication() {
    let pair = Pair::usual();
    assert_eq!(
        pair.told.logged_in,
        Some((0x1234, Some("a target".to_owned()), Some(7)))
    );
    let identity = pair.target.identity();
    assert_eq!(identity.initiator_name, INITIATOR);
    assert_eq!(identity.target_name.as_deref(), Some(TARGET));
    assert_eq!((identity.isid, identity.tsih), (ISID, 0x1234));
    assert_eq!(identity.user(), None);
    let (a, b) = (pair.initiator.negotiated(), pair.target.negotiated());
    assert_eq!(a.max_burst_length, b.max_burst_length);
    assert_eq!(a.max_burst_length, 1024 * 1024);
    assert_eq!(a.max_send_data_segment_length, 256 * 1024);
    assert!(!a.initial_r2t);
    assert_eq!(a.max_outstanding_r2t, 8);
}

#[test]
fn names_are_compared_in_lower_case() {
    let settings = Settings::new("IQN.2026-01.org.Example:Initiator", TARGET, ISID);
    let pair = login(accept(Authentication::None), settings);
    assert_eq!(pair.target.identity().initiator_name, INITIATOR);
}

#[test]
fn chap_with_every_hash() {
    for algorithm in Algorithm::ALL {
        for both_ways in [false, true] {
            let policy = ChapPolicy {
                algorithms: vec![algorithm],
                mutual: Some(account("target", "targets-secret")),
                mutual_required: both_ways,
                ..chap_policy()
            };
            let mut chap = user("users-secret-1");
            chap.mutual = both_ways.then(|| mutual("targets-secret"));
            let pair = login(require_chap(policy), with_chap(chap));
            assert!(pair.told.logged_in.is_some(), "{algorithm:?} {both_ways}");
            assert_eq!(pair.target.identity().user(), Some("user"));
        }
    }
}

#[test]
fn the_targets_preference_decides_about_the_hash() {
    let policy = ChapPolicy {
        algorithms: vec![Algorithm::Sha1, Algorithm::Md5],
        ..chap_policy()
    };
    let pair = login(require_chap(policy), with_chap(user("users-secret-1")));
    assert!(pair.told.logged_in.is_some());
    let sent = String::from_utf8_lossy(&pair.sent.1);
    assert!(sent.contains("CHAP_A=6\0"), "{sent}");
}

#[test]
fn a_user_name_may_look_like_a_number() {
    let policy = ChapPolicy {
        accounts: vec![account("0xdeadbeef", "users-secret-1")],
        ..chap_policy()
    };
    let chap = ChapLogin {
        user: "0xdeadbeef".to_owned(),
        ..user("users-secret-1")
    };
    let pair = login(require_chap(policy), with_chap(chap));
    assert_eq!(pair.target.identity().user(), Some("0xdeadbeef"));
}

#[test]
fn an_unknown_user_and_a_wrong_secret_look_the_same() {
    let mut answers = Vec::new();
    for (name, text) in [("user", "wrong-secret-77"), ("nobody", "users-secret-1")] {
        let chap = ChapLogin {
            user: name.to_owned(),
            ..user(text)
        };
        let pair = login(require_chap(chap_policy()), with_chap(chap));
        assert!(pair.target.closing() && pair.initiator.closing());
        assert_eq!(pair.told.failed, Some((0x0201, None)));
        assert!(
            pair.service
                .log
                .last()
                .unwrap()
                .contains("user unknown or secret wrong")
        );
        answers.push(pair.sent.1);
    }
    assert_eq!(answers[0], answers[1], "the same bytes");
}

#[test]
fn challenges_have_to_be_long_enough() {
    for len in [0, 15, 1025] {
        let policy = ChapPolicy {
            challenge: vec![7; len],
            ..chap_policy()
        };
        let pair = login(require_chap(policy), with_chap(user("users-secret-1")));
        assert_eq!(pair.told.failed, Some((0x0300, None)), "{len}");
        let policy = ChapPolicy {
            mutual: Some(account("target", "targets-secret")),
            ..chap_policy()
        };
        let mut chap = user("users-secret-1");
        chap.mutual = Some(Mutual {
            challenge: vec![7; len],
            ..mutual("targets-secret")
        });
        let mut pair = Pair::new(Config::default(), require_chap(policy), with_chap(chap));
        assert!(pair.settle().unwrap_err().contains("our challenge"));
    }
}

#[test]
fn no_hash_in_common_is_refused() {
    let policy = ChapPolicy {
        algorithms: vec![Algorithm::Sha3_256],
        ..chap_policy()
    };
    let chap = ChapLogin {
        algorithms: vec![Algorithm::Md5],
        ..user("users-secret-1")
    };
    let pair = login(require_chap(policy), with_chap(chap));
    assert_eq!(pair.told.failed, Some((0x0201, None)));
}

#[test]
fn none_where_chap_is_required_is_refused() {
    let settings = Settings::new(INITIATOR, TARGET, ISID);
    let pair = login(require_chap(chap_policy()), settings);
    assert_eq!(pair.told.failed, Some((0x0201, None)));
}

#[test]
fn chap_that_nobody_requires() {
    let optional = ChapLogin {
        optional: true,
        ..user("users-secret-1")
    };
    let pair = login(accept(Authentication::None), with_chap(optional));
    assert!(
        pair.told.logged_in.is_some(),
        "None is chosen where both are offered"
    );
    assert_eq!(pair.target.identity().user(), None);
    let pair = login(
        accept(Authentication::None),
        with_chap(user("users-secret-1")),
    );
    assert_eq!(
        pair.told.failed,
        Some((0x0201, None)),
        "CHAP alone is refused"
    );
}

/// SPDK's fixes of 2024: mutual CHAP was configured but not enforced.
#[test]
fn mutual_chap_is_enforced_where_it_is_required() {
    let policy = ChapPolicy {
        mutual: Some(account("target", "targets-secret")),
        mutual_required: true,
        ..chap_policy()
    };
    let pair = login(require_chap(policy), with_chap(user("users-secret-1")));
    assert_eq!(pair.told.failed, Some((0x0201, None)));
    assert!(
        pair.service
            .log
            .last()
            .unwrap()
            .contains("mutual CHAP is required")
    );
}

#[test]
fn a_proof_that_the_target_cannot_give_is_refused() {
    let mut chap = user("users-secret-1");
    chap.mutual = Some(mutual("targets-secret"));
    let pair = login(require_chap(chap_policy()), with_chap(chap));
    assert_eq!(pair.told.failed, Some((0x0201, None)));
}

#[test]
fn an_initiator_sees_through_a_false_target() {
    for (name, text) in [("target", "wrong"), ("other", "targets-secret")] {
        let policy = ChapPolicy {
            mutual: Some(account(name, text)),
            ..chap_policy()
        };
        let mut chap = user("users-secret-1");
        chap.mutual = Some(mutual("targets-secret"));
        let mut pair = Pair::new(Config::default(), require_chap(policy), with_chap(chap));
        let error = pair.settle().unwrap_err();
        assert!(error.contains("user unknown or secret wrong"), "{error}");
    }
    // One that asks for nothing proves nothing.
    let mut chap = user("users-secret-1");
    chap.optional = true;
    chap.mutual = Some(mutual("targets-secret"));
    let pair = login(accept(Authentication::None), with_chap(chap));
    assert!(pair.told.logged_in.is_none());
}

/// UNH's CHAP plan: one secret both ways, and a challenge sent back.
#[test]
fn reflection_is_refused() {
    let policy = ChapPolicy {
        mutual: Some(account("target", "users-secret-1")),
        ..chap_policy()
    };
    let mut chap = user("users-secret-1");
    chap.mutual = Some(mutual("another-secret"));
    let pair = login(require_chap(policy.clone()), with_chap(chap.clone()));
    assert_eq!(pair.told.failed, Some((0x0201, None)));
    assert!(pair.service.log.last().unwrap().contains("same secret"));

    let policy = ChapPolicy {
        mutual: Some(account("target", "targets-secret")),
        ..policy
    };
    // The target's challenge is known beforehand here, so the initiator can send it back; its own
    // check is kept from seeing it by a target with another one.
    let mut raw = Raw::new(Config::default(), require_chap(policy.clone()));
    raw.login(
        0,
        &[
            ("InitiatorName", INITIATOR),
            ("TargetName", TARGET),
            ("AuthMethod", "CHAP"),
        ],
    );
    raw.login(0, &[("CHAP_A", "5")]);
    let response = Algorithm::Md5.response(77, &secret("users-secret-1"), &policy.challenge);
    let seen = raw.login(
        0x81,
        &[
            ("CHAP_N", "user"),
            ("CHAP_R", &iscsi::chap::encode_value(&response)),
            ("CHAP_I", "1"),
            ("CHAP_C", &iscsi::chap::encode_value(&policy.challenge)),
        ],
    );
    let status = iscsi::pdu::LoginResponse::decode(&seen[0].header).status;
    assert_eq!(status, LoginStatus::AuthenticationFailure.to_wire());
    assert!(raw.log().last().unwrap().contains("reflection"));
}

#[test]
fn refusals_and_redirections() {
    for status in [
        LoginStatus::InitiatorError,
        LoginStatus::Forbidden,
        LoginStatus::NotFound,
        LoginStatus::Removed,
        LoginStatus::TooManyConnections,
        LoginStatus::CannotInclude,
        LoginStatus::SessionDoesNotExist,
        LoginStatus::TargetError,
        LoginStatus::ServiceUnavailable,
        LoginStatus::OutOfResources,
    ] {
        let pair = login(
            LoginPolicy::Refuse(status),
            Settings::new(INITIATOR, TARGET, ISID),
        );
        assert_eq!(pair.told.failed, Some((status.to_wire(), None)));
        assert!(pair.target.closing());
    }
    for (permanent, code) in [(false, 0x0101), (true, 0x0102)] {
        let address = "[2001:db8::1]:3260".to_owned();
        let policy = LoginPolicy::Redirect {
            address: address.clone(),
            permanent,
        };
        let pair = login(policy, Settings::new(INITIATOR, TARGET, ISID));
        assert_eq!(pair.told.failed, Some((code, Some(address))));
    }
}

// -- discovery --

#[test]
fn discovery_with_an_answer_of_many_pdus() {
    let mut settings = Settings::discovery(INITIATOR, ISID);
    settings.offer.max_recv_data_segment_length = 512;
    let mut pair = login(accept(Authentication::None), settings);
    pair.service.listing = (0..200)
        .map(|number| TargetRecord {
            name: format!("iqn.2026-01.org.example:disk{number}"),
            addresses: vec![
                "192.0.2.1:3260,1".to_owned(),
                "[2001:db8::1]:3260,2".to_owned(),
            ],
        })
        .collect();
    pair.initiator
        .send_targets("All", &mut pair.to_target)
        .unwrap();
    pair.settle().unwrap();
    assert_eq!(
        pair.told.other,
        vec![Event::Targets(pair.service.listing.clone())]
    );
    pair.initiator
        .send_targets("iqn.2026-01.org.example:DISK7", &mut pair.to_target)
        .unwrap();
    pair.settle().unwrap();
    assert_eq!(
        pair.told.other.last(),
        Some(&Event::Targets(vec![pair.service.listing[7].clone()]))
    );
    pair.initiator
        .logout(LogoutReason::CloseSession, 0, &mut pair.to_target)
        .unwrap();
    pair.settle().unwrap();
    assert!(pair.target.closing() && pair.initiator.closing());
}

/// SPDK's fixes of 2024: discovery went around authentication.
#[test]
fn discovery_is_authenticated_too() {
    let settings = Settings::discovery(INITIATOR, ISID);
    let pair = login(require_chap(chap_policy()), settings.clone());
    assert_eq!(pair.told.failed, Some((0x0201, None)));
    let settings = Settings {
        chap: Some(user("users-secret-1")),
        ..settings
    };
    let pair = login(require_chap(chap_policy()), settings);
    assert!(pair.told.logged_in.is_some());
}

#[test]
fn a_normal_session_may_ask_for_its_own_target_only() {
    let mut pair = Pair::usual();
    pair.service.listing = vec![TargetRecord {
        name: TARGET.to_owned(),
        addresses: vec!["[::1]:3260,7".to_owned()],
    }];
    for which in ["", TARGET] {
        pair.initiator
            .send_targets(which, &mut pair.to_target)
            .unwrap();
        pair.settle().unwrap();
        let told = pair.told.other.pop();
        assert_eq!(told, Some(Event::Targets(pair.service.listing.clone())));
    }
    for which in ["All", "iqn.2026-01.org.example:other"] {
        pair.initiator
            .send_targets(which, &mut pair.to_target)
            .unwrap();
        pair.settle().unwrap();
        assert_eq!(pair.told.other.pop(), Some(Event::Targets(Vec::new())));
    }
}

// -- commands --

fn good(completion: &Completion) -> bool {
    completion.status == 0 && completion.residual == Residual::None && !completion.target_failure
}

#[test]
fn residuals() {
    let mut pair = Pair::usual();
    pair.service.disk[..4096].copy_from_slice(&pattern(3, 4096));
    let over = pair.run(Request::read(0, read_cdb(0, 4096), 1024));
    assert_eq!((over.status, over.residual), (0, Residual::Overflow(3072)));
    assert_eq!(
        pair.told.data.remove(&over.task).unwrap(),
        pattern(3, 4096)[..1024]
    );
    let under = pair.run(Request::read(0, read_cdb(0, 512), 1024));
    assert_eq!(under.residual, Residual::Underflow(512));
    let nothing = pair.run(Request::new(0, read_cdb(0, 512)));
    assert_eq!(nothing.residual, Residual::Overflow(512));
    let write = pair.run(Request::write(
        0,
        write_cdb(0, 512),
        pattern(4, 512),
        0..512,
    ));
    assert!(good(&write));
}

/// A write answered with another length than it brought.
#[test]
fn residuals_of_writes() {
    let mut pair = Pair::usual();
    pair.service.hold = true;
    for (transfer, expected) in [
        (1024, Residual::None),
        (512, Residual::Underflow(512)),
        (2048, Residual::Overflow(1024)),
    ] {
        let task = pair.command(Request::write(
            0,
            write_cdb(0, 1),
            pattern(5, 1024),
            0..1024,
        ));
        pair.settle().unwrap();
        let held = pair.service.held.pop().unwrap();
        pair.target
            .respond(held, &ScsiStatus::good(transfer), &mut pair.to_initiator);
        pair.settle().unwrap();
        assert_eq!(pair.told.done[&task].residual, expected);
    }
}

#[test]
fn sense_data_arrives_as_long_as_the_initiator_takes_it() {
    let mut pair = Pair::usual();
    pair.service.hold = true;
    let sense: Vec<u8> = (0..=255).collect();
    for len in [1, 18, 252, 256] {
        let task = pair.command(Request::read(0, read_cdb(0, 512), 512));
        pair.settle().unwrap();
        let held = pair.service.held.pop().unwrap();
        let status = ScsiStatus {
            status: 2,
            sense: &sense[..len],
            transfer: 512,
        };
        pair.target.respond(held, &status, &mut pair.to_initiator);
        pair.settle().unwrap();
        let done = &pair.told.done[&task];
        assert_eq!(done.status, 2);
        assert_eq!(done.sense, &sense[..len.min(252)]);
        assert_eq!(done.residual, Residual::Underflow(512), "nothing was sent");
    }
}

#[test]
fn a_read_in_parts_with_an_error_at_the_end() {
    let mut pair = Pair::usual();
    pair.service.hold = true;
    let task = pair.command(Request::read(0, read_cdb(0, 3000), 3000));
    pair.settle().unwrap();
    let held = pair.service.held.pop().unwrap();
    let data = pattern(6, 1000);
    let out = &mut pair.to_initiator;
    pair.target
        .data_in(held, Arc::clone(&data), 0..1000, None, out);
    pair.target
        .data_in(held, Arc::clone(&data), 0..500, None, out);
    let status = ScsiStatus {
        status: 2,
        sense: &[0x70],
        transfer: 3000,
    };
    pair.target
        .data_in(held, Arc::clone(&data), 0..0, Some(&status), out);
    assert_eq!(pair.target.tasks(), 0);
    pair.settle().unwrap();
    let done = &pair.told.done[&task];
    assert_eq!((done.status, done.residual), (2, Residual::Underflow(1500)));
    assert_eq!(pair.told.data[&task].len(), 1500);
}

#[test]
fn long_cdbs_and_bidirectional_commands() {
    for header_digest in [Digest::None, Digest::Crc32c] {
        let mut settings = Settings::new(INITIATOR, TARGET, ISID);
        settings.offer.header_digest = vec![header_digest];
        let mut pair = login(accept(Authentication::None), settings);
        pair.service.hold = true;
        let cdb = initiator::Cdb::extended([0x7f; 16], &[9; 17]).unwrap();
        let mut request = Request::write(5, cdb.clone(), pattern(1, 100), 0..100);
        request.read_len = 700;
        let task = pair.command(request);
        pair.settle().unwrap();
        let held = pair.service.held.pop().unwrap();
        let out = &mut pair.to_initiator;
        let status = ScsiStatus::good(100);
        pair.target
            .data_in(held, pattern(8, 600), 0..600, Some(&status), out);
        pair.settle().unwrap();
        let done = &pair.told.done[&task];
        assert_eq!((done.status, done.residual), (0, Residual::None));
        assert_eq!(done.bidi_residual, Residual::Underflow(100));
        assert_eq!(pair.told.data[&task], pattern(8, 600).to_vec());
    }
}

#[test]
fn the_window_holds_commands_back() {
    let config = Config {
        command_window: 3,
        ..Config::default()
    };
    let settings = Settings::new(INITIATOR, TARGET, ISID);
    let mut pair = Pair::new(config, accept(Authentication::None), settings);
    pair.settle().unwrap();
    pair.service.hold = true;
    let request = || Request::new(0, cdb(0, 0, 0));
    assert_eq!(pair.initiator.room(), 3);
    for _ in 0..3 {
        pair.command(request());
    }
    let refused = pair.initiator.send_command(request(), &mut pair.to_target);
    assert_eq!(refused, Err(SubmitError::WindowClosed));
    pair.settle().unwrap();
    assert_eq!(pair.target.tasks(), 3);
    // Under pressure nothing is given back until more is allowed again.
    pair.target.set_window(0);
    let held = std::mem::take(&mut pair.service.held);
    for task in held {
        pair.target
            .respond(task, &ScsiStatus::good(0), &mut pair.to_initiator);
    }
    pair.settle().unwrap();
    assert_eq!(pair.initiator.room(), 0);
    pair.target.set_window(2);
    pair.target.tick(pair.now, &mut pair.to_initiator).unwrap();
    pair.settle().unwrap();
    assert_eq!(pair.initiator.room(), 2, "a NOP-In tells");
}

#[test]
fn task_management() {
    let mut pair = Pair::usual();
    pair.service.hold = true;
    let write = Request::write(3, write_cdb(0, 4096), pattern(1, 4096), 0..4096);
    let task = pair.command(write);
    pair.settle().unwrap();
    let abort = TmfFunction::AbortTask;
    let function = pair
        .initiator
        .send_function(abort, 3, Some(task), &mut pair.to_target)
        .unwrap();
    pair.settle().unwrap();
    let tmf = pair.service.functions.pop().unwrap();
    assert_eq!(tmf.referenced, pair.service.held.pop());
    assert_eq!((tmf.function, tmf.lun, tmf.immediate), (abort, 3, true));
    pair.target.forget(tmf.referenced.unwrap());
    pair.target
        .tmf_respond(tmf.itt, TmfResponse::Complete, &mut pair.to_initiator);
    pair.settle().unwrap();
    let complete = Event::Function {
        task: function,
        response: Some(TmfResponse::Complete),
    };
    assert_eq!(pair.told.other, vec![complete]);
    pair.initiator.forget(task);
    assert_eq!(pair.initiator.pending(), 0);
    assert_eq!(pair.target.tasks(), 0);
    for (function, expected) in [
        (TmfFunction::TaskReassign, TmfResponse::ReassignNotSupported),
        (TmfFunction::QueryTask, TmfResponse::NotSupported),
        (TmfFunction::NexusReset, TmfResponse::NotSupported),
    ] {
        pair.initiator
            .send_function(function, 0, None, &mut pair.to_target)
            .unwrap();
        pair.settle().unwrap();
        let told = pair.told.other.pop().unwrap();
        assert!(matches!(told, Event::Function { response, .. } if response == Some(expected)));
    }
    for function in [
        TmfFunction::AbortTaskSet,
        TmfFunction::ClearAca,
        TmfFunction::ClearTaskSet,
        TmfFunction::LogicalUnitReset,
        TmfFunction::TargetWarmReset,
        TmfFunction::TargetColdReset,
    ] {
        pair.initiator
            .send_function(function, 9, None, &mut pair.to_target)
            .unwrap();
        pair.settle().unwrap();
        let tmf = pair.service.functions.pop().unwrap();
        assert_eq!((tmf.function, tmf.lun, tmf.referenced), (function, 9, None));
    }
}

// -- pings, messages, logout --

#[test]
fn pings_both_ways() {
    let mut pair = Pair::usual();
    let task = pair.initiator.ping(b"hello?", &mut pair.to_target).unwrap();
    pair.settle().unwrap();
    assert_eq!(pair.told.other, vec![Event::Pong { task }]);
    let sent = String::from_utf8_lossy(&pair.sent.1);
    assert!(sent.contains("hello?"), "the data comes back");

    // The target pings after silence; the answer starts the wait anew.
    let deadline = pair
        .target
        .tick(pair.now, &mut pair.to_initiator)
        .unwrap()
        .unwrap();
    pair.now = deadline;
    pair.target.tick(pair.now, &mut pair.to_initiator).unwrap();
    assert_eq!(pair.to_initiator.0.len(), 48);
    pair.settle().unwrap();
    let again = pair
        .target
        .tick(pair.now, &mut pair.to_initiator)
        .unwrap()
        .unwrap();
    assert!(again > pair.now);
    assert!(pair.to_initiator.0.is_empty());

    // An initiator that does not answer is dropped.
    pair.now = again;
    pair.target.tick(pair.now, &mut pair.to_initiator).unwrap();
    pair.later(Duration::from_secs(15));
    let silent = pair.target.tick(pair.now, &mut pair.to_initiator);
    assert!(matches!(silent, Err(iscsi::target::Fatal::Silent(_))));
    // And a target likewise.
    pair.initiator.tick(pair.now, &mut pair.to_target).unwrap();
    pair.later(Duration::from_secs(15));
    let silent = pair.initiator.tick(pair.now, &mut pair.to_target);
    assert!(matches!(silent, Err(initiator::Fatal::Silent(_))));
}

#[test]
fn login_timeouts() {
    let settings = Settings::new(INITIATOR, TARGET, ISID);
    let mut pair = Pair::new(Config::default(), accept(Authentication::None), settings);
    let (mut a, mut b) = (Wire::default(), Wire::default());
    assert_eq!(
        pair.target.tick(pair.now, &mut a).unwrap(),
        Some(pair.now + Duration::from_secs(15))
    );
    pair.later(Duration::from_secs(15));
    assert!(pair.target.tick(pair.now, &mut a).is_err());
    assert!(pair.initiator.tick(pair.now, &mut b).is_err());
}

#[test]
fn asynchronous_messages() {
    let mut pair = Pair::usual();
    let sense = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2a, 9, 0, 0, 0, 0];
    for (message, expected) in [
        (
            Asynchronous::Scsi {
                lun: 7 << 48,
                sense: &sense,
            },
            Message::Scsi {
                lun: 7 << 48,
                sense: sense.to_vec(),
            },
        ),
        (
            Asynchronous::LogoutRequest { seconds: 30 },
            Message::LogoutRequest { seconds: 30 },
        ),
        (
            Asynchronous::ConnectionDrop {
                time2wait: 1,
                time2retain: 2,
            },
            Message::ConnectionDrop {
                cid: 0,
                time2wait: 1,
                time2retain: 2,
            },
        ),
        (
            Asynchronous::SessionDrop {
                time2wait: 3,
                time2retain: 4,
            },
            Message::SessionDrop {
                time2wait: 3,
                time2retain: 4,
            },
        ),
        (
            Asynchronous::NegotiationRequest { seconds: 5 },
            Message::NegotiationRequest { seconds: 5 },
        ),
    ] {
        pair.target.async_message(message, &mut pair.to_initiator);
        pair.settle().unwrap();
        assert_eq!(pair.told.other.pop(), Some(Event::Message(expected)));
    }
}

#[test]
fn logout_of_session_and_connection() {
    for reason in [LogoutReason::CloseSession, LogoutReason::CloseConnection] {
        let mut pair = Pair::usual();
        pair.initiator
            .logout(reason, 0, &mut pair.to_target)
            .unwrap();
        pair.settle().unwrap();
        assert!(pair.target.closing() && pair.initiator.closing());
        let status = Some(LogoutStatus::Success);
        assert_eq!(
            pair.told.other,
            vec![Event::LoggedOut {
                status,
                time2wait: 2,
                time2retain: 0
            }]
        );
    }
    let mut pair = Pair::usual();
    for (reason, cid, expected) in [
        (LogoutReason::CloseConnection, 9, LogoutStatus::CidNotFound),
        (
            LogoutReason::RecoverConnection,
            0,
            LogoutStatus::RecoveryNotSupported,
        ),
    ] {
        pair.initiator
            .logout(reason, cid, &mut pair.to_target)
            .unwrap();
        pair.settle().unwrap();
        let told = pair.told.other.pop().unwrap();
        assert!(matches!(told, Event::LoggedOut { status, .. } if status == Some(expected)));
        assert!(pair.target.full_feature());
    }
}

// -- everything together --

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u32, len: u32, seed: u32 },
    Read { offset: u32, len: u32, take: u32 },
    Nothing,
    Ping(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    let place = (0_u32..300_000, 0_u32..200_000);
    prop_oneof![
        3 => (place.clone(), any::<u32>())
            .prop_map(|((offset, len), seed)| Step::Write { offset, len, seed }),
        3 => (place, 0_u32..200_000)
            .prop_map(|((offset, len), take)| Step::Read { offset, len, take }),
        1 => Just(Step::Nothing),
        1 => (0_usize..3000).prop_map(Step::Ping),
    ]
}

fn digest_lists() -> impl Strategy<Value = Vec<Digest>> {
    prop_oneof![
        Just(vec![Digest::None]),
        Just(vec![Digest::Crc32c]),
        Just(vec![Digest::Crc32c, Digest::None]),
    ]
}

prop_compose! {
    fn offers()(
        recv in 512_u32..100_000,
        bursts in (512_u32..300_000, 512_u32..300_000),
        flags in (any::<bool>(), any::<bool>()),
        max_outstanding_r2t in 1_u16..6,
        header_digest in digest_lists(),
        data_digest in digest_lists(),
    ) -> Offer {
        Offer {
            max_recv_data_segment_length: recv,
            max_burst_length: bursts.0,
            first_burst_length: bursts.1,
            max_outstanding_r2t,
            initial_r2t: flags.0,
            immediate_data: flags.1,
            header_digest,
            data_digest,
            ..Offer::default()
        }
    }
}

fn config(offer: &Offer, command_window: u32) -> Config {
    Config {
        offer: Offer {
            // Whatever the initiator insists on is there.
            header_digest: vec![Digest::None, Digest::Crc32c],
            data_digest: vec![Digest::None, Digest::Crc32c],
            ..offer.clone()
        },
        command_window,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is agreed on and however the bytes are cut, data arrives whole and residuals are
    /// right.
    #[test]
    fn every_combination_carries_data(
        ours in offers(),
        theirs in offers(),
        window in 1_u32..9,
        steps in prop::collection::vec(steps(), 1..12),
        cuts in prop::collection::vec(1_usize..40_000, 1..6),
    ) {
        let settings = Settings { offer: ours, ..Settings::new(INITIATOR, TARGET, ISID) };
        let mut pair = Pair::new(config(&theirs, window), accept(Authentication::None), settings);
        pair.cuts = cuts;
        pair.settle().unwrap();
        prop_assert!(pair.told.logged_in.is_some());
        let mut model = pair.service.disk.clone();
        for step in steps {
            match step {
                Step::Write { offset, len, seed } => {
                    // The payload is a part of something larger.
                    let data = pattern(seed, len as usize + 10);
                    let range = 3..len as usize + 3;
                    let at = offset as usize;
                    model[at..at + len as usize].copy_from_slice(&data[range.clone()]);
                    let done = pair.run(Request::write(0, write_cdb(offset, len), data, range));
                    prop_assert!(good(&done), "{done:?}");
                }
                Step::Read { offset, len, take } => {
                    let done = pair.run(Request::read(0, read_cdb(offset, len), take));
                    let residual = match len.cmp(&take) {
                        std::cmp::Ordering::Less => Residual::Underflow(take - len),
                        std::cmp::Ordering::Equal => Residual::None,
                        std::cmp::Ordering::Greater => Residual::Overflow(len - take),
                    };
                    prop_assert_eq!((done.status, done.residual), (0, residual));
                    let data = pair.told.data.remove(&done.task).unwrap_or_default();
                    let at = offset as usize;
                    prop_assert!(data == model[at..at + len.min(take) as usize], "read data");
                }
                Step::Nothing => {
                    let done = pair.run(Request::new(0, cdb(0, 0, 0)));
                    prop_assert!(good(&done), "{:?}", done);
                }
                Step::Ping(len) => {
                    pair.initiator.ping(&pattern(2, len), &mut pair.to_target).unwrap();
                    pair.settle().unwrap();
                    let pong = matches!(pair.told.other.pop(), Some(Event::Pong { .. }));
                    prop_assert!(pong);
                }
            }
            prop_assert_eq!(pair.target.tasks(), 0);
            prop_assert_eq!(pair.target.pending_write_bytes(), 0);
            prop_assert_eq!(pair.initiator.pending(), 0);
        }
        prop_assert!(pair.service.disk == model, "written data");
    }

    /// Many commands at once, as many as the window lets through.
    #[test]
    fn commands_in_flight_do_not_mix(
        ours in offers(),
        theirs in offers(),
        window in 1_u32..9,
        lens in prop::collection::vec(0_u32..60_000, 1..20),
        cuts in prop::collection::vec(1_usize..20_000, 1..6),
    ) {
        let settings = Settings { offer: ours, ..Settings::new(INITIATOR, TARGET, ISID) };
        let mut pair = Pair::new(config(&theirs, window), accept(Authentication::None), settings);
        pair.cuts = cuts;
        pair.settle().unwrap();
        pair.service.disk = vec![0; lens.len() * 60_000];
        for (number, len) in (0_u32..).zip(&lens) {
            let at = number * 60_000;
            let data = pattern(number, *len as usize);
            let request = Request::write(0, write_cdb(at, *len), data, 0..*len as usize);
            while pair.initiator.room() == 0 {
                pair.settle().unwrap();
            }
            pair.command(request);
        }
        pair.settle().unwrap();
        prop_assert_eq!(pair.told.done.len(), lens.len());
        prop_assert!(pair.told.done.values().all(good));
        for (number, len) in (0_u32..).zip(&lens) {
            let at = number as usize * 60_000;
let written = &pair.service.disk[at..at + *len as usize];
            prop_assert!(written == &pattern(number, *len as usize)[..], "written data");
        }
    }
}
