//! Image files that are being deleted, after the device that had them has gone.
//!
//! A deletion waits for the disk as long as it takes, and no change waits for it. What keeps it
//! from a device that is made anew at that path meanwhile:
//!
//! - Until it is over, [`Removals::hold`] the path, so that no such device comes into force: the
//!   document beside the file goes after the file and would be that device's.
//! - The image goes only if it is the very file of the device that had it
//!   ([`provision::remove_image`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{Code, Problem};
use parking_lot::Mutex;
use target::provision::{self, FileId, ProvisionError};

use crate::limits;

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removals(Arc<Mutex<Vec<Places>>>);

/// One. Over when it is dropped.
#[derive(Debug)]
pub(crate) struct Removal {
    all: Removals,
    path: PathBuf,
    file: FileId,
    places: Places,
}

/// Where a path is and where it leads to, neither through a link.
type Places = [PathBuf; 2];

impl Removals {
    /// Begins a deletion; no device in force uses the file from here on. Looks at the disk.
    ///
    /// # Errors
    /// So many are under way that no more threads are left to disks that do not answer.
    pub(crate) fn begin(&self, path: PathBuf, file: FileId) -> Result<Removal, Problem> {
        let places = places(&path);
        let mut all = self.0.lock();
        if all.len() >= limits::REMOVALS_MAX {
            let what = format!("{} files are being deleted already", all.len());
            return Err(Problem::new(Code::Busy, what).next(
                "try again later; where that does not end, see the system log for what the disks \
                 do",
            ));
        }
        all.push(places.clone());
        drop(all);
        Ok(Removal {
            all: self.clone(),
            path,
            file,
            places,
        })
    }

    /// Whether what is at a path is being deleted. Looks at the disk where anything is.
    pub(crate) fn hold(&self, path: &Path) -> bool {
        if self.0.lock().is_empty() {
            return false;
        }
        let places = places(path);
        let all = self.0.lock();
        all.iter().flatten().any(|removed| places.contains(removed))
    }
}

impl Removal {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the image and what lies beside it. Waits for the disk.
    pub(crate) fn finish(self) -> Result<(), ProvisionError> {
        provision::remove_image(&self.path, self.file)
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(at) = all.iter().position(|places| *places == self.places) {
            all.swap_remove(at);
        }
    }
}

fn places(path: &Path) -> Places {
    let in_its_directory = || {
        let parent = path.parent()?.canonicalize().ok()?;
        Some(parent.join(path.file_name()?))
    };
    let own = in_its_directory().unwrap_or_else(|| path.to_owned());
    let real = path.canonicalize().unwrap_or_else(|_| own.clone());
    [own, real]
}
