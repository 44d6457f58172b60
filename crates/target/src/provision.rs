//! Making and removing what backs a device: the image file, and the document beside it.
//!
//! The settings name devices; whoever changes them (the service binary) makes an image before a
//! device names it and removes it after none does. Where the document lies, and what goes with the
//! device and what stays, is known here and nowhere above:
//!
//! | device | its document (identity, reservations) | when the device is removed |
//! |---|---|---|
//! | image | `FILE.sanctum` next to the file | stays with the file; goes with it ([`remove_image`]) |
//! | block | data directory, by the disk's own serial | stays: the disk is the same one when it comes back |
//! | RAM, ISO | data directory, by the device's name | goes ([`forget`]): nothing of the device is left |
//!
//! What can fail between two steps: an image is made whole or not at all. A removal that broke off
//! may leave the document; no later image of that name takes its identity, it is refused
//! ([`Fault::Leftover`]).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use disk::FileId;
use disk::{BesideStore, DeviceError};

use crate::config::{Backing, Device, Provisioning};

/// Why something was not made, looked at or removed. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// The disk floor would not do it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There is no such file, or it cannot be looked at; the caller knows where the path came from.
    #[error("cannot use the file {}", path.display())]
    Absent {
        /// The path given.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The path names something else than a file.
    #[error("{} is no file; a disk or partition is a device of kind block", path.display())]
    NoFile {
        /// The path given.
        path: PathBuf,
    },
    /// It is there still.
    #[error("cannot remove {}; remove it by hand", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What is wrong, for programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Something is in the place already, and is left as it is.
    Exists,
    /// The document of an earlier image lies beside the place: the new one would take its identity.
    Leftover,
    /// There is nothing in the place.
    Missing,
    /// Somebody else has it, or operations of an earlier run have not ended.
    InUse,
    /// The file system is full.
    NoSpace,
    /// The caller cancelled; nothing is left behind.
    Cancelled,
    /// Size or block size cannot be.
    Invalid,
    /// Anything else; the text and its causes tell.
    Other,
}

impl ProvisionError {
    /// What is wrong, for programs.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Device(DeviceError::Exists { .. }) => Fault::Exists,
            Self::Device(DeviceError::Leftover { .. }) => Fault::Leftover,
            Self::Device(DeviceError::NoSpace { .. }) => Fault::NoSpace,
            Self::Device(DeviceError::Cancelled { .. }) => Fault::Cancelled,
            Self::Device(DeviceError::Size { .. } | DeviceError::BlockSize { .. }) => {
                Fault::Invalid
            }
            Self::Device(DeviceError::Missing { .. }) | Self::Absent { .. } => Fault::Missing,
            Self::Device(_) | Self::NoFile { .. } | Self::Remove { .. } => Fault::Other,
        }
    }
}

/// Makes an image file of `size` bytes, all or nothing, never over an existing one. `progress(done,
/// total)` is called along a preallocation, in bytes; returning false cancels. Returns which file it
/// is, for [`remove_image`]. Blocks.
///
/// # Errors
/// What [`Fault`] lists; nothing is left behind.
pub fn create_image(
    path: &Path,
    size: u64,
    provisioning: Provisioning,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<FileId, ProvisionError> {
    let made = disk::create_image(path, size, provisioning, progress)?;
    // A thin image is made at once and asks nobody: a cancellation that came meanwhile counts, too.
    if !progress(size, size) {
        remove_image(path, made)?;
        return Err(DeviceError::Cancelled { path: path.into() }.into());
    }
    Ok(made)
}

/// Size in bytes of an image file that is there already.
///
/// # Errors
/// [`ProvisionError::Absent`], [`ProvisionError::NoFile`].
pub fn image_size(path: &Path) -> Result<u64, ProvisionError> {
    match path.metadata() {
        Ok(found) if found.is_file() => Ok(found.len()),
        Ok(_) => Err(ProvisionError::NoFile { path: path.into() }),
        Err(source) => Err(ProvisionError::Absent {
            path: path.into(),
            source,
        }),
    }
}

/// Removes an image file, the document beside it and a link that the path is; what is not there is
/// removed. No device may name it any more. `image` says which file: see
/// [`Service::file_of`](crate::Service::file_of).
///
/// # Errors
/// What is there still, and [`DeviceError::Replaced`] where that is another file; a repetition goes
/// on from there.
pub fn remove_image(path: &Path, image: FileId) -> Result<(), ProvisionError> {
    Ok(disk::remove_image(path, image)?)
}

/// Whether [`remove_image`] would find that very file at the path, or none: to be asked before what
/// cannot be taken back.
///
/// # Errors
/// [`DeviceError::Replaced`], and [`ProvisionError::Absent`] where it cannot be told.
pub fn is_image(path: &Path, image: FileId) -> Result<(), ProvisionError> {
    match FileId::at(path) {
        Ok(found) if found == image => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(()),
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            let path = path.into();
            Err(ProvisionError::Absent { path, source })
        }
        _ => Err(DeviceError::Replaced { path: path.into() }.into()),
    }
}

