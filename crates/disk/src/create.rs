//! Making image files: all or nothing, never over an existing file; and removing them.
//!
//! A document left over from an earlier image would give a new one that image's identity and
//! reservations, so beside one nothing is made. Removing takes the image first and its document
//! last: a crash between leaves a document that is in the way of a new image, which is safe. The
//! other way round it would leave an image that, still in somebody's settings, is served as
//! another disk and without its reservations.
//!
//! The file has no name while it is made (`O_TMPFILE`), so a crash, a cancellation or a full disk
//! leaves nothing behind, and nobody sees half an image; it is linked under its name last, which
//! fails where a file of that name appeared meanwhile. Where the file system cannot do that, the
//! file is made under its name and removed on failure; a crash then leaves a file that is shorter
//! than the settings say or not locked, which opening tells.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::backing::Provisioning;
use crate::beside::{document_at, document_of_image, temporary_of};
use crate::error::DeviceError;
use crate::file_id::FileId;
use crate::image::{id_of, lock};
use crate::limits::{DIRECT_ALIGNMENT_MAX, PREALLOCATE_CHUNK, ZERO_CHUNK};
use crate::open::check_device_size;

/// Mode of new images: nobody but the service's user.
const IMAGE_MODE: Mode = Mode::from_raw_mode(0o600);

/// Creates an image file of `size` bytes, readable and writable by the service's user only.
///
/// `progress(done, total)` is called along a preallocation, in bytes, at least at its start and its
/// end; returning false cancels. The result is stable when this returns. Blocks: call it from a
/// blocking thread.
/// Returns which file was made, for [`remove_image`].
///
/// # Errors
/// [`DeviceError::Exists`] (nothing is ever overwritten), [`DeviceError::Leftover`] (the document
/// of an earlier image lies there; so what lies there later is this image's),
/// [`DeviceError::NoSpace`],
/// [`DeviceError::Cancelled`], [`DeviceError::Size`] (not a multiple of 512 bytes, or too large),
/// [`DeviceError::Create`]; in every case nothing is left behind.
pub fn create_image(
    path: &Path,
    size: u64,
    provisioning: Provisioning,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<FileId, DeviceError> {
    check_device_size(size, 512)?;
    if path.symlink_metadata().is_ok() {
        return Err(DeviceError::Exists { path: path.into() });
    }
    let document = document_of_image(path);
    if document.symlink_metadata().is_ok() {
        let path = path.into();
        return Err(DeviceError::Leftover { path, document });
    }
    let pending = Pending::start(path)?;
    let file = pending.file.as_fd();
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
        .map_err(failed(path, "taking the lock"))?;
    rustix::fs::ftruncate(file, size)
        .map_err(|errno| fullness(path, "setting the size", size, errno))?;
    if provisioning == Provisioning::Preallocated {
        enough_space(file, path, size)?;
        let all = preallocate(file, 0, size, &mut |done| progress(done, size))
            .map_err(|errno| fullness(path, "reserving space", size, errno))?;
        if !all {
            return Err(DeviceError::Cancelled { path: path.into() });
        }
    }
    rustix::fs::fsync(file)
        .map_err(|errno| fullness(path, "making the file stable", size, errno))?;
    pending.finish()
}

/// Removes an image file, the document beside it and, where `path` is a link to it, the link,
/// durably; for whoever had the device, and to undo [`create_image`]. Only the file that `image`
/// says is removed: who may write to a directory on the way can have led the path elsewhere. What
/// is not there counts as removed, so a removal that failed can be repeated. Blocks.
///
/// # Errors
/// [`DeviceError::Replaced`] where another file is there, and [`DeviceError::Locked`] while a device
/// or program uses the image (nothing was removed); [`DeviceError::Open`], [`DeviceError::Remove`],
/// [`DeviceError::RemovedUnstable`].
pub fn remove_image(path: &Path, image: FileId) -> Result<(), DeviceError> {
    let found = match path.canonicalize() {
        Ok(real) => Some(real),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A link to nowhere is not what the device was opened by.
            if path.symlink_metadata().is_ok() {
                return Err(DeviceError::Replaced { path: path.into() });
            }
            None
        }
        Err(source) => {
            let path = path.into();
            return Err(DeviceError::Open { path, source });
        }
    };
    let Some(place) = Place::of(found.as_deref().unwrap_or(path))? else {
        return Ok(());
    };
    // Opened before anything is removed: it is the directory that the path went through.
    let link = Place::of(path)?.filter(Place::is_link);
    if found.is_some() {
        let _locked = place.open(path, image)?;
        place.remove(&place.path)?;
    }
    if let Some(link) = link {
        link.remove(path)?;
    }
    let document = document_at(&place.path);
    place.remove(&temporary_of(&document))?;
    place.remove(&document)
}

