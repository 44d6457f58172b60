//! What an operator asks for, over disks that refuse, hang, grow and shrink.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use disk::CacheMode;
use target::config::{Backing, Config, Device};
use target::info::DeviceState;
use target::provision::Fault;
use target::{Secrets, ServiceError, Unfinished};

use crate::site::{A, B, Door, SOON, Site, file, lun1, size_of, two};
use crate::support::{HANG, World, block, cdb, ram, read10, reserve_out, sense, wait_for, write10};

fn with_modes(config: &Config, mode: CacheMode) -> Config {
    let mut config = config.clone();
    for device in &mut config.devices {
        device.cache = mode;
    }
    config
}

#[test]
fn modes_that_were_switched_go_back_when_a_later_device_refuses() {
    let site = Site::start(two());
    let before = site.now();
    site.mood(B).refuses_modes.store(true, Ordering::Release);
    let error = site
        .apply(&with_modes(&before, CacheMode::WriteThrough))
        .unwrap_err();
    assert!(error.to_string().contains("not in the mood"), "{error}");
    assert_eq!(site.now(), before);
    assert_eq!(site.mode(A), Some(CacheMode::None), "it was switched first");
    assert_eq!(site.mode(B), Some(CacheMode::None));
    site.mood(B).refuses_modes.store(false, Ordering::Release);
    site.apply(&with_modes(&before, CacheMode::WriteThrough))
        .unwrap();
    assert_eq!(site.mode(A), Some(CacheMode::WriteThrough));
    assert_eq!(site.mode(B), Some(CacheMode::WriteThrough));
}

#[test]
fn a_full_file_system_is_told_as_such() {
    let site = Site::start(two());
    let before = site.now();
    site.mood(A).is_full.store(true, Ordering::Release);
    let mut larger = before.clone();
    larger.devices[0].backing = ram("ram", 2 * A).backing;
    let error = site.apply(&larger).unwrap_err();
    let full = matches!(
        &error,
        ServiceError::Device {
            fault: Fault::NoSpace,
            ..
        }
    );
    assert!(full, "{error:?}");
    assert_eq!(site.now(), before);
}

#[test]
fn ram_disks_that_the_host_has_no_memory_for_are_refused() {
    let site = Site::start(two());
    let before = site.now();
    let mut larger = before.clone();
    larger.devices.push(ram("huge", 4 << 40));
    let error = site.apply(&larger).unwrap_err();
    let invalid = matches!(
        &error,
        ServiceError::Device {
            fault: Fault::Invalid,
            ..
        }
    );
    assert!(invalid, "{error:?}");
    larger.devices.pop();
    larger.devices[0].backing = ram("ram", 4 << 40).backing;
    let error = site.apply(&larger).unwrap_err();
    assert!(error.to_string().contains("bytes of memory"), "{error}");
    assert_eq!(site.now(), before);
}

#[test]
fn what_is_prepared_is_shown_to_nobody_and_can_be_undone() {
    let site = Site::start(two());
    let mut a = site.initiator("a");
    let before = site.now();
    let mut after = with_modes(&before, CacheMode::WriteThrough);
    after.devices[0] = Device {
        cache: CacheMode::WriteThrough,
        ..ram("ram", 2 * A)
    };
    after.devices.push(ram("new", 1 << 20));
    let prepare = |config: &Config| {
        let prepared = site.service.prepare(config.clone(), Secrets::new());
        site.runtime.block_on(prepared).unwrap()
    };
    let prepared = prepare(&after);
    assert_eq!(site.mode(A), Some(CacheMode::WriteThrough));
    assert_eq!(site.now(), before);
    assert_eq!(a.run(cdb(&[0]), None, 0).status, 0, "nothing to be told");
    site.runtime.block_on(prepared.undo()).unwrap();
    assert_eq!(site.mode(A), Some(CacheMode::None));
    assert_eq!(site.now(), before);
    // Towards a mode that may be volatile, initiators are told first.
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (6, 0x2a01));
    let capacity = a.submit(cdb(&[0x25]), None, 8);
    let last = u32::try_from(A / 512 - 1).unwrap();
    assert_eq!(a.end_of(capacity).1[..4], last.to_be_bytes());
    // And the longer memory of the first try is in nobody's way, nor a smaller size than that.
    after.devices[0].backing = ram("ram", A + (1 << 20)).backing;
    site.runtime.block_on(prepare(&after).commit()).unwrap();
    assert_eq!(site.now(), after);
    assert_eq!(site.service.devices()[0].size, A + (1 << 20));
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (6, 0x2a09));
}

