//! The lock or claim of a device lasts as long as the kernel has a request of it.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ring::DriverKind;
use rustix::fs::{OFlags, fcntl_getfl, major, minor, stat};

use super::{Loop, MODES, Shape, root};
use crate::DeviceError;
use crate::backing::{Backing, Provisioning};
use crate::block;
use crate::file::FileDisk;
use crate::limits::CLAIM_TIME_MAX;
use crate::open::{open, open_now, patiently};
use crate::request::{CacheMode, Request};
use crate::testing::{Shard, eventually, fill, write};
use crate::wanted::Wanted;

const SIZE: u64 = 1 << 20;
/// What the killed process writes; at the rate below it takes some seconds.
const LEN: usize = 256 << 10;
const BYTES_PER_SECOND: usize = 64 << 10;
/// Tells the other process which device it is to write to, and in which control group.
const DEVICE: &str = "SANCTUM_TEST_CLAIM_DEVICE";
const GROUP: &str = "SANCTUM_TEST_CLAIM_GROUP";
/// What it says when its write is with the kernel, or has ended already.
const UNDER_WAY: &str = "the write is under way";
const ENDED: &str = "the write has ended";

fn block_at(path: &Path) -> Backing {
    Backing::Block {
        path: path.into(),
        block_size: None,
        read_only: false,
    }
}

fn image_at(path: &Path) -> Backing {
    Backing::Image {
        path: path.into(),
        size: SIZE,
        provisioning: Provisioning::Thin,
        block_size: 512,
        read_only: false,
    }
}

