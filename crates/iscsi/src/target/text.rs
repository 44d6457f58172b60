//! Text requests of the full feature phase: SendTargets and declarations.

use super::connection::Connection;
use super::event::{Event, Which};
use crate::Output;
use crate::name;
use crate::negotiation::{self, Negotiation};
use crate::pdu::{CONTINUE, FINAL, NO_TAG, RejectReason, TextRequest, TextResponse};
use crate::text;

/// A target as SendTargets lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// Its name.
    pub name: String,
    /// `address:port,tag` of each portal: `192.0.2.1:3260,1` or `[2001:db8::1]:3260,1`.
    pub addresses: Vec<String>,
}

/// Where the connection's one text exchange stands.
#[derive(Debug)]
pub(super) enum Exchange {
    /// None.
    Idle,
    /// The request is spread over several PDUs.
    Gathering { ttt: u32, text: Vec<u8> },
    /// The service is asked for targets; `answer` has the other keys' answers.
    Asked {
        request: TextRequest,
        answer: Vec<u8>,
    },
    /// The answer is spread over several PDUs, or the initiator has not said its last word.
    Answering { ttt: u32, rest: Vec<u8> },
}

impl Exchange {
    pub(super) const fn buffered_bytes(&self) -> usize {
        match self {
            Self::Idle => 0,
            Self::Gathering { text, .. } => text.capacity(),
            Self::Asked { answer, .. } => answer.capacity(),
            Self::Answering { rest, .. } => rest.capacity(),
        }
    }
}

