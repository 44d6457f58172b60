//! The declarative settings document: validate, diff, apply, roll back, secrets by reference.
//!
//! # What it is for
//!
//! Everything that can be set on one host is one document ([`Document`], TOML). This crate reads it
//! with reasons a person understands, tells what a change would change, and keeps it on disk so
//! that a crash at any moment leaves the settings of before or those of after, whole. It keeps the
//! last generations with who, when and why, brings any of them back, and keeps secrets apart from
//! it all.
//!
//! It does not know what the settings mean to the service (the caller brings a [`Check`]), applies
//! nothing to it, and holds no part of the cluster's settings, which live in the cluster's
//! database.
//!
//! # Key types
//!
//! | type | what |
//! |---|---|
//! | [`Document`] | the typed document; [`parse`] makes it from text, [`Document::to_text`] text from it |
//! | [`Problems`] | everything wrong with a text: line, column, path, reason, what was meant |
//! | [`Store`] | generations on disk: load, propose, history |
//! | [`Plan`] | a change not made: diff, list of changes, checks |
//! | [`Staged`] | a change half made: stable on disk, not current |
//! | [`Secrets`] | secrets by name, in a 0600 file |
//! | [`export`](fn@export), [`import`] | a document to take away, with secrets only under a passphrase |
//!
//! # A document
//!
//! ```toml
//! version = 1
//!
//! [service]
//! name = "san1"
//!
//! [[iscsi.portal]]
//! name = "storage"
//! address = "192.0.2.1"
//!
//! [[iscsi.device]]
//! name = "disk1"
//! kind = "image"
//! path = "/srv/disk1.img"
//! size = 10737418240
//!
//! [[iscsi.target]]
//! name = "iqn.2026-11.example:disk1"
//! [[iscsi.target.lun]]
//! number = 0
//! device = "disk1"
//! ```
//!
//! A text that somebody wrote is kept as written, comments included. An edit made through the typed
//! document (by the command line or the console) writes the canonical form, without comments.
//!
//! # Sketch
//!
//! A change costs two synced files of some kilobytes and four synced directories (some milliseconds
//! on a disk, under one lock); it is never on the path of an I/O. What can fail between two steps:
//!
//! | the host is lost or the disk fails … | the next load gives |
//! |---|---|
//! | while staging, or staged and not activated | the old generation; the staged file is cleared away |
//! | while `current.toml` is replaced | old or new, whole: new if and only if the rename reached the disk |
//! | after that | the new generation; its place among the kept ones is made good |
//!
//! `current.toml` carries a checksum. One that does not match, or that is no document, is an error
//! that names the line and the newest generation that can be restored; it is never replaced
//! without being asked ([`Store::propose_restore`], [`Store::propose_adoption`]).

#![forbid(unsafe_code)]

mod change;
mod diff;
mod document;
mod export;
pub mod limits;
mod parse;
mod problem;
mod record;
mod secrets;
mod shape;
mod storage;
mod store;
#[cfg(test)]
mod tests;

pub use change::{ActivateError, Check, CommitError, Plan, ProposeError, StageError, Staged};
pub use diff::Change;
pub use document::{Document, Ring, Role, ServiceSettings, VERSION, WriteError};
pub use export::{ExportError, ImportError, Imported, SealedSecrets, export, import};
pub use parse::parse;
pub use problem::{CheckError, Problem, Problems};
pub use record::Generation;
pub use secrets::{
    SecretAdvice, SecretFault, Secrets, SecretsError, StagedSecrets, check_secret, random_secret,
};
pub use store::{GenerationError, HistoryEntry, LoadError, Loaded, OpenError, Store};
