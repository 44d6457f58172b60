//! What can fail about a reactor as a whole. What fails about one operation is in its outcome.

use std::io;

/// A reactor could not be made, or can go on no longer.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `SANCTUM_RING` holds a word that names no driver.
    #[error(
        "SANCTUM_RING is \"{word}\", which names no I/O driver: set it to \"uring\" or \
         \"epoll\", or unset it to have one chosen"
    )]
    UnknownDriver {
        /// What it holds.
        word: String,
    },
    /// An option is outside its limits.
    #[error("ring option `{option}` is {value}, outside {min} to {max}")]
    OutOfLimits {
        /// Name of the field of [`crate::Options`].
        option: &'static str,
        /// What it was.
        value: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// io_uring was asked for and cannot be used here.
    #[error(
        "io_uring was asked for and cannot be used here: {cause}. Choose the epoll driver \
         (SANCTUM_RING=epoll) or remove the cause"
    )]
    UringUnavailable {
        /// The likely cause, as [`crate::probe()`] words it.
        cause: String,
    },
    /// A descriptor the driver itself needs could not be made.
    #[error("cannot create {what} for an I/O driver: check the limit of open files (ulimit -n)")]
    Create {
        /// An eventfd, an epoll set, a ring.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Waiting for completions failed; the reactor cannot go on.
    #[error("waiting for I/O completions failed in the {driver} driver")]
    Wait {
        /// Which driver.
        driver: &'static str,
        /// Why.
        source: io::Error,
    },
}