/// Removes what a device without a place of its own has left in the data directory: a device of
/// that name is a new one from here on. Images and disks keep theirs.
///
/// # Errors
/// [`ProvisionError::Remove`].
pub fn forget(device: &Device, data_dir: &Path) -> Result<(), ProvisionError> {
    match device.backing {
        Backing::Image { .. } | Backing::Block { .. } => Ok(()),
        Backing::Ram { .. } | Backing::Iso { .. } => {
            let beside = BesideStore::for_device(&device.backing, &device.name, data_dir)?;
            remove(beside.path())
        }
    }
}

/// What a path leads to: the same for all that lead to one file, none where it cannot be looked at.
#[must_use]
pub fn led_to(path: &Path) -> Option<(u64, u64)> {
    let file = path.metadata().ok()?;
    Some((file.dev(), file.ino()))
}

fn remove(path: &Path) -> Result<(), ProvisionError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ProvisionError::Remove {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = directory.read_dir().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn device(name: &str, backing: Backing) -> Device {
        Device::new(name, backing)
    }

    #[test]
    fn an_image_goes_with_its_document_and_its_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let link = directory.path().join("link.img");
        let made = create_image(&path, 1 << 20, Provisioning::Thin, &mut |_, _| true).unwrap();
        assert_eq!(image_size(&path).unwrap(), 1 << 20);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::write(directory.path().join("a.img.sanctum"), "x").unwrap();
        assert!(led_to(&path).is_some() && led_to(&path) == led_to(&link));
        assert!(led_to(&path) != led_to(directory.path()));
        assert_eq!(led_to(&directory.path().join("none")), None);
        remove_image(&link, made).unwrap();
        assert!(names(directory.path()).is_empty());
        remove_image(&link, made).unwrap();
        assert_eq!(image_size(&path).unwrap_err().fault(), Fault::Missing);
    }

    #[test]
    fn a_file_put_in_the_place_of_an_image_is_no_image() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let precious = directory.path().join("precious");
        let made = create_image(&path, 1 << 20, Provisioning::Thin, &mut |_, _| true).unwrap();
        is_image(&path, made).unwrap();
        std::fs::rename(&path, directory.path().join("kept.img")).unwrap();
        is_image(&path, made).unwrap();
        let refused = || {
            for answer in [is_image(&path, made), remove_image(&path, made)] {
                let text = answer.unwrap_err().to_string();
                assert!(text.contains("not the one that the device uses"), "{text}");
            }
        };
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        refused();
        std::fs::write(&precious, "x").unwrap();
        refused();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "x").unwrap();
        refused();
        assert_eq!(names(directory.path()), ["a.img", "kept.img", "precious"]);
    }

    #[test]
    fn a_new_image_does_not_take_the_identity_of_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        std::fs::write(directory.path().join("a.img.sanctum"), "x").unwrap();
        let made = create_image(&path, 1 << 20, Provisioning::Thin, &mut |_, _| true);
        assert_eq!(made.unwrap_err().fault(), Fault::Leftover);
        assert_eq!(names(directory.path()), ["a.img.sanctum"]);
    }

    #[test]
    fn a_cancelled_thin_image_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let made = create_image(&path, 1 << 20, Provisioning::Thin, &mut |_, _| false);
        assert_eq!(made.unwrap_err().fault(), Fault::Cancelled);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn only_what_has_no_place_of_its_own_is_forgotten() {
        let data = tempfile::tempdir().unwrap();
        let ram = |name: &str| {
            let (size, block_size) = (1 << 20, 512);
            device(name, Backing::Ram { size, block_size })
        };
        for name in ["one", "two"] {
            let ram = ram(name);
            let store = BesideStore::for_device(&ram.backing, name, data.path()).unwrap();
            store.load_or_create().unwrap();
        }
        forget(&ram("one"), data.path()).unwrap();
        forget(&ram("one"), data.path()).unwrap();
        assert_eq!(names(&data.path().join("devices")), ["ram-two.json"]);
        let image = data.path().join("a.img");
        create_image(&image, 1 << 20, Provisioning::Thin, &mut |_, _| true).unwrap();
        let image = device(
            "a",
            Backing::Image {
                path: image,
                size: 1 << 20,
                provisioning: Provisioning::Thin,
                block_size: 512,
                read_only: false,
            },
        );
        let store = BesideStore::for_device(&image.backing, "a", data.path()).unwrap();
        store.load_or_create().unwrap();
        forget(&image, data.path()).unwrap();
        assert!(store.path().exists());
    }
}
