//! What the service tells the admin floor: typed, with a stable code.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

/// How much it matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Something may need a look.
    Warning,
    /// Something does not work.
    Error,
}

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "notice", rename_all = "kebab-case")]
pub enum Notice {
    /// An initiator logged in.
    SessionOpened {
        /// Its name.
        initiator: String,
        /// The target.
        target: String,
        /// Where it came from.
        peer: SocketAddr,
    },
    /// A session ended.
    SessionClosed {
        /// Initiator name.
        initiator: String,
        /// The target.
        target: String,
        /// Why, in words.
        reason: String,
    },
    /// A login was refused.
    LoginRefused {
        /// The name it gave, if any.
        initiator: String,
        /// The target it asked for, if any.
        target: String,
        /// Where it came from.
        peer: SocketAddr,
        /// Why, in words.
        reason: String,
    },
    /// Connections were closed, or discovery refused, at a bound.
    ConnectionsRefused {
        /// How many since this was last told.
        count: u64,
        /// Where the last one came from.
        peer: SocketAddr,
        /// Why, in words.
        reason: String,
    },
    /// A part of the data path ended; the others go on.
    ShardFailed {
        /// Its number.
        shard: String,
        /// Why, in words.
        reason: String,
    },
    /// A device cannot be used; its LUN is NOT READY.
    DeviceFailed {
        /// The device.
        device: String,
        /// Why, in words.
        reason: String,
    },
    /// A device can be used (again).
    DeviceReady {
        /// The device.
        device: String,
    },
    /// A physical disk has grown; its initiators are told.
    DeviceGrown {
        /// The device.
        device: String,
        /// Its size now, in bytes.
        bytes: u64,
    },
    /// A write found no space under a thin device.
    NoSpace {
        /// The device.
        device: String,
    },
    /// A disk returned an error.
    DiskError {
        /// The device.
        device: String,
        /// What it said.
        error: String,
    },
    /// Persistent reservations of a device changed by preemption or clearing.
    ReservationPreempted {
        /// The device.
        device: String,
        /// Who did it.
        initiator: String,
    },
    /// A LUN was reset by an initiator.
    LunReset {
        /// The device.
        device: String,
        /// Who did it.
        initiator: String,
    },
    /// Commands did not end within the bound; the LUN is NOT READY until they do.
    DeviceStuck {
        /// The device.
        device: String,
    },
    /// After an unclean stop of the host, or when a device is opened anew whose cache was lost,
    /// initiators that had written are told so.
    WritesInDoubt {
        /// The device.
        device: String,
        /// How many initiator ports.
        writers: usize,
    },
    /// A portal that could not listen does now.
    PortalListens {
        /// The portal.
        portal: String,
    },
    /// A portal stopped listening.
    PortalFailed {
        /// The portal.
        portal: String,
        /// Why, in words.
        reason: String,
    },
}

