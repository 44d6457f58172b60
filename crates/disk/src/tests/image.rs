//! Image files: opening, locking, lengths, modes, growing, and a file that changes under us.

use std::fs::{File, OpenOptions};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use ring::DriverKind;

use super::{MODES, Mounted, Shape, root, space_of};
use crate::DeviceError;
use crate::backing::{Backing, Provisioning};
use crate::open::{open, open_now};
use crate::request::{CacheMode, Disk, DiskError, Extent, Request};
use crate::testing::{Shard, eventually, fill, read, shards, write};
use crate::wanted::Wanted;

const SIZE: u64 = 1 << 20;

fn backing(path: &std::path::Path, read_only: bool) -> Backing {
    Backing::Image {
        path: path.into(),
        size: SIZE,
        provisioning: Provisioning::Thin,
        block_size: 512,
        read_only,
    }
}

#[test]
fn two_services_never_open_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let first = open(&backing(&path, false), CacheMode::None).unwrap();
    for read_only in [false, true] {
        let second = open_now(&backing(&path, read_only), CacheMode::WriteBack);
        assert!(
            matches!(second, Err(DeviceError::Locked { .. })),
            "{second:?}"
        );
    }
    // The lock outlives a change of the descriptor.
    first
        .set_cache_mode(CacheMode::WriteBack, &Wanted::default())
        .unwrap();
    assert!(open_now(&backing(&path, false), CacheMode::None).is_err());
    drop(first);
    let readers = [(); 2].map(|()| open(&backing(&path, true), CacheMode::None).unwrap());
    assert!(open_now(&backing(&path, false), CacheMode::None).is_err());
    drop(readers);
    open(&backing(&path, false), CacheMode::None).unwrap();
}

#[test]
fn a_reader_takes_no_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    for mode in MODES {
        let disk = open(&backing(&path, true), mode).unwrap();
        assert!(disk.features().read_only && !disk.features().volatile_cache);
        for mut shard in shards() {
            let refused = shard.run(&*disk, write(0, &fill(1, 512), true));
            assert_eq!(refused.unwrap_err(), DiskError::ReadOnly);
            let zero = Request::Zero {
                offset: 0,
                len: 512,
                unmap: true,
                fua: false,
            };
            assert_eq!(shard.run(&*disk, zero).unwrap_err(), DiskError::ReadOnly);
            shard.run(&*disk, Request::Flush).unwrap();
            assert_eq!(shard.bytes(&*disk, 0, 512), vec![0; 512]);
        }
    }
}

#[test]
fn lengths_that_do_not_fit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape::thin(SIZE);
    let length = |bytes| {
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(bytes)
    };

    let missing = shape.try_open(&path, CacheMode::None).unwrap_err();
    assert!(matches!(missing, DeviceError::Missing { .. }), "{missing}");
    shape.create(&path);
    length(SIZE - 512).unwrap();
    let short = shape.try_open(&path, CacheMode::None).unwrap_err();
    assert!(
        matches!(short, DeviceError::TooShort { have, want: SIZE, .. } if have == SIZE - 512),
        "{short}"
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        SIZE - 512,
        "it was grown silently"
    );
    length(SIZE + 100).unwrap();
    let long = shape.try_open(&path, CacheMode::None).unwrap_err();
    assert!(matches!(long, DeviceError::TooLong { .. }), "{long}");
    length(SIZE + 4096).unwrap();
    let disk = shape.open(&path, CacheMode::None);
    assert_eq!(disk.geometry().bytes(), SIZE);
    assert_eq!(disk.notes().len(), 1, "{:?}", disk.notes());
    // The file's own length is taken on demand.
    assert_eq!(disk.grow(None).unwrap().bytes(), SIZE + 4096);
}

