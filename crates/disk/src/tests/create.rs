//! Making images: all or nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Mounted, Shape, root, space_of};
use crate::backing::Backing;
use crate::backing::Provisioning::{Preallocated, Thin};
use crate::create::{create_image, remove_image};
use crate::limits::PREALLOCATE_CHUNK;
use crate::request::CacheMode;
use crate::{BesideStore, DeviceError, document_of_image};

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
    fs::remove_file(&path).unwrap();
    let refused = create_image(&path, 1 << 20, Thin, &mut |_, _| true).unwrap_err();
    assert!(
        matches!(&refused, DeviceError::Leftover { document, .. } if document.exists()),
        "{refused}"
    );
    assert_eq!(names(directory.path()), ["a.img.sanctum"]);
    assert_eq!(store.load().unwrap(), Some(old));
    // The two ways out: without the document, or with the image.
    remove_image(&path).unwrap();
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
    let used = remove_image(&path).unwrap_err();
    assert!(matches!(used, DeviceError::Locked { .. }), "{used}");
    assert_eq!(names(directory.path()).len(), 4);
    drop(disk);
    remove_image(&link).unwrap();
    assert_eq!(names(directory.path()), ["b"]);
    remove_image(&path).unwrap();
    // The document cannot be removed: the image is gone already.
    shape.create(&path);
    fs::create_dir(&document).unwrap();
    let failed = remove_image(&path).unwrap_err();
    assert!(
        matches!(&failed, DeviceError::Remove { path, .. } if *path == document),
        "{failed}"
    );
    assert!(!path.exists() && document.exists());
    let kind = remove_image(directory.path()).unwrap_err();
    assert!(matches!(kind, DeviceError::WrongKind { .. }), "{kind}");
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
