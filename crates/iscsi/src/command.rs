//! What both engines call things: tasks, CDBs, types of session.

use std::fmt;

use crate::limits::CDB_BYTES_MAX;

/// A task of a session: a slot of its task table and a generation, so that a slot used anew does
/// not answer to the old name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(u32);

impl TaskId {
    pub(crate) const fn new(slot: u16, generation: u16) -> Self {
        Self((generation as u32) << 16 | slot as u32)
    }

    /// The slot: below [`crate::limits::TASKS_MAX`] in a target, used again after the task has ended. An index
    /// for tables beside the engine's.
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    pub(crate) const fn generation(self) -> u16 {
        let [high, low, ..] = self.0.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Slot and generation in one number.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0
    }
}

/// Discovery or normal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionType {
    /// For SendTargets only.
    Discovery,
    /// For SCSI.
    #[default]
    Normal,
}

/// A command descriptor block: 16 bytes, or more where additional header segments extend it.
#[derive(Clone, PartialEq, Eq)]
pub struct Cdb {
    first: [u8; 16],
    extended: Option<Box<[u8]>>,
}

impl Cdb {
    /// A CDB of up to 16 bytes, filled up with zeros.
    #[must_use]
    pub const fn new(first: [u8; 16]) -> Self {
        Self {
            first,
            extended: None,
        }
    }

    /// The 16 bytes and what extends them; `None` above [`CDB_BYTES_MAX`].
    #[must_use]
    pub fn extended(first: [u8; 16], rest: &[u8]) -> Option<Self> {
        if rest.is_empty() {
            return Some(Self::new(first));
        }
        if rest.len() > CDB_BYTES_MAX.saturating_sub(first.len()) {
            return None;
        }
        let whole = [first.as_slice(), rest].concat();
        Some(Self {
            first,
            extended: Some(whole.into_boxed_slice()),
        })
    }

    /// All of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.extended.as_deref().unwrap_or(&self.first)
    }
}

impl AsRef<[u8]> for Cdb {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Cdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cdb(")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}
