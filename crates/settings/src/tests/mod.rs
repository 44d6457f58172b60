//! The crate as a whole.

mod crash;
mod disk;
mod generations;
mod hang;
mod properties;
mod secrets;
mod text;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::*;

pub(crate) const BASE: &str = r#"# by hand
version = 1

[service]
name = "san1"

[[iscsi.portal]]
name = "storage"
address = "192.0.2.1"

[[iscsi.device]]
name = "disk1"
kind = "image"
path = "/srv/disk1.img"
size = 1073741824

[[iscsi.device]]
name = "scratch"
kind = "ram"
size = 67108864

[[iscsi.chap]]
user = "host-a"
secret = "host-a"

[[iscsi.target]]
name = "iqn.2026-11.example:one"
authentication = { accounts = ["host-a"] }

[[iscsi.target.lun]]
number = 0
device = "disk1"

[[iscsi.target.access]]
initiator = "iqn.*"
network = "192.0.2.0/24"
action = "allow"
"#;

/// A moment for all generations.
pub(crate) fn noon() -> Timestamp {
    Timestamp::from_second(1_795_003_200).expect("in range")
}

/// A check that lets all through.
pub(crate) fn anything(_: &Document) -> Result<(), CheckError> {
    Ok(())
}

pub(crate) fn store_on(disk: &Arc<disk::Disk>) -> Store {
    let storage: Arc<dyn crate::storage::Storage> = disk.clone();
    Store::open_on(storage, Path::new("/data"), noon).expect("opens")
}

/// A document that differs from others by its number.
pub(crate) fn numbered(number: u32) -> Document {
    let mut document = Document::default();
    document.service.spin_us = number;
    document
}
