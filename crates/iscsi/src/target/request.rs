//! Requests of the full feature phase, from their headers.

use super::connection::{Connection, Fatal, Incoming};
use super::data::Transfer;
use super::event::{AbortReason, Command, Event, Tmf};
use super::session::Order;
use crate::Output;
use crate::command::{Cdb, TaskId};
use crate::limits::IMMEDIATE_TASKS_MAX;
use crate::pdu::{
    FINAL, Header, LogoutReason, LogoutRequest, LogoutStatus, NO_TAG, NopOut, Opcode, READ,
    RejectReason, ScsiCommand, TaskAttribute, TaskManagement, TextRequest, TmfFunction,
    TmfResponse, WRITE,
};

/// Types of additional header segments.
const AHS_EXTENDED_CDB: u8 = 1;
const AHS_BIDI_READ_LENGTH: u8 = 2;

/// RFC 7144's functions come with this protocol level.
const LEVEL_QUERY_FUNCTIONS: u8 = 2;

/// What the additional header segments of a command say.
#[derive(Debug, Default)]
struct Additional<'a> {
    cdb: &'a [u8],
    bidi_read_len: Option<u32>,
}

/// Reads additional header segments; `None` when they are out of form.
fn additional(mut bytes: &[u8]) -> Option<Additional<'_>> {
    let mut found = Additional::default();
    while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
        let [high, low, kind, first] = *head;
        let len = usize::from(u16::from_be_bytes([high, low]));
        // The length counts from the fourth byte on; padding follows up to a multiple of four.
        let after = len.checked_sub(1)?;
        let body = rest.get(..after)?;
        match kind & 0x3f {
            AHS_EXTENDED_CDB => {
                if !found.cdb.is_empty() || body.is_empty() {
                    return None;
                }
                found.cdb = body;
            }
            AHS_BIDI_READ_LENGTH => {
                let length = u32::from_be_bytes(*body.first_chunk()?);
                if len != 5 || first != 0 || found.bidi_read_len.replace(length).is_some() {
                    return None;
                }
            }
            _ => return None,
        }
        bytes = rest.get(after.next_multiple_of(4)..)?;
    }
    bytes.is_empty().then_some(found)
}

impl Connection {
    /// A request's header: what is to become of its data segment.
    pub(super) fn request<O: Output>(
        &mut self,
        header: Header,
        out: &mut O,
    ) -> Result<Incoming, Fatal> {
        let Some(opcode) = header.opcode() else {
            self.reject(RejectReason::NotSupported, out);
            return Ok(Incoming::Swallow);
        };
        if opcode == Opcode::DataOut {
            return Ok(self.data_out(&header, out));
        }
        let numbered = matches!(
            opcode,
            Opcode::NopOut
                | Opcode::ScsiCommand
                | Opcode::TaskManagement
                | Opcode::TextRequest
                | Opcode::LogoutRequest
        );
        if !numbered {
            // SNACK belongs to recovery levels above ours, a login to another phase; the rest are
            // a target's own opcodes.
            let reason = match opcode {
                Opcode::Snack => RejectReason::Snack,
                Opcode::LoginRequest => RejectReason::Protocol,
                _ => RejectReason::NotSupported,
            };
            self.reject(reason, out);
            return Ok(Incoming::Swallow);
        }
        if !self.in_order(&header, opcode)? {
            return Ok(Incoming::Swallow);
        }
        if self.discovery() && matches!(opcode, Opcode::ScsiCommand | Opcode::TaskManagement) {
            self.reject(RejectReason::Protocol, out);
            return Ok(Incoming::Swallow);
        }
        Ok(match opcode {
            Opcode::ScsiCommand => self.command(&header, out),
            Opcode::NopOut => Incoming::Nop(NopOut::decode(&header)),
            Opcode::TextRequest => Incoming::Text(TextRequest::decode(&header)),
            Opcode::TaskManagement => {
                self.function(TaskManagement::decode(&header), out);
                Incoming::Swallow
            }
            _ => {
                self.logout_request(LogoutRequest::decode(&header), out);
                Incoming::Swallow
            }
        })
    }

