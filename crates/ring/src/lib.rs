//! One I/O interface, three drivers.

pub mod buffer;
mod clock;
mod driver;
mod error;
mod io;
pub mod limits;
pub mod op;
mod probe;
pub mod reactor;
mod semaphore;
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
pub use semaphore::{Acquire, Permit, Semaphore};
pub use signal::Waker;
pub use simulation::Simulation;
