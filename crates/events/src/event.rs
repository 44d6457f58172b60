//! What an event is, and what a caller hands in to make one.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits;

/// How much an event matters.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; nothing to do.
    #[default]
    Info,
    /// Not as it should be; service goes on.
    Warning,
    /// Something failed that somebody asked for.
    Error,
    /// Data or service is at stake; act now.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        })
    }
}

/// A recorded event.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Event {
    /// Number; grows by one with each event, over restarts too. The first is 1.
    pub id: u64,
    /// When it was recorded.
    pub time: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// Stable name for programs, in kebab-case, such as `login-refused`.
    pub code: String,
    /// What it is about: a target's name, a device, a session.
    pub subject: String,
    /// What happened, as a sentence for people.
    pub message: String,
    /// Why, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What a person may do about it, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}

/// An event to be: everything but number and time.
///
/// Text longer than its bound in [`limits`] is cut and ends in `…`; control characters become
/// spaces, because a subject or a message may hold what an outsider sent, and it ends on a
/// terminal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Draft {
    pub(crate) severity: Severity,
    pub(crate) code: String,
    pub(crate) subject: String,
    pub(crate) message: String,
    pub(crate) cause: Option<String>,
    pub(crate) next_step: Option<String>,
    pub(crate) provoked: bool,
}

impl Draft {
    /// A draft of a code about a subject. The code is brought to kebab-case: lower-case ASCII
    /// letters, digits and hyphens; everything else becomes a hyphen.
    pub fn new(severity: Severity, code: &str, subject: &str, message: &str) -> Self {
        let code: String = code
            .chars()
            .take(limits::CODE_BYTES)
            .map(|c| match c {
                'a'..='z' | '0'..='9' => c,
                'A'..='Z' => c.to_ascii_lowercase(),
                _ => '-',
            })
            .collect();
        Self {
            severity,
            code,
            subject: tidy(subject, limits::SUBJECT_BYTES),
            message: tidy(message, limits::MESSAGE_BYTES),
            cause: None,
            next_step: None,
            provoked: false,
        }
    }

    /// An [`Severity::Info`] draft.
    pub fn info(code: &str, subject: &str, message: &str) -> Self {
        Self::new(Severity::Info, code, subject, message)
    }

    /// A [`Severity::Warning`] draft.
    pub fn warning(code: &str, subject: &str, message: &str) -> Self {
        Self::new(Severity::Warning, code, subject, message)
    }

    /// An [`Severity::Error`] draft.
    pub fn error(code: &str, subject: &str, message: &str) -> Self {
        Self::new(Severity::Error, code, subject, message)
    }

    /// A [`Severity::Critical`] draft.
    pub fn critical(code: &str, subject: &str, message: &str) -> Self {
        Self::new(Severity::Critical, code, subject, message)
    }

    /// Says why it happened.
    #[must_use]
    pub fn cause(mut self, cause: &str) -> Self {
        self.cause = Some(tidy(cause, limits::CAUSE_BYTES));
        self
    }

    /// Says what a person may do.
    #[must_use]
    pub fn next_step(mut self, next_step: &str) -> Self {
        self.next_step = Some(tidy(next_step, limits::NEXT_STEP_BYTES));
        self
    }

    /// Marks an event that an outsider can provoke at will; it is held to the rate limit.
    #[must_use]
    pub const fn provoked(mut self) -> Self {
        self.provoked = true;
        self
    }

    pub(crate) fn into_event(self, id: u64, time: Timestamp) -> Event {
        Event {
            id,
            time,
            severity: self.severity,
            code: self.code,
            subject: self.subject,
            message: self.message,
            cause: self.cause,
            next_step: self.next_step,
        }
    }
}

/// `text` without control characters, at most `most` bytes long.
fn tidy(text: &str, most: usize) -> String {
    const CUT: &str = "…";
    let mut out = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > most {
            while out.len() + CUT.len() > most {
                out.pop();
            }
            out.push_str(CUT);
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_its_bound_between_characters() {
        let long = "ä".repeat(limits::MESSAGE_BYTES);
        let draft = Draft::info("c", "s", &long);
        assert!(draft.message.len() <= limits::MESSAGE_BYTES);
        assert!(draft.message.len() > limits::MESSAGE_BYTES - 4);
        assert!(draft.message.ends_with("ä…"));
        assert_eq!(Draft::info("c", "s", "short").message, "short");
        let exact = "x".repeat(limits::MESSAGE_BYTES);
        assert_eq!(Draft::info("c", "s", &exact).message, exact);
    }

    #[test]
    fn terminal_escapes_do_not_pass() {
        let draft = Draft::info("c", "iqn.\u{1b}[2J", "a\nb").cause("\u{7}");
        assert_eq!(draft.subject, "iqn. [2J");
        assert_eq!(draft.message, "a b");
        assert_eq!(draft.cause.as_deref(), Some(" "));
    }

    #[test]
    fn codes_are_kebab_case() {
        assert_eq!(
            Draft::info("Login Refused_1", "", "").code,
            "login-refused-1"
        );
        assert_eq!(
            Draft::info(&"é".repeat(500), "", "").code.len(),
            limits::CODE_BYTES
        );
    }

    #[test]
    fn severities_are_ordered() {
        assert!(Severity::Info < Severity::Warning);
        assert!(Severity::Warning < Severity::Error);
        assert!(Severity::Error < Severity::Critical);
    }
}