#[test]
fn wrong_kinds_and_sizes() {
    let directory = tempfile::tempdir().unwrap();
    let shape = Shape::thin(SIZE);
    let kind = shape
        .try_open(directory.path(), CacheMode::None)
        .unwrap_err();
    assert!(
        matches!(
            kind,
            DeviceError::WrongKind {
                found: "a directory",
                ..
            }
        ),
        "{kind}"
    );
    let null = shape
        .try_open("/dev/null".as_ref(), CacheMode::None)
        .unwrap_err();
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
    let path = directory.path().join("a.img");
    shape.create(&path);
    let block = Shape {
        block_size: 1024,
        ..shape
    }
    .try_open(&path, CacheMode::None);
    assert!(matches!(
        block,
        Err(DeviceError::BlockSize {
            block_size: 1024,
            ..
        })
    ));
    for size in [0, 100, u64::MAX - 511] {
        let opened = Shape { size, ..shape }.try_open(&path, CacheMode::None);
        assert!(matches!(opened, Err(DeviceError::Size { .. })), "{size}");
    }
}

#[test]
fn requests_outside_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Shape::thin(SIZE).open(&path, CacheMode::None);
    for mut shard in shards() {
        let mut refused = |request| {
            assert_eq!(
                shard.run(&disk, request).unwrap_err(),
                DiskError::OutOfRange
            );
        };
        refused(read(SIZE - 512, 1024));
        refused(read(100, 512));
        refused(write(SIZE, &fill(0, 512), false));
        refused(write(0, &fill(0, 100), false));
        refused(Request::Status { offset: SIZE });
        refused(Request::Zero {
            offset: u64::MAX - 511,
            len: 1024,
            unmap: true,
            fua: false,
        });
        refused(Request::Unmap {
            extents: vec![Extent {
                offset: 0,
                len: SIZE + 512,
            }],
        });
        let Request::Read { buffer, .. } = read(0, 512) else {
            unreachable!()
        };
        refused(Request::Read {
            offset: 0,
            len: 1024,
            buffer,
        });
    }
}

#[test]
fn what_is_told_is_what_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Shape::thin(SIZE).open(&path, CacheMode::None);
    assert!(disk.notes().is_empty(), "{:?}", disk.notes());
    let told = |mode| {
        disk.set_cache_mode(mode, &Wanted::default()).unwrap();
        disk.features().volatile_cache
    };
    assert!(told(CacheMode::WriteBack));
    assert!(!told(CacheMode::WriteThrough));
    assert!(told(CacheMode::None));
    assert!(disk.features().thin && disk.features().unmap_granularity >= 512);
}

#[test]
fn without_direct_io_it_is_write_through_and_says_so() {
    if !root("a file system that has no direct I/O") {
        return;
    }
    let mounted = Mounted::tmpfs(4 << 20);
    let path = mounted.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Shape::thin(SIZE).open(&path, CacheMode::None);
    assert_eq!(disk.cache_mode(), CacheMode::None);
    assert!(!disk.features().volatile_cache);
    assert!(
        disk.notes()[0].contains("direct I/O cannot be had"),
        "{:?}",
        disk.notes()
    );
    disk.set_cache_mode(CacheMode::WriteBack, &Wanted::default())
        .unwrap();
    assert!(disk.features().volatile_cache && disk.notes().is_empty());
}

#[test]
fn a_size_that_direct_io_cannot_address_falls_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape {
        alignment: Some(4096),
        ..Shape::thin(SIZE + 512)
    };
    shape.create(&path);
    let disk = shape.open(&path, CacheMode::None);
    assert!(!disk.features().volatile_cache && disk.notes().len() == 1);
    for mut shard in shards() {
        shard.run(&disk, write(SIZE, &fill(3, 512), false)).unwrap();
        assert_eq!(shard.bytes(&disk, SIZE, 512), fill(3, 512));
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE + 512);
}

