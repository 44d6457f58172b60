//! The target's half of login: stages, names, CHAP, negotiation.
//!
//! A login is a series of requests, each answered before the next may come. A request's text may
//! be spread over several PDUs (C bit) and so may the answer's. Twice the engine stops and asks
//! the service: when the names are known ([`Outcome::Ask`] with LoginStart) and when all is agreed
//! (LoginReady).

use std::time::Instant;

use super::event::{Event, LoginReady, LoginRefused, LoginStart, Proof, SessionIdentity};
use super::policy::{Acceptance, Authentication, ChapPolicy};
use super::{Config, Negotiated};
use crate::chap::{self, Algorithm, ChapError, Secret};
use crate::command::SessionType;
use crate::limits::{LOGIN_SEGMENT_BYTES_MAX, LOGIN_TEXT_BYTES_MAX, VALUE_BYTES_MAX};
use crate::name;
use crate::negotiation::Negotiation;
use crate::pdu::{
    CONTINUE, LoginRequest, LoginResponse, LoginStatus, STAGE_FULL_FEATURE, STAGE_OPERATIONAL,
    STAGE_SECURITY, TRANSIT,
};
use crate::text;

/// The only protocol version there is.
const VERSION: u8 = 0;

/// What a request leads to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// This response and its text.
    Respond(LoginResponse, Vec<u8>),
    /// The service has to say something first.
    Ask(Event<'static>),
}

/// A login that ends here.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: LoginStatus,
    pub(super) reason: String,
}

impl Refusal {
    fn new(status: LoginStatus, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }

    fn initiator(reason: impl Into<String>) -> Self {
        Self::new(LoginStatus::InitiatorError, reason)
    }

    /// The initiator never learns which step of CHAP failed.
    fn chap(error: &ChapError) -> Self {
        Self::new(LoginStatus::AuthenticationFailure, error.to_string())
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Initiator,
    /// LoginStart was told.
    Policy,
    /// LoginReady was told.
    Admission,
}

/// How far CHAP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chap {
    /// AuthMethod has not been negotiated.
    Method,
    /// CHAP was chosen; CHAP_A comes next.
    Algorithm,
    /// Challenged; the response comes next.
    Response(Algorithm),
    /// Proven, or nothing to prove.
    Done,
}

type Pairs = Vec<(String, String)>;

/// A login under way.
#[derive(Debug)]
pub(super) struct Login {
    since: Instant,
    pdus: u32,
    turn: Turn,
    /// The current stage; none before the first request.
    stage: Option<u8>,
    /// The last request.
    request: LoginRequest,
    /// Text of the current request, gathered over its PDUs.
    gathered: Vec<u8>,
    /// Text still to be sent.
    answer: Vec<u8>,
    /// The stage to go to once the answer is sent.
    transit: Option<u8>,
    /// Keys that wait for the policy.
    pairs: Pairs,
    identity: SessionIdentity,
    acceptance: Option<Acceptance>,
    chap: Chap,
    negotiation: Option<Negotiation>,
    greeted: bool,
}

