//! Full disks, and flushes that failed.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::{Loop, MODES, Mounted, Shape, root, space_of};
use crate::DeviceError;
use crate::backing::Backing;
use crate::block;
use crate::limits::RESERVE_GRANULE;
use crate::open::open;
use crate::request::{CacheMode, Disk, DiskError, Extent, Request};
use crate::testing::{Shard, fill, shards, write};
use crate::wanted::Wanted;

const PIECE: usize = 64 << 10;

/// Writes pieces until the first failure; how many were acknowledged, and the failure.
fn fill_up(shard: &mut Shard, disk: &dyn Disk) -> (u64, DiskError) {
    for piece in 0.. {
        let data = fill(piece as u8, PIECE);
        if let Err(error) = shard.run(disk, write(piece * PIECE as u64, &data, false)) {
            return (piece, error);
        }
    }
    unreachable!()
}

/// What was acknowledged can be made stable, and is there; the full disk is told as such.
fn acknowledged_means_kept(directory: &Path, mode: CacheMode) {
    for mut shard in shards() {
        let path = directory.join("thin.img");
        let shape = Shape::thin(1 << 30);
        shape.create(&path);
        let disk = shape.open(&path, mode);
        let (pieces, error) = fill_up(&mut shard, &disk);
        assert_eq!(error, DiskError::NoSpace, "{mode}");
        assert!(pieces > 0);
        shard.run(&disk, Request::Flush).unwrap();
        disk.flush_blocking().unwrap();
        // Overwriting needs no space.
        shard.run(&disk, write(0, &fill(200, PIECE), true)).unwrap();
        for piece in 1..pieces {
            let got = shard.bytes(&disk, piece * PIECE as u64, PIECE);
            assert!(got == fill(piece as u8, PIECE), "{mode}: piece {piece}");
        }
        // Space given back can be used again.
        let freed = Extent {
            offset: 0,
            len: PIECE as u64,
        };
        shard
            .run(
                &disk,
                Request::Unmap {
                    extents: vec![freed],
                },
            )
            .unwrap();
        shard.run(&disk, Request::Flush).unwrap();
        shard
            .run(
                &disk,
                write(pieces * PIECE as u64, &fill(9, PIECE / 2), true),
            )
            .unwrap();
        drop(disk);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn acknowledged_means_kept_on_ext4() {
    if root("a full ext4") {
        let mounted = Mounted::ext4(16 << 20, 512);
        MODES
            .into_iter()
            .for_each(|mode| acknowledged_means_kept(mounted.path(), mode));
    }
}

#[test]
fn acknowledged_means_kept_on_tmpfs() {
    if root("a full tmpfs") {
        let mounted = Mounted::tmpfs(4 << 20);
        MODES
            .into_iter()
            .for_each(|mode| acknowledged_means_kept(mounted.path(), mode));
    }
}

/// The first write into a granule takes its space at once; what gave space back takes it again.
#[test]
fn space_before_promise() {
    for mut shard in shards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let shape = Shape::thin(16 * RESERVE_GRANULE);
        shape.create(&path);
        let disk = shape.open(&path, CacheMode::WriteBack);
        let empty = space_of(&path);
        let at = 3 * RESERVE_GRANULE + 512;
        shard.run(&disk, write(at, &fill(1, 512), false)).unwrap();
        assert!(space_of(&path) >= empty + RESERVE_GRANULE);
        let granule = Extent {
            offset: 3 * RESERVE_GRANULE,
            len: RESERVE_GRANULE,
        };
        shard
            .run(
                &disk,
                Request::Unmap {
                    extents: vec![granule],
                },
            )
            .unwrap();
        assert!(space_of(&path) < empty + RESERVE_GRANULE);
        shard.run(&disk, write(at, &fill(2, 512), false)).unwrap();
        assert!(space_of(&path) >= empty + RESERVE_GRANULE);
        assert_eq!(shard.bytes(&disk, at, 512), fill(2, 512));
        // In the other modes nothing is taken but what is written.
        disk.set_cache_mode(CacheMode::None, &Wanted::default())
            .unwrap();
        shard.run(&disk, write(0, &fill(2, 512), false)).unwrap();
        assert!(space_of(&path) < empty + 2 * RESERVE_GRANULE);
    }
}

/// What growing adds to the granule that the device ended in is reserved like the rest.
#[test]
fn space_before_promise_behind_the_old_end() {
    for mut shard in shards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let shape = Shape::thin(RESERVE_GRANULE / 4);
        shape.create(&path);
        let disk = shape.open(&path, CacheMode::WriteBack);
        shard.run(&disk, write(0, &fill(1, 512), false)).unwrap();
        assert!(space_of(&path) >= RESERVE_GRANULE / 4);
        disk.grow(Some(2 * RESERVE_GRANULE)).unwrap();
        let behind = RESERVE_GRANULE / 2;
        shard
            .run(&disk, write(behind, &fill(2, 512), false))
            .unwrap();
        assert!(space_of(&path) >= RESERVE_GRANULE, "{}", space_of(&path));
        assert_eq!(shard.bytes(&disk, behind, 512), fill(2, 512));
    }
}

