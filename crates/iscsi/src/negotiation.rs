//! Operational keys and the rules by which two sides come to one value (RFC 7143 section 13).
//!
//! [`Negotiation`] does both parts: as *originator* it writes our offers and checks the answers
//! against them; as *responder* it computes the answer that the key's rule gives (and, or, lesser,
//! greater, first of a list, declaration). A key that appears twice in one login is an error.
//! Security keys (AuthMethod, CHAP) and names are the login engines' matter.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use crate::limits::{
    LOGIN_SEGMENT_BYTES_MAX, OUTSTANDING_R2T_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
use crate::text;

/// A digest over headers or data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Digest {
    /// None.
    #[default]
    None,
    /// CRC32C.
    Crc32c,
}

impl Digest {
    const fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Crc32c => "CRC32C",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::None, Self::Crc32c]
            .into_iter()
            .find(|digest| digest.word() == word)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What one side brings to the negotiation. Lengths in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Longest data segment we take, 512 to 16 777 215.
    pub max_recv_data_segment_length: u32,
    /// Longest sequence of data (an R2T's answer, Data-In up to F).
    pub max_burst_length: u32,
    /// Most unsolicited data of a command; not above the burst length.
    pub first_burst_length: u32,
    /// R2Ts outstanding for one task.
    pub max_outstanding_r2t: u16,
    /// Whether unsolicited Data-Out PDUs are forbidden.
    pub initial_r2t: bool,
    /// Whether a command may bring data along.
    pub immediate_data: bool,
    /// Header digests, best first; a responder goes by the other side's order.
    pub header_digest: Vec<Digest>,
    /// Data digests, likewise.
    pub data_digest: Vec<Digest>,
    /// Connections a session may have; 1 is all that is supported.
    pub max_connections: u16,
    /// Least time before coming back after a lost connection.
    pub default_time2wait: u16,
    /// Time for which tasks outlive a lost connection.
    pub default_time2retain: u16,
    /// Error recovery level; 0 is all that is supported.
    pub error_recovery_level: u8,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            max_recv_data_segment_length: 256 * 1024,
            max_burst_length: 1024 * 1024,
            first_burst_length: 256 * 1024,
            max_outstanding_r2t: 8,
            initial_r2t: false,
            immediate_data: true,
            header_digest: vec![Digest::None, Digest::Crc32c],
            data_digest: vec![Digest::None, Digest::Crc32c],
            max_connections: 1,
            default_time2wait: 2,
            default_time2retain: 0,
            error_recovery_level: 0,
        }
    }
}

impl Offer {
    /// The same with every value brought into the range that the keys allow and we support.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        let segment = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        let bring = |value: u32| value.clamp(*segment.start(), *segment.end());
        self.max_recv_data_segment_length = bring(self.max_recv_data_segment_length);
        self.max_burst_length = bring(self.max_burst_length);
        self.first_burst_length = bring(self.first_burst_length).min(self.max_burst_length);
        self.max_outstanding_r2t = self.max_outstanding_r2t.clamp(1, OUTSTANDING_R2T_MAX);
        self.max_connections = 1;
        self.error_recovery_level = 0;
        self.default_time2wait = self.default_time2wait.min(3600);
        self.default_time2retain = self.default_time2retain.min(3600);
        self
    }
}

/// What both sides agreed on. Lengths in bytes, times in seconds.
///
/// The default is what the standard prescribes for keys that nobody mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Digest after each header.
    pub header_digest: Digest,
    /// Digest after each data segment.
    pub data_digest: Digest,
    /// Longest data segment we take (our declaration).
    pub max_recv_data_segment_length: u32,
    /// Longest data segment the other side takes (its declaration).
    pub max_send_data_segment_length: u32,
    /// Longest sequence of data.
    pub max_burst_length: u32,
    /// Most unsolicited data of one command.
    pub first_burst_length: u32,
    /// R2Ts outstanding for one task.
    pub max_outstanding_r2t: u16,
    /// Whether unsolicited Data-Out PDUs are forbidden.
    pub initial_r2t: bool,
    /// Whether a command may bring data along.
    pub immediate_data: bool,
    /// Connections of the session.
    pub max_connections: u16,
    /// Least time before coming back after a lost connection.
    pub default_time2wait: u16,
    /// Time for which tasks outlive a lost connection.
    pub default_time2retain: u16,
    /// Error recovery level.
    pub error_recovery_level: u8,
    /// Data PDUs of a sequence come in order.
    pub data_pdu_in_order: bool,
    /// Sequences of a command come in order.
    pub data_sequence_in_order: bool,
    /// iSCSIProtocolLevel (RFC 7144); 1 stands for RFC 7143.
    pub protocol_level: u8,
}

