//! What a target sends: data, status, R2Ts, answers, messages.

use super::connection::{Connection, Fatal, Phase};
use super::event::{Completion, Event, Message, Residual};
use super::tasks::Pending;
use crate::Output;
use crate::command::TaskId;
use crate::limits::SEND_TARGETS_BYTES_MAX;
use crate::pdu::{
    AsyncEvent, AsyncMessage, BHS_LEN, BIDI_OVERFLOW, BIDI_UNDERFLOW, CONTINUE, DataIn, FINAL,
    Header, LoginResponse, LogoutResponse, LogoutStatus, NO_TAG, NopIn, NopOut, OVERFLOW, Opcode,
    ReadyToTransfer, Reject, RejectReason, STATUS, ScsiResponse, TaskManagementResponse,
    TextResponse, TmfResponse, UNDERFLOW,
};
use crate::target::TargetRecord;
use crate::text;

/// What the data segment of the current PDU is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Incoming {
    /// Nothing.
    Swallow,
    /// Text of a login response.
    Login(LoginResponse),
    /// Read data.
    Data(DataIn),
    /// Sense data.
    Response(ScsiResponse),
    /// Ping data.
    Nop(NopIn),
    /// Text.
    Text(TextResponse),
    /// Sense data of a SCSI event.
    Message(AsyncMessage),
    /// A header of ours.
    Reject(Reject),
    /// No data.
    Function(TaskManagementResponse),
    /// No data.
    ReadyToTransfer(ReadyToTransfer),
    /// No data.
    Logout(LogoutResponse),
}

impl<P: AsRef<[u8]> + Clone> Connection<P> {
    /// A header of the full feature phase: checks, and what becomes of the data segment.
    pub(super) fn answer_header(
        &mut self,
        opcode: Opcode,
        header: &Header,
    ) -> Result<Incoming, Fatal> {
        let incoming = match opcode {
            Opcode::DataIn => return self.data_in(&DataIn::decode(header), header.data_len()),
            Opcode::ScsiResponse => Incoming::Response(ScsiResponse::decode(header)),
            Opcode::NopIn => Incoming::Nop(NopIn::decode(header)),
            Opcode::TextResponse => Incoming::Text(TextResponse::decode(header)),
            Opcode::AsyncMessage => Incoming::Message(AsyncMessage::decode(header)),
            Opcode::Reject => Incoming::Reject(Reject::decode(header)),
            Opcode::TaskManagementResponse => {
                Incoming::Function(TaskManagementResponse::decode(header))
            }
            Opcode::ReadyToTransfer => Incoming::ReadyToTransfer(ReadyToTransfer::decode(header)),
            Opcode::LogoutResponse => Incoming::Logout(LogoutResponse::decode(header)),
            _ => {
                return Err(Fatal::Unexpected {
                    opcode: header.raw_opcode(),
                });
            }
        };
        let NumberFields {
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        } = NumberFields::of(header);
        let carries_status = match &incoming {
            Incoming::ReadyToTransfer(_) => false,
            Incoming::Nop(nop) => nop.itt != NO_TAG,
            _ => true,
        };
        if carries_status {
            self.status(stat_sn)?;
        }
        self.window(exp_cmd_sn, max_cmd_sn);
        Ok(incoming)
    }

    /// A Data-In header: it has to be the next piece of what was asked for.
    fn data_in(&mut self, data: &DataIn, len: u32) -> Result<Incoming, Fatal> {
        if data.flags & STATUS != 0 {
            self.status(data.stat_sn)?;
        }
        self.window(data.exp_cmd_sn, data.max_cmd_sn);
        let id = TaskId::from_bits(data.itt);
        match self.tasks.get(id) {
            Some(Pending::Command(task)) => {
                if data.buffer_offset != task.received || data.data_sn != task.data_sn {
                    return Err(Fatal::DataIn("out of order"));
                }
                let end = data.buffer_offset.checked_add(len);
                let received = end.filter(|end| *end <= task.read_len);
                task.received = received.ok_or(Fatal::DataIn("more than was asked for"))?;
                task.data_sn = task.data_sn.wrapping_add(1);
                Ok(Incoming::Data(*data))
            }
            Some(_) => Err(Fatal::DataIn("its tag is no command's")),
            // For a command given up meanwhile.
            None => Ok(Incoming::Swallow),
        }
    }

