//! What an initiator sends: commands with their data, functions, pings, text, logout.

use std::ops::Range;

use thiserror::Error;

use super::connection::{Connection, Fatal};
use super::tasks::{CommandTask, Pending};
use crate::Output;
use crate::command::{Cdb, TaskId};
use crate::frame;
use crate::pdu::{
    DataOut, FINAL, LogoutReason, LogoutRequest, NO_TAG, NopOut, READ, ReadyToTransfer,
    ScsiCommand, TaskAttribute, TaskManagement, TextRequest, TmfFunction, WRITE,
};
use crate::serial;
use crate::text;

/// A SCSI command to be sent.
#[derive(Clone, Debug)]
pub struct Request<P> {
    /// Logical unit, as SAM writes it.
    pub lun: u64,
    /// The CDB.
    pub cdb: Cdb,
    /// Ordering among tasks.
    pub attribute: TaskAttribute,
    /// Data to write: `payload[range]`.
    pub data: Option<(P, Range<usize>)>,
    /// Bytes to read at most; beside `data`, the command is bidirectional.
    pub read_len: u32,
}

impl<P> Request<P> {
    /// A command without data.
    #[must_use]
    pub const fn new(lun: u64, cdb: Cdb) -> Self {
        Self {
            lun,
            cdb,
            attribute: TaskAttribute::Simple,
            data: None,
            read_len: 0,
        }
    }

    /// A command that reads up to `len` bytes.
    #[must_use]
    pub const fn read(lun: u64, cdb: Cdb, len: u32) -> Self {
        Self {
            lun,
            cdb,
            attribute: TaskAttribute::Simple,
            data: None,
            read_len: len,
        }
    }

    /// A command that writes `payload[range]`.
    #[must_use]
    pub const fn write(lun: u64, cdb: Cdb, payload: P, range: Range<usize>) -> Self {
        let data = Some((payload, range));
        Self {
            lun,
            cdb,
            attribute: TaskAttribute::Simple,
            data,
            read_len: 0,
        }
    }
}

/// Why something was not sent. Nothing has changed; it may be tried again later.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// Not logged in, or closing.
    #[error("not in full feature phase")]
    NotReady,
    /// The target takes no more commands now; an answer to one in flight opens the window.
    #[error("the command window is closed")]
    WindowClosed,
    /// As many requests are in flight as the engine keeps.
    #[error("too many requests in flight")]
    TooMany,
    /// The range of write data is not inside its payload, or above 4 GiB.
    #[error("the write data's range is not inside its payload")]
    Range,
    /// The named task is not a command in flight.
    #[error("no such command in flight")]
    NoSuchTask,
}

impl<P: AsRef<[u8]> + Clone> Connection<P> {
    /// Sends a command, with as much of its data as may go along. Ends with
    /// [`super::Event::Done`].
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent then.
    pub fn send_command<O: Output<Payload = P>>(
        &mut self,
        request: Request<P>,
        out: &mut O,
    ) -> Result<TaskId, SubmitError> {
        if !self.full_feature() {
            return Err(SubmitError::NotReady);
        }
        if self.room() == 0 {
            return Err(SubmitError::WindowClosed);
        }
        let Request {
            lun,
            cdb,
            attribute,
            data,
            read_len,
        } = request;
        let write_len = match &data {
            None => 0,
            Some((payload, range)) => {
                let data = payload
                    .as_ref()
                    .get(range.clone())
                    .ok_or(SubmitError::Range)?;
                u32::try_from(data.len()).map_err(|_| SubmitError::Range)?
            }
        };
        let data = data.filter(|_| write_len > 0);
        let task = CommandTask {
            lun,
            cmd_sn: self.cmd_sn,
            data,
            read_len,
            received: 0,
            data_sn: 0,
            r2t_sn: 0,
        };
        let id = self
            .tasks
            .insert(Pending::Command(task))
            .ok_or(SubmitError::TooMany)?;
        self.send_command_pdus(id, &cdb, attribute, write_len, out);
        Ok(id)
    }

