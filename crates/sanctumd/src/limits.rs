//! Every bound of the service binary's own work, in one place. Those of the data path are in
//! `target::limits`, those of what travels on the socket in `api::limits`.

use std::time::Duration;

/// Connections to the management socket at once; one more waits in the kernel's backlog.
pub(crate) const CONNECTIONS_MAX: usize = 64;

/// Connections of all users but root and the service's own: the rest is kept for these two.
pub(crate) const OTHERS_CONNECTIONS_MAX: usize = 48;

/// Connections of one such user.
pub(crate) const USER_CONNECTIONS_MAX: usize = 16;

/// Connections that the kernel keeps waiting.
pub(crate) const BACKLOG: i32 = 64;

/// Request head (line and headers) in bytes. hyper's buffer must hold at least 8 KiB.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Headers of a request.
pub(crate) const HEADERS_MAX: usize = 64;

/// Time for a request's head to arrive, idle time of a kept connection included.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Time for a request's body to arrive.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Shards that the command line takes, as its parser wants it.
pub(crate) const SHARDS_MAX: i64 = target::limits::SHARDS_MAX as i64;

/// Accounts that a refused document's next step names.
pub(crate) const ACCOUNTS_NAMED_MAX: usize = 5;

/// Tasks at work at once.
pub(crate) const TASKS_RUNNING_MAX: usize = 4;

/// Tasks remembered after their end.
pub(crate) const TASKS_KEPT: usize = 100;

/// A task tells its progress at most this often.
pub(crate) const TASK_TELLS: Duration = Duration::from_millis(100);

/// Notices of the data path that wait to become events.
pub(crate) const NOTICES_WAITING: usize = target::limits::NOTICES;

/// How often the event store sums up and retries.
pub(crate) const EVENT_TICK: Duration = Duration::from_secs(1);

/// Changes that wait for the one under way. Each has a connection, of which some are left for who
/// only looks, even while a change does not end.
pub(crate) const CHANGES_WAITING_MAX: usize = 24;

/// What looks at the data directory at once, those included that its disk has left without an
/// answer.
pub(crate) const LOOKING_MAX: usize = 16;

/// Time for what looks at a disk. A disk that sleeps takes some seconds to wake up.
pub(crate) const LOOK_TIME_MAX: Duration = Duration::from_secs(20);

/// Look-ups in the system's user and group files at once, those included that a disk has left
/// without an answer.
pub(crate) const CALLERS_LOOKED_UP_MAX: usize = 16;

/// Time for such a look-up, which each request waits for.
pub(crate) const CALLER_TIME_MAX: Duration = Duration::from_secs(5);

/// What looks at a path on any other disk at once, those included that were left without an answer:
/// as many as can be asked for, so that none waits for a place while the disks answer.
pub(crate) const PATHS_MAX: usize = LOOKING_MAX;

/// Time for a look at a path: it ends within what it is a part of, so that it is what is told.
pub(crate) const PATH_TIME_MAX: Duration = Duration::from_secs(15);

/// Image files that are being deleted at once. Each has a thread that waits for its disk.
pub(crate) const REMOVALS_MAX: usize = 16;

/// Time for an image file to be deleted until the answer is that it is not deleted yet. The
/// deletion goes on.
pub(crate) const DELETE_TIME_MAX: Duration = Duration::from_secs(20);

/// Time for tasks and a change in progress to end at a stop. What goes on after it is cut off with
/// the process, as by a power cut.
pub(crate) const CHANGE_END_MAX: Duration = Duration::from_secs(5);

/// Time for the data path to end at a stop: somewhat more than its own bounds (`target::limits`:
/// twice `DRAIN_TIME_MAX`, and `FLUSH_TIME_MAX`). A whole stop takes at most this,
/// [`CHANGE_END_MAX`], [`EVENTS_SYNC_MAX`], [`REQUESTS_END_MAX`] three times, [`LEAVE_TIME_MAX`]
/// three times and `events::limits::CLOSE_TIME_MAX`, whatever the disks do; some seconds when those
/// of the devices answer.
pub(crate) const STOP_TIME_MAX: Duration = Duration::from_secs(80);

/// Time for the last events to reach the disk at a stop.
pub(crate) const EVENTS_SYNC_MAX: Duration = Duration::from_secs(5);

/// Time for what waits for a disk to be left behind at the end of the process.
pub(crate) const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);

/// Pause before the next try where no connection could be accepted.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for requests on the socket to end at a stop.
pub(crate) const REQUESTS_END_MAX: Duration = Duration::from_secs(5);

/// Ports tried after a taken one when a data directory is made.
pub(crate) const PORTS_TRIED: u16 = 100;

/// Longest path of a Unix socket, in bytes: what the kernel's address holds, less its terminator.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Most that is read of the system's user and group files, in bytes.
pub(crate) const ACCOUNTS_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const _: () = assert!(
    2 * target::limits::DRAIN_TIME_MAX.as_secs() + target::limits::FLUSH_TIME_MAX.as_secs()
        < STOP_TIME_MAX.as_secs()
);
// `tests/wire/test_stuck.py` gives a whole stop 110 s.
const _: () = assert!(
    STOP_TIME_MAX.as_secs()
        + CHANGE_END_MAX.as_secs()
        + EVENTS_SYNC_MAX.as_secs()
        + 3 * REQUESTS_END_MAX.as_secs()
        + 3 * LEAVE_TIME_MAX.as_secs()
        + events::limits::CLOSE_TIME_MAX.as_secs()
        < 110
);
const _: () = assert!(PATH_TIME_MAX.as_secs() < LOOK_TIME_MAX.as_secs());
const _: () = assert!(USER_CONNECTIONS_MAX < OTHERS_CONNECTIONS_MAX);
const _: () = assert!(OTHERS_CONNECTIONS_MAX < CONNECTIONS_MAX);
const _: () = assert!(events::limits::SUBSCRIBERS < OTHERS_CONNECTIONS_MAX);
const _: () = assert!(CHANGES_WAITING_MAX + LOOKING_MAX < OTHERS_CONNECTIONS_MAX);
const _: () = assert!(HEAD_BYTES_MAX >= 8192);
const _: () = assert!(TASKS_RUNNING_MAX < TASKS_KEPT);