    /// Takes the CmdSN; false when the request is to be dropped.
    fn in_order(&mut self, header: &Header, opcode: Opcode) -> Result<bool, Fatal> {
        // A NOP-Out that wants no answer takes no number.
        let unnumbered = opcode == Opcode::NopOut && header.itt() == NO_TAG;
        let received = header.cmd_sn();
        match self
            .session
            .order(received, header.immediate() || unnumbered)
        {
            Order::Deliver => Ok(true),
            Order::Ignore => Ok(false),
            Order::Gap => Err(Fatal::Gap {
                expected: self.session.exp_cmd_sn(),
                received,
            }),
        }
    }

    fn command<O: Output>(&mut self, header: &Header, out: &mut O) -> Incoming {
        let request = ScsiCommand::decode(header);
        let (cdb, bidi_read_len) = match self.descriptor(&request) {
            Some(found) => found,
            None => return self.refuse_command(RejectReason::InvalidField, out),
        };
        let immediate_len = header.data_len();
        let write = request.flags & WRITE != 0;
        let read = request.flags & READ != 0;
        if request.itt == NO_TAG || (immediate_len > 0 && !write) {
            return self.refuse_command(RejectReason::InvalidField, out);
        }
        if self.session.find(request.itt).is_some() {
            return self.refuse_command(RejectReason::TaskInProgress, out);
        }
        if request.immediate && self.session.too_many_immediate() {
            return self.refuse_command(RejectReason::TooManyImmediate, out);
        }
        let read_len = match (read, write) {
            (true, true) => bidi_read_len.unwrap_or(0),
            (true, false) => request.edtl,
            (false, _) => 0,
        };
        let unsolicited = write && request.flags & FINAL == 0 && immediate_len < request.edtl;
        let failed = self.unsolicited_error(&request, immediate_len, unsolicited);
        let task = self.session.insert(|task| {
            task.itt = request.itt;
            task.lun = request.lun;
            task.immediate = request.immediate;
            task.edtl = request.edtl;
            task.write = write;
            task.read_len = read_len;
            task.unsolicited = unsolicited;
            task.immediate_data = immediate_len > 0;
            task.failed = failed;
        });
        let Some(task) = task else {
            return self.refuse_command(RejectReason::LongOperation, out);
        };
        let usable = if failed.is_some() { 0 } else { immediate_len };
        self.events.push_back(Event::Command(Command {
            task,
            itt: request.itt,
            cmd_sn: request.cmd_sn,
            immediate: request.immediate,
            lun: request.lun,
            cdb,
            attribute: TaskAttribute::from_flags(request.flags),
            edtl: request.edtl,
            read,
            write,
            write_len: if write { request.edtl } else { 0 },
            read_len,
            immediate_len: usable,
            unsolicited,
        }));
        if write {
            Incoming::Transfer(Transfer::immediate(task, immediate_len))
        } else {
            Incoming::Swallow
        }
    }

    fn refuse_command<O: Output>(&mut self, reason: RejectReason, out: &mut O) -> Incoming {
        self.reject(reason, out);
        Incoming::Swallow
    }

    /// CDB and bidirectional read length.
    fn descriptor(&self, request: &ScsiCommand) -> Option<(Cdb, Option<u32>)> {
        let additional = additional(self.ahs())?;
        Some((
            Cdb::extended(request.cdb, additional.cdb)?,
            additional.bidi_read_len,
        ))
    }

    /// Whether a command brings, or announces, data that was not allowed.
    fn unsolicited_error(
        &self,
        request: &ScsiCommand,
        immediate_len: u32,
        unsolicited: bool,
    ) -> Option<AbortReason> {
        let most = self.negotiated.first_burst_length.min(request.edtl);
        let forbidden = (immediate_len > 0 && !self.negotiated.immediate_data)
            || immediate_len > most
            || (unsolicited && self.negotiated.initial_r2t);
        forbidden.then_some(AbortReason::UnexpectedData)
    }

