//! Physical disks: loop devices of this machine, where it has them.

use std::path::{Path, PathBuf};
use std::process::Command;

use target::config::{Backing, Config};
use target::info::DeviceState;

use crate::site::{B, Site, file, lun1, two};
use crate::support::sense;

/// A loop device over a file that grows and shrinks.
struct Loop {
    node: PathBuf,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Loop {
    /// Another node over the same file, which is the same disk.
    fn twin(&self) -> Self {
        let node = losetup(&["--find", "--show", self.file.to_str().unwrap()]);
        Self {
            node: node.trim().into(),
            file: self.file.clone(),
            _directory: tempfile::tempdir().unwrap(),
        }
    }

    /// `None`, with a word, where this machine has none.
    fn new(bytes: u64, sector: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            eprintln!("SKIPPED: needs root and loop devices");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("loop.img");
        file(&path, bytes);
        let sector = sector.to_string();
        let path_text = path.to_str().unwrap();
        let node = losetup(&["--find", "--show", "--sector-size", &sector, path_text]);
        Some(Self {
            node: node.trim().into(),
            file: path,
            _directory: directory,
        })
    }

    fn resize(&self, bytes: u64) {
        file(&self.file, bytes);
        losetup(&["--set-capacity", self.node.to_str().unwrap()]);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        losetup(&["--detach", self.node.to_str().unwrap()]);
    }
}

fn losetup(arguments: &[&str]) -> String {
    let output = Command::new("losetup").args(arguments).output().unwrap();
    assert!(output.status.success(), "losetup {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_physical_disk_under_two_paths_is_served_once() {
    let Some(disk) = Loop::new(B, 512) else {
        return;
    };
    let other = disk.twin();
    let site = Site::start(over(&disk));
    let before = site.now();
    let mut twice = before.clone();
    let mut twin = twice.devices[1].clone();
    twin.name = "twin".to_owned();
    twin.backing = Backing::Block {
        path: other.node.clone(),
        block_size: None,
        read_only: false,
    };
    twice.devices.push(twin);
    let error = site.apply(&twice).unwrap_err();
    assert!(error.to_string().contains("the same disk"), "{error}");
    assert_eq!(site.now(), before);
    // Nor at a start, where the first stays.
    drop(site);
    let site = Site::start(twice);
    assert_eq!(site.state("b"), DeviceState::Ready);
    let DeviceState::NotReady { reason } = site.state("twin") else {
        panic!("served twice");
    };
    assert!(reason.contains("the same disk"), "{reason}");
}

fn over(disk: &Loop) -> Config {
    let mut config = two();
    config.devices[1].backing = Backing::Block {
        path: disk.node.clone(),
        block_size: None,
        read_only: false,
    };
    config
}

#[test]
fn a_physical_disk_grows_when_it_is_loaded_and_never_shrinks() {
    let Some(disk) = Loop::new(B, 512) else {
        return;
    };
    let mut site = Site::start(over(&disk));
    let mut a = site.initiator("a");
    assert_eq!(sense(&lun1(&mut a, &[0], 0).0).0, 6);
    disk.resize(2 * B);
    let size = |site: &Site| site.service.devices()[1].size;
    assert_eq!(size(&site), B, "not before it is asked for");
    site.load("b").unwrap();
    assert_eq!(size(&site), 2 * B);
    assert_eq!(site.told("device-grown"), 1);
    assert_eq!(sense(&lun1(&mut a, &[0], 0).0), (6, 0x2a09));
    let last = u32::try_from(2 * B / 512 - 1).unwrap();
    assert_eq!(lun1(&mut a, &[0x25], 8).1[..4], last.to_be_bytes());
    site.load("b").unwrap();
    assert_eq!(site.told("device-grown"), 0);
    assert_eq!(lun1(&mut a, &[0], 0).0.status, 0, "nothing to be told");
    disk.resize(B);
    let error = site.load("b").unwrap_err();
    assert!(error.to_string().contains("had 16777216"), "{error}");
    assert_eq!(size(&site), 2 * B);
    assert_eq!(lun1(&mut a, &[0], 0).0.status, 0);
}

#[test]
fn a_disk_that_was_in_use_at_the_start_is_loaded_with_its_own_blocks() {
    let Some(disk) = Loop::new(B, 4096) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let config = over(&disk);
    let store =
        disk::BesideStore::for_device(&config.devices[1].backing, "b", directory.path()).unwrap();
    let serial = store.load_or_create().unwrap().serial;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::EXCL;
    let user = rustix::fs::open(&disk.node, flags, rustix::fs::Mode::empty()).unwrap();
    let site = Site::start_in(directory, config);
    let shown = || site.service.devices().remove(1);
    assert_eq!((shown().serial, shown().size), (serial, 0));
    site.load("b").unwrap_err();
    drop(user);
    site.load("b").unwrap();
    assert_eq!((shown().block_size, shown().size), (4096, B));
    let mut a = site.initiator("a");
    assert_eq!(sense(&lun1(&mut a, &[0], 0).0).0, 6);
    let capacity = lun1(&mut a, &[0x25], 8).1;
    let last = u32::try_from(B / 4096 - 1).unwrap();
    assert_eq!(capacity[..4], last.to_be_bytes());
    assert_eq!(capacity[4..], 4096_u32.to_be_bytes());
}
