//! Changing the settings: plan, stage, activate.
//!
//! ```text
//! propose ──► Plan (diff, changes, checks; nothing written)
//!   stage ──► generations/000013.staged.toml, stable      crash from here: load gives the old ones
//!             … the caller applies the document to the running service …
//! activate ─► current.toml replaced by rename             crash from here: load gives the new ones
//!             staged file renamed to 000013.toml, the oldest removed
//!  discard ─► staged file removed, if the service would not have it
//! ```
//!
//! A plan knows which generation it changes ([`Plan::base`]) and what `current.toml` held: staging
//! fails with a conflict if somebody else came in between, be it through this store or with an
//! editor.

use std::io;
use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256, digest};

use crate::diff::{self, Change};
use crate::document::{Document, WriteError};
use crate::limits;
use crate::parse;
use crate::problem::{CheckError, Problem, Problems};
use crate::record::{self, Generation};
use crate::storage::{ReplaceError, remove_leftover, replace};
use crate::store::{GenerationError, Inner, Loaded, Store};

/// The service's own judgement of a document; called with every proposal that can be read.
pub type Check<'a> = &'a dyn Fn(&Document) -> Result<(), CheckError>;

/// Why no plan can be made.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The text is no settings document.
    #[error("{0}")]
    Invalid(Problems),
    /// The document cannot be written down.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The generation asked for cannot be had.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The current file cannot be looked at.
    #[error("cannot read the current settings")]
    Read(#[source] io::Error),
}

/// Why a plan was not staged. Nothing is changed by any of these.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The plan's checks found something that is refused.
    #[error("the settings are refused: {0}")]
    Refused(Problems),
    /// Somebody else changed the settings since the plan was made.
    #[error(
        "the settings were changed meanwhile: {}; look at the difference again and repeat",
        conflict(expected.as_ref(), current.as_deref())
    )]
    Conflict {
        /// The generation that the plan changes.
        expected: Option<u64>,
        /// The one that is current now.
        current: Option<Box<Generation>>,
    },
    /// The file was changed under the service since the plan was made.
    #[error(
        "settings/current.toml was changed by something else than this service; restart the \
         service to see what is wrong with it"
    )]
    ChangedOutside,
    /// Another change is between staging and activation.
    #[error("another change of the settings is under way; try again when it is done")]
    Busy,
    /// The disk did not take the new generation.
    #[error("the new settings could not be written; nothing was changed")]
    Write(#[source] io::Error),
}

fn conflict(expected: Option<&u64>, current: Option<&Generation>) -> String {
    let expected = match expected {
        Some(number) => format!("expected generation {number}"),
        None => "expected none".to_owned(),
    };
    match current {
        Some(now) => format!(
            "{expected}, current is {} of {} by {} ({})",
            now.number, now.when, now.who, now.why
        ),
        None => format!("{expected}, there is none now"),
    }
}

/// Why an activation did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The old settings are still current, and stay so; a service that runs with the new ones must
    /// go back.
    #[error("the new settings could not be made current; the old ones still are")]
    NotActivated(#[source] io::Error),
    /// The new settings are current, but whether a loss of power would keep them so is not known.
    #[error(
        "the new settings (generation {}) are current, but the disk did not confirm them; check \
         the disk of the data directory",
        generation.number
    )]
    NotConfirmed {
        /// The new generation.
        generation: Box<Generation>,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Before anything was changed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// While the new settings were made current.
    #[error(transparent)]
    Activate(#[from] ActivateError),
}

/// A change that could be made: what it would be, and what speaks against it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The document after the change.
    pub document: Document,
    /// The document as it will be written.
    pub text: String,
    /// The generation that the plan changes; none where there is none yet.
    pub base: Option<u64>,
    /// Unified diff of the canonical forms: defaults spelled out, comments left out. Empty: nothing
    /// changes but comments and layout.
    pub diff: String,
    /// The same, value by value.
    pub changes: Vec<Change>,
    /// What is refused, with the places in [`Plan::text`]. Empty: the plan can be carried out.
    pub checks: Vec<Problem>,
    /// The generation that is brought back.
    content_of: Option<u64>,
    /// What `current.toml` held when the plan was made.
    replaces: Option<Digest>,
    /// The current file is not one of ours: keep it aside.
    rescue: bool,
}

