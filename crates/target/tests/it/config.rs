//! From one configuration to the next, and what a start finds beside the devices.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::doubt::doubtful;
use crate::support::{
    HANG, Initiator, TARGET, World, block, cdb, config, free_port, ram, read10, reserve_out, rule,
    sense, write10,
};
use disk::{BesideStore, CacheMode};
use target::ServiceError;
use target::config::{Action, Backing, Config, Device, Lun, Portal};

fn apply(world: &World, config: &Config) -> Result<(), ServiceError> {
    world
        .runtime
        .block_on(world.service.apply(config.clone(), target::Secrets::new()))
}

fn now(world: &World) -> Config {
    Config::clone(&world.service.config())
}

#[test]
fn growing_is_announced_and_shrinking_refused() {
    let world = World::start(HANG);
    let mut a = world.initiator("a");
    let mut larger = now(&world);
    larger.devices[0] = ram("ram", 32 << 20);
    apply(&world, &larger).unwrap();
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (6, 0x2a09));
    let capacity = a.submit(cdb(&[0x25]), None, 8);
    let data = a.end_of(capacity).1;
    assert_eq!(data[..4], (65535_u32).to_be_bytes());
    let mut smaller = larger.clone();
    smaller.devices[0] = ram("ram", 16 << 20);
    let error = apply(&world, &smaller).unwrap_err();
    assert!(error.to_string().contains("cannot shrink"), "{error}");
    assert_eq!(*world.service.config(), larger);
}

#[test]
fn mode_and_size_are_fixed_while_reservations_exist() {
    let world = World::start(HANG);
    let mut a = world.initiator("a");
    let (register, list) = reserve_out(6, 0, 0, 1, false);
    assert_eq!(a.run(register, Some(list), 0).status, 0);
    let before = now(&world);
    let mut changed = before.clone();
    changed.devices[0].cache = CacheMode::WriteThrough;
    let error = apply(&world, &changed).unwrap_err().to_string();
    assert!(error.contains("iqn.2026-11.test:a"), "{error}");
    assert_eq!(now(&world), before);
    world
        .runtime
        .block_on(world.service.clear_reservations("ram"))
        .unwrap();
    apply(&world, &changed).unwrap();
}

#[test]
fn what_cannot_be_done_leaves_everything_as_it_was() {
    let world = World::start(HANG);
    let mut a = world.initiator("a");
    let before = now(&world);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut wrong = before.clone();
    wrong.portals.push(Portal {
        name: "second".to_owned(),
        port: taken.local_addr().unwrap().port(),
        ..before.portals[0].clone()
    });
    wrong.devices.push(ram("new", 1 << 20));
    wrong.targets[0].luns.push(Lun {
        number: 1,
        device: "new".to_owned(),
        read_only: false,
    });
    assert!(matches!(
        apply(&world, &wrong),
        Err(ServiceError::Listen { .. })
    ));
    wrong.portals.pop();
    wrong.devices.push(Device {
        name: "missing".to_owned(),
        backing: Backing::Iso {
            path: "/nonexistent.iso".into(),
        },
        ..ram("x", 512)
    });
    assert!(matches!(
        apply(&world, &wrong),
        Err(ServiceError::Device { .. })
    ));
    assert_eq!(now(&world), before);
    assert_eq!(world.service.devices().len(), 1);
    assert_eq!(
        a.run(cdb(&[0]), None, 0).status,
        0,
        "no attention, no lost session"
    );
    // Nothing is left of the attempts: the same device can be added now.
    wrong.devices.pop();
    apply(&world, &wrong).unwrap();
}

#[test]
fn luns_come_and_go_without_dropping_the_session() {
    let world = World::start(HANG);
    let mut a = world.initiator("a");
    let before = now(&world);
    let mut more = before.clone();
    more.devices.push(ram("new", 1 << 20));
    more.targets[0].luns.push(Lun {
        number: 1,
        device: "new".to_owned(),
        read_only: false,
    });
    apply(&world, &more).unwrap();
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (6, 0x3f0e));
    let report = a.submit(cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), None, 256);
    assert_eq!(a.end_of(report).1[..4], 16_u32.to_be_bytes());
    apply(&world, &before).unwrap();
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (6, 0x3f0e));
    assert_eq!(a.run(cdb(&[0]), None, 0).status, 0);
    assert_eq!(world.service.sessions().len(), 1);
}

