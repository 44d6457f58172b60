//! Logins, discovery, and the sessions of a shard.

use std::collections::HashMap;
use std::sync::Arc;

use iscsi::target::{
    Acceptance, Account, Algorithm, Authentication, ChapPolicy, Config, Digest, Event, LoginPolicy,
    LoginReady, LoginRefused, LoginStart, LoginStatus, LogoutReason, LogoutStatus, Secret,
    SessionIdentity, SessionType, TargetRecord, TaskId, Which,
};
use scsi::change::Selector;
use scsi::sense::{Code, Key};
use scsi::{Attention, NexusState, Sense};
use tokio::sync::oneshot;

use super::Shard;
use super::abort::Then;
use super::memory::Purse;
use crate::access::{self, Origin};
use crate::config::{self, ChapAlgorithm};
use crate::exports::Exports;
use crate::limits;
use crate::message::{ConnectionId, ControlRequest, Login, Refusal, SeenUnit};
use crate::notice::Notice;
use crate::proof::Proof;
use crate::registry::SessionShared;
use crate::unit::LogicalUnit;

/// A session; it outlives its connection until its last command has ended.
pub(super) struct Session {
    pub(super) shared: Arc<SessionShared>,
    /// Its LUN map, sorted by number.
    pub(super) luns: Vec<SessionLun>,
    /// The numbers of the map.
    pub(super) numbers: Vec<u16>,
    connection: ConnectionId,
    /// Running commands by the engine's name for them.
    pub(super) tasks: HashMap<TaskId, usize>,
    /// Buffer bytes of its initiator.
    pub(super) purse: Purse,
    ending: Option<&'static str>,
}

/// A LUN as a session sees it.
pub(super) struct SessionLun {
    pub(super) number: u16,
    pub(super) read_only: bool,
    pub(super) unit: Arc<LogicalUnit>,
    pub(super) state: NexusState,
    /// The nexus is about to be told that its writes are in doubt.
    pub(super) in_doubt: bool,
    pub(super) recorded: Recorded,
}

/// Earlier writes may be lost.
const DOUBT: Sense = Sense::new(Key::MediumError, Code::WRITE_ERROR);

/// Whether a nexus is recorded beside the device as a writer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Recorded {
    No,
    /// The control plane was asked to; writes wait.
    Asked,
    Yes,
}

/// What every connection is offered.
pub(super) fn engine_config() -> Arc<Config> {
    Arc::new(Config {
        command_window: limits::COMMAND_WINDOW,
        login_timeout: limits::LOGIN_TIME_MAX,
        data_timeout: limits::DATA_OUT_TIME_MAX,
        nop_interval: limits::NOP_INTERVAL,
        nop_timeout: limits::NOP_TIME_MAX,
        ..Config::default()
    })
}

impl Session {
    fn new(
        connection: ConnectionId,
        shared: Arc<SessionShared>,
        luns: Vec<SeenUnit>,
        purse: Purse,
    ) -> Self {
        let mut session = Self {
            shared,
            luns: Vec::new(),
            numbers: Vec::new(),
            connection,
            tasks: HashMap::new(),
            purse,
            ending: None,
        };
        session.map(luns);
        session
    }

    /// Takes a LUN map, keeping what is pending for LUNs that stay.
    fn map(&mut self, seen: Vec<SeenUnit>) {
        let mut old = std::mem::take(&mut self.luns);
        self.numbers = seen.iter().map(|lun| lun.number).collect();
        for lun in seen {
            let place = old
                .iter()
                .position(|kept| kept.number == lun.number && Arc::ptr_eq(&kept.unit, &lun.unit));
            let kept = place.map(|place| old.swap_remove(place));
            let recorded = kept.as_ref().map_or(Recorded::No, |kept| kept.recorded);
            let (state, in_doubt) = kept.map_or_else(
                || self.introduce(&lun.unit),
                |kept| (kept.state, kept.in_doubt),
            );
            self.luns.push(SessionLun {
                number: lun.number,
                read_only: lun.read_only,
                unit: lun.unit,
                state,
                in_doubt,
                recorded,
            });
        }
    }