impl Login {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            pdus: 0,
            turn: Turn::Initiator,
            stage: None,
            request: LoginRequest::default(),
            gathered: Vec::new(),
            answer: Vec::new(),
            transit: None,
            pairs: Vec::new(),
            identity: SessionIdentity::default(),
            acceptance: None,
            chap: Chap::Method,
            negotiation: None,
            greeted: false,
        }
    }

    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    /// Whether the next word is the initiator's.
    pub(super) fn expects_request(&self) -> bool {
        self.turn == Turn::Initiator
    }

    pub(super) fn awaits_policy(&self) -> bool {
        self.turn == Turn::Policy
    }

    pub(super) fn awaits_admission(&self) -> bool {
        self.turn == Turn::Admission
    }

    pub(super) const fn identity(&self) -> &SessionIdentity {
        &self.identity
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        let pairs = self
            .pairs
            .iter()
            .map(|(key, value)| key.len().saturating_add(value.len()));
        pairs
            .fold(0, usize::saturating_add)
            .saturating_add(self.gathered.capacity())
            .saturating_add(self.answer.capacity())
    }

    /// The session's first CmdSN.
    pub(super) const fn cmd_sn(&self) -> u32 {
        self.request.cmd_sn
    }

    pub(super) fn negotiated(&self) -> Negotiated {
        self.negotiation
            .as_ref()
            .map(Negotiation::conclude)
            .unwrap_or_default()
    }

    /// The offers of the target that was chosen, if they differ from the portal's.
    pub(super) fn config(&self) -> Option<&std::sync::Arc<Config>> {
        self.acceptance
            .as_ref()
            .and_then(|acceptance| acceptance.config.as_ref())
    }

    /// A response to the last request; sequence numbers are the connection's.
    fn response(&self, flags: u8) -> LoginResponse {
        let stage = self.stage.unwrap_or(STAGE_SECURITY) << 2;
        LoginResponse {
            flags: flags | stage,
            version_max: VERSION,
            version_active: VERSION,
            isid: self.request.isid,
            tsih: self.request.tsih,
            itt: self.request.itt,
            ..LoginResponse::default()
        }
    }

    /// The response that refuses.
    pub(super) fn refusal(&self, status: LoginStatus) -> LoginResponse {
        LoginResponse {
            status: status.to_wire(),
            ..self.response(0)
        }
    }

    /// The event that tells of a refusal.
    pub(super) fn refused(&self, refusal: Refusal) -> LoginRefused {
        let Refusal { status, reason } = refusal;
        LoginRefused {
            status,
            reason,
            identity: self.identity.clone(),
        }
    }

    /// Takes one login request with its data segment.
    pub(super) fn request(
        &mut self,
        config: &Config,
        request: LoginRequest,
        data: &[u8],
    ) -> Result<Outcome, Refusal> {
        self.check(config, request)?;
        if !self.answer.is_empty() {
            return self.go_on_answering(data);
        }
        if self.gathered.len().saturating_add(data.len()) > LOGIN_TEXT_BYTES_MAX {
            return Err(Refusal::initiator("login text is too long"));
        }
        self.gathered.extend_from_slice(data);
        if request.flags & CONTINUE != 0 {
            return Ok(Outcome::Respond(self.response(0), Vec::new()));
        }
        let gathered = std::mem::take(&mut self.gathered);
        let parsed = text::parse(&gathered).map_err(|e| Refusal::initiator(e.to_string()))?;
        if self.acceptance.is_some() {
            return self.proceed(&parsed);
        }
        self.introduce(&parsed)?;
        self.turn = Turn::Policy;
        Ok(Outcome::Ask(Event::LoginStart(LoginStart {
            identity: self.identity.clone(),
        })))
    }

    /// Header fields: version, stages, the same session throughout.
    fn check(&mut self, config: &Config, request: LoginRequest) -> Result<(), Refusal> {
        let first = self.stage.is_none();
        let before = std::mem::replace(&mut self.request, request);
        self.pdus = self.pdus.saturating_add(1);
        if self.pdus > config.login_pdus_max {
            return Err(Refusal::initiator("too many login requests"));
        }
        if request.version_min > VERSION {
            let reason = format!("lowest version spoken is {}", request.version_min);
            return Err(Refusal::new(LoginStatus::UnsupportedVersion, reason));
        }
        let same = |r: &LoginRequest| (r.isid, r.tsih, r.cid);
        if !first && same(&before) != same(&request) {
            return Err(Refusal::initiator("ISID, TSIH or CID changed during login"));
        }
        let current = request.flags >> 2 & 3;
        let next = request.flags & 3;
        if current > STAGE_OPERATIONAL || self.stage.is_some_and(|stage| stage != current) {
            return Err(Refusal::initiator(format!("wrong current stage {current}")));
        }
        if request.flags & TRANSIT != 0 {
            let forward = matches!(next, STAGE_OPERATIONAL | STAGE_FULL_FEATURE) && next > current;
            if !forward || request.flags & CONTINUE != 0 {
                return Err(Refusal::initiator(format!(
                    "wrong transition {current} to {next}"
                )));
            }
        }
        self.stage = Some(current);
        Ok(())
    }

    /// Takes the names from the first text and keeps the other keys for later.
    fn introduce(&mut self, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        self.identity.isid = self.request.isid;
        self.identity.tsih = self.request.tsih;
        self.identity.cid = self.request.cid;
        let mut session_type = None;
        let mut rest = Pairs::new();
        for (key, value) in pairs {
            let repeated = match *key {
                "InitiatorName" => {
                    let name = normalized(key, value)?;
                    !std::mem::replace(&mut self.identity.initiator_name, name).is_empty()
                }
                "TargetName" => self
                    .identity
                    .target_name
                    .replace(normalized(key, value)?)
                    .is_some(),
                "InitiatorAlias" => self
                    .identity
                    .initiator_alias
                    .replace((*value).to_owned())
                    .is_some(),
                "SessionType" => session_type.replace(self::session_type(value)?).is_some(),
                _ => {
                    rest.push(((*key).to_owned(), (*value).to_owned()));
                    false
                }
            };
            if repeated {
                return Err(Refusal::initiator(format!("{key} came twice")));
            }
        }
        self.identity.session_type = session_type.unwrap_or_default();
        let missing =
            |key| Refusal::new(LoginStatus::MissingParameter, format!("{key} is missing"));
        if self.identity.initiator_name.is_empty() {
            return Err(missing("InitiatorName"));
        }
        let normal = self.identity.session_type == SessionType::Normal;
        if normal && self.identity.target_name.is_none() {
            return Err(missing("TargetName"));
        }
        self.pairs = rest;
        Ok(())
    }

    /// The service lets it go on.
    pub(super) fn accept(
        &mut self,
        acceptance: Acceptance,
        config: &Config,
    ) -> Result<Outcome, Refusal> {
        if let Authentication::Chap(policy) = &acceptance.authentication {
            chap::check_challenge(&policy.challenge)
                .map_err(|error| Refusal::new(LoginStatus::TargetError, error.to_string()))?;
        }
        let discovery = self.identity.session_type == SessionType::Discovery;
        let offer = acceptance.config.as_deref().unwrap_or(config).offer.clone();
        self.negotiation = Some(Negotiation::new(offer, discovery));
        self.acceptance = Some(acceptance);
        self.turn = Turn::Initiator;
        let pairs = std::mem::take(&mut self.pairs);
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        self.proceed(&pairs)
    }

    /// Takes the names out that an initiator says once more. RFC 7143 (6.2) wants each key once, but
    /// libiscsi repeats its names in every login request of a discovery session: the same again is
    /// harmless, another one is refused.
    fn without_names<'a>(
        &self,
        pairs: &[(&'a str, &'a str)],
    ) -> Result<Vec<(&'a str, &'a str)>, Refusal> {
        let mut rest = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let same = match *key {
                "InitiatorName" => normalized(key, value)? == self.identity.initiator_name,
                "InitiatorAlias" => self.identity.initiator_alias.as_deref() == Some(*value),
                "TargetName" => Some(normalized(key, value)?) == self.identity.target_name,
                "SessionType" => self::session_type(value)? == self.identity.session_type,
                _ => {
                    rest.push((*key, *value));
                    continue;
                }
            };
            if !same {
                return Err(Refusal::initiator(format!(
                    "{key} came twice, and not the same"
                )));
            }
        }
        Ok(rest)
    }

    /// One whole request's keys, in the current stage.
    fn proceed(&mut self, pairs: &[(&str, &str)]) -> Result<Outcome, Refusal> {
        self.greet();
        let pairs = self.without_names(pairs)?;
        let wants = (self.request.flags & TRANSIT != 0).then_some(self.request.flags & 3);
        if self.stage == Some(STAGE_SECURITY) {
            self.security(&pairs, wants.is_some())?;
            if self.chap == Chap::Done {
                self.transit = wants;
            }
        } else {
            self.operational(&pairs)?;
            self.transit = wants;
        }
        self.send_answer()
    }

    /// What a target says in its first response of a normal session.
    fn greet(&mut self) {
        let normal = self.identity.session_type == SessionType::Normal;
        if std::mem::replace(&mut self.greeted, true) || !normal {
            return;
        }
        if let Some(acceptance) = &self.acceptance {
            let tag = acceptance.portal_group_tag.to_string();
            text::push(&mut self.answer, "TargetPortalGroupTag", &tag);
            let alias = acceptance.alias.as_deref().unwrap_or_default();
            if !alias.is_empty() && alias.len() <= VALUE_BYTES_MAX && !alias.contains('\0') {
                text::push(&mut self.answer, "TargetAlias", alias);
            }
        }
    }

    fn operational(&mut self, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        self.authenticated()?;
        let mut operational = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            if *key == "AuthMethod" || key.starts_with("CHAP_") {
                return Err(Refusal::initiator(format!(
                    "{key} outside the security stage"
                )));
            }
            if !self.targets_own(key) {
                operational.push((*key, *value));
            }
        }
        if let Some(negotiation) = &mut self.negotiation {
            negotiation
                .receive(&operational, &mut self.answer)
                .map_err(|error| Refusal::initiator(error.to_string()))?;
            negotiation.declare(&mut self.answer);
        }
        Ok(())
    }

    /// Keys that only a target sends, or only in full feature phase, are refused by value.
    fn targets_own(&mut self, key: &str) -> bool {
        let own = matches!(
            key,
            "TargetAlias" | "TargetAddress" | "TargetPortalGroupTag" | "SendTargets"
        );
        if own {
            text::push(&mut self.answer, key, text::REJECT);
        }
        own
    }

    /// Nothing goes on without the proof that the policy asks for.
    fn authenticated(&mut self) -> Result<(), Refusal> {
        if self.chap == Chap::Done {
            return Ok(());
        }
        if self.policy().is_some() {
            let reason = "authentication is required and the initiator skipped it";
            return Err(Refusal::new(LoginStatus::AuthenticationFailure, reason));
        }
        self.chap = Chap::Done;
        Ok(())
    }

    fn policy(&self) -> Option<&ChapPolicy> {
        match self
            .acceptance
            .as_ref()
            .map(|acceptance| &acceptance.authentication)
        {
            Some(Authentication::Chap(policy)) => Some(policy),
            _ => None,
        }
    }

    /// Keys of the security stage.
    fn security(&mut self, pairs: &[(&str, &str)], leaving: bool) -> Result<(), Refusal> {
        let mut keys = SecurityKeys::default();
        for (key, value) in pairs {
            match keys.place(key) {
                Some(place) => {
                    if place.replace(value).is_some() {
                        return Err(Refusal::initiator(format!("{key} came twice")));
                    }
                }
                None if Negotiation::knows(key) => {
                    return Err(Refusal::initiator(format!("{key} in the security stage")));
                }
                None => {
                    if !self.targets_own(key) {
                        text::push(&mut self.answer, key, text::NOT_UNDERSTOOD);
                    }
                }
            }
        }
        if let Some(offered) = keys.method.take() {
            self.method(offered)?;
        } else if self.chap == Chap::Method && leaving {
            self.authenticated()?;
        }
        if let Chap::Algorithm = self.chap {
            if let Some(offered) = keys.algorithm.take() {
                self.challenge(offered)
                    .map_err(|error| Refusal::chap(&error))?;
            }
        } else if let Chap::Response(algorithm) = self.chap {
            self.prove(algorithm, &mut keys)
                .map_err(|error| Refusal::chap(&error))?;
        }
        match keys.left_over() {
            None => Ok(()),
            Some(key) => Err(Refusal::chap(&ChapError::Unexpected { key })),
        }
    }

    fn method(&mut self, offered: &str) -> Result<(), Refusal> {
        if self.chap != Chap::Method {
            return Err(Refusal::initiator("AuthMethod came twice"));
        }
        let chap = self.policy().is_some();
        let method = if chap { "CHAP" } else { "None" };
        if !offered.split(',').any(|word| word == method) {
            let reason = format!("AuthMethod={offered} does not offer {method}");
            return Err(Refusal::new(LoginStatus::AuthenticationFailure, reason));
        }
        self.chap = if chap { Chap::Algorithm } else { Chap::Done };
        text::push(&mut self.answer, "AuthMethod", method);
        Ok(())
    }

    /// CHAP_A came: choose, and challenge.
    fn challenge(&mut self, offered: &str) -> Result<(), ChapError> {
        let Some(policy) = self.policy() else {
            return Ok(());
        };
        let allowed = policy.algorithms.as_slice();
        let allowed = if allowed.is_empty() {
            &Algorithm::ALL
        } else {
            allowed
        };
        let algorithm = chap::choose(offered, allowed)?;
        let identifier = policy.identifier.to_string();
        let challenge = chap::encode_value(&policy.challenge);
        text::push(&mut self.answer, "CHAP_A", &algorithm.number().to_string());
        text::push(&mut self.answer, "CHAP_I", &identifier);
        text::push(&mut self.answer, "CHAP_C", &challenge);
        self.chap = Chap::Response(algorithm);
        Ok(())
    }

    /// CHAP_N and CHAP_R came, perhaps with a challenge for us.
    fn prove(
        &mut self,
        algorithm: Algorithm,
        keys: &mut SecurityKeys<'_>,
    ) -> Result<(), ChapError> {
        let Some(Authentication::Chap(policy)) = self
            .acceptance
            .as_ref()
            .map(|acceptance| &acceptance.authentication)
        else {
            return Ok(());
        };
        let user = keys
            .user
            .take()
            .ok_or(ChapError::Missing { key: "CHAP_N" })?;
        let response = keys
            .response
            .take()
            .ok_or(ChapError::Missing { key: "CHAP_R" })?;
        let secret = verify(policy, algorithm, user, response)?;
        let ours = mutual(policy, algorithm, secret, keys)?;
        self.identity.proof = Some(Proof {
            user: user.to_owned(),
            algorithm,
            mutual: ours.is_some(),
        });
        if let Some((name, response)) = ours {
            text::push(&mut self.answer, "CHAP_N", &name);
            text::push(&mut self.answer, "CHAP_R", &chap::encode_value(&response));
        }
        self.chap = Chap::Done;
        Ok(())
    }

    /// The initiator asks for the rest of our answer.
    fn go_on_answering(&mut self, data: &[u8]) -> Result<Outcome, Refusal> {
        if !data.is_empty() || self.request.flags & CONTINUE != 0 {
            return Err(Refusal::initiator(
                "text came before our answer was complete",
            ));
        }
        if self.request.flags & TRANSIT != 0 && self.transit.is_none() && self.chap == Chap::Done {
            self.transit = Some(self.request.flags & 3);
        }
        self.send_answer()
    }

    /// The answer or its next piece; with the last one the stage changes.
    fn send_answer(&mut self) -> Result<Outcome, Refusal> {
        let max = usize::try_from(LOGIN_SEGMENT_BYTES_MAX).unwrap_or(usize::MAX);
        if self.answer.len() > max {
            let rest = self.answer.split_off(max);
            let piece = std::mem::replace(&mut self.answer, rest);
            return Ok(Outcome::Respond(self.response(CONTINUE), piece));
        }
        match self.transit.take() {
            Some(STAGE_FULL_FEATURE) => {
                self.turn = Turn::Admission;
                Ok(Outcome::Ask(Event::LoginReady(LoginReady {
                    identity: self.identity.clone(),
                })))
            }
            Some(next) => {
                let response = self.response(TRANSIT | next);
                self.stage = Some(next);
                Ok(Outcome::Respond(response, std::mem::take(&mut self.answer)))
            }
            None => Ok(Outcome::Respond(
                self.response(0),
                std::mem::take(&mut self.answer),
            )),
        }
    }

    /// The last response.
    pub(super) fn admit(&mut self, tsih: u16) -> (LoginResponse, Vec<u8>) {
        self.identity.tsih = tsih;
        let response = LoginResponse {
            tsih,
            ..self.response(TRANSIT | STAGE_FULL_FEATURE)
        };
        (response, std::mem::take(&mut self.answer))
    }
}

