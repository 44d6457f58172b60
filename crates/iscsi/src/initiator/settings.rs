//! How an initiator logs in.

use std::fmt;
use std::time::Duration;

use crate::chap::{Algorithm, Secret};
use crate::command::SessionType;
use crate::negotiation::Offer;

/// Everything a login needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// InitiatorName.
    pub initiator_name: String,
    /// InitiatorAlias, for people.
    pub initiator_alias: Option<String>,
    /// TargetName; needed for a normal session.
    pub target_name: Option<String>,
    /// Discovery or normal.
    pub session_type: SessionType,
    /// The initiator's part of the session identifier. The same one with the same names reinstates
    /// a session.
    pub isid: [u8; 6],
    /// The target's part; 0 for a new session.
    pub tsih: u16,
    /// Connection identifier.
    pub cid: u16,
    /// CHAP, if it is to be offered.
    pub chap: Option<ChapLogin>,
    /// What is offered for the operational keys.
    pub offer: Offer,
    /// From [`super::Connection::start`] to full feature phase.
    pub login_timeout: Duration,
    /// Silence after which the initiator pings; zero: never.
    pub nop_interval: Duration,
    /// Silence after a ping that ends the connection.
    pub nop_timeout: Duration,
}

impl Settings {
    /// A normal session with this target, nothing to prove, the usual offers and patience.
    #[must_use]
    pub fn new(initiator_name: &str, target_name: &str, isid: [u8; 6]) -> Self {
        Self {
            initiator_name: initiator_name.to_owned(),
            initiator_alias: None,
            target_name: Some(target_name.to_owned()),
            session_type: SessionType::Normal,
            isid,
            tsih: 0,
            cid: 0,
            chap: None,
            offer: Offer::default(),
            login_timeout: Duration::from_secs(15),
            nop_interval: Duration::from_secs(15),
            nop_timeout: Duration::from_secs(15),
        }
    }

    /// A discovery session.
    #[must_use]
    pub fn discovery(initiator_name: &str, isid: [u8; 6]) -> Self {
        Self {
            target_name: None,
            session_type: SessionType::Discovery,
            ..Self::new(initiator_name, "", isid)
        }
    }
}

/// How to prove who we are.
#[derive(Clone)]
pub struct ChapLogin {
    /// CHAP_N.
    pub user: String,
    /// The secret.
    pub secret: Secret,
    /// Hashes offered, best first; empty: all, best first.
    pub algorithms: Vec<Algorithm>,
    /// Whether a target that asks for no proof is content with none. Not looked at when the
    /// target's proof is wanted.
    pub optional: bool,
    /// What the target has to prove.
    pub mutual: Option<Mutual>,
}

impl fmt::Debug for ChapLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapLogin")
            .field("user", &self.user)
            .field("algorithms", &self.algorithms)
            .field("optional", &self.optional)
            .field("mutual", &self.mutual)
            .finish_non_exhaustive()
    }
}

/// What the target has to prove.
#[derive(Clone)]
pub struct Mutual {
    /// The name it has to give; any when none is set.
    pub user: Option<String>,
    /// Its secret; not the same as ours.
    pub secret: Secret,
    /// Our challenge: fresh bytes of the operating system's randomness, 16 to 1024.
    pub challenge: Vec<u8>,
    /// Our identifier, random as well.
    pub identifier: u8,
}

impl fmt::Debug for Mutual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutual")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
