//! What goes into a task and what comes out of it.

use std::fmt;

use crate::change::Change;
use crate::nexus::Nexus;
use crate::sense::{self, Code, Key, Sense};
use crate::wire;

/// What a command brings along.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The CDB: 16 bytes, or more from an additional header segment. Missing bytes read as zero.
    pub cdb: &'a [u8],
    /// Who sent it.
    pub nexus: &'a Nexus,
    /// The access rule lets this initiator only read.
    pub read_only: bool,
    /// Bytes the initiator will send; 0 unless it announced a write.
    pub data_out_len: u32,
    /// Bytes it is ready to take; 0 unless it announced a read.
    pub data_in_len: u32,
    /// The initiator's LUN map, sorted: what REPORT LUNS tells.
    pub luns: &'a [u16],
}

/// What a task wants next.
#[derive(Debug)]
pub enum Step {
    /// Take `len` bytes of data-out, then resume with [`Resume::DataOut`].
    Receive {
        /// Bytes wanted; never more than the command's `data_out_len`.
        len: u32,
    },
    /// Run this on the disk, then resume with [`Resume::Disk`].
    Disk(DiskOp),
    /// Shared state changes: serialize, [`crate::change::apply`], persist, publish, pass the barrier, then
    /// resume with [`Resume::Changed`].
    Change(Change),
    /// It has ended; send this.
    Done(Response),
}

/// One operation on the disk. Block numbers and counts are inside the unit that the task was given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DiskOp {
    /// Fills a buffer.
    Read {
        /// First block.
        lba: u64,
        /// Blocks, at least one.
        blocks: u32,
    },
    /// Writes from the data-out given with [`Resume::DataOut`].
    Write {
        /// First block.
        lba: u64,
        /// Blocks, at least one.
        blocks: u32,
        /// Where in the data-out the first block begins, in bytes.
        data_offset: u32,
        /// Stable before it is done.
        fua: bool,
    },
    /// Writes `pattern`, over and over until `blocks` are covered.
    WritePattern {
        /// First block.
        lba: u64,
        /// Blocks, at least one.
        blocks: u32,
        /// One or more whole blocks; its length divides the length of the range.
        pattern: Vec<u8>,
        /// Stable before it is done.
        fua: bool,
    },
    /// Makes blocks read as zeros.
    Zero {
        /// First block.
        lba: u64,
        /// Blocks, at least one.
        blocks: u64,
        /// Their space may be given back.
        unmap: bool,
        /// Stable before it is done.
        fua: bool,
    },
    /// Makes everything acknowledged so far stable.
    Flush,
    /// Gives space back; the blocks read as zeros afterwards. Each `(first block, blocks)`.
    Unmap(Vec<(u64, u32)>),
    /// Asks how far the mapped or unmapped run at a block reaches.
    Status {
        /// The block.
        lba: u64,
    },
}

impl DiskOp {
    /// Whether it changes blocks; decides which error a medium error is.
    pub const fn writes(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Status { .. })
    }
}

/// What a task is resumed with.
#[derive(Debug)]
pub enum Resume<'a> {
    /// Everything the initiator sent; may be shorter than asked for, when it announced less.
    DataOut(&'a [u8]),
    /// The disk operation ended.
    Disk(DiskResult<'a>),
    /// The change was applied, persisted and published; or refused with this.
    Changed(Result<(), Response>),
}

/// How a disk operation ended.
#[derive(Clone, Copy, Debug)]
pub enum DiskResult<'a> {
    /// The bytes read.
    Read(&'a [u8]),
    /// Everything but reads and status.
    Done,
    /// The run at the block asked for.
    Status {
        /// It has space.
        mapped: bool,
        /// Blocks from the one asked for, at least one.
        blocks: u64,
    },
    /// It failed.
    Failed(Fault),
}

/// Disk errors in SCSI's words. [`sense::from_fault`] is the one table from here to sense data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Beyond the end of the disk.
    OutOfRange,
    /// The disk takes no writes.
    ReadOnly,
    /// A thin disk found no space.
    NoSpace,
    /// The medium does not give or take a block.
    Medium {
        /// The first such block.
        lba: u64,
    },
    /// The disk is gone or stuck.
    NotReady,
    /// Too much at once.
    Busy,
    /// The disk cannot do this.
    Unsupported,
    /// Anything else.
    Hardware,
}