/// The keys of the security stage that came in one text.
#[derive(Default)]
struct SecurityKeys<'a> {
    method: Option<&'a str>,
    algorithm: Option<&'a str>,
    identifier: Option<&'a str>,
    challenge: Option<&'a str>,
    user: Option<&'a str>,
    response: Option<&'a str>,
}

impl<'a> SecurityKeys<'a> {
    fn place(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
        Some(match key {
            "AuthMethod" => &mut self.method,
            "CHAP_A" => &mut self.algorithm,
            "CHAP_I" => &mut self.identifier,
            "CHAP_C" => &mut self.challenge,
            "CHAP_N" => &mut self.user,
            "CHAP_R" => &mut self.response,
            _ => return None,
        })
    }

    fn left_over(&self) -> Option<&'static str> {
        [
            ("AuthMethod", self.method),
            ("CHAP_A", self.algorithm),
            ("CHAP_I", self.identifier),
            ("CHAP_C", self.challenge),
            ("CHAP_N", self.user),
            ("CHAP_R", self.response),
        ]
        .into_iter()
        .find_map(|(key, value)| value.map(|_| key))
    }
}

/// Checks the initiator's proof; an unknown user costs the same work as a wrong secret.
fn verify<'p>(
    policy: &'p ChapPolicy,
    algorithm: Algorithm,
    user: &str,
    response: &str,
) -> Result<&'p Secret, ChapError> {
    let response =
        chap::decode_response(response, algorithm).map_err(|error| ChapError::Value {
            key: "CHAP_R",
            error,
        })?;
    let account = policy.accounts.iter().find(|account| account.user == user);
    let nobody = Secret::new(vec![0; 16]);
    let secret = account.map_or(&nobody, |account| &account.secret);
    let proven = algorithm.verify(policy.identifier, secret, &policy.challenge, &response);
    match account {
        Some(account) if proven => Ok(&account.secret),
        _ => Err(ChapError::Refused),
    }
}

