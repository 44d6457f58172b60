//! Persistent reservations, rule by rule.

use scsi::reservation::{Key, Saved, State, Type};
use scsi::sense::{Code, Key as SenseKey};
use scsi::{Attention, Nexus};

use crate::harness::{
    Host, Outcome, TEST_UNIT_READY, a, b, block, nexus, reserve_in, reserve_out, ten,
};

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const IGNORE: u8 = 6;
const MOVE: u8 = 7;

const WE: u8 = 1;
const EA: u8 = 3;
const WE_RO: u8 = 5;
const EA_RO: u8 = 6;
const WE_AR: u8 = 7;

const APTPL: u8 = 1;
const ALL_TG_PT: u8 = 4;
const SPEC_I_PT: u8 = 8;

fn c() -> Nexus {
    nexus('c', 1)
}

fn out(host: &mut Host, who: &Nexus, action: u8, kind: u8, key: u64, service_key: u64) -> Outcome {
    let (cdb, list) = reserve_out(action, kind, key, service_key, 0);
    host.out(who, &cdb, &list)
}

/// Three nexuses, a, b and c, registered with keys 1, 2 and 3, all known, nothing pending.
fn registered() -> Host {
    let mut host = Host::disk(100);
    for (who, key) in [(a(), 1), (b(), 2), (c(), 3)] {
        out(&mut host, &who, REGISTER, 0, 0, key).good();
    }
    quiet(&mut host);
    host
}

fn quiet(host: &mut Host) {
    for who in [a(), b(), c()] {
        host.greet(&who);
    }
}

/// The same, and a holds.
fn held(kind: u8) -> Host {
    let mut host = registered();
    out(&mut host, &a(), RESERVE, kind, 1, 0).good();
    host
}

fn keys(host: &mut Host) -> Vec<u64> {
    let data = host.send(&nexus('z', 1), &reserve_in(0, 1024)).good();
    assert_eq!(
        u32::from_be_bytes(data[4..8].try_into().unwrap()) as usize,
        data.len() - 8
    );
    let mut keys: Vec<u64> = data[8..]
        .chunks(8)
        .map(|k| u64::from_be_bytes(k.try_into().unwrap()))
        .collect();
    keys.sort_unstable();
    keys
}

fn generation(host: &Host) -> u32 {
    host.unit.reservations.generation()
}

/// Key and type of the reservation as READ RESERVATION tells it.
fn reservation(host: &mut Host) -> Option<(u64, u8)> {
    let data = host.send(&nexus('z', 1), &reserve_in(1, 1024)).good();
    match data.len() {
        8 => None,
        24 => Some((
            u64::from_be_bytes(data[8..16].try_into().unwrap()),
            data[21],
        )),
        len => panic!("{len} bytes"),
    }
}

#[test]
fn register_needs_the_key_that_is_there() {
    let mut host = Host::disk(100);
    out(&mut host, &a(), REGISTER, 0, 5, 1).conflict();
    out(&mut host, &a(), REGISTER, 0, 0, 0).good();
    assert_eq!((keys(&mut host), generation(&host)), (vec![], 0));
    out(&mut host, &a(), REGISTER, 0, 0, 1).good();
    out(&mut host, &a(), REGISTER, 0, 0, 2).conflict();
    out(&mut host, &a(), REGISTER, 0, 1, 2).good();
    assert_eq!((keys(&mut host), generation(&host)), (vec![2], 2));
    out(&mut host, &a(), REGISTER, 0, 2, 0).good();
    assert_eq!((keys(&mut host), generation(&host)), (vec![], 3));
}

#[test]
fn register_and_ignore_does_not_look_at_the_key() {
    let mut host = Host::disk(100);
    out(&mut host, &a(), IGNORE, 0, 99, 0).good();
    assert_eq!(generation(&host), 0);
    out(&mut host, &a(), IGNORE, 0, 99, 1).good();
    out(&mut host, &a(), IGNORE, 0, 98, 2).good();
    assert_eq!(keys(&mut host), [2]);
    out(&mut host, &a(), IGNORE, 0, 97, 0).good();
    assert_eq!((keys(&mut host), generation(&host)), (vec![], 3));
}

