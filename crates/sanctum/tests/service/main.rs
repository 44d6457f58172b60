//! The real binaries together: `sanctumd` on a temporary data directory, driven by `sanctum`.

mod faults;
mod harness;
mod nouns;
mod peers;
mod secrets;
mod setup;
mod tasks;
