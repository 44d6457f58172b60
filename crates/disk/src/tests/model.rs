//! Every back end, in every mode and over every driver, against a plain vector of bytes.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Loop, MODES, Mounted, Shape, root};
use crate::backing::Backing;
use crate::open::open;
use crate::ram::RamDisk;
use crate::request::{CacheMode, Disk, Extent, Request};
use crate::testing::{Shard, fill, shards, write};
use crate::wanted::Wanted;

const SIZE: u64 = 256 << 10;

/// Cases to run: `SANCTUM_TEST_FACTOR` multiplies them for a long search.
fn scaled(cases: u32) -> u32 {
    let factor = std::env::var("SANCTUM_TEST_FACTOR").ok();
    cases * factor.map_or(1, |factor| factor.parse().unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    Read {
        block: u64,
        count: u64,
    },
    Write {
        block: u64,
        count: u64,
        seed: u8,
        fua: bool,
    },
    Zero {
        block: u64,
        count: u64,
        unmap: bool,
        fua: bool,
    },
    Unmap(Vec<(u64, u64)>),
    Flush,
    Status {
        block: u64,
    },
    Mode(CacheMode),
}

fn steps(blocks: u64) -> impl Strategy<Value = Vec<Step>> {
    // Small runs, and now and then one over many file system blocks.
    let run = prop_oneof![4 => 1..12u64, 1 => 1..blocks / 2];
    let range = (0..blocks, run).prop_map(move |(block, count)| (block, count.min(blocks - block)));
    let one = prop_oneof![
        4 => range.clone().prop_map(|(block, count)| Step::Read { block, count }),
        6 => (range.clone(), any::<u8>(), prop::bool::weighted(0.2)).prop_map(
            |((block, count), seed, fua)| Step::Write { block, count, seed, fua }
        ),
        2 => (range.clone(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |((block, count), unmap, fua)| Step::Zero { block, count, unmap, fua }
        ),
        2 => prop::collection::vec(range, 0..4).prop_map(Step::Unmap),
        1 => Just(Step::Flush),
        2 => (0..blocks).prop_map(|block| Step::Status { block }),
        1 => prop::sample::select(&MODES).prop_map(Step::Mode),
    ];
    prop::collection::vec(one, 1..40)
}

/// Runs the steps on a disk that holds `model` at first; leaves in it what the disk must hold.
fn check(shard: &mut Shard, disk: &dyn Disk, model: &mut [u8], steps: &[Step]) {
    let block = u64::from(disk.geometry().block_size);
    let at = |first: u64, count: u64| (first * block) as usize..((first + count) * block) as usize;
    for step in steps {
        match step {
            Step::Read {
                block: first,
                count,
            } => {
                let range = at(*first, *count);
                let got = shard.bytes(disk, range.start as u64, range.len());
                assert!(got == model[range], "{step:?} read something else");
            }
            Step::Write {
                block: first,
                count,
                seed,
                fua,
            } => {
                let range = at(*first, *count);
                let data = fill(*seed, range.len());
                shard
                    .run(disk, write(range.start as u64, &data, *fua))
                    .unwrap();
                model[range].copy_from_slice(&data);
            }
            Step::Zero {
                block: first,
                count,
                unmap,
                fua,
            } => {
                let range = at(*first, *count);
                let (offset, len) = (range.start as u64, range.len() as u64);
                let request = Request::Zero {
                    offset,
                    len,
                    unmap: *unmap,
                    fua: *fua,
                };
                shard.run(disk, request).unwrap();
                model[range].fill(0);
            }
            Step::Unmap(runs) => {
                let extents = runs.iter().map(|(first, count)| Extent {
                    offset: first * block,
                    len: count * block,
                });
                let extents = extents.collect();
                shard.run(disk, Request::Unmap { extents }).unwrap();
                for (first, count) in runs {
                    model[at(*first, *count)].fill(0);
                }
            }
            Step::Flush => {
                shard.run(disk, Request::Flush).unwrap();
            }
            Step::Status { block: first } => {
                check_status(shard, disk, model, first * block);
            }
            Step::Mode(mode) => {
                disk.set_cache_mode(*mode, &Wanted::default()).unwrap();
                assert_eq!(disk.cache_mode(), *mode);
            }
        }
    }
    let whole = shard.bytes(disk, 0, model.len());
    assert!(whole == model, "the disk does not hold what was written");
    disk.flush_blocking().unwrap();
}

/// What GET LBA STATUS tells must fit the model: nothing that holds data is unmapped.
fn check_status(shard: &mut Shard, disk: &dyn Disk, model: &[u8], offset: u64) {
    let block = u64::from(disk.geometry().block_size);
    let (mapped, len) = shard.status(disk, offset);
    assert!(
        len >= block && len.is_multiple_of(block),
        "{len} is not whole blocks"
    );
    assert!(offset + len <= model.len() as u64);
    let run = &model[offset as usize..(offset + len) as usize];
    assert!(
        mapped || run.iter().all(|byte| *byte == 0),
        "data is told as unmapped"
    );
}

fn image_against_model(directory: &Path, shape: Shape, cases: u32) {
    let blocks = shape.size / u64::from(shape.block_size);
    let shards = RefCell::new(shards());
    let all = shards.borrow().len();
    let strategy = (steps(blocks), 0..all, prop::sample::select(&MODES));
    let path = directory.join("model.img");
    proptest!(ProptestConfig::with_cases(scaled(cases)), |((steps, shard, mode) in strategy)| {
        shape.create(&path);
        let mut model = vec![0; shape.size as usize];
        let disk = shape.open(&path, mode);
        check(&mut shards.borrow_mut()[shard], &disk, &mut model, &steps);
        drop(disk);
        let file = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        prop_assert!(file == model, "the file does not hold what was written");
    });
}

#[test]
fn thin_image() {
    let directory = tempfile::tempdir().unwrap();
    image_against_model(directory.path(), Shape::thin(SIZE), 24);
}

#[test]
fn preallocated_image_of_4096_byte_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let shape = Shape {
        block_size: 4096,
        ..Shape::preallocated(SIZE)
    };
    image_against_model(directory.path(), shape, 16);
}

#[test]
fn image_with_emulated_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let shape = Shape {
        alignment: Some(4096),
        ..Shape::thin(SIZE)
    };
    image_against_model(directory.path(), shape, 24);
}