/// Our own proof, if it was asked for: CHAP_N and CHAP_R.
fn mutual(
    policy: &ChapPolicy,
    algorithm: Algorithm,
    initiators: &Secret,
    keys: &mut SecurityKeys<'_>,
) -> Result<Option<(String, Vec<u8>)>, ChapError> {
    let (identifier, challenge) = match (keys.identifier.take(), keys.challenge.take()) {
        (None, None) if policy.mutual_required => return Err(ChapError::MutualRequired),
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(ChapError::Missing { key: "CHAP_I" }),
        (Some(_), None) => return Err(ChapError::Missing { key: "CHAP_C" }),
        (Some(identifier), Some(challenge)) => (identifier, challenge),
    };
    let account = policy
        .mutual
        .as_ref()
        .ok_or(ChapError::MutualNotConfigured)?;
    let identifier = chap::decode_identifier(identifier).map_err(|error| ChapError::Value {
        key: "CHAP_I",
        error,
    })?;
    let challenge = chap::decode_value(challenge).map_err(|error| ChapError::Value {
        key: "CHAP_C",
        error,
    })?;
    if challenge == policy.challenge {
        return Err(ChapError::Reflected);
    }
    if chap::same_secret(initiators, &account.secret) {
        return Err(ChapError::SameSecret);
    }
    let response = algorithm.response(identifier, &account.secret, &challenge);
    Ok(Some((account.user.clone(), response)))
}

fn normalized(key: &str, value: &str) -> Result<String, Refusal> {
    name::normalize(value).map_err(|error| Refusal::initiator(format!("{key}: {error}")))
}

fn session_type(value: &str) -> Result<SessionType, Refusal> {
    match value {
        "Discovery" => Ok(SessionType::Discovery),
        "Normal" => Ok(SessionType::Normal),
        other => {
            let reason = format!("SessionType={other}");
            Err(Refusal::new(LoginStatus::SessionTypeNotSupported, reason))
        }
    }
}
