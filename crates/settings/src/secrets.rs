//! Secrets by name, in a file of their own.
//!
//! `DATA_DIR/secrets/secrets.toml`: directory 0700, file 0600, one `name = "secret"` a line. The
//! settings name secrets and never hold them. The file can be edited by hand; its permissions are
//! checked at every load, because a file that others can read has told its secrets already.
//!
//! Secrets that come with a document are in force with it, or not at all:
//!
//! ```text
//! settings staged ─► secrets/staged.toml, stable: names the settings file to be, by its SHA-256,
//!   │                its generation and the one before
//!   … the caller applies document and secrets to the running service …
//! settings/current.toml replaced        crash before: the load removes staged.toml
//! staged.toml renamed to secrets.toml   crash before: the load does it, as the sum is that of
//!                                       current.toml
//! ```
//!
//! Somebody may edit, damage or lose `current.toml` between the crash and the load. The generation
//! that its header names decides then. Where that is not to be had, both are kept, a staged secret
//! in place of that of its name: an edit by hand loses no secret.

mod ticket;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand;
use secrecy::{ExposeSecret, SecretString};
use toml::de::{DeTable, DeValue};
use zeroize::{Zeroize, Zeroizing};

use crate::change::Staged;
use crate::limits;
use crate::problem::Lines;
use crate::storage::{Files, Storage, remove_leftover, replace, temporary};
use ticket::{Fate, STAGED, Ticket};

const NOTE: &str = "# Secrets of Sanctum, one a line; keep the mode of this file 0600.\n";

/// What a secret may be called.
const NAME_RULE: &str = "1 to 128 letters, digits and `- _ . : @`";

/// Why secrets cannot be had, or not be changed. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The directory cannot be made.
    #[error("cannot make the directory {} for secrets", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file or directory is open to others.
    #[error(
        "{} has mode {mode:04o} and others could use it; run `chmod {wanted:o} {}`, and replace \
         the secrets in it if somebody may have read them",
        path.display(),
        path.display()
    )]
    TooOpen {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It belongs to somebody else, or is a link or a device.
    #[error(
        "{} is not a plain file or directory of the service's user; whoever it belongs to could \
         change the secrets: put it right with chown, or move it away",
        path.display()
    )]
    NotOurs {
        /// The file or directory.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the secrets in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no list of secrets.
    #[error("{source_name}: line {line}, column {column}: {reason}")]
    Damaged {
        /// What was read.
        source_name: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong; never holds a secret.
        reason: String,
    },
    /// The file cannot be written; the secrets are as they were.
    #[error("cannot write the secrets to {}; nothing was changed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The secrets are in force, but their file has not got its place.
    #[error(
        "the secrets that are in force could not be moved to {}; they stay in the file \
         staged.toml beside it, check the disk of the data directory",
        path.display()
    )]
    NotPlaced {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The change is made, but a loss of power may undo it.
    #[error(
        "the secrets in {} are changed, but the disk did not confirm it; check the disk of the \
         data directory",
        path.display()
    )]
    NotConfirmed {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that cannot be.
    #[error("`{name}` cannot name a secret: {NAME_RULE}")]
    Name {
        /// The name, without what a terminal would not show.
        name: String,
    },
    /// A secret that cannot be.
    #[error("the secret `{name}` cannot be used: {fault}")]
    Value {
        /// Its name.
        name: String,
        /// Why.
        fault: SecretFault,
    },
    /// There is no such secret.
    #[error("there is no secret `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// No more fit.
    #[error(
        "there are {} secrets already; remove those that nothing refers to",
        limits::SECRETS
    )]
    TooMany,
    /// No random numbers.
    #[error("no secret could be made: the system's random numbers fail")]
    Random,
}

/// Why a CHAP secret cannot be used at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretFault {
    /// Shorter than the standard allows.
    #[error(
        "it has {bytes} bytes and needs at least {}: a shorter CHAP secret can be guessed from \
         one login that somebody overheard, and initiators refuse it",
        limits::SECRET_BYTES_MIN
    )]
    TooShort {
        /// Its length.
        bytes: usize,
    },
    /// Longer than initiators take.
    #[error("it has {bytes} bytes; at most {} fit", limits::SECRET_BYTES_MAX)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It holds control characters.
    #[error(
        "it holds a line end or another control character, which nobody can type at an \
         initiator; was it read from a file with a line end?"
    )]
    Control,
}

