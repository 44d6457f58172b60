//! Neither engine panics, hangs or grows on damaged streams: whole recorded sessions with flipped
//! bits, cut, repeated or reordered, and plain noise.

use std::sync::Arc;

use iscsi::initiator::{self, ChapLogin, Mutual, Request, Settings, TmfFunction};
use iscsi::limits::{LOGIN_TEXT_BYTES_MAX, SEND_TARGETS_BYTES_MAX};
use iscsi::negotiation::{Digest, Offer};
use iscsi::target::{self, ChapPolicy, Config, LoginPolicy, TargetRecord};
use iscsi::{chap, name, text};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::common::*;

/// How a recorded session was made, so that it can be replayed against a fresh engine.
#[derive(Clone, Debug)]
struct Recording {
    to_target: Vec<u8>,
    to_initiator: Vec<u8>,
    settings: Settings,
    policy: LoginPolicy,
}

/// A session with something of everything.
fn record(discovery: bool, digest: Digest) -> Recording {
    let chap = ChapLogin {
        user: "user".to_owned(),
        secret: secret("users-secret-1"),
        algorithms: Vec::new(),
        optional: false,
        mutual: Some(Mutual {
            user: None,
            secret: secret("targets-secret"),
            challenge: pattern(2, 16).to_vec(),
            identifier: 3,
        }),
    };
    let policy = require_chap(ChapPolicy {
        mutual: Some(account("target", "targets-secret")),
        ..chap_policy()
    });
    let mut settings = if discovery {
        Settings::discovery(INITIATOR, ISID)
    } else {
        Settings::new(INITIATOR, TARGET, ISID)
    };
    settings.chap = Some(chap);
    settings.offer.header_digest = vec![digest];
    settings.offer.data_digest = vec![digest];
    settings.offer.max_recv_data_segment_length = 1024;
    settings.offer.first_burst_length = 1024;
    settings.offer.max_burst_length = 2048;
    let (to_target, to_initiator) = run(discovery, &settings, &policy);
    Recording {
        to_target,
        to_initiator,
        settings,
        policy,
    }
}

/// Both streams of one session.
fn run(discovery: bool, settings: &Settings, policy: &LoginPolicy) -> (Vec<u8>, Vec<u8>) {
    let mut pair = Pair::new(config(), policy.clone(), settings.clone());
    pair.settle().unwrap();
    assert!(pair.told.logged_in.is_some());
    pair.service.listing = listing();
    if discovery {
        pair.initiator
            .send_targets("All", &mut pair.to_target)
            .unwrap();
    } else {
        pair.run(Request::write(
            0,
            write_cdb(0, 9000),
            pattern(1, 9000),
            0..9000,
        ));
        pair.run(Request::read(0, read_cdb(0, 5000), 5000));
        pair.run(Request::write(
            0,
            write_cdb(0, 100),
            pattern(1, 100),
            0..100,
        ));
        let lun = TmfFunction::LogicalUnitReset;
        pair.initiator
            .send_function(lun, 0, None, &mut pair.to_target)
            .unwrap();
        pair.initiator
            .send_targets("", &mut pair.to_target)
            .unwrap();
    }
    pair.settle().unwrap();
    pair.initiator.ping(b"ping", &mut pair.to_target).unwrap();
    pair.settle().unwrap();
    let reason = iscsi::initiator::LogoutReason::CloseSession;
    pair.initiator
        .logout(reason, 0, &mut pair.to_target)
        .unwrap();
    pair.settle().unwrap();
    std::mem::take(&mut pair.sent)
}

fn config() -> Config {
    Config {
        offer: Offer {
            max_recv_data_segment_length: 4096,
            ..Offer::default()
        },
        command_window: 4,
        ..Config::default()
    }
}

fn listing() -> Vec<TargetRecord> {
    (0..40)
        .map(|n| TargetRecord {
            name: format!("iqn.2026-01.org.example:{n}"),
            addresses: vec!["192.0.2.1:3260,1".to_owned()],
        })
        .collect()
}

