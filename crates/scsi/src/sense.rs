//! Sense data: what went wrong, in the fixed and the descriptor format, and the one table from disk
//! faults to it.

use crate::command::{Fault, Status};
use crate::wire::Writer;

/// Sense keys of SPC that a disk or optical drive of ours gives.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Key {
    /// Nothing to say.
    NoSense = 0x0,
    /// Done, with help.
    Recovered = 0x1,
    /// Cannot be used now.
    NotReady = 0x2,
    /// The medium does not give or take the data.
    MediumError = 0x3,
    /// The unit failed.
    HardwareError = 0x4,
    /// The command or its parameters are wrong.
    IllegalRequest = 0x5,
    /// Something changed that the initiator must know of.
    UnitAttention = 0x6,
    /// Writing is not allowed here.
    DataProtect = 0x7,
    /// Given up; may be tried again.
    AbortedCommand = 0xb,
    /// A comparison found a difference.
    Miscompare = 0xe,
}

/// Additional sense code and qualifier, `(ASC << 8) | ASCQ`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Code(pub u16);

impl Code {
    /// 00/00
    pub const NONE: Self = Self(0x0000);
    /// 04/00 LOGICAL UNIT NOT READY, CAUSE NOT REPORTABLE
    pub const NOT_READY: Self = Self(0x0400);
    /// 04/01 LOGICAL UNIT IS IN PROCESS OF BECOMING READY
    pub const BECOMING_READY: Self = Self(0x0401);
    /// 0C/00 WRITE ERROR
    pub const WRITE_ERROR: Self = Self(0x0c00);
    /// 0E/03 INVALID FIELD IN COMMAND INFORMATION UNIT: the transport's length disagrees with the CDB's
    pub const DATA_LENGTH: Self = Self(0x0e03);
    /// 11/00 UNRECOVERED READ ERROR
    pub const READ_ERROR: Self = Self(0x1100);
    /// 1A/00 PARAMETER LIST LENGTH ERROR
    pub const LIST_LENGTH: Self = Self(0x1a00);
    /// 1D/00 MISCOMPARE DURING VERIFY OPERATION
    pub const MISCOMPARE: Self = Self(0x1d00);
    /// 20/00 INVALID COMMAND OPERATION CODE
    pub const INVALID_OPCODE: Self = Self(0x2000);
    /// 21/00 LOGICAL BLOCK ADDRESS OUT OF RANGE
    pub const LBA_RANGE: Self = Self(0x2100);
    /// 24/00 INVALID FIELD IN CDB
    pub const INVALID_FIELD: Self = Self(0x2400);
    /// 25/00 LOGICAL UNIT NOT SUPPORTED
    pub const NO_SUCH_LUN: Self = Self(0x2500);
    /// 26/00 INVALID FIELD IN PARAMETER LIST
    pub const INVALID_PARAMETER: Self = Self(0x2600);
    /// 26/04 INVALID RELEASE OF PERSISTENT RESERVATION
    pub const INVALID_RELEASE: Self = Self(0x2604);
    /// 27/00 WRITE PROTECTED
    pub const WRITE_PROTECTED: Self = Self(0x2700);
    /// 27/02 LOGICAL UNIT SOFTWARE WRITE PROTECTED
    pub const SOFTWARE_WRITE_PROTECTED: Self = Self(0x2702);
    /// 27/07 SPACE ALLOCATION FAILED WRITE PROTECT
    pub const NO_SPACE: Self = Self(0x2707);
    /// 3A/00 MEDIUM NOT PRESENT
    pub const NO_MEDIUM: Self = Self(0x3a00);
    /// 3A/01 MEDIUM NOT PRESENT - TRAY CLOSED
    pub const NO_MEDIUM_CLOSED: Self = Self(0x3a01);
    /// 3A/02 MEDIUM NOT PRESENT - TRAY OPEN
    pub const NO_MEDIUM_OPEN: Self = Self(0x3a02);
    /// 44/00 INTERNAL TARGET FAILURE
    pub const INTERNAL_FAILURE: Self = Self(0x4400);
    /// 53/02 MEDIUM REMOVAL PREVENTED
    pub const REMOVAL_PREVENTED: Self = Self(0x5302);
    /// 55/04 INSUFFICIENT REGISTRATION RESOURCES
    pub const REGISTRATION_RESOURCES: Self = Self(0x5504);

