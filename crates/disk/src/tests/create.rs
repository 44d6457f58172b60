//! Making images: all or nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Mounted, Shape, root, space_of};
use crate::backing::Backing;
use crate::backing::Provisioning::{Preallocated, Thin};
use crate::create::{create_image, remove_image};
use crate::limits::PREALLOCATE_CHUNK;
use crate::request::{CacheMode, Disk};
use crate::{BesideStore, DeviceError, FileId, document_of_image};

fn names(directory: &std::path::Path) -> Vec<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    fs::read_dir(directory)
        .unwrap()
        .map(|each| entry(each).into_string().unwrap())
        .collect()
}

#[test]
fn thin_takes_no_space_and_belongs_to_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    create_image(&path, 1 << 40, Thin, &mut |_, _| true).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), space_of(&path)), (1 << 40, 0));
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_existing_file_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    fs::write(&path, "precious").unwrap();
    let dangling = directory.path().join("link.img");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &dangling).unwrap();
    for there in [&path, &dangling] {
        let exists = create_image(there, 4096, Thin, &mut |_, _| true).unwrap_err();
        assert!(matches!(exists, DeviceError::Exists { .. }), "{exists}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(names(directory.path()).len(), 2);
}

#[test]
fn a_new_image_never_takes_over_an_old_identity() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let shape = Shape::thin(1 << 20);
    shape.create(&path);
    let backing = Backing::Image {
        path: path.clone(),
        size: 1 << 20,
        provisioning: Thin,
        block_size: 512,
        read_only: false,
    };
    let store = BesideStore::for_device(&backing, "a", directory.path()).unwrap();
    let old = store.load_or_create().unwrap();
    assert_eq!(
        document_of_image(&path).canonicalize().unwrap(),
        store.path().canonicalize().unwrap()
    );
    let image = FileId::at(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let refused = create_image(&path, 1 << 20, Thin, &mut |_, _| true).unwrap_err();
    assert!(
        matches!(&refused, DeviceError::Leftover { document, .. } if document.exists()),
        "{refused}"
    );
    assert_eq!(names(directory.path()), ["a.img.sanctum"]);
    assert_eq!(store.load().unwrap(), Some(old));
    // The two ways out: without the document, or with the image.
    remove_image(&path, image).unwrap();
    assert!(names(directory.path()).is_empty());
    shape.create(&path);
}

#[test]
fn an_image_is_removed_before_its_document_and_never_while_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (directory.path().join("a.img"), directory.path().join("b"));
    let shape = Shape::thin(1 << 20);
    shape.create(&path);
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let document = document_of_image(&link);
    assert_eq!(document, document_of_image(&path));
    fs::write(&document, "identity").unwrap();
    fs::write(directory.path().join("a.img.sanctum.new"), "half").unwrap();
    let disk = shape.open(&path, CacheMode::None);
    let image = disk.file().unwrap();
    assert_eq!(image, FileId::at(&link).unwrap());
    let used = remove_image(&path, image).unwrap_err();
    assert!(matches!(used, DeviceError::Locked { .. }), "{used}");
    assert_eq!(names(directory.path()).len(), 4);
    drop(disk);
    remove_image(&link, image).unwrap();
    assert!(names(directory.path()).is_empty());
    remove_image(&path, image).unwrap();
    // The document cannot be removed: the image is gone already.
    shape.create(&path);
    fs::create_dir(&document).unwrap();
    let image = FileId::at(&path).unwrap();
    let failed = remove_image(&path, image).unwrap_err();
    assert!(
        matches!(&failed, DeviceError::Remove { path, .. } if *path == document),
        "{failed}"
    );
    assert!(!path.exists() && document.exists());
    let other = remove_image(directory.path(), image).unwrap_err();
    assert!(matches!(other, DeviceError::Replaced { .. }), "{other}");
}