/// What a person should know of a secret that can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretAdvice {
    /// Windows and ESXi will not take it.
    #[error(
        "it is longer than {} bytes: the initiators of Windows and ESXi do not take it",
        limits::SECRET_BYTES_ADVISED
    )]
    LongerThanAdvised,
    /// Its bytes depend on the encoding that the initiator uses.
    #[error("it holds characters beyond ASCII, which initiators encode in different ways")]
    NotAscii,
}

/// Judges a CHAP secret.
///
/// # Errors
/// It cannot be used.
pub fn check_secret(secret: &SecretString) -> Result<Option<SecretAdvice>, SecretFault> {
    let secret = secret.expose_secret();
    let bytes = secret.len();
    if bytes < limits::SECRET_BYTES_MIN {
        return Err(SecretFault::TooShort { bytes });
    }
    if bytes > limits::SECRET_BYTES_MAX {
        return Err(SecretFault::TooLong { bytes });
    }
    if secret.chars().any(char::is_control) {
        return Err(SecretFault::Control);
    }
    Ok(if bytes > limits::SECRET_BYTES_ADVISED {
        Some(SecretAdvice::LongerThanAdvised)
    } else if !secret.is_ascii() {
        Some(SecretAdvice::NotAscii)
    } else {
        None
    })
}

/// Letters and digits of chance, [`limits::SECRET_GENERATED`] of them.
///
/// # Errors
/// The system gives no random numbers.
pub fn random_secret() -> Result<SecretString, SecretsError> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    // The largest multiple of 62 in a byte: above it a remainder would favour the first letters.
    const FAIR: u8 = 248;
    let mut secret = Zeroizing::new(String::with_capacity(limits::SECRET_GENERATED));
    while secret.len() < limits::SECRET_GENERATED {
        let mut bytes = Zeroizing::new([0_u8; 2 * limits::SECRET_GENERATED]);
        rand::fill(&mut *bytes).map_err(|_| SecretsError::Random)?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR);
        let letters = fair.filter_map(|byte| LETTERS.get(usize::from(byte % 62)));
        for letter in letters.take(limits::SECRET_GENERATED - secret.len()) {
            secret.push(char::from(*letter));
        }
    }
    Ok(SecretString::from(secret.as_str()))
}

/// The secrets of one host. Debug shows names only; values are wiped when dropped.
#[derive(Clone)]
pub struct Secrets {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    secrets: BTreeMap<String, SecretString>,
    /// The secrets in force are those of the staged file, which has not got its place yet.
    unfinished: bool,
}

/// All secrets as they are once a staged generation is current; on disk beside those in force.
/// One that is forgotten is removed by the next load.
pub struct StagedSecrets(BTreeMap<String, SecretString>);

impl fmt::Debug for StagedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl StagedSecrets {
    /// Names and secrets, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SecretString)> {
        pairs(&self.0)
    }
}

fn pairs(secrets: &BTreeMap<String, SecretString>) -> impl Iterator<Item = (&str, &SecretString)> {
    secrets.iter().map(|(name, secret)| (name.as_str(), secret))
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("path", &self.path)
            .field("names", &self.secrets.keys())
            .finish_non_exhaustive()
    }
}

impl Secrets {
    /// Loads the secrets under a data directory; there are none where there is no file. Staged ones
    /// that a crash left become those in force, or go where their settings were never in force:
    /// the caller keeps others from the directory.
    ///
    /// # Errors
    /// Others could read or change the file, or it cannot be read, or it is no list of secrets.
    pub fn load(data_dir: &Path) -> Result<Self, SecretsError> {
        Self::load_from(Arc::new(Files), data_dir)
    }

    pub(crate) fn load_from(
        storage: Arc<dyn Storage>,
        data_dir: &Path,
    ) -> Result<Self, SecretsError> {
        let directory = data_dir.join("secrets");
        let path = directory.join("secrets.toml");
        storage
            .make_directory(&directory)
            .map_err(|source| SecretsError::Directory {
                path: directory.clone(),
                source,
            })?;
        // The directory's own name; where it cannot be made stable, a write will say so.
        let _ = storage.sync_directory(data_dir);
        guard(&*storage, &directory, 0o700)?;
        let mut loaded = Self {
            storage,
            path,
            secrets: BTreeMap::new(),
            unfinished: false,
        };
        let staged = loaded.settle(&data_dir.join("settings/current.toml"))?;
        let stored = read_file(&*loaded.storage, &loaded.path)?;
        loaded.secrets = stored.into_iter().flatten().collect();
        if let Some(staged) = staged {
            loaded.take_in(staged)?;
        }
        Ok(loaded)
    }

