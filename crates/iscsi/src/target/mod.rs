//! The target's engine.

mod config;
mod event;
mod policy;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

pub use self::config::Config;
pub use self::event::{
    AbortReason, Cdb, Command, Event, LoginReady, LoginRefused, LoginStart, SessionIdentity,
    SessionType, TaskId, Tmf, Which,
};
pub use self::policy::{Acceptance, Account, Authentication, ChapPolicy, LoginPolicy};
pub use crate::Output;
pub use crate::chap::{Algorithm, Secret};
pub use crate::negotiation::{Digest, Negotiated};
pub use crate::pdu::{LoginStatus, LogoutReason, LogoutStatus, TaskAttribute, TmfFunction, TmfResponse};
use crate::frame::FrameError;

/// The connection is to be dropped; nothing more can be sent on it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fatal {
    /// The stream cannot be cut into PDUs any more.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// The end of a SCSI command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScsiStatus<'a> {
    /// SCSI status byte.
    pub status: u8,
    /// Sense data, at most [`crate::limits::SENSE_BYTES_MAX`] bytes of it are sent.
    pub sense: &'a [u8],
    /// Bytes the CDB's own length asks for, either direction; against EDTL it gives the residual.
    pub transfer: u32,
}

impl ScsiStatus<'_> {
    /// GOOD.
    #[must_use]
    pub const fn good(transfer: u32) -> Self {
        Self { status: 0, sense: &[], transfer }
    }
}

/// A target as SendTargets lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// Its name.
    pub name: String,
    /// `address:port,tag` of each portal, `192.0.2.1:3260,1` or `[2001:db8::1]:3260,1`.
    pub addresses: Vec<String>,
}

/// Something the target tells without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asynchronous<'a> {
    /// A SCSI event on a logical unit.
    Scsi {
        /// Logical unit.
        lun: u64,
        /// Sense data.
        sense: &'a [u8],
    },
    /// The initiator shall log out within so many seconds.
    LogoutRequest {
        /// Seconds.
        seconds: u16,
    },
    /// The target will drop this connection.
    ConnectionDrop {
        /// Seconds before the initiator may come back.
        time2wait: u16,
        /// Seconds for which tasks are kept after that.
        time2retain: u16,
    },
    /// The target will drop all connections of the session.
    SessionDrop {
        /// Seconds before the initiator may come back.
        time2wait: u16,
        /// Seconds for which tasks are kept after that.
        time2retain: u16,
    },
    /// The initiator shall negotiate parameters anew within so many seconds.
    NegotiationRequest {
        /// Seconds.
        seconds: u16,
    },
}

/// One connection's engine; see the module's words.
#[derive(Debug)]
pub struct Connection {
    identity: SessionIdentity,
    negotiated: Negotiated,
}

#[expect(unused_variables, clippy::needless_pass_by_value, clippy::unused_self, reason = "bodies follow")]
impl Connection {
    /// For a connection just accepted.
    #[must_use]
    pub fn new(config: Arc<Config>, now: Instant) -> Self {
        Self { identity: SessionIdentity::default(), negotiated: Negotiated::default() }
    }

    /// Consumes from `input` and returns the next event; `None`: all is consumed, more is needed.
    ///
    /// PDUs that the engine answers by itself (login steps, pings, rejects, text) go to `out`.
    ///
    /// # Errors
    /// [`Fatal`]: drop the connection.
    pub fn next<'b, O: Output>(&mut self, now: Instant, input: &mut &'b [u8], out: &mut O) -> Result<Option<Event<'b>>, Fatal> {
        Ok(None)
    }

    /// Runs the timers; returns when to call again. Also tells the initiator of a window that
    /// opened again, so call it after [`Connection::set_window`] and [`Connection::forget`].
    ///
    /// # Errors
    /// [`Fatal`]: login took too long, or the initiator is silent.
    pub fn tick<O: Output>(&mut self, now: Instant, out: &mut O) -> Result<Option<Instant>, Fatal> {
        Ok(None)
    }

    /// Answers [`Event::LoginStart`]. Events may follow at once: call [`Connection::next`].
    ///
    /// # Errors
    /// [`Fatal`]: there was no such event to answer.
    pub fn login_answer<O: Output>(&mut self, policy: LoginPolicy, out: &mut O) -> Result<(), Fatal> {
        Ok(())
    }

    /// Answers [`Event::LoginReady`]: full feature phase begins. `tsih` is not 0.
    pub fn admit<O: Output>(&mut self, tsih: u16, out: &mut O) {}

    /// Refuses a login at either point; the connection is closing then.
    pub fn refuse<O: Output>(&mut self, status: LoginStatus, out: &mut O) {}

    /// What was agreed on.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Who is on the other side.
    #[must_use]
    pub fn identity(&self) -> &SessionIdentity {
        &self.identity
    }

    /// Whether the login has been admitted.
    #[must_use]
    pub fn full_feature(&self) -> bool {
        false
    }

    /// Whether the connection is to be closed once all output is sent.
    #[must_use]
    pub fn closing(&self) -> bool {
        false
    }

    /// Asks for all data of a write that does not come unsolicited; [`Event::DataComplete`] follows
    /// (through [`Connection::next`], even without further input when all is there already).
    pub fn solicit<O: Output>(&mut self, task: TaskId, out: &mut O) {}

    /// As [`Connection::solicit`], but no more than the first `len` bytes of the data.
    pub fn solicit_len<O: Output>(&mut self, task: TaskId, len: u32, out: &mut O) {}

    /// Sends `payload[range]` as the next data of a read. With a `response` it is the last: GOOD
    /// travels with the data, any other status in a PDU of its own, and the task ends.
    pub fn data_in<O: Output>(&mut self, task: TaskId, payload: O::Payload, range: Range<usize>, response: Option<&ScsiStatus<'_>>, out: &mut O)
    where
        O::Payload: Clone,
    {
    }

    /// Answers a task; the task ends.
    pub fn respond<O: Output>(&mut self, task: TaskId, response: &ScsiStatus<'_>, out: &mut O) {}

    /// The task ends without an answer (it was aborted).
    pub fn forget(&mut self, task: TaskId) {}

    /// Answers [`Event::TaskManagement`].
    pub fn tmf_respond<O: Output>(&mut self, itt: u32, response: TmfResponse, out: &mut O) {}

    /// Answers [`Event::SendTargets`].
    pub fn text_answer<O: Output>(&mut self, listing: &[TargetRecord], out: &mut O) {}

    /// Answers [`Event::Logout`]; the connection is closing then.
    pub fn logout_done<O: Output>(&mut self, status: LogoutStatus, out: &mut O) {}

    /// Commands the initiator may have in flight from now on, at most the configured window. What
    /// was promised before stays promised.
    pub fn set_window(&mut self, credits: u32) {}

    /// Sends an asynchronous message.
    pub fn async_message<O: Output>(&mut self, message: Asynchronous<'_>, out: &mut O) {}

    /// Tasks that have not ended.
    #[must_use]
    pub fn tasks(&self) -> usize {
        0
    }

    /// Write data that is announced and not yet there, over all tasks, in bytes.
    #[must_use]
    pub fn pending_write_bytes(&self) -> u64 {
        0
    }
}