#[test]
fn a_rule_taken_away_ends_the_session() {
    let world = World::start(HANG);
    let _a = world.initiator("a");
    let mut b = world.initiator("b");
    let mut narrower = now(&world);
    narrower.targets[0].access = vec![rule("*:b", Action::Allow)];
    apply(&world, &narrower).unwrap();
    let sessions = world.service.sessions();
    assert_eq!(sessions.len(), 1);
    assert!(sessions[0].initiator.ends_with(":b"));
    assert_eq!(b.run(cdb(&[0]), None, 0).status, 0);
    let refused = Initiator::connect(world.address, "a", 1).err().unwrap();
    assert!(refused.contains("0x0202"), "{refused}");
    narrower.targets[0].access[0].action = Action::ReadOnly;
    apply(&world, &narrower).unwrap();
    assert_eq!(b.run(read10(0, 1), None, 512).status, 0);
    assert_eq!(
        sense(&b.run(write10(0, 1), Some(block(1)), 0)).0,
        7,
        "DATA PROTECT"
    );
}

#[test]
fn a_target_for_one_initiator_refuses_a_second() {
    let mut single = config(free_port());
    single.targets[0].allow_multiple = false;
    let world = World::start_in(tempfile::tempdir().unwrap(), HANG, single);
    let a = world.initiator("a");
    let refused = Initiator::connect(world.address, "b", 1).err().unwrap();
    assert!(refused.contains("0x0302"), "{refused}");
    // The same initiator may come by a second path.
    let second = Initiator::connect(world.address, "a", 2).unwrap();
    drop((a, second));
    world.wait_for("the end of the sessions", || {
        world.service.sessions().is_empty()
    });
    Initiator::connect(world.address, "b", 1).unwrap();
}

#[test]
fn a_portal_is_closed_and_opened_at_run_time() {
    let world = World::start(HANG);
    let _a = world.initiator("a");
    let before = now(&world);
    let mut closed = before.clone();
    let second = Portal {
        name: "second".to_owned(),
        port: free_port(),
        ..before.portals[0].clone()
    };
    closed.portals.push(second.clone());
    closed.portals[0].enabled = false;
    apply(&world, &closed).unwrap();
    assert!(world.service.sessions().is_empty());
    assert!(std::net::TcpStream::connect(world.address).is_err());
    let through_second = Initiator::connect(second.socket_address(), "a", 1);
    through_second.unwrap();
    apply(&world, &before).unwrap();
    let mut a = world.initiator("a");
    assert_eq!(a.run(cdb(&[0]), None, 0).status, 0);
    assert!(std::net::TcpStream::connect(second.socket_address()).is_err());
}

/// An image in a directory of its own, as LUN 0.
pub(crate) fn image(directory: &Path, cache: CacheMode) -> Config {
    let path = directory.join("disk.img");
    if !path.exists() {
        std::fs::File::create(&path)
            .unwrap()
            .set_len(16 << 20)
            .unwrap();
    }
    let mut config = config(free_port());
    config.devices[0].backing = Backing::Image {
        path,
        size: 16 << 20,
        provisioning: target::config::Provisioning::Thin,
        block_size: 512,
        read_only: false,
    };
    config.devices[0].cache = cache;
    config
}

