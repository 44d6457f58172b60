//! A disk that fails at a chosen step, and forgets at a crash what was not made stable.
//!
//! Harsher than any real one: after a crash each change of a name that was not synced may have
//! happened or not, independently of the others, and a file that was not synced holds any beginning
//! of what was written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::storage::{Access, Storage};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// All is well.
    None,
    /// This step fails, the others do not.
    At(usize),
    /// This step fails, and all after it.
    From(usize),
}

#[derive(Clone, Debug)]
struct Content {
    bytes: Vec<u8>,
    synced: bool,
}

#[derive(Clone, Debug)]
enum Naming {
    Set(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Unset(PathBuf),
}

#[derive(Clone, Debug)]
struct Model {
    contents: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    stable: BTreeMap<PathBuf, usize>,
    pending: Vec<Naming>,
    step: usize,
    fault: Fault,
}

#[derive(Debug)]
pub(crate) struct Disk(Mutex<Model>);

impl Clone for Disk {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Model {
            contents: Vec::new(),
            names: BTreeMap::new(),
            stable: BTreeMap::new(),
            pending: Vec::new(),
            step: 0,
            fault: Fault::None,
        }))
    }

    /// Counts steps from 0 again, with this fault ahead.
    pub(crate) fn plan(&self, fault: Fault) {
        let mut model = self.0.lock();
        model.step = 0;
        model.fault = fault;
    }

    pub(crate) fn steps(&self) -> usize {
        self.0.lock().step
    }

    /// What the disk may hold after the host was lost now.
    pub(crate) fn after_crash(&self, seed: u64) -> Self {
        let mut model = self.0.lock().clone();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chance = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for naming in std::mem::take(&mut model.pending) {
            if chance() % 2 == 0 {
                naming.apply(&mut model.stable);
            }
        }
        model.names = model.stable.clone();
        for content in &mut model.contents {
            if !content.synced {
                let length = content.bytes.len() as u64;
                let kept = usize::try_from(chance() % (length + 1)).expect("short");
                content.bytes.truncate(kept);
                content.synced = true;
            }
        }
        model.fault = Fault::None;
        Self(Mutex::new(model))
    }

    /// All files with their content.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let model = self.0.lock();
        let file =
            |(path, at): (&PathBuf, &usize)| (path.clone(), model.contents[*at].bytes.clone());
        model.names.iter().map(file).collect()
    }

    /// Changes a file behind the store's back.
    pub(crate) fn overwrite(&self, path: &str, bytes: &[u8]) {
        let mut model = self.0.lock();
        let at = model.contents.len();
        model.contents.push(Content {
            bytes: bytes.to_vec(),
            synced: true,
        });
        model.names.insert(path.into(), at);
        model.stable.insert(path.into(), at);
    }

    /// Removes a file behind the store's back.
    pub(crate) fn lose(&self, path: &str) {
        let mut model = self.0.lock();
        model.names.remove(Path::new(path));
        model.stable.remove(Path::new(path));
    }

    fn step(&self) -> io::Result<parking_lot::MutexGuard<'_, Model>> {
        let mut model = self.0.lock();
        let step = model.step;
        model.step += 1;
        match model.fault {
            Fault::At(at) if step == at => Err(io::ErrorKind::StorageFull.into()),
            Fault::From(from) if step >= from => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(model),
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Set(path, at) => {
                names.insert(path.clone(), *at);
            }
            Self::Move(from, to, at) => {
                names.remove(from);
                names.insert(to.clone(), *at);
            }
            Self::Unset(path) => {
                names.remove(path);
            }
        }
    }

    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Set(path, _) | Self::Move(_, path, _) | Self::Unset(path) => path.parent(),
        }
    }
}

impl Model {
    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending.push(naming);
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for Disk {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let model = self.step()?;
        let bytes = model.contents[model.find(path)?].bytes.clone();
        assert!(bytes.len() as u64 <= most);
        Ok(bytes)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let model = self.step()?;
        let inside = model
            .names
            .keys()
            .filter(|path| path.parent() == Some(directory));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        self.step().map(drop)
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut model = self.step()?;
        if model.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let at = model.contents.len();
        model.contents.push(Content {
            bytes: content.to_vec(),
            synced: false,
        });
        model.name(Naming::Set(path.to_owned(), at));
        Ok(())
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut model = self.step()?;
        let at = model.find(path)?;
        model.contents[at].synced = true;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.step()?;
        let at = model.find(from)?;
        assert_eq!(from.parent(), to.parent(), "a rename within one directory");
        model.name(Naming::Move(from.to_owned(), to.to_owned(), at));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut model = self.step()?;
        let pending = std::mem::take(&mut model.pending);
        for naming in pending {
            if naming.directory() == Some(path) {
                naming.apply(&mut model.stable);
            } else {
                model.pending.push(naming);
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.step()?;
        model.find(path)?;
        model.name(Naming::Unset(path.to_owned()));
        Ok(())
    }

    fn access(&self, path: &Path) -> io::Result<Access> {
        let model = self.step()?;
        let directory = model.names.keys().all(|name| name != path);
        if directory && path.extension().is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Access {
            mode: if directory { 0o700 } else { 0o600 },
            ours: true,
            plain: true,
        })
    }
}
