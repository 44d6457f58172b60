//! Block devices, over loop devices.

use std::fs::File;

use ring::limits::ENTRIES_MIN;

use super::{Loop, MODES, Mounted, root, space_of, tool};
use crate::backing::Backing;
use crate::beside::BesideStore;
use crate::open::{open, open_now};
use crate::request::{CacheMode, Extent, Request};
use crate::testing::{Shard, fill, shards, write};
use crate::wanted::Wanted;
use crate::{DeviceError, DiskError};

const SIZE: u64 = 4 << 20;

fn backing(device: &Loop) -> Backing {
    Backing::Block {
        path: device.node().into(),
        block_size: None,
        read_only: false,
    }
}

#[test]
fn shape_and_claim() {
    if !root("a block device") {
        return;
    }
    let device = Loop::over_new_file(SIZE + 512, 4096);
    let disk = open(&backing(&device), CacheMode::None).unwrap();
    let geometry = disk.geometry();
    assert_eq!((geometry.block_size, geometry.bytes()), (4096, SIZE));
    let second = open_now(&backing(&device), CacheMode::None).unwrap_err();
    assert!(matches!(second, DeviceError::Locked { .. }), "{second}");
    // The claim outlives a change of the descriptor.
    disk.set_cache_mode(CacheMode::WriteBack, &Wanted::default())
        .unwrap();
    assert!(disk.features().volatile_cache);
    assert!(open_now(&backing(&device), CacheMode::None).is_err());
    disk.set_cache_mode(CacheMode::WriteThrough, &Wanted::default())
        .unwrap();
    assert!(!disk.features().volatile_cache);
    drop(disk);
    open(&backing(&device), CacheMode::None).unwrap();
}

#[test]
fn what_is_mounted_is_refused() {
    if !root("a mounted block device") {
        return;
    }
    let mounted = Mounted::ext4(8 << 20, 512);
    let node = mounted.loop_device.as_ref().unwrap();
    let used = open_now(&backing(node), CacheMode::None).unwrap_err();
    assert!(matches!(used, DeviceError::Locked { .. }), "{used}");
}

#[test]
fn what_is_no_block_device_is_named() {
    let of = |path: &str| {
        let backing = Backing::Block {
            path: path.into(),
            block_size: None,
            read_only: false,
        };
        open(&backing, CacheMode::None).unwrap_err()
    };
    let null = of("/dev/null");
    assert!(
        matches!(
            null,
            DeviceError::WrongKind {
                found: "a character device",
                ..
            }
        ),
        "{null}"
    );
    assert!(matches!(
        of("/dev/no-such-disk"),
        DeviceError::Missing { .. }
    ));
}

#[test]
fn a_reader_takes_no_writes() {
    if !root("a block device") {
        return;
    }
    let device = Loop::over_new_file(SIZE, 512);
    let path = device.node().into();
    let backing = Backing::Block {
        path,
        block_size: None,
        read_only: true,
    };
    let disk = open(&backing, CacheMode::None).unwrap();
    for mut shard in shards() {
        let refused = shard
            .run(&*disk, write(0, &fill(1, 512), false))
            .unwrap_err();
        assert_eq!(refused, DiskError::ReadOnly);
        assert_eq!(shard.bytes(&*disk, 0, 512), vec![0; 512]);
    }
}

#[test]
fn unmapping_gives_space_back_and_leaves_zeros() {
    if !root("a block device") {
        return;
    }
    for mut shard in shards() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("backing");
        File::create(&file).unwrap().set_len(SIZE).unwrap();
        let device = Loop::over(&file, 512);
        let disk = open(&backing(&device), CacheMode::None).unwrap();
        assert!(disk.features().thin, "{:?}", disk.features());
        shard
            .run(&*disk, write(0, &fill(7, SIZE as usize), false))
            .unwrap();
        shard.run(&*disk, Request::Flush).unwrap();
        let full = space_of(&file);
        let hole = Extent {
            offset: 1 << 20,
            len: 2 << 20,
        };
        shard
            .run(
                &*disk,
                Request::Unmap {
                    extents: vec![hole],
                },
            )
            .unwrap();
        shard.run(&*disk, Request::Flush).unwrap();
        assert!(
            space_of(&file) <= full - (2 << 20) + 8192,
            "{} of {full}",
            space_of(&file)
        );
        let mut expected = fill(7, SIZE as usize);
        expected[1 << 20..3 << 20].fill(0);
        assert!(shard.bytes(&*disk, 0, SIZE as usize) == expected);
        // Zeroing without leave to deallocate takes the space.
        let zero = Request::Zero {
            offset: 0,
            len: SIZE,
            unmap: false,
            fua: true,
        };
        shard.run(&*disk, zero).unwrap();
        assert!(
            shard
                .bytes(&*disk, 0, SIZE as usize)
                .iter()
                .all(|byte| *byte == 0)
        );
        assert_eq!(shard.status(&*disk, 512), (true, SIZE - 512));
    }
}

