//! What lies beside a device: its identity, and what must move with it.
//!
//! The document is `FILE.sanctum` next to an image file (links are followed), and
//! `DATA_DIR/devices/KEY.json` for what has no place next to it: a block device (key: its own
//! world-wide name or serial number), a RAM disk and an optical drive (key: the device's name; a
//! medium comes and goes, the drive stays).
//!
//! ```text
//! {"format":"sanctum-beside","version":1,"checksum":"crc32c:8d3e8a5c","beside":{…}}
//! ```
//!
//! The checksum is over the very bytes of `beside`. A document that is damaged, or of a version
//! this release does not know, is an error that says so, and is never overwritten: a new identity
//! in its place would make initiators see another disk.
//!
//! Saving writes a temporary file, syncs it, renames it over the old one and syncs the directory.
//! Between any two of these steps a crash leaves the old document or the new one; once `save` has
//! returned it is the new one. A temporary file left behind is replaced by the next save.

mod identity;
mod key;
mod storage;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use identity::{ProcessIdentity, boot_id};

use crate::backing::Backing;
use crate::error::DeviceError;
use crate::limits::{BESIDE_BYTES_MAX, WRITER_NAME_MAX, WRITERS_MAX};
use storage::{Files, Storage};

/// First word of every document.
const FORMAT: &str = "sanctum-beside";
/// The version written, and the only one known.
const VERSION: u32 = 1;

/// Why the document beside a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BesideError {
    /// It cannot be read.
    #[error("cannot read {path}, which holds the device's identity and reservations")]
    Read {
        /// The document.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is damaged. It stays as it is.
    #[error(
        "{path} is damaged ({reason}). It holds the device's identity and reservations and is left \
         as it is: restore it from a backup, or move it away to give the device a new identity"
    )]
    Damaged {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another release wrote it. It stays as it is.
    #[error(
        "{path} has version {found}, and this release knows {known}; use the release that wrote it"
    )]
    Version {
        /// The document.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version this release knows.
        known: u32,
    },
    /// A step of saving failed; the old document is in place (or the new one, where the last step
    /// failed).
    #[error("cannot save {path}: {step} failed")]
    Save {
        /// The document.
        path: PathBuf,
        /// The step.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// It would be larger than what is read back.
    #[error("{path} would have {len} bytes, more than is ever read back")]
    TooLarge {
        /// The document.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// No random bytes, or no boot identity, could be had.
    #[error("cannot learn {what} from the system")]
    System {
        /// What was asked.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Identity that never changes, and what must move with the device.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Unit serial number: 16 hexadecimal digits.
    pub serial: String,
    /// World-wide name, NAA type 6, with a locally assigned company id.
    #[serde(with = "identity::hex16")]
    pub naa: [u8; 16],
    /// Persistent reservations that outlive a loss of power (APTPL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservations: Option<scsi::reservation::Saved>,
    /// Saved mode pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<scsi::mode::Saved>,
    /// While the cache is volatile: who wrote since the last clean stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writers: Option<Writers>,
    /// RAM disk: whose memory held its contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<Contents>,
}

impl Beside {
    /// A new identity from the system's random numbers.
    ///
    /// # Errors
    /// [`BesideError::System`].
    pub fn generate() -> Result<Self, BesideError> {
        let (serial, naa) = identity::generate()?;
        Ok(Self {
            serial,
            naa,
            reservations: None,
            mode: None,
            writers: None,
            contents: None,
        })
    }

    /// Called when the device is opened: whoever wrote under write-back in an earlier boot of the
    /// host that did not end cleanly is owed a deferred error from now on. (The page cache outlives
    /// the process, not the boot.) True when the document changed and has to be saved.
    pub fn settle(&mut self, boot: &str) -> bool {
        match &mut self.writers {
            Some(writers) if writers.boot_id != boot => {
                writers.settle(boot);
                true
            }
            _ => false,
        }
    }

    /// Notes that a nexus is about to write under write-back in this boot; true when that is news
    /// and has to be saved before the write is acknowledged.
    pub fn wrote(&mut self, nexus: &str, boot: &str) -> bool {
        let settled = self.settle(boot);
        let writers = self.writers.get_or_insert_with(|| Writers::of(boot));
        writers.add(nexus) || settled
    }

    /// Whether a nexus is owed a deferred error before a flush of its may succeed.
    pub fn owes(&self, nexus: &str) -> bool {
        self.writers
            .as_ref()
            .is_some_and(|writers| writers.owes(nexus))
    }

    /// The nexus was told; true when the document changed and has to be saved.
    pub fn told(&mut self, nexus: &str) -> bool {
        self.writers
            .as_mut()
            .is_some_and(|writers| writers.owed.remove(nexus))
    }

    /// Everything is stable and nobody writes: a clean stop, or the end of write-back. What is
    /// still owed stays. True when the document changed and has to be saved.
    pub fn stopped_cleanly(&mut self) -> bool {
        let Some(writers) = &mut self.writers else {
            return false;
        };
        let changed = writers.everyone || !writers.nexuses.is_empty();
        writers.everyone = false;
        writers.nexuses.clear();
        if writers.owed.is_empty() && !writers.owed_everyone {
            self.writers = None;
            return true;
        }
        changed
    }

    /// Notes a RAM disk's contents as this process's memory.
    pub fn loaded(&mut self, process: &ProcessIdentity) {
        let (boot_id, process) = (process.boot_id.clone(), process.process.clone());
        self.contents = Some(Contents { boot_id, process });
    }

    /// Whether a RAM disk's contents ended with another process. A disk never loaded has lost
    /// nothing.
    pub fn contents_lost(&self, process: &ProcessIdentity) -> bool {
        self.contents
            .as_ref()
            .is_some_and(|contents| contents.process != process.process)
    }
}

/// Nexuses that wrote under write-back, and those that must hear that writes may be lost.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Writers {
    /// The boot of the host that `nexuses` wrote in.
    pub boot_id: String,
    /// Who wrote since the last clean stop; at most [`WRITERS_MAX`].
    pub nexuses: BTreeSet<String>,
    /// More wrote than are named: count every nexus in.
    #[serde(default)]
    pub everyone: bool,
    /// Who wrote in a boot that did not end cleanly and was not told yet; at most [`WRITERS_MAX`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub owed: BTreeSet<String>,
    /// Every nexus is owed. Nobody is ever struck off this, so each is told once by each process.
    #[serde(default)]
    pub owed_everyone: bool,
}

impl Writers {
    fn of(boot: &str) -> Self {
        Self {
            boot_id: boot.to_owned(),
            nexuses: BTreeSet::new(),
            everyone: false,
            owed: BTreeSet::new(),
            owed_everyone: false,
        }
    }

    fn settle(&mut self, boot: &str) {
        boot.clone_into(&mut self.boot_id);
        self.owed.append(&mut self.nexuses);
        self.owed_everyone |= self.everyone || self.owed.len() > WRITERS_MAX;
        self.everyone = false;
        if self.owed_everyone {
            self.owed.clear();
        }
    }

    fn add(&mut self, nexus: &str) -> bool {
        if self.everyone || self.nexuses.contains(nexus) {
            return false;
        }
        if self.nexuses.len() >= WRITERS_MAX || nexus.len() > WRITER_NAME_MAX {
            self.everyone = true;
            return true;
        }
        self.nexuses.insert(nexus.to_owned())
    }

    fn owes(&self, nexus: &str) -> bool {
        self.owed_everyone || self.owed.contains(nexus)
    }
}

/// Whose memory held a RAM disk's contents.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// The boot of the host.
    pub boot_id: String,
    /// The process, by the name it gave itself at its start.
    pub process: String,
}

