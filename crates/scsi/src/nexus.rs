//! Who speaks to whom.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// I_T nexus: an initiator port (iSCSI name and ISID) and a target port.
///
/// Reservations, registrations and unit attentions belong to it. A session that logs in again with the
/// same name and ISID through the same portal group is the same nexus.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Nexus {
    /// The initiator's iSCSI name, normalized to lower case, at most 223 bytes.
    pub initiator: Arc<str>,
    /// Initiator session identifier, the other half of the initiator port's name.
    pub isid: [u8; 6],
    /// Relative target port identifier; the portal group tag.
    pub port: u16,
}

impl Nexus {
    /// A nexus from its three parts.
    pub fn new(initiator: impl Into<Arc<str>>, isid: [u8; 6], port: u16) -> Self {
        Self {
            initiator: initiator.into(),
            isid,
            port,
        }
    }

    /// The initiator port's name as SCSI writes it: name, `,i,0x` and the ISID in hexadecimal.
    pub fn port_name(&self) -> String {
        let [a, b, c, d, e, f] = self.isid;
        format!(
            "{},i,0x{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}",
            self.initiator
        )
    }
}

impl fmt::Display for Nexus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},t,0x{:04x}", self.port_name(), self.port)
    }
}
