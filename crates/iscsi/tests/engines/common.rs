//! A pair of engines on a virtual clock, and a raw client that can misbehave.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iscsi::frame::{self, Digests, Received, Receiver};
use iscsi::initiator::{self, Completion, Request, Settings};
use iscsi::pdu::{self, Header, LoginRequest, LoginResponse, Opcode, Reject, RejectReason};
use iscsi::target::{
    self, Acceptance, Account, Authentication, ChapPolicy, Config, LoginPolicy, LogoutStatus,
    ScsiStatus, Secret, TargetRecord, TaskId, TmfResponse, Which,
};
use iscsi::{Output, text};

pub(crate) const INITIATOR: &str = "iqn.2026-01.org.example:initiator";
pub(crate) const TARGET: &str = "iqn.2026-01.org.example:target";
pub(crate) const ISID: [u8; 6] = [0x80, 1, 2, 3, 4, 5];

/// A start for a virtual clock.
#[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
pub(crate) fn start_of_time() -> Instant {
    Instant::now()
}

/// What an engine sends, in one piece.
#[derive(Debug, Default)]
pub(crate) struct Wire(pub(crate) Vec<u8>);

impl Output for Wire {
    type Payload = Arc<[u8]>;

    fn bytes(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.0.extend_from_slice(bytes);
    }

    fn payload(&mut self, payload: Arc<[u8]>, range: Range<usize>) {
        assert!(!range.is_empty());
        self.0.extend_from_slice(&payload[range]);
    }
}

/// Bytes that tell where they come from.
pub(crate) fn pattern(seed: u32, len: usize) -> Arc<[u8]> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .collect()
}

pub(crate) fn accept(authentication: Authentication) -> LoginPolicy {
    LoginPolicy::Accept(Acceptance {
        authentication,
        alias: Some("a target".to_owned()),
        portal_group_tag: 7,
        config: None,
    })
}

pub(crate) fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

pub(crate) fn account(user: &str, text: &str) -> Account {
    Account {
        user: user.to_owned(),
        secret: secret(text),
    }
}

pub(crate) fn chap_policy() -> ChapPolicy {
    ChapPolicy {
        accounts: vec![
            account("someone", "other-secret-99"),
            account("user", "users-secret-1"),
        ],
        algorithms: Vec::new(),
        challenge: pattern(1, 32).to_vec(),
        identifier: 77,
        mutual: None,
        mutual_required: false,
    }
}

pub(crate) fn require_chap(policy: ChapPolicy) -> LoginPolicy {
    accept(Authentication::Chap(Box::new(policy)))
}

/// A device of memory behind a target engine, and the order in which things happened.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) policy: LoginPolicy,
    pub(crate) disk: Vec<u8>,
    pub(crate) writes: HashMap<TaskId, (u64, Vec<u8>)>,
    pub(crate) listing: Vec<TargetRecord>,
    /// What came, for tests that look at it.
    pub(crate) log: Vec<String>,
    /// Ask for write data only when told to.
    pub(crate) hold: bool,
    /// Commands and functions kept unanswered while `hold` is set.
    pub(crate) held: Vec<TaskId>,
    pub(crate) functions: Vec<target::Tmf>,
}

impl Service {
    pub(crate) fn new(policy: LoginPolicy) -> Self {
        Self {
            policy,
            disk: vec![0; 1 << 20],
            writes: HashMap::new(),
            listing: Vec::new(),
            log: Vec::new(),
            hold: false,
            held: Vec::new(),
            functions: Vec::new(),
        }
    }