#[test]
fn reserve_of_each_type_and_again() {
    for kind in Type::ALL {
        let mut host = held(kind.code());
        let before = generation(&host);
        let key = if kind.all_registrants() { 0 } else { 1 };
        assert_eq!(reservation(&mut host), Some((key, kind.code())));
        out(&mut host, &a(), RESERVE, kind.code(), 1, 0).good();
        out(
            &mut host,
            &a(),
            RESERVE,
            if kind.code() == WE { EA } else { WE },
            1,
            0,
        )
        .conflict();
        let other = out(&mut host, &b(), RESERVE, kind.code(), 2, 0);
        if kind.all_registrants() {
            other.good();
        } else {
            other.conflict();
        }
        assert_eq!(generation(&host), before, "RESERVE does not count");
    }
}

#[test]
fn reserve_refuses_what_it_does_not_know() {
    let mut host = registered();
    for kind in (0..=0xff).filter(|kind| ![1, 3, 5, 6, 7, 8].contains(kind)) {
        out(&mut host, &a(), RESERVE, kind, 1, 0).illegal(Code::INVALID_FIELD);
    }
    out(&mut host, &a(), RESERVE, WE, 2, 0).conflict();
    out(&mut host, &nexus('d', 1), RESERVE, WE, 0, 0).conflict();
    assert_eq!(reservation(&mut host), None);
}

#[test]
fn release_by_the_holder_tells_the_registrants() {
    for kind in Type::ALL {
        let mut host = held(kind.code());
        let before = generation(&host);
        out(&mut host, &a(), RELEASE, kind.code(), 1, 0).good();
        assert_eq!(reservation(&mut host), None);
        let told: &[Attention] = match kind.registrants() {
            true => &[Attention::ReservationsReleased],
            false => &[],
        };
        assert_eq!(host.pending(&b()), told);
        assert_eq!(host.pending(&a()), []);
        assert_eq!(generation(&host), before);
    }
}

#[test]
fn release_by_others_and_of_the_wrong_type() {
    let mut host = held(WE_RO);
    out(&mut host, &b(), RELEASE, WE_RO, 2, 0).good();
    out(&mut host, &b(), RELEASE, 0x0f, 2, 0).good();
    out(&mut host, &b(), RELEASE, WE_RO, 1, 0).conflict();
    out(&mut host, &nexus('d', 1), RELEASE, WE_RO, 0, 0).conflict();
    for kind in [WE, EA_RO, 0, 0x0f, 0x15] {
        out(&mut host, &a(), RELEASE, kind, 1, 0).illegal(Code::INVALID_RELEASE);
    }
    assert_eq!(reservation(&mut host), Some((1, WE_RO)));
    let mut host = registered();
    out(&mut host, &a(), RELEASE, WE, 1, 0).good();
}

#[test]
fn clear_takes_everything_and_tells_everybody() {
    let mut host = held(EA);
    let before = generation(&host);
    out(&mut host, &b(), CLEAR, 0, 1, 0).conflict();
    out(&mut host, &b(), CLEAR, 0x2f, 2, 0).good();
    assert_eq!((keys(&mut host), reservation(&mut host)), (vec![], None));
    assert_eq!(generation(&host), before + 1);
    assert_eq!(host.pending(&a()), [Attention::ReservationsPreempted]);
    assert_eq!(host.pending(&c()), [Attention::ReservationsPreempted]);
    assert_eq!(host.pending(&b()), []);
    out(&mut host, &nexus('d', 1), CLEAR, 0, 0, 0).conflict();
}