impl Connection {
    /// One text request with its data segment.
    pub(super) fn text_request<O: Output>(
        &mut self,
        request: TextRequest,
        data: &[u8],
        out: &mut O,
    ) {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Idle);
        let gathered = match exchange {
            asked @ Exchange::Asked { .. } => {
                // One at a time; the first is still to be answered.
                self.exchange = asked;
                self.reject(RejectReason::Protocol, out);
                return;
            }
            // A request without a tag begins anew, whatever was before.
            _ if request.ttt == NO_TAG => Vec::new(),
            Exchange::Gathering { ttt, text } if ttt == request.ttt => text,
            Exchange::Answering { ttt, rest } if ttt == request.ttt => {
                if data.is_empty() || rest.is_empty() {
                    return self.go_on(&request, rest, data, out);
                }
                self.reject(RejectReason::Protocol, out);
                return;
            }
            _ => {
                self.reject(RejectReason::InvalidField, out);
                return;
            }
        };
        self.gather(&request, gathered, data, out);
    }

    /// The initiator asks for more of the answer, or (all of it sent) says more itself.
    fn go_on<O: Output>(&mut self, request: &TextRequest, rest: Vec<u8>, data: &[u8], out: &mut O) {
        if rest.is_empty() {
            self.gather(request, Vec::new(), data, out);
        } else {
            self.send_text(request, rest, out);
        }
    }

    fn gather<O: Output>(
        &mut self,
        request: &TextRequest,
        mut text: Vec<u8>,
        data: &[u8],
        out: &mut O,
    ) {
        if text.len().saturating_add(data.len()) > self.config.text_bytes_max {
            self.reject(RejectReason::LongOperation, out);
            return;
        }
        text.extend_from_slice(data);
        if request.flags & CONTINUE == 0 {
            self.whole_text(request, &text, out);
            return;
        }
        if request.flags & FINAL != 0 {
            self.reject(RejectReason::InvalidField, out);
            return;
        }
        let ttt = self.new_tag();
        self.exchange = Exchange::Gathering { ttt, text };
        self.send_text_response(request, 0, ttt, &[], out);
    }

    /// All keys of one request are there.
    fn whole_text<O: Output>(&mut self, request: &TextRequest, text: &[u8], out: &mut O) {
        let Ok(pairs) = text::parse(text) else {
            self.reject(RejectReason::Protocol, out);
            return;
        };
        let mut answer = Vec::new();
        let mut which = None;
        for (at, (key, value)) in pairs.iter().enumerate() {
            if pairs.iter().take(at).any(|(before, _)| before == key) {
                self.reject(RejectReason::Protocol, out);
                return;
            }
            if *key == "SendTargets" {
                which = self.which(value);
                if which.is_none() {
                    text::push(&mut answer, key, text::REJECT);
                }
            } else if *key == "MaxRecvDataSegmentLength" {
                let Some(length) = negotiation::segment_length(value) else {
                    self.reject(RejectReason::Protocol, out);
                    return;
                };
                self.negotiated.max_send_data_segment_length = length;
            } else if Negotiation::knows(key) || names_and_security(key) {
                // Settled at login.
                text::push(&mut answer, key, text::REJECT);
            } else if *key != "InitiatorAlias" {
                text::push(&mut answer, key, text::NOT_UNDERSTOOD);
            }
        }
        match which {
            Some(which) => {
                self.exchange = Exchange::Asked {
                    request: *request,
                    answer,
                };
                self.events.push_back(Event::SendTargets { which });
            }
            None => self.send_text(request, answer, out),
        }
    }

    /// Which targets a SendTargets value names; `None` where this session may not ask that.
    fn which(&self, value: &str) -> Option<Which> {
        match (self.discovery(), value) {
            (true, "All") => Some(Which::All),
            (false, "") => Some(Which::This),
            (_, "All" | "") => None,
            (true, name) => name::normalize(name).ok().map(Which::Name),
            (false, name) => {
                let own = self.identity.target_name.as_deref();
                let name = name::normalize(name).ok()?;
                (own == Some(name.as_str())).then_some(Which::This)
            }
        }
    }

    /// Answers [`Event::SendTargets`] with the targets the initiator may see. Without such an
    /// event nothing happens.
    pub fn text_answer<O: Output>(&mut self, listing: &[TargetRecord], out: &mut O) {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Idle);
        let Exchange::Asked {
            request,
            mut answer,
        } = exchange
        else {
            self.exchange = exchange;
            return;
        };
        for target in listing {
            text::push(&mut answer, "TargetName", &target.name);
            for address in &target.addresses {
                text::push(&mut answer, "TargetAddress", address);
            }
        }
        self.send_text(&request, answer, out);
    }

    /// Sends an answer, or its next piece.
    fn send_text<O: Output>(&mut self, request: &TextRequest, mut answer: Vec<u8>, out: &mut O) {
        let max = self.max_send();
        if answer.len() > max {
            let rest = answer.split_off(max);
            let ttt = self.new_tag();
            self.exchange = Exchange::Answering { ttt, rest };
            self.send_text_response(request, CONTINUE, ttt, &answer, out);
        } else if request.flags & FINAL != 0 {
            self.exchange = Exchange::Idle;
            self.send_text_response(request, FINAL, NO_TAG, &answer, out);
        } else {
            // The last word is the initiator's.
            let ttt = self.new_tag();
            self.exchange = Exchange::Answering {
                ttt,
                rest: Vec::new(),
            };
            self.send_text_response(request, 0, ttt, &answer, out);
        }
    }

    fn send_text_response<O: Output>(
        &mut self,
        request: &TextRequest,
        flags: u8,
        ttt: u32,
        data: &[u8],
        out: &mut O,
    ) {
        let stat_sn = self.advance_stat_sn();
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let response = TextResponse {
            flags,
            lun: request.lun,
            itt: request.itt,
            ttt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.send(response.encode(), data, out);
    }
}

fn names_and_security(key: &str) -> bool {
    matches!(
        key,
        "InitiatorName"
            | "TargetName"
            | "SessionType"
            | "AuthMethod"
            | "TargetAlias"
            | "TargetAddress"
            | "TargetPortalGroupTag"
    ) || key.starts_with("CHAP_")
}