    /// Where the secrets are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A secret.
    pub fn get(&self, name: &str) -> Option<&SecretString> {
        self.secrets.get(name)
    }

    /// Whether there is a secret of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.secrets.contains_key(name)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }

    /// Names and secrets, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SecretString)> {
        pairs(&self.secrets)
    }

    /// Sets a secret, new or in place of the old one, stable on return.
    ///
    /// # Errors
    /// Name or secret cannot be, or the file cannot be written; the secrets are then as they were,
    /// except for [`SecretsError::NotConfirmed`].
    pub fn set(
        &mut self,
        name: &str,
        secret: SecretString,
    ) -> Result<Option<SecretAdvice>, SecretsError> {
        let advice = check(name, &secret)?;
        self.set_all(vec![(name.to_owned(), secret)])?;
        Ok(advice)
    }

    /// Sets several secrets, all or none, stable on return.
    ///
    /// # Errors
    /// As [`Secrets::set`].
    pub fn set_all(&mut self, secrets: Vec<(String, SecretString)>) -> Result<(), SecretsError> {
        let next = self.with(secrets, &[])?;
        self.write(next)
    }

    /// Writes secrets, new or in place of those of their names and without the `dropped` ones, to
    /// come into force with a staged generation: stable on return, and without effect until
    /// [`Secrets::take`].
    ///
    /// # Errors
    /// As [`Secrets::set`]; nothing is changed then.
    pub fn stage(
        &mut self,
        secrets: Vec<(String, SecretString)>,
        dropped: &[String],
        with: &Staged,
    ) -> Result<StagedSecrets, SecretsError> {
        self.finish()?;
        let next = self.with(secrets, dropped)?;
        let path = self.staged_path();
        let failed = |source| SecretsError::Write {
            path: path.clone(),
            source,
        };
        let ticket = Ticket::of(with).map_err(failed)?;
        let head = format!("{STAGED}{ticket}\n");
        let text = write_text(&head, &next);
        if let Err(error) = replace(&*self.storage, &path, text.as_bytes()) {
            // Best effort: a leftover names settings that are never current, and goes.
            let _ = remove_leftover(&*self.storage, &path);
            return Err(failed(error.source));
        }
        Ok(StagedSecrets(next))
    }

    /// In place of [`Secrets::stage`] for a generation without secrets of its own, before it is
    /// staged: removes what a change that was given up may have left. Its generation's number is
    /// given again, and an edit of that one by hand would bring these into force.
    ///
    /// # Errors
    /// It cannot be removed; nothing is changed then.
    pub fn stage_none(&mut self) -> Result<(), SecretsError> {
        self.finish()?;
        self.remove_staged()?;
        let path = self.staged_path();
        let directory = path.parent().unwrap_or(&path);
        let stable = self.storage.sync_directory(directory);
        stable.map_err(|source| SecretsError::Write { path, source })
    }

    /// Puts staged secrets in force; to be called when their generation is current. In memory they
    /// are in force even where an error is given.
    ///
    /// # Errors
    /// The file did not get its place, or the disk did not confirm it. A load does it, and so does
    /// the next change of a secret.
    pub fn take(&mut self, staged: StagedSecrets) -> Result<(), SecretsError> {
        self.hold(staged);
        self.finish()
    }

    /// As [`Secrets::take`] where the disk did not confirm the settings: in memory only, so that a
    /// load after a loss of power finds the secrets that belong to the settings it finds.
    pub fn hold(&mut self, staged: StagedSecrets) {
        self.secrets = staged.0;
        self.unfinished = true;
    }

    /// Gives staged secrets up; their generation will never be current.
    ///
    /// # Errors
    /// The file could not be removed; it does no harm and goes with the next change or load.
    pub fn discard(&self, staged: StagedSecrets) -> io::Result<()> {
        drop(staged);
        remove_leftover(&*self.storage, &self.staged_path())
    }

    fn with(
        &self,
        secrets: Named,
        dropped: &[String],
    ) -> Result<BTreeMap<String, SecretString>, SecretsError> {
        let mut next = self.secrets.clone();
        for name in dropped {
            next.remove(name);
        }
        for (name, secret) in secrets {
            check(&name, &secret)?;
            next.insert(name, secret);
        }
        if next.len() > limits::SECRETS {
            return Err(SecretsError::TooMany);
        }
        Ok(next)
    }

    fn staged_path(&self) -> PathBuf {
        self.path.with_file_name("staged.toml")
    }

    /// Gives the staged file its place, where it has not got it yet.
    ///
    /// # Errors
    /// As [`Secrets::take`].
    pub fn finish(&mut self) -> Result<(), SecretsError> {
        if !self.unfinished {
            return Ok(());
        }
        self.storage
            .rename(&self.staged_path(), &self.path)
            .map_err(|source| SecretsError::NotPlaced {
                path: self.path.clone(),
                source,
            })?;
        self.unfinished = false;
        let directory = self.path.parent().unwrap_or(&self.path);
        self.storage
            .sync_directory(directory)
            .map_err(|source| SecretsError::NotConfirmed {
                path: self.path.clone(),
                source,
            })
    }

    /// Finishes what a crash cut off: staged secrets whose settings are current are in force, those
    /// whose settings never were go. Gives back those of which that cannot be told.
    fn settle(&mut self, current: &Path) -> Result<Option<Named>, SecretsError> {
        let path = self.staged_path();
        // Half-written ones are of no use to anybody; where they cannot be removed they do no harm.
        let _ = remove_leftover(&*self.storage, &temporary(&path));
        let staged = match self.storage.read(&path, limits::SECRETS_FILE_BYTES) {
            Ok(staged) => Zeroizing::new(staged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SecretsError::Read { path, source }),
        };
        let ticket = Ticket::read(&staged);
        let fate = ticket.map_or(Fate::Unknown, |ticket| {
            match self.storage.read(current, limits::GENERATION_BYTES) {
                Ok(current) => ticket.fate(&current),
                Err(_) => Fate::Unknown,
            }
        });
        match fate {
            Fate::InForce => {
                self.unfinished = true;
                self.finish().map(|()| None)
            }
            Fate::GivenUp => self.remove_staged().map(|()| None),
            Fate::Unknown => read_file(&*self.storage, &path),
        }
    }

    /// Takes staged secrets to those that are there. A crash on the way finds both again.
    fn take_in(&mut self, staged: Named) -> Result<(), SecretsError> {
        let next = self.with(staged, &[])?;
        self.write(next)?;
        self.remove_staged()
    }

    fn remove_staged(&self) -> Result<(), SecretsError> {
        let path = self.staged_path();
        remove_leftover(&*self.storage, &path)
            .map_err(|source| SecretsError::Write { path, source })
    }

    /// Makes a secret of chance, keeps it under a name, and gives it for showing it once.
    ///
    /// # Errors
    /// As [`Secrets::set`]; or the system gives no random numbers.
    pub fn generate(&mut self, name: &str) -> Result<SecretString, SecretsError> {
        let secret = random_secret()?;
        self.set(name, secret.clone())?;
        Ok(secret)
    }

    /// Removes a secret, stable on return.
    ///
    /// # Errors
    /// There is none of this name, or the file cannot be written.
    pub fn remove(&mut self, name: &str) -> Result<(), SecretsError> {
        let mut next = self.secrets.clone();
        if next.remove(name).is_none() {
            return Err(SecretsError::Unknown {
                name: printable(name),
            });
        }
        self.write(next)
    }

    /// The text of the file.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        write_text(NOTE, &self.secrets)
    }

    /// Reads the text of a file of secrets.
    pub(crate) fn read_text(bytes: &[u8]) -> Result<Vec<(String, SecretString)>, SecretsError> {
        read(bytes, "the secrets")
    }

    /// Writes first, then takes: what is in memory is never ahead of the file.
    fn write(&mut self, next: BTreeMap<String, SecretString>) -> Result<(), SecretsError> {
        // A staged file that is in force would overrule this one at the next load.
        self.finish()?;
        let text = write_text(NOTE, &next);
        let path = self.path.clone();
        match replace(&*self.storage, &path, text.as_bytes()) {
            Ok(()) => {
                self.secrets = next;
                Ok(())
            }
            Err(error) if error.renamed => {
                self.secrets = next;
                let source = error.source;
                Err(SecretsError::NotConfirmed { path, source })
            }
            Err(error) => Err(SecretsError::Write {
                path,
                source: error.source,
            }),
        }
    }
}

