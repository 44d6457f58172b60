//! Devices that are opened late or anew, and what lies beside them by then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use disk::{Beside, BesideStore, CacheMode};
use iscsi::initiator::Completion;
use scsi::Nexus;
use scsi::reservation::{Key, Saved, SavedRegistration, SavedReservation, Type};
use target::ServiceError;
use target::config::{Backing, Config, Provisioning};
use target::info::DeviceState;

use crate::site::{B, Door, Site, file, lun1, two};
use crate::support::{
    HANG, Initiator, block, cdb, is_doubt, reserve_out, sense, took, wait_for, write10,
};

mod anew;

/// LUN 1.
const LUN: u64 = 1 << 48;

/// LUN 1 is an image with a document beside it.
struct Image {
    directory: tempfile::TempDir,
    config: Config,
    path: PathBuf,
    store: BesideStore,
}

impl Image {
    fn new(cache: CacheMode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b.img");
        file(&path, B);
        let mut config = two();
        config.devices[1].cache = cache;
        config.devices[1].backing = Backing::Image {
            path: path.clone(),
            size: B,
            provisioning: Provisioning::Thin,
            block_size: 512,
            read_only: false,
        };
        let backing = &config.devices[1].backing;
        let store = BesideStore::for_device(backing, "b", directory.path()).unwrap();
        store.load_or_create().unwrap();
        Self {
            directory,
            config,
            path,
            store,
        }
    }

    /// Somebody else has it at the start.
    fn start_taken(&self) -> Site {
        let opening = Arc::<Door>::default();
        opening.is_taken.store(true, Ordering::SeqCst);
        let directory = tempfile::tempdir().unwrap();
        Site::start_behind(directory, self.config.clone(), opening)
    }

    fn edit(&self, edit: impl FnOnce(&mut Beside)) {
        let mut beside = self.store.load().unwrap().unwrap();
        edit(&mut beside);
        self.store.save(&beside).unwrap();
    }

    fn document(&self) -> Vec<u8> {
        std::fs::read(self.store.path()).unwrap()
    }
}

fn free(site: &Site) {
    site.opening.is_taken.store(false, Ordering::SeqCst);
    wait_for("the device", || site.state("b") == DeviceState::Ready);
}

fn nexus(name: &str) -> Nexus {
    let name = format!("iqn.2026-11.test:{name}");
    Nexus::new(name, [0x80, 0, 0, 0, 0, 1], 1)
}

/// Write Exclusive, held by this one.
fn held_by(name: &str) -> Saved {
    let nexus = nexus(name);
    Saved {
        generation: 7,
        registrations: vec![SavedRegistration {
            nexus: nexus.clone(),
            key: Key(1),
        }],
        reservation: Some(SavedReservation {
            kind: Type::WriteExclusive,
            holder: Some(nexus),
        }),
    }
}

/// TEST UNIT READY until it is not a unit attention.
fn settled(initiator: &mut Initiator) -> Completion {
    loop {
        let last = lun1(initiator, &[0], 0).0;
        if last.status != 2 || is_doubt(&last) || sense(&last).0 != 6 {
            return last;
        }
    }
}

fn send(initiator: &mut Initiator, cdb: iscsi::initiator::Cdb, data: Vec<u8>) -> Completion {
    let task = initiator.submit_to(LUN, cdb, Some(data), 0);
    initiator.end_of(task).0
}

fn write(initiator: &mut Initiator) -> Completion {
    send(initiator, write10(0, 1), block(7))
}

fn out(initiator: &mut Initiator, what: (iscsi::initiator::Cdb, Vec<u8>)) -> Completion {
    send(initiator, what.0, what.1)
}

fn holders(site: &Site) -> Vec<String> {
    let shown = site.service.devices().remove(1).reservations.registrations;
    shown.into_iter().map(|(initiator, ..)| initiator).collect()
}

#[test]
fn a_device_that_is_loaded_late_has_the_reservations_that_were_made_meanwhile() {
    let image = Image::new(CacheMode::None);
    image.edit(|beside| beside.reservations = Some(held_by("a")));
    let site = image.start_taken();
    let (mut a, mut b) = (site.initiator("a"), site.initiator("b"));
    assert_eq!(sense(&settled(&mut a)).0, 2, "NOT READY");
    // Who has it lets another initiator take the reservation over, and notes what it owes.
    image.edit(|beside| {
        beside.reservations = Some(held_by("b"));
        beside.wrote(&nexus("a").to_string(), "an earlier boot");
    });
    free(&site);
    assert_eq!(holders(&site), [nexus("b").initiator.to_string()]);
    assert!(is_doubt(&settled(&mut a)));
    assert_eq!(settled(&mut a).status, 0);
    assert_eq!(write(&mut a).status, 0x18, "the old holder is out");
    assert_eq!(settled(&mut b).status, 0);
    assert_eq!(write(&mut b).status, 0);
}

