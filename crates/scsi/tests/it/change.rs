//! Changes of shared state: media, resets, sizes, lost nexuses.

use std::sync::Arc;

use scsi::change::{self, Selector};
use scsi::sense::{Code, Key};
use scsi::{Attention, DiskOp, Medium, Status};

use crate::harness::{Host, TEST_UNIT_READY, a, b, reserve_out};

const EJECT: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
const LOAD: [u8; 6] = [0x1b, 0, 0, 0, 3, 0];

fn prevent(prevent: bool) -> [u8; 6] {
    [0x1e, 0, 0, 0, u8::from(prevent), 0]
}

fn removable() -> Host {
    let mut host = Host::disk(100);
    host.unit.removable = true;
    host.greet(&b());
    host
}

#[test]
fn eject_flushes_and_load_tells_the_others() {
    let mut host = removable();
    host.send(&a(), &EJECT).good();
    assert_eq!(host.log, [DiskOp::Flush]);
    host.send(&a(), &TEST_UNIT_READY)
        .check(Key::NotReady, Code::NO_MEDIUM);
    host.send(&a(), &EJECT).good();
    assert_eq!(host.log.len(), 1);
    host.send(&a(), &LOAD).good();
    host.send(&a(), &TEST_UNIT_READY).good();
    host.send(&b(), &TEST_UNIT_READY)
        .check(Key::UnitAttention, Code(0x2800));
    host.send(&a(), &LOAD).good();
    assert_eq!(host.pending(&b()), []);
}

#[test]
fn prevent_holds_the_tray_for_everybody() {
    let mut host = removable();
    host.send(&a(), &prevent(true)).good();
    host.send(&a(), &EJECT).illegal(Code::REMOVAL_PREVENTED);
    host.send(&b(), &EJECT).illegal(Code::REMOVAL_PREVENTED);
    assert!(host.log.is_empty());
    host.send(&b(), &prevent(false)).good();
    host.send(&b(), &EJECT).illegal(Code::REMOVAL_PREVENTED);
    host.send(&a(), &prevent(false)).good();
    host.send(&b(), &EJECT).good();
    // An empty tray can be held open as well.
    host.send(&a(), &prevent(true)).good();
    host.send(&a(), &LOAD).illegal(Code::REMOVAL_PREVENTED);
    host.send(&a(), &prevent(false)).good();
    host.send(&a(), &LOAD).good();
    for bits in [2, 3] {
        host.send(&a(), &[0x1e, 0, 0, 0, bits, 0])
            .illegal(Code::INVALID_FIELD);
    }
}

#[test]
fn prevent_goes_with_a_reset_and_with_its_nexus() {
    let mut host = removable();
    host.send(&a(), &prevent(true)).good();
    let applied = change::nexus_lost(&host.unit, &a()).unwrap();
    assert!(applied.unit.prevented.is_empty() && applied.attentions.is_empty());
    let applied = change::reset(&host.unit, Some(&a()));
    assert!(applied.unit.prevented.is_empty());
    assert_eq!(applied.attentions, [(Selector::All, Attention::UnitReset)]);
    let applied = change::reset(&host.unit, None);
    assert_eq!(
        applied.attentions,
        [(Selector::All, Attention::TargetReset)]
    );
}

#[test]
fn what_cannot_be_removed_cannot_be_ejected_or_held() {
    let mut host = Host::disk(100);
    host.send(&a(), &EJECT).illegal(Code::INVALID_FIELD);
    host.send(&a(), &LOAD).illegal(Code::INVALID_FIELD);
    host.send(&a(), &prevent(true)).good();
    assert!(host.unit.prevented.is_empty());
}

#[test]
fn stopping_makes_stable_and_nothing_else() {
    let mut host = removable();
    for (byte, flushes) in [(0, 1), (4, 1), (1, 1), (5, 1)] {
        host.send(&a(), &[0x1b, 1, 0, 0, byte, 0]).good();
        host.send(&a(), &TEST_UNIT_READY).good();
        assert_eq!(host.log.len(), flushes);
    }
    for power in 1..16 {
        host.send(&a(), &[0x1b, 1, 0, 0, power << 4 | 2, 0]).good();
        host.send(&a(), &TEST_UNIT_READY).good();
    }
}

#[test]
fn preventers_are_bounded() {
    let mut host = removable();
    let many =
        (0..scsi::limits::PREVENTERS).map(|i| scsi::Nexus::new(format!("iqn.x:{i}"), [0; 6], 1));
    host.unit.prevented = Arc::new(many.collect());
    assert_eq!(host.send(&a(), &prevent(true)).status(), Status::Busy);
    let one = scsi::Nexus::new("iqn.x:0", [0; 6], 1);
    host.send(&one, &prevent(true)).good();
    host.send(&one, &prevent(false)).good();
    host.send(&a(), &prevent(true)).good();
}

#[test]
fn a_reset_leaves_persistent_reservations() {
    let mut host = removable();
    let (cdb, list) = reserve_out(0, 0, 0, 1, 0);
    host.out(&a(), &cdb, &list).good();
    let applied = change::reset(&host.unit, Some(&b()));
    assert_eq!(applied.unit.reservations, host.unit.reservations);
    assert!(!applied.persist);
}

#[test]
fn the_operator_clears_grows_and_changes_media() {
    let mut host = removable();
    host.greet(&a());
    let (cdb, list) = reserve_out(0, 0, 0, 1, 1);
    host.out(&a(), &cdb, &list).good();
    let applied = change::clear_reservations(&host.unit);
    assert!(applied.persist && applied.unit.reservations.is_empty());
    assert_eq!(applied.unit.reservations.saved(), None);
    assert_eq!(
        applied.attentions,
        [(Selector::Nexus(a()), Attention::ReservationsPreempted)]
    );
    let applied = change::resize(&host.unit, 200);
    host.publish(applied);
    assert_eq!(host.pending(&b()), [Attention::CapacityChanged]);
    assert_eq!(host.unit.blocks, 200);
    let applied = change::medium(&host.unit, Medium::Ejected);
    host.publish(applied);
    let applied = change::medium(&host.unit, Medium::Present);
    host.publish(applied);
    assert_eq!(host.pending(&a())[0], Attention::MediumChanged);
    assert_eq!(host.unit.medium_changes, 2);
}

#[test]
fn a_change_is_checked_again_when_it_is_applied() {
    use scsi::{Change, Response};
    let host = removable();
    let mut newer = host.unit.clone();
    newer.legacy = Some(b());
    for change in [
        Change::Mode(scsi::mode::Select::default()),
        Change::LoadEject { load: false },
        Change::Prevent { prevent: true },
        Change::Legacy(scsi::change::Legacy::Reserve),
    ] {
        let refused = change::apply(&newer, &a(), &change).unwrap_err();
        assert_eq!(refused, Response::conflict());
    }
}
