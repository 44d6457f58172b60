//! What the service is told to serve: portals, devices, targets, access.
//!
//! These types are the settings document's own words (the admin floor embeds them), so they are
//! serializable and hold *names* of secrets, never secrets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use disk::{Backing, CacheMode, Provisioning};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::limits;

/// Everything the iSCSI service serves.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses that accept connections.
    #[serde(rename = "portal", skip_serializing_if = "Vec::is_empty")]
    pub portals: Vec<Portal>,
    /// What backs LUNs.
    #[serde(rename = "device", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Named accounts that initiators and targets prove themselves with.
    #[serde(rename = "chap", skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<ChapAccount>,
    /// Targets with their LUNs and rules.
    #[serde(rename = "target", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Who may ask which targets there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Authentication>,
}

impl Config {
    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.name == name)
    }
}

/// An address and port that accepts iSCSI connections.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Name used by targets and rules.
    pub name: String,
    /// Address listened on; IPv4 or IPv6. With `interface`, the interface must hold it.
    pub address: IpAddr,
    /// TCP port; 3260 unless told otherwise.
    #[serde(default = "Portal::default_port")]
    pub port: u16,
    /// Binds to one network interface (SO_BINDTODEVICE) when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Target portal group tag, 1 to 65535; portals of one group form one target port.
    #[serde(default = "Portal::default_group")]
    pub group: u16,
    /// Listening or not.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl Portal {
    const fn default_port() -> u16 {
        3260
    }

    const fn default_group() -> u16 {
        1
    }

    /// Address and port together.
    pub const fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// A device: what backs a LUN.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Name used by LUNs.
    pub name: String,
    /// What it is and where.
    #[serde(flatten)]
    pub backing: Backing,
    /// Cache mode; changeable at run time.
    #[serde(default)]
    pub cache: CacheMode,
    /// Told to initiators as RMB; the medium can be ejected and loaded.
    #[serde(default)]
    pub removable: bool,
    /// Several operations at once (the default), or one at a time.
    #[serde(default = "yes")]
    pub asynchronous: bool,
    /// Operations at once in the asynchronous mode, 1 to 1024; past it commands wait, then TASK SET FULL.
    #[serde(default = "Device::default_depth")]
    pub queue_depth: u16,
    /// Tell initiators of physical blocks larger than the logical ones (the default). Some
    /// hypervisors refuse disks with such blocks.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub physical_blocks: bool,
}

impl Device {
    const fn default_depth() -> u16 {
        limits::QUEUE_DEPTH_DEFAULT
    }

    /// A device with everything else at its default.
    pub fn new(name: impl Into<String>, backing: Backing) -> Self {
        Self {
            name: name.into(),
            backing,
            cache: CacheMode::None,
            removable: false,
            asynchronous: true,
            queue_depth: Self::default_depth(),
            physical_blocks: true,
        }
    }
}

/// An account for CHAP.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChapAccount {
    /// CHAP_N, 1 to 255 bytes.
    pub user: String,
    /// Name of the secret in the secrets store.
    pub secret: String,
}

/// Who must prove what at login.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Authentication {
    /// Accounts (by user) that an initiator may use. Empty: no authentication asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<String>,
    /// Account (by user) with which the target proves itself when asked to (mutual CHAP).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutual: Option<String>,
    /// An initiator that does not ask for the target's proof is refused.
    pub mutual_required: bool,
    /// Hashes allowed, best first. Empty: all, SHA3-256 first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<ChapAlgorithm>,
}

/// CHAP hashes under their IANA numbers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChapAlgorithm {
    /// CHAP_A=5; the only one ESXi and Windows speak.
    Md5,
    /// CHAP_A=6.
    Sha1,
    /// CHAP_A=7.
    Sha256,
    /// CHAP_A=8.
    #[serde(rename = "sha3-256")]
    Sha3_256,
}

/// An iSCSI target.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The iSCSI name (iqn., eui. or naa.), normalized to lower case.
    pub name: String,
    /// A word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// "Allow multiple concurrent connections (clustering)". Off: a second initiator is refused.
    #[serde(default = "yes")]
    pub allow_multiple: bool,
    /// Portals (by name) it answers on. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub portals: Vec<String>,
    /// Proof asked of initiators; the first matching access rule may have its own.
    #[serde(default)]
    pub authentication: Authentication,
    /// Its LUNs.
    #[serde(default, rename = "lun", skip_serializing_if = "Vec::is_empty")]
    pub luns: Vec<Lun>,
    /// Ordered; the first that matches decides. No match: denied.
    #[serde(default, rename = "access", skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessRule>,
}

/// A device exposed under a target.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lun {
    /// Number, 0 to 255.
    pub number: u16,
    /// Device by name. One device backs one LUN.
    pub device: String,
    /// Nobody writes through this LUN.
    #[serde(default)]
    pub read_only: bool,
}

/// Initiator × network × portal → allow, deny or read-only.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// Initiator name with `*` and `?`.
    #[serde(default = "any")]
    pub initiator: String,
    /// Where it comes from; any network unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IpNet>,
    /// Portal (by name) it comes in through; any unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<String>,
    /// What follows.
    pub action: Action,
    /// The LUNs it sees, under the numbers it sees; all under their own numbers unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub luns: Option<Vec<LunMapping>>,
    /// Proof asked of these initiators in place of the target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// One line of a per-initiator LUN map.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LunMapping {
    /// The number the initiator sees.
    pub seen: u16,
    /// The target's LUN behind it.
    pub lun: u16,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Full access.
    Allow,
    /// No access; the target is not even shown in discovery.
    Deny,
    /// Reads only.
    ReadOnly,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::ReadOnly => "read-only",
        })
    }
}

const fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
const fn is_yes(value: &bool) -> bool {
    *value
}

fn any() -> String {
    "*".to_owned()
}
