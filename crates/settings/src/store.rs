//! The generations on disk: load, history, restore points.
//!
//! Under `DATA_DIR/settings`: `current.toml` is what counts; `generations/000012.toml` are the last
//! [`limits::GENERATIONS`] that were current, the newest with the same content;
//! `generations/000013.staged.toml` is one that is about to become current. Changes are in
//! [`crate::change`].

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::limits;
use crate::parse;
use crate::problem::{Problem, Problems};
use crate::record::{self, Generation, RecordError};
use crate::storage::{Files, Storage, open_flags, remove_leftover};

const STAGED: &str = ".staged.toml";
const KEPT: &str = ".toml";

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of the store cannot be made.
    #[error("cannot make the directory {}; check that its parent exists and the service may write there", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock the settings through {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("the settings in {} are in use by another sanctumd; stop it, or use another data directory", path.display())]
    InUse {
        /// The directory of the settings.
        path: PathBuf,
    },
}

/// Why there are no settings to start with. Nothing on disk is changed by any of these.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There have never been settings here.
    #[error("there are no settings in {} yet", path.display())]
    Absent {
        /// The directory of the settings.
        path: PathBuf,
    },
    /// The current settings are gone while generations are there.
    #[error("{} is missing; {}", path.display(), restore_hint(restorable.as_deref()))]
    Missing {
        /// The file that should be there.
        path: PathBuf,
        /// The newest generation that can be restored.
        restorable: Option<Box<Generation>>,
    },
    /// The current settings cannot be read as settings.
    #[error("{} cannot be used: {problems}; repair the file and adopt it, or {}", path.display(), restore_hint(restorable.as_deref()))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong, with lines.
        problems: Problems,
        /// The newest generation that can be restored.
        restorable: Option<Box<Generation>>,
    },
    /// The current settings are a good document, but not the one that was written here: edited by
    /// hand, or damaged in a way that still makes sense.
    #[error("{} was not written by this service ({problem}): if you edited it, adopt it; if not, {}", path.display(), restore_hint(restorable.as_deref()))]
    Changed {
        /// The file.
        path: PathBuf,
        /// How that is known.
        problem: Box<Problem>,
        /// The newest generation that can be restored.
        restorable: Option<Box<Generation>>,
    },
    /// The system does not give the file.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn restore_hint(restorable: Option<&Generation>) -> String {
    match restorable {
        Some(generation) => format!(
            "restore generation {} of {} by {} ({})",
            generation.number, generation.when, generation.who, generation.why
        ),
        None => "there is no good generation to restore".to_owned(),
    }
}

/// Why a generation cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// It was never there, or it is too old.
    #[error(
        "there is no generation {number}; the last {} are kept, see the history",
        limits::GENERATIONS
    )]
    Unknown {
        /// Its number.
        number: u64,
    },
    /// Its file is damaged.
    #[error("generation {number} cannot be used: {problems}")]
    Unusable {
        /// Its number.
        number: u64,
        /// What is wrong, with lines.
        problems: Problems,
    },
    /// The system does not give the file.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Settings as they are on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// Which generation.
    pub generation: Generation,
    /// The document.
    pub document: Document,
    /// The document as it was given, comments included.
    pub text: String,
}

/// One line of the history.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HistoryEntry {
    /// Number of the generation.
    pub number: u64,
    /// Who, when, why; none where the file is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Whether it is the current one.
    pub current: bool,
    /// What is wrong with its file, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The settings of one host on disk. A cheap handle: clones share the store.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) directory: PathBuf,
    pub(crate) clock: fn() -> Timestamp,
    /// Held along a change, over the disk's work: never by who only reads what is in force.
    pub(crate) state: Mutex<State>,
    /// What is in force. Locked only to copy the pointer or to put another in its place.
    current: RwLock<Option<Arc<Loaded>>>,
    /// Locked for as long as the store lives.
    _lock: Option<File>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Number of the generation that is staged.
    pub(crate) staged: Option<u64>,
}

/// What lies in the directory of generations.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Numbers of those that were current, ascending.
    pub(crate) kept: Vec<u64>,
    /// Numbers of staged ones, ascending.
    pub(crate) staged: Vec<u64>,
}

