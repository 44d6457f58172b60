//! What the service answers when an initiator wants in.

use std::fmt;
use std::sync::Arc;

use super::Config;
use crate::chap::{Algorithm, Secret};
use crate::pdu::LoginStatus;

/// The service's answer to [`super::LoginStart`].
#[derive(Clone, Debug)]
pub enum LoginPolicy {
    /// It may go on, under these conditions.
    Accept(Acceptance),
    /// It may not.
    Refuse(LoginStatus),
    /// It shall go elsewhere.
    Redirect {
        /// Address and port, `[::1]:3260` or `192.0.2.1:3260`; no portal group tag.
        address: String,
        /// For good, or for now.
        permanent: bool,
    },
}

/// Conditions under which an initiator may log in.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// What it has to prove.
    pub authentication: Authentication,
    /// TargetAlias, up to 255 bytes.
    pub alias: Option<String>,
    /// Tag of the portal group through which it came.
    pub portal_group_tag: u16,
    /// Offers of this target in place of the portal's.
    pub config: Option<Arc<Config>>,
}

/// What an initiator has to prove.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// Nothing. An initiator that offers only CHAP is refused.
    None,
    /// That it knows the secret of one of the accounts.
    Chap(Box<ChapPolicy>),
}

/// A name and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// CHAP_N.
    pub user: String,
    /// The secret.
    pub secret: Secret,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({:?})", self.user)
    }
}

/// How CHAP is to be done.
#[derive(Clone)]
pub struct ChapPolicy {
    /// Who may come in.
    pub accounts: Vec<Account>,
    /// Hashes allowed, best first; empty: all, best first.
    pub algorithms: Vec<Algorithm>,
    /// Our challenge: fresh bytes of the operating system's randomness, 16 to 1024.
    pub challenge: Vec<u8>,
    /// Our identifier, random as well.
    pub identifier: u8,
    /// The account with which the target proves itself when asked to.
    pub mutual: Option<Account>,
    /// Whether an initiator that does not ask for that proof is refused.
    pub mutual_required: bool,
}

/// Without the challenge, which nobody needs to read.
impl fmt::Debug for ChapPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapPolicy")
            .field("accounts", &self.accounts)
            .field("algorithms", &self.algorithms)
            .field("mutual", &self.mutual)
            .field("mutual_required", &self.mutual_required)
            .finish_non_exhaustive()
    }
}