/// What the target's engine may hold, by its settings: one text being gathered or sent, one
/// segment.
const TARGET_BYTES_MAX: usize = 8 * LOGIN_TEXT_BYTES_MAX + 64 * 1024 + 4096;

/// Feeds a target engine; its service takes every decision that a real one could.
fn feed_target(policy: &LoginPolicy, bytes: &[u8], cuts: &[usize]) {
    let now = start_of_time();
    let mut engine = target::Connection::new(Arc::new(config()), now);
    let mut service = Service::new(policy.clone());
    service.listing = listing();
    let mut out = Wire::default();
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*cut).clamp(1, rest.len()));
        rest = after;
        let mut input = piece;
        loop {
            match engine.next(now, &mut input, &mut out) {
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
                Ok(None) => break,
                Ok(Some(event)) => forgiving(&mut service, &mut engine, event, &mut out),
            }
            assert!(
                engine.buffered_bytes() <= TARGET_BYTES_MAX,
                "{}",
                engine.buffered_bytes()
            );
            assert!(engine.tasks() <= 4 + 16);
        }
        assert!(input.is_empty());
        // What it sends stays well-formed, and within what the initiator takes.
        assert!(out.0.len() < 64 << 20);
    }
    engine.tick(now, &mut out).ok();
}

/// The usual service, with lengths from a damaged CDB kept inside its disk.
fn forgiving(
    service: &mut Service,
    engine: &mut target::Connection,
    event: target::Event<'_>,
    out: &mut Wire,
) {
    if let target::Event::Command(command) = &event {
        let cdb = command.cdb.as_bytes();
        let field = |at: usize| u32::from_be_bytes(cdb[at..at + 4].try_into().unwrap());
        let end = u64::from(field(2)) + u64::from(field(6).max(command.write_len));
        if end > service.disk.len() as u64 {
            let status = target::ScsiStatus {
                status: 2,
                sense: &[0x70; 18],
                transfer: 0,
            };
            engine.respond(command.task, &status, out);
            return;
        }
    }
    service.event(engine, event, out);
}

