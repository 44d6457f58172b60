//! What a portal offers and how patient it is.

use std::time::Duration;

use crate::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, WINDOW_MAX};
use crate::negotiation::{Digest, Offer};

/// Offers and limits of a portal or target; one value is shared by its connections.
///
/// The meaning of each key is in [`Offer`]. Values outside the range of their key are brought into
/// it; `max_connections` and `error_recovery_level` are negotiated as 1 and 0 whatever they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Longest data segment we take, in bytes.
    pub max_recv_data_segment_length: u32,
    /// Longest sequence of data, in bytes.
    pub max_burst_length: u32,
    /// Most unsolicited data of a command, in bytes.
    pub first_burst_length: u32,
    /// R2Ts outstanding for one task.
    pub max_outstanding_r2t: u16,
    /// Whether unsolicited Data-Out PDUs are forbidden.
    pub initial_r2t: bool,
    /// Whether a command may bring data along.
    pub immediate_data: bool,
    /// Header digests that are allowed; the initiator's order decides.
    pub header_digest: Vec<Digest>,
    /// Data digests that are allowed; the initiator's order decides.
    pub data_digest: Vec<Digest>,
    /// Connections of a session.
    pub max_connections: u16,
    /// Least seconds before an initiator comes back after a lost connection.
    pub default_time2wait: u16,
    /// Seconds for which tasks outlive a lost connection.
    pub default_time2retain: u16,
    /// Error recovery level.
    pub error_recovery_level: u8,
    /// Commands an initiator may have in flight, 1 to [`WINDOW_MAX`].
    pub command_window: u32,
    /// From the first byte to full feature phase.
    pub login_timeout: Duration,
    /// Login requests in one login.
    pub login_pdus_max: u32,
    /// Text of one text request over all its continuation PDUs, in bytes.
    pub text_bytes_max: usize,
    /// Longest wait for the next data of a write, counted by [`super::Connection::tick`] between its
    /// PDUs; zero: for ever.
    pub data_timeout: Duration,
    /// Silence after which the target pings; zero: never.
    pub nop_interval: Duration,
    /// Silence after a ping that ends the connection.
    pub nop_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let offer = Offer::default();
        Self {
            max_recv_data_segment_length: offer.max_recv_data_segment_length,
            max_burst_length: offer.max_burst_length,
            first_burst_length: offer.first_burst_length,
            max_outstanding_r2t: offer.max_outstanding_r2t,
            initial_r2t: offer.initial_r2t,
            immediate_data: offer.immediate_data,
            header_digest: offer.header_digest,
            data_digest: offer.data_digest,
            max_connections: offer.max_connections,
            default_time2wait: offer.default_time2wait,
            default_time2retain: offer.default_time2retain,
            error_recovery_level: offer.error_recovery_level,
            command_window: 128,
            login_timeout: Duration::from_secs(15),
            login_pdus_max: 64,
            text_bytes_max: 64 * 1024,
            data_timeout: Duration::from_secs(60),
            nop_interval: Duration::from_secs(15),
            nop_timeout: Duration::from_secs(15),
        }
    }
}

impl Config {
    /// The negotiation's share of it.
    #[must_use]
    pub fn offer(&self) -> Offer {
        Offer {
            max_recv_data_segment_length: self.max_recv_data_segment_length,
            max_burst_length: self.max_burst_length,
            first_burst_length: self.first_burst_length,
            max_outstanding_r2t: self.max_outstanding_r2t,
            initial_r2t: self.initial_r2t,
            immediate_data: self.immediate_data,
            header_digest: self.header_digest.clone(),
            data_digest: self.data_digest.clone(),
            max_connections: self.max_connections,
            default_time2wait: self.default_time2wait,
            default_time2retain: self.default_time2retain,
            error_recovery_level: self.error_recovery_level,
        }
        .clamped()
    }

    /// The command window within its range.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.command_window.clamp(1, WINDOW_MAX)
    }
}

const _: () = assert!(SEGMENT_BYTES_MIN < SEGMENT_BYTES_MAX);
