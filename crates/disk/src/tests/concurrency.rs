//! Several shards on one disk at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ring::DriverKind;

use super::{MODES, Shape};
use crate::ram::RamDisk;
use crate::request::{CacheMode, Disk, Request};
use crate::testing::{Shard, eventually, fill, shards, write};
use crate::wanted::Wanted;

const BLOCK: u64 = 512;
const WRITERS: u64 = 3;
const ROUNDS: u64 = 150;

/// A block that says whose it is and which round wrote it.
fn block(owner: u64, round: u64, at: u64) -> Vec<u8> {
    [owner, round, at].map(u64::to_le_bytes).concat().repeat(22)[..512].to_vec()
}

/// Each writer owns every third block, so that neighbours in one sector belong to different
/// shards; each reads its own blocks back and finds its last round.
fn writers_do_not_disturb_each_other(disk: &Arc<dyn Disk>, blocks: u64, meanwhile: impl FnOnce()) {
    let over = |owner| {
        let uring = owner % 2 == 1 && ring::probe().uring.is_ok();
        if uring {
            DriverKind::Uring
        } else {
            DriverKind::Epoll
        }
    };
    let threads: Vec<_> = (0..WRITERS)
        .map(|owner| {
            let disk = Arc::clone(disk);
            thread::spawn(move || {
                let mut shard = Shard::over(over(owner));
                let mine: Vec<u64> = (0..blocks).filter(|at| at % WRITERS == owner).collect();
                for round in 0..ROUNDS {
                    let at = mine[(round * 7 % mine.len() as u64) as usize];
                    // Two in flight, to blocks of the same writer.
                    let next = mine[((round * 7 + 1) % mine.len() as u64) as usize];
                    let fua = round % 16 == 0;
                    shard.start(1, &*disk, write(at * BLOCK, &block(owner, round, at), fua));
                    shard.start(
                        2,
                        &*disk,
                        write(next * BLOCK, &block(owner, round, next), false),
                    );
                    shard.outcome(1).unwrap();
                    shard.outcome(2).unwrap();
                    if round % 5 == 0 {
                        let zero = Request::Zero {
                            offset: at * BLOCK,
                            len: BLOCK,
                            unmap: true,
                            fua: false,
                        };
                        shard.run(&*disk, zero).unwrap();
                        assert_eq!(shard.bytes(&*disk, at * BLOCK, 512), vec![0; 512]);
                        shard
                            .run(&*disk, write(at * BLOCK, &block(owner, round, at), false))
                            .unwrap();
                    }
                    for each in [at, next] {
                        let got = shard.bytes(&*disk, each * BLOCK, 512);
                        assert!(
                            got == block(owner, round, each),
                            "block {each} in round {round}"
                        );
                    }
                }
                // Every block is still this writer's, or was never written.
                for at in mine {
                    let got = shard.bytes(&*disk, at * BLOCK, 512);
                    let owned = got[..8] == owner.to_le_bytes() && got[16..24] == at.to_le_bytes();
                    assert!(owned || got == vec![0; 512], "block {at} was overwritten");
                }
            })
        })
        .collect();
    meanwhile();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn neighbours_in_one_emulated_sector() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape {
        alignment: Some(4096),
        ..Shape::thin(32 << 10)
    };
    shape.create(&path);
    let disk: Arc<dyn Disk> = Arc::new(shape.open(&path, CacheMode::None));
    writers_do_not_disturb_each_other(&disk, 64, || ());
}

/// Zeroing inside a sector whose other blocks are being read, changed and written back.
#[test]
fn a_zeroed_block_does_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape {
        alignment: Some(4096),
        ..Shape::thin(4096)
    };
    shape.create(&path);
    let disk: Arc<dyn Disk> = Arc::new(shape.open(&path, CacheMode::None));
    let done = Arc::new(AtomicBool::new(false));
    let neighbour = {
        let (disk, done) = (Arc::clone(&disk), Arc::clone(&done));
        thread::spawn(move || {
            let mut shard = Shard::any();
            while !done.load(Ordering::Relaxed) {
                for key in [0, 2, 5] {
                    shard.start(key, &*disk, write(key * BLOCK, &block(9, 9, key), false));
                }
                for key in [0, 2, 5] {
                    shard.outcome(key).unwrap();
                }
            }
        })
    };
    let mut shard = Shard::any();
    for round in 0..400 {
        shard
            .run(&*disk, write(BLOCK, &block(1, round, 1), false))
            .unwrap();
        let (offset, len, unmap) = (BLOCK, BLOCK, round % 2 == 0);
        let zero = Request::Zero {
            offset,
            len,
            unmap,
            fua: false,
        };
        shard.run(&*disk, zero).unwrap();
        for _ in 0..3 {
            assert_eq!(
                shard.bytes(&*disk, BLOCK, 512),
                vec![0; 512],
                "round {round}"
            );
        }
    }
    done.store(true, Ordering::Relaxed);
    neighbour.join().unwrap();
}

