//! The data directory: what lies where, and that one service at a time uses it.
//!
//! ```text
//! DATA_DIR/            0700
//!   lock               held (flock) while a service runs
//!   settings/          crate settings: current.toml, generations/
//!   secrets/           0700, crate settings: secrets.toml, 0600
//!   events/            crate events
//!   images/            image files made without a path of their own
//!   devices/           crate disk: identity and reservations of devices without a place beside them
//!   api.sock           management socket, unless it is told to be elsewhere
//! ```

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api::{Code, Problem};
use rustix::fs::OFlags;
use rustix::process::geteuid;
use target::provision::FileId;

/// Where the service's own files lie, besides the data directory itself.
const OWN: [&str; 5] = [
    "settings",
    "settings/generations",
    "secrets",
    "events",
    "devices",
];

/// Where images lie that have no path of their own.
const IMAGES: &str = "images";

/// No link is followed, and a pipe put in the lock's place does not hang the service.
const LOCK_FLAGS: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// A data directory by its path.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

/// Held while the directory is in use; given back by the kernel when the process ends, however it
/// ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl DataDir {
    /// A directory that is there.
    ///
    /// # Errors
    /// It is not there or no directory; it or a folder in it is another user's, or others may write
    /// there.
    pub(crate) fn open(path: &Path) -> Result<Self, Problem> {
        let path = whole(path)?;
        let data = match path.metadata() {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Problem::new(
                    Code::NotFound,
                    format!("there is no data directory {}", path.display()),
                )
                .next(format!(
                    "make one: sanctum setup --data-dir {}",
                    api::quoted(&path)
                )));
            }
            Err(error) => return Err(failed("look at", &path, &error)),
        };
        if !data.is_dir() {
            return Err(no_directory(&path));
        }
        only_ours(&path)?;
        // Ours as the directory itself is: files are made and replaced there by their names.
        for folder in OWN.into_iter().chain([IMAGES]) {
            let folder = path.join(folder);
            match folder.symlink_metadata() {
                Ok(_) => only_ours(&folder)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("look at", &folder, &error)),
            }
        }
        Ok(Self(path))
    }

    /// A directory, made with mode 0700 unless it is there.
    ///
    /// # Errors
    /// As for [`Self::open`], or it cannot be made.
    pub(crate) fn make(path: &Path) -> Result<Self, Problem> {
        let path = whole(path)?;
        if !path.exists() {
            private_dir(&path).map_err(|error| failed("make", &path, &error))?;
        }
        Self::open(&path)
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// Another service has it.
    pub(crate) fn lock(&self) -> Result<Lock, Problem> {
        let path = self.0.join("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(LOCK_FLAGS.bits().cast_signed())
            .open(&path)
            .map_err(|error| failed("open", &path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Problem::new(
                Code::InUse,
                format!(
                    "another sanctumd uses the data directory {}",
                    self.0.display()
                ),
            )
            .next("stop it first, or name another --data-dir; two services never share one")),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path, &error)),
        }
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the management socket is unless told otherwise.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join(api::SOCKET_NAME)
    }

    /// Where events are kept.
    pub(crate) fn events(&self) -> PathBuf {
        self.0.join("events")
    }

    /// Whether a file there may back a device: of what lies in this directory only images may.
    /// Links are followed.
    pub(crate) fn may_back(&self, path: &Path) -> bool {
        let real = |path: &Path| path.canonicalize();
        let in_its_place = || {
            let parent = real(path.parent()?).ok()?;
            Some(parent.join(path.file_name()?))
        };
        // Where not even the directory is there, nothing is.
        let aim = real(path)
            .ok()
            .or_else(in_its_place)
            .unwrap_or_else(|| path.to_owned());
        let own = real(&self.0).unwrap_or_else(|_| self.0.clone());
        !aim.starts_with(&own)
            || aim
                .parent()
                .is_some_and(|dir| dir.starts_with(own.join(IMAGES)))
    }

    /// Whether a file that was opened at a device's path may be served. Who may write to the folder
    /// of an image can have put a link, or a second name, of one of the service's own files in its
    /// place; so the file itself is looked for among these, whatever the path looks like.
    ///
    /// # Errors
    /// The reason, and what to do.
    pub(crate) fn may_serve(&self, path: &Path, file: FileId) -> Result<(), String> {
        match self.own_file(file) {
            Ok(None) => Ok(()),
            Ok(Some(own)) => Err(format!(
                "it leads to {}, a file of the service itself; find out who put it there and who \
                 may write to the folder of {}, put the image back, then load the device",
                own.display(),
                path.display()
            )),
            Err(error) => Err(format!(
                "it cannot be compared with the service's own files in {} ({error}); see to it that \
                 the service's user can read them, then load the device",
                self.0.display()
            )),
        }
    }

    /// Which of the service's own files this is.
    fn own_file(&self, file: FileId) -> io::Result<Option<PathBuf>> {
        let folders = OWN.iter().map(|folder| self.0.join(folder));
        for folder in [self.0.clone()].into_iter().chain(folders) {
            let entries = match folder.read_dir() {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let path = entry?.path();
                match FileId::at(&path) {
                    Ok(found) if found == file => return Ok(Some(path)),
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Where images lie that have no path of their own; made unless it is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn images(&self) -> Result<PathBuf, Problem> {
        let path = self.0.join(IMAGES);
        if !path.is_dir() {
            private_dir(&path).map_err(|error| failed("make", &path, &error))?;
        }
        Ok(path)
    }
}

/// Refuses a directory in which another user could put what this one then writes or serves: it is
/// theirs, they made the link that leads to it, or its mode lets them.
fn only_ours(path: &Path) -> Result<(), Problem> {
    let look = |error| failed("look at", path, &error);
    let entry = path.symlink_metadata().map_err(look)?;
    let data = path.metadata().map_err(look)?;
    if !data.is_dir() {
        return Err(no_directory(path));
    }
    let own = geteuid().as_raw();
    if let Some(owner) = stranger(&[entry.uid(), data.uid()], own) {
        let what = format!(
            "the directory {} belongs to another user (number {owner})",
            path.display()
        );
        return Err(Problem::new(Code::Refused, what).next(format!(
            "run this as that user; or look at what they may have put into it, then: \
                 chown -R {own} {}",
            api::quoted(path)
        )));
    }
    let mode = data.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        let what = format!(
            "the directory {} may be written by other users (mode {mode:04o})",
            path.display()
        );
        return Err(Problem::new(Code::Refused, what).next(format!(
            "look at what others may have changed in it, then: chmod 700 {}",
            api::quoted(path)
        )));
    }
    Ok(())
}

/// An owner that is neither this user nor root, who may do everything anyway.
fn stranger(owners: &[u32], own: u32) -> Option<u32> {
    owners
        .iter()
        .copied()
        .find(|owner| *owner != own && *owner != 0)
}

fn no_directory(path: &Path) -> Problem {
    Problem::new(Code::Refused, format!("{} is no directory", path.display()))
        .next("name another --data-dir")
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn whole(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|error| failed("find", path, &error))
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::new(Code::Internal, format!("cannot {verb} {}", path.display()))
        .detail(error.to_string())
        .next("check that the directory exists and that this user may use it")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_private_and_taken_once() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b");
        let dir = DataDir::make(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
        let lock = dir.lock().unwrap();
        assert_eq!(
            DataDir::open(&path).unwrap().lock().unwrap_err().code,
            Code::InUse
        );
        drop(lock);
        assert!(dir.lock().is_ok());
    }

    #[test]
    fn what_is_no_data_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let missing = DataDir::open(&temporary.path().join("none")).unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
        assert!(missing.next_step.contains("sanctum setup"));
        let file = temporary.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(DataDir::open(&file).unwrap_err().code, Code::Refused);
        let open = temporary.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(DataDir::open(&open).unwrap_err().what.contains("0777"));
    }

    #[test]
    fn what_another_user_may_change() {
        assert_eq!(stranger(&[0, 7], 7), None);
        assert_eq!(stranger(&[0, 8], 7), Some(8));
        assert_eq!(stranger(&[8, 7], 7), Some(8));

        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::make(&temporary.path().join("data")).unwrap();
        let images = dir.images().unwrap();
        std::fs::set_permissions(&images, std::fs::Permissions::from_mode(0o720)).unwrap();
        let problem = DataDir::open(dir.path()).unwrap_err();
        assert!(problem.what.contains("images"), "{}", problem.what);
        std::fs::set_permissions(&images, std::fs::Permissions::from_mode(0o700)).unwrap();
        if !geteuid().is_root() {
            return;
        }
        // Only root can give something away to see it refused.
        let nobody = Some(65534);
        for theirs in [images.as_path(), dir.path()] {
            std::os::unix::fs::chown(theirs, nobody, None).unwrap();
            let problem = DataDir::open(dir.path()).unwrap_err();
            assert!(problem.what.contains("another user"), "{}", problem.what);
            std::os::unix::fs::chown(theirs, Some(0), None).unwrap();
            DataDir::open(dir.path()).unwrap();
        }
        let link = dir.path().join("settings");
        std::os::unix::fs::symlink("images", &link).unwrap();
        DataDir::open(dir.path()).unwrap();
        std::os::unix::fs::lchown(&link, nobody, None).unwrap();
        let problem = DataDir::open(dir.path()).unwrap_err();
        assert!(problem.what.contains("settings"), "{}", problem.what);
    }

    #[test]
    fn only_images_of_the_directory_back_devices() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::make(&temporary.path().join("data")).unwrap();
        let images = dir.images().unwrap();
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        let outside = temporary.path().join("link.img");
        let secrets = dir.path().join("secrets/secrets.toml");
        std::fs::write(&secrets, "").unwrap();
        std::os::unix::fs::symlink(&secrets, &outside).unwrap();
        for theirs in [
            images.join("disk0.img"),
            images.join("more/disk1.img"),
            temporary.path().join("disk2.img"),
            "/no/such/place/disk3.img".into(),
        ] {
            assert!(dir.may_back(&theirs), "{}", theirs.display());
        }
        for own in [
            secrets,
            dir.path().join("secrets/staged.toml"),
            images.join("../settings"),
            images.join("../lock"),
            images,
            outside,
        ] {
            assert!(!dir.may_back(&own), "{}", own.display());
        }
    }

    #[test]
    fn the_service_s_own_files_are_known_by_any_name() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::make(&temporary.path().join("data")).unwrap();
        dir.images().unwrap();
        // A folder of the directory may lie elsewhere.
        let elsewhere = temporary.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("settings")).unwrap();
        for folder in ["settings/generations", "secrets"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let judged = |path: &Path| dir.may_serve(path, FileId::at(path).unwrap());
        for (n, own) in [
            "lock",
            "secrets/secrets.toml",
            "settings/current.toml",
            "settings/generations/1.toml",
        ]
        .into_iter()
        .enumerate()
        {
            let own = dir.path().join(own);
            std::fs::write(&own, "").unwrap();
            let (link, name) = (
                temporary.path().join(format!("{n}.link")),
                dir.path().join(format!("images/{n}.img")),
            );
            std::os::unix::fs::symlink(&own, &link).unwrap();
            std::fs::hard_link(&own, &name).unwrap();
            for path in [link, name] {
                let reason = judged(&path).unwrap_err();
                assert!(reason.contains(own.to_str().unwrap()), "{reason}");
                assert!(reason.contains(path.to_str().unwrap()), "{reason}");
            }
        }
        for image in ["data/images/a.img", "b.img"] {
            let image = temporary.path().join(image);
            std::fs::write(&image, "").unwrap();
            judged(&image).unwrap();
        }
    }

    #[test]
    fn a_planted_lock_is_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::make(&temporary.path().join("data")).unwrap();
        let aim = temporary.path().join("aim");
        std::os::unix::fs::symlink(&aim, dir.path().join("lock")).unwrap();
        assert_eq!(dir.lock().unwrap_err().code, Code::Internal);
        assert!(!aim.exists());
        let store = settings::Store::open(dir.path());
        drop(store.unwrap());
        let lock = dir.path().join("settings/lock");
        std::fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&aim, &lock).unwrap();
        settings::Store::open(dir.path()).unwrap_err();
        assert!(!aim.exists());
    }
}