    pub(crate) fn event(
        &mut self,
        engine: &mut target::Connection,
        event: target::Event<'_>,
        out: &mut Wire,
    ) {
        match event {
            target::Event::LoginStart(start) => {
                self.log
                    .push(format!("start {}", start.identity.initiator_name));
                engine.login_answer(self.policy.clone(), out).unwrap();
            }
            target::Event::LoginReady(ready) => {
                self.log.push(format!("ready {:?}", ready.identity.user()));
                engine.admit(0x1234, out);
            }
            target::Event::LoginRefused(refused) => {
                self.log
                    .push(format!("refused {:?}: {}", refused.status, refused.reason));
            }
            target::Event::Command(command) => self.command(engine, &command, out),
            target::Event::Data {
                task,
                offset,
                bytes,
            } => {
                if let Some((_, buffer)) = self.writes.get_mut(&task) {
                    let at = offset as usize;
                    buffer[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
            target::Event::DataComplete { task } => {
                self.log.push("complete".to_owned());
                let (at, buffer) = self.writes.remove(&task).unwrap();
                let at = usize::try_from(at).unwrap();
                self.disk[at..at + buffer.len()].copy_from_slice(&buffer);
                let len = u32::try_from(buffer.len()).unwrap();
                engine.respond(task, &ScsiStatus::good(len), out);
            }
            target::Event::TaskAborted { task, reason } => {
                self.log.push(format!("aborted {reason:?}"));
                self.writes.remove(&task);
                let (asc, ascq) = reason.additional_sense();
                let mut sense = vec![0x70, 0, 0x0b, 0, 0, 0, 0, 10];
                sense.extend([0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]);
                engine.respond(
                    task,
                    &ScsiStatus {
                        status: 2,
                        sense: &sense,
                        transfer: 0,
                    },
                    out,
                );
            }
            other => self.side_event(engine, other, out),
        }
    }

    fn side_event(
        &mut self,
        engine: &mut target::Connection,
        event: target::Event<'_>,
        out: &mut Wire,
    ) {
        match event {
            target::Event::TaskManagement(function) => {
                self.log.push(format!("function {:?}", function.function));
                if self.hold {
                    self.functions.push(function);
                    return;
                }
                if let Some(task) = function.referenced {
                    self.writes.remove(&task);
                    engine.forget(task);
                }
                engine.tmf_respond(function.itt, TmfResponse::Complete, out);
            }
            target::Event::SendTargets { which } => {
                self.log.push(format!("targets {which:?}"));
                let listing: Vec<TargetRecord> = match which {
                    Which::Name(name) => self
                        .listing
                        .iter()
                        .filter(|t| t.name == name)
                        .cloned()
                        .collect(),
                    _ => self.listing.clone(),
                };
                engine.text_answer(&listing, out);
            }
            target::Event::Logout { reason } => {
                self.log.push(format!("logout {reason:?}"));
                engine.logout_done(LogoutStatus::Success, out);
            }
            other => panic!("not expected here: {other:?}"),
        }
    }

    /// `28h` reads, `2Ah` writes: offset in bytes 2 to 5, length in bytes 6 to 9. Others succeed.
    fn command(
        &mut self,
        engine: &mut target::Connection,
        command: &target::Command,
        out: &mut Wire,
    ) {
        if self.hold {
            self.held.push(command.task);
            return;
        }
        let cdb = command.cdb.as_bytes();
        let field = |at: usize| u32::from_be_bytes(cdb[at..at + 4].try_into().unwrap());
        let (offset, len) = (field(2), field(6));
        match cdb[0] {
            0x28 => {
                let at = offset as usize;
                let data: Arc<[u8]> = self.disk[at..at + len as usize].into();
                let status = ScsiStatus::good(len);
                engine.data_in(command.task, data, 0..len as usize, Some(&status), out);
            }
            0x2a if command.write_len > 0 => {
                let buffer = vec![0; command.write_len as usize];
                self.writes
                    .insert(command.task, (u64::from(offset), buffer));
                engine.solicit(command.task, out);
            }
            _ => engine.respond(command.task, &ScsiStatus::good(len), out),
        }
    }
}

pub(crate) fn read_cdb(offset: u32, len: u32) -> initiator::Cdb {
    cdb(0x28, offset, len)
}

pub(crate) fn write_cdb(offset: u32, len: u32) -> initiator::Cdb {
    cdb(0x2a, offset, len)
}

pub(crate) fn cdb(opcode: u8, offset: u32, len: u32) -> initiator::Cdb {
    let mut bytes = [0; 16];
    bytes[0] = opcode;
    bytes[2..6].copy_from_slice(&offset.to_be_bytes());
    bytes[6..10].copy_from_slice(&len.to_be_bytes());
    initiator::Cdb::new(bytes)
}

/// What an initiator engine told, with its data gathered.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) logged_in: Option<(u16, Option<String>, Option<u16>)>,
    pub(crate) failed: Option<(u16, Option<String>)>,
    pub(crate) data: HashMap<initiator::TaskId, Vec<u8>>,
    pub(crate) done: HashMap<initiator::TaskId, Completion>,
    pub(crate) other: Vec<initiator::Event<'static>>,
}

/// Two engines with a wire between them.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) initiator: initiator::Connection<Arc<[u8]>>,
    pub(crate) target: target::Connection,
    pub(crate) service: Service,
    pub(crate) to_target: Wire,
    pub(crate) to_initiator: Wire,
    pub(crate) told: Told,
    /// Lengths of the pieces in which bytes are handed over, used in turn.
    pub(crate) cuts: Vec<usize>,
    cut: usize,
    /// Everything that went over the wire, for replaying.
    pub(crate) sent: (Vec<u8>, Vec<u8>),
}

impl Pair {
    pub(crate) fn new(config: Config, policy: LoginPolicy, settings: Settings) -> Self {
        let now = start_of_time();
        let mut pair = Self {
            now,
            initiator: initiator::Connection::new(settings, now),
            target: target::Connection::new(Arc::new(config), now),
            service: Service::new(policy),
            to_target: Wire::default(),
            to_initiator: Wire::default(),
            told: Told::default(),
            cuts: vec![usize::MAX],
            cut: 0,
            sent: (Vec::new(), Vec::new()),
        };
        pair.initiator.start(&mut pair.to_target);
        pair
    }

