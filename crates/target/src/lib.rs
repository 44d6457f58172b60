//! The iSCSI target service.

pub mod config;
pub mod info;
pub mod limits;
pub mod provision;

mod access;
mod apply;
mod check;
mod control;
mod devices;
mod door;
mod doubt;
mod exports;
mod gate;
mod listeners;
mod load;
mod message;
mod notice;
mod proof;
mod publish;
mod registry;
mod secrets;
mod service;
mod shard;
mod stop;
mod unit;

pub use apply::Prepared;
pub use check::{ConfigError, check};
pub use notice::{Notice, Severity};
pub use secrets::Secrets;
pub use service::{Opener, Options, Service, ServiceError};
pub use stop::Unfinished;

/// The I/O driver that [`Options`] can force.
pub use ring::DriverKind as Driver;
