//! Every bound of the crate in one place, with what it costs.
//!
//! Nothing here grows with what an initiator sends: parameter lists, registrations, attention queues
//! and reports all stop at one of these constants.

/// Registered I_T nexuses per logical unit. At the bound a registration is refused with
/// INSUFFICIENT REGISTRATION RESOURCES. About 200 bytes each: 200 KiB per unit at worst.
pub const REGISTRATIONS: usize = 1024;

/// Longest parameter list of PERSISTENT RESERVE OUT, in bytes: the header plus some forty TransportIDs.
/// A longer one is refused before any of it is received.
pub const RESERVE_OUT_LIST: u32 = 8192;

/// Longest parameter list of MODE SELECT, in bytes; all pages together are far shorter.
pub const MODE_SELECT_LIST: u32 = 1024;

/// Block descriptors in one UNMAP; told in the block limits page unless the unit sets less.
pub const UNMAP_DESCRIPTORS: u32 = 256;

/// Deferred errors kept per nexus and unit; further ones are dropped, the first ones say enough.
pub const DEFERRED_ERRORS: usize = 4;

/// Nexuses that may hold PREVENT at a time; further ones are refused as busy.
pub const PREVENTERS: usize = 256;

/// Bytes that a task reads, or builds a pattern for, in one disk operation of its own making
/// (VERIFY without data, WRITE SAME, comparison): 1 MiB.
pub const CHUNK_BYTES: u32 = 1 << 20;

/// Descriptors in one answer to GET LBA STATUS; each costs one disk operation.
pub const STATUS_DESCRIPTORS: u32 = 64;

/// Logical units in one answer to REPORT LUNS: all that the flat space method of addressing can name.
pub const REPORTED_LUNS: usize = 16384;

/// Bytes of the longest initiator name in a TransportID: 223 bytes and the ISID, as RFC 7143 bounds it.
pub const INITIATOR_NAME: usize = 223;

/// Longest CDB looked at, in bytes; operation code 7Fh carries 32.
pub const CDB: usize = 32;

/// Largest transfer of one command when nobody says otherwise, in bytes: 4 MiB.
pub const TRANSFER_BYTES: u32 = 4 << 20;

/// Blocks that one COMPARE AND WRITE may name: its length field is one byte.
pub const COMPARE_BLOCKS: u8 = 255;

const _: () = assert!(RESERVE_OUT_LIST >= 24 + 4 + 40 * 200);
const _: () = assert!(CHUNK_BYTES >= 64 * 1024 && CHUNK_BYTES <= TRANSFER_BYTES);