    /// Logged in, with the usual settings on both sides.
    pub(crate) fn usual() -> Self {
        let settings = Settings::new(INITIATOR, TARGET, ISID);
        let mut pair = Self::new(Config::default(), accept(Authentication::None), settings);
        pair.settle().unwrap();
        assert!(pair.told.logged_in.is_some());
        pair
    }

    pub(crate) fn later(&mut self, by: Duration) {
        self.now += by;
    }

    fn next_cut(&mut self) -> usize {
        self.cut = (self.cut + 1) % self.cuts.len();
        self.cuts[self.cut].max(1)
    }

    /// Carries bytes to and fro until both sides are quiet.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        loop {
            let to_target = std::mem::take(&mut self.to_target.0);
            let to_initiator = std::mem::take(&mut self.to_initiator.0);
            if to_target.is_empty() && to_initiator.is_empty() {
                return Ok(());
            }
            self.sent.0.extend_from_slice(&to_target);
            self.sent.1.extend_from_slice(&to_initiator);
            let mut rest = to_target.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(self.next_cut().min(rest.len()));
                self.feed_target(piece)?;
                rest = after;
            }
            let mut rest = to_initiator.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(self.next_cut().min(rest.len()));
                self.feed_initiator(piece)?;
                rest = after;
            }
        }
    }

    pub(crate) fn feed_target(&mut self, mut input: &[u8]) -> Result<(), String> {
        let out = &mut self.to_initiator;
        while let Some(event) = self
            .target
            .next(self.now, &mut input, out)
            .map_err(|error| error.to_string())?
        {
            self.service.event(&mut self.target, event, out);
        }
        assert!(
            input.is_empty(),
            "the engine returned nothing but left input"
        );
        Ok(())
    }

    pub(crate) fn feed_initiator(&mut self, mut input: &[u8]) -> Result<(), String> {
        let out = &mut self.to_target;
        while let Some(event) = self
            .initiator
            .next(self.now, &mut input, out)
            .map_err(|error| error.to_string())?
        {
            self.told.take(event);
        }
        assert!(
            input.is_empty(),
            "the engine returned nothing but left input"
        );
        Ok(())
    }

    pub(crate) fn command(&mut self, request: Request<Arc<[u8]>>) -> initiator::TaskId {
        self.initiator
            .send_command(request, &mut self.to_target)
            .unwrap()
    }

    /// Sends, settles, and gives the completion back.
    pub(crate) fn run(&mut self, request: Request<Arc<[u8]>>) -> Completion {
        let task = self.command(request);
        self.settle().unwrap();
        self.told.done.remove(&task).expect("the command has ended")
    }
}