#[test]
fn a_mode_that_cannot_go_back_is_named_and_put_right_by_the_next_change() {
    let site = Site::start(two());
    let before = site.now();
    let prepared = site
        .service
        .prepare(with_modes(&before, CacheMode::WriteThrough), Secrets::new());
    let prepared = site.runtime.block_on(prepared).unwrap();
    site.mood(A).refuses_modes.store(true, Ordering::Release);
    let error = site.runtime.block_on(prepared.undo()).unwrap_err();
    assert!(
        matches!(&error, ServiceError::NotUndone { devices, .. } if devices == "ram"),
        "{error}"
    );
    assert_eq!(site.mode(A), Some(CacheMode::WriteThrough));
    assert_eq!(site.mode(B), Some(CacheMode::None));
    let shown = &site.service.devices()[0];
    assert_eq!(
        shown.cache,
        CacheMode::WriteThrough,
        "what is, not what should be"
    );
    // It is in nobody's way meanwhile.
    let mut other = before.clone();
    other.targets[0].access.clear();
    site.apply(&other).unwrap();
    assert_eq!(site.now(), other);
    assert_eq!(site.mode(A), Some(CacheMode::WriteThrough));
    site.mood(A).refuses_modes.store(false, Ordering::Release);
    site.apply(&before).unwrap();
    assert_eq!(site.mode(A), Some(CacheMode::None));
}

#[test]
fn a_reservation_that_comes_while_a_change_is_prepared_is_not_missed() {
    let site = Site::start(two());
    let mut a = site.initiator("a");
    let before = site.now();
    let mut after = with_modes(&before, CacheMode::WriteThrough);
    after.devices.push(ram("new", 1 << 20));
    // The change has looked at the reservations and opens the new device now.
    site.opening.close();
    let service = site.service.clone();
    let wanted = after.clone();
    let change = site
        .runtime
        .spawn(async move { service.apply(wanted, Secrets::new()).await });
    site.opening.wait_for_somebody();
    let (register, list) = reserve_out(6, 0, 0, 1, false);
    assert_eq!(a.run(register, Some(list), 0).status, 0);
    site.opening.open();
    let error = site.runtime.block_on(change).unwrap().unwrap_err();
    assert!(matches!(error, ServiceError::Reserved { .. }), "{error}");
    assert_eq!(site.mode(A), Some(CacheMode::None));
    assert_eq!(site.now(), before);
}

#[test]
fn initiators_do_not_wait_for_what_becomes_stable_before_a_mode_is_switched() {
    let site = Site::start(two());
    let mut a = site.initiator("a");
    site.mood(A).syncing.close();
    let (service, wanted) = (
        site.service.clone(),
        with_modes(&site.now(), CacheMode::WriteThrough),
    );
    let change = site
        .runtime
        .spawn(async move { service.apply(wanted, Secrets::new()).await });
    site.mood(A).syncing.wait_for_somebody();
    assert_eq!(a.run(cdb(&[0x16]), None, 0).status, 0, "RESERVE(6)");
    assert_eq!(site.mode(A), Some(CacheMode::None));
    site.mood(A).syncing.open();
    site.runtime.block_on(change).unwrap().unwrap();
    assert_eq!(site.mode(A), Some(CacheMode::WriteThrough));
}

#[test]
fn a_step_that_is_overdue_gives_the_change_up() {
    let site = Site::start(two());
    let mut a = site.initiator("a");
    let before = with_modes(&site.now(), CacheMode::WriteThrough);
    site.apply(&before).unwrap();
    site.mood(A).executing.close();
    let read = a.submit(read10(0, 1), None, 512);
    site.mood(A).executing.wait_for_somebody();
    // The shard answers nobody now: initiators cannot be told that the cache becomes volatile.
    let error = site
        .apply(&with_modes(&before, CacheMode::WriteBack))
        .unwrap_err();
    assert!(matches!(error, ServiceError::NotSwitched { .. }), "{error}");
    assert_eq!(site.mode(A), Some(CacheMode::WriteThrough));
    assert_eq!(site.now(), before);
    site.mood(A).executing.open();
    a.end_of(read);
}

