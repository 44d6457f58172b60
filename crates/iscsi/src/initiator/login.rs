//! The initiator's half of login.

use std::time::Instant;

use thiserror::Error;

use super::settings::{ChapLogin, Mutual, Settings};
use crate::chap::{self, Algorithm, ChapError};
use crate::command::SessionType;
use crate::limits::{LOGIN_REQUESTS_MAX, LOGIN_TEXT_BYTES_MAX};
use crate::negotiation::{KeyError, Negotiated, Negotiation};
use crate::pdu::{
    CONTINUE, LoginRequest, LoginResponse, STAGE_FULL_FEATURE, STAGE_OPERATIONAL, STAGE_SECURITY,
    TRANSIT,
};
use crate::text::{self, TextError};

/// Why a login cannot go on though the target did not refuse it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoginError {
    /// Text out of form.
    #[error("the target's login text: {0}")]
    Text(#[from] TextError),
    /// An answer that does not fit the offer.
    #[error("negotiation: {0}")]
    Key(#[from] KeyError),
    /// CHAP did not work out on our side.
    #[error("CHAP: {0}")]
    Chap(#[from] ChapError),
    /// The target chose an authentication method that was not offered.
    #[error("the target chose AuthMethod={0}")]
    Method(String),
    /// The target let us in without the proof that we want from it.
    #[error("the target did not prove who it is")]
    TargetNotProven,
    /// A header field that cannot be: version, stage, transition.
    #[error("the target's login response has a wrong {0}")]
    Response(&'static str),
    /// More text or more rounds than a login needs.
    #[error("the target does not come to an end with the login")]
    Endless,
}

/// How far authentication is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chap {
    Method,
    Algorithm,
    /// We have answered with this hash; the target's proof comes next.
    Proof(Algorithm),
    Done,
}

/// What a response leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This request and its text.
    Send(LoginRequest, Vec<u8>),
    /// Full feature phase.
    Done,
}

/// A login under way.
#[derive(Debug)]
pub(super) struct Login {
    settings: Settings,
    since: Instant,
    requests: u32,
    stage: u8,
    /// Whether the last request asked for the next stage.
    asked: bool,
    gathered: Vec<u8>,
    chap: Chap,
    negotiation: Negotiation,
    pub(super) alias: Option<String>,
    pub(super) portal_group_tag: Option<u16>,
    pub(super) redirect: Option<String>,
    pub(super) tsih: u16,
}

impl Login {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        let discovery = settings.session_type == SessionType::Discovery;
        let negotiation = Negotiation::new(settings.offer.clone(), discovery);
        let tsih = settings.tsih;
        Self {
            settings,
            since: now,
            requests: 0,
            stage: STAGE_SECURITY,
            asked: false,
            gathered: Vec::new(),
            chap: Chap::Method,
            negotiation,
            alias: None,
            portal_group_tag: None,
            redirect: None,
            tsih,
        }
    }

    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn negotiated(&self) -> Negotiated {
        self.negotiation.conclude()
    }

    /// The first request: names, and how we are ready to prove who we are.
    pub(super) fn open(&mut self) -> (LoginRequest, Vec<u8>) {
        let mut out = Vec::new();
        text::push(&mut out, "InitiatorName", &self.settings.initiator_name);
        if let Some(alias) = &self.settings.initiator_alias {
            text::push(&mut out, "InitiatorAlias", alias);
        }
        if let Some(target) = &self.settings.target_name {
            text::push(&mut out, "TargetName", target);
        }
        let session_type = match self.settings.session_type {
            SessionType::Discovery => "Discovery",
            SessionType::Normal => "Normal",
        };
        text::push(&mut out, "SessionType", session_type);
        let methods = match &self.settings.chap {
            None => "None",
            Some(chap) if chap.optional && chap.mutual.is_none() => "CHAP,None",
            Some(_) => "CHAP",
        };
        text::push(&mut out, "AuthMethod", methods);
        // With nothing to prove, the security stage ends with this request.
        let request = self.request(self.settings.chap.is_none());
        (request, out)
    }

    /// A request in the current stage; `leave` asks for the next one.
    fn request(&mut self, leave: bool) -> LoginRequest {
        self.requests = self.requests.saturating_add(1);
        self.asked = leave;
        let next = if self.stage == STAGE_SECURITY {
            STAGE_OPERATIONAL
        } else {
            STAGE_FULL_FEATURE
        };
        let transit = if leave { TRANSIT | next } else { 0 };
        LoginRequest {
            immediate: true,
            flags: transit | self.stage << 2,
            isid: self.settings.isid,
            tsih: self.settings.tsih,
            cid: self.settings.cid,
            ..LoginRequest::default()
        }
    }

    /// Takes the address from a response that sends us elsewhere.
    pub(super) fn redirected(&mut self, data: &[u8]) {
        if let Ok(pairs) = text::parse(data) {
            let address = pairs.into_iter().find(|(key, _)| *key == "TargetAddress");
            self.redirect = address.map(|(_, value)| value.to_owned());
        }
    }

    /// A response with status 0 and its data segment.
    pub(super) fn response(
        &mut self,
        response: &LoginResponse,
        data: &[u8],
    ) -> Result<Step, LoginError> {
        let transit = response.flags & TRANSIT != 0;
        self.check(response, transit)?;
        if self.gathered.len().saturating_add(data.len()) > LOGIN_TEXT_BYTES_MAX {
            return Err(LoginError::Endless);
        }
        self.gathered.extend_from_slice(data);
        if response.flags & CONTINUE != 0 {
            let asked = self.asked;
            let request = self.request(asked);
            return Ok(Step::Send(request, Vec::new()));
        }
        let gathered = std::mem::take(&mut self.gathered);
        let pairs = text::parse(&gathered)?;
        let mut out = Vec::new();
        let rest = self.declarations(&pairs);
        if self.stage == STAGE_SECURITY {
            self.security(&rest, transit, &mut out)
        } else {
            self.operational(&rest, transit, response.tsih, out)
        }
    }

    fn check(&self, response: &LoginResponse, transit: bool) -> Result<(), LoginError> {
        if response.version_active != 0 {
            return Err(LoginError::Response("version"));
        }
        if response.flags >> 2 & 3 != self.stage {
            return Err(LoginError::Response("current stage"));
        }
        let next = if self.stage == STAGE_SECURITY {
            STAGE_OPERATIONAL
        } else {
            STAGE_FULL_FEATURE
        };
        let fits = self.asked && response.flags & 3 == next && response.flags & CONTINUE == 0;
        if transit && !fits {
            return Err(LoginError::Response("transition"));
        }
        if self.requests >= LOGIN_REQUESTS_MAX {
            return Err(LoginError::Endless);
        }
        Ok(())
    }

    /// Takes what the target declares in any stage; gives back the other keys.
    fn declarations<'a>(&mut self, pairs: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut rest = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            match *key {
                "TargetAlias" => self.alias = Some((*value).to_owned()),
                "TargetPortalGroupTag" => {
                    self.portal_group_tag =
                        text::number(value).and_then(|tag| u16::try_from(tag).ok());
                }
                "TargetName" | "TargetAddress" => {}
                _ => rest.push((*key, *value)),
            }
        }
        rest
    }

    fn security(
        &mut self,
        pairs: &[(&str, &str)],
        transit: bool,
        out: &mut Vec<u8>,
    ) -> Result<Step, LoginError> {
        let find = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, v)| *v);
        if self.chap == Chap::Method {
            self.method(find("AuthMethod"), out)?;
        } else if self.chap == Chap::Algorithm {
            let algorithm = self.answer(&find, out)?;
            self.chap = Chap::Proof(algorithm);
            if self.mutual().is_none() {
                self.chap = Chap::Done;
            }
            let request = self.request(true);
            return Ok(Step::Send(request, std::mem::take(out)));
        } else if let Chap::Proof(algorithm) = self.chap {
            self.target_proof(algorithm, &find)?;
            self.chap = Chap::Done;
        }
        if !transit {
            let leave = self.chap == Chap::Done;
            let request = self.request(leave);
            return Ok(Step::Send(request, std::mem::take(out)));
        }
        // With mutual CHAP this is reached through the target's proof only.
        if self.chap != Chap::Done {
            return Err(LoginError::TargetNotProven);
        }
        self.stage = STAGE_OPERATIONAL;
        self.negotiation.originate(out);
        let request = self.request(true);
        Ok(Step::Send(request, std::mem::take(out)))
    }

    fn mutual(&self) -> Option<&Mutual> {
        self.settings
            .chap
            .as_ref()
            .and_then(|chap| chap.mutual.as_ref())
    }

    /// The target chose a method.
    fn method(&mut self, chosen: Option<&str>, out: &mut Vec<u8>) -> Result<(), LoginError> {
        let Some(chap) = &self.settings.chap else {
            // "None" was all we offered; some targets leave the answer out.
            return match chosen {
                None | Some("None") => {
                    self.chap = Chap::Done;
                    Ok(())
                }
                Some(other) => Err(LoginError::Method(other.to_owned())),
            };
        };
        match chosen {
            Some("CHAP") => {
                let offered: &[Algorithm] = if chap.algorithms.is_empty() {
                    &Algorithm::ALL
                } else {
                    &chap.algorithms
                };
                text::push(out, "CHAP_A", &chap::list(offered));
                self.chap = Chap::Algorithm;
                Ok(())
            }
            Some("None") if chap.optional && chap.mutual.is_none() => {
                self.chap = Chap::Done;
                Ok(())
            }
            other => Err(LoginError::Method(other.unwrap_or("(nothing)").to_owned())),
        }
    }

    /// Answers the target's challenge, and challenges it if its proof is wanted.
    fn answer<'v>(
        &self,
        find: &impl Fn(&str) -> Option<&'v str>,
        out: &mut Vec<u8>,
    ) -> Result<Algorithm, ChapError> {
        let need = |key| find(key).ok_or(ChapError::Missing { key });
        let Some(ChapLogin {
            user,
            secret,
            algorithms,
            mutual,
            ..
        }) = &self.settings.chap
        else {
            return Err(ChapError::Unexpected { key: "CHAP_A" });
        };
        let offered: &[Algorithm] = if algorithms.is_empty() {
            &Algorithm::ALL
        } else {
            algorithms
        };
        let algorithm = chap::choose(need("CHAP_A")?, offered)?;
        let identifier =
            chap::decode_identifier(need("CHAP_I")?).map_err(|error| ChapError::Value {
                key: "CHAP_I",
                error,
            })?;
        let challenge = chap::decode_value(need("CHAP_C")?).map_err(|error| ChapError::Value {
            key: "CHAP_C",
            error,
        })?;
        if let Some(mutual) = mutual {
            chap::check_challenge(&mutual.challenge)?;
            if chap::same_secret(secret, &mutual.secret) {
                return Err(ChapError::SameSecret);
            }
            if challenge == mutual.challenge {
                return Err(ChapError::Reflected);
            }
        }
        let response = algorithm.response(identifier, secret, &challenge);
        text::push(out, "CHAP_N", user);
        text::push(out, "CHAP_R", &chap::encode_value(&response));
        if let Some(mutual) = mutual {
            text::push(out, "CHAP_I", &mutual.identifier.to_string());
            text::push(out, "CHAP_C", &chap::encode_value(&mutual.challenge));
        }
        Ok(algorithm)
    }

    fn target_proof<'v>(
        &self,
        algorithm: Algorithm,
        find: &impl Fn(&str) -> Option<&'v str>,
    ) -> Result<(), LoginError> {
        let Some(mutual) = self.mutual() else {
            return Ok(());
        };
        let (Some(user), Some(response)) = (find("CHAP_N"), find("CHAP_R")) else {
            return Err(LoginError::TargetNotProven);
        };
        let response =
            chap::decode_response(response, algorithm).map_err(|error| ChapError::Value {
                key: "CHAP_R",
                error,
            })?;
        let proven = algorithm.verify(
            mutual.identifier,
            &mutual.secret,
            &mutual.challenge,
            &response,
        );
        let named = mutual
            .user
            .as_deref()
            .is_none_or(|expected| expected == user);
        if proven && named {
            Ok(())
        } else {
            Err(ChapError::Refused.into())
        }
    }

    fn operational(
        &mut self,
        pairs: &[(&str, &str)],
        transit: bool,
        tsih: u16,
        mut out: Vec<u8>,
    ) -> Result<Step, LoginError> {
        self.negotiation.receive(pairs, &mut out)?;
        if transit {
            self.tsih = tsih;
            return Ok(Step::Done);
        }
        let request = self.request(true);
        Ok(Step::Send(request, out))
    }
}