#[test]
fn preempt_takes_the_reservation_with_its_new_type() {
    let mut host = held(WE_RO);
    let before = generation(&host);
    out(&mut host, &b(), PREEMPT, EA, 2, 1).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![2, 3], Some((2, EA)))
    );
    assert_eq!(generation(&host), before + 1);
    assert_eq!(host.pending(&a()), [Attention::RegistrationsPreempted]);
    assert_eq!(host.pending(&b()), []);
    // The type changed: those who stay registered hear of the release.
    assert_eq!(host.pending(&c()), [Attention::ReservationsReleased]);
    quiet(&mut host);
    out(&mut host, &c(), PREEMPT, EA, 3, 2).good();
    assert_eq!(reservation(&mut host), Some((3, EA)));
    assert_eq!(host.pending(&b()), [Attention::RegistrationsPreempted]);
}

#[test]
fn preempt_of_a_registration_ignores_the_type() {
    let mut host = held(WE_RO);
    out(&mut host, &b(), PREEMPT, 0xff, 2, 3).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 2], Some((1, WE_RO)))
    );
    assert_eq!(host.pending(&c()), [Attention::RegistrationsPreempted]);
    assert_eq!(host.pending(&a()), []);
    // One's own registration, where nothing is taken: gone too, and nobody is told.
    out(&mut host, &b(), PREEMPT, 0, 2, 2).good();
    assert_eq!(keys(&mut host), [1]);
    assert_eq!(host.pending(&b()), []);
    out(&mut host, &a(), PREEMPT, WE, 1, 77).conflict();
    out(&mut host, &a(), PREEMPT, WE, 1, 0).illegal(Code::INVALID_PARAMETER);
    out(&mut host, &b(), PREEMPT, WE, 2, 1).conflict();
}

#[test]
fn preempt_where_nothing_is_reserved() {
    let mut host = registered();
    out(&mut host, &a(), PREEMPT, WE, 1, 0).illegal(Code::INVALID_PARAMETER);
    out(&mut host, &a(), PREEMPT, WE, 1, 2).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 3], None)
    );
    out(&mut host, &a(), PREEMPT, WE, 1, 1).good();
    assert_eq!(keys(&mut host), [3]);
}

#[test]
fn preempt_needs_a_type_only_where_it_takes() {
    let mut host = held(WE);
    for kind in [0, 2, 0x0f, 0x15] {
        out(&mut host, &b(), PREEMPT, kind, 2, 1).illegal(Code::INVALID_FIELD);
    }
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 2, 3], Some((1, WE)))
    );
}

#[test]
fn preempting_oneself_changes_the_type() {
    let mut host = held(WE);
    // b shares the key.
    out(&mut host, &b(), REGISTER, 0, 2, 1).good();
    out(&mut host, &a(), PREEMPT, EA_RO, 1, 1).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 3], Some((1, EA_RO)))
    );
    assert!(host.unit.reservations.holds(&a()));
    assert_eq!(host.pending(&b()), [Attention::RegistrationsPreempted]);
    assert_eq!(host.pending(&c()), [Attention::ReservationsReleased]);
}

#[test]
fn preempt_of_all_registrants() {
    let mut host = held(WE_AR);
    out(&mut host, &b(), PREEMPT, 0, 2, 3).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 2], Some((0, WE_AR)))
    );
    out(&mut host, &b(), PREEMPT, EA, 2, 0).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![2], Some((2, EA)))
    );
    assert_eq!(host.pending(&a()), [Attention::RegistrationsPreempted]);
    let mut host = held(WE_AR);
    for (who, key) in [(b(), 2), (c(), 3)] {
        out(&mut host, &who, REGISTER, 0, key, 1).good();
    }
    out(&mut host, &b(), PREEMPT, EA, 1, 1).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![], None),
        "the last one went"
    );
}