impl Notice {
    /// A stable word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SessionOpened { .. } => "session-opened",
            Self::SessionClosed { .. } => "session-closed",
            Self::LoginRefused { .. } => "login-refused",
            Self::ConnectionsRefused { .. } => "connections-refused",
            Self::ShardFailed { .. } => "shard-failed",
            Self::DeviceFailed { .. } => "device-failed",
            Self::DeviceReady { .. } => "device-ready",
            Self::DeviceGrown { .. } => "device-grown",
            Self::NoSpace { .. } => "device-no-space",
            Self::DiskError { .. } => "device-disk-error",
            Self::ReservationPreempted { .. } => "reservation-preempted",
            Self::LunReset { .. } => "lun-reset",
            Self::DeviceStuck { .. } => "device-stuck",
            Self::WritesInDoubt { .. } => "device-writes-in-doubt",
            Self::PortalFailed { .. } => "portal-failed",
            Self::PortalListens { .. } => "portal-listens",
        }
    }

    /// How much it matters.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::SessionOpened { .. }
            | Self::SessionClosed { .. }
            | Self::DeviceReady { .. }
            | Self::DeviceGrown { .. }
            | Self::PortalListens { .. } => Severity::Info,
            Self::LoginRefused { .. }
            | Self::ConnectionsRefused { .. }
            | Self::ReservationPreempted { .. }
            | Self::LunReset { .. }
            | Self::WritesInDoubt { .. } => Severity::Warning,
            Self::DeviceFailed { .. }
            | Self::ShardFailed { .. }
            | Self::NoSpace { .. }
            | Self::DiskError { .. }
            | Self::DeviceStuck { .. }
            | Self::PortalFailed { .. } => Severity::Error,
        }
    }

    /// What it is about: a device, a target, a portal.
    pub fn subject(&self) -> &str {
        match self {
            Self::SessionOpened { target, .. }
            | Self::SessionClosed { target, .. }
            | Self::LoginRefused { target, .. } => target,
            Self::DeviceFailed { device, .. }
            | Self::DeviceReady { device }
            | Self::DeviceGrown { device, .. }
            | Self::NoSpace { device }
            | Self::DiskError { device, .. }
            | Self::ReservationPreempted { device, .. }
            | Self::LunReset { device, .. }
            | Self::DeviceStuck { device }
            | Self::WritesInDoubt { device, .. } => device,
            Self::PortalFailed { portal, .. } | Self::PortalListens { portal } => portal,
            Self::ConnectionsRefused { .. } => "",
            Self::ShardFailed { shard, .. } => shard,
        }
    }

    /// What a person can do about it, where there is something.
    pub const fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::LoginRefused { .. } => Some(
                "check the initiator's name, address and CHAP secret against the target's access rules and accounts",
            ),
            Self::DeviceFailed { .. } => Some("put the device right, then load it"),
            Self::NoSpace { .. } => Some("free space on the file system that holds the image"),
            Self::DiskError { .. } => Some(
                "look at the disk under the device and at the system log; if it is gone, or a flush failed, load it once it is right",
            ),
            Self::DeviceStuck { .. } => {
                Some("look at the disk under the device and at the system log")
            }
            Self::WritesInDoubt { .. } => {
                Some("check the file systems on this LUN: unflushed writes may be missing")
            }
            Self::ConnectionsRefused { .. } => Some(
                "look at what opens connections there and leaves them; keep strangers off the portals' network",
            ),
            Self::ShardFailed { .. } => Some(
                "restart the service when it suits: it goes on with fewer cores, and LUNs that had commands on the disk stay not ready",
            ),
            Self::PortalFailed { .. } => Some("check that the address exists and the port is free"),
            Self::SessionOpened { .. }
            | Self::SessionClosed { .. }
            | Self::DeviceReady { .. }
            | Self::DeviceGrown { .. }
            | Self::PortalListens { .. }
            | Self::ReservationPreempted { .. }
            | Self::LunReset { .. } => None,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SessionOpened {
                initiator, peer, ..
            } => {
                write!(f, "{initiator} logged in from {peer}")
            }
            Self::SessionClosed {
                initiator, reason, ..
            } => {
                write!(f, "the session of {initiator} ended: {reason}")
            }
            Self::LoginRefused {
                initiator,
                peer,
                reason,
                ..
            } => {
                write!(f, "login of {initiator} from {peer} refused: {reason}")
            }
            Self::ConnectionsRefused {
                count,
                peer,
                reason,
            } => write!(
                f,
                "{count} connections were turned away, the last one from {peer}: {reason}"
            ),
            Self::ShardFailed { shard, reason } => {
                write!(f, "shard {shard} of the data path has ended: {reason}")
            }
            Self::DeviceFailed { device, reason } => {
                write!(f, "device {device} is not ready: {reason}")
            }
            Self::DeviceReady { device } => write!(f, "device {device} is ready"),
            Self::DeviceGrown { device, bytes } => {
                write!(f, "device {device} has grown to {bytes} bytes")
            }
            Self::NoSpace { device } => {
                write!(
                    f,
                    "device {device}: no space left for a write; it was refused"
                )
            }
            Self::DiskError { device, error } => write!(f, "device {device}: {error}"),
            Self::ReservationPreempted { device, initiator } => {
                write!(
                    f,
                    "{initiator} ended reservations or registrations of device {device}"
                )
            }
            Self::LunReset { device, initiator } => {
                write!(f, "{initiator} reset device {device}")
            }
            Self::DeviceStuck { device } => write!(
                f,
                "device {device}: commands do not end; its LUN is not ready until they do"
            ),
            Self::WritesInDoubt { device, writers } => write!(
                f,
                "device {device}: what was in its cache was not made stable; {writers} initiator ports will be told that writes may be missing"
            ),
            Self::PortalListens { portal } => write!(f, "portal {portal} listens"),
            Self::PortalFailed { portal, reason } => {
                write!(f, "portal {portal} does not listen: {reason}")
            }
        }
    }
}