/// SAM status codes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// See the sense data.
    CheckCondition = 0x02,
    /// Try again later.
    Busy = 0x08,
    /// Another nexus reserved the unit in a way that excludes this command.
    ReservationConflict = 0x18,
    /// No room for another command.
    TaskSetFull = 0x28,
    /// Aborted by another nexus (control page, TAS).
    TaskAborted = 0x40,
}

/// What a command ends with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    /// Status.
    pub status: Status,
    /// Sense data with CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Data for the initiator, already cut to the allocation length of the CDB but not to what it is
    /// ready to take.
    pub data: DataIn,
    /// Bytes that the CDB itself calls for, in whichever direction: the residual is the difference to
    /// what the initiator announced.
    pub transfer: u32,
}

/// Data for the initiator.
#[derive(Clone, Eq, PartialEq)]
pub enum DataIn {
    /// None.
    None,
    /// These bytes.
    Inline(Vec<u8>),
    /// The buffer of the task's last [`DiskOp::Read`], its first `len` bytes.
    Buffer {
        /// Bytes.
        len: u32,
    },
}

impl DataIn {
    /// Bytes there are to send.
    pub fn len(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Inline(bytes) => wire::len32(bytes.len()),
            Self::Buffer { len } => *len,
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for DataIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents may be reservation keys or an initiator's data: only the size is told.
        match self {
            Self::None => f.write_str("None"),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Buffer { len } => write!(f, "Buffer({len} bytes)"),
        }
    }
}

impl Response {
    /// GOOD without data.
    pub const fn good() -> Self {
        Self::status(Status::Good)
    }

    /// A status alone.
    pub const fn status(status: Status) -> Self {
        Self {
            status,
            sense: None,
            data: DataIn::None,
            transfer: 0,
        }
    }

    /// CHECK CONDITION with sense data.
    pub const fn check(sense: Sense) -> Self {
        let mut response = Self::status(Status::CheckCondition);
        response.sense = Some(sense);
        response
    }

    /// CHECK CONDITION with a key and a code.
    pub const fn error(key: Key, code: Code) -> Self {
        Self::check(Sense::new(key, code))
    }

    /// CHECK CONDITION, ILLEGAL REQUEST.
    pub const fn illegal(code: Code) -> Self {
        Self::error(Key::IllegalRequest, code)
    }

    /// CHECK CONDITION, INVALID FIELD IN CDB.
    pub const fn invalid_cdb(byte: u16, bit: Option<u8>) -> Self {
        Self::check(Sense::invalid_cdb(byte, bit))
    }

    /// CHECK CONDITION, INVALID FIELD IN PARAMETER LIST.
    pub const fn invalid_parameter(byte: u16, bit: Option<u8>) -> Self {
        Self::check(Sense::invalid_parameter(byte, bit))
    }

    /// RESERVATION CONFLICT.
    pub const fn conflict() -> Self {
        Self::status(Status::ReservationConflict)
    }

    /// What a disk fault is told as.
    pub fn fault(fault: Fault, writing: bool) -> Self {
        let (status, sense) = sense::from_fault(fault, writing);
        let mut response = Self::status(status);
        response.sense = sense;
        response
    }

    /// GOOD with data, cut to the allocation length.
    pub fn data(mut bytes: Vec<u8>, allocation: u32) -> Self {
        bytes.truncate(wire::index(allocation));
        let mut response = Self::good();
        response.transfer = wire::len32(bytes.len());
        if !bytes.is_empty() {
            response.data = DataIn::Inline(bytes);
        }
        response
    }

    /// The same with the number of bytes that the CDB calls for.
    #[must_use]
    pub const fn with_transfer(mut self, transfer: u32) -> Self {
        self.transfer = transfer;
        self
    }

    /// Whether the status is GOOD.
    pub fn is_good(&self) -> bool {
        self.status == Status::Good
    }
}

/// Blocks a task will change: for the range table of the unit, taken before the task's first disk step
/// and held until it is done. Each range is `(first block, blocks)`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Footprint {
    /// Changes nothing.
    None,
    /// Reads and writes; may overlap each other, never an exclusive one.
    Shared(Vec<(u64, u64)>),
    /// Reads and writes in one (COMPARE AND WRITE, ORWRITE, WRITE ATOMIC): overlaps nothing.
    Exclusive(u64, u64),
}
