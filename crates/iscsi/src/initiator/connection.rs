//! The connection itself: framing, phases, sequence numbers, timers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::event::Event;
use super::login::{Login, LoginError, Step};
use super::receive::Incoming;
use super::settings::Settings;
use super::tasks::{Pending, Tasks};
use crate::Output;
use crate::command::TaskId;
use crate::frame::{self, Digests, FrameError, Received, Receiver};
use crate::negotiation::{Digest, Negotiated};
use crate::pdu::{Header, LoginRequest, LoginResponse, LoginStatus, Opcode};
use crate::serial;

/// Why a connection is to be dropped: nothing more can come of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fatal {
    /// The stream cannot be cut into PDUs any more.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Login cannot go on.
    #[error("login: {0}")]
    Login(#[from] LoginError),
    /// A data digest did not match.
    #[error("data digest mismatch in a PDU with opcode {opcode:#04x}")]
    DataDigest {
        /// Its opcode.
        opcode: u8,
    },
    /// A PDU that does not belong here.
    #[error("a PDU with opcode {opcode:#04x} does not belong here")]
    Unexpected {
        /// Its opcode.
        opcode: u8,
    },
    /// A status is missing.
    #[error("status sequence gap: StatSN {expected} was expected and {received} came")]
    StatusGap {
        /// Next StatSN expected.
        expected: u32,
        /// StatSN that came.
        received: u32,
    },
    /// Data-In out of order, beyond what was asked for, or for a command that takes none.
    #[error("Data-In does not fit its command: {0}")]
    DataIn(&'static str),
    /// An R2T that asks for something the command does not have.
    #[error("R2T does not fit its command: {0}")]
    ReadyToTransfer(&'static str),
    /// An answer to SendTargets out of form or without end.
    #[error("the answer to SendTargets: {0}")]
    Text(&'static str),
    /// Login did not end in time.
    #[error("login was not completed within {0:?}")]
    LoginTimeout(Duration),
    /// A ping was not answered.
    #[error("the target has been silent for {0:?}")]
    Silent(Duration),
}

#[derive(Debug)]
pub(super) enum Phase {
    Login(Box<Login>),
    FullFeature,
    Closing,
}

/// One connection's engine; the module's words say how to drive it.
///
/// `P` is the payload of the caller's [`Output`]: write data by reference.
#[derive(Debug)]
pub struct Connection<P> {
    pub(super) receiver: Receiver,
    pub(super) phase: Phase,
    pub(super) incoming: Incoming,
    pub(super) segment: Vec<u8>,
    pub(super) events: VecDeque<Event<'static>>,
    pub(super) tasks: Tasks<P>,
    pub(super) negotiated: Negotiated,
    pub(super) digests: Digests,
    /// CmdSN of the next command.
    pub(super) cmd_sn: u32,
    exp_cmd_sn: u32,
    pub(super) max_cmd_sn: u32,
    /// Next StatSN expected; none before the first response.
    exp_stat_sn: Option<u32>,
    nop_interval: Duration,
    nop_timeout: Duration,
    heard: Instant,
    pinged: Option<Instant>,
}

impl<P: AsRef<[u8]> + Clone> Connection<P> {
    /// For a connection just made; its login has [`Settings::login_timeout`] from `now`.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        let (nop_interval, nop_timeout) = (settings.nop_interval, settings.nop_timeout);
        Self {
            receiver: Receiver::new(),
            phase: Phase::Login(Box::new(Login::new(settings, now))),
            incoming: Incoming::Swallow,
            segment: Vec::new(),
            events: VecDeque::new(),
            tasks: Tasks::new(),
            negotiated: Negotiated::default(),
            digests: Digests::default(),
            cmd_sn: 1,
            exp_cmd_sn: 1,
            max_cmd_sn: 1,
            exp_stat_sn: None,
            nop_interval,
            nop_timeout,
            heard: now,
            pinged: None,
        }
    }

    /// Sends the first login request. To be called once.
    pub fn start<O: Output<Payload = P>>(&mut self, out: &mut O) {
        if let Phase::Login(login) = &mut self.phase {
            let (request, text) = login.open();
            self.send_login(request, &text, out);
        }
    }

    /// Consumes from `input` and returns the next event; `None`: all is consumed, more is needed.
    ///
    /// What the engine answers by itself (login steps, R2Ts, pings) goes to `out`.
    ///
    /// # Errors
    /// [`Fatal`]: drop the connection; commands in flight have no answer.
    pub fn next<'b, O: Output<Payload = P>>(
        &mut self,
        now: Instant,
        input: &mut &'b [u8],
        out: &mut O,
    ) -> Result<Option<Event<'b>>, Fatal> {
        if !input.is_empty() {
            self.heard = now;
            self.pinged = None;
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Phase::Closing = self.phase {
                *input = &[];
                return Ok(None);
            }
            match self.receiver.next(input)? {
                None => return Ok(None),
                Some(Received::Header) => {
                    self.segment.clear();
                    self.incoming = self.header(self.receiver.header())?;
                }
                Some(Received::Data { offset, bytes }) => {
                    if let Some(event) = self.piece(offset, bytes) {
                        return Ok(Some(event));
                    }
                }
                Some(Received::End { intact }) => {
                    if !intact {
                        let opcode = self.receiver.header().raw_opcode();
                        return Err(Fatal::DataDigest { opcode });
                    }
                    self.end(out)?;
                }
            }
        }
    }

    fn header(&mut self, header: Header) -> Result<Incoming, Fatal> {
        match (&self.phase, header.opcode()) {
            (Phase::Login(_), Some(Opcode::LoginResponse)) => {
                Ok(Incoming::Login(LoginResponse::decode(&header)))
            }
            (Phase::FullFeature, Some(opcode)) => self.answer_header(opcode, &header),
            _ => Err(Fatal::Unexpected {
                opcode: header.raw_opcode(),
            }),
        }
    }

    // -- login --

    fn send_login<O: Output<Payload = P>>(
        &self,
        mut request: LoginRequest,
        text: &[u8],
        out: &mut O,
    ) {
        request.cmd_sn = self.cmd_sn;
        request.exp_stat_sn = self.exp_stat_sn.unwrap_or(0);
        frame::send(request.encode(), text, Digests::default(), out);
    }

    pub(super) fn login_response<O: Output<Payload = P>>(
        &mut self,
        response: &LoginResponse,
        data: &[u8],
        out: &mut O,
    ) -> Result<(), Fatal> {
        let Phase::Login(login) = &mut self.phase else {
            return Ok(());
        };
        if response.status != LoginStatus::Success.to_wire() {
            login.redirected(data);
            self.events.push_back(Event::LoginFailed {
                status: LoginStatus::from_wire(response.status),
                code: response.status,
                redirect: login.redirect.take(),
            });
            self.phase = Phase::Closing;
            return Ok(());
        }
        let step = login.response(response, data)?;
        self.status(response.stat_sn)?;
        self.window(response.exp_cmd_sn, response.max_cmd_sn);
        match step {
            Step::Send(request, text) => self.send_login(request, &text, out),
            Step::Done => self.logged_in(),
        }
        Ok(())
    }

    fn logged_in(&mut self) {
        let Phase::Login(login) = &mut self.phase else {
            return;
        };
        self.negotiated = login.negotiated();
        self.events.push_back(Event::LoggedIn {
            tsih: login.tsih,
            alias: login.alias.take(),
            portal_group_tag: login.portal_group_tag,
        });
        let header = self.negotiated.header_digest == Digest::Crc32c;
        let data = self.negotiated.data_digest == Digest::Crc32c;
        self.digests = Digests { header, data };
        self.receiver
            .configure(header, data, self.negotiated.max_recv_data_segment_length);
        self.phase = Phase::FullFeature;
    }

    // -- sequence numbers --

    /// Takes the StatSN of a PDU that carries status.
    pub(super) fn status(&mut self, received: u32) -> Result<(), Fatal> {
        match self.exp_stat_sn {
            Some(expected) if expected != received => Err(Fatal::StatusGap { expected, received }),
            _ => {
                self.exp_stat_sn = Some(received.wrapping_add(1));
                Ok(())
            }
        }
    }

    pub(super) fn exp_stat_sn(&self) -> u32 {
        self.exp_stat_sn.unwrap_or(0)
    }

    /// Takes ExpCmdSN and MaxCmdSN; a pair that makes no sense is left out of account, and neither
    /// goes back.
    pub(super) fn window(&mut self, exp_cmd_sn: u32, max_cmd_sn: u32) {
        if serial::before(max_cmd_sn, exp_cmd_sn.wrapping_sub(1)) {
            return;
        }
        if serial::after(exp_cmd_sn, self.exp_cmd_sn) {
            self.exp_cmd_sn = exp_cmd_sn;
        }
        if serial::after(max_cmd_sn, self.max_cmd_sn) {
            self.max_cmd_sn = max_cmd_sn;
        }
    }

    /// Commands that may be sent now.
    #[must_use]
    pub fn room(&self) -> u32 {
        if !self.full_feature() || serial::after(self.cmd_sn, self.max_cmd_sn) {
            return 0;
        }
        self.max_cmd_sn.wrapping_sub(self.cmd_sn).saturating_add(1)
    }

    // -- state --

    /// What was agreed on; complete once logged in.
    #[must_use]
    pub const fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Whether commands may be sent.
    #[must_use]
    pub const fn full_feature(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
    }

    /// Whether the connection is to be closed.
    #[must_use]
    pub const fn closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Commands in flight, in no order: those without an answer when a connection is lost.
    pub fn commands(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.tasks.commands()
    }

    /// Requests of any kind that wait for an answer.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn send<O: Output<Payload = P>>(&self, header: Header, data: &[u8], out: &mut O) {
        frame::send(header, data, self.digests, out);
    }

    pub(super) fn max_send(&self) -> usize {
        usize::try_from(self.negotiated.max_send_data_segment_length).unwrap_or(usize::MAX)
    }

    // -- timers --

    /// Runs the timers; returns when to call again (`None`: no timer runs).
    ///
    /// # Errors
    /// [`Fatal`]: login took too long, or the target is silent.
    pub fn tick<O: Output<Payload = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
    ) -> Result<Option<Instant>, Fatal> {
        match &self.phase {
            Phase::Login(login) => {
                let limit = login.settings().login_timeout;
                match login.since().checked_add(limit) {
                    Some(deadline) if now >= deadline => Err(Fatal::LoginTimeout(limit)),
                    deadline => Ok(deadline),
                }
            }
            Phase::Closing => Ok(None),
            Phase::FullFeature if self.nop_interval.is_zero() => Ok(None),
            Phase::FullFeature => self.keep_alive(now, out),
        }
    }

    fn keep_alive<O: Output<Payload = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
    ) -> Result<Option<Instant>, Fatal> {
        if let Some(pinged) = self.pinged {
            return match pinged.checked_add(self.nop_timeout) {
                Some(deadline) if now >= deadline => {
                    Err(Fatal::Silent(now.saturating_duration_since(self.heard)))
                }
                deadline => Ok(deadline),
            };
        }
        match self.heard.checked_add(self.nop_interval) {
            Some(deadline) if now >= deadline => {
                if let Some(task) = self.tasks.insert(Pending::Ping { own: true }) {
                    self.send_ping(task, &[], out);
                }
                self.pinged = Some(now);
                Ok(now.checked_add(self.nop_timeout))
            }
            deadline => Ok(deadline),
        }
    }
}