    /// What a nexus is told first by a unit.
    fn introduce(&self, unit: &LogicalUnit) -> (NexusState, bool) {
        let mut state = NexusState::new();
        let in_doubt = unit.is_in_doubt(&self.shared.nexus);
        if in_doubt {
            state.establish_deferred(DOUBT);
        }
        (state, in_doubt)
    }

    /// A device was opened: its earlier writes may be in doubt, and whether the nexus is recorded is
    /// asked anew, for the document is another one.
    pub(super) fn doubt(&mut self, unit: &Arc<LogicalUnit>) {
        if let Some(recorded @ Recorded::Yes) = self.recorded_on(unit) {
            *recorded = Recorded::No;
        }
        if !unit.is_in_doubt(&self.shared.nexus) {
            return;
        }
        for lun in self
            .luns
            .iter_mut()
            .filter(|lun| Arc::ptr_eq(&lun.unit, unit))
        {
            lun.state.establish_deferred(DOUBT);
            lun.in_doubt = true;
        }
    }

    /// Whether the nexus is recorded as a writer of a unit; `None`: it is not in the map.
    pub(super) fn recorded_on(&mut self, unit: &Arc<LogicalUnit>) -> Option<&mut Recorded> {
        let mut luns = self.luns.iter_mut();
        let lun = luns.find(|lun| Arc::ptr_eq(&lun.unit, unit))?;
        Some(&mut lun.recorded)
    }

    pub(super) fn find(&self, number: u16) -> Option<&SessionLun> {
        self.luns.iter().find(|lun| lun.number == number)
    }

    pub(super) fn units(&self) -> Vec<Arc<LogicalUnit>> {
        self.luns.iter().map(|lun| Arc::clone(&lun.unit)).collect()
    }

    pub(super) fn attend(&mut self, unit: &Arc<LogicalUnit>, attentions: &[(Selector, Attention)]) {
        let nexus = &self.shared.nexus;
        for lun in self
            .luns
            .iter_mut()
            .filter(|lun| Arc::ptr_eq(&lun.unit, unit))
        {
            for (selector, attention) in attentions {
                if selector.matches(nexus) {
                    lun.state.establish(*attention);
                }
            }
        }
    }

    pub(super) fn attend_one(&mut self, unit: &Arc<LogicalUnit>, attention: Attention) {
        for lun in self
            .luns
            .iter_mut()
            .filter(|lun| Arc::ptr_eq(&lun.unit, unit))
        {
            lun.state.establish(attention);
        }
    }
}

impl Shard {
    /// What the engine made of the bytes that came in.
    pub(super) fn event(&mut self, index: usize, event: Event<'_>) {
        match event {
            Event::LoginStart(start) => self.login_start(index, &start),
            Event::LoginReady(ready) => self.login_ready(index, ready),
            Event::LoginRefused(refused) => self.login_refused(index, &refused),
            Event::Command(command) => self.command(index, &command),
            Event::Data {
                task,
                offset,
                bytes,
            } => self.data(index, task, offset, bytes),
            Event::DataComplete { task } => self.data_complete(index, task),
            Event::TaskAborted { task, reason } => {
                let (asc, ascq) = reason.additional_sense();
                let code = Code(u16::from_be_bytes([asc, ascq]));
                self.transfer_failed(
                    index,
                    task,
                    &scsi::Response::error(Key::AbortedCommand, code),
                );
            }
            Event::TaskManagement(request) => self.task_management(index, &request),
            Event::SendTargets { which } => self.send_targets(index, &which),
            Event::Logout { reason } => self.logout(index, reason),
        }
    }

