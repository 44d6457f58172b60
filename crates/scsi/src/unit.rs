//! A logical unit as it is published: one immutable value per state of the unit.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::limits;
use crate::mode;
use crate::nexus::Nexus;
use crate::reservation::{self, Access};
use crate::sense::{Code, Format, Key, Sense};

/// Device types.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Direct access block device (type 00h).
    Disk,
    /// CD/DVD drive that only reads (type 05h), 2048-byte blocks.
    Optical,
}

/// State of the medium.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Medium {
    /// Usable.
    #[default]
    Present,
    /// There is none (an empty drive, tray closed).
    Absent,
    /// Becoming ready: NOT READY 04/01.
    Loading,
    /// The disk does not answer or is gone: NOT READY 04/00 until it drains.
    Stuck,
    /// Taken out by the initiator or the operator; the tray is open.
    Ejected,
}

impl Medium {
    /// Why nothing can be read, if so.
    pub const fn trouble(self, kind: Kind) -> Option<Sense> {
        let code = match (self, kind) {
            (Self::Present, _) => return None,
            (Self::Loading, _) => Code::BECOMING_READY,
            (Self::Stuck, _) => Code::NOT_READY,
            (_, Kind::Disk) => Code::NO_MEDIUM,
            (Self::Absent, Kind::Optical) => Code::NO_MEDIUM_CLOSED,
            (Self::Ejected, Kind::Optical) => Code::NO_MEDIUM_OPEN,
        };
        Some(Sense::new(Key::NotReady, code))
    }

    /// There is something in the drive, usable or not.
    pub(crate) const fn is_in(self) -> bool {
        matches!(self, Self::Present | Self::Loading | Self::Stuck)
    }
}

/// What never changes about a unit, and the ports it is reached through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// T10 vendor identification, at most 8 printable characters.
    pub vendor: String,
    /// Product identification, at most 16.
    pub product: String,
    /// Product revision level, at most 4.
    pub revision: String,
    /// Unit serial number, printable ASCII.
    pub serial: String,
    /// NAA type 6 identifier (IEEE registered extended).
    pub naa: [u8; 16],
    /// The target's iSCSI name.
    pub target: String,
    /// Relative target port identifiers (portal group tags) it is reached through, sorted.
    pub ports: Vec<u16>,
}

impl Identity {
    /// T10 vendor identification of everything Sanctum serves.
    pub const VENDOR: &'static str = "SANCTUM";

    /// An identity under our own vendor and product names.
    pub fn new(
        kind: Kind,
        serial: impl Into<String>,
        naa: [u8; 16],
        target: impl Into<String>,
    ) -> Self {
        let product = match kind {
            Kind::Disk => "VIRTUAL-DISK",
            Kind::Optical => "VIRTUAL-OPTICAL",
        };
        Self {
            vendor: Self::VENDOR.to_owned(),
            product: product.to_owned(),
            revision: "0001".to_owned(),
            serial: serial.into(),
            naa,
            target: target.into(),
            ports: vec![1],
        }
    }
}

/// What one command may ask for; told in the block limits page and kept to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Blocks that one READ, WRITE, VERIFY or the like may name.
    pub max_transfer_blocks: u32,
    /// Best transfer, in blocks; 0 does not tell.
    pub optimal_transfer_blocks: u32,
    /// Blocks that all descriptors of one UNMAP may name together.
    pub max_unmap_lbas: u32,
    /// Descriptors in one UNMAP.
    pub max_unmap_descriptors: u32,
    /// Blocks that one WRITE SAME may name.
    pub max_write_same: u64,
    /// Blocks that one COMPARE AND WRITE may name.
    pub max_compare_and_write: u8,
}

