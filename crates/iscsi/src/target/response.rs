//! What the service sends: data, status, task management answers, messages.

use std::ops::Range;

use super::connection::Connection;
use super::session::Task;
use crate::Output;
use crate::command::TaskId;
use crate::frame;
use crate::limits::SENSE_BYTES_MAX;
use crate::pdu::{
    AsyncEvent, AsyncMessage, BIDI_OVERFLOW, BIDI_UNDERFLOW, DataIn, FINAL, LogoutResponse,
    LogoutStatus, NO_TAG, OVERFLOW, STATUS, ScsiResponse, TaskManagementResponse, TmfResponse,
    UNDERFLOW,
};

/// SCSI status GOOD.
const GOOD: u8 = 0;

/// The end of a SCSI command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScsiStatus<'a> {
    /// SCSI status byte.
    pub status: u8,
    /// Sense data; at most [`SENSE_BYTES_MAX`] bytes of it are sent.
    pub sense: &'a [u8],
    /// Bytes that the CDB's own length asks for, in either direction. Against EDTL (and against
    /// what was sent of a read) it gives the residual.
    pub transfer: u32,
}

impl ScsiStatus<'_> {
    /// GOOD.
    #[must_use]
    pub const fn good(transfer: u32) -> Self {
        Self {
            status: GOOD,
            sense: &[],
            transfer,
        }
    }
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

/// Residual flags and counts of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Residual {
    flags: u8,
    count: u32,
    bidi_count: u32,
}

/// Compares what the initiator expects with what the CDB asks for, and for a read also with what
/// was sent.
fn residual(task: &Task, transfer: u32) -> Residual {
    let bidirectional = task.write && task.read_len > 0;
    let reads = task.read_len > 0 && !task.write;
    let moved = if reads { task.sent } else { transfer };
    let (flags, count) = if transfer > task.edtl {
        (OVERFLOW, transfer.saturating_sub(task.edtl))
    } else if moved < task.edtl {
        (UNDERFLOW, task.edtl.saturating_sub(moved))
    } else {
        (0, 0)
    };
    let bidi_count = if bidirectional {
        task.read_len.saturating_sub(task.sent)
    } else {
        0
    };
    let bidi = if bidi_count > 0 { BIDI_UNDERFLOW } else { 0 };
    debug_assert_eq!(
        flags & BIDI_OVERFLOW,
        0,
        "what is sent never exceeds what is taken"
    );
    Residual {
        flags: flags | bidi,
        count,
        bidi_count,
    }
}

impl Connection {
    /// Sends `payload[range]` as the next data of a read, cut to what the initiator takes.
    ///
    /// Data beyond what the initiator expects is left out. With a `response` it is the last call
    /// for this task: GOOD travels with the data, any other status in a PDU of its own, and the
    /// task ends. For a task that has ended nothing happens.
    pub fn data_in<O: Output>(
        &mut self,
        task: TaskId,
        payload: O::Payload,
        range: Range<usize>,
        response: Option<&ScsiStatus<'_>>,
        out: &mut O,
    ) where
        O::Payload: Clone,
    {
        let end = range.end.min(payload.as_ref().len());
        let Some((start, end)) = self.session.get(task).map(|task| {
            let room = usize::try_from(task.read_len.saturating_sub(task.sent)).unwrap_or(0);
            (range.start, end.min(range.start.saturating_add(room)))
        }) else {
            return;
        };
        let collapse = response.filter(|response| {
            let bidirectional = self.session.get(task).is_some_and(|task| task.write);
            response.status == GOOD && response.sense.is_empty() && !bidirectional && end > start
        });
        let mut at = start;
        let mut burst = 0_usize;
        let max_burst = usize::try_from(self.negotiated.max_burst_length).unwrap_or(usize::MAX);
        while at < end {
            let room = max_burst.saturating_sub(burst);
            let len = end.saturating_sub(at).min(self.max_send()).min(room);
            let next = at.saturating_add(len);
            burst = burst.saturating_add(len);
            let last = next >= end;
            let status = if last { collapse } else { None };
            let closes = last || burst >= max_burst;
            self.send_data_in(task, payload.clone(), at..next, closes, status, out);
            burst = if closes { 0 } else { burst };
            at = next;
        }
        match response {
            Some(_) if collapse.is_some() => {
                self.session.remove(task);
            }
            Some(response) => self.respond(task, response, out),
            None => {}
        }
    }

    /// One Data-In PDU.
    fn send_data_in<O: Output>(
        &mut self,
        id: TaskId,
        payload: O::Payload,
        range: Range<usize>,
        closes: bool,
        status: Option<&ScsiStatus<'_>>,
        out: &mut O,
    ) {
        let len = u32::try_from(range.len()).unwrap_or(0);
        let Some(mut data) = self.session.with(id, |task| {
            let data_sn = task.data_sn;
            let buffer_offset = task.sent;
            task.data_sn = data_sn.wrapping_add(1);
            task.sent = task.sent.saturating_add(len);
            let residual = status.map_or_else(Residual::default, |s| residual(task, s.transfer));
            DataIn {
                flags: if closes { FINAL | residual.flags } else { 0 },
                lun: task.lun,
                itt: task.itt,
                ttt: NO_TAG,
                data_sn,
                buffer_offset,
                residual: residual.count,
                ..DataIn::default()
            }
        }) else {
            return;
        };
        if status.is_some() {
            data.flags |= STATUS;
            data.stat_sn = self.advance_stat_sn();
            // Its slot is free again with this PDU.
            self.session.remove(id);
        }
        (data.exp_cmd_sn, data.max_cmd_sn) = self.session.window();
        frame::send_payload(data.encode(), &[], payload, range, self.digests, out);
    }