    fn function<O: Output>(&mut self, request: TaskManagement, out: &mut O) {
        let Some(function) = TmfFunction::from_wire(request.flags & !FINAL) else {
            self.send_tmf_response(request.itt, TmfResponse::NotSupported, out);
            return;
        };
        let refused = match function {
            TmfFunction::TaskReassign => Some(TmfResponse::ReassignNotSupported),
            TmfFunction::QueryTask
            | TmfFunction::QueryTaskSet
            | TmfFunction::NexusReset
            | TmfFunction::QueryAsyncEvent
                if self.negotiated.protocol_level < LEVEL_QUERY_FUNCTIONS =>
            {
                Some(TmfResponse::NotSupported)
            }
            _ => None,
        };
        if let Some(response) = refused {
            self.send_tmf_response(request.itt, response, out);
            return;
        }
        let referenced = self.referenced(function, &request);
        if let Err(response) = referenced {
            self.send_tmf_response(request.itt, response, out);
            return;
        }
        if self.functions >= IMMEDIATE_TASKS_MAX {
            self.reject(RejectReason::TooManyImmediate, out);
            return;
        }
        self.functions = self.functions.saturating_add(1);
        self.events.push_back(Event::TaskManagement(Tmf {
            itt: request.itt,
            function,
            lun: request.lun,
            referenced: referenced.ok().flatten(),
            immediate: request.immediate,
            cmd_sn: request.cmd_sn,
        }));
    }

    /// The task that a function names, or the answer where it does not live.
    fn referenced(
        &mut self,
        function: TmfFunction,
        request: &TaskManagement,
    ) -> Result<Option<TaskId>, TmfResponse> {
        if !matches!(function, TmfFunction::AbortTask | TmfFunction::QueryTask) {
            return Ok(None);
        }
        if let Some(task) = self.session.find(request.referenced_itt) {
            return Ok(Some(task));
        }
        if function == TmfFunction::AbortTask
            && self.session.plug(request.ref_cmd_sn, request.cmd_sn)
        {
            return Err(TmfResponse::Complete);
        }
        Err(TmfResponse::TaskDoesNotExist)
    }

    fn logout_request<O: Output>(&mut self, request: LogoutRequest, out: &mut O) {
        let Some(reason) = LogoutReason::from_wire(request.flags & !FINAL) else {
            self.reject(RejectReason::InvalidField, out);
            return;
        };
        let refused = match reason {
            LogoutReason::CloseSession => None,
            LogoutReason::RecoverConnection => Some(LogoutStatus::RecoveryNotSupported),
            LogoutReason::CloseConnection if request.cid != self.identity.cid => {
                Some(LogoutStatus::CidNotFound)
            }
            LogoutReason::CloseConnection => None,
        };
        if let Some(status) = refused {
            self.send_logout_response(request.itt, status, out);
            return;
        }
        self.log_out(request.itt);
        self.events.push_back(Event::Logout { reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additional_header_segments() {
        let bytes = [
            0, 17, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
        ];
        let found = additional(&bytes).unwrap();
        assert_eq!((found.cdb.len(), found.bidi_read_len), (16, None));
        let mut both = bytes.to_vec();
        both.extend([0, 5, 2, 0, 0, 0, 2, 0]);
        assert_eq!(additional(&both).unwrap().bidi_read_len, Some(512));
        // A length of 6 leaves three bytes of padding.
        let padded = [0, 6, 1, 0, 1, 2, 3, 4, 5, 0, 0, 0];
        assert_eq!(additional(&padded).unwrap().cdb, [1, 2, 3, 4, 5]);
        assert!(additional(&[]).is_some());
        for bad in [
            &[0, 0, 1, 0][..],
            &[0, 1, 1, 0],
            &[0, 9, 1, 0, 1, 2, 3, 4],
            &[0, 5, 3, 0, 0, 0, 0, 0],
            &[0, 4, 2, 0, 0, 0, 2, 0],
            &[0, 5, 2, 0, 0, 0, 2, 0, 0, 5, 2, 0, 0, 0, 2, 0],
            &[255, 255, 1, 0, 1, 2, 3, 4],
        ] {
            assert!(additional(bad).is_none(), "{bad:?}");
        }
    }
}
