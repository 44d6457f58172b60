//! The document: what it holds, that damage is told, and that no crash loses it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

/// A file system in memory that keeps apart what is stable and what is not, and stops working at a
/// chosen step.
#[derive(Debug, Default)]
struct Fragile(Arc<Mutex<Disk>>);

#[derive(Clone, Debug, Default)]
struct Disk {
    /// Contents of files by number: what a crash keeps for sure, and what was written since.
    files: Vec<File>,
    /// Names as they are now, and as a crash may leave them.
    names: BTreeMap<PathBuf, usize>,
    stable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the directory was last synced, oldest first.
    changes: Vec<(PathBuf, Option<usize>)>,
    steps: usize,
    stop_at: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct File {
    stable: Vec<u8>,
    written: Vec<u8>,
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        if self.stop_at.is_some_and(|stop| self.steps > stop) {
            return Err(io::Error::other("the lights went out"));
        }
        Ok(())
    }

    /// What may be found after a crash now: any prefix of the changes of names is in effect, and of
    /// unsynced contents nothing, a part or all.
    fn after_crash(&self) -> Vec<Self> {
        let mut found = Vec::new();
        for changes in 0..=self.changes.len() {
            for part in [0, 1, 2] {
                let mut disk = self.clone();
                disk.names = self.stable_names.clone();
                for (path, target) in &self.changes[..changes] {
                    match target {
                        Some(file) => drop(disk.names.insert(path.clone(), *file)),
                        None => drop(disk.names.remove(path)),
                    }
                }
                for file in &mut disk.files {
                    if file.written != file.stable {
                        let keep = file.written.len() * part / 2;
                        file.written.truncate(keep);
                        file.stable = file.written.clone();
                    }
                }
                disk.stable_names = disk.names.clone();
                disk.changes.clear();
                disk.stop_at = None;
                found.push(disk);
            }
        }
        found
    }
}

#[derive(Debug)]
struct Open {
    disk: Arc<Mutex<Disk>>,
    file: usize,
}

impl storage::Temporary for Open {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let stopped = disk.step();
        // The step that fails may have done half of its work.
        let done = if stopped.is_ok() {
            bytes.len()
        } else {
            bytes.len() / 2
        };
        disk.files[self.file]
            .written
            .extend_from_slice(&bytes[..done]);
        stopped
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.step()?;
        let file = &mut disk.files[self.file];
        file.stable = file.written.clone();
        Ok(())
    }
}