/// A path whose directory is held open: what is done in it is done there, whatever is made of the
/// directories on the way meanwhile.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    directory: OwnedFd,
}

impl Place {
    /// None where there is no such directory.
    fn of(path: &Path) -> Result<Option<Self>, DeviceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(directory_of(path), flags, Mode::empty()) {
            Ok(directory) => Ok(Some(Self {
                path: path.into(),
                directory,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(opening(path)(errno)),
        }
    }

    fn is_link(&self) -> bool {
        let name = self.path.file_name().unwrap_or_default();
        rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    /// Opens and locks the file here, if it is that one; `path` is what it was asked for by.
    fn open(&self, path: &Path, image: FileId) -> Result<OwnedFd, DeviceError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = self.path.file_name().unwrap_or_default();
        let replaced = || DeviceError::Replaced { path: path.into() };
        let file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::LOOP | Errno::NOENT | Errno::NXIO) => return Err(replaced()),
            Err(errno) => return Err(opening(path)(errno)),
        };
        if id_of(&file, path)? != image {
            return Err(replaced());
        }
        lock(&file, path, false)?;
        Ok(file)
    }

    /// Removes what has the last name of a path and makes that stable; none is no error.
    fn remove(&self, path: &Path) -> Result<(), DeviceError> {
        let name = path.file_name().unwrap_or_default();
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) => {
                rustix::fs::fsync(&self.directory).map_err(|errno| DeviceError::RemovedUnstable {
                    path: path.into(),
                    source: errno.into(),
                })
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(DeviceError::Remove {
                path: path.into(),
                source: errno.into(),
            }),
        }
    }
}

fn opening(path: &Path) -> impl Fn(Errno) -> DeviceError + '_ {
    move |errno| DeviceError::Open {
        path: path.into(),
        source: errno.into(),
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn failed<'a>(path: &'a Path, step: &'static str) -> impl Fn(Errno) -> DeviceError + 'a {
    move |errno| DeviceError::Create {
        path: path.into(),
        step,
        source: errno.into(),
    }
}

fn fullness(path: &Path, step: &'static str, need: u64, errno: Errno) -> DeviceError {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => DeviceError::NoSpace {
            path: path.into(),
            need,
        },
        errno => failed(path, step)(errno),
    }
}

/// Refuses at once what cannot fit, in place of filling the disk first.
fn enough_space(file: BorrowedFd<'_>, path: &Path, need: u64) -> Result<(), DeviceError> {
    let system = rustix::fs::fstatvfs(file).map_err(failed(path, "asking for free space"))?;
    if system.f_bavail.saturating_mul(system.f_frsize) < need && system.f_blocks > 0 {
        return Err(DeviceError::NoSpace {
            path: path.into(),
            need,
        });
    }
    Ok(())
}

