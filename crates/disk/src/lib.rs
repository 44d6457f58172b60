//! What backs a LUN: image files, block devices, RAM disks, ISO images, and decorators over them.
//!
//! See [`Disk`] and [`open`()].

#![forbid(unsafe_code)]

pub mod backing;
pub mod beside;
pub mod delay;
pub mod depth;
pub mod fault;
pub mod limits;
pub mod stats;

mod block;
mod create;
mod error;
mod file;
mod gate;
mod image;
mod iso;
mod open;
mod ram;
mod request;
mod sysfs;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use backing::{Backing, Provisioning};
pub use beside::{Beside, BesideError, BesideStore};
pub use create::create_image;
pub use delay::Delay;
pub use depth::Depth;
pub use error::DeviceError;
pub use fault::Fault;
pub use open::open;
pub use ram::RamDisk;
pub use request::{
    CacheMode, Disk, DiskError, Execution, Extent, Features, Geometry, OpKind, Reply, Request,
};
pub use stats::Stats;