impl Store {
    /// Opens the store under a data directory, and locks it against other processes. Reads nothing
    /// yet.
    ///
    /// # Errors
    /// The directories cannot be made, or the store is in use.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let mut inner = Inner::new(Arc::new(Files), data_dir, Timestamp::now);
        inner.make_directories()?;
        let path = inner.directory.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(open_flags())
            .open(&path)
            .map_err(|source| OpenError::Lock {
                path: path.clone(),
                source,
            })?;
        match lock.try_lock() {
            Ok(()) => inner._lock = Some(lock),
            Err(TryLockError::WouldBlock) => {
                let path = inner.directory;
                return Err(OpenError::InUse { path });
            }
            Err(TryLockError::Error(source)) => return Err(OpenError::Lock { path, source }),
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    #[cfg(test)]
    pub(crate) fn open_on(
        storage: Arc<dyn Storage>,
        data_dir: &Path,
        clock: fn() -> Timestamp,
    ) -> Result<Self, OpenError> {
        let inner = Inner::new(storage, data_dir, clock);
        inner.make_directories()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Reads the current settings. After a crash they are those of before or those of after the
    /// change that was under way, whole: after, if and only if the activation had come to its
    /// rename. What was staged and not activated is cleared away.
    ///
    /// # Errors
    /// There are none, or they cannot be used; what could be restored is told. Nothing is replaced.
    pub fn load(&self) -> Result<Arc<Loaded>, LoadError> {
        let state = self.inner.state.lock();
        let loaded = Arc::new(self.inner.read_current()?);
        self.inner.publish(Arc::clone(&loaded));
        if state.staged.is_none() {
            // Leftovers do no harm; the next change clears them if this one cannot.
            let _ = self.inner.settle(loaded.generation.number);
        }
        Ok(loaded)
    }

    /// The settings as last loaded or activated. Never waits for the disk, whatever a change waits
    /// for.
    pub fn current(&self) -> Option<Arc<Loaded>> {
        self.inner.current()
    }

    /// The generations kept, newest first; at most [`limits::GENERATIONS`]. Reads their files, and
    /// does not wait for a change.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn history(&self) -> Result<Vec<HistoryEntry>, GenerationError> {
        let current = self.current();
        let current = current.as_deref();
        let listing = self
            .inner
            .listing()
            .map_err(|source| GenerationError::Read {
                path: self.inner.generations(),
                source,
            })?;
        let number = current.map(|loaded| loaded.generation.number);
        let mut entries: Vec<HistoryEntry> = listing
            .kept
            .iter()
            .filter_map(|kept| self.inner.history_entry(*kept, number))
            .collect();
        if let Some(loaded) = current
            && !listing.kept.contains(&loaded.generation.number)
        {
            entries.push(HistoryEntry {
                number: loaded.generation.number,
                generation: Some(loaded.generation.clone()),
                current: true,
                fault: None,
            });
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.number));
        Ok(entries)
    }

    /// A kept generation with its document.
    ///
    /// # Errors
    /// It is not kept, or its file is damaged.
    pub fn generation(&self, number: u64) -> Result<Loaded, GenerationError> {
        self.inner.read_generation(number)
    }
}