    /// The additional sense code.
    pub const fn asc(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Its qualifier.
    pub const fn ascq(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

/// Which byte, and which bit of it, of the CDB or the parameter list is wrong.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FieldPointer {
    /// In the CDB; else in the data-out.
    pub in_cdb: bool,
    /// Byte offset.
    pub byte: u16,
    /// Highest bit of the field, 7 to 0, where a bit can be named.
    pub bit: Option<u8>,
}

/// Layout of sense data; the D_SENSE bit of the control mode page chooses.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Format {
    /// Response codes 70h and 71h.
    #[default]
    Fixed,
    /// Response codes 72h and 73h.
    Descriptor,
}

/// Sense data before it is laid out.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Sense {
    /// Sense key.
    pub key: Key,
    /// Additional sense code and qualifier.
    pub code: Code,
    /// INFORMATION: a block address, or the offset of a difference.
    pub information: Option<u64>,
    /// The wrong field, for ILLEGAL REQUEST.
    pub field: Option<FieldPointer>,
    /// About an earlier command of this nexus (71h, 73h).
    pub deferred: bool,
    /// How it is laid out; a task sets what the unit's control page asks for before it ends.
    pub format: Format,
}

impl Sense {
    /// Sense with a key and a code alone.
    pub const fn new(key: Key, code: Code) -> Self {
        Self {
            key,
            code,
            information: None,
            field: None,
            deferred: false,
            format: Format::Fixed,
        }
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN CDB, with a pointer to the field's first byte and highest bit.
    pub const fn invalid_cdb(byte: u16, bit: Option<u8>) -> Self {
        Self::field(Code::INVALID_FIELD, true, byte, bit)
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST, with a pointer.
    pub const fn invalid_parameter(byte: u16, bit: Option<u8>) -> Self {
        Self::field(Code::INVALID_PARAMETER, false, byte, bit)
    }

    const fn field(code: Code, in_cdb: bool, byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::new(Key::IllegalRequest, code);
        sense.field = Some(FieldPointer { in_cdb, byte, bit });
        sense
    }

    /// The same with INFORMATION.
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The bytes, in the format it carries: 18 (fixed), or 8 and the descriptors.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.format {
            Format::Fixed => self.fixed(),
            Format::Descriptor => self.descriptor(),
        }
    }

    fn fixed(&self) -> Vec<u8> {
        // An address that does not fit 32 bits cannot be told: VALID stays 0.
        let information = self.information.and_then(|i| u32::try_from(i).ok());
        let valid = if information.is_some() { 0x80 } else { 0 };
        let mut out = Writer::new();
        out.u8(valid | 0x70 | u8::from(self.deferred))
            .u8(0)
            .u8(self.key as u8)
            .u32(information.unwrap_or(0))
            .u8(10)
            .u32(0)
            .u16(self.code.0)
            .u8(0)
            .bytes(&self.specific());
        out.finish()
    }

    fn descriptor(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(0x72 | u8::from(self.deferred))
            .u8(self.key as u8)
            .u16(self.code.0)
            .u32(0);
        if let Some(information) = self.information {
            out.u8(0x00).u8(10).u8(0x80).u8(0).u64(information);
        }
        if self.field.is_some() {
            out.u8(0x02).u8(6).u16(0).bytes(&self.specific()).u8(0);
        }
        let additional = crate::wire::len8(out.after(8));
        out.set_u8(7, additional);
        out.finish()
    }

    /// Sense-key specific bytes: a field pointer or zeros.
    fn specific(&self) -> [u8; 3] {
        let Some(field) = self.field else {
            return [0; 3];
        };
        let [high, low] = field.byte.to_be_bytes();
        let in_cdb = if field.in_cdb { 0x40 } else { 0 };
        let bit = field.bit.map_or(0, |bit| 0x08 | (bit & 7));
        [0x80 | in_cdb | bit, high, low]
    }
}

/// The one table from what a disk reports to what an initiator is told.
///
/// `writing` says which of READ ERROR and WRITE ERROR a medium error is.
pub fn from_fault(fault: Fault, writing: bool) -> (Status, Option<Sense>) {
    let (key, code) = match fault {
        Fault::Busy => return (Status::Busy, None),
        // The disk was shorter than the unit said: it shrank beneath us.
        Fault::OutOfRange => (Key::IllegalRequest, Code::LBA_RANGE),
        Fault::ReadOnly => (Key::DataProtect, Code::WRITE_PROTECTED),
        Fault::NoSpace => (Key::DataProtect, Code::NO_SPACE),
        Fault::Medium { .. } if writing => (Key::MediumError, Code::WRITE_ERROR),
        Fault::Medium { .. } => (Key::MediumError, Code::READ_ERROR),
        Fault::NotReady => (Key::NotReady, Code::NOT_READY),
        Fault::Unsupported => (Key::IllegalRequest, Code::INVALID_OPCODE),
        Fault::Hardware => (Key::HardwareError, Code::INTERNAL_FAILURE),
    };
    let mut sense = Sense::new(key, code);
    if let Fault::Medium { lba } = fault {
        sense.information = Some(lba);
    }
    (Status::CheckCondition, Some(sense))
}