impl Told {
    fn take(&mut self, event: initiator::Event<'_>) {
        use initiator::Event as E;
        match event {
            E::LoggedIn {
                tsih,
                alias,
                portal_group_tag,
            } => {
                self.logged_in = Some((tsih, alias, portal_group_tag));
            }
            E::LoginFailed { code, redirect, .. } => self.failed = Some((code, redirect)),
            E::Data {
                task,
                offset,
                bytes,
            } => {
                let data = self.data.entry(task).or_default();
                assert_eq!(data.len(), offset as usize, "pieces come in order");
                data.extend_from_slice(bytes);
            }
            E::Done(completion) => {
                let before = self.done.insert(completion.task, completion);
                assert!(before.is_none(), "a command ends once");
            }
            E::Function { task, response } => self.other.push(E::Function { task, response }),
            E::Targets(targets) => self.other.push(E::Targets(targets)),
            E::Pong { task } => self.other.push(E::Pong { task }),
            E::LoggedOut {
                status,
                time2wait,
                time2retain,
            } => {
                self.other.push(E::LoggedOut {
                    status,
                    time2wait,
                    time2retain,
                });
            }
            E::Message(message) => self.other.push(E::Message(message)),
            E::Rejected {
                reason,
                header,
                task,
            } => {
                self.other.push(E::Rejected {
                    reason,
                    header,
                    task,
                });
            }
        }
    }
}

/// One PDU as a raw client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) header: Header,
    pub(crate) data: Vec<u8>,
}

impl Seen {
    /// The text of its data segment, NULs as spaces.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.data.clone())
            .unwrap()
            .replace('\0', " ")
    }
}

/// Cuts a stream without digests into PDUs.
pub(crate) fn cut(bytes: &[u8], digests: Digests) -> Vec<Seen> {
    let mut receiver = Receiver::new();
    receiver.configure(digests.header, digests.data, 0x00ff_ffff);
    let mut input = bytes;
    let (mut seen, mut data) = (Vec::new(), Vec::new());
    while let Some(received) = receiver.next(&mut input).unwrap() {
        match received {
            Received::Header => data.clear(),
            Received::Data { bytes, .. } => data.extend_from_slice(bytes),
            Received::End { intact } => {
                assert!(intact);
                seen.push(Seen {
                    header: receiver.header(),
                    data: data.clone(),
                });
            }
        }
    }
    assert!(!receiver.inside(), "half a PDU was sent");
    seen
}

/// A client that sends whatever a test wants to a target engine.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) now: Instant,
    pub(crate) target: target::Connection,
    pub(crate) service: Service,
    pub(crate) digests: Digests,
    pub(crate) cmd_sn: u32,
}

impl Raw {
    pub(crate) fn new(config: Config, policy: LoginPolicy) -> Self {
        let now = start_of_time();
        Self {
            now,
            target: target::Connection::new(Arc::new(config), now),
            service: Service::new(policy),
            digests: Digests::default(),
            cmd_sn: 1,
        }
    }

