//! Which file a file is, whatever name it has now.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags};

/// Tells a file from every other one: a name can come to lead somewhere else, this cannot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileId {
    device: (u32, u32),
    inode: u64,
    /// When it was made, where the file system says so: the number of a removed file is given to
    /// another one.
    born: Option<(i64, u32)>,
}

impl FileId {
    /// The file that a path leads to now.
    ///
    /// # Errors
    /// The system's answer.
    pub fn at(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), Self::asked())?;
        Ok(Self::told(&stat))
    }

    /// An open file.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, Self::asked())?;
        Ok(Self::told(&stat))
    }

    const fn asked() -> StatxFlags {
        StatxFlags::INO.union(StatxFlags::BTIME)
    }

    fn told(stat: &Statx) -> Self {
        let born = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: born.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        }
    }
}
