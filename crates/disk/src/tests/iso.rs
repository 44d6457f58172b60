//! ISO images.

use std::path::Path;

use crate::backing::Backing;
use crate::open::open;
use crate::request::{CacheMode, Request};
use crate::testing::{fill, shards, write};
use crate::wanted::Wanted;
use crate::{DeviceError, DiskError};

/// An image whose sector 16 holds a mark, and that ends `extra` bytes into its sector 20.
fn image(path: &Path, sector: usize, mark: &[u8; 5], extra: usize) -> Vec<u8> {
    let mut bytes = fill(1, 20 * 2048 + extra);
    bytes[sector * 2048 + 1..][..5].copy_from_slice(mark);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn volume_descriptors_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.iso");
    for (sector, mark) in [
        (16, b"CD001"),
        (16, b"BEA01"),
        (17, b"NSR02"),
        (19, b"NSR03"),
    ] {
        image(&path, sector, mark, 0);
        let disk = open(&Backing::Iso { path: path.clone() }, CacheMode::None).unwrap();
        let geometry = disk.geometry();
        assert_eq!((geometry.block_size, geometry.blocks), (2048, 20));
        assert!(disk.features().read_only && !disk.features().volatile_cache);
    }
    for content in [fill(1, 20 * 2048), b"CD001".to_vec(), Vec::new()] {
        std::fs::write(&path, content).unwrap();
        let refused = open(&Backing::Iso { path: path.clone() }, CacheMode::None).unwrap_err();
        assert!(
            matches!(refused, DeviceError::NotOptical { .. }),
            "{refused}"
        );
    }
}

#[test]
fn the_last_block_is_filled_up_and_a_cut_file_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.iso");
    for mut shard in shards() {
        let mut bytes = image(&path, 16, b"CD001", 100);
        bytes.resize(21 * 2048, 0);
        let backing = Backing::Iso { path: path.clone() };
        let disk = open(&backing, CacheMode::WriteBack).unwrap();
        // Several drives may hold the same medium.
        let second = open(&backing, CacheMode::None).unwrap();
        assert!(shard.bytes(&*disk, 0, 21 * 2048) == bytes);
        assert_eq!(shard.bytes(&*second, 20 * 2048, 2048), bytes[20 * 2048..]);
        let refused = shard
            .run(&*disk, write(0, &fill(0, 2048), false))
            .unwrap_err();
        assert_eq!(refused, DiskError::ReadOnly);
        shard.run(&*disk, Request::Flush).unwrap();
        assert_eq!(shard.status(&*disk, 2048), (true, 20 * 2048));
        assert_eq!(disk.grow(None).unwrap(), disk.geometry());
        assert!(matches!(
            disk.grow(Some(22 * 2048)),
            Err(DeviceError::Unsupported { .. })
        ));
        disk.set_cache_mode(CacheMode::WriteThrough, &Wanted::default())
            .unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(20 * 2048)
            .unwrap();
        let cut = shard
            .run(&*disk, crate::testing::read(20 * 2048, 2048))
            .unwrap_err();
        assert_eq!(cut, DiskError::Gone);
    }
}