fn feed_initiator(settings: &Settings, bytes: &[u8], cuts: &[usize]) {
    let now = start_of_time();
    let mut engine = initiator::Connection::<Arc<[u8]>>::new(settings.clone(), now);
    let mut out = Wire::default();
    engine.start(&mut out);
    let mut rest = bytes;
    let mut busy = false;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*cut).clamp(1, rest.len()));
        rest = after;
        let mut input = piece;
        loop {
            match engine.next(now, &mut input, &mut out) {
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
                Ok(None) => break,
                Ok(Some(initiator::Event::Targets(targets))) => {
                    assert!(targets.len() < SEND_TARGETS_BYTES_MAX);
                }
                Ok(Some(_)) => {}
            }
        }
        assert!(input.is_empty());
        // The same requests as in the recording, so that its answers find their tasks.
        if engine.full_feature() && !busy {
            busy = true;
            let write = Request::write(0, write_cdb(0, 9000), pattern(1, 9000), 0..9000);
            engine.send_command(write, &mut out).ok();
            engine
                .send_command(Request::read(0, read_cdb(0, 5000), 5000), &mut out)
                .ok();
            engine.send_targets("All", &mut out).ok();
        }
        assert!(out.0.len() < 64 << 20);
    }
    engine.tick(now, &mut out).ok();
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
    Truncate(Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let range = |a: &Index, b: &Index| {
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            a.min(b)..a.max(b)
        };
        match self {
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << (bit % 8);
            }
            Self::Set(at, value) => {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            Self::Cut(a, b) => drop(bytes.drain(range(a, b))),
            Self::Repeat(a, b) => {
                let range = range(a, b);
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
            Self::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    prop_oneof![
        6 => (index(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        3 => (index(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        1 => (index(), index()).prop_map(|(a, b)| Damage::Cut(a, b)),
        1 => (index(), index()).prop_map(|(a, b)| Damage::Repeat(a, b)),
        1 => (index(), prop::collection::vec(any::<u8>(), 1..60))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => index().prop_map(Damage::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn damaged_sessions_do_not_break_the_target(
        discovery in any::<bool>(),
        digests in any::<bool>(),
        damages in prop::collection::vec(damage(), 1..8),
        cuts in prop::collection::vec(1_usize..3000, 1..5),
    ) {
        let digest = if digests { Digest::Crc32c } else { Digest::None };
        let recording = record(discovery, digest);
        let mut bytes = recording.to_target;
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        feed_target(&recording.policy, &bytes, &cuts);
    }

    #[test]
    fn damaged_sessions_do_not_break_the_initiator(
        discovery in any::<bool>(),
        digests in any::<bool>(),
        damages in prop::collection::vec(damage(), 1..8),
        cuts in prop::collection::vec(1_usize..3000, 1..5),
    ) {
        let digest = if digests { Digest::Crc32c } else { Digest::None };
        let recording = record(discovery, digest);
        let mut bytes = recording.to_initiator;
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        feed_initiator(&recording.settings, &bytes, &cuts);
    }

    /// Noise behind a login that went well, headers made likely.
    #[test]
    fn noise_after_login(
        pdus in prop::collection::vec(
            (
                prop_oneof![0_u8..8, 0x40_u8..0x48, any::<u8>()],
                any::<u8>(),
                prop::collection::vec(any::<u8>(), 0..300),
                prop::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 40..41),
            ),
            1..40,
        ),
    ) {
        let mut raw = Raw::logged_in(config(), &[("InitialR2T", "No"), ("ImmediateData", "Yes")]);
        let mut bytes = Vec::new();
        for (number, (opcode, flags, data, fields)) in (1_u32..).zip(&pdus) {
            let mut header = iscsi::pdu::Header([0; 48]);
            header.0[8..].copy_from_slice(fields);
            header.0[0] = *opcode;
            header.0[1] = *flags;
            // The tag and the number are often the right ones.
            if fields[0] != 0 {
                header.0[16..20].copy_from_slice(&u32::from(fields[1] % 4).to_be_bytes());
                header.0[24..28].copy_from_slice(&number.to_be_bytes());
            }
            header.set_data_len(u32::try_from(data.len()).unwrap());
            bytes.extend_from_slice(&header.0);
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let mut input = bytes.as_slice();
        let mut out = Wire::default();
        while let Ok(Some(event)) = raw.target.next(raw.now, &mut input, &mut out) {
            forgiving(&mut raw.service, &mut raw.target, event, &mut out);
            prop_assert!(raw.target.buffered_bytes() <= TARGET_BYTES_MAX);
            prop_assert!(raw.target.tasks() <= 4 + 16);
        }
    }

    #[test]
    fn parsers_take_anything(bytes in prop::collection::vec(any::<u8>(), 0..3000), value in ".*") {
        if let Ok(pairs) = text::parse(&bytes) {
            prop_assert!(pairs.len() <= iscsi::limits::KEYS_MAX);
        }
        text::parse_long(&bytes).ok();
        for prefix in ["0x", "0b", ""] {
            let decoded = chap::decode_value(&format!("{prefix}{value}"));
            prop_assert!(decoded.is_err() || decoded.is_ok_and(|d| (1..=1024).contains(&d.len())));
        }
        if let Ok(normal) = name::normalize(&value) {
            let again = name::normalize(&normal);
            prop_assert_eq!(again.as_ref(), Ok(&normal));
        }
    }

    /// What was encoded is decoded again, either way of writing it.
    #[test]
    fn binary_values_round_trip(bytes in prop::collection::vec(any::<u8>(), 1..=1024)) {
        prop_assert_eq!(chap::decode_value(&chap::encode_value(&bytes)), Ok(bytes));
    }
}