#[test]
fn unmapping_gives_space_back_and_leaves_zeros() {
    for mode in MODES {
        for mut shard in shards() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.img");
            Shape::thin(SIZE).create(&path);
            assert_eq!(space_of(&path), 0);
            let disk = Shape::thin(SIZE).open(&path, mode);
            shard
                .run(&disk, write(0, &fill(5, SIZE as usize), false))
                .unwrap();
            disk.flush_blocking().unwrap();
            assert!(space_of(&path) >= SIZE);
            assert_eq!(shard.status(&disk, 4096), (true, SIZE - 4096));
            // Not on file system blocks: the ends are zeroed, the whole blocks between are freed.
            let hole = Extent {
                offset: 512,
                len: SIZE / 2,
            };
            shard
                .run(
                    &disk,
                    Request::Unmap {
                        extents: vec![hole],
                    },
                )
                .unwrap();
            disk.flush_blocking().unwrap();
            assert!(
                space_of(&path) <= SIZE / 2 + 8192,
                "{mode}: {}",
                space_of(&path)
            );
            let mut expected = fill(5, SIZE as usize);
            expected[512..][..(SIZE / 2) as usize].fill(0);
            assert!(shard.bytes(&disk, 0, SIZE as usize) == expected);
            let (mapped, len) = shard.status(&disk, 8192);
            assert!(!mapped && len >= SIZE / 4);
        }
    }
}

#[test]
fn a_preallocated_image_keeps_its_space() {
    for mut shard in shards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let shape = Shape::preallocated(SIZE);
        shape.create(&path);
        assert!(space_of(&path) >= SIZE);
        let disk = shape.open(&path, CacheMode::None);
        assert!(!disk.features().thin && disk.notes().is_empty());
        shard
            .run(&disk, write(0, &fill(5, SIZE as usize), false))
            .unwrap();
        let all = Extent {
            offset: 0,
            len: SIZE,
        };
        shard
            .run(&disk, Request::Unmap { extents: vec![all] })
            .unwrap();
        let zero = Request::Zero {
            offset: 0,
            len: SIZE,
            unmap: true,
            fua: true,
        };
        shard.run(&disk, zero).unwrap();
        assert!(space_of(&path) >= SIZE);
        assert!(
            shard
                .bytes(&disk, 0, SIZE as usize)
                .iter()
                .all(|byte| *byte == 0)
        );
    }
}

#[test]
fn a_preallocated_image_that_is_sparse_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Shape::preallocated(SIZE).open(&path, CacheMode::None);
    assert!(disk.notes()[0].contains("sparse"), "{:?}", disk.notes());
}

#[test]
fn truncated_under_us() {
    for mode in MODES {
        for mut shard in shards() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.img");
            Shape::thin(SIZE).create(&path);
            let disk = Shape::thin(SIZE).open(&path, mode);
            shard
                .run(&disk, write(0, &fill(5, SIZE as usize), true))
                .unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(SIZE / 2)
                .unwrap();
            assert_eq!(shard.bytes(&disk, 0, 4096), fill(5, 4096));
            let cut = shard.run(&disk, read(SIZE / 2 - 512, 1024));
            assert_eq!(cut.unwrap_err(), DiskError::Gone, "{mode}");
            // What is gone stays gone, until it is opened again.
            assert_eq!(shard.run(&disk, read(0, 512)).unwrap_err(), DiskError::Gone);
            drop(disk);
            assert!(Shape::thin(SIZE).try_open(&path, mode).is_err());
        }
    }
}

#[test]
fn truncated_under_us_and_only_flushed() {
    for mut shard in shards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        Shape::thin(SIZE).create(&path);
        let disk = Shape::thin(SIZE).open(&path, CacheMode::WriteBack);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(SIZE / 2)
            .unwrap();
        assert_eq!(
            shard.run(&disk, Request::Flush).unwrap_err(),
            DiskError::Gone
        );
        assert_eq!(
            shard
                .run(&disk, write(0, &fill(1, 512), false))
                .unwrap_err(),
            DiskError::Gone
        );
    }
}

