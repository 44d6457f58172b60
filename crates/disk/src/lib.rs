//! What backs a LUN: a trait, its back ends and its decorators.

use serde::{Deserialize, Serialize};

/// How a device treats writes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// Direct I/O.
    #[default]
    None,
    /// Reads cached, a write is stable before its status.
    WriteThrough,
    /// A write may be answered from the page cache.
    WriteBack,
}
