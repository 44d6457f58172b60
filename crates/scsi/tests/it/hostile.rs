//! Bytes from initiators who mean harm or know no better: nothing panics, nothing runs for ever,
//! nothing leaves its bounds. The harness checks every disk operation of every task.

use proptest::prelude::*;
use scsi::sense::Code;
use scsi::{Kind, Medium, NexusState, Status};

use crate::harness::{Host, a, b, nexus, reserve_in, reserve_out, ten};

/// Codes that are commands here, and every other one more rarely.
fn code() -> impl Strategy<Value = u8> {
    let known = vec![
        0x00u8, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x1d, 0x1e, 0x25, 0x28, 0x2a,
        0x2b, 0x2e, 0x2f, 0x34, 0x35, 0x37, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x4d, 0x51, 0x52, 0x55,
        0x56, 0x57, 0x5a, 0x5e, 0x5f, 0x88, 0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93, 0x9e,
        0xa0, 0xa3, 0xa8, 0xaa, 0xae, 0xaf, 0xb7, 0xbb, 0xbd,
    ];
    prop_oneof![9 => prop::sample::select(known), 1 => any::<u8>()]
}

/// Mostly small numbers, so that addresses and lengths are often inside the unit.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![5 => Just(0u8), 3 => 0..8u8, 1 => any::<u8>(), 1 => Just(0xff)]
}

fn cdb() -> impl Strategy<Value = Vec<u8>> {
    (code(), prop::collection::vec(byte(), 0..32))
        .prop_map(|(code, rest)| [vec![code], rest].concat())
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(byte(), 1..64),
        prop::collection::vec(any::<u8>(), 1..600),
        (1..5usize).prop_map(|blocks| vec![0; blocks * 512]),
        (1..5usize).prop_map(|blocks| vec![7; blocks * 512]),
    ]
}

/// Where a CDB keeps its allocation length, for the commands that have one.
fn allocation(cdb: &[u8]) -> Option<usize> {
    let mut padded = cdb.to_vec();
    padded.resize(32, 0);
    let b = |at: usize| usize::from(padded[at]);
    let two = |at| b(at) << 8 | b(at + 1);
    let four = |at| two(at) << 16 | two(at + 2);
    Some(match padded[0] {
        0x03 | 0x1a => b(4),
        0x12 => two(3),
        0x37 | 0x43 | 0x46 | 0x4a | 0x4d | 0x51 | 0x52 | 0x5a | 0x5e => two(7),
        0xbd => two(8),
        0x9e => four(10),
        0xa0 | 0xa3 | 0xb7 => four(6),
        _ => return None,
    })
}

