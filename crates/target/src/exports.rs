//! What is served now, as one immutable value that shards read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Config, Target};
use crate::message::PortalState;
use crate::secrets::Secrets;
use crate::unit::LogicalUnit;

/// Configuration with what it names opened.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    pub(crate) config: Arc<Config>,
    pub(crate) secrets: Secrets,
    /// Units by device name. A device whose identity cannot be read has none and is not shown.
    pub(crate) units: BTreeMap<String, Arc<LogicalUnit>>,
    pub(crate) portals: BTreeMap<String, Arc<PortalState>>,
    /// Devices without a unit, and why.
    pub(crate) failed: BTreeMap<String, String>,
}

impl Exports {
    pub(crate) fn target(&self, name: &str) -> Option<&Target> {
        self.config
            .targets
            .iter()
            .find(|target| target.name == name)
    }

    /// The CHAP secret of an account.
    pub(crate) fn secret_of(&self, user: &str) -> Option<&[u8]> {
        let account = self
            .config
            .accounts
            .iter()
            .find(|account| account.user == user)?;
        self.secrets.get(&account.secret)
    }

    /// Target and number that expose a device.
    pub(crate) fn exposure(&self, device: &str) -> Option<(&Target, u16)> {
        self.config.targets.iter().find_map(|target| {
            let lun = target.luns.iter().find(|lun| lun.device == device)?;
            Some((target, lun.number))
        })
    }
}