/// Reserves `start..end` in chunks, lengthening the file; false when `go_on(bytes done)` said to
/// stop. Where the file system cannot reserve, zeros are written, except into the page that `start`
/// lies in: what is before `start` there may be written by direct I/O at this moment.
pub(crate) fn preallocate(
    file: BorrowedFd<'_>,
    start: u64,
    end: u64,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, Errno> {
    let mut reserves = true;
    let mut at = start;
    while go_on(at.min(end) - start) {
        if at >= end {
            return Ok(true);
        }
        let len = PREALLOCATE_CHUNK.min(end - at);
        if reserves {
            match rustix::fs::fallocate(file, FallocateFlags::empty(), at, len) {
                Ok(()) => at += len,
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    reserves = false;
                    at = at.next_multiple_of(u64::from(DIRECT_ALIGNMENT_MAX));
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            continue;
        }
        at += write_zeros(file, at, len.min(ZERO_CHUNK as u64))?;
    }
    Ok(false)
}

fn write_zeros(file: BorrowedFd<'_>, at: u64, len: u64) -> Result<u64, Errno> {
    let zeros = vec![0; usize::try_from(len).unwrap_or(ZERO_CHUNK)];
    match rustix::io::pwrite(file, &zeros, at) {
        Ok(0) => Err(Errno::NOSPC),
        Ok(written) => Ok(written as u64),
        Err(Errno::INTR) => Ok(0),
        Err(errno) => Err(errno),
    }
}

/// A file being made; removed when dropped unfinished.
#[derive(Debug)]
struct Pending<'a> {
    path: &'a Path,
    file: OwnedFd,
    directory: OwnedFd,
    /// It has its name, and is not finished.
    named: bool,
}

impl<'a> Pending<'a> {
    fn start(path: &'a Path) -> Result<Self, DeviceError> {
        let parent = directory_of(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())
            .map_err(failed(path, "opening its directory"))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        match rustix::fs::open(parent, flags, IMAGE_MODE) {
            Ok(file) => Ok(Self {
                path,
                file,
                directory,
                named: false,
            }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                Self::start_named(path, directory)
            }
            Err(errno) => Err(failed(path, "making a file in its directory")(errno)),
        }
    }

    fn start_named(path: &'a Path, directory: OwnedFd) -> Result<Self, DeviceError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::open(path, flags, IMAGE_MODE) {
            Ok(file) => Ok(Self {
                path,
                file,
                directory,
                named: true,
            }),
            Err(Errno::EXIST) => Err(DeviceError::Exists { path: path.into() }),
            Err(errno) => Err(failed(path, "making the file")(errno)),
        }
    }

    fn finish(mut self) -> Result<FileId, DeviceError> {
        let path = self.path;
        if !self.named {
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            match rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => self.named = true,
                Err(Errno::EXIST) => return Err(DeviceError::Exists { path: path.into() }),
                Err(errno) => return Err(failed(path, "giving the file its name")(errno)),
            }
        }
        rustix::fs::fsync(&self.directory).map_err(failed(path, "making its directory stable"))?;
        let id = id_of(&self.file, path)?;
        self.named = false;
        Ok(id)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // Under its name may be somebody else's file by now.
        let same = |there: Stat| {
            rustix::fs::fstat(&self.file)
                .is_ok_and(|ours| (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
        };
        if self.named && rustix::fs::lstat(self.path).is_ok_and(same) {
            rustix::fs::unlink(self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &Path) -> Result<Pending<'_>, DeviceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent = path.parent().unwrap();
        Pending::start_named(
            path,
            rustix::fs::open(parent, flags, Mode::empty()).unwrap(),
        )
    }

    /// The way for file systems that know no files without a name.
    #[test]
    fn a_named_file_is_removed_unless_it_was_finished() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let pending = named(&path).unwrap();
        assert!(path.exists());
        drop(pending);
        assert!(!path.exists());
        named(&path).unwrap().finish().unwrap();
        assert!(path.exists());
        assert!(matches!(named(&path), Err(DeviceError::Exists { .. })));
        assert!(path.exists(), "somebody else's file was removed");
        std::fs::remove_file(&path).unwrap();
        let pending = named(&path).unwrap();
        std::fs::rename(&path, directory.path().join("moved.img")).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(pending);
        assert!(path.exists(), "somebody else's file was removed");
    }

    #[test]
    fn zeros_are_written_where_nothing_can_be_reserved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        let pending = named(&path).unwrap();
        let len = 3 * ZERO_CHUNK as u64 / 2;
        let first = write_zeros(pending.file.as_fd(), 0, ZERO_CHUNK as u64).unwrap();
        assert_eq!(first, ZERO_CHUNK as u64);
        assert_eq!(
            write_zeros(pending.file.as_fd(), first, len - first).unwrap(),
            len - first
        );
        assert_eq!(path.metadata().unwrap().len(), len);
    }

    #[test]
    fn what_is_gone_but_not_for_certain_is_not_told_as_there_still() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.img");
        std::fs::write(&path, "").unwrap();
        // A directory opened so is good for removing in it, and not for fsync.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = Place {
            path: path.clone(),
            directory: rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap(),
        };
        let unstable = place.remove(&path).unwrap_err();
        assert!(!path.exists());
        assert!(
            matches!(&unstable, DeviceError::RemovedUnstable { path: of, .. } if *of == path),
            "{unstable}"
        );
        place.remove(&path).unwrap();
    }
}
