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
    /// It is not there, is no directory, or others may write in it.
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
                    path.display()
                )));
            }
            Err(error) => return Err(failed("look at", &path, &error)),
        };
        if !data.is_dir() {
            return Err(
                Problem::new(Code::Refused, format!("{} is no directory", path.display()))
                    .next("name another --data-dir"),
            );
        }
        if data.mode() & 0o022 != 0 {
            return Err(Problem::new(
                Code::Refused,
                format!(
                    "the data directory {} may be written by other users (mode {:04o})",
                    path.display(),
                    data.mode() & 0o7777
                ),
            )
            .next(format!(
                "look at what others may have changed in it, then: chmod 0700 {}",
                path.display()
            )));
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

    /// Where images lie that have no path of their own; made unless it is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn images(&self) -> Result<PathBuf, Problem> {
        let path = self.0.join("images");
        if !path.is_dir() {
            private_dir(&path).map_err(|error| failed("make", &path, &error))?;
        }
        Ok(path)
    }
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
}