    /// A piece of a data segment: handed on or gathered, up to a data segment's length.
    pub(super) fn piece<'b>(&mut self, offset: u32, bytes: &'b [u8]) -> Option<Event<'b>> {
        match &self.incoming {
            Incoming::Swallow => None,
            Incoming::Data(data) => Some(Event::Data {
                task: TaskId::from_bits(data.itt),
                offset: data.buffer_offset.saturating_add(offset),
                bytes,
            }),
            _ => {
                self.segment.extend_from_slice(bytes);
                None
            }
        }
    }

    /// The end of a PDU whose digests are right.
    pub(super) fn end<O: Output<Payload = P>>(&mut self, out: &mut O) -> Result<(), Fatal> {
        let segment = std::mem::take(&mut self.segment);
        match std::mem::replace(&mut self.incoming, Incoming::Swallow) {
            Incoming::Swallow => {}
            Incoming::Login(response) => self.login_response(&response, &segment, out)?,
            Incoming::Data(data) if data.flags & STATUS != 0 => self.data_status(&data),
            Incoming::Data(_) => {}
            Incoming::Response(response) => self.response(&response, &segment),
            Incoming::Nop(nop) => self.nop_in(&nop, &segment, out),
            Incoming::Text(response) => self.text_response(&response, &segment, out)?,
            Incoming::Message(pdu) => self.message(&pdu, &segment),
            Incoming::Reject(reject) => self.rejected(&reject, &segment),
            Incoming::Function(response) => self.function_response(&response),
            Incoming::ReadyToTransfer(r2t) => self.ready_to_transfer(&r2t, out)?,
            Incoming::Logout(response) => self.logout_response(&response),
        }
        if segment.capacity() <= 16 * 1024 {
            self.segment = segment;
        }
        Ok(())
    }

    /// Status that came with the last data.
    fn data_status(&mut self, data: &DataIn) {
        let task = TaskId::from_bits(data.itt);
        if self.tasks.remove(task).is_some() {
            self.events.push_back(Event::Done(Completion {
                task,
                target_failure: false,
                status: data.status,
                sense: Vec::new(),
                residual: residual(data.flags, OVERFLOW, UNDERFLOW, data.residual),
                bidi_residual: Residual::None,
            }));
        }
    }

    fn response(&mut self, response: &ScsiResponse, segment: &[u8]) {
        let task = TaskId::from_bits(response.itt);
        if self.tasks.command(task).is_none() {
            return;
        }
        self.tasks.remove(task);
        let flags = response.flags;
        self.events.push_back(Event::Done(Completion {
            task,
            target_failure: response.response != 0,
            status: response.status,
            sense: sense(segment).to_vec(),
            residual: residual(flags, OVERFLOW, UNDERFLOW, response.residual),
            bidi_residual: residual(flags, BIDI_OVERFLOW, BIDI_UNDERFLOW, response.bidi_residual),
        }));
    }

    /// A ping of the target is answered; an answer to one of ours is told.
    fn nop_in<O: Output<Payload = P>>(&mut self, nop: &NopIn, segment: &[u8], out: &mut O) {
        if nop.itt != NO_TAG {
            let task = TaskId::from_bits(nop.itt);
            if let Some(Pending::Ping { own }) = self.tasks.get(task) {
                let own = *own;
                self.tasks.remove(task);
                if !own {
                    self.events.push_back(Event::Pong { task });
                }
            }
        } else if nop.ttt != NO_TAG {
            let answer = NopOut {
                immediate: true,
                flags: FINAL,
                lun: nop.lun,
                itt: NO_TAG,
                ttt: nop.ttt,
                cmd_sn: self.cmd_sn,
                exp_stat_sn: self.exp_stat_sn(),
            };
            let data = segment.get(..self.max_send()).unwrap_or(segment);
            self.send(answer.encode(), data, out);
        }
    }

    fn text_response<O: Output<Payload = P>>(
        &mut self,
        response: &TextResponse,
        segment: &[u8],
        out: &mut O,
    ) -> Result<(), Fatal> {
        let task = TaskId::from_bits(response.itt);
        let Some(Pending::Text(gathered)) = self.tasks.get(task) else {
            return Ok(());
        };
        if gathered.len().saturating_add(segment.len()) > SEND_TARGETS_BYTES_MAX {
            return Err(Fatal::Text("it does not end"));
        }
        gathered.extend_from_slice(segment);
        if response.flags & (FINAL | CONTINUE) == FINAL {
            let gathered = std::mem::take(gathered);
            self.tasks.remove(task);
            let records = records(&gathered).ok_or(Fatal::Text("it is out of form"))?;
            self.events.push_back(Event::Targets(records));
            return Ok(());
        }
        if response.ttt == NO_TAG {
            return Err(Fatal::Text("it goes on without a tag"));
        }
        self.send_text(task, response.lun, response.ttt, &[], out);
        Ok(())
    }

    fn message(&mut self, pdu: &AsyncMessage, segment: &[u8]) {
        let (time2wait, time2retain) = (pdu.parameter2, pdu.parameter3);
        let seconds = pdu.parameter3;
        let message = match AsyncEvent::from_wire(pdu.event) {
            Some(AsyncEvent::Scsi) => Message::Scsi {
                lun: pdu.lun,
                sense: sense(segment).to_vec(),
            },
            Some(AsyncEvent::LogoutRequest) => Message::LogoutRequest { seconds },
            Some(AsyncEvent::ConnectionDrop) => Message::ConnectionDrop {
                cid: pdu.parameter1,
                time2wait,
                time2retain,
            },
            Some(AsyncEvent::SessionDrop) => Message::SessionDrop {
                time2wait,
                time2retain,
            },
            Some(AsyncEvent::NegotiationRequest) => Message::NegotiationRequest { seconds },
            _ => Message::Other { event: pdu.event },
        };
        self.events.push_back(Event::Message(message));
    }

    /// A rejected request has no other answer, unless only its data was damaged: then the target
    /// still answers the command.
    fn rejected(&mut self, reject: &Reject, segment: &[u8]) {
        let Some(bytes) = segment.first_chunk::<BHS_LEN>() else {
            return;
        };
        let header = Header(*bytes);
        let reason = RejectReason::from_wire(reject.reason);
        let request = matches!(
            header.opcode(),
            Some(
                Opcode::ScsiCommand
                    | Opcode::TaskManagement
                    | Opcode::TextRequest
                    | Opcode::LogoutRequest
                    | Opcode::NopOut
            )
        );
        let ended = request && reason != Some(RejectReason::DataDigest);
        let task = TaskId::from_bits(header.itt());
        let task = self
            .tasks
            .get(task)
            .is_some()
            .then_some(task)
            .filter(|_| ended);
        if let Some(task) = task {
            self.tasks.remove(task);
        }
        self.events.push_back(Event::Rejected {
            reason,
            header,
            task,
        });
    }

    fn function_response(&mut self, response: &TaskManagementResponse) {
        let task = TaskId::from_bits(response.itt);
        if let Some(Pending::Function) = self.tasks.get(task) {
            self.tasks.remove(task);
            let response = TmfResponse::from_wire(response.response);
            self.events.push_back(Event::Function { task, response });
        }
    }

    fn logout_response(&mut self, response: &LogoutResponse) {
        let task = TaskId::from_bits(response.itt);
        if let Some(Pending::Logout) = self.tasks.get(task) {
            self.tasks.remove(task);
            let status = LogoutStatus::from_wire(response.response);
            self.events.push_back(Event::LoggedOut {
                status,
                time2wait: response.time2wait,
                time2retain: response.time2retain,
            });
            if status == Some(LogoutStatus::Success) {
                self.phase = Phase::Closing;
            }
        }
    }
}