#[test]
fn a_device_that_was_released_meanwhile_is_not_loaded_with_old_reservations() {
    let image = Image::new(CacheMode::None);
    image.edit(|beside| beside.reservations = Some(held_by("a")));
    let site = image.start_taken();
    image.edit(|beside| beside.reservations = None);
    free(&site);
    assert!(holders(&site).is_empty());
    let mut b = site.initiator("b");
    settled(&mut b);
    assert_eq!(write(&mut b).status, 0);
}

#[test]
fn the_document_of_a_device_that_is_not_open_is_left_alone() {
    let image = Image::new(CacheMode::None);
    image.edit(|beside| {
        beside.wrote(&nexus("a").to_string(), "an earlier boot");
        let mut registered = held_by("c");
        registered.reservation = None;
        beside.reservations = Some(registered);
    });
    let before = image.document();
    let site = image.start_taken();
    assert_eq!(image.document(), before, "at the start");
    let mut a = site.initiator("a");
    let not_ready = settled(&mut a);
    assert!(!is_doubt(&not_ready) && sense(&not_ready).0 == 2);
    let not_ready = |completion: Completion| assert_eq!(sense(&completion).0, 2);
    not_ready(out(&mut a, reserve_out(6, 0, 0, 1, true)));
    not_ready(out(&mut a, reserve_out(6, 0, 0, 1, false)));
    // The control page, saved: descriptor sense data.
    let page = vec![
        0, 0, 0, 0, 0x0a, 0x0a, 0x06, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0,
    ];
    not_ready(send(&mut a, cdb(&[0x15, 0x11, 0, 0, 16]), page));
    not_ready(lun1(&mut a, &[0x16], 0).0);
    let clear = site.service.clear_reservations("b");
    let error = site.runtime.block_on(clear).unwrap_err();
    assert!(error.to_string().contains("not open"), "{error}");
    assert_eq!(image.document(), before);
    assert_eq!(holders(&site), [nexus("c").initiator.to_string()]);
    free(&site);
    assert!(is_doubt(&settled(&mut a)), "now it is told");
    assert_eq!(out(&mut a, reserve_out(6, 0, 0, 1, true)).status, 0);
    assert_ne!(image.document(), before);
}

#[test]
fn a_device_whose_document_is_gone_is_not_loaded_without_it() {
    let image = Image::new(CacheMode::None);
    image.edit(|beside| beside.reservations = Some(held_by("a")));
    let site = image.start_taken();
    let away = image.directory.path().join("away");
    std::fs::rename(image.store.path(), &away).unwrap();
    site.opening.is_taken.store(false, Ordering::SeqCst);
    let error = site.load("b").unwrap_err();
    assert!(error.to_string().contains("b.img.sanctum"), "{error}");
    assert!(!image.store.path().exists());
    std::fs::rename(&away, image.store.path()).unwrap();
    site.load("b").unwrap();
    assert_eq!(holders(&site), [nexus("a").initiator.to_string()]);
}

#[test]
fn operators_do_not_wait_for_a_device_that_is_tried() {
    let image = Image::new(CacheMode::None);
    let opening = Arc::<Door>::default();
    opening.is_taken.store(true, Ordering::SeqCst);
    let (directory, config) = (tempfile::tempdir().unwrap(), image.config.clone());
    // A try of it is given up only when this test has failed.
    let site = Site::start_patiently(directory, config, opening, HANG);
    site.opening.close();
    site.opening.is_taken.store(false, Ordering::SeqCst);
    site.opening.wait_for_somebody();
    let now = site.now();
    let took = took(|| site.apply(&now).unwrap());
    assert!(took < HANG / 2, "operators waited for the disk: {took:?}");
    assert_eq!(site.opening.standing(), 1);
    site.opening.open();
    wait_for("the device", || site.state("b") == DeviceState::Ready);
}

#[test]
fn a_device_that_does_not_answer_is_tried_until_it_does() {
    let opening = Arc::<Door>::default();
    opening.close();
    let (directory, config) = (tempfile::tempdir().unwrap(), two());
    let backing = &config.devices[1].backing;
    let store = BesideStore::for_device(backing, "b", directory.path()).unwrap();
    store.load_or_create().unwrap();
    let mut site = Site::start_behind(directory, config, opening);
    // It answers once, too late, and the next time again not.
    site.opening.let_one_pass();
    wait_for("the late answer", || site.opening.has_passed());
    site.opening.wait_for_somebody();
    // Longer than a try takes.
    site.load("b").unwrap_err();
    site.load("b").unwrap_err();
    site.opening.open();
    wait_for("the device", || site.state("b") == DeviceState::Ready);
    wait_for("the notice", || site.told("device-ready") == 1);
}

fn owes(image: &Image, name: &str) -> bool {
    let beside = image.store.load().unwrap().unwrap();
    beside.owes(&nexus(name).to_string())
}