/// Who owns the directory of an image can make its path lead anywhere.
#[test]
fn only_the_very_file_is_removed_whatever_its_path_leads_to() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("own");
    fs::create_dir(&own).unwrap();
    let (path, kept) = (own.join("a.img"), own.join("kept.img"));
    let precious = directory.path().join("a.img");
    fs::write(&precious, "precious").unwrap();
    fs::write(directory.path().join("a.img.sanctum"), "precious").unwrap();
    let image = create_image(&path, 4096, Thin, &mut |_, _| true).unwrap();
    assert_eq!(image, FileId::at(&path).unwrap());
    fs::write(own.join("a.img.sanctum"), "identity").unwrap();
    fs::rename(&path, &kept).unwrap();
    let refused = || {
        let refused = remove_image(&path, image).unwrap_err();
        assert!(
            matches!(refused, DeviceError::Replaced { .. }),
            "{refused:?}"
        );
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert!(directory.path().join("a.img.sanctum").exists());
    };
    std::os::unix::fs::symlink(&precious, &path).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another").unwrap();
    refused();
    assert_eq!(fs::read(&path).unwrap(), b"another");
    assert!(kept.exists() && own.join("a.img.sanctum").exists());
    // The directory, too, can be led elsewhere.
    let moved = directory.path().join("moved");
    fs::rename(&own, &moved).unwrap();
    std::os::unix::fs::symlink(directory.path(), &own).unwrap();
    refused();
    fs::remove_file(&own).unwrap();
    fs::rename(&moved, &own).unwrap();
    fs::rename(&kept, &path).unwrap();
    remove_image(&path, image).unwrap();
    assert!(names(&own).is_empty());
}

#[test]
fn a_file_made_anew_is_another_one_though_it_gets_the_same_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let make = || create_image(&path, 4096, Thin, &mut |_, _| true).unwrap();
    let first = make();
    // The clock of a file system has steps of some milliseconds.
    let second = (0..10_000).find_map(|_| {
        fs::remove_file(&path).unwrap();
        Some(make()).filter(|again| *again != first)
    });
    let second = second.expect("two files are told apart");
    remove_image(&path, first).unwrap_err();
    remove_image(&path, second).unwrap();
}

#[test]
fn a_file_that_appears_meanwhile_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let exists = create_image(&path, 4096, Preallocated, &mut |done, _| {
        if done == 0 {
            fs::write(&path, "precious").unwrap();
        }
        true
    });
    assert!(
        matches!(exists, Err(DeviceError::Exists { .. })),
        "{exists:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn progress_rises_from_nothing_to_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    let (mut seen, size) = (Vec::new(), 2 * PREALLOCATE_CHUNK + 512);
    create_image(&path, size, Preallocated, &mut |done, total| {
        assert_eq!(total, size);
        seen.push(done);
        true
    })
    .unwrap();
    assert_eq!(seen, [0, PREALLOCATE_CHUNK, 2 * PREALLOCATE_CHUNK, size]);
    assert!(space_of(&path) >= size);
}

#[test]
fn cancelled_at_any_point_nothing_is_left() {
    for stop in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let mut calls = 0;
        let cancelled = create_image(&path, 2 * PREALLOCATE_CHUNK, Preallocated, &mut |_, _| {
            // Nobody sees half an image.
            assert!(!path.exists());
            calls += 1;
            calls <= stop
        });
        assert!(
            matches!(cancelled, Err(DeviceError::Cancelled { .. })),
            "{cancelled:?}"
        );
        assert!(names(directory.path()).is_empty());
    }
}

#[test]
fn sizes_and_places_that_cannot_be() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    for size in [0, 511, u64::MAX - 511] {
        let refused = create_image(&path, size, Thin, &mut |_, _| true);
        assert!(
            matches!(refused, Err(DeviceError::Size { .. })),
            "{refused:?}"
        );
    }
    // More than the file system can address.
    let refused = create_image(&path, 1 << 60, Thin, &mut |_, _| true);
    assert!(
        matches!(refused, Err(DeviceError::NoSpace { .. })),
        "{refused:?}"
    );
    let nowhere = directory.path().join("missing/a.img");
    let refused = create_image(&nowhere, 4096, Thin, &mut |_, _| true);
    assert!(
        matches!(refused, Err(DeviceError::Create { .. })),
        "{refused:?}"
    );
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    if !root("a full file system") {
        return;
    }
    let mounted = Mounted::tmpfs(1 << 20);
    let path = mounted.path().join("a.img");
    let at_once = create_image(&path, 2 << 20, Preallocated, &mut |_, _| true);
    assert!(matches!(at_once, Err(DeviceError::NoSpace { need, .. }) if need == 2 << 20));
    // Enough at first, then somebody else takes it.
    let other = mounted.path().join("other");
    let later = create_image(&path, 1 << 19, Preallocated, &mut |done, _| {
        if done == 0 {
            fs::write(&other, vec![1; 900 << 10]).unwrap();
        }
        true
    });
    assert!(
        matches!(later, Err(DeviceError::NoSpace { .. })),
        "{later:?}"
    );
    assert_eq!(names(mounted.path()), ["other"]);
}
