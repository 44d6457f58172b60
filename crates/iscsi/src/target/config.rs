//! What a portal offers and how patient it is.

use std::time::Duration;

use crate::limits::{
    DATA_TIMEOUT, LOGIN_REQUESTS_MAX, LOGIN_TIMEOUT, NOP_INTERVAL, NOP_TIMEOUT, TEXT_BYTES, WINDOW,
    WINDOW_MAX,
};
use crate::negotiation::Offer;

/// Offers and limits of a portal or target; one value is shared by its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is offered for the operational keys. Values outside the range of their key are brought
    /// into it; the allowed digests are chosen from in the initiator's order.
    pub offer: Offer,
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
        Self {
            offer: Offer::default(),
            command_window: WINDOW,
            login_timeout: LOGIN_TIMEOUT,
            login_pdus_max: LOGIN_REQUESTS_MAX,
            text_bytes_max: TEXT_BYTES,
            data_timeout: DATA_TIMEOUT,
            nop_interval: NOP_INTERVAL,
            nop_timeout: NOP_TIMEOUT,
        }
    }
}

impl Config {
    /// The command window within its range.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.command_window.clamp(1, WINDOW_MAX)
    }
}