#[test]
fn growing() {
    for shape in [Shape::thin(SIZE), Shape::preallocated(SIZE)] {
        for mut shard in shards() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.img");
            shape.create(&path);
            let disk = shape.open(&path, CacheMode::WriteBack);
            shard
                .run(&disk, write(SIZE - 512, &fill(1, 512), false))
                .unwrap();
            let shrink = disk.grow(Some(SIZE - 512)).unwrap_err();
            assert!(matches!(shrink, DeviceError::Shrink { .. }), "{shrink}");
            assert!(matches!(
                disk.grow(Some(SIZE + 1)),
                Err(DeviceError::Size { .. })
            ));
            assert_eq!(disk.geometry().bytes(), SIZE);
            assert_eq!(disk.grow(Some(SIZE)).unwrap().bytes(), SIZE);
            assert_eq!(disk.grow(Some(2 * SIZE)).unwrap().bytes(), 2 * SIZE);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * SIZE);
            if shape.provisioning == Provisioning::Preallocated {
                assert!(space_of(&path) >= 2 * SIZE);
            }
            shard
                .run(&disk, write(2 * SIZE - 512, &fill(2, 512), true))
                .unwrap();
            assert_eq!(shard.bytes(&disk, SIZE - 512, 512), fill(1, 512));
            assert_eq!(shard.bytes(&disk, SIZE, 512), vec![0; 512]);
            assert_eq!(shard.bytes(&disk, 2 * SIZE - 512, 512), fill(2, 512));
        }
    }
}

#[test]
fn a_file_that_lost_bytes_is_not_made_longer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Shape::thin(SIZE).open(&path, CacheMode::None);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(SIZE / 2).unwrap();
    for want in [None, Some(2 * SIZE)] {
        let short = disk.grow(want).unwrap_err();
        assert!(matches!(short, DeviceError::TooShort { .. }), "{short}");
    }
    assert_eq!(file.metadata().unwrap().len(), SIZE / 2);
    let gone = Shard::any().run(&disk, read(0, 512)).unwrap_err();
    assert_eq!(gone, DiskError::Gone);
}

#[test]
fn a_reader_takes_over_a_longer_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = open(&backing(&path, true), CacheMode::None).unwrap();
    assert_eq!(disk.grow(None).unwrap().bytes(), SIZE);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(SIZE + 4096).unwrap();
    assert_eq!(disk.grow(None).unwrap().bytes(), SIZE + 4096);
    let more = disk.grow(Some(2 * SIZE)).unwrap_err();
    assert!(matches!(more, DeviceError::Unsupported { .. }), "{more}");
}

#[test]
fn a_mode_change_that_cannot_end_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Arc::new(Shape::thin(SIZE).open(&path, CacheMode::WriteBack));
    let change = |bound| {
        let disk = Arc::clone(&disk);
        let to = CacheMode::WriteThrough;
        thread::spawn(move || {
            disk.core()
                .set_cache_mode_within(to, bound, &Wanted::default())
        })
    };
    // Its shard does not turn, so it does not end.
    let (mut stuck, mut other) = (Shard::any(), Shard::any());
    stuck.start(1, &*disk, write(0, &fill(1, 512), false));
    let changing = change(Duration::from_secs(2));
    eventually(|| disk.core().held().is_some());
    other.start(2, &*disk, write(512, &fill(2, 512), false));
    let dropped = {
        let mut gone = Shard::any();
        gone.start(3, &*disk, Request::Flush);
        disk.core().held()
    };
    assert_eq!((dropped, disk.core().held()), (Some(2), Some(1)));
    let failed = changing.join().unwrap();
    assert!(matches!(failed, Err(DeviceError::Stuck { .. })));
    assert_eq!(disk.cache_mode(), CacheMode::WriteBack);
    assert!(disk.features().volatile_cache, "the old promise holds");
    other.outcome(2).unwrap();
    // What is still inside is not forgotten.
    let again = change(Duration::from_millis(20)).join().unwrap();
    assert!(matches!(again, Err(DeviceError::Stuck { .. })));
    stuck.outcome(1).unwrap();
    disk.set_cache_mode(CacheMode::WriteThrough, &Wanted::default())
        .unwrap();
    assert!(!disk.features().volatile_cache);
    let expected = [fill(1, 512), fill(2, 512)].concat();
    assert_eq!(other.bytes(&*disk, 0, 1024), expected);
}

