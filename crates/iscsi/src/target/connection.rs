//! The connection itself: framing, phases, timers, and the login's way through them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::data::Transfer;
use super::event::{Event, SessionIdentity};
use super::login::{Login, Outcome, Refusal};
use super::policy::LoginPolicy;
use super::session::Session;
use super::text::Exchange;
use super::{Config, Negotiated};
use crate::Output;
use crate::command::SessionType;
use crate::frame::{self, Digests, FrameError, Received, Receiver};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::negotiation::Digest;
use crate::pdu::{
    FINAL, Header, LoginRequest, LoginResponse, LoginStatus, NO_TAG, NopIn, NopOut, Opcode, Reject,
    RejectReason, TextRequest,
};
use crate::serial;
use crate::text;

/// Why a connection is to be dropped. Nothing more can be sent on it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fatal {
    /// The stream cannot be cut into PDUs any more.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Something else than a login request before login.
    #[error("a PDU with opcode {opcode:#04x} came before login")]
    BeforeLogin {
        /// The opcode.
        opcode: u8,
    },
    /// Bytes came while the login waited for our answer.
    #[error("the initiator sent on without waiting for the login response")]
    Pipelined,
    /// Login did not end in time.
    #[error("login was not completed within {0:?}")]
    LoginTimeout(Duration),
    /// Data of a write that was asked for, or announced, does not come.
    #[error("data of a write has not come for {0:?}")]
    DataTimeout(Duration),
    /// A ping was not answered.
    #[error("the initiator has been silent for {0:?}")]
    Silent(Duration),
    /// Commands are missing on a connection that cannot lose any.
    #[error("command sequence gap: CmdSN {expected} was expected and {received} came")]
    Gap {
        /// Next CmdSN expected.
        expected: u32,
        /// CmdSN that came.
        received: u32,
    },
    /// The service answered a login event that was not asked.
    #[error("login was answered without having been asked for")]
    NotAsked,
}

/// Where the connection stands.
#[derive(Debug)]
enum Phase {
    Login(Box<Login>),
    FullFeature,
    /// A logout was taken; what still comes is swallowed.
    LoggingOut,
    /// Nothing more is read or sent.
    Closing,
}

/// What the data segment of the current PDU is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Incoming {
    /// Nothing.
    Swallow,
    /// Text of a login request.
    Login(LoginRequest),
    /// Text of a text request.
    Text(TextRequest),
    /// Data of a ping.
    Nop(NopOut),
    /// Data of a task.
    Transfer(Transfer),
}

/// One connection's engine; the module's words say how to drive it.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: Arc<Config>,
    receiver: Receiver,
    phase: Phase,
    incoming: Incoming,
    /// Data segment of a login, text or NOP-Out PDU while it is gathered.
    segment: Vec<u8>,
    pub(super) events: VecDeque<Event<'static>>,
    pub(super) session: Session,
    pub(super) identity: SessionIdentity,
    pub(super) negotiated: Negotiated,
    pub(super) digests: Digests,
    /// Next StatSN.
    stat_sn: u32,
    /// The initiator has acknowledged every status before this one.
    exp_stat_sn: u32,
    pub(super) exchange: Exchange,
    /// Task management functions that wait for their answer.
    pub(super) functions: u32,
    /// The logout that waits for its answer.
    pub(super) logout: Option<u32>,
    /// Gives tags to pings and text exchanges.
    tags: u32,
    heard: Instant,
    pinged: Option<Instant>,
}

impl Connection {
    /// For a connection just accepted. Its login has [`Config::login_timeout`] from `now`.
    #[must_use]
    pub fn new(config: Arc<Config>, now: Instant) -> Self {
        let window = config.window();
        Self {
            config,
            receiver: Receiver::new(),
            phase: Phase::Login(Box::new(Login::new(now))),
            incoming: Incoming::Swallow,
            segment: Vec::new(),
            events: VecDeque::new(),
            session: Session::new(0, window),
            identity: SessionIdentity::default(),
            negotiated: Negotiated::default(),
            digests: Digests::default(),
            stat_sn: 1,
            exp_stat_sn: 1,
            exchange: Exchange::Idle,
            functions: 0,
            logout: None,
            tags: 0,
            heard: now,
            pinged: None,
        }
    }

