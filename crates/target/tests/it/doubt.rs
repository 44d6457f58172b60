//! Writes in doubt are told until it is certain that they were.

use crate::config::image;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{HANG, Initiator, World, block, cdb, is_doubt, reserve_out, sense, write10};
use disk::{BesideStore, CacheMode, Fault};
use iscsi::initiator::Completion;
use scsi::Nexus;
use target::config::{Backing, Config};
use target::{Secrets, ServiceError};

const FLUSH: [u8; 1] = [0x35];

/// An image with a note beside it, that initiator `a` had written before an unclean stop of the
/// host: the configuration, the note's place, and whom it names.
pub(crate) fn doubtful(directory: &Path) -> (Config, BesideStore, String) {
    let config = image(directory, CacheMode::WriteBack);
    let store = BesideStore::for_device(&config.devices[0].backing, "ram", directory).unwrap();
    let mut beside = store.load_or_create().unwrap();
    let writer = Nexus::new("iqn.2026-11.test:a", [0x80, 0, 0, 0, 0, 1], 1).to_string();
    beside.wrote(&writer, "an earlier boot");
    store.save(&beside).unwrap();
    (config, store, writer)
}

#[test]
fn a_deferred_error_that_was_not_acknowledged_is_told_again() {
    let directory = tempfile::tempdir().unwrap();
    let (config, store, writer) = doubtful(directory.path());
    let world = World::start_in(tempfile::tempdir().unwrap(), HANG, config);
    for _ in 0..3 {
        // The connection ends before the initiator says that it has the response.
        let mut a = world.initiator("a");
        assert!(is_doubt(&a.run(cdb(&FLUSH), None, 0)));
        drop(a);
        world.wait_for("the end of the session", || {
            world.service.sessions().is_empty()
        });
        let owes = store.load().unwrap().unwrap().owes(&writer);
        assert!(owes, "struck off before it was known to be told");
    }
    let mut a = world.initiator("a");
    assert!(is_doubt(&a.run(cdb(&FLUSH), None, 0)));
    // The next command says so.
    assert_eq!(a.run(cdb(&FLUSH), None, 0).status, 0);
    world.wait_for("the note beside the device", || {
        !store.load().unwrap().unwrap().owes(&writer)
    });
    drop(a);
    let mut a = world.initiator("a");
    assert_eq!(a.run(cdb(&FLUSH), None, 0).status, 0);
}

fn apply(world: &World, config: &Config) -> Result<(), ServiceError> {
    let applied = world.service.apply(config.clone(), Secrets::new());
    world.runtime.block_on(applied)
}

/// The configuration without its devices.
fn without(config: &Config) -> Config {
    let mut without = config.clone();
    without.devices.clear();
    without.targets[0].luns.clear();
    without
}

/// From here on the service alone holds the device.
fn let_go(world: &mut World) {
    let (size, block_size) = (1 << 20, 512);
    let nothing = disk::open(&Backing::Ram { size, block_size }, CacheMode::None).unwrap();
    world.fault = Arc::new(Fault::new(nothing));
}

/// What the initiator is told once what is pending for it is behind it.
fn settled(initiator: &mut Initiator) -> Completion {
    loop {
        let last = initiator.run(cdb(&FLUSH), None, 0);
        if last.status != 2 || sense(&last).0 != 6 {
            return last;
        }
    }
}

#[test]
fn a_device_that_is_removed_and_added_anew_keeps_what_it_was_given_since() {
    let directory = tempfile::tempdir().unwrap();
    let (config, store, writer) = doubtful(directory.path());
    let serial = store.load().unwrap().unwrap().serial;
    let mut world = World::start_in(tempfile::tempdir().unwrap(), HANG, config.clone());
    let_go(&mut world);
    let mut a = world.initiator("a");
    assert!(is_doubt(&a.run(cdb(&FLUSH), None, 0)));
    // It is told by a unit that goes before it says that it has the response.
    apply(&world, &without(&config)).unwrap();
    apply(&world, &config).unwrap();
    let mut b = world.initiator("b");
    let (register, keys) = reserve_out(0, 0, 0, 0xb0b, true);
    assert_eq!(b.run(register, Some(keys), 0).status, 0);
    let (reserve, keys) = reserve_out(1, 5, 0xb0b, 0, false);
    assert_eq!(b.run(reserve, Some(keys), 0).status, 0);
    assert_eq!(b.run(write10(0, 1), Some(block(7)), 0).status, 0);
    // Its next unit tells it once more, and the document is that of this one.
    assert!(is_doubt(&settled(&mut a)));
    let now = store.load().unwrap().unwrap();
    assert!(now.owes(&writer));
    assert!(now.reservations.is_some());
    assert_eq!(now.writers.unwrap().nexuses.len(), 1);
    assert!(!is_doubt(&settled(&mut a)));
    world.wait_for("the note beside the device", || {
        !store.load().unwrap().unwrap().owes(&writer)
    });
    let now = store.load().unwrap().unwrap();
    assert!(now.reservations.is_some());
    assert_eq!(now.serial, serial);
}

#[test]
fn a_device_whose_commands_do_not_end_is_removed_for_good_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let config = image(directory.path(), CacheMode::WriteThrough);
    let soon = Duration::from_millis(500);
    let mut world = World::start_in(tempfile::tempdir().unwrap(), soon, config.clone());
    let mut a = world.initiator("a");
    world.stalled_write(&mut a);
    let overdue = apply(&world, &without(&config));
    assert!(
        matches!(overdue, Err(ServiceError::Stuck { .. })),
        "{overdue:?}"
    );
    world.fault.release();
    let_go(&mut world);
    // It was let go with its last command.
    world.wait_for("the device to be free", || apply(&world, &config).is_ok());
    let mut b = world.initiator("b");
    let (register, keys) = reserve_out(0, 0, 0, 0xb0b, true);
    assert_eq!(b.run(register, Some(keys), 0).status, 0);
}
