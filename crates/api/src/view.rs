//! What the service answers: configured things with their live state.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use target::info::{DeviceInfo, DeviceState, ReservationInfo, SessionInfo};

use crate::Problem;
use crate::config::{AccessRule, Device, Portal, Target};

/// A change that is in force and stored.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Applied {
    /// The generation that is active now.
    pub generation: u64,
}

/// The whole service at a glance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Version of the service.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the service started.
    pub uptime_seconds: u64,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// The generation of settings in force.
    pub generation: u64,
    /// Shards that serve initiators.
    pub shards: usize,
    /// How disks and sockets are driven.
    pub driver: String,
    /// Why io_uring is not used, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_reason: Option<String>,
    /// Portals, and how many of them listen.
    pub portals: Count,
    /// Devices, and how many of them are ready.
    pub devices: Count,
    /// Targets served.
    pub targets: usize,
    /// LUNs of all targets.
    pub luns: usize,
    /// Sessions open now.
    pub sessions: usize,
    /// What needs a person: a device that is not ready, a portal that does not listen.
    pub attention: Vec<String>,
}

/// Things, and how many of them work.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Count {
    /// That work.
    pub working: usize,
    /// That are configured and enabled.
    pub total: usize,
}

/// A target and its sessions.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct TargetView {
    /// As configured.
    #[serde(flatten)]
    pub target: Target,
    /// Sessions open now.
    pub sessions: usize,
}

/// A LUN that was added.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LunAdded {
    /// The number it got.
    pub number: u16,
    /// The generation that is active now.
    pub generation: u64,
}

/// Where a device is seen.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LunPlace {
    /// Target by name.
    pub target: String,
    /// Number of the LUN.
    pub number: u16,
}

/// A device, where it is seen, and how it does.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeviceView {
    /// As configured.
    #[serde(flatten)]
    pub device: Device,
    /// The LUN it backs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<LunPlace>,
    /// As the service runs it; absent while the service does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<DeviceInfo>,
}

/// A portal and whether it listens.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct PortalView {
    /// As configured.
    #[serde(flatten)]
    pub portal: Portal,
    /// Connections are accepted.
    pub listening: bool,
    /// Connections open now.
    pub connections: usize,
}

/// A CHAP account.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct AccountView {
    /// CHAP_N.
    pub user: String,
    /// Name of its secret in the secrets store.
    pub secret: String,
    /// The store holds a secret of that name.
    pub secret_stored: bool,
    /// Targets and rules that name the account.
    pub used_by: Vec<String>,
}

/// An account that was added or got a new secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SecretStored {
    /// Name of the secret.
    pub secret: String,
    /// The file, readable by the service's user only, that holds it.
    pub file: PathBuf,
    /// It was made up by the service.
    pub generated: bool,
    /// What a person should know of it: an initiator that will not take it, and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The generation that is active now.
    pub generation: u64,
}

/// An access rule at its position.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct RuleView {
    /// From 1; the first rule that matches decides.
    pub position: usize,
    /// The rule.
    #[serde(flatten)]
    pub rule: AccessRule,
}

/// The settings in force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SettingsShown {
    /// Their generation.
    pub generation: u64,
    /// The document, in TOML, without secrets.
    pub text: String,
}

/// What applying a document would change.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Difference {
    /// The generation it was compared with.
    pub generation: u64,
    /// Applying the document would make a generation.
    pub changed: bool,
    /// Lines that go and come, in unified form; empty where settings stay as they are, though
    /// secrets, comments or layout may differ.
    pub text: String,
    /// Names of the secrets that would be new or replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Names of the secrets that would be removed: no account of the document names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets_removed: Vec<String>,
}

/// The result of applying a document.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SettingsApplied {
    /// The generation that is active now.
    pub generation: u64,
    /// It was made by this change; otherwise all was in force already.
    pub changed: bool,
    /// Lines that went and came, in unified form; empty where the settings are as they were, though
    /// secrets, comments or layout may have changed.
    pub text: String,
    /// Names of the secrets that are new or replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Names of the secrets that were removed: no account names them any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets_removed: Vec<String>,
    /// What comes into force later: what only a start of the service reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A kept generation of settings.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HistoryEntry {
    /// Its number.
    pub generation: u64,
    /// When it was written, RFC 3339.
    pub time: String,
    /// Who changed it.
    pub who: String,
    /// Why.
    pub why: String,
    /// It is the one in force.
    pub active: bool,
}

/// Events after a number, once there are some.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NextEvents {
    /// Those that the query wants, oldest first; none where none came in time.
    pub events: Vec<events::Event>,
    /// The number to ask after next: of the last event looked at, wanted or not.
    pub last_id: u64,
    /// Events that were overwritten before they could be looked at.
    pub missed: u64,
}

/// How a task stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// At work.
    Running,
    /// Ended well.
    Done,
    /// Ended badly; the problem says why. Nothing of it is left.
    Failed,
    /// Ended by request. Nothing of it is left.
    Cancelled,
}

/// Work that takes long.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Task {
    /// Its number.
    pub id: u64,
    /// What it does, for people.
    pub what: String,
    /// How it stands.
    pub state: TaskState,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do; 0 when unknown.
    pub total: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The generation that its end made active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Rises with every change of the fields above.
    pub version: u64,
}

/// What setting up a data directory made, or found.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SetupReport {
    /// Made now; otherwise everything was there and nothing was changed.
    pub created: bool,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The first portal.
    pub portal: Option<SocketAddr>,
    /// The first target.
    pub target: Option<String>,
    /// The account that initiators log in with.
    pub user: Option<String>,
    /// The file that holds the secrets.
    pub secrets_file: PathBuf,
    /// The socket that `sanctum` will talk to.
    pub socket: PathBuf,
    /// Things a person should know: another port was chosen, and so on.
    pub notes: Vec<String>,
}