impl Plan {
    /// Whether nothing would change in meaning.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether the checks let it through.
    pub fn is_accepted(&self) -> bool {
        self.checks.is_empty()
    }
}

/// A generation that is written and not current yet. Dropped: discarded.
#[derive(Debug)]
pub struct Staged {
    inner: Arc<Inner>,
    loaded: Option<Loaded>,
    rescue: bool,
}

impl Store {
    /// Plans to replace the settings by a document; its text is the canonical one, so comments of a
    /// hand-written one are lost.
    ///
    /// # Errors
    /// The document cannot be written as TOML, or the current file cannot be looked at.
    pub fn propose(&self, document: Document, check: Check<'_>) -> Result<Plan, ProposeError> {
        let text = document.to_text()?;
        self.plan(document, text, check)
    }

    /// Plans to replace the settings by a text somebody wrote; it is kept as it is, comments
    /// included.
    ///
    /// # Errors
    /// The text is not a settings document, with every reason found; or the current file cannot be
    /// looked at.
    pub fn propose_text(&self, text: &[u8], check: Check<'_>) -> Result<Plan, ProposeError> {
        let document = parse::parse(text).map_err(ProposeError::Invalid)?;
        let text = parse::text(text, limits::DOCUMENT_BYTES).map_err(ProposeError::Invalid)?;
        let text = record::without_header(text).to_owned();
        self.plan(document, text, check)
    }

    /// Plans to bring back what a kept generation held.
    ///
    /// # Errors
    /// The generation is not kept or damaged, or the current file cannot be looked at.
    pub fn propose_rollback(&self, number: u64, check: Check<'_>) -> Result<Plan, ProposeError> {
        let loaded = self.generation(number)?;
        let mut plan = self.plan(loaded.document, loaded.text, check)?;
        plan.content_of = Some(number);
        Ok(plan)
    }

    /// Plans to restore a kept generation where the current file is missing or cannot be used; what
    /// is there is kept aside as `current.damaged.toml`.
    ///
    /// # Errors
    /// As [`Store::propose_rollback`].
    pub fn propose_restore(&self, number: u64, check: Check<'_>) -> Result<Plan, ProposeError> {
        let mut plan = self.propose_rollback(number, check)?;
        plan.rescue = true;
        Ok(plan)
    }

    /// Plans to take the current file as it is, after somebody edited it by hand.
    ///
    /// # Errors
    /// The file is not a settings document, with every reason found; or it cannot be read.
    pub fn propose_adoption(&self, check: Check<'_>) -> Result<Plan, ProposeError> {
        let bytes = self.inner.current_bytes().map_err(ProposeError::Read)?;
        let bytes = bytes.unwrap_or_default();
        let file = parse::text(&bytes, limits::GENERATION_BYTES).map_err(ProposeError::Invalid)?;
        let document = parse::parse_text(file).map_err(ProposeError::Invalid)?;
        let text = record::without_header(file).to_owned();
        let mut plan = self.plan(document, text, check)?;
        plan.replaces = Some(digest(&SHA256, &bytes));
        plan.rescue = true;
        Ok(plan)
    }

