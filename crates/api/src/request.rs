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
///
/// Its backing has a key of its own: serde cannot refuse unknown keys where one is flattened in.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    /// Name.
    pub name: String,
    /// What it is made of.
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
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
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
        /// Logical block size in bytes; [`BLOCK_SIZE_DEFAULT`](crate::limits::BLOCK_SIZE_DEFAULT)
        /// when absent.
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
#[serde(default, deny_unknown_fields)]
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
    /// Logical block size in bytes; [`BLOCK_SIZE_DEFAULT`](crate::limits::BLOCK_SIZE_DEFAULT) when
    /// absent.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_of_a_new_device_is_told() {
        let new = |text: &str| serde_json::from_str::<NewDevice>(text).map_err(|e| e.to_string());
        let wrong = [
            (
                r#"{"name":"a","CACHE":"none","backing":{"kind":"iso","path":"/a"}}"#,
                "CACHE",
            ),
            (
                r#"{"name":"a","backing":{"kind":"image","sise":512}}"#,
                "sise",
            ),
            (
                r#"{"name":"a","backing":{"kind":"block","path":"/a","readonly":true}}"#,
                "readonly",
            ),
            (
                r#"{"name":"a","backing":{"kind":"ram","size":512,"blocksize":512}}"#,
                "blocksize",
            ),
            (
                r#"{"name":"a","backing":{"kind":"iso","path":"/a","size":1}}"#,
                "size",
            ),
        ];
        for (text, key) in wrong {
            let error = new(text).unwrap_err();
            assert!(error.contains(&format!("unknown field `{key}`")), "{error}");
        }
        // As they were before, beside the name.
        assert!(new(r#"{"name":"a","kind":"ram","size":512}"#).is_err());
    }

    #[test]
    fn a_new_device_arrives_as_it_was_sent() {
        let image = NewImage {
            size: Some(512),
            read_only: true,
            ..NewImage::default()
        };
        let (path, block_size) = (PathBuf::from("/dev/a"), Some(4096));
        let backings = [
            NewBacking::Image(image),
            NewBacking::Block {
                path: path.clone(),
                block_size,
                read_only: true,
            },
            NewBacking::Ram {
                size: 4096,
                block_size,
            },
            NewBacking::Iso { path },
        ];
        for backing in backings {
            let sent = NewDevice {
                name: "a".to_owned(),
                backing,
                cache: Some(CacheMode::WriteBack),
                removable: None,
                asynchronous: None,
                queue_depth: Some(7),
                physical_blocks: None,
            };
            let text = serde_json::to_string(&sent).unwrap();
            assert_eq!(serde_json::from_str::<NewDevice>(&text).unwrap(), sent);
        }
    }
}