impl Inner {
    fn new(storage: Arc<dyn Storage>, data_dir: &Path, clock: fn() -> Timestamp) -> Self {
        Self {
            storage,
            directory: data_dir.join("settings"),
            clock,
            state: Mutex::default(),
            current: RwLock::default(),
            _lock: None,
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<Loaded>> {
        self.current.read().clone()
    }

    pub(crate) fn publish(&self, loaded: Arc<Loaded>) {
        *self.current.write() = Some(loaded);
    }

    fn make_directories(&self) -> Result<(), OpenError> {
        let path = self.generations();
        let made = self.storage.make_directory(&path);
        // The names of new directories are made stable too; where that cannot be, changes will say
        // so.
        let parents = [self.directory.parent(), Some(&self.directory)];
        for parent in parents.into_iter().flatten() {
            let _ = self.storage.sync_directory(parent);
        }
        made.map_err(|source| OpenError::Directory { path, source })
    }

    pub(crate) fn current_path(&self) -> PathBuf {
        self.directory.join("current.toml")
    }

    pub(crate) fn generations(&self) -> PathBuf {
        self.directory.join("generations")
    }

    pub(crate) fn kept_path(&self, number: u64) -> PathBuf {
        self.generations().join(format!("{number:06}{KEPT}"))
    }

    pub(crate) fn staged_path(&self, number: u64) -> PathBuf {
        self.generations().join(format!("{number:06}{STAGED}"))
    }

    pub(crate) fn listing(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for name in self.storage.list(&self.generations())? {
            // Only a name as it is made here: what lies there otherwise is somebody else's.
            let number = |suffix| {
                let digits: &str = name.strip_suffix(suffix)?;
                let number = digits.parse::<u64>().ok().filter(|number| *number > 0)?;
                (name == format!("{number:06}{suffix}")).then_some(number)
            };
            if let Some(number) = number(STAGED) {
                listing.staged.push(number);
            } else if let Some(number) = number(KEPT) {
                listing.kept.push(number);
            }
        }
        listing.kept.sort_unstable();
        listing.staged.sort_unstable();
        Ok(listing)
    }

    /// The bytes of the current settings; none if there is no such file.
    pub(crate) fn current_bytes(&self) -> io::Result<Option<Vec<u8>>> {
        let path = self.current_path();
        match self.storage.read(&path, limits::GENERATION_BYTES) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_current(&self) -> Result<Loaded, LoadError> {
        let path = self.current_path();
        let read_error = |path: &Path, source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        let bytes = self
            .current_bytes()
            .map_err(|source| read_error(&path, source))?;
        let Some(bytes) = bytes else {
            let listing = self.listing();
            let listing = listing.map_err(|source| read_error(&self.generations(), source))?;
            if listing.kept.is_empty() {
                let path = self.directory.clone();
                return Err(LoadError::Absent { path });
            }
            let restorable = self.restorable();
            return Err(LoadError::Missing { path, restorable });
        };
        match read_record(&bytes) {
            Ok(loaded) => Ok(loaded),
            Err(Flaw::Document(problems)) => Err(LoadError::Unusable {
                path,
                problems,
                restorable: self.restorable(),
            }),
            Err(Flaw::Record(problem)) => Err(LoadError::Changed {
                path,
                problem: Box::new(problem),
                restorable: self.restorable(),
            }),
        }
    }

    pub(crate) fn read_generation(&self, number: u64) -> Result<Loaded, GenerationError> {
        let path = self.kept_path(number);
        let bytes = match self.storage.read(&path, limits::GENERATION_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(GenerationError::Unknown { number });
            }
            Err(source) => return Err(GenerationError::Read { path, source }),
        };
        match read_record(&bytes) {
            Ok(loaded) if loaded.generation.number == number => Ok(loaded),
            Ok(loaded) => {
                let reason = format!("it says it is generation {}", loaded.generation.number);
                let problems = nowhere(reason).into();
                Err(GenerationError::Unusable { number, problems })
            }
            Err(Flaw::Document(problems)) => Err(GenerationError::Unusable { number, problems }),
            Err(Flaw::Record(problem)) => Err(GenerationError::Unusable {
                number,
                problems: problem.into(),
            }),
        }
    }

    /// The newest kept generation that is whole.
    pub(crate) fn restorable(&self) -> Option<Box<Generation>> {
        let listing = self.listing().ok()?;
        let mut newest_first = listing.kept.into_iter().rev();
        newest_first.find_map(|number| {
            let loaded = self.read_generation(number).ok()?;
            Some(Box::new(loaded.generation))
        })
    }

    /// None where a change has removed it meanwhile.
    fn history_entry(&self, number: u64, current: Option<u64>) -> Option<HistoryEntry> {
        let (generation, fault) = match self.read_generation(number) {
            Ok(loaded) => (Some(loaded.generation), None),
            Err(GenerationError::Unknown { .. }) => return None,
            Err(error) => (None, Some(error.to_string())),
        };
        Some(HistoryEntry {
            number,
            generation,
            current: current == Some(number),
            fault,
        })
    }

    /// Clears what a crash or a failure left: a staged generation that became current gets its
    /// place among the kept ones, any other staged one goes, and so do those that are too old.
    pub(crate) fn settle(&self, current: u64) -> io::Result<()> {
        let Listing { mut kept, staged } = self.listing()?;
        let mut changed = false;
        for number in staged {
            let staged = self.staged_path(number);
            if number == current {
                self.storage.rename(&staged, &self.kept_path(number))?;
                if !kept.contains(&number) {
                    kept.push(number);
                }
            } else {
                remove_leftover(&*self.storage, &staged)?;
            }
            changed = true;
        }
        kept.sort_unstable();
        let too_many = kept.len().saturating_sub(limits::GENERATIONS);
        for number in kept.into_iter().take(too_many) {
            remove_leftover(&*self.storage, &self.kept_path(number))?;
            changed = true;
        }
        if changed {
            self.storage.sync_directory(&self.generations())?;
        }
        Ok(())
    }
}

/// Why a file's content cannot be taken as a generation.
pub(crate) enum Flaw {
    /// The document itself is bad.
    Document(Problems),
    /// The document is good, but header and checksum say that it is not what was written.
    Record(Problem),
}

/// The generation and document in a file's bytes.
pub(crate) fn read_record(bytes: &[u8]) -> Result<Loaded, Flaw> {
    // The whole file is parsed (its header is comments), so that lines are those of the file.
    let file = parse::text(bytes, limits::GENERATION_BYTES).map_err(Flaw::Document)?;
    let document = parse::parse_text(file).map_err(Flaw::Document)?;
    match record::decode(file) {
        Ok((generation, text)) => Ok(Loaded {
            generation,
            document,
            text: text.to_owned(),
        }),
        Err(RecordError::Header(problem)) => Err(Flaw::Record(problem)),
        Err(RecordError::Checksum) => Err(Flaw::Record(nowhere(
            "its checksum does not match its content".to_owned(),
        ))),
    }
}

fn nowhere(reason: String) -> Problem {
    Problem {
        line: 0,
        column: 0,
        path: String::new(),
        reason,
        suggestion: None,
    }
}
