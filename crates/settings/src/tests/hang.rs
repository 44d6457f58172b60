//! A disk that does not answer: what is in force is told all the same.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;

use super::disk::Disk;
use super::{anything, noon, numbered};
use crate::storage::{Access, Storage};
use crate::*;

/// A disk whose next sync of a file tells that it is waited for, and then hangs until the test lets
/// it go.
#[derive(Debug)]
struct Hanging {
    disk: Disk,
    hang: Mutex<Option<(SyncSender<()>, Receiver<()>)>>,
}

impl Storage for Hanging {
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let hang = self.hang.lock().take();
        if let Some((reached, go_on)) = hang {
            reached.send(()).expect("the test waits");
            go_on.recv().expect("the test lets go");
        }
        self.disk.sync_file(path)
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.disk.read(path, most)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.list(directory)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.make_directory(path)
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.disk.create(path, content)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn access(&self, path: &Path) -> io::Result<Access> {
        self.disk.access(path)
    }
}

/// What the settings in force are, asked where a wait that does not end fails the test.
fn current(store: &Store) -> Arc<Loaded> {
    let store = store.clone();
    let (answer, answered) = sync_channel(1);
    std::thread::spawn(move || answer.send(store.current()));
    let bound = std::time::Duration::from_secs(30);
    let current = answered.recv_timeout(bound).expect("waits for the disk");
    current.expect("there are settings")
}

#[test]
fn the_settings_in_force_are_told_while_a_change_waits_for_the_disk() {
    let disk = Arc::new(Hanging {
        disk: Disk::new(),
        hang: Mutex::default(),
    });
    let storage: Arc<dyn Storage> = disk.clone();
    let store = Store::open_on(storage, Path::new("/data"), noon).expect("opens");
    let plan = |number| store.propose(numbered(number), &anything).expect("a plan");
    store.commit(plan(1), "root", "first").expect("written");

    let hang = || {
        let (reached, is_reached) = sync_channel(1);
        let (go_on, wait) = sync_channel(1);
        *disk.hang.lock() = Some((reached, wait));
        (is_reached, go_on)
    };
    // It hangs while the new generation is staged, and once more while it is made current.
    let (staging, stage) = hang();
    let plan = plan(2);
    let change = {
        let store = store.clone();
        std::thread::spawn(move || store.stage(plan, "root", "second").expect("staged"))
    };
    staging.recv().expect("the disk is reached");
    assert_eq!(current(&store).generation.number, 1);
    stage.send(()).expect("the disk waits");
    let staged = change.join().expect("no panic");

    let (activating, activate) = hang();
    let change = std::thread::spawn(move || staged.activate().expect("current"));
    activating.recv().expect("the disk is reached");
    assert_eq!(current(&store).generation.number, 1);
    activate.send(()).expect("the disk waits");
    change.join().expect("no panic");
    assert_eq!(current(&store).generation.number, 2);
}