    fn login_start(&mut self, index: usize, start: &LoginStart) {
        let exports = self.links.shared.exports.load_full();
        let connection = &self.connections[index];
        let identity = &start.identity;
        let asked = match identity.session_type {
            SessionType::Discovery => {
                Ok((exports.config.discovery.clone().unwrap_or_default(), None))
            }
            SessionType::Normal if identity.tsih != 0 => Err(self.no_joining(identity)),
            SessionType::Normal => {
                let origin = Origin {
                    initiator: &identity.initiator_name,
                    peer: connection.peer,
                    portal: &connection.portal.name,
                };
                allowed(&exports, identity, origin)
            }
        };
        let policy = asked.and_then(|(authentication, alias)| {
            Ok(Acceptance {
                authentication: prove(&exports, &authentication)?,
                alias,
                portal_group_tag: connection.portal.group,
                config: None,
            })
        });
        let policy = match policy {
            Ok(acceptance) => LoginPolicy::Accept(acceptance),
            Err((status, reason)) => {
                self.tell_refused(index, identity, reason);
                LoginPolicy::Refuse(status)
            }
        };
        let connection = &mut self.connections[index];
        if let Err(fatal) = connection.engine.login_answer(policy, &mut connection.out) {
            tracing::error!(%fatal, "the engine takes no answer to a login");
            self.close(index, "the login went wrong");
        }
    }

    /// Sessions have one connection each: nothing can be added to one, and an old one is reinstated
    /// by TSIH 0 (RFC 7143, 6.3.5).
    fn no_joining(&self, identity: &SessionIdentity) -> (LoginStatus, &'static str) {
        match self.links.shared.registry.find(identity.tsih) {
            Some(session) if *session.nexus.initiator == *identity.initiator_name => (
                LoginStatus::TooManyConnections,
                "its session has its one connection already",
            ),
            _ => (
                LoginStatus::SessionDoesNotExist,
                "it names a session that does not exist",
            ),
        }
    }

    fn login_refused(&self, index: usize, refused: &LoginRefused) {
        self.tell_refused(index, &refused.identity, &refused.reason);
    }