#[test]
fn neighbours_in_one_reserved_granule() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape::thin(1 << 20);
    shape.create(&path);
    let disk: Arc<dyn Disk> = Arc::new(shape.open(&path, CacheMode::WriteBack));
    writers_do_not_disturb_each_other(&disk, 2048, || ());
}

#[test]
fn neighbours_in_one_chunk_of_memory() {
    let disk: Arc<dyn Disk> = Arc::new(RamDisk::new(1 << 20, 512, CacheMode::None).unwrap());
    writers_do_not_disturb_each_other(&disk, 2048, || ());
}

#[test]
fn the_mode_changes_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape::thin(1 << 20);
    shape.create(&path);
    let disk: Arc<dyn Disk> = Arc::new(shape.open(&path, CacheMode::None));
    let changed = AtomicBool::new(false);
    writers_do_not_disturb_each_other(&disk, 2048, || {
        for mode in MODES.into_iter().cycle().skip(1).take(24) {
            disk.set_cache_mode(mode, &Wanted::default()).unwrap();
            let volatile = mode != CacheMode::WriteThrough;
            assert_eq!(disk.features().volatile_cache, volatile);
            changed.store(true, Ordering::Relaxed);
        }
    });
    assert!(changed.load(Ordering::Relaxed));
}

/// The same where a small direct write reads and writes back its neighbours, and a cached one
/// the rest of its page.
#[test]
fn the_mode_changes_under_neighbours_in_one_emulated_sector() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape {
        alignment: Some(4096),
        ..Shape::thin(32 << 10)
    };
    shape.create(&path);
    let disk: Arc<dyn Disk> = Arc::new(shape.open(&path, CacheMode::None));
    writers_do_not_disturb_each_other(&disk, 64, || {
        for mode in MODES.into_iter().cycle().skip(1).take(96) {
            disk.set_cache_mode(mode, &Wanted::default()).unwrap();
        }
    });
}

/// A sector is read for a small write; before it is written back, the mode changes and a
/// neighbour is written.
#[test]
fn a_write_never_meets_one_of_another_mode() {
    for to in [CacheMode::WriteThrough, CacheMode::WriteBack] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let shape = Shape {
            alignment: Some(4096),
            ..Shape::thin(32 << 10)
        };
        shape.create(&path);
        let disk = Arc::new(shape.open(&path, CacheMode::None));
        let (mut slow, mut quick) = (Shard::any(), Shard::any());
        // Reads its sector; goes on when the shard turns.
        slow.start(1, &*disk, write(0, &fill(1, 512), false));
        let changing = {
            let disk = Arc::clone(&disk);
            thread::spawn(move || disk.set_cache_mode(to, &Wanted::default()))
        };
        eventually(|| disk.core().held().is_some());
        quick.start(2, &*disk, write(512, &fill(2, 512), false));
        assert_eq!(disk.core().held(), Some(1), "it did not wait");
        slow.outcome(1).unwrap();
        quick.outcome(2).unwrap();
        changing.join().unwrap().unwrap();
        assert_eq!(disk.cache_mode(), to);
        let expected = [fill(1, 512), fill(2, 512)].concat();
        assert!(quick.bytes(&*disk, 0, 1024) == expected);
    }
}

#[test]
fn flushes_that_wait_share_the_next_sync() {
    for mut shard in shards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let shape = Shape::thin(1 << 20);
        shape.create(&path);
        let disk = shape.open(&path, CacheMode::WriteBack);
        for key in 0..20 {
            shard.start(key, &disk, Request::Flush);
        }
        for key in 0..20 {
            shard.outcome(key).unwrap();
        }
        // The first, and one for all that came while it ran.
        assert_eq!(disk.core().syncs_started(), 2);
        shard.run(&disk, Request::Flush).unwrap();
        assert_eq!(disk.core().syncs_started(), 3);
    }
}