/// An operation holds it up; when that ends, nobody waits for the change any more.
#[test]
fn a_mode_change_that_was_given_up_does_not_come_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Arc::new(Shape::thin(SIZE).open(&path, CacheMode::None));
    let flags = || rustix::fs::fcntl_getfl(&disk.core().file).unwrap();
    let (before, wanted) = (flags(), Wanted::default());
    let (mut slow, mut other) = (Shard::any(), Shard::any());
    slow.start(1, &*disk, write(0, &fill(1, 512), false));
    let changing = {
        let (disk, wanted) = (Arc::clone(&disk), wanted.clone());
        thread::spawn(move || disk.set_cache_mode(CacheMode::WriteBack, &wanted))
    };
    eventually(|| disk.core().held().is_some());
    other.start(2, &*disk, write(512, &fill(2, 512), false));
    assert!(wanted.give_up());
    slow.outcome(1).unwrap();
    let refused = changing.join().unwrap();
    assert!(
        matches!(refused, Err(DeviceError::GivenUp { .. })),
        "{refused:?}"
    );
    assert_eq!(disk.cache_mode(), CacheMode::None);
    assert_eq!(flags(), before);
    other.outcome(2).unwrap();
    let wanted = Wanted::default();
    disk.set_cache_mode(CacheMode::WriteBack, &wanted).unwrap();
    assert!(!wanted.give_up(), "it has taken effect");
}

#[test]
fn who_gives_a_mode_change_up_and_who_makes_it_agree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Arc::new(Shape::thin(SIZE).open(&path, CacheMode::WriteThrough));
    for round in 0_u32..200 {
        let before = disk.cache_mode();
        let to = if before == CacheMode::WriteThrough {
            CacheMode::WriteBack
        } else {
            CacheMode::WriteThrough
        };
        let wanted = Wanted::default();
        let changing = {
            let (disk, wanted) = (Arc::clone(&disk), wanted.clone());
            thread::spawn(move || disk.set_cache_mode(to, &wanted))
        };
        // At another moment of the change each time.
        (0..round * 200).for_each(|_| std::hint::spin_loop());
        let given_up = wanted.give_up();
        let changed = changing.join().unwrap();
        assert_eq!(given_up, changed.is_err(), "{changed:?}");
        let now = if given_up { before } else { to };
        assert_eq!(disk.cache_mode(), now);
    }
}

/// Nobody waits for it any more, but the kernel may still write it.
#[test]
fn a_mode_change_waits_for_a_dropped_operation() {
    if let Err(reason) = ring::probe().uring {
        eprintln!("SKIPPED: over threads it ends by itself; no io_uring: {reason}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    Shape::thin(SIZE).create(&path);
    let disk = Shape::thin(SIZE).open(&path, CacheMode::WriteBack);
    let mut shard = Shard::over(DriverKind::Uring);
    let mut running = disk.execute(&shard.io(), write(0, &fill(1, 512), false));
    let mut context = Context::from_waker(Waker::noop());
    // Two steps: the reservation, then the write.
    while shard.in_flight() == 0 {
        assert!(running.as_mut().poll(&mut context).is_pending());
    }
    drop(running);
    let bound = Duration::from_millis(20);
    let change = || {
        disk.core()
            .set_cache_mode_within(CacheMode::WriteThrough, bound, &Wanted::default())
    };
    assert!(matches!(change(), Err(DeviceError::Stuck { .. })));
    shard.until(|shard| shard.in_flight() == 0);
    disk.set_cache_mode(CacheMode::WriteThrough, &Wanted::default())
        .unwrap();
}