    /// Logged in with these operational keys, which come after MaxRecvDataSegmentLength.
    pub(crate) fn logged_in(config: Config, keys: &[(&str, &str)]) -> Self {
        let mut raw = Self::new(config, accept(Authentication::None));
        let mut all = vec![
            ("InitiatorName", INITIATOR),
            ("TargetName", TARGET),
            ("MaxRecvDataSegmentLength", "65536"),
        ];
        all.extend_from_slice(keys);
        let seen = raw.login(pdu::TRANSIT | 1 << 2 | 3, &all);
        assert_eq!(LoginResponse::decode(&seen[0].header).status, 0);
        assert!(raw.target.full_feature());
        raw
    }

    /// As above, for a discovery session.
    pub(crate) fn discovery(config: Config) -> Self {
        let mut raw = Self::new(config, accept(Authentication::None));
        let keys = [
            ("InitiatorName", INITIATOR),
            ("SessionType", "Discovery"),
            ("MaxRecvDataSegmentLength", "1024"),
        ];
        raw.login(pdu::TRANSIT | 1 << 2 | 3, &keys);
        assert!(raw.target.full_feature());
        raw
    }

    /// One login request with these flags and keys.
    pub(crate) fn login(&mut self, flags: u8, keys: &[(&str, &str)]) -> Vec<Seen> {
        let mut data = Vec::new();
        for (key, value) in keys {
            text::push(&mut data, key, value);
        }
        self.login_bytes(flags, &data)
    }

    pub(crate) fn login_bytes(&mut self, flags: u8, data: &[u8]) -> Vec<Seen> {
        self.send(self.login_request(flags).encode(), data)
    }

    pub(crate) fn login_request(&self, flags: u8) -> LoginRequest {
        LoginRequest {
            immediate: true,
            flags,
            isid: ISID,
            itt: 1,
            cid: 5,
            cmd_sn: self.cmd_sn,
            ..LoginRequest::default()
        }
    }

    pub(crate) fn send(&mut self, header: Header, data: &[u8]) -> Vec<Seen> {
        let mut wire = Wire::default();
        frame::send(header, data, self.digests, &mut wire);
        self.bytes(&wire.0).unwrap()
    }

    /// Hands raw bytes over; what the engine and the service answer comes back as PDUs.
    pub(crate) fn bytes(&mut self, mut input: &[u8]) -> Result<Vec<Seen>, target::Fatal> {
        let mut out = Wire::default();
        while let Some(event) = self.target.next(self.now, &mut input, &mut out)? {
            self.service.event(&mut self.target, event, &mut out);
        }
        Ok(cut(&out.0, self.digests))
    }

    /// What the service would do now, as PDUs.
    pub(crate) fn act(
        &mut self,
        act: impl FnOnce(&mut target::Connection, &mut Wire),
    ) -> Vec<Seen> {
        let mut out = Wire::default();
        act(&mut self.target, &mut out);
        let mut seen = cut(&out.0, self.digests);
        seen.extend(self.bytes(&[]).unwrap());
        seen
    }

    /// A command's header with the next CmdSN.
    pub(crate) fn command(
        &mut self,
        itt: u32,
        flags: u8,
        edtl: u32,
        opcode: u8,
    ) -> pdu::ScsiCommand {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.wrapping_add(1);
        let bytes = cdb(opcode, 0, edtl);
        pdu::ScsiCommand {
            flags,
            itt,
            edtl,
            cmd_sn,
            cdb: bytes.as_bytes().try_into().unwrap(),
            ..pdu::ScsiCommand::default()
        }
    }

    pub(crate) fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.service.log)
    }
}

pub(crate) const TO_FULL_FEATURE: u8 = pdu::TRANSIT | 1 << 2 | 3;
pub(crate) const NAMES: [(&str, &str); 2] = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];

pub(crate) fn rejected(seen: &[Seen]) -> Option<RejectReason> {
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].header.opcode(), Some(Opcode::Reject));
    assert_eq!(seen[0].data.len(), pdu::BHS_LEN);
    RejectReason::from_wire(Reject::decode(&seen[0].header).reason)
}

pub(crate) fn opcodes(seen: &[Seen]) -> Vec<Option<Opcode>> {
    seen.iter().map(|pdu| pdu.header.opcode()).collect()
}
