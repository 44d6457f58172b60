//! The settings document: the words a person writes, as types.

use serde::{Deserialize, Serialize};
use target::config::Config;

use crate::export::SealedSecrets;
use crate::limits;
use crate::problem::CheckError;

/// The version of the document's language that this release writes and reads.
pub const VERSION: u32 = 1;

/// Everything that can be set on one host, without secrets.
///
/// The iSCSI part has a section of its own (`[iscsi]`, `[[iscsi.target]]`) and is not flattened:
/// flattening would take the line numbers from errors, and later systems get sections beside it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Version of the language, [`VERSION`].
    pub version: u32,
    /// The service itself.
    #[serde(default)]
    pub service: ServiceSettings,
    /// What the iSCSI service serves.
    #[serde(default)]
    pub iscsi: Config,
    /// Secrets under a passphrase; only in an export, never in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_secrets: Option<SealedSecrets>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            version: VERSION,
            service: ServiceSettings::default(),
            iscsi: Config::default(),
            sealed_secrets: None,
        }
    }
}

/// The service itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceSettings {
    /// What this host does.
    pub role: Role,
    /// Label of this host in listings, events and identities; 1 to 64 letters, digits, `-`, `_`,
    /// `.`.
    pub name: String,
    /// Threads of the data path; 0 is one per core.
    pub shards: u16,
    /// How the data path talks to the kernel.
    pub ring: Ring,
    /// How long a shard looks for more work before it sleeps, in microseconds; 0 is not at all.
    pub spin_us: u32,
    /// Group of the system that may use the management socket; root only unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            role: Role::San,
            name: "sanctum".to_owned(),
            shards: 0,
            ring: Ring::Auto,
            spin_us: 50,
            api_group: None,
        }
    }
}

/// What a host does. Each role is a process of its own; further ones come with their systems.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves LUNs to initiators.
    #[default]
    San,
}

/// How the data path talks to the kernel.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ring {
    /// io_uring where the kernel allows it, else epoll with threads.
    #[default]
    Auto,
    /// io_uring, or no start.
    Uring,
    /// epoll with threads.
    Epoll,
}

/// A document that cannot be written down.
#[derive(Debug, thiserror::Error)]
#[error("the settings cannot be written as TOML: {reason}")]
pub struct WriteError {
    /// Which value, and why.
    pub reason: String,
}

impl WriteError {
    fn new(error: &toml::ser::Error) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

impl Document {
    /// The document as TOML in its canonical form: every default spelled out, no comments.
    ///
    /// # Errors
    /// A number above 2^63 - 1, which TOML has no room for.
    pub fn to_text(&self) -> Result<String, WriteError> {
        // The writer itself would write numbers that no reader takes.
        self.to_table()?;
        toml::to_string_pretty(self).map_err(|error| WriteError::new(&error))
    }

    /// The document as a tree.
    pub(crate) fn to_table(&self) -> Result<toml::Table, WriteError> {
        toml::Table::try_from(self).map_err(|error| WriteError::new(&error))
    }

    /// Checks what belongs to this crate: the service section. What is served is checked by the
    /// service itself, through the hook that [`crate::Store::propose_text`] takes.
    ///
    /// # Errors
    /// The first value that cannot be.
    pub fn check(&self) -> Result<(), CheckError> {
        let Self { service, .. } = self;
        if self.version != VERSION {
            return Err(CheckError::new("version", version_reason(self.version)));
        }
        if !is_label(&service.name, limits::HOST_NAME_BYTES) {
            let reason = format!(
                "a host's label is 1 to {} letters, digits, hyphens, underscores and dots",
                limits::HOST_NAME_BYTES
            );
            return Err(CheckError::new("service.name", reason));
        }
        let most = target::limits::SHARDS_MAX;
        if usize::from(service.shards) > most {
            let reason = format!("at most {most}; 0 is one per core");
            return Err(CheckError::new("service.shards", reason));
        }
        if service.spin_us > limits::SPIN_US {
            let reason = format!(
                "at most {} (µs); longer burns a core for nothing",
                limits::SPIN_US
            );
            return Err(CheckError::new("service.spin_us", reason));
        }
        if let Some(group) = &service.api_group
            && !is_label(group, limits::GROUP_BYTES)
        {
            let reason = "a group's name is 1 to 32 letters, digits, hyphens, underscores and dots";
            return Err(CheckError::new("service.api_group", reason));
        }
        if self.sealed_secrets.is_some() {
            let reason = "this is an export with secrets; import it with its passphrase";
            return Err(CheckError::new("sealed_secrets", reason));
        }
        Ok(())
    }
}

/// Why a version other than ours is refused.
pub(crate) fn version_reason(version: u32) -> String {
    if version > VERSION {
        format!(
            "version {version} is of a newer release; this one knows version {VERSION}: upgrade \
             first"
        )
    } else {
        format!("there is no version {version}; this release knows version {VERSION}")
    }
}

fn is_label(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