#[test]
fn what_cannot_be_written_beside_the_device_does_not_hold() {
    let site = Site::start(two());
    let mut a = site.initiator("a");
    let (register, list) = reserve_out(6, 0, 0, 1, true);
    assert_eq!(a.run(register, Some(list), 0).status, 0);
    let away = site.data_dir.with_extension("away");
    std::fs::rename(&site.data_dir, &away).unwrap();
    let clear = || {
        let clear = site.service.clear_reservations("ram");
        site.runtime.block_on(clear)
    };
    let error = clear().unwrap_err();
    assert!(matches!(error, ServiceError::Device { .. }), "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");
    let registered = || site.service.devices()[0].reservations.registrations.len();
    assert_eq!(registered(), 1);
    std::fs::rename(&away, &site.data_dir).unwrap();
    clear().unwrap();
    assert_eq!(registered(), 0);
}

#[test]
fn operators_take_turns_and_what_was_begun_ends_without_them() {
    let mut config = two();
    config.devices[0].removable = true;
    let site = Site::start(config);
    let prepared = site.service.prepare(site.now(), Secrets::new());
    let prepared = site.runtime.block_on(prepared).unwrap();
    let mut eject = Box::pin(site.service.eject_device("ram"));
    {
        let _runtime = site.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        assert!(eject.as_mut().poll(&mut context).is_pending());
    }
    // Somebody else has begun; and who asked goes away.
    site.runtime.block_on(async {
        assert!(
            tokio::time::timeout(Duration::from_millis(200), &mut eject)
                .await
                .is_err()
        );
    });
    drop(eject);
    assert_eq!(site.state("ram"), DeviceState::Ready);
    site.runtime.block_on(prepared.commit()).unwrap();
    // The next in turn comes after it.
    site.load("b").unwrap();
    assert_eq!(site.state("ram"), DeviceState::Ejected);
}

#[test]
fn a_device_that_is_ready_is_loaded_without_a_word() {
    let mut site = Site::start(two());
    let mut a = site.initiator("a");
    assert_eq!(site.service.devices()[0].notes, ["it has moods"]);
    site.load("ram").unwrap();
    assert_eq!(site.told("device-ready"), 0);
    assert_eq!(a.run(cdb(&[0]), None, 0).status, 0);
}

#[test]
fn a_device_that_never_had_an_identity_is_loaded_once_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("late.img");
    let mut config = two();
    config.devices[1].backing = Backing::Image {
        path: path.clone(),
        size: B,
        provisioning: target::config::Provisioning::Thin,
        block_size: 512,
        read_only: false,
    };
    let mut site = Site::start(config);
    let missing = site.load("b").unwrap_err();
    assert!(missing.to_string().contains("late.img"), "{missing}");
    file(&path, B);
    site.load("b").unwrap();
    assert_eq!(site.state("b"), DeviceState::Ready);
    assert_eq!(site.told("device-ready"), 1);
}

#[test]
fn a_device_that_does_not_open_keeps_neither_the_start_nor_others_waiting() {
    let opening = Arc::<Door>::default();
    opening.close();
    let (directory, config) = (tempfile::tempdir().unwrap(), two());
    let store =
        disk::BesideStore::for_device(&config.devices[1].backing, "b", directory.path()).unwrap();
    let serial = store.load_or_create().unwrap().serial;
    let site = Site::start_behind(directory, config, opening);
    assert_eq!(site.state("ram"), DeviceState::Ready);
    assert_eq!(site.service.devices()[1].serial, serial);
    let DeviceState::NotReady { reason } = site.state("b") else {
        panic!("it is ready");
    };
    assert!(reason.contains("no answer"), "{reason}");
    let mut a = site.initiator("a");
    assert_eq!(a.run(read10(0, 1), None, 512).status, 0);
    assert_eq!(sense(&lun1(&mut a, &[0], 0).0).0, 6);
    assert_eq!(sense(&lun1(&mut a, &[0], 0).0).0, 2, "there, and NOT READY");
    let before = site.now();
    let mut more = before.clone();
    more.devices.push(ram("new", 1 << 20));
    let error = site.apply(&more).unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    // What does not answer has one thread, however often it is asked.
    for _ in 0..2 {
        let error = site.load("b").unwrap_err();
        assert!(error.to_string().contains("earlier try"), "{error}");
    }
    let doors = |backing: &Backing| size_of(backing) != Some(A);
    let devices = more.devices.iter();
    let behind = devices.filter(|device| doors(&device.backing)).count();
    assert_eq!(site.opening.standing(), behind);
    assert_eq!(site.now(), before);
    site.opening.open();
    // By itself.
    wait_for("the device", || site.state("b") == DeviceState::Ready);
    while lun1(&mut a, &[0], 0).0.status != 0 {}
}