    /// Answers a task; the task ends. For one that has ended nothing happens.
    pub fn respond<O: Output>(&mut self, task: TaskId, response: &ScsiStatus<'_>, out: &mut O) {
        let Some(mut pdu) = self.session.get(task).map(|task| {
            let residual = residual(task, response.transfer);
            ScsiResponse {
                flags: FINAL | residual.flags,
                response: 0,
                status: response.status,
                itt: task.itt,
                exp_data_sn: task.data_sn.wrapping_add(task.r2t_sn),
                bidi_residual: residual.bidi_count,
                residual: residual.count,
                ..ScsiResponse::default()
            }
        }) else {
            return;
        };
        self.session.remove(task);
        pdu.stat_sn = self.advance_stat_sn();
        (pdu.exp_cmd_sn, pdu.max_cmd_sn) = self.session.window();
        self.send(pdu.encode(), &self.sense_segment(response.sense), out);
    }

    /// Sense data behind its length, as long as the initiator takes.
    fn sense_segment(&self, sense: &[u8]) -> Vec<u8> {
        if sense.is_empty() {
            return Vec::new();
        }
        let most = SENSE_BYTES_MAX.min(self.max_send().saturating_sub(2));
        let sense = sense.get(..most).unwrap_or(sense);
        let len = u16::try_from(sense.len()).unwrap_or(0);
        [len.to_be_bytes().as_slice(), sense].concat()
    }

    /// The task ends without an answer (it was aborted). Data that still comes for it is dropped.
    pub fn forget(&mut self, task: TaskId) {
        self.session.remove(task);
    }

    /// Answers [`super::Event::TaskManagement`].
    pub fn tmf_respond<O: Output>(&mut self, itt: u32, response: TmfResponse, out: &mut O) {
        self.functions = self.functions.saturating_sub(1);
        self.send_tmf_response(itt, response, out);
    }

    pub(super) fn send_tmf_response<O: Output>(
        &mut self,
        itt: u32,
        response: TmfResponse,
        out: &mut O,
    ) {
        let stat_sn = self.advance_stat_sn();
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let pdu = TaskManagementResponse {
            flags: FINAL,
            response: response.to_wire(),
            itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.send(pdu.encode(), &[], out);
    }

    /// Answers [`super::Event::Logout`]; the connection is closing then. Without one nothing
    /// happens.
    pub fn logout_done<O: Output>(&mut self, status: LogoutStatus, out: &mut O) {
        if let Some(itt) = self.logout.take() {
            self.send_logout_response(itt, status, out);
            self.close();
        }
    }

    pub(super) fn send_logout_response<O: Output>(
        &mut self,
        itt: u32,
        status: LogoutStatus,
        out: &mut O,
    ) {
        let stat_sn = self.advance_stat_sn();
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let pdu = LogoutResponse {
            flags: FINAL,
            response: status.to_wire(),
            itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            time2wait: self.negotiated.default_time2wait,
            time2retain: self.negotiated.default_time2retain,
        };
        self.send(pdu.encode(), &[], out);
    }

    /// Commands the initiator may have in flight from now on, at most the configured window. What
    /// was promised before stays promised: the window shrinks by not advancing. Call
    /// [`Connection::tick`] after raising it.
    pub fn set_window(&mut self, credits: u32) {
        self.session.set_credits(credits);
    }

    /// Sends an asynchronous message. In any other phase than full feature, nothing is sent.
    pub fn async_message<O: Output>(&mut self, message: Asynchronous<'_>, out: &mut O) {
        if !self.full_feature() {
            return;
        }
        let cid = self.identity.cid;
        let (event, lun, parameters) = match message {
            Asynchronous::Scsi { lun, .. } => (AsyncEvent::Scsi, lun, (0, 0, 0)),
            Asynchronous::LogoutRequest { seconds } => {
                (AsyncEvent::LogoutRequest, 0, (0, 0, seconds))
            }
            Asynchronous::ConnectionDrop {
                time2wait,
                time2retain,
            } => (AsyncEvent::ConnectionDrop, 0, (cid, time2wait, time2retain)),
            Asynchronous::SessionDrop {
                time2wait,
                time2retain,
            } => (AsyncEvent::SessionDrop, 0, (0, time2wait, time2retain)),
            Asynchronous::NegotiationRequest { seconds } => {
                (AsyncEvent::NegotiationRequest, 0, (0, 0, seconds))
            }
        };
        let stat_sn = self.advance_stat_sn();
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let pdu = AsyncMessage {
            flags: FINAL,
            lun,
            itt: NO_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            event: event.to_wire(),
            vendor_code: 0,
            parameter1: parameters.0,
            parameter2: parameters.1,
            parameter3: parameters.2,
        };
        let data = match message {
            Asynchronous::Scsi { sense, .. } => self.sense_segment(sense),
            _ => Vec::new(),
        };
        self.send(pdu.encode(), &data, out);
    }
}