    /// Consumes from `input` and returns the next event; `None`: all is consumed, more is needed.
    ///
    /// PDUs that the engine answers by itself (login steps, pings, rejects, text) go to `out`. After
    /// any other method was called, events may be there without further input.
    ///
    /// # Errors
    /// [`Fatal`]: drop the connection.
    pub fn next<'b, O: Output>(
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
            if matches!(self.phase, Phase::Closing | Phase::LoggingOut) {
                *input = &[];
                return Ok(None);
            }
            let waiting = matches!(&self.phase, Phase::Login(login) if !login.expects_request());
            if waiting {
                return if input.is_empty() {
                    Ok(None)
                } else {
                    Err(Fatal::Pipelined)
                };
            }
            match self.receiver.next(input)? {
                None => return Ok(None),
                Some(Received::Header) => {
                    self.segment.clear();
                    self.incoming = Incoming::Swallow;
                    self.incoming = self.header(self.receiver.header(), out)?;
                }
                Some(Received::Data { offset, bytes }) => {
                    if let Some(event) = self.piece(offset, bytes) {
                        return Ok(Some(event));
                    }
                }
                Some(Received::End { intact }) => self.end(intact, out)?,
            }
        }
    }

    /// A whole header: what is to become of its data segment.
    fn header<O: Output>(&mut self, header: Header, out: &mut O) -> Result<Incoming, Fatal> {
        if let Phase::FullFeature = self.phase {
            let acknowledged = header.exp_stat_sn();
            // What has not been sent cannot be acknowledged.
            if serial::after(acknowledged, self.exp_stat_sn)
                && !serial::after(acknowledged, self.stat_sn)
            {
                self.exp_stat_sn = acknowledged;
            }
            return self.request(header, out);
        }
        match header.opcode() {
            Some(Opcode::LoginRequest) => Ok(Incoming::Login(LoginRequest::decode(&header))),
            _ => Err(Fatal::BeforeLogin {
                opcode: header.raw_opcode(),
            }),
        }
    }

    /// Additional header segments of the current PDU.
    pub(super) fn ahs(&self) -> &[u8] {
        self.receiver.ahs()
    }

    /// A piece of a data segment: handed on or gathered. What is gathered is no longer than a data
    /// segment may be, which the framing has checked.
    fn piece<'b>(&mut self, offset: u32, bytes: &'b [u8]) -> Option<Event<'b>> {
        match self.incoming {
            Incoming::Swallow => None,
            Incoming::Transfer(transfer) => self.transfer_piece(transfer, offset, bytes),
            Incoming::Login(_) | Incoming::Text(_) | Incoming::Nop(_) => {
                self.segment.extend_from_slice(bytes);
                None
            }
        }
    }

    /// The end of a PDU.
    fn end<O: Output>(&mut self, intact: bool, out: &mut O) -> Result<(), Fatal> {
        let incoming = std::mem::replace(&mut self.incoming, Incoming::Swallow);
        if let Incoming::Transfer(transfer) = incoming {
            if !intact {
                self.reject(RejectReason::DataDigest, out);
            }
            self.transfer_end(transfer, intact, out);
            return Ok(());
        }
        if !intact && !matches!(incoming, Incoming::Swallow) {
            // CmdSN counts as received: at this recovery level nobody would send it again.
            self.reject(RejectReason::DataDigest, out);
            return Ok(());
        }
        let segment = std::mem::take(&mut self.segment);
        match incoming {
            Incoming::Login(request) => self.login_request(request, &segment, out),
            Incoming::Text(request) => self.text_request(request, &segment, out),
            Incoming::Nop(ping) => self.answer_ping(ping, &segment, out),
            Incoming::Swallow | Incoming::Transfer(_) => {}
        }
        // The memory is kept for the next one, unless it is large.
        if segment.capacity() <= 16 * 1024 {
            self.segment = segment;
        }
        Ok(())
    }

    // -- login --

    fn login_request<O: Output>(&mut self, request: LoginRequest, data: &[u8], out: &mut O) {
        let Phase::Login(login) = &mut self.phase else {
            return;
        };
        let outcome = login.request(&self.config, request, data);
        self.login_outcome(outcome, out);
    }

    fn login_outcome<O: Output>(&mut self, outcome: Result<Outcome, Refusal>, out: &mut O) {
        match outcome {
            Ok(Outcome::Respond(response, text)) => self.send_login(response, &text, out),
            Ok(Outcome::Ask(event)) => {
                if let Phase::Login(login) = &self.phase {
                    self.identity = login.identity().clone();
                    self.negotiated = login.negotiated();
                }
                self.events.push_back(event);
            }
            Err(refusal) => {
                if let Phase::Login(login) = &self.phase {
                    let response = login.refusal(refusal.status);
                    let refused = login.refused(refusal);
                    self.identity = login.identity().clone();
                    self.events.push_back(Event::LoginRefused(refused));
                    self.send_login(response, &[], out);
                }
                self.phase = Phase::Closing;
            }
        }
    }

    fn send_login<O: Output>(&mut self, mut response: LoginResponse, text: &[u8], out: &mut O) {
        response.stat_sn = self.advance_stat_sn();
        if let Phase::Login(login) = &self.phase {
            let window = login.config().unwrap_or(&self.config).window();
            response.exp_cmd_sn = login.cmd_sn();
            response.max_cmd_sn = login.cmd_sn().wrapping_add(window).wrapping_sub(1);
        }
        frame::send(response.encode(), text, Digests::default(), out);
    }

    /// Answers [`Event::LoginStart`]. Events may follow at once: call [`Connection::next`].
    ///
    /// # Errors
    /// [`Fatal::NotAsked`]: there was no such event to answer.
    pub fn login_answer<O: Output>(
        &mut self,
        policy: LoginPolicy,
        out: &mut O,
    ) -> Result<(), Fatal> {
        let Phase::Login(login) = &mut self.phase else {
            return Err(Fatal::NotAsked);
        };
        if !login.awaits_policy() {
            return Err(Fatal::NotAsked);
        }
        match policy {
            LoginPolicy::Accept(acceptance) => {
                let outcome = login.accept(acceptance, &self.config);
                self.login_outcome(outcome, out);
            }
            LoginPolicy::Refuse(status) => self.refuse(status, out),
            LoginPolicy::Redirect { address, permanent } => {
                let status = if permanent {
                    LoginStatus::MovedPermanently
                } else {
                    LoginStatus::MovedTemporarily
                };
                let mut answer = Vec::new();
                text::push(&mut answer, "TargetAddress", &address);
                let response = login.refusal(status);
                self.send_login(response, &answer, out);
                self.phase = Phase::Closing;
            }
        }
        Ok(())
    }

    /// Answers [`Event::LoginReady`]: full feature phase begins. `tsih` is not 0.
    ///
    /// Without such an event nothing happens.
    pub fn admit<O: Output>(&mut self, tsih: u16, out: &mut O) {
        let Phase::Login(login) = &mut self.phase else {
            return;
        };
        if !login.awaits_admission() {
            return;
        }
        let (response, text) = login.admit(tsih);
        let cmd_sn = login.cmd_sn();
        let config = Arc::clone(login.config().unwrap_or(&self.config));
        self.negotiated = login.negotiated();
        self.identity = login.identity().clone();
        self.send_login(response, &text, out);
        self.session = Session::new(cmd_sn, config.window());
        self.config = config;
        let header = self.negotiated.header_digest == Digest::Crc32c;
        let data = self.negotiated.data_digest == Digest::Crc32c;
        self.digests = Digests { header, data };
        let max = self
            .negotiated
            .max_recv_data_segment_length
            .min(SEGMENT_BYTES_MAX);
        self.receiver.configure(header, data, max);
        self.phase = Phase::FullFeature;
    }

    /// Refuses a login at either point; the connection is closing then. After login nothing
    /// happens.
    pub fn refuse<O: Output>(&mut self, status: LoginStatus, out: &mut O) {
        if let Phase::Login(login) = &self.phase {
            let response = login.refusal(status);
            self.send_login(response, &[], out);
            self.phase = Phase::Closing;
        }
    }

    // -- state --

    /// What was agreed on; complete from [`Event::LoginReady`] on.
    #[must_use]
    pub const fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Who is on the other side.
    #[must_use]
    pub const fn identity(&self) -> &SessionIdentity {
        &self.identity
    }

    /// Whether the login has been admitted and no logout has come.
    #[must_use]
    pub const fn full_feature(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
    }

    /// Whether the connection is to be closed once all output is sent.
    #[must_use]
    pub const fn closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    pub(super) fn close(&mut self) {
        self.session.clear();
        self.phase = Phase::Closing;
    }

    pub(super) fn log_out(&mut self, itt: u32) {
        self.logout = Some(itt);
        self.phase = Phase::LoggingOut;
    }

    pub(super) fn discovery(&self) -> bool {
        self.identity.session_type == SessionType::Discovery
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.session.len()
    }

    /// The live tasks, in no order; for ending a session.
    pub fn task_ids(&self) -> impl Iterator<Item = super::TaskId> + '_ {
        self.session.ids()
    }

    /// StatSN of the last status given to [`Output`].
    #[must_use]
    pub const fn last_stat_sn(&self) -> u32 {
        self.stat_sn.wrapping_sub(1)
    }

    /// Whether the initiator has said (ExpStatSN) that it has the status with this StatSN.
    #[must_use]
    pub const fn acknowledged(&self, stat_sn: u32) -> bool {
        serial::before(stat_sn, self.exp_stat_sn)
    }

    /// Write data that is announced and not yet there, over all tasks, in bytes.
    #[must_use]
    pub const fn pending_write_bytes(&self) -> u64 {
        self.session.pending_write()
    }

    /// Memory held for PDUs that are not complete: text, ping data, answers not yet fetched. Never
    /// above the sum of the bounds in [`crate::limits`] and what was negotiated.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        let login = match &self.phase {
            Phase::Login(login) => login.buffered_bytes(),
            _ => 0,
        };
        self.segment
            .capacity()
            .saturating_add(self.exchange.buffered_bytes())
            .saturating_add(login)
    }

    // -- sending --

    /// StatSN of a PDU that carries status.
    pub(super) const fn advance_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }

    /// StatSN of a PDU that does not advance it.
    pub(super) const fn stat_sn(&self) -> u32 {
        self.stat_sn
    }

    /// A tag of ours, never [`NO_TAG`].
    pub(super) const fn new_tag(&mut self) -> u32 {
        self.tags = self.tags.wrapping_add(1);
        if self.tags == NO_TAG {
            self.tags = 1;
        }
        self.tags
    }

    pub(super) fn send<O: Output>(&self, header: Header, data: &[u8], out: &mut O) {
        frame::send(header, data, self.digests, out);
    }

    /// The longest data segment the initiator takes.
    pub(super) fn max_send(&self) -> usize {
        usize::try_from(self.negotiated.max_send_data_segment_length).unwrap_or(usize::MAX)
    }

    /// Rejects the PDU that is being received.
    pub(super) fn reject<O: Output>(&mut self, reason: RejectReason, out: &mut O) {
        let header = self.receiver.header();
        let stat_sn = self.advance_stat_sn();
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let reject = Reject {
            flags: FINAL,
            reason: reason.to_wire(),
            itt: NO_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: 0,
        };
        self.send(reject.encode(), &header.0, out);
    }

    // -- timers --

    /// Runs the timers; returns when to call again (`None`: no timer runs). Also tells an initiator
    /// that waits of a window that has opened, so call it after [`Connection::set_window`] and
    /// [`Connection::forget`].
    ///
    /// While the service does not call [`Connection::next`] although bytes are there, the initiator
    /// looks silent: do not call this then.
    ///
    /// # Errors
    /// [`Fatal`]: login took too long, data of a write does not come, or the initiator is silent.
    pub fn tick<O: Output>(&mut self, now: Instant, out: &mut O) -> Result<Option<Instant>, Fatal> {
        match &self.phase {
            Phase::Login(login) if login.expects_request() => {
                let limit = self.config.login_timeout;
                match login.since().checked_add(limit) {
                    Some(deadline) if now >= deadline => Err(Fatal::LoginTimeout(limit)),
                    deadline => Ok(deadline),
                }
            }
            // The service's own bound counts while it thinks.
            Phase::Login(_) | Phase::LoggingOut | Phase::Closing => Ok(None),
            Phase::FullFeature => {
                if self.session.must_announce() {
                    self.send_nop_in(NO_TAG, out);
                }
                let data = self.data_deadline(now)?;
                let alive = self.keep_alive(now, out)?;
                Ok(data.into_iter().chain(alive).min())
            }
        }
    }

    /// A write that gets no data holds a buffer: it must not do so for ever (RFC 7143, 7.14, leaves
    /// the target to end the connection).
    fn data_deadline(&mut self, now: Instant) -> Result<Option<Instant>, Fatal> {
        let limit = self.config.data_timeout;
        if limit.is_zero() {
            return Ok(None);
        }
        let since = self.session.expecting(now);
        match since.and_then(|since| since.checked_add(limit)) {
            Some(deadline) if now >= deadline => Err(Fatal::DataTimeout(limit)),
            deadline => Ok(deadline),
        }
    }

    fn keep_alive<O: Output>(
        &mut self,
        now: Instant,
        out: &mut O,
    ) -> Result<Option<Instant>, Fatal> {
        let (interval, timeout) = (self.config.nop_interval, self.config.nop_timeout);
        if interval.is_zero() {
            return Ok(None);
        }
        if self.discovery() {
            // Nobody pings in a discovery session; it just must not stay for ever.
            let limit = interval.saturating_add(timeout);
            return match self.heard.checked_add(limit) {
                Some(deadline) if now >= deadline => Err(Fatal::Silent(limit)),
                deadline => Ok(deadline),
            };
        }
        if let Some(pinged) = self.pinged {
            return match pinged.checked_add(timeout) {
                Some(deadline) if now >= deadline => {
                    Err(Fatal::Silent(now.saturating_duration_since(self.heard)))
                }
                deadline => Ok(deadline),
            };
        }
        match self.heard.checked_add(interval) {
            Some(deadline) if now >= deadline => {
                let tag = self.new_tag();
                self.send_nop_in(tag, out);
                self.pinged = Some(now);
                Ok(now.checked_add(timeout))
            }
            deadline => Ok(deadline),
        }
    }

    /// A NOP-In of our own: a ping if it carries a tag, else only numbers.
    fn send_nop_in<O: Output>(&mut self, ttt: u32, out: &mut O) {
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let nop = NopIn {
            flags: FINAL,
            lun: 0,
            itt: NO_TAG,
            ttt,
            stat_sn: self.stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.send(nop.encode(), &[], out);
    }

    /// Answers a ping with its own data, cut to what the initiator takes.
    fn answer_ping<O: Output>(&mut self, ping: NopOut, data: &[u8], out: &mut O) {
        if ping.itt == NO_TAG {
            // The answer to a ping of ours, or a sign of life; both have been noted.
            return;
        }
        let stat_sn = self.advance_stat_sn();
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let nop = NopIn {
            flags: FINAL,
            lun: ping.lun,
            itt: ping.itt,
            ttt: NO_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        };
        let data = data.get(..self.max_send()).unwrap_or(data);
        self.send(nop.encode(), data, out);
    }
}
