//! Writes in doubt are told until it is certain that they were.

use crate::config::image;
use crate::support::{HANG, World, cdb, sense};
use disk::{BesideStore, CacheMode};
use iscsi::initiator::Completion;
use scsi::Nexus;

const FLUSH: [u8; 1] = [0x35];

fn is_doubt(completion: &Completion) -> bool {
    completion.status == 2 && completion.sense[0] & 0x7f == 0x71 && sense(completion) == (3, 0x0c00)
}

#[test]
fn a_deferred_error_that_was_not_acknowledged_is_told_again() {
    let directory = tempfile::tempdir().unwrap();
    let config = image(directory.path(), CacheMode::WriteBack);
    let store =
        BesideStore::for_device(&config.devices[0].backing, "ram", directory.path()).unwrap();
    let mut beside = store.load_or_create().unwrap();
    let writer = Nexus::new("iqn.2026-11.test:a", [0x80, 0, 0, 0, 0, 1], 1);
    beside.wrote(&writer.to_string(), "an earlier boot");
    store.save(&beside).unwrap();
    let world = World::start_in(tempfile::tempdir().unwrap(), HANG, config);
    for _ in 0..3 {
        // The connection ends before the initiator says that it has the response.
        let mut a = world.initiator("a");
        assert!(is_doubt(&a.run(cdb(&FLUSH), None, 0)));
        drop(a);
        world.wait_for("the end of the session", || {
            world.service.sessions().is_empty()
        });
        let owes = store.load().unwrap().unwrap().owes(&writer.to_string());
        assert!(owes, "struck off before it was known to be told");
    }
    let mut a = world.initiator("a");
    assert!(is_doubt(&a.run(cdb(&FLUSH), None, 0)));
    // The next command says so.
    assert_eq!(a.run(cdb(&FLUSH), None, 0).status, 0);
    world.wait_for("the note beside the device", || {
        !store.load().unwrap().unwrap().owes(&writer.to_string())
    });
    drop(a);
    let mut a = world.initiator("a");
    assert_eq!(a.run(cdb(&FLUSH), None, 0).status, 0);
}
