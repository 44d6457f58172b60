//! The iSCSI target service.

pub mod config;
pub mod info;
pub mod limits;

mod access;
mod apply;
mod check;
mod control;
mod devices;
mod doubt;
mod exports;
mod gate;
mod listeners;
mod message;
mod notice;
mod proof;
mod registry;
mod secrets;
mod service;
mod shard;
mod unit;

pub use check::{ConfigError, check};
pub use notice::{Notice, Severity};
pub use secrets::Secrets;
pub use service::{Opener, Options, Service, ServiceError};