    fn tell_refused(&self, index: usize, identity: &SessionIdentity, reason: &str) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        self.links.shared.tell(Notice::LoginRefused {
            initiator: identity.initiator_name.clone(),
            target: identity.target_name.clone().unwrap_or_default(),
            peer: connection.peer,
            reason: reason.to_owned(),
        });
    }

    fn login_ready(&mut self, index: usize, ready: LoginReady) {
        let identity = ready.identity;
        let proof = identity.proof.as_ref().map(Proof::new);
        let Some(target) = identity
            .target_name
            .clone()
            .filter(|_| identity.session_type == SessionType::Normal)
        else {
            return self.admit_discovery(index, proof);
        };
        let Some(id) = self.id_of(index) else { return };
        let connection = &mut self.connections[index];
        let negotiated = connection.engine.negotiated();
        let login = Box::new(Login {
            initiator: identity.initiator_name,
            isid: identity.isid,
            target,
            portal: Arc::clone(&connection.portal),
            peer: connection.peer,
            proof,
            header_digest: negotiated.header_digest == Digest::Crc32c,
            data_digest: negotiated.data_digest == Digest::Crc32c,
        });
        connection.waiting = true;
        let request = self
            .links
            .shared
            .admission()
            .map(|place| ControlRequest::Admit {
                place,
                shard: self.index,
                connection: id,
                login,
            });
        let sent = request.is_some_and(|request| self.links.control.try_send(request).is_ok());
        if !sent {
            self.refuse(index, Refusal::Exhausted);
        }
    }

    fn admit_discovery(&mut self, index: usize, proof: Option<Proof>) {
        if !may_discover(&self.links.shared.exports.load(), proof.as_ref()) {
            return self.refuse(index, Refusal::Unproven);
        }
        let connection = &mut self.connections[index];
        if connection.visit.discover().is_err() {
            return self.refuse(index, Refusal::Exhausted);
        }
        let Some(tsih) = self.links.shared.registry.spare_handle() else {
            return self.refuse(index, Refusal::Exhausted);
        };
        self.logged_in(index);
        let connection = &mut self.connections[index];
        connection.proof = proof;
        connection.engine.admit(tsih, &mut connection.out);
        self.mark(index);
    }

    fn logged_in(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.waiting = false;
        if std::mem::take(&mut connection.in_login) {
            self.logins -= 1;
        }
    }

    fn refuse(&mut self, index: usize, refusal: Refusal) {
        let status = match refusal {
            Refusal::Forbidden => LoginStatus::Forbidden,
            Refusal::Unproven => LoginStatus::AuthenticationFailure,
            Refusal::NotFound => LoginStatus::NotFound,
            Refusal::Taken | Refusal::Enough | Refusal::Exhausted => LoginStatus::OutOfResources,
            Refusal::Stuck => LoginStatus::ServiceUnavailable,
        };
        let identity = self.connections[index].engine.identity().clone();
        self.tell_refused(index, &identity, refusal.reason());
        let connection = &mut self.connections[index];
        connection.waiting = false;
        connection.engine.refuse(status, &mut connection.out);
        connection.closing = true;
        self.mark(index);
    }

    /// The control plane has decided about a login.
    pub(super) fn admitted(
        &mut self,
        id: ConnectionId,
        outcome: Result<Arc<SessionShared>, Refusal>,
    ) {
        let alive = self
            .connection(id)
            .filter(|(_, connection)| !connection.is_dead());
        let index = alive.map(|(index, _)| index);
        match (index, outcome) {
            (Some(index), Ok(session)) => self.open_session(index, id, &session),
            (Some(index), Err(refusal)) => self.refuse(index, refusal),
            (None, Ok(session)) => {
                self.doomed.remove(&session.tsih);
                self.links.shared.registry.remove(session.tsih);
            }
            (None, Err(_)) => {}
        }
        if let Some(index) = index {
            self.pump(index);
        }
    }

    fn open_session(&mut self, index: usize, id: ConnectionId, shared: &Arc<SessionShared>) {
        let exports = self.links.shared.exports.load_full();
        let luns = exports.luns_of_session(shared);
        let doomed = self.doomed.remove(&shared.tsih);
        let luns = match luns {
            Ok(_) if doomed => Err(Refusal::Forbidden),
            luns => luns,
        };
        let luns = match luns {
            Ok(luns) => luns,
            Err(refusal) => {
                self.links.shared.registry.remove(shared.tsih);
                return self.refuse(index, refusal);
            }
        };
        let initiator = &shared.nexus.initiator;
        let sibling = self
            .sessions
            .iter()
            .find(|(_, other)| other.shared.nexus.initiator == *initiator);
        let purse = sibling.map_or_else(Purse::default, |(_, other)| Purse::clone(&other.purse));
        let session = Session::new(id, Arc::clone(shared), luns, purse);
        shared.set_luns(session.numbers.clone());
        self.links.shared.tell(Notice::SessionOpened {
            initiator: shared.nexus.initiator.to_string(),
            target: shared.target.clone(),
            peer: shared.peer,
        });
        let place = self.sessions.insert(session);
        self.by_tsih.insert(shared.tsih, place);
        self.logged_in(index);
        let connection = &mut self.connections[index];
        connection.visit.settle();
        connection.session = Some(place);
        connection.engine.admit(shared.tsih, &mut connection.out);
        self.mark(index);
    }

    /// Ends a session by its handle; one that is admitted but not open yet never opens.
    pub(super) fn end_by_handle(&mut self, tsih: u16, reason: &'static str) {
        if let Some(session) = self.by_tsih.get(&tsih) {
            self.end_session(*session, reason);
        } else if self.links.shared.registry.find(tsih).is_some() {
            self.doomed.insert(tsih);
        }
    }

    fn send_targets(&mut self, index: usize, which: &Which) {
        let exports = self.links.shared.exports.load_full();
        let connection = &mut self.connections[index];
        if connection.session.is_none() && !may_discover(&exports, connection.proof.as_ref()) {
            return self.lose(index, Refusal::Unproven.ended());
        }
        let identity = connection.engine.identity();
        let wanted = |name: &str| match which {
            Which::All => true,
            Which::This => identity.target_name.as_deref() == Some(name),
            Which::Name(asked) => asked == name,
        };
        let origin = Origin {
            initiator: &identity.initiator_name,
            peer: connection.peer,
            portal: &connection.portal.name,
        };
        let listing: Vec<TargetRecord> = exports
            .config
            .targets
            .iter()
            .filter(|target| wanted(&target.name) && access::permission(target, origin).is_some())
            .map(|target| TargetRecord {
                name: target.name.clone(),
                addresses: access::addresses(
                    target,
                    &exports.config.portals,
                    origin,
                    connection.local,
                )
                .into_iter()
                .map(|(address, group)| format!("{address},{group}"))
                .collect(),
            })
            .collect();
        connection.engine.text_answer(&listing, &mut connection.out);
        self.mark(index);
    }

    fn logout(&mut self, index: usize, reason: LogoutReason) {
        let Some(id) = self.id_of(index) else { return };
        if reason == LogoutReason::RecoverConnection {
            let connection = &mut self.connections[index];
            let status = LogoutStatus::RecoveryNotSupported;
            connection.engine.logout_done(status, &mut connection.out);
            return self.mark(index);
        }
        match self.connections[index].session {
            Some(session) => self.abort_session(session, Then::LoggedOut { connection: id }),
            None => self.logged_out(id),
        }
    }

    pub(super) fn logged_out(&mut self, id: ConnectionId) {
        let Some((index, connection)) = self.connection(id) else {
            return;
        };
        connection
            .engine
            .logout_done(LogoutStatus::Success, &mut connection.out);
        self.close(index, "the initiator logged out");
    }

    /// The session ends: no new commands, and its registry entry goes with its last command.
    pub(super) fn end_session(&mut self, place: usize, reason: &'static str) {
        let Some(session) = self.sessions.get_mut(place) else {
            return;
        };
        if session.ending.is_some() {
            return;
        }
        session.ending = Some(reason);
        let id = session.connection;
        self.abort_session(place, Then::SessionEnded(place));
        if let Some((index, connection)) = self.connection(id)
            && !connection.closing
        {
            connection.session = None;
            self.lose(index, reason);
        }
    }

    pub(super) fn session_over(&mut self, place: usize) {
        let session = self.sessions.remove(place);
        let shared = session.shared;
        self.by_tsih.remove(&shared.tsih);
        let lost: Vec<_> = session
            .luns
            .into_iter()
            .filter(|lun| scsi::change::nexus_lost(&lun.unit.published(), &shared.nexus).is_some())
            .map(|lun| lun.unit)
            .collect();
        self.links.shared.tell(Notice::SessionClosed {
            initiator: shared.nexus.initiator.to_string(),
            target: shared.target.clone(),
            reason: session.ending.unwrap_or("it ended").to_owned(),
        });
        self.links.shared.registry.remove(shared.tsih);
        // Now that the nexus has no session, unless it has come back.
        for unit in lost {
            if let Some(place) = unit.place() {
                let lost = ControlRequest::NexusLost {
                    place,
                    unit,
                    target: shared.target.clone(),
                    nexus: shared.nexus.clone(),
                };
                // Without room the control plane's next look finds it.
                let _ = self.links.control.try_send(lost);
            }
        }
    }

    /// The LUN map of a session may have changed.
    pub(super) fn remap(&mut self, tsih: u16, seen: Vec<SeenUnit>, done: oneshot::Sender<()>) {
        // Without the session the sender is dropped, which is an answer, too.
        let Some(place) = self.by_tsih.get(&tsih).copied() else {
            return;
        };
        let session = &mut self.sessions[place];
        let same =
            session.luns.len() == seen.len()
                && session.luns.iter().zip(&seen).all(|(old, new)| {
                    old.number == new.number && Arc::ptr_eq(&old.unit, &new.unit)
                });
        let narrowed: Vec<Arc<LogicalUnit>> = session
            .luns
            .iter()
            .filter(|old| {
                let now = seen.iter().find(|new| Arc::ptr_eq(&new.unit, &old.unit));
                now.is_some_and(|new| new.read_only && !old.read_only)
            })
            .map(|old| Arc::clone(&old.unit))
            .collect();
        session.map(seen);
        if !same {
            for lun in &mut session.luns {
                lun.state.establish(Attention::LunsChanged);
            }
        }
        let kept = session.units();
        let id = session.connection;
        if let Some((_, connection)) = self.connection(id) {
            // Their units owe it still: should they come back, they tell it once more.
            let stays = |unit: &Arc<LogicalUnit>| kept.iter().any(|kept| Arc::ptr_eq(kept, unit));
            connection.tellings.retain(|telling| stays(&telling.unit));
        }
        // A write that was open when the right to write went must not end well later.
        let gone = |unit: &Arc<LogicalUnit>| {
            !kept.iter().any(|kept| Arc::ptr_eq(kept, unit))
                || narrowed.iter().any(|narrowed| Arc::ptr_eq(narrowed, unit))
        };
        let tasks = self
            .running
            .iter()
            .filter(|(_, running)| running.session == place && gone(&running.unit))
            .map(|(index, _)| index)
            .collect();
        self.abort_all(tasks, Then::Tell(done));
    }
}