    /// The command and its immediate and unsolicited data.
    fn send_command_pdus<O: Output<Payload = P>>(
        &mut self,
        id: TaskId,
        cdb: &Cdb,
        attribute: TaskAttribute,
        write_len: u32,
        out: &mut O,
    ) {
        let Some(task) = self.tasks.command(id) else {
            return;
        };
        let (lun, read_len, data) = (task.lun, task.read_len, task.data.clone());
        let first_burst = self.negotiated.first_burst_length.min(write_len);
        let immediate = if self.negotiated.immediate_data {
            first_burst.min(self.negotiated.max_send_data_segment_length)
        } else {
            0
        };
        let unsolicited = !self.negotiated.initial_r2t && immediate < first_burst;
        let mut flags = attribute.to_flags();
        flags |= if unsolicited { 0 } else { FINAL };
        flags |= if read_len > 0 { READ } else { 0 };
        flags |= if write_len > 0 { WRITE } else { 0 };
        let bytes = cdb.as_bytes();
        let header = ScsiCommand {
            immediate: false,
            flags,
            lun,
            itt: id.to_bits(),
            edtl: if write_len > 0 { write_len } else { read_len },
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            cdb: bytes.first_chunk().copied().unwrap_or_default(),
        }
        .encode();
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        let bidi_read_len = if write_len > 0 { read_len } else { 0 };
        let ahs = additional(bytes.get(16..).unwrap_or_default(), bidi_read_len);
        match data {
            Some((payload, range)) => {
                let part = part(&range, 0, immediate);
                frame::send_payload(header, &ahs, payload, part, self.digests, out);
            }
            None => frame::send_ahs(header, &ahs, self.digests, out),
        }
        if unsolicited {
            let rest = first_burst.saturating_sub(immediate);
            self.send_data_out(id, NO_TAG, immediate, rest, out);
        }
    }

    /// One sequence of Data-Out PDUs: `len` bytes from `offset`.
    fn send_data_out<O: Output<Payload = P>>(
        &mut self,
        id: TaskId,
        ttt: u32,
        offset: u32,
        len: u32,
        out: &mut O,
    ) {
        let exp_stat_sn = self.exp_stat_sn();
        let max = self.negotiated.max_send_data_segment_length;
        let digests = self.digests;
        let Some(task) = self.tasks.command(id) else {
            return;
        };
        let Some((payload, range)) = &task.data else {
            return;
        };
        let end = offset.saturating_add(len);
        let mut at = offset;
        let mut data_sn = 0_u32;
        while at < end {
            let size = end.saturating_sub(at).min(max);
            let last = at.saturating_add(size) >= end;
            let header = DataOut {
                flags: if last { FINAL } else { 0 },
                lun: if ttt == NO_TAG { 0 } else { task.lun },
                itt: id.to_bits(),
                ttt,
                exp_stat_sn,
                data_sn,
                buffer_offset: at,
            }
            .encode();
            frame::send_payload(
                header,
                &[],
                payload.clone(),
                part(range, at, size),
                digests,
                out,
            );
            at = at.saturating_add(size);
            data_sn = data_sn.wrapping_add(1);
        }
    }

    /// Answers an R2T from the command's payload.
    pub(super) fn ready_to_transfer<O: Output<Payload = P>>(
        &mut self,
        r2t: &ReadyToTransfer,
        out: &mut O,
    ) -> Result<(), Fatal> {
        let id = TaskId::from_bits(r2t.itt);
        let max_burst = self.negotiated.max_burst_length;
        let Some(task) = self.tasks.command(id) else {
            // For a command given up meanwhile.
            return Ok(());
        };
        let len = task.data.as_ref().map_or(0, |(_, range)| range.len());
        let end = u64::from(r2t.buffer_offset).saturating_add(u64::from(r2t.desired_len));
        if r2t.ttt == NO_TAG || r2t.r2t_sn != task.r2t_sn {
            return Err(Fatal::ReadyToTransfer("its number or tag is wrong"));
        }
        if r2t.desired_len == 0 || r2t.desired_len > max_burst {
            return Err(Fatal::ReadyToTransfer(
                "it asks for nothing or for more than a burst",
            ));
        }
        if usize::try_from(end).map_or(true, |end| end > len) {
            return Err(Fatal::ReadyToTransfer(
                "it asks for more than the command has",
            ));
        }
        task.r2t_sn = task.r2t_sn.wrapping_add(1);
        self.send_data_out(id, r2t.ttt, r2t.buffer_offset, r2t.desired_len, out);
        Ok(())
    }

    /// Sends a task management function, past the command window. Ends with
    /// [`super::Event::Function`]; commands that it ended without an answer are the caller's to
    /// [`Connection::forget`].
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent then.
    pub fn send_function<O: Output<Payload = P>>(
        &mut self,
        function: TmfFunction,
        lun: u64,
        referenced: Option<TaskId>,
        out: &mut O,
    ) -> Result<TaskId, SubmitError> {
        if !self.full_feature() {
            return Err(SubmitError::NotReady);
        }
        let (referenced_itt, ref_cmd_sn) = match referenced {
            None => (NO_TAG, 0),
            Some(task) => {
                let command = self.tasks.command(task).ok_or(SubmitError::NoSuchTask)?;
                (task.to_bits(), command.cmd_sn)
            }
        };
        let id = self
            .tasks
            .insert(Pending::Function)
            .ok_or(SubmitError::TooMany)?;
        let pdu = TaskManagement {
            immediate: true,
            flags: FINAL | function.to_wire(),
            lun,
            itt: id.to_bits(),
            referenced_itt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            ref_cmd_sn,
            exp_data_sn: 0,
        };
        self.send(pdu.encode(), &[], out);
        Ok(id)
    }

