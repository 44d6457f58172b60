//! What is served now, as one immutable value that shards read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::access::{Origin, permission};
use crate::config::{Config, Target};
use crate::message::{Login, PortalState, Refusal, SeenUnit};
use crate::proof::Proof;
use crate::registry::SessionShared;
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

    /// The LUNs that a login may use.
    ///
    /// # Errors
    /// Why it may not come in.
    pub(crate) fn luns_for(&self, login: &Login) -> Result<Vec<SeenUnit>, Refusal> {
        let origin = Origin {
            initiator: &login.initiator,
            peer: login.peer,
            portal: &login.portal.name,
        };
        self.luns_of(&login.target, origin, login.proof.as_ref())
    }

    /// The LUNs that a session may use now.
    ///
    /// # Errors
    /// Why it has no right to be there any more: what would keep its login out now.
    pub(crate) fn luns_of_session(
        &self,
        session: &SessionShared,
    ) -> Result<Vec<SeenUnit>, Refusal> {
        let portal = self.portals.get(&session.portal.name);
        if !portal.is_some_and(|portal| Arc::ptr_eq(portal, &session.portal)) {
            return Err(Refusal::Forbidden);
        }
        let origin = Origin {
            initiator: &session.nexus.initiator,
            peer: session.peer,
            portal: &session.portal.name,
        };
        self.luns_of(&session.target, origin, session.proof.as_ref())
    }

    fn luns_of(
        &self,
        target: &str,
        origin: Origin<'_>,
        proof: Option<&Proof>,
    ) -> Result<Vec<SeenUnit>, Refusal> {
        let target = self.target(target).ok_or(Refusal::NotFound)?;
        let allowed = permission(target, origin).ok_or(Refusal::Forbidden)?;
        if !self.proves(allowed.authentication, proof) {
            return Err(Refusal::Unproven);
        }
        let seen = allowed.luns(target).into_iter().filter_map(|lun| {
            let device = target.luns.iter().find(|own| own.number == lun.lun)?;
            let unit = self.units.get(&device.device)?;
            Some(SeenUnit {
                number: lun.seen,
                read_only: lun.read_only,
                unit: Arc::clone(unit),
            })
        });
        Ok(seen.collect())
    }
}