#[test]
fn preempt_and_abort_names_whose_tasks_end() {
    let mut host = held(WE_RO);
    out(&mut host, &b(), REGISTER, 0, 2, 1).good();
    out(&mut host, &c(), PREEMPT_AND_ABORT, WE_RO, 3, 1).good();
    let mut abort = host.applied.as_ref().unwrap().abort.clone();
    abort.sort();
    assert_eq!(abort, [a(), b()]);
    out(&mut host, &c(), PREEMPT, WE_RO, 3, 3).good();
    assert!(host.applied.as_ref().unwrap().abort.is_empty());
}

#[test]
fn the_holder_leaving_ends_the_reservation() {
    for kind in Type::ALL {
        let mut host = held(kind.code());
        out(&mut host, &a(), REGISTER, 0, 1, 0).good();
        if kind.all_registrants() {
            assert_eq!(reservation(&mut host), Some((0, kind.code())));
            assert_eq!(host.pending(&b()), []);
            out(&mut host, &b(), REGISTER, 0, 2, 0).good();
            out(&mut host, &c(), REGISTER, 0, 3, 0).good();
        } else {
            let told: &[Attention] = match kind.registrants() {
                true => &[Attention::ReservationsReleased],
                false => &[],
            };
            assert_eq!(host.pending(&b()), told);
        }
        assert_eq!(reservation(&mut host), None);
    }
}

fn move_list(key: u64, service_key: u64, flags: u8, port: u16, to: &Nexus) -> ([u8; 10], Vec<u8>) {
    let mut id = vec![0x45, 0, 0, 0];
    id.extend(to.port_name().as_bytes());
    id.push(0);
    id.resize(id.len().next_multiple_of(4), 0);
    let len = (id.len() - 4) as u16;
    id[2..4].copy_from_slice(&len.to_be_bytes());
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&service_key.to_be_bytes());
    list[17] = flags;
    list[18..20].copy_from_slice(&port.to_be_bytes());
    list[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
    list.extend(id);
    let mut cdb = [0x5f, MOVE, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
    (cdb, list)
}

#[test]
fn register_and_move_hands_over() {
    let mut host = held(WE_RO);
    let before = generation(&host);
    let d = nexus('d', 2);
    let (cdb, list) = move_list(1, 9, 0, 2, &d);
    host.out(&a(), &cdb, &list).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 2, 3, 9], Some((9, WE_RO)))
    );
    assert!(host.unit.reservations.holds(&d));
    assert_eq!(generation(&host), before + 1);
    let (cdb, list) = move_list(9, 8, 2, 1, &b());
    host.out(&d, &cdb, &list).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 3, 8], Some((8, WE_RO)))
    );
}

#[test]
fn register_and_move_refusals() {
    let mut host = registered();
    let (cdb, list) = move_list(1, 9, 0, 1, &b());
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_FIELD);
    let mut host = held(WE_RO);
    let (cdb, list) = move_list(2, 9, 0, 1, &c());
    host.out(&b(), &cdb, &list).conflict();
    host.out(&a(), &cdb, &list).conflict();
    let (cdb, list) = move_list(1, 0, 0, 1, &c());
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    let (cdb, list) = move_list(1, 9, 0, 7, &c());
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    let (cdb, list) = move_list(1, 9, 0, 1, &a());
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    let (cdb, mut list) = move_list(1, 9, 0, 1, &c());
    list[24] = 0x05;
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    list[24] = 0x46;
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    let (cdb, mut list) = move_list(1, 9, 0, 1, &c());
    list[23] += 4;
    host.out(&a(), &cdb, &list).illegal(Code::LIST_LENGTH);
    let mut host = held(WE_AR);
    let (cdb, list) = move_list(1, 9, 0, 1, &c());
    host.out(&a(), &cdb, &list).conflict();
    assert_eq!(keys(&mut host), [1, 2, 3]);
}