#[test]
fn writes_before_an_unclean_stop_of_the_host_are_told_as_doubtful() {
    let directory = tempfile::tempdir().unwrap();
    let (config, store, writer) = doubtful(directory.path());
    let world = World::start_in(tempfile::tempdir().unwrap(), HANG, config);
    // Somebody else is told nothing.
    let mut b = world.initiator("b");
    assert_eq!(b.run(cdb(&[0x35]), None, 0).status, 0);
    let mut a = world.initiator("a");
    let told = a.run(cdb(&[0x35]), None, 0);
    assert_eq!(
        told.sense[0] & 0x7f,
        0x71,
        "a deferred error before the first flush"
    );
    assert_eq!(sense(&told), (3, 0x0c00));
    assert_eq!(a.run(cdb(&[0x35]), None, 0).status, 0);
    // Told once: not again at the next login, nor after another start.
    drop(a);
    let mut a = world.initiator("a");
    assert_eq!(a.run(cdb(&[0x35]), None, 0).status, 0);
    world.wait_for("the note beside the device", || {
        store
            .load()
            .unwrap()
            .is_some_and(|beside| !beside.owes(&writer))
    });
}

#[test]
fn a_writer_is_noted_before_its_write_is_answered_and_struck_off_at_a_clean_stop() {
    let directory = tempfile::tempdir().unwrap();
    let config = image(directory.path(), CacheMode::WriteBack);
    let store =
        BesideStore::for_device(&config.devices[0].backing, "ram", directory.path()).unwrap();
    let world = World::start_in(tempfile::tempdir().unwrap(), HANG, config);
    let mut a = world.initiator("a");
    assert_eq!(a.run(write10(0, 1), Some(block(1)), 0).status, 0);
    let noted = store.load().unwrap().unwrap().writers.unwrap();
    assert_eq!(noted.nexuses.len(), 1);
    drop(a);
    drop(world);
    assert_eq!(store.load().unwrap().unwrap().writers, None);
}

#[test]
fn a_ram_disk_is_reported_empty_after_a_restart_until_it_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(free_port());
    let store =
        BesideStore::for_device(&config.devices[0].backing, "ram", directory.path()).unwrap();
    let mut beside = store.load_or_create().unwrap();
    let earlier = disk::beside::ProcessIdentity {
        boot_id: "some boot".to_owned(),
        process: "another process".to_owned(),
    };
    beside.loaded(&earlier);
    store.save(&beside).unwrap();
    let world = World::start_in(directory, HANG, config);
    let mut a = Initiator::connect(world.address, "a", 1).unwrap();
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)).0, 6);
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (2, 0x3a00));
    assert_eq!(sense(&a.run(read10(0, 1), None, 512)), (2, 0x3a00));
    world
        .runtime
        .block_on(world.service.load_device("ram"))
        .unwrap();
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (6, 0x2800));
    assert_eq!(a.run(read10(0, 1), None, 512).status, 0);
    assert_eq!(world.service.devices()[0].serial, beside.serial);
}

#[test]
fn a_device_that_cannot_be_opened_is_not_ready_until_it_is_put_right() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = image(directory.path(), CacheMode::None);
    // A second one that works, so that there is something to decorate.
    config.devices.push(ram("works", 1 << 20));
    let path = directory.path().join("disk.img");
    let store =
        BesideStore::for_device(&config.devices[0].backing, "ram", directory.path()).unwrap();
    let identity = store.load_or_create().unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let world = World::start_in(tempfile::tempdir().unwrap(), Duration::from_secs(5), config);
    let mut a = world.initiator("a");
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)).0, 2);
    assert_eq!(world.service.devices()[0].serial, identity.serial);
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        8 << 20,
        "never grown silently"
    );
    let still = world
        .runtime
        .block_on(world.service.load_device("ram"))
        .unwrap_err();
    assert!(still.to_string().contains("8388608"), "{still}");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    world
        .runtime
        .block_on(world.service.load_device("ram"))
        .unwrap();
    let mut last = a.run(cdb(&[0]), None, 0);
    while last.status == 2 && sense(&last).0 == 6 {
        last = a.run(cdb(&[0]), None, 0);
    }
    assert_eq!(last.status, 0);
    assert_eq!(world.service.sessions()[0].target, TARGET);
}

