//! Bounds of the load generator, in one place.

use std::time::Duration;

/// Initiators at most.
pub const INITIATORS_MAX: usize = 64;
/// Commands of one initiator in flight at most.
pub const DEPTH_MAX: usize = 128;
/// Bytes of one transfer at most.
pub const TRANSFER_BYTES_MAX: u32 = 1024 * 1024;
/// Blocks that one initiator owns at most: bounds the memory of the model.
pub const OWNED_BLOCKS_MAX: u64 = 1 << 20;
/// Counter blocks shared by all initiators.
pub const COUNTERS: u64 = 16;
/// A request without an answer for so long is a hang.
pub const HANG: Duration = Duration::from_secs(30);
/// A command without an answer for so long may have been aborted by somebody else's reset (the
/// target says nothing then): it is given up by ABORT TASK SET.
pub const SILENCE: Duration = Duration::from_secs(3);
/// Between two attempts to connect.
pub const RECONNECT: Duration = Duration::from_millis(100);
/// Bytes of a receive buffer.
pub const RECEIVE_BYTES: usize = 256 * 1024;