#[test]
fn image_on_4096_byte_sectors() {
    if !root("an image on a file system over 4096-byte sectors") {
        return;
    }
    let mounted = Mounted::ext4(16 << 20, 4096);
    image_against_model(mounted.path(), Shape::thin(SIZE), 16);
}

#[test]
fn image_on_a_file_system_in_memory() {
    if !root("an image on tmpfs") {
        return;
    }
    let mounted = Mounted::tmpfs(16 << 20);
    // Neither direct I/O nor zeroing of ranges: the fallbacks.
    image_against_model(mounted.path(), Shape::thin(SIZE), 24);
    image_against_model(mounted.path(), Shape::preallocated(SIZE), 8);
}

#[test]
fn ram_disk() {
    let shards = RefCell::new(shards());
    let all = shards.borrow().len();
    let strategy = (steps(SIZE / 512), 0..all);
    proptest!(ProptestConfig::with_cases(scaled(64)), |((steps, shard) in strategy)| {
        let disk = RamDisk::new(SIZE, 512, CacheMode::None).unwrap();
        let mut model = vec![0; SIZE as usize];
        check(&mut shards.borrow_mut()[shard], &disk, &mut model, &steps);
    });
}

fn block_against_model(sector: u32, block_size: u32, cases: u32) {
    let device = Loop::over_new_file(SIZE, sector);
    let backing = Backing::Block {
        path: device.node().into(),
        block_size: Some(block_size),
        read_only: false,
    };
    let shards = RefCell::new(shards());
    let all = shards.borrow().len();
    let strategy = (
        steps(SIZE / u64::from(block_size)),
        0..all,
        prop::sample::select(&MODES),
    );
    // What one case leaves on the device is what the next one finds.
    let model = RefCell::new(vec![0; SIZE as usize]);
    proptest!(ProptestConfig::with_cases(scaled(cases)), |((steps, shard, mode) in strategy)| {
        let mut model = model.borrow_mut();
        let disk: Arc<dyn Disk> = open(&backing, mode).unwrap();
        check(&mut shards.borrow_mut()[shard], &*disk, &mut model, &steps);
        drop(disk);
        let device = std::fs::read(device.node()).unwrap();
        prop_assert!(device == *model, "the device does not hold what was written");
    });
}

#[test]
fn block_device() {
    if root("a block device") {
        block_against_model(512, 512, 16);
        block_against_model(512, 4096, 8);
    }
}

#[test]
fn block_device_with_smaller_blocks_than_its_own() {
    if root("a block device of 4096-byte sectors") {
        block_against_model(4096, 512, 16);
    }
}