impl Default for Negotiated {
    fn default() -> Self {
        Self {
            header_digest: Digest::None,
            data_digest: Digest::None,
            max_recv_data_segment_length: LOGIN_SEGMENT_BYTES_MAX,
            max_send_data_segment_length: LOGIN_SEGMENT_BYTES_MAX,
            max_burst_length: 256 * 1024,
            first_burst_length: 64 * 1024,
            max_outstanding_r2t: 1,
            initial_r2t: true,
            immediate_data: true,
            max_connections: 1,
            default_time2wait: 2,
            default_time2retain: 20,
            error_recovery_level: 0,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
            protocol_level: 1,
        }
    }
}

/// A key that ends the negotiation. All are the other side's fault.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Named a second time.
    #[error("{key} was negotiated before in this login")]
    Repeated {
        /// The key.
        key: String,
    },
    /// A declaration that cannot be used.
    #[error("{key}={value} cannot be declared")]
    BadDeclaration {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// An answer that our offer does not allow.
    #[error("{key}={value} does not answer what was offered")]
    BadAnswer {
        /// The key.
        key: String,
        /// The answer.
        value: String,
    },
    /// First burst above the burst length.
    #[error("FirstBurstLength {first} is above MaxBurstLength {max}")]
    Bursts {
        /// FirstBurstLength.
        first: u32,
        /// MaxBurstLength.
        max: u32,
    },
}

/// How two values become one.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Yes only if both say yes.
    And,
    /// Yes if one says yes.
    Or,
    /// The lesser number.
    Min(u32, u32),
    /// The greater number.
    Max(u32, u32),
    /// The first of the originator's list that the responder has.
    List,
    /// Each side tells its own.
    Declare,
    /// No longer in use: always refused, never "not understood".
    Obsolete,
}

macro_rules! keys {
    ($($variant:ident = $name:literal: $rule:expr;)*) => {
        /// The operational keys.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Key { $($variant,)* }

        impl Key {
            fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
            const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            const fn rule(self) -> Rule {
                match self { $(Self::$variant => $rule,)* }
            }
        }
    };
}