    /// Gives a command up; what still comes for it is dropped. Only after the target has answered
    /// a function that ended it may its payload be used again.
    pub fn forget(&mut self, task: TaskId) {
        if self.tasks.command(task).is_some() {
            self.tasks.remove(task);
        }
    }

    /// Pings the target; data beyond what it takes is left out. Ends with [`super::Event::Pong`].
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent then.
    pub fn ping<O: Output<Payload = P>>(
        &mut self,
        data: &[u8],
        out: &mut O,
    ) -> Result<TaskId, SubmitError> {
        if !self.full_feature() {
            return Err(SubmitError::NotReady);
        }
        let pending = Pending::Ping { own: false };
        let id = self.tasks.insert(pending).ok_or(SubmitError::TooMany)?;
        let data = data.get(..self.max_send()).unwrap_or(data);
        self.send_ping(id, data, out);
        Ok(id)
    }

    pub(super) fn send_ping<O: Output<Payload = P>>(&self, task: TaskId, data: &[u8], out: &mut O) {
        let pdu = NopOut {
            immediate: true,
            flags: FINAL,
            lun: 0,
            itt: task.to_bits(),
            ttt: NO_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        };
        self.send(pdu.encode(), data, out);
    }

    /// Asks for targets: `All`, a name, or (in a normal session) the empty string for the target
    /// itself. Ends with [`super::Event::Targets`].
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent then.
    pub fn send_targets<O: Output<Payload = P>>(
        &mut self,
        which: &str,
        out: &mut O,
    ) -> Result<TaskId, SubmitError> {
        if !self.full_feature() {
            return Err(SubmitError::NotReady);
        }
        if serial::after(self.cmd_sn, self.max_cmd_sn) {
            return Err(SubmitError::WindowClosed);
        }
        let id = self
            .tasks
            .insert(Pending::Text(Vec::new()))
            .ok_or(SubmitError::TooMany)?;
        let mut data = Vec::new();
        text::push(&mut data, "SendTargets", which);
        self.send_text(id, 0, NO_TAG, &data, out);
        Ok(id)
    }

    pub(super) fn send_text<O: Output<Payload = P>>(
        &mut self,
        task: TaskId,
        lun: u64,
        ttt: u32,
        data: &[u8],
        out: &mut O,
    ) {
        // What continues an exchange goes past the window, so that it cannot get stuck.
        let immediate = ttt != NO_TAG;
        let pdu = TextRequest {
            immediate,
            flags: FINAL,
            lun,
            itt: task.to_bits(),
            ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        };
        if !immediate {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        self.send(pdu.encode(), data, out);
    }

    /// Logs out. Ends with [`super::Event::LoggedOut`]; nothing is to be sent until then.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent then.
    pub fn logout<O: Output<Payload = P>>(
        &mut self,
        reason: LogoutReason,
        cid: u16,
        out: &mut O,
    ) -> Result<TaskId, SubmitError> {
        if !self.full_feature() {
            return Err(SubmitError::NotReady);
        }
        let id = self
            .tasks
            .insert(Pending::Logout)
            .ok_or(SubmitError::TooMany)?;
        let pdu = LogoutRequest {
            immediate: true,
            flags: FINAL | reason.to_wire(),
            itt: id.to_bits(),
            cid,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        };
        self.send(pdu.encode(), &[], out);
        Ok(id)
    }
}

/// `len` bytes from `offset` of a command's data, as a range of its payload.
fn part(range: &Range<usize>, offset: u32, len: u32) -> Range<usize> {
    let start = range
        .start
        .saturating_add(usize::try_from(offset).unwrap_or(usize::MAX));
    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
    start.min(range.end)..end.min(range.end)
}

/// Additional header segments for the rest of a long CDB and a bidirectional read length.
fn additional(cdb_rest: &[u8], bidi_read_len: u32) -> Vec<u8> {
    let mut ahs = Vec::new();
    if !cdb_rest.is_empty() {
        let len = u16::try_from(cdb_rest.len().saturating_add(1)).unwrap_or(0);
        ahs.extend_from_slice(&len.to_be_bytes());
        ahs.extend_from_slice(&[1, 0]);
        ahs.extend_from_slice(cdb_rest);
        ahs.resize(ahs.len().next_multiple_of(4), 0);
    }
    if bidi_read_len > 0 {
        ahs.extend_from_slice(&[0, 5, 2, 0]);
        ahs.extend_from_slice(&bidi_read_len.to_be_bytes());
    }
    ahs
}
