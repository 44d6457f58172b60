//! What a driver is: the part of a reactor that talks to the kernel.
//!
//! The front of the reactor ([`crate::io`]) numbers operations by slot, keeps timers, and bounds
//! how many are in flight; a driver starts them and reports each slot exactly once as ended.

pub(crate) mod blocking;
pub(crate) mod epoll;
pub(crate) mod simulated;
pub(crate) mod sockets;
pub(crate) mod uring;
pub(crate) mod workers;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::RingError;
use crate::op::{Op, Outcome};
use crate::signal::Signal;

/// Which driver a reactor has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DriverKind {
    /// io_uring.
    Uring,
    /// epoll for sockets, worker threads for files.
    Epoll,
    /// Real descriptors under a virtual clock, with a seeded order and faults.
    Simulated,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            Self::Simulated => "simulated",
        })
    }
}

/// An operation that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) slot: u32,
    pub(crate) outcome: Outcome,
}

/// The interface of the three drivers. Never given [`Op::Timer`].
pub(crate) trait Driver {
    fn kind(&self) -> DriverKind;

    /// The driver's clock.
    fn now(&self) -> Instant {
        clock::now()
    }

    fn signal(&self) -> &Arc<Signal>;

    /// Takes over an operation that passed [`Op::check`]. One that ends at once goes to `ended`.
    fn start(&mut self, slot: u32, op: Op, ended: &mut Vec<Finished>);

    /// Hands what was started to the kernel and collects what has ended. With nothing in `ended`,
    /// waits at most `timeout` (`None` = without bound); may return early with nothing.
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        ended: &mut Vec<Finished>,
    ) -> Result<(), RingError>;

    /// Asks for an operation to end early, with `ECANCELED` or as it would have. Best effort.
    fn cancel(&mut self, slot: u32, ended: &mut Vec<Finished>);

    /// Ends everything in flight, waiting at most `bound`. What the kernel still holds then is
    /// leaked, never freed. Returns how many operations that are.
    fn shutdown(&mut self, bound: Duration, ended: &mut Vec<Finished>) -> usize;

    /// Takes the trace of a simulation.
    fn take_trace(&mut self) -> Vec<String> {
        Vec::new()
    }
}