    /// Writes a plan's generation, stable, without making it current. `who` and `why` are for the
    /// history; they are cut at [`limits::WHO_BYTES`] and [`limits::WHY_BYTES`].
    ///
    /// # Errors
    /// Refused, overtaken, or not written; nothing is changed then.
    pub fn stage(&self, plan: Plan, who: &str, why: &str) -> Result<Staged, StageError> {
        if !plan.checks.is_empty() {
            return Err(StageError::Refused(Problems::new(plan.checks)));
        }
        let inner = &self.inner;
        let mut state = inner.state.lock();
        if state.staged.is_some() {
            return Err(StageError::Busy);
        }
        inner.check_base(&plan)?;
        let parent = self.current().map(|now| now.generation.number);
        if let Some(number) = parent {
            // A leftover that cannot be cleared has a number of its own and does no harm.
            let _ = inner.settle(number);
        }
        let listing = inner.listing().map_err(StageError::Write)?;
        let last = [
            parent,
            listing.kept.last().copied(),
            listing.staged.last().copied(),
        ];
        let last = last.into_iter().flatten().max().unwrap_or(0);
        let number = last.checked_add(1).ok_or_else(|| {
            let path = inner.kept_path(last);
            let reason = format!("no number comes after that of {}", path.display());
            StageError::Write(io::Error::other(reason))
        })?;
        let mut generation = Generation::new(number, parent, (inner.clock)(), (who, why));
        generation.content_of = plan.content_of;
        let bytes = record::encode(&generation, &plan.text)
            .map_err(|error| StageError::Write(io::Error::other(error)))?;
        let staged = inner.staged_path(number);
        if let Err(error) = replace(&*inner.storage, &staged, &bytes) {
            // Best effort: a leftover never counts, and is cleared by the next change.
            let _ = remove_leftover(&*inner.storage, &staged);
            return Err(StageError::Write(error.source));
        }
        state.staged = Some(number);
        Ok(Staged {
            inner: Arc::clone(inner),
            loaded: Some(Loaded {
                generation,
                document: plan.document,
                text: plan.text,
            }),
            rescue: plan.rescue,
        })
    }

    /// Stages and activates in one, for settings that no running service has to be asked about.
    ///
    /// # Errors
    /// Those of [`Store::stage`] and [`Staged::activate`].
    pub fn commit(&self, plan: Plan, who: &str, why: &str) -> Result<Generation, CommitError> {
        Ok(self.stage(plan, who, why)?.activate()?)
    }

    fn plan(
        &self,
        document: Document,
        text: String,
        check: Check<'_>,
    ) -> Result<Plan, ProposeError> {
        let current = self.current();
        let current_bytes = self.inner.current_bytes().map_err(ProposeError::Read)?;
        let old_document = current.as_ref().map(|loaded| &loaded.document);
        let old_text = old_document.map_or_else(|| Ok(String::new()), Document::to_text)?;
        let new_text = document.to_text()?;
        let old_table = old_document.map_or_else(|| Ok(toml::Table::new()), Document::to_table)?;
        let old_name = match &current {
            Some(loaded) => format!("generation {}", loaded.generation.number),
            None => "nothing".to_owned(),
        };
        let refusal = document.check().and_then(|()| check(&document)).err();
        Ok(Plan {
            base: current.as_ref().map(|loaded| loaded.generation.number),
            diff: diff::unified(&old_text, &new_text, &old_name, "proposed"),
            changes: diff::changes(&old_table, &document.to_table()?),
            checks: refusal
                .iter()
                .map(|error| parse::locate(&text, error))
                .collect(),
            content_of: None,
            replaces: current_bytes.map(|bytes| digest(&SHA256, &bytes)),
            rescue: false,
            document,
            text,
        })
    }
}

impl Staged {
    /// The generation to be.
    pub fn generation(&self) -> Option<&Generation> {
        self.loaded.as_ref().map(|loaded| &loaded.generation)
    }

    /// What `current.toml` will hold once the generation is current.
    pub(crate) fn file(&self) -> io::Result<Vec<u8>> {
        let loaded = self.loaded.as_ref();
        let loaded = loaded.ok_or_else(|| io::Error::other("the change was finished already"))?;
        record::encode(&loaded.generation, &loaded.text).map_err(io::Error::other)
    }