/// The numbers that most of a target's PDUs carry at the same places.
struct NumberFields {
    stat_sn: u32,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
}

impl NumberFields {
    fn of(header: &Header) -> Self {
        let NopIn {
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            ..
        } = NopIn::decode(header);
        Self {
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        }
    }
}

const fn residual(flags: u8, over: u8, under: u8, count: u32) -> Residual {
    if flags & over != 0 {
        Residual::Overflow(count)
    } else if flags & under != 0 {
        Residual::Underflow(count)
    } else {
        Residual::None
    }
}

/// Sense data behind its length; what is there when the length says more.
fn sense(segment: &[u8]) -> &[u8] {
    let Some((len, rest)) = segment.split_first_chunk::<2>() else {
        return &[];
    };
    rest.get(..usize::from(u16::from_be_bytes(*len)))
        .unwrap_or(rest)
}

/// Targets with their addresses; `None` when the text is out of form.
fn records(bytes: &[u8]) -> Option<Vec<TargetRecord>> {
    let mut records: Vec<TargetRecord> = Vec::new();
    for (key, value) in text::parse_long(bytes).ok()? {
        match key {
            "TargetName" => {
                records.push(TargetRecord {
                    name: value.to_owned(),
                    addresses: Vec::new(),
                });
            }
            "TargetAddress" => records.last_mut()?.addresses.push(value.to_owned()),
            _ => {}
        }
    }
    Some(records)
}
