//! What a device is made of, in the words of the settings document.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits::BLOCK_SIZE_DEFAULT;

/// What a device is made of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Backing {
    /// An image file.
    Image {
        /// The file.
        path: PathBuf,
        /// Size in bytes; raising it grows the device online, lowering it is refused.
        size: u64,
        /// Thin, or all space reserved at creation.
        #[serde(default)]
        provisioning: Provisioning,
        /// Logical block size in bytes: 512 or 4096.
        #[serde(default = "default_block_size")]
        block_size: u32,
        /// Refuse writes.
        #[serde(default)]
        read_only: bool,
    },
    /// A physical disk, partition or volume.
    Block {
        /// The device node; a path under /dev/disk/by-id survives a reboot.
        path: PathBuf,
        /// Logical block size told to initiators; the disk's own unless given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        block_size: Option<u32>,
        /// Refuse writes.
        #[serde(default)]
        read_only: bool,
    },
    /// Memory: contents end with the process.
    Ram {
        /// Size in bytes.
        size: u64,
        /// Logical block size in bytes: 512 or 4096.
        #[serde(default = "default_block_size")]
        block_size: u32,
    },
    /// An ISO image as a read-only optical drive.
    Iso {
        /// The file.
        path: PathBuf,
    },
}

impl Backing {
    /// The kind as the settings document spells it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Image { .. } => "image",
            Self::Block { .. } => "block",
            Self::Ram { .. } => "ram",
            Self::Iso { .. } => "iso",
        }
    }

    /// The file or device node; a RAM disk has none.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Image { path, .. } | Self::Block { path, .. } | Self::Iso { path } => Some(path),
            Self::Ram { .. } => None,
        }
    }

    /// Whether writes are refused by the device itself.
    pub const fn read_only(&self) -> bool {
        match self {
            Self::Image { read_only, .. } | Self::Block { read_only, .. } => *read_only,
            Self::Ram { .. } => false,
            Self::Iso { .. } => true,
        }
    }
}

/// One line for people, such as `image /srv/a.img (1073741824 bytes, thin)`.
impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image {
                path,
                size,
                provisioning,
                ..
            } => {
                write!(f, "image {} ({size} bytes, {provisioning})", path.display())
            }
            Self::Block { path, .. } => write!(f, "block device {}", path.display()),
            Self::Ram { size, .. } => write!(f, "RAM disk ({size} bytes)"),
            Self::Iso { path } => write!(f, "ISO image {}", path.display()),
        }
    }
}

/// How an image file takes its space.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provisioning {
    /// Space is taken when first written.
    #[default]
    Thin,
    /// All space is reserved when the file is made.
    Preallocated,
}

impl fmt::Display for Provisioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thin => "thin",
            Self::Preallocated => "preallocated",
        })
    }
}

const fn default_block_size() -> u32 {
    BLOCK_SIZE_DEFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_words_are_kept() {
        let image: Backing =
            serde_json::from_str(r#"{"kind":"image","path":"/a.img","size":1048576}"#).unwrap();
        assert_eq!(
            image,
            Backing::Image {
                path: "/a.img".into(),
                size: 1 << 20,
                provisioning: Provisioning::Thin,
                block_size: 512,
                read_only: false
            }
        );
        assert_eq!(image.to_string(), "image /a.img (1048576 bytes, thin)");
        let block = Backing::Block {
            path: "/dev/sda".into(),
            block_size: None,
            read_only: true,
        };
        let text = serde_json::to_string(&block).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"block","path":"/dev/sda","read_only":true}"#
        );
        assert!(block.read_only() && Backing::Iso { path: "/x".into() }.read_only());
        let ram: Backing = serde_json::from_str(r#"{"kind":"ram","size":4096}"#).unwrap();
        assert_eq!((ram.kind(), ram.path()), ("ram", None));
    }
}