fn spec_i_pt(key: u64, service_key: u64, flags: u8, ports: &[Nexus]) -> ([u8; 10], Vec<u8>) {
    let (mut cdb, mut list) = reserve_out(REGISTER, 0, key, service_key, SPEC_I_PT | flags);
    let ids: Vec<u8> = ports
        .iter()
        .flat_map(|to| move_list(0, 0, 0, 1, to).1[24..].to_vec())
        .collect();
    list.extend((ids.len() as u32).to_be_bytes());
    list.extend(ids);
    cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
    (cdb, list)
}

#[test]
fn spec_i_pt_registers_others_along() {
    let mut host = Host::disk(100);
    let (cdb, list) = spec_i_pt(0, 5, APTPL, &[b(), c()]);
    host.out(&a(), &cdb, &list).good();
    assert_eq!((keys(&mut host), generation(&host)), (vec![5, 5, 5], 1));
    for who in [a(), b(), c()] {
        assert_eq!(host.unit.reservations.key_of(&who), Some(Key(5)));
    }
    // Only along with a registration that is new itself, and not over others.
    let (cdb, list) = spec_i_pt(5, 6, 0, &[nexus('d', 1)]);
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    let (cdb, list) = spec_i_pt(0, 6, 0, &[b()]);
    host.out(&nexus('d', 1), &cdb, &list)
        .illegal(Code::INVALID_PARAMETER);
    let (cdb, list) = spec_i_pt(5, 6, 0, &[]);
    host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    assert_eq!(keys(&mut host), [5, 5, 5]);
    for action in 1..=6 {
        let (cdb, list) = reserve_out(action, WE, 5, 5, SPEC_I_PT);
        host.out(&a(), &cdb, &list).illegal(Code::INVALID_PARAMETER);
    }
}

#[test]
fn all_tg_pt_registers_through_every_port() {
    let mut host = Host::disk(100);
    let (cdb, list) = reserve_out(REGISTER, 0, 0, 5, ALL_TG_PT);
    host.out(&a(), &cdb, &list).good();
    assert_eq!(keys(&mut host), [5, 5]);
    assert!(host.unit.reservations.is_registered(&nexus('a', 2)));
    // Access through the other port comes with it.
    out(&mut host, &a(), RESERVE, EA_RO, 5, 0).good();
    host.out(&nexus('a', 2), &ten(0x2a, 0, 0, 1), &block(1))
        .good();
    host.out(&b(), &ten(0x2a, 0, 0, 1), &block(1)).conflict();
    // Another key on the other port is not ours to change.
    out(&mut host, &nexus('a', 2), REGISTER, 0, 5, 6).good();
    let (cdb, list) = reserve_out(REGISTER, 0, 5, 7, ALL_TG_PT);
    host.out(&a(), &cdb, &list).conflict();
    let (cdb, list) = reserve_out(IGNORE, 0, 0, 7, ALL_TG_PT);
    host.out(&a(), &cdb, &list).good();
    assert_eq!(keys(&mut host), [7, 7]);
    let (cdb, list) = reserve_out(REGISTER, 0, 7, 0, ALL_TG_PT);
    host.out(&a(), &cdb, &list).good();
    assert_eq!((keys(&mut host), reservation(&mut host)), (vec![], None));
}

#[test]
fn parameter_list_lengths() {
    let mut host = registered();
    let steps = host.log.len();
    for action in 0..8 {
        for len in (0..24u32).chain([8193, 65536, 1 << 31, u32::MAX]) {
            let (mut cdb, list) = reserve_out(action, WE, 1, 1, 0);
            cdb[5..9].copy_from_slice(&len.to_be_bytes());
            host.out(&a(), &cdb, &list).illegal(Code::LIST_LENGTH);
        }
        if action != MOVE {
            let (mut cdb, mut list) = reserve_out(action, WE, 1, 1, 0);
            cdb[8] = 28;
            list.resize(28, 0);
            host.out(&a(), &cdb, &list).illegal(Code::LIST_LENGTH);
        }
        let (cdb, list) = reserve_out(action, WE, 1, 1, 0);
        host.out(&a(), &cdb, &list[..20]).illegal(Code::LIST_LENGTH);
    }
    assert_eq!((keys(&mut host), host.log.len()), (vec![1, 2, 3], steps));
}