#[derive(Serialize)]
struct Written<'a> {
    format: &'static str,
    version: u32,
    checksum: String,
    beside: &'a RawValue,
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole<'a> {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: u32,
    checksum: String,
    #[serde(borrow)]
    beside: &'a RawValue,
}

/// The path of the document beside an image, whether or not there is one.
pub fn document_of_image(image: &Path) -> PathBuf {
    // Next to the file itself: a link to it is no other device.
    let image = image.canonicalize().unwrap_or_else(|_| image.to_path_buf());
    document_at(&image)
}

/// The same of a path that leads through no link.
pub(crate) fn document_at(image: &Path) -> PathBuf {
    with_suffix(image, ".sanctum")
}

/// Where a document is written before it takes its name.
pub(crate) fn temporary_of(document: &Path) -> PathBuf {
    with_suffix(document, ".new")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where a device's document lies.
#[derive(Debug)]
pub struct BesideStore {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    /// One save at a time; true once the document is known to be ours to overwrite.
    known: Mutex<bool>,
}

impl BesideStore {
    /// Finds the place for a device. For a block device this asks the system for its identity, so
    /// the device must be there.
    ///
    /// # Errors
    /// [`DeviceError::NoIdentity`] for a block device without one, [`DeviceError::Missing`] and
    /// [`DeviceError::Open`] where it cannot be asked.
    pub fn for_device(backing: &Backing, name: &str, data_dir: &Path) -> Result<Self, DeviceError> {
        let path = match backing {
            Backing::Image { path, .. } => document_of_image(path),
            Backing::Block { path, .. } => key::file(data_dir, &key::of_block(path)?),
            Backing::Ram { .. } => key::file(data_dir, &key::of_name("ram", name)),
            Backing::Iso { .. } => key::file(data_dir, &key::of_name("optical", name)),
        };
        Ok(Self::at(path, Arc::new(Files)))
    }

    fn at(path: PathBuf, storage: Arc<dyn Storage>) -> Self {
        Self {
            path,
            storage,
            known: Mutex::new(false),
        }
    }

    /// The document's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The document, or `None` where there is none.
    ///
    /// # Errors
    /// [`BesideError::Read`], [`BesideError::Damaged`], [`BesideError::Version`].
    pub fn load(&self) -> Result<Option<Beside>, DeviceError> {
        let mut known = self.known.lock();
        let beside = self.read()?;
        *known = true;
        Ok(beside)
    }

    /// The document; where there is none, a new identity, already saved.
    ///
    /// # Errors
    /// As [`BesideStore::load`] and [`BesideStore::save`]; a damaged document is never replaced.
    pub fn load_or_create(&self) -> Result<Beside, DeviceError> {
        if let Some(beside) = self.load()? {
            return Ok(beside);
        }
        let beside = Beside::generate()?;
        self.save(&beside)?;
        Ok(beside)
    }

    /// Replaces the document; stable when this returns. Blocks.
    ///
    /// # Errors
    /// [`BesideError::Save`] with the step that failed; also what [`BesideStore::load`] says of a
    /// document that was never read and may not be overwritten.
    pub fn save(&self, beside: &Beside) -> Result<(), DeviceError> {
        let mut known = self.known.lock();
        if !*known {
            self.read()?;
            *known = true;
        }
        let bytes = self.encode(beside)?;
        let failed = |step| {
            move |source| BesideError::Save {
                path: self.path.clone(),
                step,
                source,
            }
        };
        let directory = self.directory();
        self.storage
            .make_directory(directory)
            .map_err(failed("making its directory"))?;
        let temporary = temporary_of(&self.path);
        self.storage
            .remove(&temporary)
            .map_err(failed("removing an old temporary file"))?;
        let mut file = self
            .storage
            .create(&temporary)
            .map_err(failed("making a temporary file"))?;
        file.write_all(&bytes)
            .map_err(failed("writing the temporary file"))?;
        file.sync()
            .map_err(failed("making the temporary file stable"))?;
        drop(file);
        self.storage
            .rename(&temporary, &self.path)
            .map_err(failed("renaming the new over the old"))?;
        self.storage
            .sync_directory(directory)
            .map_err(failed("making its directory stable"))?;
        Ok(())
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    fn encode(&self, beside: &Beside) -> Result<Vec<u8>, BesideError> {
        let failed = |error: serde_json::Error| BesideError::Save {
            path: self.path.clone(),
            step: "writing it as JSON",
            source: error.into(),
        };
        let raw = serde_json::value::to_raw_value(beside).map_err(failed)?;
        let checksum = checksum(raw.get());
        let written = Written {
            format: FORMAT,
            version: VERSION,
            checksum,
            beside: &raw,
        };
        let mut bytes = serde_json::to_vec(&written).map_err(failed)?;
        bytes.push(b'\n');
        let len = bytes.len() as u64;
        if len > BESIDE_BYTES_MAX {
            return Err(BesideError::TooLarge {
                path: self.path.clone(),
                len,
            });
        }
        Ok(bytes)
    }

    fn read(&self) -> Result<Option<Beside>, BesideError> {
        let path = self.path.clone();
        let Some(bytes) = self
            .storage
            .read(&self.path)
            .map_err(|source| BesideError::Read {
                path: path.clone(),
                source,
            })?
        else {
            return Ok(None);
        };
        let damaged = |reason: String| BesideError::Damaged {
            path: path.clone(),
            reason,
        };
        if bytes.len() as u64 > BESIDE_BYTES_MAX {
            return Err(damaged(format!(
                "it has more than {BESIDE_BYTES_MAX} bytes"
            )));
        }
        // The version first: another release may have another shape.
        let head: Head =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if head.format != FORMAT {
            return Err(damaged(format!(
                "its format is {:?}, not {FORMAT:?}",
                head.format
            )));
        }
        if head.version != VERSION {
            return Err(BesideError::Version {
                path,
                found: head.version,
                known: VERSION,
            });
        }
        let whole: Whole<'_> =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if whole.checksum != checksum(whole.beside.get()) {
            return Err(damaged("its checksum does not match".to_owned()));
        }
        let beside: Beside =
            serde_json::from_str(whole.beside.get()).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(beside))
    }
}

fn checksum(text: &str) -> String {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, text.as_bytes());
    format!("crc32c:{crc:08x}")
}

#[cfg(test)]
mod tests;