#[test]
fn a_device_that_is_in_use_at_the_start_comes_by_itself_once_it_is_free() {
    let opening = Arc::<Door>::default();
    opening.is_taken.store(true, Ordering::SeqCst);
    let (directory, config) = (tempfile::tempdir().unwrap(), two());
    let store =
        disk::BesideStore::for_device(&config.devices[1].backing, "b", directory.path()).unwrap();
    let serial = store.load_or_create().unwrap().serial;
    let site = Site::start_behind(directory, config, opening);
    assert_eq!(site.state("ram"), DeviceState::Ready);
    assert!(matches!(site.state("b"), DeviceState::NotReady { .. }));
    // Still taken: refused, and tried again.
    let error = site.load("b").unwrap_err();
    assert!(error.to_string().contains("/of/somebody"), "{error}");
    site.opening.is_taken.store(false, Ordering::SeqCst);
    wait_for("the device", || site.state("b") == DeviceState::Ready);
    assert_eq!(site.service.devices()[1].serial, serial);
}

#[test]
fn what_is_in_use_comes_by_itself_however_long_the_start_takes() {
    let opening = Arc::<Door>::default();
    opening.is_taken.store(true, Ordering::SeqCst);
    let (directory, config) = (tempfile::tempdir().unwrap(), two());
    let store =
        disk::BesideStore::for_device(&config.devices[1].backing, "b", directory.path()).unwrap();
    store.load_or_create().unwrap();
    // The start waits for the port longer than between two tries of the device.
    let _taken = std::net::TcpListener::bind(config.portals[0].socket_address()).unwrap();
    let site = Site::start_behind(directory, config, opening);
    site.opening.is_taken.store(false, Ordering::SeqCst);
    wait_for("the device", || site.state("b") == DeviceState::Ready);
}

/// Two images, of which the second is a copy of the first, document and all.
#[test]
fn a_copy_with_the_identity_of_its_original_is_not_served_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = two();
    for (device, name) in config.devices.iter_mut().zip(["a.img", "b.img"]) {
        let path = directory.path().join(name);
        file(&path, B);
        device.backing = Backing::Image {
            path,
            size: B,
            provisioning: target::config::Provisioning::Thin,
            block_size: 512,
            read_only: false,
        };
    }
    let document = |device: usize| {
        let path = config.devices[device].backing.path().unwrap();
        disk::document_of_image(path)
    };
    let store =
        disk::BesideStore::for_device(&config.devices[0].backing, "ram", directory.path()).unwrap();
    store.load_or_create().unwrap();
    std::fs::copy(document(0), document(1)).unwrap();
    let copy = document(1);
    let site = Site::start(config);
    assert_eq!(site.state("ram"), DeviceState::Ready, "the first stays");
    let DeviceState::NotReady { reason } = site.state("b") else {
        panic!("served beside its original");
    };
    assert!(reason.contains(copy.to_str().unwrap()), "{reason}");
    assert!(site.load("b").unwrap_err().to_string().contains(&reason));
    std::fs::remove_file(copy).unwrap();
    site.load("b").unwrap();
    let devices = site.service.devices();
    assert_ne!(devices[0].serial, devices[1].serial);
}

#[test]
fn another_image_is_not_loaded_under_the_identity_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut config = two();
    let backing = |path: PathBuf| Backing::Image {
        path,
        size: B,
        provisioning: target::config::Provisioning::Thin,
        block_size: 512,
        read_only: false,
    };
    for name in ["a.img", "other.img"] {
        file(&path(name), B);
        let store =
            disk::BesideStore::for_device(&backing(path(name)), "b", directory.path()).unwrap();
        store.load_or_create().unwrap();
    }
    // In the way of the device, which is thus not open after the start.
    file(&path("a.img"), B / 2);
    config.devices[1].backing = backing(path("a.img"));
    let site = Site::start(config);
    let serial = site.service.devices()[1].serial.clone();
    assert!(matches!(site.state("b"), DeviceState::NotReady { .. }));
    std::fs::remove_file(path("a.img")).unwrap();
    std::os::unix::fs::symlink(path("other.img"), path("a.img")).unwrap();
    let error = site.load("b").unwrap_err();
    assert!(error.to_string().contains("another disk"), "{error}");
    std::fs::remove_file(path("a.img")).unwrap();
    file(&path("a.img"), B);
    site.load("b").unwrap();
    assert_eq!(site.service.devices()[1].serial, serial);
}