#[test]
fn unknown_service_actions() {
    let mut host = registered();
    for action in 8..32 {
        out(&mut host, &a(), action, WE, 1, 1).illegal(Code::INVALID_FIELD);
    }
    for action in 4..32 {
        host.send(&a(), &reserve_in(action, 255))
            .illegal(Code::INVALID_FIELD);
    }
}

#[test]
fn reports_are_cut_but_their_lengths_are_not() {
    let mut host = held(WE);
    for action in 0..4 {
        let whole = host.send(&a(), &reserve_in(action, 4096)).good();
        for allocation in 0..=whole.len() {
            let data = host
                .send(&a(), &reserve_in(action, allocation as u16))
                .good();
            assert_eq!(data[..], whole[..allocation]);
        }
    }
    let head = host.send(&a(), &reserve_in(0, 8)).good();
    assert_eq!(head, [0, 0, 0, 3, 0, 0, 0, 24]);
}

#[test]
fn capabilities_tell_what_is_done() {
    let mut host = Host::disk(100);
    assert_eq!(
        host.send(&a(), &reserve_in(2, 255)).good(),
        [0, 8, 0x1d, 0xb0, 0xea, 0x01, 0, 0]
    );
    let (cdb, list) = reserve_out(REGISTER, 0, 0, 1, APTPL);
    host.out(&a(), &cdb, &list).good();
    assert_eq!(host.send(&a(), &reserve_in(2, 255)).good()[3], 0xb1);
}

#[test]
fn full_status_names_every_registrant() {
    let mut host = held(EA_RO);
    let data = host.send(&a(), &reserve_in(3, 4096)).good();
    let first = &data[8..];
    assert_eq!(first[..8], 1u64.to_be_bytes());
    assert_eq!(
        (first[12], first[13], &first[18..20]),
        (1, EA_RO, &[0, 1][..])
    );
    let len = usize::from(first[23]);
    let id = &first[24..24 + len];
    assert_eq!((id[0], usize::from(id[3])), (0x45, len - 4));
    let text = a().port_name();
    assert_eq!(id[4..4 + text.len()], *text.as_bytes());
    assert_eq!(id[4 + text.len()], 0);
    assert!(len.is_multiple_of(4));
    let second = &first[24 + len..];
    assert_eq!((second[12], second[13]), (0, 0));
    // The TransportID reported is one that is accepted.
    let d = nexus('d', 1);
    let mut list = spec_i_pt(0, 5, 0, &[]).1;
    list[24..28].copy_from_slice(&(len as u32).to_be_bytes());
    list.extend(id);
    let mut cdb = reserve_out(REGISTER, 0, 0, 0, 0).0;
    cdb[8] = list.len() as u8;
    let (own, mut fresh) = (a(), Host::disk(100));
    fresh.out(&d, &cdb, &list).good();
    assert!(fresh.unit.reservations.is_registered(&own));
}

#[test]
fn registrations_are_bounded() {
    let mut host = Host::disk(100);
    for i in 0..scsi::limits::REGISTRATIONS {
        let who = Nexus::new(format!("iqn.2026-01.test.host:{i}"), [0; 6], 1);
        out(&mut host, &who, REGISTER, 0, 0, 1).good();
    }
    let sense = out(&mut host, &a(), REGISTER, 0, 0, 1).illegal(Code::REGISTRATION_RESOURCES);
    assert_eq!(sense.key, SenseKey::IllegalRequest);
    let first = Nexus::new("iqn.2026-01.test.host:0", [0; 6], 1);
    out(&mut host, &first, REGISTER, 0, 1, 2).good();
    out(&mut host, &first, REGISTER, 0, 2, 0).good();
    out(&mut host, &a(), REGISTER, 0, 0, 1).good();
}

