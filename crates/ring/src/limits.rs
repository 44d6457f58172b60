//! Every bound of this crate in one place, with the memory each one implies.

use std::time::Duration;

/// Smallest buffer size class, and the alignment of every buffer: 4 KiB.
pub const CLASS_MIN: usize = 4096;

/// Largest buffer size class: 16 MiB. A pool refuses more; [`crate::Buffer::zeroed`] does not.
pub const CLASS_MAX: usize = 16 * 1024 * 1024;

/// Size classes of a pool: every power of two from [`CLASS_MIN`] to [`CLASS_MAX`].
pub const CLASS_COUNT: usize = 13;

/// Fewest operations in flight a reactor can be asked for.
pub const ENTRIES_MIN: u32 = 8;

/// Most operations in flight a reactor can be asked for. The io_uring driver keeps about 300 bytes
/// for each that was ever used at once (10 MiB at the limit), and the kernel 32 bytes of
/// completion ring (1 MiB).
pub const ENTRIES_MAX: u32 = 32_768;

/// What [`crate::Options::default`] asks for.
pub const ENTRIES_DEFAULT: u32 = 4096;

/// Submission ring of the io_uring driver. Smaller than the operations in flight: a full ring is
/// handed to the kernel at once and refilled (64 KiB of entries).
pub const SUBMISSION_RING_MAX: u32 = 1024;

/// Most worker threads of one reactor.
pub const WORKERS_MAX: usize = 256;

/// What [`crate::Options::default`] asks for.
pub const WORKERS_DEFAULT: usize = 4;

/// Readiness events taken from the kernel in one turn of the epoll driver (6 KiB). What is left
/// over comes with the next turn.
pub const EPOLL_EVENTS: usize = 512;

/// Pieces given to one `sendmsg` (the kernel's own limit); a longer list takes several calls.
pub const PIECES_PER_SEND: usize = 1024;

/// Bytes given to one read or write call (the kernel cuts at 2 GiB less a page).
pub const BYTES_PER_CALL: usize = 1 << 30;

/// Capacity that a cleared [`crate::SendList`] keeps for its own bytes. One that grew beyond gives
/// the memory back, so that one large answer does not stay allocated on every connection.
pub const SEND_BYTES_KEPT: usize = 64 * 1024;

/// Pieces that a cleared [`crate::SendList`] keeps room for.
pub const SEND_PARTS_KEPT: usize = 1024;

/// How often futures woken by other futures are run again within one turn. Past it the next turn
/// goes on with them, so that two futures waking each other do not starve the sockets.
pub const TASK_ROUNDS: usize = 16;

/// How long a reactor that is dropped waits for operations that the kernel still holds.
pub const SHUTDOWN_BOUND: Duration = Duration::from_secs(5);

/// Longest single wait for the kernel; longer ones end early, which they may.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long one operation may take before the probe of io_uring gives up: all of them work on memory.
pub const PROBE_STEP_BOUND: Duration = Duration::from_secs(5);

/// Entries of the ring that is set up for trying.
pub const PROBE_ENTRIES: u32 = 8;

/// Lines of trace the simulated driver keeps; the oldest go first.
pub const TRACE_LINES_MAX: usize = 65_536;

const _: () = assert!(CLASS_MIN << (CLASS_COUNT - 1) == CLASS_MAX);
const _: () = assert!(ENTRIES_MIN <= ENTRIES_DEFAULT && ENTRIES_DEFAULT <= ENTRIES_MAX);
const _: () = assert!(
    ENTRIES_MAX <= 65_536 / 2,
    "the kernel's completion ring ends at 65536"
);
const _: () = assert!(WORKERS_DEFAULT <= WORKERS_MAX);
const _: () = assert!(PIECES_PER_SEND <= 1024, "UIO_MAXIOV");