#[test]
fn growing_takes_what_it_finds() {
    if !root("a block device") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backing");
    File::create(&file).unwrap().set_len(SIZE).unwrap();
    let device = Loop::over(&file, 512);
    let disk = open(&backing(&device), CacheMode::None).unwrap();
    let early = disk.grow(Some(2 * SIZE)).unwrap_err();
    assert!(
        matches!(early, DeviceError::NotGrown { have: SIZE, .. }),
        "{early}"
    );
    let resize = |bytes| {
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        tool(
            "losetup",
            &["--set-capacity", device.node().to_str().unwrap()],
        );
    };
    // Every mode sees the new end.
    for (size, mode) in (2..).map(|times| times * SIZE).zip(MODES) {
        disk.set_cache_mode(mode, &Wanted::default()).unwrap();
        assert_eq!(disk.grow(None).unwrap().bytes(), size - SIZE);
        resize(size);
        assert_eq!(disk.geometry().bytes(), size - SIZE);
        for mut shard in shards() {
            let early = shard.run(&*disk, write(size - 512, &fill(1, 512), true));
            assert_eq!(early.unwrap_err(), DiskError::OutOfRange);
        }
        assert_eq!(disk.grow(None).unwrap().bytes(), size);
        for mut shard in shards() {
            shard
                .run(&*disk, write(size - 512, &fill(1, 512), true))
                .unwrap();
            assert_eq!(shard.bytes(&*disk, size - 512, 512), fill(1, 512));
        }
    }
    resize(SIZE);
    let shrunk = disk.grow(None).unwrap_err();
    assert!(
        matches!(shrunk, DeviceError::Shrink { want: SIZE, .. }),
        "{shrunk}"
    );
    assert_eq!(disk.geometry().bytes(), 4 * SIZE);
    for mut shard in shards() {
        let cut = shard.run(&*disk, crate::testing::read(4 * SIZE - 512, 512));
        assert!(cut.is_err(), "zeros were made up");
    }
}

#[test]
fn a_flush_that_could_not_start_is_no_failed_one() {
    if !root("a block device") {
        return;
    }
    let device = Loop::over_new_file(SIZE, 512);
    let disk = open(&backing(&device), CacheMode::WriteBack).unwrap();
    let mut shard = Shard::narrow();
    let reads = 0..u64::from(ENTRIES_MIN);
    for key in reads.clone() {
        shard.start(key, &*disk, crate::testing::read(0, 512));
    }
    shard.start(1 << 20, &*disk, Request::Flush);
    assert_eq!(shard.outcome(1 << 20).unwrap_err(), DiskError::Busy);
    for key in reads {
        shard.outcome(key).unwrap();
    }
    shard.run(&*disk, Request::Flush).unwrap();
}

/// What a loaded device is asked when its size may have changed.
#[test]
fn a_reader_takes_the_new_size_too() {
    if !root("a block device") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backing");
    File::create(&file).unwrap().set_len(SIZE).unwrap();
    let device = Loop::over(&file, 512);
    let path = device.node().into();
    let backing = Backing::Block {
        path,
        block_size: None,
        read_only: true,
    };
    let disk = open(&backing, CacheMode::None).unwrap();
    let longer = File::options().write(true).open(&file).unwrap();
    longer.set_len(2 * SIZE).unwrap();
    tool(
        "losetup",
        &["--set-capacity", device.node().to_str().unwrap()],
    );
    assert_eq!(disk.grow(None).unwrap().bytes(), 2 * SIZE);
}

#[test]
fn the_document_is_keyed_by_the_disk() {
    if !root("a block device") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let file = directory.path().join("backing");
    File::create(&file).unwrap().set_len(SIZE).unwrap();
    let device = Loop::over(&file, 512);
    let store = |name| BesideStore::for_device(&backing(&device), name, &data).unwrap();
    // The name in the settings does not matter: the disk's own identity does.
    let first = store("one").load_or_create().unwrap();
    assert_eq!(store("two").load_or_create().unwrap(), first);
    assert!(store("one").path().starts_with(data.join("devices")));
    let other_file = directory.path().join("other");
    File::create(&other_file).unwrap().set_len(SIZE).unwrap();
    let other = Loop::over(&other_file, 512);
    let other = BesideStore::for_device(&backing(&other), "one", &data).unwrap();
    assert_ne!(other.load_or_create().unwrap().naa, first.naa);
}
