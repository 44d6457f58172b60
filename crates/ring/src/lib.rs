//! One I/O interface, three drivers.
//!
//! A [`Reactor`] belongs to one thread (a *shard*). It starts operations on sockets and files,
//! runs the local futures that disks are made of, and hands back what has ended. Underneath is a
//! driver:
//!
//! | driver | sockets | files | when |
//! |---|---|---|---|
//! | io_uring | the ring | the ring; ioctls, extents: threads | where [`probe()`] finds it works |
//! | epoll | non-blocking calls | page cache at once, the rest: threads | everywhere else |
//! | simulated | real ones, polled | real ones, at once | tests: [`Options::simulation`] |
//!
//! The choice can be forced ([`Options::driver`], or `SANCTUM_RING=uring|epoll`). The same tests
//! run over all three.
//!
//! # What it is not
//!
//! No async runtime: there is one thread, no work stealing, no I/O traits, and a future here is a
//! few chained operations of a disk. No protocol, no address policy, no accept loop. It does not
//! know what a disk is. It does not hide errors: what the kernel says is what the outcome says.
//!
//! # The types
//!
//! - [`Op`] is an operation that *owns* all it works on: its [`Buffer`] and its [`Fd`]. Its
//!   [`Outcome`] gives the buffer back. So nothing can be freed, reused or closed while the kernel
//!   may still touch it, whatever the caller drops.
//! - [`Buffer`]s are aligned for direct I/O and always initialized; they come from a bounded
//!   [`Pool`] and find their own way back. A [`SharedBuffer`] may be in several sends at once.
//! - [`SendList`] is one answer, or many: small pieces copied together, large ones referred to;
//!   it leaves in one system call where the socket takes it.
//! - [`Io`] is what a future works through: `io.read(…).await`. It may have several operations in
//!   flight at once, and may be dropped at any time.
//! - [`Waker`] ends a turn from another thread: many wakes, one [`Event::Woken`].
//!
//! # Sketch: one turn
//!
//! 1. Futures that were woken are polled. What they start goes to the driver.
//! 2. One system call hands over all that was started since the last turn, and waits: for a
//!    completion, a wake, the first timer, or the caller's timeout. With [`Options::spin`] it
//!    polls for a while before it sleeps.
//! 3. What has ended is handed out. Raw operations become events; the others wake their futures,
//!    which run now, and what they wake runs too, within [`limits::TASK_ROUNDS`].
//!
//! So an operation costs no system call of its own on io_uring, one on epoll for a socket, and a
//! share of two thread hand-overs on epoll for a file. On io_uring no allocation is made
//! for an operation once its slot was used before; a future costs the box it comes in. Nothing is
//! copied: bytes go between the kernel and the buffer the caller gave.
//!
//! ```
//! use std::sync::Arc;
//!
//! use ring::{Buffer, Event, Options, Reactor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut reactor: Reactor<std::io::Result<usize>> = Reactor::new(&Options::default())?;
//! let file = Arc::new(std::fs::File::open("/proc/self/exe")?.into());
//! let io = reactor.io();
//! let read = async move { io.read(file, Buffer::zeroed(4096), 0..4096, 0).await.1 };
//! reactor.spawn(7, Box::pin(read));
//!
//! let mut events = Vec::new();
//! while events.is_empty() {
//!     reactor.turn(None, &mut events)?;
//! }
//! assert!(matches!(events[..], [Event::Task { key: 7, output: Ok(4096) }]));
//! # Ok(())
//! # }
//! ```
//!
//! # What can fail between two steps
//!
//! - *Between start and end* an operation cannot be recalled. [`Reactor::cancel`] and a dropped
//!   future only say that nobody is interested; a write that has reached the kernel happens or
//!   not. To end a connection with operations in flight, [`shutdown`] its socket: they complete,
//!   and the descriptor closes with the last of them.
//! - *Short transfers* are repeated inside: a read ends short only where the file does, a write or
//!   send ends whole or with an error, after which any part of it may have happened.
//! - *Too many at once*: past [`Options::entries`] an operation is not queued but ends with
//!   `WouldBlock`, and a pool past its limit gives no buffer. Both are for the caller to turn into
//!   back-pressure before they happen.
//! - *The end*: a reactor that is dropped drops its futures, cancels what is in flight and waits
//!   for it, within [`limits::SHUTDOWN_BOUND`]. What a broken disk holds longer is leaked on
//!   purpose, because the kernel may still write there.
//! - *Waiting itself* can fail ([`RingError::Wait`]); that is a broken machine or a programming
//!   error, and the reactor is to be dropped.
//!
//! # Where the `unsafe` is
//!
//! In three places, each with its reasons: aligned memory ([`buffer`]), the block device ioctls
//! (`driver/blocking.rs`), and what io_uring is given pointers to (`driver/uring.rs`, whose module
//! comment states what lives how long).

pub mod buffer;
mod clock;
mod driver;
mod error;
mod io;
pub mod limits;
pub mod op;
mod probe;
pub mod reactor;
mod signal;
pub mod simulation;
mod task;

pub use buffer::{Buffer, Pool, PoolLimits, SharedBuffer};
pub use driver::DriverKind;
pub use error::RingError;
pub use io::{Io, Run};
pub use op::{AllocateMode, Completion, Fd, Op, Outcome, Part, SendList, shutdown};
pub use probe::{Probe, probe};
pub use reactor::{Event, Options, Reactor};
pub use signal::Waker;
pub use simulation::Simulation;