#[test]
fn growing_into_a_full_disk_changes_nothing() {
    if !root("a full tmpfs") {
        return;
    }
    let mounted = Mounted::tmpfs(4 << 20);
    let path = mounted.path().join("a.img");
    let shape = Shape::preallocated(1 << 20);
    shape.create(&path);
    let disk = shape.open(&path, CacheMode::None);
    let full = disk.grow(Some(16 << 20)).unwrap_err();
    assert!(matches!(full, DeviceError::NoSpace { .. }), "{full}");
    assert_eq!(disk.geometry().bytes(), 1 << 20);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
}

/// A block device that promises more than it has: writes into the page cache are acknowledged, and
/// the flush finds out.
struct Liar {
    // In the order in which they go.
    device: Loop,
    _mounted: Mounted,
}

impl Liar {
    fn new() -> Self {
        let mounted = Mounted::tmpfs(1 << 20);
        let file = mounted.path().join("backing");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        Self {
            device: Loop::over(&file, 512),
            _mounted: mounted,
        }
    }

    fn backing(&self) -> Backing {
        Backing::Block {
            path: self.device.node().into(),
            block_size: None,
            read_only: false,
        }
    }

    /// Opens it and has it lose what it acknowledges.
    fn overfilled(&self, shard: &mut Shard) -> Arc<dyn Disk> {
        let disk = open(&self.backing(), CacheMode::WriteBack).unwrap();
        overfill(shard, &*disk);
        disk
    }
}

fn overfill(shard: &mut Shard, disk: &dyn Disk) {
    for piece in 0..64 {
        let data = fill(1, PIECE);
        shard
            .run(disk, write(piece * PIECE as u64, &data, false))
            .unwrap();
    }
}

/// The kernel has this flush to its end, and nobody hears what it says.
fn drop_a_flush(shard: &mut Shard, disk: &dyn Disk) {
    let mut flush = disk.execute(&shard.io(), Request::Flush);
    let mut context = Context::from_waker(Waker::noop());
    assert!(flush.as_mut().poll(&mut context).is_pending());
    drop(flush);
    shard.until(|shard| shard.in_flight() == 0);
}

/// The kernel told the one that was dropped, and nobody else on that descriptor.
#[test]
fn a_flush_after_one_that_was_dropped_does_not_lie() {
    if !root("a disk that loses writes") {
        return;
    }
    for mut shard in shards() {
        let liar = Liar::new();
        let disk = liar.overfilled(&mut shard);
        drop_a_flush(&mut shard, &*disk);
        let failed = shard.run(&*disk, Request::Flush);
        assert!(matches!(failed, Err(DiskError::Io { .. })), "{failed:?}");
    }
}

/// Whatever shards have dropped, neither they nor the control plane take a loss for a good flush.
#[test]
fn a_flush_after_several_that_were_dropped_does_not_lie() {
    if !root("a disk that loses writes") {
        return;
    }
    for asks_control in [false, true] {
        for mut shard in shards() {
            let liar = Liar::new();
            let disk = liar.overfilled(&mut shard);
            drop_a_flush(&mut shard, &*disk);
            drop_a_flush(&mut shard, &*disk);
            if asks_control {
                let failed = disk.flush_blocking();
                assert!(
                    matches!(failed, Err(DeviceError::Sync { .. })),
                    "{failed:?}"
                );
            }
            let failed = shard.run(&*disk, Request::Flush);
            assert!(matches!(failed, Err(DiskError::Io { .. })), "{failed:?}");
        }
    }
}

/// One that was dropped can go on for long, and be told of what is written meanwhile.
#[test]
fn a_dropped_flush_that_ends_late_takes_no_news_away() {
    if !root("a disk that loses writes") {
        return;
    }
    for mut shard in shards() {
        let liar = Liar::new();
        let disk = block::open(liar.device.node(), None, false, CacheMode::WriteBack).unwrap();
        drop_a_flush(&mut shard, &disk);
        shard.run(&disk, Request::Flush).unwrap();
        overfill(&mut shard, &disk);
        // Stands for the late end.
        rustix::fs::fdatasync(&disk.core().file).unwrap_err();
        let failed = shard.run(&disk, Request::Flush);
        assert!(matches!(failed, Err(DiskError::Io { .. })), "{failed:?}");
    }
}

#[test]
fn a_failed_flush_is_never_followed_by_a_good_one() {
    if !root("a disk that loses writes") {
        return;
    }
    for mut shard in shards() {
        let liar = Liar::new();
        let (backing, disk) = (liar.backing(), liar.overfilled(&mut shard));
        let failed = shard.run(&*disk, Request::Flush).unwrap_err();
        assert!(matches!(failed, DiskError::Io { .. }), "{failed}");
        // The kernel has told; it would call the next one good.
        assert_eq!(shard.run(&*disk, Request::Flush).unwrap_err(), failed);
        let fua = shard.run(&*disk, write(0, &fill(2, 512), true));
        assert_eq!(fua.unwrap_err(), failed);
        assert!(matches!(
            disk.flush_blocking(),
            Err(DeviceError::Sync { .. })
        ));
        let changed = disk.set_cache_mode(CacheMode::WriteThrough, &Wanted::default());
        assert!(
            matches!(changed, Err(DeviceError::Sync { .. })),
            "{changed:?}"
        );
        assert!(disk.features().volatile_cache);
        drop(disk);
        let again = open(&backing, CacheMode::None).unwrap();
        shard.run(&*again, Request::Flush).unwrap();
    }
}
