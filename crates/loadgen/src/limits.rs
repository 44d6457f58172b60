//! Bounds of the load generator, in one place.

use std::time::Duration;

/// Initiators at most.
pub const INITIATORS_MAX: usize = 64;
/// Commands of one initiator in flight at most.
pub const DEPTH_MAX: usize = 128;
/// Bytes of one transfer at most.
pub const TRANSFER_BYTES_MAX: u32 = 1024 * 1024;
/// Blocks in a row that belong to one initiator; the next ones belong to the next. Not less than
/// the longest transfer.
pub const CHUNK_BLOCKS: u64 = 4096;
/// Blocks that one initiator owns at most: bounds the memory of the model.
pub const OWNED_BLOCKS_MAX: u64 = 1 << 20;
/// Counter blocks shared by all initiators; they come first on the LUN.
pub const COUNTERS: u64 = 16;
/// Steps of one counter that are remembered one by one. Older ones are summed up.
pub const STEPS_MAX: usize = 4096;
/// Unknown writes to one block after which it is read before it is written again.
pub const MAYBE_MAX: usize = 8;
/// Kinds of errors that are counted apart.
pub const ERROR_KINDS_MAX: usize = 64;
/// A request without an answer for so long is a hang.
pub const HANG: Duration = Duration::from_secs(30);
/// A command without an answer for so long is overdue: nobody may end it, so that it is seen
/// whether the target forgot it. It is short against the time between two disturbances of one
/// session, and long against what an answer takes.
pub const OVERDUE: Duration = Duration::from_secs(1);
/// A command that may have been ended by somebody else's reset (the target says nothing then), and
/// has had no answer for so long since, is given up.
pub const SILENCE: Duration = Duration::from_secs(2);
/// A reset whose sender's session ended before the answer may end others' commands for so long: the
/// target waits up to ten seconds for what has to end.
pub const CUT_OFF: Duration = Duration::from_secs(12);
/// Between two attempts to connect.
pub const RECONNECT: Duration = Duration::from_millis(100);
/// Bytes of a receive buffer.
pub const RECEIVE_BYTES: usize = 256 * 1024;
/// Longest wait of a turn, so that clocks are looked at.
pub const TURN: Duration = Duration::from_millis(5);