#[test]
fn aptpl_is_saved_and_comes_back() {
    let mut host = Host::disk(100);
    out(&mut host, &a(), REGISTER, 0, 0, 1).good();
    assert!(!host.applied.as_ref().unwrap().persist);
    assert_eq!(host.unit.reservations.saved(), None);
    let (cdb, list) = reserve_out(REGISTER, 0, 0, 2, APTPL);
    host.out(&b(), &cdb, &list).good();
    assert!(host.applied.as_ref().unwrap().persist);
    out(&mut host, &b(), RESERVE, WE_RO, 2, 0).good();
    assert!(host.applied.as_ref().unwrap().persist);
    out(&mut host, &b(), RESERVE, WE_RO, 2, 0).good();
    assert!(!host.applied.as_ref().unwrap().persist, "nothing changed");
    let json = serde_json::to_string(&host.unit.reservations.saved().unwrap()).unwrap();
    let saved: Saved = serde_json::from_str(&json).unwrap();
    let back = State::restore(saved);
    assert_eq!(back, *host.unit.reservations);
    assert!(back.holds(&b()) && back.is_registered(&a()));
    // Switching it off is written down as well.
    out(&mut host, &a(), REGISTER, 0, 1, 3).good();
    assert!(host.applied.as_ref().unwrap().persist);
    assert_eq!(host.unit.reservations.saved(), None);
}

#[test]
fn a_damaged_document_cannot_make_an_impossible_state() {
    let json = r#"{"generation":7,"registrations":[
        {"nexus":{"initiator":"iqn.x","isid":[0,0,0,0,0,1],"port":1},"key":0},
        {"nexus":{"initiator":"iqn.y","isid":[0,0,0,0,0,1],"port":1},"key":4}],
        "reservation":{"type":"write-exclusive","holder":{"initiator":"iqn.x","isid":[0,0,0,0,0,1],"port":1}}}"#;
    let state = State::restore(serde_json::from_str(json).unwrap());
    assert_eq!(
        (state.registrations().count(), state.reservation()),
        (1, None)
    );
    assert_eq!(state.generation(), 7);
    let json = r#"{"generation":7,"registrations":[],"reservation":{"type":"exclusive-access-all-registrants"}}"#;
    assert_eq!(
        State::restore(serde_json::from_str(json).unwrap()).reservation(),
        None
    );
}

#[test]
fn the_windows_validation_sequence() {
    let mut host = Host::disk(100);
    quiet(&mut host);
    out(&mut host, &a(), CLEAR, 0, 1, 0).conflict();
    for (who, key) in [(a(), 1), (b(), 2), (c(), 3)] {
        out(&mut host, &who, IGNORE, 0, 0, key).good();
    }
    out(&mut host, &a(), RESERVE, WE_RO, 1, 0).good();
    assert_eq!(
        (keys(&mut host), reservation(&mut host)),
        (vec![1, 2, 3], Some((1, WE_RO)))
    );
    let d = nexus('d', 1);
    host.out(&d, &ten(0x2a, 0, 0, 1), &block(1)).conflict();
    host.send(&d, &ten(0x28, 0, 0, 1)).good();
    host.out(&b(), &ten(0x2a, 0, 0, 1), &block(1)).good();
    out(&mut host, &b(), PREEMPT, WE_RO, 2, 1).good();
    host.send(&a(), &TEST_UNIT_READY)
        .check(SenseKey::UnitAttention, Code(0x2a05));
    host.out(&a(), &ten(0x2a, 0, 0, 1), &block(1)).conflict();
    out(&mut host, &b(), RELEASE, WE_RO, 2, 0).good();
    host.out(&a(), &ten(0x2a, 0, 0, 1), &block(1)).good();
}

#[test]
fn keys_stay_out_of_debug_output() {
    let host = held(WE);
    let text = format!("{:?}", host.unit);
    assert!(text.contains("Key(..)") && !text.contains("Key(1)"));
}