keys! {
    HeaderDigest = "HeaderDigest": Rule::List;
    DataDigest = "DataDigest": Rule::List;
    MaxRecv = "MaxRecvDataSegmentLength": Rule::Declare;
    MaxConnections = "MaxConnections": Rule::Min(1, 65535);
    InitialR2T = "InitialR2T": Rule::Or;
    ImmediateData = "ImmediateData": Rule::And;
    MaxBurst = "MaxBurstLength": Rule::Min(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    FirstBurst = "FirstBurstLength": Rule::Min(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    Time2Wait = "DefaultTime2Wait": Rule::Max(0, 3600);
    Time2Retain = "DefaultTime2Retain": Rule::Min(0, 3600);
    OutstandingR2T = "MaxOutstandingR2T": Rule::Min(1, 65535);
    PduInOrder = "DataPDUInOrder": Rule::Or;
    SequenceInOrder = "DataSequenceInOrder": Rule::Or;
    RecoveryLevel = "ErrorRecoveryLevel": Rule::Min(0, 2);
    ProtocolLevel = "iSCSIProtocolLevel": Rule::Min(0, 31);
    TaskReporting = "TaskReporting": Rule::List;
    IfMarker = "IFMarker": Rule::Obsolete;
    OfMarker = "OFMarker": Rule::Obsolete;
    IfMarkInt = "IFMarkInt": Rule::Obsolete;
    OfMarkInt = "OFMarkInt": Rule::Obsolete;
}

impl Key {
    const fn bit(self) -> u32 {
        1 << (self as u32)
    }

    /// Has no meaning in a discovery session.
    const fn normal_only(self) -> bool {
        matches!(
            self,
            Self::MaxConnections
                | Self::InitialR2T
                | Self::ImmediateData
                | Self::MaxBurst
                | Self::FirstBurst
                | Self::OutstandingR2T
                | Self::PduInOrder
                | Self::SequenceInOrder
                | Self::TaskReporting
        )
    }
}

/// The state of one negotiation; see the module's words.
#[derive(Clone, Debug)]
pub struct Negotiation {
    offer: Offer,
    agreed: Negotiated,
    discovery: bool,
    /// Keys that came from the other side.
    seen: u32,
    /// Keys that we offered.
    offered: u32,
    /// Keys that came to a number: of interest where two keys depend on each other.
    settled: u32,
}

impl Negotiation {
    /// Starts from the defaults of the standard.
    #[must_use]
    pub fn new(offer: Offer, discovery: bool) -> Self {
        let agreed = Negotiated::default();
        Self {
            offer: offer.clamped(),
            agreed,
            discovery,
            seen: 0,
            offered: 0,
            settled: 0,
        }
    }

    /// Whether this module knows the key.
    #[must_use]
    pub fn knows(key: &str) -> bool {
        Key::from_name(key).is_some()
    }

    /// The values as they stand.
    #[must_use]
    pub const fn agreed(&self) -> &Negotiated {
        &self.agreed
    }

    /// Declares the data segment length we take, once.
    pub fn declare(&mut self, out: &mut Vec<u8>) {
        if self.offered & Key::MaxRecv.bit() == 0 {
            self.offered |= Key::MaxRecv.bit();
            let length = self.offer.max_recv_data_segment_length;
            self.agreed.max_recv_data_segment_length = length;
            text::push(out, Key::MaxRecv.name(), &length.to_string());
        }
    }

    /// Writes an offer for every key (the initiator's opening).
    pub fn originate(&mut self, out: &mut Vec<u8>) {
        self.declare(out);
        let offer = self.offer.clone();
        self.originate_list(Key::HeaderDigest, &offer.header_digest, out);
        self.originate_list(Key::DataDigest, &offer.data_digest, out);
        let times = [
            (Key::Time2Wait, u32::from(offer.default_time2wait)),
            (Key::Time2Retain, u32::from(offer.default_time2retain)),
            (Key::RecoveryLevel, 0),
        ];
        for (key, number) in times {
            self.originate_value(key, &number.to_string(), out);
        }
        if self.discovery {
            return;
        }
        let yes_no = |value| if value { "Yes" } else { "No" };
        self.originate_value(Key::InitialR2T, yes_no(offer.initial_r2t), out);
        self.originate_value(Key::ImmediateData, yes_no(offer.immediate_data), out);
        self.originate_value(Key::PduInOrder, "Yes", out);
        self.originate_value(Key::SequenceInOrder, "Yes", out);
        let numbers = [
            (Key::MaxConnections, 1),
            (Key::MaxBurst, offer.max_burst_length),
            (Key::FirstBurst, offer.first_burst_length),
            (Key::OutstandingR2T, u32::from(offer.max_outstanding_r2t)),
            (Key::ProtocolLevel, 1),
        ];
        for (key, number) in numbers {
            self.originate_value(key, &number.to_string(), out);
        }
    }

    fn originate_list(&mut self, key: Key, list: &[Digest], out: &mut Vec<u8>) {
        let words: Vec<&str> = list.iter().map(|digest| digest.word()).collect();
        if !words.is_empty() {
            self.originate_value(key, &words.join(","), out);
        }
    }

    fn originate_value(&mut self, key: Key, value: &str, out: &mut Vec<u8>) {
        self.offered |= key.bit();
        text::push(out, key.name(), value);
    }

    /// Takes the operational keys of one text in; answers to offers of the other side are
    /// appended to `out`.
    ///
    /// # Errors
    /// [`KeyError`] ends the login.
    pub fn receive(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), KeyError> {
        // The first burst is capped by the burst, so the burst is settled before it.
        let (last, first): (Vec<_>, Vec<_>) = pairs
            .iter()
            .partition(|(key, _)| *key == Key::FirstBurst.name());
        for (name, value) in first.into_iter().chain(last) {
            match Key::from_name(name) {
                None => text::push(out, name, text::NOT_UNDERSTOOD),
                Some(key) => {
                    if let Some(answer) = self.key(key, value)? {
                        text::push(out, name, &answer);
                    }
                }
            }
        }
        let both = Key::MaxBurst.bit() | Key::FirstBurst.bit();
        let (first, max) = (self.agreed.first_burst_length, self.agreed.max_burst_length);
        if first > max && self.settled & both == both {
            return Err(KeyError::Bursts { first, max });
        }
        Ok(())
    }

    /// The end of the negotiation: what both sides work with from here on.
    #[must_use]
    pub fn conclude(&self) -> Negotiated {
        let mut agreed = self.agreed;
        agreed.first_burst_length = agreed.first_burst_length.min(agreed.max_burst_length);
        agreed.max_outstanding_r2t = agreed.max_outstanding_r2t.min(OUTSTANDING_R2T_MAX);
        agreed
    }

    fn key(&mut self, key: Key, value: &str) -> Result<Option<Cow<'static, str>>, KeyError> {
        if self.seen & key.bit() != 0 {
            return Err(KeyError::Repeated {
                key: key.name().to_owned(),
            });
        }
        self.seen |= key.bit();
        if matches!(key.rule(), Rule::Declare) {
            return self.declared(key, value).map(|()| None);
        }
        if self.offered & key.bit() != 0 {
            return self.answered(key, value).map(|()| None);
        }
        Ok(Some(self.answer(key, value)))
    }

    /// The other side's MaxRecvDataSegmentLength.
    fn declared(&mut self, key: Key, value: &str) -> Result<(), KeyError> {
        self.agreed.max_send_data_segment_length =
            segment_length(value).ok_or_else(|| KeyError::BadDeclaration {
                key: key.name().to_owned(),
                value: value.to_owned(),
            })?;
        Ok(())
    }

    /// We respond to an offer.
    fn answer(&mut self, key: Key, value: &str) -> Cow<'static, str> {
        if self.discovery && key.normal_only() {
            return Cow::Borrowed(text::IRRELEVANT);
        }
        let answer = match key.rule() {
            Rule::And => boolean(value).map(|theirs| self.set_flag(key, theirs && self.flag(key))),
            Rule::Or => boolean(value).map(|theirs| self.set_flag(key, theirs || self.flag(key))),
            Rule::Min(low, high) => in_range(value, low, high)
                .map(|theirs| self.set_number(key, theirs.min(self.number(key)))),
            Rule::Max(low, high) => in_range(value, low, high)
                .map(|theirs| self.set_number(key, theirs.max(self.number(key)))),
            Rule::List => self.choose(key, value),
            Rule::Declare | Rule::Obsolete => None,
        };
        answer.unwrap_or(Cow::Borrowed(text::REJECT))
    }

    /// The other side responded to our offer.
    fn answered(&mut self, key: Key, value: &str) -> Result<(), KeyError> {
        let bad = || KeyError::BadAnswer {
            key: key.name().to_owned(),
            value: value.to_owned(),
        };
        if matches!(
            value,
            text::NOT_UNDERSTOOD | text::IRRELEVANT | text::REJECT
        ) {
            // The default of the key holds; where we did not offer the default, that is no deal.
            let digests = match key {
                Key::HeaderDigest => &self.offer.header_digest,
                Key::DataDigest => &self.offer.data_digest,
                _ => return Ok(()),
            };
            return if digests.contains(&Digest::None) {
                Ok(())
            } else {
                Err(bad())
            };
        }
        let fits = match key.rule() {
            Rule::And => boolean(value)
                .filter(|theirs| self.flag(key) || !theirs)
                .map(|theirs| self.set_flag(key, theirs)),
            Rule::Or => boolean(value)
                .filter(|theirs| !self.flag(key) || *theirs)
                .map(|theirs| self.set_flag(key, theirs)),
            Rule::Min(low, high) => in_range(value, low, high)
                .filter(|theirs| *theirs <= self.number(key))
                .map(|theirs| self.set_number(key, theirs)),
            Rule::Max(low, high) => in_range(value, low, high)
                .filter(|theirs| *theirs >= self.number(key))
                .map(|theirs| self.set_number(key, theirs)),
            Rule::List => self.choose(key, value),
            Rule::Declare | Rule::Obsolete => None,
        };
        fits.map(|_| ()).ok_or_else(bad)
    }

    /// Our side of a boolean key.
    const fn flag(&self, key: Key) -> bool {
        match key {
            Key::InitialR2T => self.offer.initial_r2t,
            Key::ImmediateData => self.offer.immediate_data,
            _ => true,
        }
    }

    const fn set_flag(&mut self, key: Key, value: bool) -> Cow<'static, str> {
        match key {
            Key::InitialR2T => self.agreed.initial_r2t = value,
            Key::ImmediateData => self.agreed.immediate_data = value,
            Key::PduInOrder => self.agreed.data_pdu_in_order = value,
            Key::SequenceInOrder => self.agreed.data_sequence_in_order = value,
            _ => {}
        }
        Cow::Borrowed(if value { "Yes" } else { "No" })
    }

    /// Our side of a number.
    fn number(&self, key: Key) -> u32 {
        match key {
            Key::MaxBurst => self.offer.max_burst_length,
            // A burst length agreed on before caps ours.
            Key::FirstBurst if self.settled & Key::MaxBurst.bit() != 0 => self
                .offer
                .first_burst_length
                .min(self.agreed.max_burst_length),
            Key::FirstBurst => self.offer.first_burst_length,
            Key::Time2Wait => u32::from(self.offer.default_time2wait),
            Key::Time2Retain => u32::from(self.offer.default_time2retain),
            Key::OutstandingR2T => u32::from(self.offer.max_outstanding_r2t),
            Key::MaxConnections | Key::ProtocolLevel => 1,
            _ => 0,
        }
    }

    fn set_number(&mut self, key: Key, value: u32) -> Cow<'static, str> {
        self.settled |= key.bit();
        let short = u16::try_from(value).unwrap_or(u16::MAX);
        let byte = u8::try_from(value).unwrap_or(u8::MAX);
        match key {
            Key::MaxBurst => self.agreed.max_burst_length = value,
            Key::FirstBurst => self.agreed.first_burst_length = value,
            Key::Time2Wait => self.agreed.default_time2wait = short,
            Key::Time2Retain => self.agreed.default_time2retain = short,
            Key::OutstandingR2T => self.agreed.max_outstanding_r2t = short,
            Key::MaxConnections => self.agreed.max_connections = short,
            Key::RecoveryLevel => self.agreed.error_recovery_level = byte,
            Key::ProtocolLevel => self.agreed.protocol_level = byte,
            _ => {}
        }
        Cow::Owned(value.to_string())
    }

    /// First word of a list that we have.
    fn choose(&mut self, key: Key, list: &str) -> Option<Cow<'static, str>> {
        let (ours, place) = match key {
            Key::HeaderDigest => (&self.offer.header_digest, &mut self.agreed.header_digest),
            Key::DataDigest => (&self.offer.data_digest, &mut self.agreed.data_digest),
            _ => {
                let word = "RFC3720";
                return list
                    .split(',')
                    .find(|theirs| *theirs == word)
                    .map(|_| Cow::Borrowed(word));
            }
        };
        let digest = list
            .split(',')
            .filter_map(Digest::from_word)
            .find(|digest| ours.contains(digest))?;
        *place = digest;
        Some(Cow::Borrowed(digest.word()))
    }
}

