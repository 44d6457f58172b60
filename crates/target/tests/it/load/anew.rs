//! What must hold while a device is not open, and when it is opened.

use std::process::Command;

use super::*;
use crate::site::{A, SOON};
use crate::support::{ram, read10, settings};

fn not_ready(site: &Site) -> String {
    match site.state("b") {
        DeviceState::NotReady { reason } => reason,
        state => panic!("it is {state:?}"),
    }
}

/// Holds the thread of the only shard up, by a command on LUN 0, until the mood lets go.
fn hold_shard(site: &Site, initiator: &mut Initiator) {
    site.mood(A).executing.close();
    initiator.submit(read10(0, 1), None, 512);
    site.mood(A).executing.wait_for_somebody();
}

#[test]
fn a_device_is_not_ready_before_who_wrote_can_be_told() {
    let image = Image::new(CacheMode::None);
    image.edit(|beside| {
        beside.wrote(&nexus("a").to_string(), "an earlier boot");
    });
    let mut site = image.start_taken();
    let (mut a, mut b) = (site.initiator("a"), site.initiator("b"));
    assert_eq!(sense(&settled(&mut a)).0, 2, "NOT READY");
    hold_shard(&site, &mut b);
    site.opening.is_taken.store(false, Ordering::SeqCst);
    site.load("b").unwrap_err();
    not_ready(&site);
    assert_eq!(site.told("device-ready"), 0);
    site.mood(A).executing.open();
    wait_for("the device", || site.state("b") == DeviceState::Ready);
    assert!(is_doubt(&settled(&mut a)), "a flush must not lie");
    assert_eq!(lun1(&mut a, &[0x35], 0).0.status, 0);
}

#[test]
fn an_initiator_does_not_make_a_device_ready_that_is_not_open() {
    let mut image = Image::new(CacheMode::None);
    image.config.devices[1].removable = true;
    let site = image.start_taken();
    let mut a = site.initiator("a");
    assert_eq!(sense(&settled(&mut a)).0, 2, "NOT READY");
    let (eject, load) = ([0x1b, 0, 0, 0, 2, 0], [0x1b, 0, 0, 0, 3, 0]);
    for tray in [eject, load] {
        assert_eq!(sense(&lun1(&mut a, &tray, 0).0).0, 2, "NOT READY");
        assert!(not_ready(&site).contains("/of/somebody"));
    }
    // Nor does that keep it from being loaded by itself.
    free(&site);
    assert_eq!(settled(&mut a).status, 0);
    for tray in [eject, load] {
        assert_eq!(lun1(&mut a, &tray, 0).0.status, 0);
    }
    assert_eq!(write(&mut a).status, 0);
}

#[test]
fn a_write_that_began_before_a_device_was_opened_anew_is_noted_there() {
    let image = Image::new(CacheMode::WriteBack);
    let directory = tempfile::tempdir().unwrap();
    let site = Site::start_behind(directory, image.config.clone(), Arc::default());
    let mut offer = settings("a", 1);
    (offer.offer.initial_r2t, offer.offer.immediate_data) = (true, false);
    let mut a = Initiator::begin_with(site.now().portals[0].socket_address(), offer);
    a.outcome().unwrap();
    settled(&mut a);
    assert_eq!(write(&mut a).status, 0);
    // It is asked for its data, and does not send any yet.
    let late = a.submit_to(LUN, write10(0, 1), Some(block(8)), 0);
    a.wait_for_bytes();
    broken(&site);
    site.opening.is_taken.store(true, Ordering::SeqCst);
    site.load("b").unwrap_err();
    // Somebody else has it meanwhile, and stops well.
    image.edit(|beside| beside.writers = None);
    site.opening.is_taken.store(false, Ordering::SeqCst);
    site.load("b").unwrap();
    assert_eq!(a.end_of(late).0.status, 0);
    let writers = image.store.load().unwrap().unwrap().writers;
    let noted = writers.is_some_and(|it| it.nexuses.contains(&nexus("a").to_string()));
    assert!(noted, "nobody would tell it of a loss");
}

#[test]
fn a_device_that_got_stuck_while_it_was_opened_anew_is_not_told_as_ready() {
    let image = Image::new(CacheMode::WriteBack);
    let directory = tempfile::tempdir().unwrap();
    let mut site = Site::start_behind(directory, image.config.clone(), Arc::default());
    let mut a = site.initiator("a");
    settled(&mut a);
    hold_shard(&site, &mut a);
    broken(&site);
    site.load("b").unwrap_err();
    assert!(not_ready(&site).contains("load it"));
    assert_eq!(site.told("device-ready"), 0);
    site.mood(A).executing.open();
    site.load("b").unwrap();
    assert_eq!(site.state("b"), DeviceState::Ready);
    assert_eq!(site.told("device-ready"), 1);
}

#[test]
fn changes_do_not_wait_for_late_devices_without_an_identity() {
    let opening = Arc::<Door>::default();
    opening.close();
    let (directory, mut config) = (tempfile::tempdir().unwrap(), two());
    config.devices.push(ram("c", B + (1 << 20)));
    config.devices.push(ram("d", B + (2 << 20)));
    let site = Site::start_behind(directory, config, opening);
    let now = site.now();
    let took = took(|| site.apply(&now).unwrap());
    assert!(took < SOON, "it waited for them: {took:?}");
    not_ready(&site);
    site.opening.open();
    for name in ["b", "c", "d"] {
        wait_for("a device", || site.state(name) == DeviceState::Ready);
    }
}

#[test]
fn a_start_waits_once_for_a_file_system_that_does_not_answer() {
    let image = Image::new(CacheMode::None);
    let document = image.store.path().to_path_buf();
    std::fs::remove_file(&document).unwrap();
    let pipe = Command::new("mkfifo").arg(&document).status();
    assert!(pipe.unwrap().success());
    let directory = tempfile::tempdir().unwrap();
    let mut site = None;
    let bound = 2 * SOON;
    let start = || Site::start_patiently(directory, image.config.clone(), Arc::default(), bound);
    let took = took(|| site = Some(start()));
    let site = site.unwrap();
    not_ready(&site);
    // Whoever reads it goes on, and nobody waits there any more.
    let writer = std::fs::OpenOptions::new().write(true).open(&document);
    std::fs::remove_file(&document).unwrap();
    drop(writer.unwrap());
    assert!(took < bound + bound / 2, "it waited twice: {took:?}");
    wait_for("the device", || site.state("b") == DeviceState::Ready);
}