fn broken(site: &Site) {
    let mood = site.mood(B);
    mood.is_broken.store(true, Ordering::Release);
}

#[test]
fn a_disk_that_lost_its_cache_is_opened_anew_and_who_wrote_is_told() {
    let image = Image::new(CacheMode::WriteBack);
    let directory = tempfile::tempdir().unwrap();
    let mut site = Site::start_behind(directory, image.config.clone(), Arc::default());
    let (mut a, mut b) = (site.initiator("a"), site.initiator("b"));
    settled(&mut a);
    settled(&mut b);
    assert_eq!(out(&mut a, reserve_out(6, 0, 0, 1, false)).status, 0);
    assert_eq!(write(&mut a).status, 0);
    site.load("b").unwrap();
    assert_eq!(settled(&mut a).status, 0, "nothing is wrong yet");
    let note = || site.service.devices()[1].notes[0].clone();
    assert_eq!(note(), "it has moods");
    broken(&site);
    assert!(note().ends_with("until it is loaded anew"), "{}", note());
    // By itself, so that no kill makes anybody forget it.
    wait_for("the note beside the device", || owes(&image, "a"));
    // It does not open at once.
    site.opening.is_taken.store(true, Ordering::SeqCst);
    let error = site.load("b").unwrap_err();
    assert!(
        matches!(&error, ServiceError::LoadFailed { reason, .. } if reason.contains("/of/somebody")),
        "{error}"
    );
    assert_eq!(site.told("device-failed"), 1);
    let still = site.load("b").unwrap_err();
    assert!(matches!(still, ServiceError::Device { .. }), "{still}");
    assert!(owes(&image, "a") && !owes(&image, "b"));
    assert_eq!(sense(&settled(&mut a)).0, 2, "NOT READY");
    assert_eq!(site.told("device-writes-in-doubt"), 0);
    site.opening.is_taken.store(false, Ordering::SeqCst);
    site.load("b").unwrap();
    assert_eq!(site.told("device-writes-in-doubt"), 1);
    assert_eq!(site.state("b"), DeviceState::Ready);
    assert_eq!(site.service.devices()[1].notes, ["it has moods"]);
    assert!(is_doubt(&settled(&mut a)), "a flush must not lie");
    assert_eq!(lun1(&mut a, &[0x35], 0).0.status, 0);
    wait_for("the note beside the device", || !owes(&image, "a"));
    assert_eq!(settled(&mut b).status, 0, "it has lost nothing");
    // Reservations that end with the power hold on: it was on all the time.
    assert_eq!(holders(&site), [nexus("a").initiator.to_string()]);
    assert_eq!(write(&mut a).status, 0);
    let beside = image.store.load().unwrap().unwrap();
    assert!(
        beside
            .writers
            .unwrap()
            .nexuses
            .contains(&nexus("a").to_string())
    );
}

#[test]
fn a_last_flush_that_failed_is_owed_to_who_wrote() {
    let image = Image::new(CacheMode::WriteBack);
    let directory = tempfile::tempdir().unwrap();
    let site = Site::start_behind(directory, image.config.clone(), Arc::default());
    let mut a = site.initiator("a");
    settled(&mut a);
    assert_eq!(write(&mut a).status, 0);
    site.mood(B).loses_writes.store(true, Ordering::Release);
    site.runtime.block_on(site.service.shutdown()).unwrap_err();
    assert!(owes(&image, "a"), "the next process could not tell");
}

#[test]
fn an_image_that_was_cut_is_opened_anew_once_it_has_its_length_again() {
    let image = Image::new(CacheMode::WriteThrough);
    let directory = tempfile::tempdir().unwrap();
    let site = Site::start_behind(directory, image.config.clone(), Arc::default());
    let mut a = site.initiator("a");
    settled(&mut a);
    assert_eq!(write(&mut a).status, 0);
    cut(&image.path, B / 2);
    let last = u32::try_from(B / 512 - 1).unwrap().to_be_bytes();
    let [w, x, y, z] = last;
    let mut read_last = || lun1(&mut a, &[0x28, 0, w, x, y, z, 0, 0, 1], 512).0;
    assert_eq!(sense(&read_last()).0, 2);
    cut(&image.path, B);
    assert_eq!(sense(&read_last()).0, 2, "not by itself");
    cut(&image.path, B / 2);
    let error = site.load("b").unwrap_err();
    assert!(error.to_string().contains("b.img"), "{error}");
    let DeviceState::NotReady { reason } = site.state("b") else {
        panic!("it is ready");
    };
    assert!(reason.contains("b.img"), "{reason}");
    cut(&image.path, B);
    site.load("b").unwrap();
    assert_eq!(sense(&read_last()), (6, 0x2800));
    assert_eq!(read_last().status, 0);
}

fn cut(path: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.unwrap().set_len(bytes).unwrap();
}