/// A MaxRecvDataSegmentLength within the range it may have.
#[must_use]
pub fn segment_length(value: &str) -> Option<u32> {
    in_range(value, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn in_range(value: &str, low: u32, high: u32) -> Option<u32> {
    let number = u32::try_from(text::number(value)?).ok()?;
    (low..=high).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn respond(offer: Offer, discovery: bool, pairs: &[(&str, &str)]) -> (Negotiation, String) {
        let mut negotiation = Negotiation::new(offer, discovery);
        let mut out = Vec::new();
        negotiation.receive(pairs, &mut out).unwrap();
        (
            negotiation,
            String::from_utf8(out).unwrap().replace('\0', " "),
        )
    }

    #[test]
    fn each_rule_answers() {
        let offer = Offer {
            header_digest: vec![Digest::None, Digest::Crc32c],
            data_digest: vec![Digest::Crc32c],
            max_burst_length: 100_000,
            first_burst_length: 50_000,
            ..Offer::default()
        };
        for (key, value, answer) in [
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("HeaderDigest", "X-new,None,CRC32C", "None"),
            ("DataDigest", "None", "Reject"),
            ("MaxConnections", "8", "1"),
            ("MaxConnections", "0", "Reject"),
            ("InitialR2T", "No", "No"),
            ("InitialR2T", "Yes", "Yes"),
            ("InitialR2T", "yes", "Reject"),
            ("ImmediateData", "No", "No"),
            ("ImmediateData", "Yes", "Yes"),
            ("MaxBurstLength", "0xffffff", "100000"),
            ("MaxBurstLength", "511", "Reject"),
            ("MaxBurstLength", "16777216", "Reject"),
            ("FirstBurstLength", "65536", "50000"),
            ("DefaultTime2Wait", "10", "10"),
            ("DefaultTime2Wait", "0", "2"),
            ("DefaultTime2Wait", "3601", "Reject"),
            ("DefaultTime2Retain", "20", "0"),
            ("MaxOutstandingR2T", "65535", "8"),
            ("DataPDUInOrder", "No", "Yes"),
            ("DataSequenceInOrder", "No", "Yes"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("ErrorRecoveryLevel", "3", "Reject"),
            ("iSCSIProtocolLevel", "2", "1"),
            ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
            ("TaskReporting", "FastAbort", "Reject"),
            ("IFMarker", "No", "Reject"),
            ("OFMarkInt", "2048~8192", "Reject"),
            ("X-com.example.key", "1", "NotUnderstood"),
        ] {
            let (_, text) = respond(offer.clone(), false, &[(key, value)]);
            assert_eq!(text, format!("{key}={answer} "));
        }
    }

    #[test]
    fn discovery_makes_keys_irrelevant() {
        for key in [
            "MaxConnections",
            "InitialR2T",
            "FirstBurstLength",
            "MaxOutstandingR2T",
        ] {
            let (_, text) = respond(Offer::default(), true, &[(key, "1")]);
            assert_eq!(text, format!("{key}=Irrelevant "));
        }
    }

    #[test]
    fn declarations_are_not_answered() {
        let (negotiation, text) = respond(
            Offer::default(),
            false,
            &[("MaxRecvDataSegmentLength", "4096")],
        );
        assert_eq!(text, "");
        assert_eq!(negotiation.conclude().max_send_data_segment_length, 4096);
        let mut negotiation = Negotiation::new(Offer::default(), false);
        let bad = negotiation.receive(&[("MaxRecvDataSegmentLength", "511")], &mut Vec::new());
        assert!(matches!(bad, Err(KeyError::BadDeclaration { .. })));
    }

    #[test]
    fn a_repeated_key_is_an_error() {
        let mut negotiation = Negotiation::new(Offer::default(), false);
        negotiation
            .receive(&[("InitialR2T", "No")], &mut Vec::new())
            .unwrap();
        assert_eq!(
            negotiation.receive(&[("InitialR2T", "No")], &mut Vec::new()),
            Err(KeyError::Repeated {
                key: "InitialR2T".to_owned()
            })
        );
    }

    #[test]
    fn the_first_burst_follows_the_burst() {
        let pairs = [("FirstBurstLength", "65536"), ("MaxBurstLength", "16384")];
        let (negotiation, text) = respond(Offer::default(), false, &pairs);
        assert_eq!(text, "MaxBurstLength=16384 FirstBurstLength=16384 ");
        assert_eq!(negotiation.conclude().first_burst_length, 16384);

        let mut negotiation = Negotiation::new(Offer::default(), false);
        negotiation
            .receive(&[("FirstBurstLength", "65536")], &mut Vec::new())
            .unwrap();
        let late = negotiation.receive(&[("MaxBurstLength", "512")], &mut Vec::new());
        assert_eq!(
            late,
            Err(KeyError::Bursts {
                first: 65536,
                max: 512
            })
        );
    }

    #[test]
    fn answers_are_checked_against_the_offer() {
        for (key, value) in [
            ("MaxBurstLength", "16777215"),
            ("ImmediateData", "maybe"),
            ("InitialR2T", "1"),
            ("HeaderDigest", "CRC32C"),
            ("DefaultTime2Wait", "1"),
            ("MaxOutstandingR2T", "9"),
            ("DataPDUInOrder", "No"),
        ] {
            let offer = Offer {
                header_digest: vec![Digest::None],
                ..Offer::default()
            };
            let mut initiator = Negotiation::new(offer, false);
            initiator.originate(&mut Vec::new());
            let result = initiator.receive(&[(key, value)], &mut Vec::new());
            assert!(
                matches!(result, Err(KeyError::BadAnswer { .. })),
                "{key}={value}"
            );
        }
    }

    #[test]
    fn a_refused_digest_that_we_insist_on_is_no_deal() {
        let offer = Offer {
            data_digest: vec![Digest::Crc32c],
            ..Offer::default()
        };
        let mut initiator = Negotiation::new(offer, false);
        initiator.originate(&mut Vec::new());
        assert!(
            initiator
                .receive(&[("DataDigest", "Reject")], &mut Vec::new())
                .is_err()
        );
        assert!(
            initiator
                .receive(&[("HeaderDigest", "Reject")], &mut Vec::new())
                .is_ok()
        );
    }

    fn digests() -> impl Strategy<Value = Vec<Digest>> {
        prop_oneof![
            Just(vec![Digest::None]),
            Just(vec![Digest::Crc32c, Digest::None]),
            Just(vec![Digest::None, Digest::Crc32c]),
        ]
    }

    prop_compose! {
        fn offers()(
            lengths in (1_u32..0x0200_0000, 1_u32..0x0200_0000, 1_u32..0x0200_0000),
            flags in (any::<bool>(), any::<bool>()),
            header_digest in digests(),
            data_digest in digests(),
            r2t in 0_u16..300,
            times in (0_u16..4000, 0_u16..4000),
        ) -> Offer {
            Offer {
                max_recv_data_segment_length: lengths.0,
                max_burst_length: lengths.1,
                first_burst_length: lengths.2,
                max_outstanding_r2t: r2t,
                initial_r2t: flags.0,
                immediate_data: flags.1,
                header_digest,
                data_digest,
                default_time2wait: times.0,
                default_time2retain: times.1,
                ..Offer::default()
            }
        }
    }

    proptest! {
        /// Whatever two sides bring, both come to the same values.
        #[test]
        fn both_sides_agree(ours in offers(), theirs in offers(), discovery in any::<bool>()) {
            let mut initiator = Negotiation::new(ours, discovery);
            let mut target = Negotiation::new(theirs, discovery);
            let (mut request, mut response) = (Vec::new(), Vec::new());
            initiator.originate(&mut request);
            target.receive(&text::parse(&request).unwrap(), &mut response).unwrap();
            target.declare(&mut response);
            let mut nothing = Vec::new();
            initiator.receive(&text::parse(&response).unwrap(), &mut nothing).unwrap();
            prop_assert!(nothing.is_empty());
            let (a, b) = (initiator.conclude(), target.conclude());
            prop_assert_eq!(a.max_send_data_segment_length, b.max_recv_data_segment_length);
            prop_assert_eq!(a.max_recv_data_segment_length, b.max_send_data_segment_length);
            let same = Negotiated {
                max_send_data_segment_length: b.max_send_data_segment_length,
                max_recv_data_segment_length: b.max_recv_data_segment_length,
                ..a
            };
            prop_assert_eq!(same, b);
            prop_assert!(b.first_burst_length <= b.max_burst_length);
        }
    }
}