#[test]
fn shutdown_ends_beside_a_command_that_does_not() {
    let site = Site::start(two());
    let mut a = site.initiator("a");
    assert_eq!(a.run(write10(0, 1), Some(block(1)), 0).status, 0);
    site.mood(A).executing.close();
    a.submit(read10(0, 1), None, 512);
    site.mood(A).executing.wait_for_somebody();
    let left = ended(&site).unwrap_err();
    assert_eq!(left.shards, 1);
    assert_eq!(left.stuck, ["ram"]);
    assert!(left.to_string().contains("do not end on ram"), "{left}");
    // Once it has ended, so does the rest.
    site.mood(A).executing.open();
    assert_eq!(ended(&site), Ok(()));
}

#[test]
fn shutdown_ends_beside_a_write_that_is_stalled() {
    let world = World::start(SOON);
    let mut a = world.initiator("a");
    world.stalled_write(&mut a);
    let shutdown = || {
        let ended = async { tokio::time::timeout(HANG, world.service.shutdown()).await };
        let ended = world.runtime.block_on(ended);
        ended.expect("the service does not end")
    };
    assert_eq!(shutdown().unwrap_err().stuck, ["ram"]);
    world.fault.release();
    assert_eq!(shutdown(), Ok(()));
}

#[test]
fn a_device_that_was_removed_while_it_was_stuck_is_named_at_the_end() {
    let site = Site::start(two());
    let mut a = site.initiator("a");
    site.mood(A).executing.close();
    a.submit(read10(0, 1), None, 512);
    site.mood(A).executing.wait_for_somebody();
    let mut without = site.now();
    without.targets[0].luns.remove(0);
    without.devices.remove(0);
    let error = site.apply(&without).unwrap_err();
    assert!(matches!(error, ServiceError::Stuck { .. }), "{error}");
    assert_eq!(ended(&site).unwrap_err().stuck, ["ram"]);
    site.mood(A).executing.open();
    assert_eq!(ended(&site), Ok(()));
}

#[test]
fn shutdown_ends_beside_a_flush_that_does_not() {
    let site = Site::start(two());
    site.mood(B).flushing.close();
    let left = ended(&site).unwrap_err();
    assert_eq!((left.shards, left.stuck.len()), (0, 0));
    let flush = ("b".to_owned(), "the flush does not end".to_owned());
    assert_eq!(left.unflushed, [flush]);
}

#[test]
fn removing_a_device_ends_beside_a_flush_that_does_not() {
    let site = Site::start(two());
    site.mood(B).flushing.close();
    let mut without = site.now();
    without.targets[0].luns.pop();
    without.devices.pop();
    let error = site.apply(&without).unwrap_err();
    assert!(matches!(error, ServiceError::Stuck { .. }), "{error}");
    assert_eq!(site.now(), without, "it holds all the same");
}

#[test]
fn removing_a_device_tells_of_a_last_flush_that_failed() {
    let mut site = Site::start(two());
    site.mood(B).loses_writes.store(true, Ordering::Release);
    let mut without = site.now();
    without.targets[0].luns.pop();
    without.devices.pop();
    let error = site.apply(&without).unwrap_err();
    let failed = matches!(&error, ServiceError::Unflushed { device, .. } if device == "b");
    assert!(failed, "{error:?}");
    assert!(error.to_string().contains("gone with the wind"), "{error}");
    assert_eq!(site.now(), without, "it holds all the same");
    assert_eq!(site.told("device-disk-error"), 1);
}

fn ended(site: &Site) -> Result<(), Unfinished> {
    let shutdown = async { tokio::time::timeout(HANG, site.service.shutdown()).await };
    let ended = site.runtime.block_on(shutdown);
    ended.expect("the service does not end")
}
