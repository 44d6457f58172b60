//! What the service tells about itself: plain data for listings.

use std::net::SocketAddr;
use std::path::PathBuf;

use disk::CacheMode;
use serde::{Deserialize, Serialize};

/// The service as a whole.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Shards running.
    pub shards: usize,
    /// The I/O driver in use: `io_uring` or `epoll`.
    pub ring: String,
    /// Why io_uring is not used, where it is not.
    pub ring_reason: Option<String>,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Sessions now.
    pub sessions: usize,
    /// Notices that found no room on their way to the admin floor.
    pub notices_dropped: u64,
}

/// One session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionInfo {
    /// Target session identifying handle: names the session in commands.
    pub tsih: u16,
    /// Initiator name.
    pub initiator: String,
    /// Initiator session identifier, as 12 hexadecimal digits.
    pub isid: String,
    /// Target name.
    pub target: String,
    /// Portal it came in through.
    pub portal: String,
    /// Address of the initiator.
    pub peer: SocketAddr,
    /// CHAP user, where one was asked for.
    pub user: Option<String>,
    /// Whether headers carry CRC32C.
    pub header_digest: bool,
    /// Whether data carries CRC32C.
    pub data_digest: bool,
    /// LUN numbers it sees.
    pub luns: Vec<u16>,
    /// Shard that serves it.
    pub shard: usize,
    /// Seconds since login.
    pub age_seconds: u64,
    /// Commands so far.
    pub commands: u64,
    /// Bytes sent to the initiator.
    pub bytes_read: u64,
    /// Bytes received from it.
    pub bytes_written: u64,
}

/// State of a device.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum DeviceState {
    /// In use.
    Ready,
    /// Not usable, and why.
    NotReady {
        /// In words.
        reason: String,
    },
    /// A RAM disk whose contents ended with an earlier process; `load` accepts it as blank.
    Empty,
    /// The medium of a removable device is out.
    Ejected,
}

/// One device.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// `image`, `block`, `ram` or `iso`.
    pub kind: String,
    /// File or device node.
    pub path: Option<PathBuf>,
    /// Bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// State.
    #[serde(flatten)]
    pub state: DeviceState,
    /// Cache mode in force.
    pub cache: CacheMode,
    /// What is not as its settings would have it, one sentence each: a cache mode that the file
    /// system does not give in full, a file longer than the device, or that it is gone or a flush of it
    /// has failed, and it has to be loaded anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Serial number told to initiators.
    pub serial: String,
    /// NAA identifier told to initiators, hexadecimal.
    pub naa: String,
    /// Persistent reservations.
    pub reservations: ReservationInfo,
    /// Commands running now.
    pub running: usize,
    /// Counters since the service opened it.
    pub counters: DeviceCounters,
}

/// Counters of a device.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct DeviceCounters {
    /// Read commands.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Write commands.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Operations that the disk failed.
    pub errors: u64,
}

/// Persistent reservations of a device.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ReservationInfo {
    /// PRGENERATION.
    pub generation: u32,
    /// Kept over a restart (APTPL).
    pub persistent: bool,
    /// Reservation type in words, where there is a reservation.
    pub kind: Option<String>,
    /// Initiator that holds it; none for the All Registrants types.
    pub holder: Option<String>,
    /// Registered initiator ports: name, ISID in hexadecimal, portal group. Keys are not shown.
    pub registrations: Vec<(String, String, u16)>,
}

/// One portal.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PortalInfo {
    /// Its name.
    pub name: String,
    /// Address and port.
    pub address: SocketAddr,
    /// Target portal group tag.
    pub group: u16,
    /// Told to listen.
    pub enabled: bool,
    /// Does listen.
    pub listening: bool,
    /// Connections now.
    pub connections: usize,
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