    /// Makes the generation current, stable.
    ///
    /// # Errors
    /// The old one is still current, or the new one is and its stability is in doubt; the variants
    /// tell which.
    pub fn activate(mut self) -> Result<Generation, ActivateError> {
        let Some(loaded) = self.loaded.take() else {
            let reason = io::Error::other("the change was finished already");
            return Err(ActivateError::NotActivated(reason));
        };
        let inner = Arc::clone(&self.inner);
        let mut state = inner.state.lock();
        let generation = loaded.generation.clone();
        let result = inner.make_current(&loaded, self.rescue);
        state.staged = None;
        let staged = inner.staged_path(generation.number);
        match result {
            Ok(()) => {
                inner.publish(Arc::new(loaded));
                // What fails here is made good by the next load or change.
                let _ = inner.settle(generation.number);
                Ok(generation)
            }
            Err(error) if error.renamed => {
                inner.publish(Arc::new(loaded));
                Err(ActivateError::NotConfirmed {
                    generation: Box::new(generation),
                    source: error.source,
                })
            }
            Err(error) => {
                let _ = remove_leftover(&*inner.storage, &staged);
                Err(ActivateError::NotActivated(error.source))
            }
        }
    }

    /// Gives the change up; the settings stay as they are. What dropping does, with its error told.
    ///
    /// # Errors
    /// The staged file could not be removed; it does no harm and goes with the next change.
    pub fn discard(mut self) -> io::Result<()> {
        self.give_up()
    }

    fn give_up(&mut self) -> io::Result<()> {
        let Some(loaded) = self.loaded.take() else {
            return Ok(());
        };
        let mut state = self.inner.state.lock();
        state.staged = None;
        let staged = self.inner.staged_path(loaded.generation.number);
        remove_leftover(&*self.inner.storage, &staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // A leftover does no harm.
        let _ = self.give_up();
    }
}

impl Inner {
    /// Whether what the plan was made against is still so, here and on disk.
    fn check_base(&self, plan: &Plan) -> Result<(), StageError> {
        let loaded = self.current();
        let current = loaded.as_ref().map(|now| &now.generation);
        if current.map(|now| now.number) != plan.base {
            return Err(StageError::Conflict {
                expected: plan.base,
                current: current.cloned().map(Box::new),
            });
        }
        let bytes = self.current_bytes().map_err(StageError::Write)?;
        let now = bytes.as_deref().map(|bytes| digest(&SHA256, bytes));
        if now.as_ref().map(AsRef::as_ref) != plan.replaces.as_ref().map(AsRef::as_ref) {
            return Err(StageError::ChangedOutside);
        }
        // Only a restoration may replace what is not the file of the generation we know.
        if !plan.rescue && !is_file_of(bytes.as_deref(), loaded.as_deref()) {
            return Err(StageError::ChangedOutside);
        }
        Ok(())
    }

    fn make_current(&self, loaded: &Loaded, rescue: bool) -> Result<(), ReplaceError> {
        let not_yet = |source| ReplaceError {
            renamed: false,
            source,
        };
        if rescue && let Some(bytes) = self.current_bytes().map_err(not_yet)? {
            let aside = self.directory.join("current.damaged.toml");
            replace(&*self.storage, &aside, &bytes).map_err(|error| not_yet(error.source))?;
        }
        let bytes = record::encode(&loaded.generation, &loaded.text)
            .map_err(|error| not_yet(io::Error::other(error)))?;
        replace(&*self.storage, &self.current_path(), &bytes).map_err(|mut error| {
            // Some file systems report a rename as failed that was done; what is there decides.
            error.renamed |= matches!(self.current_bytes(), Ok(Some(now)) if now == bytes);
            error
        })
    }
}

/// Whether a file's bytes are those of what is loaded.
fn is_file_of(bytes: Option<&[u8]>, loaded: Option<&Loaded>) -> bool {
    match (bytes, loaded) {
        (None, None) => true,
        (Some(bytes), Some(loaded)) => {
            record::encode(&loaded.generation, &loaded.text).is_ok_and(|file| file == bytes)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}