fn host(kind: u8) -> Host {
    let mut host = match kind % 4 {
        0 => Host::disk(600),
        1 => Host::with(Kind::Disk, 4096, 40, false),
        2 => Host::optical(300),
        _ => {
            let mut host = Host::disk(600);
            host.unit.removable = true;
            host.unit.mode.descriptor_sense = true;
            host
        }
    };
    host.luns = vec![0, 3, 300];
    host
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/hostile.regressions"),
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_answered_within_bounds(
        kind in any::<u8>(),
        commands in prop::collection::vec((cdb(), data(), any::<bool>()), 1..12),
    ) {
        let mut host = host(kind);
        for (cdb, data, other) in &commands {
            let who = if *other { b() } else { a() };
            let outcome = host.run(&who, cdb, data, 4096);
            if let Some(allocation) = allocation(cdb) {
                prop_assert!(outcome.data.len() <= allocation, "{cdb:02x?}");
            }
            if outcome.response.is_good() && !outcome.data.is_empty() {
                prop_assert_eq!(outcome.response.transfer as usize, outcome.data.len());
            }
        }
    }

    #[test]
    fn any_parameter_list_of_the_commands_that_take_one(
        kind in any::<u8>(),
        code in prop::sample::select(vec![0x15u8, 0x42, 0x55, 0x5f]),
        action in 0..8u8,
        list in data(),
        claimed in prop_oneof![Just(None), any::<u32>().prop_map(Some), (0..80u32).prop_map(Some)],
    ) {
        let mut host = host(kind);
        let (register, body) = reserve_out(0, 0, 0, 1, 0);
        host.out(&a(), &register, &body).good();
        let len = claimed.unwrap_or(list.len() as u32).to_be_bytes();
        let cdb = match code {
            0x15 => vec![code, 0x11, 0, 0, len[3], 0],
            0x5f => vec![code, action, 5, 0, 0, len[0], len[1], len[2], len[3], 0],
            _ => vec![code, if code == 0x55 { 0x11 } else { 0 }, 0, 0, 0, 0, 0, len[2], len[3], 0],
        };
        host.out(&a(), &cdb, &list);
    }

    #[test]
    fn a_task_survives_whatever_its_caller_resumes_it_with(
        cdb in cdb(),
        data in data(),
        resumes in prop::collection::vec(0..7u8, 1..6),
    ) {
        use scsi::{Command, DiskResult, Fault, Resume, Step, Task};
        let host = host(0);
        let who = a();
        let command = Command {
            cdb: &cdb,
            nexus: &who,
            read_only: false,
            data_out_len: data.len() as u32,
            data_in_len: 0,
            luns: &[0],
        };
        let (mut task, mut step) = Task::begin(&command, &host.unit, &mut NexusState::default());
        for with in resumes {
            if matches!(step, Step::Done(_)) {
                break;
            }
            let with = match with {
                0 => Resume::DataOut(&data),
                1 => Resume::DataOut(&[]),
                2 => Resume::Disk(DiskResult::Read(&data)),
                3 => Resume::Disk(DiskResult::Done),
                4 => Resume::Disk(DiskResult::Status { mapped: true, blocks: u64::MAX }),
                5 => Resume::Disk(DiskResult::Failed(Fault::Hardware)),
                _ => Resume::Changed(Ok(())),
            };
            step = task.resume(with, &host.unit, &who);
            task.footprint();
        }
    }

    #[test]
    fn restored_reservations_are_states_that_commands_can_reach(
        generation in any::<u32>(),
        keys in prop::collection::vec((0..4usize, 0..3u64), 0..6),
        kind in prop::sample::select(scsi::reservation::Type::ALL.to_vec()),
        holder in prop::option::of(0..5usize),
    ) {
        use scsi::reservation::{Key, Saved, SavedRegistration, SavedReservation, State};
        let who = |i: usize| nexus(['a', 'b', 'c', 'd', 'e'][i], 1);
        let saved = Saved {
            generation,
            registrations: keys
                .iter()
                .map(|(i, key)| SavedRegistration { nexus: who(*i), key: Key(*key) })
                .collect(),
            reservation: Some(SavedReservation { kind, holder: holder.map(who) }),
        };
        let state = State::restore(saved);
        prop_assert!(state.registrations().all(|(_, key)| key != Key::ZERO));
        if let Some(reservation) = state.reservation() {
            prop_assert!(!state.is_empty());
            prop_assert_eq!(reservation.holder.is_none(), reservation.kind.all_registrants());
            if let Some(holder) = &reservation.holder {
                prop_assert!(state.is_registered(holder));
            }
        }
        let again = State::restore(state.saved().unwrap());
        prop_assert_eq!(again, state);
    }
}

#[test]
fn cdbs_of_any_length() {
    let mut host = Host::disk(100);
    host.send(&a(), &[]).good();
    host.send(&a(), &[0x28]).good();
    let mut long = [0; 32];
    long[0] = 0x7f;
    host.send(&a(), &long).illegal(Code::INVALID_OPCODE);
    host.send(&a(), &[0x00; 400]).good();
}

#[test]
fn naca_is_refused_everywhere() {
    let mut host = Host::disk(100);
    host.send(&a(), &[0, 0, 0, 0, 0, 0x04])
        .illegal(Code::INVALID_FIELD);
    let mut cdb = ten(0x28, 0, 0, 1);
    cdb[9] = 0x04;
    let sense = host.send(&a(), &cdb).illegal(Code::INVALID_FIELD);
    assert_eq!(sense.to_bytes()[15..18], [0xca, 0, 9]);
    let mut cdb = reserve_in(0, 255);
    cdb[9] = 0x04;
    host.send(&a(), &cdb).illegal(Code::INVALID_FIELD);
}

#[test]
fn a_medium_that_is_not_usable_stops_what_needs_it() {
    use scsi::sense::Key;
    for (medium, code) in [
        (Medium::Absent, Code::NO_MEDIUM),
        (Medium::Ejected, Code::NO_MEDIUM),
        (Medium::Loading, Code::BECOMING_READY),
        (Medium::Stuck, Code::NOT_READY),
    ] {
        let mut host = Host::disk(100);
        host.unit.removable = true;
        host.unit.medium = medium;
        for cdb in [
            &[0; 6][..],
            &ten(0x28, 0, 0, 1),
            &ten(0x2a, 0, 0, 0),
            &ten(0x25, 0, 0, 0),
            &ten(0x2f, 0, 0, 0),
            &ten(0x34, 0, 0, 0),
            &ten(0x35, 0, 0, 0),
            &ten(0x41, 0, 0, 0),
            &ten(0x42, 0, 0, 0),
            &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
            &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
            &[0x1b, 0, 0, 0, 1, 0],
        ] {
            host.send(&a(), cdb).check(Key::NotReady, code);
        }
        for cdb in [
            &[0x12, 0, 0, 0, 96, 0][..],
            &[0x1a, 0, 0x3f, 0, 255, 0],
            &reserve_in(0, 255),
            &[0x1b, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(host.send(&a(), cdb).status(), Status::Good);
        }
    }
}