/// Refuses what others could use.
fn guard(storage: &dyn Storage, path: &Path, wanted: u32) -> Result<(), SecretsError> {
    let access = storage.access(path).map_err(|source| SecretsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let path = path.to_owned();
    if !access.plain || !access.ours {
        return Err(SecretsError::NotOurs { path });
    }
    if access.mode & 0o777 & !wanted != 0 {
        let mode = access.mode;
        return Err(SecretsError::TooOpen { path, mode, wanted });
    }
    Ok(())
}

const _: () = assert!(limits::SECRET_NAME_BYTES == 128, "as NAME_RULE says");

fn check(name: &str, secret: &SecretString) -> Result<Option<SecretAdvice>, SecretsError> {
    let right = (1..=limits::SECRET_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:@".contains(&b));
    if !right {
        let name = printable(name);
        return Err(SecretsError::Name { name });
    }
    check_secret(secret).map_err(|fault| SecretsError::Value {
        name: name.to_owned(),
        fault,
    })
}

/// Names and secrets as they are read.
type Named = Vec<(String, SecretString)>;

fn printable(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_control())
        .take(limits::SECRET_NAME_BYTES)
        .collect()
}

/// All in one piece of the right size, so that no copy is left behind by growing.
fn write_text(head: &str, secrets: &BTreeMap<String, SecretString>) -> Zeroizing<String> {
    let lengths = secrets
        .iter()
        .map(|(name, secret)| name.len() + 6 * secret.expose_secret().len() + 8);
    let mut text = Zeroizing::new(String::with_capacity(head.len() + lengths.sum::<usize>()));
    text.push_str(head);
    for (name, secret) in secrets {
        text.push('"');
        text.push_str(name);
        text.push_str("\" = \"");
        for c in secret.expose_secret().chars() {
            // Control characters are refused before; quotes and backslashes are all there is to
            // escape.
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push_str("\"\n");
    }
    text
}

/// What a file of secrets holds; none where there is no file.
fn read_file(storage: &dyn Storage, path: &Path) -> Result<Option<Named>, SecretsError> {
    match guard(storage, path, 0o600) {
        Err(SecretsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        guarded => guarded?,
    }
    let bytes = storage.read(path, limits::SECRETS_FILE_BYTES);
    let bytes = bytes.map_err(|source| SecretsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let bytes = Zeroizing::new(bytes);
    read(&bytes, &path.display().to_string()).map(Some)
}

fn read(bytes: &[u8], source_name: &str) -> Result<Named, SecretsError> {
    let damaged = |lines: &Lines<'_>, offset: usize, reason: &str| {
        let (line, column) = lines.place(offset);
        SecretsError::Damaged {
            source_name: source_name.to_owned(),
            line,
            column,
            reason: reason.to_owned(),
        }
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let valid = std::str::from_utf8(valid).unwrap_or_default();
        damaged(&Lines::new(valid), valid.len(), "this is no UTF-8 text")
    })?;
    let lines = Lines::new(text);
    // Only the place is taken from the parser's error: its text could quote the line.
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        damaged(
            &lines,
            at,
            "this is not a line of the form name = \"secret\"",
        )
    })?;
    let mut secrets = Vec::new();
    for (name, value) in table.into_inner() {
        let at = name.span().start;
        let value_at = value.span().start;
        let DeValue::String(mut secret) = value.into_inner() else {
            return Err(damaged(&lines, value_at, "a secret is a text in quotes"));
        };
        let value = SecretString::from(&*secret);
        if let std::borrow::Cow::Owned(copy) = &mut secret {
            copy.zeroize();
        }
        let name = name.into_inner().into_owned();
        check(&name, &value).map_err(|error| match error {
            // Somebody may have mixed up the two sides: what stands there is not repeated.
            SecretsError::Name { .. } => {
                damaged(&lines, at, &format!("the name of a secret is {NAME_RULE}"))
            }
            SecretsError::Value { fault, .. } => {
                damaged(&lines, at, &format!("this secret cannot be used: {fault}"))
            }
            other => other,
        })?;
        secrets.push((name, value));
    }
    if secrets.len() > limits::SECRETS {
        return Err(SecretsError::TooMany);
    }
    Ok(secrets)
}
