//! Every bound of the service, in one place.

use std::time::Duration;

pub use disk::limits::BLOCK_SIZE_DEFAULT;

/// Shards at most, whatever the machine has.
pub const SHARDS_MAX: usize = 64;
/// Connections one shard keeps at once, logins in progress included.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 4096;
/// Connections of one shard that have not finished their login; one more is closed at once.
pub const LOGINS_PER_SHARD_MAX: usize = 512;
/// Connections from one network (an IPv4 address, an IPv6 /64) that have not finished their login;
/// for one more, one of the address that has most of them is closed, or the newcomer if that is its
/// own.
pub const LOGINS_PER_PEER_MAX: usize = 256;
/// Discovery sessions from one network; for one more, one ends or it is refused, as before login.
pub const DISCOVERIES_PER_PEER_MAX: usize = 64;
/// Descriptors kept for the service's own files (devices, settings, the API), or a quarter of all
/// where the process may have only few.
pub const DESCRIPTORS_RESERVED: u64 = 8192;
/// How often the admin floor is told of connections that were turned away.
pub const REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a CHAP challenge.
pub const CHALLENGE_BYTES: usize = 32;
/// Time from accept to the end of login.
pub const LOGIN_TIME_MAX: Duration = Duration::from_secs(15);
/// Bytes of one connection's receive buffer.
pub const RECEIVE_BYTES: usize = 64 * 1024;
/// Bytes waiting to be sent on a connection; past it, its input rests until some have left.
pub const SEND_BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Commands a session may have open: the command window offered.
pub const COMMAND_WINDOW: u32 = 128;
/// Data-out of one command in bytes; a longer one is refused with ILLEGAL REQUEST.
pub const DATA_OUT_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Buffer memory of a shard unless told otherwise.
pub const POOL_BYTES_PER_SHARD: usize = 512 * 1024 * 1024;
/// Of that, bytes kept for reuse while idle.
pub const POOL_IDLE_BYTES: usize = 32 * 1024 * 1024;
/// Share of a shard's buffer memory that one initiator may hold over all its sessions, as a divisor:
/// past it its commands get TASK SET FULL while other initiators go on. Buffers count until what they
/// carry has been taken by the socket.
pub const INITIATOR_SHARE: usize = 4;
/// Longest wait for the next data of a write, whose buffer is held meanwhile; then the connection
/// ends. An initiator's own patience with a command is shorter.
pub const DATA_OUT_TIME_MAX: Duration = Duration::from_secs(60);
/// Commands that wait at one LUN for a slot or a range; one more gets TASK SET FULL.
pub const GATE_QUEUE_MAX: usize = 4096;
/// Those of one initiator among them, over all its sessions.
pub const GATE_QUEUE_PER_INITIATOR_MAX: usize = GATE_QUEUE_MAX / 4;
/// Sessions that one initiator has with one target; one more is refused.
pub const SESSIONS_PER_INITIATOR_MAX: usize = 32;
/// Messages from the control plane that wait at a shard; senders wait for room.
pub const SHARD_INBOX: usize = 1024;
/// Requests from shards on their way to the control plane, which takes them at once; a command that
/// finds it full gets BUSY.
pub const CONTROL_INBOX: usize = 4096;
/// Requests of one LUN that the control plane works on or that wait for their turn; one more gets
/// BUSY, or a failure where it is a reset.
pub const UNIT_REQUESTS_MAX: usize = 64;
/// Logins that the control plane decides about at once; one more is refused.
pub const ADMISSIONS_MAX: usize = 1024;
/// How long a change waits for commands that it must outlive (PREEMPT, resets, reinstatement);
/// after it the answer is a failure and the LUN goes NOT READY until it drains.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long opening a device may take; then it counts as one that cannot be opened. The thread goes on
/// waiting, and so what lies at one path is opened by one thread at a time.
pub const OPEN_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a step of a change waits for a disk: growing it, or going over to another cache mode.
pub const DISK_TIME_MAX: Duration = Duration::from_secs(70);
/// How long the last flush of a device may take; it goes on in the kernel when it takes longer.
pub const FLUSH_TIME_MAX: Duration = Duration::from_secs(45);
/// How often a shard looks at the clocks of its connections.
pub const TICK: Duration = Duration::from_secs(1);
/// After so long a command that has not ended is written to the log, with where it is. Initiators
/// commonly abort after 30 s.
pub const SLOW_COMMAND: Duration = Duration::from_secs(15);
/// Quiet time of a connection before the target sends a NOP-In.
pub const NOP_INTERVAL: Duration = Duration::from_secs(10);
/// Time for the answer to that NOP-In; then the connection is dropped.
pub const NOP_TIME_MAX: Duration = Duration::from_secs(20);
/// Time in which an initiator has to take something of what is sent to it; then TCP drops it.
pub const SEND_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a start waits for a port that is taken.
pub const PORTAL_PATIENCE: Duration = Duration::from_secs(3);
/// How often it looks.
pub const PORTAL_LOOK: Duration = Duration::from_millis(10);
/// How often a portal that does not listen is tried again.
pub const PORTAL_RETRY: Duration = Duration::from_secs(2);
/// How often a device that was in use at the start, or did not answer, is tried again.
pub const OPEN_RETRY: Duration = Duration::from_secs(2);
/// How long such a try, which has the device open, waits for its turn among what operators ask; then
/// it lets go of it. Shorter than [`disk::limits::CLAIM_TIME_MAX`], so that it stands in the way of
/// none of them.
pub const OPERATORS_PATIENCE: Duration = Duration::from_secs(1);
/// Portals at most.
pub const PORTALS_MAX: usize = 256;
/// Targets at most.
pub const TARGETS_MAX: usize = 1024;
/// Devices at most.
pub const DEVICES_MAX: usize = 4096;
/// LUN numbers are below this (single-level peripheral addressing).
pub const LUN_NUMBERS: u16 = 256;
/// Access rules of one target at most.
pub const RULES_MAX: usize = 1024;
/// CHAP accounts at most.
pub const ACCOUNTS_MAX: usize = 4096;
/// CHAP accounts that one target, rule or discovery takes.
pub const ACCOUNTS_PER_RULE_MAX: usize = 256;
/// Bytes of the name of a portal or device.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a CHAP user's name (CHAP_N).
pub const USER_BYTES_MAX: usize = iscsi::limits::VALUE_BYTES_MAX;
/// Bytes of a target's alias.
pub const ALIAS_BYTES_MAX: usize = iscsi::limits::VALUE_BYTES_MAX;
/// Bytes of a rule's pattern for initiator names: as long as a name.
pub const PATTERN_BYTES_MAX: usize = iscsi::limits::NAME_BYTES_MAX;
/// Bytes of a device that the settings give a size.
pub const DEVICE_BYTES_MAX: u64 = 1 << 60;
/// Operations at once on one device.
pub const QUEUE_DEPTH_MAX: u16 = 1024;
/// The same where nothing else is said.
pub const QUEUE_DEPTH_DEFAULT: u16 = 128;
/// Connections of one portal that the kernel keeps until they are accepted.
pub const LISTEN_BACKLOG: i32 = 1024;
/// Notices waiting for the admin floor; further ones are counted and dropped.
pub const NOTICES: usize = 1024;
/// Nexuses of one device remembered as told that their writes are in doubt.
pub const TOLD_MAX: usize = 1024;

const _: () = assert!(DATA_OUT_BYTES_MAX as usize <= POOL_BYTES_PER_SHARD / INITIATOR_SHARE);
const _: () = assert!(OPERATORS_PATIENCE.as_millis() < disk::limits::CLAIM_TIME_MAX.as_millis());
const _: () = assert!(COMMAND_WINDOW as usize <= GATE_QUEUE_PER_INITIATOR_MAX);