impl Storage for Fragile {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let disk = self.0.lock();
        Ok(disk
            .names
            .get(path)
            .map(|file| disk.files[*file].written.clone()))
    }

    fn make_directory(&self, _path: &Path) -> io::Result<()> {
        self.0.lock().step()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn storage::Temporary>> {
        let mut disk = self.0.lock();
        disk.step()?;
        assert!(!disk.names.contains_key(path), "made over an existing file");
        let file = disk.files.len();
        disk.files.push(File::default());
        disk.names.insert(path.into(), file);
        disk.changes.push((path.into(), Some(file)));
        Ok(Box::new(Open {
            disk: Arc::clone(&self.0),
            file,
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        if disk.names.remove(path).is_some() {
            disk.changes.push((path.into(), None));
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        let file = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.into(), file);
        disk.changes.push((to.into(), Some(file)));
        disk.changes.push((from.into(), None));
        Ok(())
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        disk.stable_names = disk.names.clone();
        disk.changes.clear();
        Ok(())
    }
}

fn document(seed: u64) -> Beside {
    let registration = scsi::reservation::SavedRegistration {
        nexus: serde_json::from_value(serde_json::json!({
            "initiator": "iqn.2026-01.example:a", "isid": [0, 1, 2, 3, 4, 5], "port": 1
        }))
        .unwrap(),
        key: serde_json::from_value(serde_json::json!(seed + 1)).unwrap(),
    };
    Beside {
        serial: format!("{seed:016x}"),
        naa: [0x60; 16],
        reservations: Some(scsi::reservation::Saved {
            generation: 7,
            registrations: vec![registration],
            reservation: None,
        }),
        mode: Some(scsi::mode::Saved::default()),
        writers: None,
        contents: None,
    }
}

fn store(disk: Disk) -> (BesideStore, Arc<Mutex<Disk>>) {
    let shared = Arc::new(Mutex::new(disk));
    (
        BesideStore::at(
            "/d/a.sanctum".into(),
            Arc::new(Fragile(Arc::clone(&shared))),
        ),
        shared,
    )
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_old_or_the_new() {
    let (old, new) = (document(1), document(2));
    let (first, disk) = store(Disk::default());
    first.save(&old).unwrap();
    let steps = disk.lock().steps;
    let before = disk.lock().clone();
    let mut outcomes = [0, 0];
    for stop in 0..=steps {
        let (store, disk) = store(Disk {
            steps: 0,
            stop_at: Some(stop),
            ..before.clone()
        });
        let saved = store.save(&new);
        assert_eq!(saved.is_ok(), stop == steps, "step {stop}");
        for crashed in disk.lock().after_crash() {
            let (again, _) = self::store(crashed);
            let found = again.load().unwrap().expect("neither the old nor the new");
            assert!(found == old || found == new);
            assert!(saved.is_err() || found == new, "saved, and lost");
            outcomes[usize::from(found == new)] += 1;
            // And it can be saved again, over whatever lies around.
            again.save(&old).unwrap();
            assert_eq!(again.load().unwrap(), Some(old.clone()));
        }
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn a_crash_at_the_first_save_leaves_nothing_or_all() {
    let (first, disk) = store(Disk::default());
    first.save(&document(1)).unwrap();
    let steps = disk.lock().steps;
    for stop in 0..=steps {
        let (store, disk) = store(Disk {
            stop_at: Some(stop),
            ..Disk::default()
        });
        let saved = store.load_or_create();
        for crashed in disk.lock().after_crash() {
            let (again, _) = self::store(crashed);
            let found = again.load().unwrap();
            match &saved {
                // What was handed out as the identity must be found again.
                Ok(identity) => assert_eq!(found.as_ref(), Some(identity)),
                Err(_) => assert!(found.is_none_or(|found| found.serial.len() == 16)),
            }
        }
    }
}

/// The crash test finds what it is there to find: without the sync of the file, it fails.
#[test]
fn the_crash_test_would_see_a_missing_sync() {
    #[derive(Debug)]
    struct Lazy(Fragile);
    struct LazyFile(Box<dyn storage::Temporary>);
    impl storage::Temporary for LazyFile {
        fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.write_all(bytes)
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Storage for Lazy {
        fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
            self.0.read(path)
        }
        fn make_directory(&self, path: &Path) -> io::Result<()> {
            self.0.make_directory(path)
        }
        fn create(&self, path: &Path) -> io::Result<Box<dyn storage::Temporary>> {
            Ok(Box::new(LazyFile(self.0.create(path)?)))
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.0.remove(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn sync_directory(&self, path: &Path) -> io::Result<()> {
            self.0.sync_directory(path)
        }
    }
    let disk = Arc::new(Mutex::new(Disk::default()));
    let lazy = Arc::new(Lazy(Fragile(Arc::clone(&disk))));
    BesideStore::at("/d/a.sanctum".into(), lazy)
        .save(&document(1))
        .unwrap();
    let lost = disk
        .lock()
        .after_crash()
        .into_iter()
        .any(|crashed| store(crashed).0.load().is_err());
    assert!(lost);
}

fn image(path: &Path) -> Backing {
    Backing::Image {
        path: path.into(),
        size: 4096,
        provisioning: crate::Provisioning::Thin,
        block_size: 512,
        read_only: false,
    }
}

#[test]
fn identity_is_made_once_and_moves_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let (path, data) = (
        directory.path().join("a.img"),
        directory.path().join("data"),
    );
    let store = BesideStore::for_device(&image(&path), "any", &data).unwrap();
    assert_eq!(store.path(), directory.path().join("a.img.sanctum"));
    let first = store.load_or_create().unwrap();
    assert_eq!(first.serial.len(), 16);
    assert!(first.serial.bytes().all(|byte| byte.is_ascii_hexdigit()));
    // NAA 6, locally administered, and the serial is its last half.
    assert_eq!(
        (first.naa[0] >> 4, first.naa[0] & 0x0f, first.naa[1] >> 4),
        (6, 0, 2)
    );
    assert_eq!(
        first.serial,
        format!(
            "{:016x}",
            u64::from_be_bytes(first.naa[8..].try_into().unwrap())
        )
    );
    assert_ne!(Beside::generate().unwrap().naa, first.naa);
    assert_eq!(
        fs::metadata(store.path()).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let moved = directory.path().join("b.img");
    fs::rename(store.path(), directory.path().join("b.img.sanctum")).unwrap();
    let moved = BesideStore::for_device(&image(&moved), "other", &data).unwrap();
    assert_eq!(moved.load_or_create().unwrap(), first);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");

    // A link to an image is the same device.
    fs::write(directory.path().join("b.img"), "").unwrap();
    let link = directory.path().join("link.img");
    std::os::unix::fs::symlink(directory.path().join("b.img"), &link).unwrap();
    let linked = BesideStore::for_device(&image(&link), "other", &data).unwrap();
    assert_eq!(linked.load_or_create().unwrap(), first);
}

#[test]
fn what_has_no_place_beside_it_lies_in_the_data_directory() {
    let data = tempfile::tempdir().unwrap();
    let ram = Backing::Ram {
        size: 4096,
        block_size: 512,
    };
    let store = BesideStore::for_device(&ram, "scratch", data.path()).unwrap();
    assert_eq!(store.path(), data.path().join("devices/ram-scratch.json"));
    let first = store.load_or_create().unwrap();
    let mode = fs::metadata(data.path().join("devices"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let again = BesideStore::for_device(&ram, "scratch", data.path()).unwrap();
    assert_eq!(again.load_or_create().unwrap(), first);
    let iso = Backing::Iso {
        path: "/x.iso".into(),
    };
    let store = BesideStore::for_device(&iso, "scratch", data.path()).unwrap();
    assert_eq!(
        store.path(),
        data.path().join("devices/optical-scratch.json")
    );
}

#[test]
fn damage_is_told_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let fresh = || BesideStore::for_device(&image(&path), "a", directory.path()).unwrap();
    let store = fresh();
    store.save(&document(1)).unwrap();
    let good = fs::read_to_string(store.path()).unwrap();
    let other_version = good.replace("\"version\":1", "\"version\":2");
    let damaged = [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"generation\":7", "\"generation\":8"),
        good.replace("sanctum-beside", "something-else"),
        good.replace("\"beside\":", "\"extra\":1,\"beside\":"),
        good.clone() + "x",
        " ".repeat(usize::try_from(BESIDE_BYTES_MAX).unwrap() + 1),
        other_version.clone(),
    ];
    for text in damaged {
        fs::write(store.path(), &text).unwrap();
        let foreign = text == other_version;
        let expect = |error: DeviceError| match error {
            DeviceError::Beside(BesideError::Version {
                found: 2, known: 1, ..
            }) => assert!(foreign),
            DeviceError::Beside(BesideError::Damaged { .. }) => assert!(!foreign),
            other => panic!("{other}"),
        };
        expect(fresh().load().unwrap_err());
        expect(fresh().load_or_create().unwrap_err());
        expect(fresh().save(&document(2)).unwrap_err());
        assert!(
            fs::read_to_string(store.path()).unwrap() == text,
            "it was overwritten"
        );
    }
    fs::write(store.path(), &good).unwrap();
    assert_eq!(fresh().load().unwrap(), Some(document(1)));
}

#[test]
fn too_much_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let store = BesideStore::for_device(&image(&path), "a", directory.path()).unwrap();
    store.save(&document(1)).unwrap();
    let big = Beside {
        serial: "x".repeat(5 << 20),
        ..document(2)
    };
    let refused = store.save(&big).unwrap_err();
    assert!(
        matches!(refused, DeviceError::Beside(BesideError::TooLarge { .. })),
        "{refused}"
    );
    assert_eq!(store.load().unwrap(), Some(document(1)));
}

#[test]
fn writers_are_owed_a_deferred_error_after_an_unclean_boot() {
    let mut beside = document(1);
    assert!(beside.wrote("a", "boot 1") && !beside.wrote("a", "boot 1"));
    assert!(beside.wrote("b", "boot 1"));
    // The process dies and comes back in the same boot: the page cache has it all.
    assert!(!beside.settle("boot 1") && !beside.owes("a"));
    assert!(beside.settle("boot 2"));
    assert!(beside.owes("a") && beside.owes("b") && !beside.owes("c"));
    assert!(beside.told("a") && !beside.told("a"));
    // Writing again, or another restart, does not wipe out what is owed.
    assert!(beside.wrote("a", "boot 2") && !beside.settle("boot 2"));
    assert!(!beside.owes("a") && beside.owes("b"));
    assert!(beside.stopped_cleanly());
    assert!(beside.owes("b") && !beside.settle("boot 2"));
    assert!(beside.settle("boot 3") && !beside.owes("a") && beside.owes("b"));
    assert!(beside.told("b") && beside.stopped_cleanly());
    assert_eq!(beside.writers, None);
    assert!(!beside.stopped_cleanly());
}

#[test]
fn too_many_writers_are_everyone() {
    let mut beside = document(1);
    for nexus in 0..WRITERS_MAX {
        assert!(beside.wrote(&nexus.to_string(), "boot 1"));
    }
    assert!(beside.wrote("one more", "boot 1") && !beside.wrote("and more", "boot 1"));
    assert!(beside.settle("boot 2") && beside.owes("anyone"));
    assert!(beside.wrote(&"x".repeat(WRITER_NAME_MAX + 1), "boot 2"));
    assert!(beside.writers.as_ref().unwrap().everyone);
}

#[test]
fn memory_of_another_process_is_lost() {
    let me = ProcessIdentity::current().unwrap();
    assert_eq!(ProcessIdentity::current().unwrap(), me);
    assert_eq!(me.boot_id, boot_id().unwrap());
    let mut beside = document(1);
    assert!(!beside.contents_lost(&me), "never loaded: nothing to lose");
    beside.loaded(&me);
    assert!(!beside.contents_lost(&me));
    let other = ProcessIdentity {
        process: "another".to_owned(),
        ..me
    };
    assert!(beside.contents_lost(&other));
}

proptest! {
    #[test]
    fn what_is_saved_is_loaded(
        serial in ".{0,40}", naa: [u8; 16], names in prop::collection::btree_set(".{0,20}", 0..8),
        everyone: bool, process in prop::option::of(".{0,20}"),
    ) {
        let (store, _) = store(Disk::default());
        let mut beside = Beside { serial, naa, ..document(3) };
        for name in &names {
            beside.wrote(name, "boot");
        }
        if let Some(writers) = &mut beside.writers {
            writers.everyone = everyone;
        }
        beside.contents = process.map(|process| Contents { boot_id: String::new(), process });
        store.save(&beside).unwrap();
        prop_assert_eq!(store.load().unwrap(), Some(beside));
    }
}
