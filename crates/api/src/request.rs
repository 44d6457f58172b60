//! Bodies and query strings that are not a settings type by themselves.
//!
//! Every request that changes something may carry [`Change`] in its query string.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Secret;
use crate::config::{AccessRule, CacheMode, ChapAlgorithm, Provisioning};

/// Query of every changing request.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Change {
    /// Why, recorded in the settings history and the events; at most
    /// [`REASON_BYTES_MAX`](crate::limits::REASON_BYTES_MAX) bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The generation the caller read; the change is refused when another is active by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<u64>,
}

/// What to change of a target; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetChange {
    /// New alias; empty removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Several initiators at once, or one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_multiple: Option<bool>,
    /// Portals by name; empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portals: Option<Vec<String>>,
    /// CHAP accounts by user; empty asks no proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Vec<String>>,
    /// Account the target proves itself with; empty removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutual: Option<String>,
    /// Whether an initiator must ask for the target's proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutual_required: Option<bool>,
    /// CHAP hashes, best first; empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<Vec<ChapAlgorithm>>,
}

/// A LUN to add to a target.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewLun {
    /// Device by name.
    pub device: String,
    /// Its number; the lowest free one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u16>,
    /// Nobody writes through this LUN.
    #[serde(default)]
    pub read_only: bool,
}

/// What to change of a LUN.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LunChange {
    /// Nobody writes through this LUN.
    pub read_only: bool,
}

/// A device to add; what is absent is as the settings have it by default.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NewDevice {
    /// Name.
    pub name: String,
    /// What it is made of.
    #[serde(flatten)]
    pub backing: NewBacking,
    /// Cache mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheMode>,
    /// Told to initiators as removable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
    /// Several operations at once, or one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asynchronous: Option<bool>,
    /// Operations at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u16>,
    /// Tell initiators of physical blocks larger than the logical ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_blocks: Option<bool>,
}

/// What a device to add is made of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NewBacking {
    /// An image file.
    Image(NewImage),
    /// A physical disk, partition or volume.
    Block {
        /// The device node.
        path: PathBuf,
        /// Logical block size told to initiators; the disk's own when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        block_size: Option<u32>,
        /// Refuse writes.
        #[serde(default)]
        read_only: bool,
    },
    /// Memory.
    Ram {
        /// Size in bytes.
        size: u64,
        /// Logical block size in bytes; 512 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        block_size: Option<u32>,
    },
    /// An ISO image as a read-only optical drive.
    Iso {
        /// The file.
        path: PathBuf,
    },
}

/// An image file to make, or one that is there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct NewImage {
    /// The file; `NAME.img` in the service's own image directory when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Size in bytes; when absent that of the file, which must be there then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The file is there already and keeps its contents. Otherwise it is made, and must not be
    /// there.
    pub existing: bool,
    /// Thin, or all space reserved.
    pub provisioning: Provisioning,
    /// Logical block size in bytes; 512 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// Refuse writes.
    pub read_only: bool,
}

/// What to change of a device; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceChange {
    /// New size in bytes; never smaller than it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// New cache mode; refused while reservations are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheMode>,
    /// Several operations at once, or one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asynchronous: Option<bool>,
    /// Operations at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u16>,
    /// Told to initiators as removable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
    /// Tell initiators of physical blocks larger than the logical ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_blocks: Option<bool>,
}

/// Query of a device's removal.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceRemoval {
    /// Removes the image file as well, with what lies beside it. Never done unless asked.
    #[serde(default)]
    pub delete_file: bool,
}

/// What to change of a portal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortalChange {
    /// Listening or not. A portal that stops listening ends its sessions.
    pub enabled: bool,
}

/// A CHAP account to add.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// CHAP_N.
    pub user: String,
    /// The secret; generated when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

/// A new secret for an account.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewSecret {
    /// The secret; generated when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

/// An access rule to add.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// Position it takes, from 1; last when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// The rule.
    pub rule: AccessRule,
}

/// Where an access rule goes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRule {
    /// Position it takes, from 1.
    pub to: usize,
}

/// How settings are taken away.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// Puts all secrets into the document, under this passphrase; without it they stay out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// A settings document to compare or apply.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsText {
    /// The document, in TOML.
    pub text: String,
    /// Opens the secrets that an export holds; they replace those of the same names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
    /// The file it came from, for messages only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// A generation to return to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Its number in the history.
    pub generation: u64,
}

/// Which events; at most [`EVENTS_PER_PAGE_MAX`](crate::limits::EVENTS_PER_PAGE_MAX) at once.
pub use events::Filter as EventQuery;

/// How to wait for a task.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct TaskQuery {
    /// Answer only once the task's version is past this one, or at
    /// [`TASK_WAIT_MAX`](crate::limits::TASK_WAIT_MAX).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}
