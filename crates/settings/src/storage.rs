//! The few things that settings ask of a file system, so that tests can fail each of them.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A file system, or one that fails where a test wants.
pub(crate) trait Storage: fmt::Debug + Send + Sync {
    /// A file's content; an error when it is longer than `most` or another user's. Links are not
    /// followed.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;

    /// Names of the plain files in a directory, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory, mode 0700, with its parents; fine when it is there.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes a new file, mode 0600, with this content; an error when something is there already.
    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Makes a file's content stable.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a directory's entries stable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Who may do what with a file or directory.
    fn access(&self, path: &Path) -> io::Result<Access>;
}

/// What a file or directory is and who may use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Access {
    /// Permission bits.
    pub(crate) mode: u32,
    /// Whether it belongs to the user of this process, or to root.
    pub(crate) ours: bool,
    /// Whether it is a plain file or a directory (not a link, device, pipe …).
    pub(crate) plain: bool,
}

/// Which half of a replacement failed.
#[derive(Debug)]
pub(crate) struct ReplaceError {
    /// The new content has the name already; only its stability is in doubt.
    pub(crate) renamed: bool,
    /// What the system said.
    pub(crate) source: io::Error,
}

/// Puts new content under a name: temporary file, sync, rename, sync of the directory. Whatever
/// fails or whenever the host is lost, the name holds the old content or the new, whole.
pub(crate) fn replace(
    storage: &dyn Storage,
    path: &Path,
    content: &[u8],
) -> Result<(), ReplaceError> {
    let temporary = temporary(path);
    let written = remove_leftover(storage, &temporary)
        .and_then(|()| storage.create(&temporary, content))
        .and_then(|()| storage.sync_file(&temporary))
        .and_then(|()| storage.rename(&temporary, path));
    if let Err(source) = written {
        // Best effort: a leftover is removed by the next replacement.
        let _ = storage.remove(&temporary);
        return Err(ReplaceError {
            renamed: false,
            source,
        });
    }
    let directory = path.parent().unwrap_or(path);
    storage
        .sync_directory(directory)
        .map_err(|source| ReplaceError {
            renamed: true,
            source,
        })
}

/// The temporary name of a file: in the same directory, hidden.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Makes a file be absent.
pub(crate) fn remove_leftover(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The real file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files;

impl Storage for Files {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(open_flags())
            .open(path)?;
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        if !is_ours(&data) {
            let reason = format!("it belongs to another user (number {})", data.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        let mut content = Vec::with_capacity(usize::try_from(data.len().min(most)).unwrap_or(0));
        file.take(most.saturating_add(1))
            .read_to_end(&mut content)?;
        if content.len() as u64 > most {
            let reason = format!("longer than {most} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        Ok(content)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let is_file = entry.file_type()?.is_file();
            // A name that is no text is none of ours.
            if let (true, Ok(name)) = (is_file, entry.file_name().into_string()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(open_flags())
            .open(path)?;
        file.write_all(content)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn access(&self, path: &Path) -> io::Result<Access> {
        let data = fs::symlink_metadata(path)?;
        Ok(Access {
            mode: data.mode() & 0o7777,
            ours: is_ours(&data),
            plain: data.is_file() || data.is_dir(),
        })
    }
}

/// Whether something belongs to this user or to root: no other wrote it.
fn is_ours(data: &fs::Metadata) -> bool {
    data.uid() == rustix::process::geteuid().as_raw() || data.uid() == 0
}

/// No link is followed, and a pipe put in a file's place does not hang the service.
pub(crate) fn open_flags() -> i32 {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    flags.bits().cast_signed()
}