impl Limits {
    /// The limits for a block size unless the service sets its own: 4 MiB a transfer, what WRITE SAME(10)
    /// can count (65535 blocks), 2^20 blocks an UNMAP.
    pub fn for_block_size(block_size: u32) -> Self {
        let per = |bytes: u64| bytes.checked_div(u64::from(block_size)).unwrap_or(1).max(1);
        let per32 = |bytes: u64| u32::try_from(per(bytes)).unwrap_or(u32::MAX);
        let transfer = per32(u64::from(limits::TRANSFER_BYTES));
        Self {
            max_transfer_blocks: transfer,
            optimal_transfer_blocks: per32(1 << 20),
            max_unmap_lbas: 1 << 20,
            max_unmap_descriptors: limits::UNMAP_DESCRIPTORS,
            max_write_same: 0xffff,
            max_compare_and_write: u8::try_from(transfer.min(u32::from(limits::COMPARE_BLOCKS)))
                .unwrap_or(u8::MAX),
        }
    }
}

/// A logical unit as published. Changing it means making another one ([`crate::change`]).
#[derive(Clone, Debug)]
pub struct Unit {
    /// Disk or optical drive.
    pub kind: Kind,
    /// What never changes.
    pub identity: Arc<Identity>,
    /// Bytes per logical block: 512, 4096, or 2048 for the optical drive. Never 0.
    pub block_size: u32,
    /// Bytes per physical block; a power of two times `block_size`.
    pub physical_block_size: u32,
    /// Logical blocks; 0 while there is no medium.
    pub blocks: u64,
    /// UNMAP gives space back.
    pub thin: bool,
    /// Bytes that are unmapped together; 0 or a multiple of `block_size`.
    pub unmap_granularity: u32,
    /// Seeks cost.
    pub rotational: bool,
    /// Takes no writes.
    pub read_only: bool,
    /// The medium can be taken out.
    pub removable: bool,
    /// State of the medium.
    pub medium: Medium,
    /// Rises by one when the medium is loaded or ejected, so that each nexus learns of it once.
    pub medium_changes: u32,
    /// A write may be lost in a power cut until it is flushed. WCE says this.
    pub volatile_cache: bool,
    /// What MODE SELECT may change.
    pub mode: mode::State,
    /// Persistent reservations.
    pub reservations: Arc<reservation::State>,
    /// RESERVE(6) or RESERVE(10) by this nexus.
    pub legacy: Option<Nexus>,
    /// Nexuses that prevent removal of the medium.
    pub prevented: Arc<BTreeSet<Nexus>>,
    /// What one command may ask for.
    pub limits: Limits,
}

impl Unit {
    /// A unit that is present, writable (a disk) and not thin; the fields say the rest.
    pub fn new(kind: Kind, identity: Arc<Identity>, block_size: u32, blocks: u64) -> Self {
        let block_size = block_size.max(1);
        let optical = kind == Kind::Optical;
        Self {
            kind,
            identity,
            block_size,
            physical_block_size: block_size,
            blocks,
            thin: false,
            unmap_granularity: 0,
            rotational: false,
            read_only: optical,
            removable: optical,
            medium: Medium::Present,
            medium_changes: 0,
            volatile_cache: false,
            mode: mode::State::default(),
            reservations: Arc::new(reservation::State::default()),
            legacy: None,
            prevented: Arc::new(BTreeSet::new()),
            limits: Limits::for_block_size(block_size),
        }
    }

    /// How sense data is laid out now.
    pub const fn sense_format(&self) -> Format {
        if self.mode.descriptor_sense {
            Format::Descriptor
        } else {
            Format::Fixed
        }
    }

    /// Whether the reservations, of either kind, let a nexus do this.
    pub fn allows(&self, nexus: &Nexus, access: Access) -> bool {
        if access == Access::Free {
            return true;
        }
        let reserved = self.legacy.as_ref().is_some_and(|holder| holder != nexus);
        !reserved && self.reservations.allows(nexus, access)
    }

    /// Whether a nexus may not write, and why.
    pub(crate) const fn write_trouble(&self, initiator_read_only: bool) -> Option<Sense> {
        if self.read_only || initiator_read_only {
            return Some(Sense::new(Key::DataProtect, Code::WRITE_PROTECTED));
        }
        if self.mode.write_protect {
            return Some(Sense::new(Key::DataProtect, Code::SOFTWARE_WRITE_PROTECTED));
        }
        None
    }
}