type Asked = Result<(config::Authentication, Option<String>), (LoginStatus, &'static str)>;

/// What an initiator has to prove for the target it names, if it may have it at all.
fn allowed(exports: &Exports, identity: &SessionIdentity, origin: Origin<'_>) -> Asked {
    let name = identity.target_name.as_deref().unwrap_or_default();
    let target = exports
        .target(name)
        .filter(|target| access::answers_on(target, origin.portal))
        .ok_or((LoginStatus::NotFound, Refusal::NotFound.reason()))?;
    let permission = access::permission(target, origin)
        .ok_or((LoginStatus::Forbidden, Refusal::Forbidden.reason()))?;
    Ok((permission.authentication.clone(), target.alias.clone()))
}

/// Whether a discovery session with this proof may go on.
fn may_discover(exports: &Exports, proof: Option<&Proof>) -> bool {
    let asked = exports.config.discovery.as_ref();
    asked.is_none_or(|asked| exports.proves(asked, proof))
}

/// The engine's words for what has to be proven, with the secrets.
fn prove(
    exports: &Exports,
    asked: &config::Authentication,
) -> Result<Authentication, (LoginStatus, &'static str)> {
    if asked.accounts.is_empty() {
        return Ok(Authentication::None);
    }
    let account = |user: &String| {
        exports.secret_of(user).map(|secret| Account {
            user: user.clone(),
            secret: Secret::new(secret.to_vec()),
        })
    };
    let mut random = [0; limits::CHALLENGE_BYTES + 1];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| (LoginStatus::TargetError, "the system gives no random bytes"))?;
    let (identifier, challenge) = random.split_first().unwrap_or((&0, &[]));
    Ok(Authentication::Chap(Box::new(ChapPolicy {
        accounts: asked.accounts.iter().filter_map(account).collect(),
        algorithms: asked
            .algorithms
            .iter()
            .map(|algorithm| (*algorithm).into())
            .collect(),
        challenge: challenge.to_vec(),
        identifier: *identifier,
        mutual: asked.mutual.as_ref().and_then(account),
        mutual_required: asked.mutual_required,
    })))
}

impl From<Algorithm> for ChapAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Md5 => Self::Md5,
            Algorithm::Sha1 => Self::Sha1,
            Algorithm::Sha256 => Self::Sha256,
            Algorithm::Sha3_256 => Self::Sha3_256,
        }
    }
}

impl From<ChapAlgorithm> for Algorithm {
    fn from(algorithm: ChapAlgorithm) -> Self {
        match algorithm {
            ChapAlgorithm::Md5 => Self::Md5,
            ChapAlgorithm::Sha1 => Self::Sha1,
            ChapAlgorithm::Sha256 => Self::Sha256,
            ChapAlgorithm::Sha3_256 => Self::Sha3_256,
        }
    }
}