#[test]
fn reservations_with_aptpl_outlive_the_service_and_others_do_not() {
    for aptpl in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let config = image(directory.path(), CacheMode::None);
        let world = World::start_in(tempfile::tempdir().unwrap(), HANG, config.clone());
        let mut a = world.initiator("a");
        let (register, list) = reserve_out(6, 0, 0, 7, aptpl);
        assert_eq!(a.run(register, Some(list), 0).status, 0);
        let (reserve, list) = reserve_out(1, 5, 7, 0, false);
        assert_eq!(a.run(reserve, Some(list), 0).status, 0);
        drop(a);
        drop(world);
        let world = World::start_in(tempfile::tempdir().unwrap(), HANG, config);
        let mut b = world.initiator("b");
        let write = b.run(write10(0, 1), Some(block(1)), 0);
        assert_eq!(write.status, if aptpl { 0x18 } else { 0 });
    }
}

#[test]
fn a_portal_whose_port_is_taken_listens_once_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(free_port());
    config.portals.push(Portal {
        name: "second".to_owned(),
        port: taken.local_addr().unwrap().port(),
        ..config.portals[0].clone()
    });
    let address = config.portals[1].socket_address();
    let world = World::start_in(tempfile::tempdir().unwrap(), HANG, config);
    assert!(world.service.portals()[0].listening);
    assert!(!world.service.portals()[1].listening);
    drop(taken);
    world.wait_for("the second portal", || world.service.portals()[1].listening);
    Initiator::connect(address, "a", 1).unwrap();
}

#[test]
fn data_beyond_what_the_cdb_calls_for_is_dropped_and_the_rest_written() {
    let world = World::start(HANG);
    let mut a = world.initiator("a");
    // Something else in the pool's buffers.
    assert_eq!(a.run(write10(100, 4), Some(vec![0xee; 2048]), 0).status, 0);
    let more = [block(1), block(2), block(3), block(4)].concat();
    let end = a.run(write10(0, 2), Some(more), 0);
    assert_eq!(end.status, 0);
    let read = a.submit(read10(0, 4), None, 2048);
    let expected = [block(1), block(2), block(0), block(0)].concat();
    assert_eq!(a.end_of(read).1, expected);
}

#[test]
fn who_may_only_read_changes_nothing_that_others_see() {
    let world = World::start(HANG);
    let mut reader = world.initiator("reader");
    let mut writer = world.initiator("writer");
    let mut narrower = now(&world);
    narrower.targets[0].access = vec![rule("*:reader", Action::ReadOnly), rule("*", Action::Allow)];
    apply(&world, &narrower).unwrap();
    let (register, list) = reserve_out(6, 0, 0, 1, false);
    assert_eq!(sense(&reader.run(register, Some(list), 0)).0, 7);
    let reset = reader.function(iscsi::initiator::TmfFunction::LogicalUnitReset, None);
    let refused = Some(iscsi::initiator::TmfResponse::AuthorizationFailed);
    assert_eq!(reader.function_answer(reset), refused);
    assert_eq!(writer.run(write10(0, 1), Some(block(1)), 0).status, 0);
    assert_eq!(reader.run(read10(0, 1), None, 512).status, 0);
}

#[test]
fn a_device_that_is_broken_does_not_block_other_changes() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(free_port());
    config.devices.push(Device {
        name: "broken".to_owned(),
        backing: Backing::Iso {
            path: directory.path().join("missing.iso"),
        },
        ..ram("x", 512)
    });
    let world = World::start_in(directory, HANG, config);
    let _a = world.initiator("a");
    let mut narrower = now(&world);
    narrower.targets[0].access.clear();
    apply(&world, &narrower).unwrap();
    assert!(world.service.sessions().is_empty());
}

#[test]
fn a_ram_disk_taken_out_and_put_back_is_empty_and_says_so() {
    let world = World::start(HANG);
    let before = now(&world);
    let mut without = before.clone();
    without.targets[0].luns.clear();
    without.devices.clear();
    apply(&world, &without).unwrap();
    apply(&world, &before).unwrap();
    let mut a = Initiator::connect(world.address, "a", 1).unwrap();
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)).0, 6);
    assert_eq!(sense(&a.run(cdb(&[0]), None, 0)), (2, 0x3a00));
}