fn is_locked(backing: &Backing) -> bool {
    match open_now(backing, CacheMode::None) {
        Ok(_) => false,
        Err(DeviceError::Locked { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

/// A request in the kernel holds the descriptor that a duplicate stands for here.
fn a_request_holds_it(disk: FileDisk, backing: &Backing) {
    for mode in MODES {
        crate::Disk::set_cache_mode(&disk, mode, &Wanted::default()).unwrap();
    }
    let held = disk.core().file.try_clone().unwrap();
    drop(disk);
    assert!(is_locked(backing));
    drop(held);
    assert!(!is_locked(backing));
}

#[test]
fn a_request_holds_the_lock_of_an_image() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape::thin(SIZE);
    shape.create(&path);
    a_request_holds_it(shape.open(&path, CacheMode::WriteBack), &image_at(&path));
}

#[test]
fn a_request_holds_the_claim_of_a_block_device() {
    if !root("a block device") {
        return;
    }
    let device = Loop::over_new_file(SIZE, 512);
    let disk = block::open(device.node(), None, false, CacheMode::WriteBack).unwrap();
    a_request_holds_it(disk, &block_at(device.node()));
}

#[test]
fn the_one_descriptor_is_direct_in_the_direct_mode_only() {
    if !root("a block device") {
        return;
    }
    let device = Loop::over_new_file(SIZE, 512);
    let disk = block::open(device.node(), None, false, CacheMode::None).unwrap();
    let file = Arc::clone(&disk.core().file);
    let direct = || {
        let flags = fcntl_getfl(file.as_fd()).unwrap();
        flags.contains(OFlags::DIRECT)
    };
    assert!(direct());
    // A change that does not come about, because the descriptor is held here, switches nothing.
    let refused =
        disk.core()
            .set_cache_mode_within(CacheMode::WriteBack, Duration::ZERO, &Wanted::default());
    assert!(matches!(refused, Err(DeviceError::Stuck { .. })));
    assert!(direct());
    drop(file);
    for mode in MODES {
        crate::Disk::set_cache_mode(&disk, mode, &Wanted::default()).unwrap();
        let flags = fcntl_getfl(disk.core().file.as_fd()).unwrap();
        let direct = flags.contains(OFlags::DIRECT);
        assert_eq!(direct, mode == CacheMode::None, "{mode}");
    }
}

/// Opening waits for what a process has left to the kernel, within its bound.
#[test]
fn opening_waits_for_the_last_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let backing = image_at(&path);
    // A lock alone stands for the request: what matters here is that it goes.
    let file = std::fs::File::open(&path).unwrap();
    file.lock().unwrap();
    let attempt = || open_now(&backing, CacheMode::None);
    let refused = patiently(Duration::ZERO, attempt).unwrap_err();
    assert!(matches!(refused, DeviceError::Locked { .. }), "{refused}");
    let mut held = Some(file);
    let opened = patiently(CLAIM_TIME_MAX, || {
        let opened = attempt();
        held = None;
        opened
    });
    opened.unwrap();
}

/// A control group whose writes to one disk are slow; gone with the value.
struct Slow {
    group: PathBuf,
}

impl Slow {
    /// `None` where the system has none to offer.
    fn writes_to(node: &Path) -> Option<Self> {
        let device = stat(node).unwrap().st_rdev;
        let device = format!("{}:{}", major(device), minor(device));
        let name = format!("sanctum-test-{}", std::process::id());
        let first = ("blkio", "blkio.throttle.write_bps_device");
        let (root, attribute, rate) = if Path::new("/sys/fs/cgroup").join(first.0).is_dir() {
            let rate = format!("{device} {BYTES_PER_SECOND}");
            ("/sys/fs/cgroup/blkio", first.1, rate)
        } else {
            let rate = format!("{device} wbps={BYTES_PER_SECOND}");
            ("/sys/fs/cgroup", "io.max", rate)
        };
        let group = Path::new(root).join(name);
        std::fs::create_dir(&group).ok()?;
        let slow = Self { group };
        let set = std::fs::write(slow.group.join(attribute), rate);
        set.is_ok().then_some(slow)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.group).ok();
    }
}

/// A process that does not outlive the test.
struct Other(Child);

impl Other {
    fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_killed_writer_keeps_the_claim_until_its_write_has_landed() {
    if !root("a block device") {
        return;
    }
    if let Err(reason) = ring::probe().uring {
        eprintln!(
            "SKIPPED: a process is reaped before its I/O has ended with io_uring only: {reason}"
        );
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backing");
    std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    let device = Loop::over(&file, 512);
    let Some(slow) = Slow::writes_to(device.node()) else {
        eprintln!("SKIPPED: no control group here can slow writes down");
        return;
    };
    let mut other = Other(
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("tests::claim::the_process_that_is_killed")
            .env(DEVICE, device.node())
            .env(GROUP, &slow.group)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let told = BufReader::new(other.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains(UNDER_WAY) || line.contains(ENDED))
        .expect("the other process has failed");
    if told.contains(ENDED) {
        eprintln!("SKIPPED: the control group does not slow writes down here");
        return;
    }
    other.kill();

    let landed = || std::fs::read(&file).unwrap()[..LEN] == fill(1, LEN);
    let backing = block_at(device.node());
    assert!(is_locked(&backing), "free while the write is under way");
    assert!(!landed());
    eventually(|| !is_locked(&backing));
    assert!(landed(), "free before the write has landed");
    let disk = open(&backing, CacheMode::None).unwrap();
    let mut shard = Shard::any();
    let newer = fill(2, LEN);
    shard.run(&*disk, write(0, &newer, false)).unwrap();
    shard.run(&*disk, Request::Flush).unwrap();
    assert!(shard.bytes(&*disk, 0, LEN) == newer);
}

#[test]
#[ignore = "the other process of the test above, which starts it"]
fn the_process_that_is_killed() {
    let (Some(node), Some(group)) = (std::env::var_os(DEVICE), std::env::var_os(GROUP)) else {
        return;
    };
    let me = std::process::id().to_string();
    std::fs::write(Path::new(&group).join("cgroup.procs"), me).unwrap();
    let disk = open(&block_at(Path::new(&node)), CacheMode::None).unwrap();
    let mut shard = Shard::over(DriverKind::Uring);
    shard.start(1, &*disk, write(0, &fill(1, LEN), false));
    // Submitted by the first turn; the others give it the time to end where nothing is slow.
    let mut turns = 0;
    shard.until(|shard| {
        turns += 1;
        turns > 4 || shard.has_ended(1)
    });
    if shard.has_ended(1) {
        println!("{ENDED}");
        return;
    }
    println!("{UNDER_WAY}");
    shard.outcome(1).unwrap();
}
