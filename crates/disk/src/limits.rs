//! Every bound of this crate in one place.
//!
//! Memory that follows from them: a write-back image keeps one bit per [`RESERVE_GRANULE`] (2 MiB
//! of bits per 4 TiB of image); a RAM disk keeps 24 bytes per [`RAM_CHUNK`] of every gibibyte that
//! was ever touched (0.04 %).

use std::time::Duration;

/// Smallest logical block in bytes.
pub const BLOCK_SIZE_MIN: u32 = 512;

/// Logical block in bytes of an image or RAM disk where nothing else is said.
pub const BLOCK_SIZE_DEFAULT: u32 = 512;

/// Largest logical block in bytes.
pub const BLOCK_SIZE_MAX: u32 = 4096;

/// Logical block of an optical medium in bytes.
pub const OPTICAL_BLOCK_SIZE: u32 = 2048;

/// Largest device in bytes (8 EiB less a little): offsets must fit a signed 64-bit file offset.
pub const DEVICE_BYTES_MAX: u64 = (1 << 63) - (1 << 20);

/// Largest RAM disk in bytes.
pub const RAM_BYTES_MAX: u64 = 4 << 40;

/// Bytes of one chunk of a RAM disk; the unit that unmap gives back.
pub const RAM_CHUNK: usize = 64 << 10;

/// Chunks that share one table of a RAM disk; tables are made when first written into.
pub const RAM_CHUNKS_PER_TABLE: usize = 1 << 14;

/// Chunks a RAM disk looks at to answer one status request; longer runs are answered in parts.
pub const RAM_STATUS_CHUNKS_MAX: u64 = 1 << 16;

/// Largest single read or write in bytes.
pub const TRANSFER_BYTES_MAX: usize = 16 << 20;

/// Extents in one unmap request.
pub const UNMAP_EXTENTS_MAX: usize = 4096;

/// Bytes of zeros written at once where the file system or device cannot zero by itself.
pub const ZERO_CHUNK: usize = 1 << 20;

/// Bytes of an image reserved before the first write into them under write-back.
pub const RESERVE_GRANULE: u64 = 256 << 10;

/// Bytes preallocated between two calls of the progress function.
pub const PREALLOCATE_CHUNK: u64 = 128 << 20;

/// Seconds for which a change of the cache mode may hold operations. Initiators commonly give a
/// command 30, and the target above gives the operations of an aborted one 10 before it calls the
/// disk stuck.
pub const MODE_DRAIN_SECONDS: u64 = 8;

/// Syncs before a change of the cache mode; each leaves only what was written during the one
/// before.
pub const MODE_SYNCS_BEFORE: usize = 2;

/// Seconds given to all of them together: the first may have all that the page cache holds to
/// write.
pub const MODE_SYNC_SECONDS: u64 = 60;

/// How often a change of the cache mode looks whether the kernel has let go of a descriptor.
pub const MODE_DRAIN_POLL: Duration = Duration::from_millis(1);

/// How long opening waits for a device in use, whose last request may be one that a process left to
/// the kernel when it was killed. Longer would delay the refusal of what somebody else uses.
pub const CLAIM_TIME_MAX: Duration = Duration::from_secs(3);

/// How often opening looks whether a device in use is free.
pub const CLAIM_POLL: Duration = Duration::from_millis(10);

/// Direct-I/O alignment assumed where the kernel does not tell; right for every disk in use.
pub const DIRECT_ALIGNMENT_ASSUMED: u32 = 4096;

/// Largest direct-I/O alignment that is emulated.
pub const DIRECT_ALIGNMENT_MAX: u32 = 1 << 16;

/// Rules one fault decorator holds.
pub const FAULT_RULES_MAX: usize = 256;

/// Latency buckets of the statistics: bucket `n` counts operations below 2^n microseconds.
pub const LATENCY_BUCKETS: usize = 32;

/// Counter copies of the statistics, so that shards do not share cache lines.
pub const STATS_STRIPES: usize = 8;

/// Largest document beside a device in bytes.
pub const BESIDE_BYTES_MAX: u64 = 4 << 20;

/// Nexuses recorded as writers; past it the record says "everyone".
pub const WRITERS_MAX: usize = 1024;

/// Characters of one writer's name.
pub const WRITER_NAME_MAX: usize = 512;

/// Bytes read of one sysfs attribute.
pub const SYSFS_BYTES_MAX: u64 = 4096;

/// Characters of a block device's identity that a document's file name shows; a hash follows.
pub const KEY_READABLE_MAX: usize = 80;

/// Names looked at under /dev/disk/by-id.
pub const BY_ID_NAMES_MAX: usize = 65536;

const _: () = {
    assert!(RAM_CHUNK.is_multiple_of(BLOCK_SIZE_MAX as usize));
    assert!(ZERO_CHUNK <= TRANSFER_BYTES_MAX && ZERO_CHUNK.is_multiple_of(BLOCK_SIZE_MAX as usize));
    assert!(RESERVE_GRANULE.is_multiple_of(DIRECT_ALIGNMENT_MAX as u64));
    assert!(RAM_BYTES_MAX < DEVICE_BYTES_MAX);
};
