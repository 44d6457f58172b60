//! The one error of the API: what failed, on what, and what to do.
//!
//! [`Code`] is the part a program reads; its HTTP status is in one table ([`Code::status`], shown
//! in `docs/api-errors.md`, where a test holds the two together).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a request failed, for programs. New codes may be added; an unknown one reads as
/// [`Code::Internal`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request itself is wrong: bad JSON, a missing field, a value out of range.
    InvalidRequest,
    /// The settings that would result are wrong; `details` holds the place.
    InvalidSettings,
    /// The caller may not use this socket.
    Forbidden,
    /// What the request names does not exist.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// A thing of this name exists.
    AlreadyExists,
    /// Something else still uses it.
    InUse,
    /// The settings changed since the caller read them.
    GenerationConflict,
    /// The service cannot do this in the state it is in (reservations held, port taken, file
    /// missing).
    Refused,
    /// The request body is larger than the limit.
    TooLarge,
    /// The work did not end in time.
    TimedOut,
    /// Too much is going on; try again.
    Busy,
    /// The file system is full.
    NoSpace,
    /// The work was cancelled by request.
    Cancelled,
    /// A fault of the service or its host.
    #[serde(other)]
    Internal,
}

impl Code {
    /// Every code, in the order of the table in the documents.
    pub const ALL: [Self; 15] = [
        Self::InvalidRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TimedOut,
        Self::AlreadyExists,
        Self::InUse,
        Self::GenerationConflict,
        Self::Refused,
        Self::Cancelled,
        Self::TooLarge,
        Self::InvalidSettings,
        Self::Internal,
        Self::Busy,
        Self::NoSpace,
    ];

    /// The HTTP status that carries this code.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TimedOut => 408,
            Self::AlreadyExists
            | Self::InUse
            | Self::GenerationConflict
            | Self::Refused
            | Self::Cancelled => 409,
            Self::TooLarge => 413,
            Self::InvalidSettings => 422,
            Self::Internal => 500,
            Self::Busy => 503,
            Self::NoSpace => 507,
        }
    }

    /// The code as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::InvalidSettings => "invalid-settings",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::AlreadyExists => "already-exists",
            Self::InUse => "in-use",
            Self::GenerationConflict => "generation-conflict",
            Self::Refused => "refused",
            Self::TooLarge => "too-large",
            Self::TimedOut => "timed-out",
            Self::Busy => "busy",
            Self::NoSpace => "no-space",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failed request, for people and programs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{what}")]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// What failed and on what, as a sentence without a full stop.
    pub what: String,
    /// What to do about it; empty when there is nothing to do but report it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next_step: String,
    /// More lines: a place in the settings, a cause from the operating system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl Problem {
    /// A problem with the two things every problem has.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            next_step: String::new(),
            details: Vec::new(),
        }
    }

    /// Says what to do.
    #[must_use]
    pub fn next(mut self, next_step: impl Into<String>) -> Self {
        self.next_step = next_step.into();
        self
    }

    /// Adds a line of detail.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Adds the whole chain of causes of `error` below its own text, a line each.
    #[must_use]
    pub fn causes(mut self, error: &dyn std::error::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            self.details.push(cause.to_string());
            source = cause.source();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_name_is_the_display_name() {
        for code in Code::ALL {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), code);
        }
    }

    #[test]
    fn a_code_of_a_later_version_reads_as_internal() {
        let read: Code = serde_json::from_str("\"not-invented-yet\"").unwrap();
        assert_eq!(read, Code::Internal);
    }

    #[test]
    fn the_table_in_the_documents_is_this_table() {
        let page = include_str!("../../../docs/api-errors.md");
        let rows: Vec<(String, u16)> = page
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
                let code = cells.next()?.trim_end_matches('`').to_owned();
                Some((code, cells.next()?.parse().ok()?))
            })
            .collect();
        let expected: Vec<(String, u16)> = Code::ALL
            .iter()
            .map(|code| (code.name().to_owned(), code.status()))
            .collect();
        assert_eq!(rows, expected);
    }
}
