//! What a run of `verify` tells: counts, or the first thing found wrong.

use std::collections::BTreeMap;

use ring::RingError;
use serde::Serialize;

use crate::limits::ERROR_KINDS_MAX;
use crate::model::Wrong;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The options do not fit together, or not to the LUN.
    #[error("{0}")]
    Options(String),
    /// The reactor cannot go on.
    #[error("the reactor failed")]
    Ring(#[from] RingError),
    /// A block holds what it cannot hold.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// A counter went wrong.
    #[error("counter {counter}: {what}")]
    Counter {
        /// Which; its block has the same number.
        counter: u64,
        /// Expected and found.
        what: String,
    },
    /// No answer.
    #[error("initiator {initiator}: {what} has no answer after {seconds} s")]
    Hang {
        /// Which.
        initiator: u32,
        /// What was asked.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// A connection ended that nobody here killed, and no restart of the target was announced.
    #[error("initiator {initiator}: the connection was lost: {why}")]
    Lost {
        /// Which.
        initiator: u32,
        /// How it ended.
        why: String,
    },
    /// The target was away for too long.
    #[error("initiator {initiator}: not logged in for {seconds} s; last: {last}")]
    Away {
        /// Which.
        initiator: u32,
        /// For how long.
        seconds: u64,
        /// Why it was lost last.
        last: String,
    },
    /// The unit stays NOT READY.
    #[error(
        "initiator {initiator}: the unit has been NOT READY for {seconds} s (code {code:04x}h)"
    )]
    NotReady {
        /// Which.
        initiator: u32,
        /// For how long.
        seconds: u64,
        /// Additional sense code and qualifier.
        code: u16,
    },
    /// Something ended as it must not.
    #[error("initiator {initiator}: {what}")]
    Unexpected {
        /// Which.
        initiator: u32,
        /// What was asked, and its end.
        what: String,
    },
}

/// What was done and seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Reads that ended well.
    pub reads: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// UNMAPs that ended well.
    pub unmaps: u64,
    /// SYNCHRONIZE CACHEs that ended well.
    pub flushes: u64,
    /// Increments by COMPARE AND WRITE that succeeded.
    pub increments: u64,
    /// COMPARE AND WRITE that found another value.
    pub miscompares: u64,
    /// Bytes of reads and writes.
    pub bytes: u64,
    /// Commands whose end is unknown.
    pub unknown: u64,
    /// Of these, those that somebody else's reset may have ended without a word.
    pub given_up: u64,
    /// BUSY and TASK SET FULL.
    pub busy: u64,
    /// Unit attentions.
    pub attentions: u64,
    /// Of these, changes of the capacity.
    pub capacity_changes: u64,
    /// Ends other than GOOD, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Logins, the first ones and those after a loss.
    pub logins: u64,
    /// Of these, those with digests over data.
    pub logins_with_digests: u64,
    /// Connections killed by us.
    pub kills: u64,
    /// Connections lost otherwise.
    pub losses: u64,
    /// Task management functions answered.
    pub functions: u64,
    /// Blocks read and checked in the last pass.
    pub verified_blocks: u64,
    /// Blocks of the LUN in the end, as far as they were used.
    pub capacity_blocks: u64,
    /// Longest time from a command to its answer, in milliseconds.
    pub slowest_ms: u128,
}

impl Report {
    /// Counts an end other than GOOD.
    pub(super) fn error(&mut self, status: u8, sense: Option<(u8, u16)>) {
        let kind = match sense {
            Some((key, code)) => format!("{} {:02x}/{:02x}", key_name(key), code >> 8, code & 0xff),
            None => format!("status {status:02x}"),
        };
        let full = self.errors.len() >= ERROR_KINDS_MAX && !self.errors.contains_key(&kind);
        let kind = if full { "others".to_owned() } else { kind };
        *self.errors.entry(kind).or_default() += 1;
    }
}

const fn key_name(key: u8) -> &'static str {
    match key {
        1 => "RECOVERED ERROR",
        2 => "NOT READY",
        3 => "MEDIUM ERROR",
        4 => "HARDWARE ERROR",
        5 => "ILLEGAL REQUEST",
        6 => "UNIT ATTENTION",
        7 => "DATA PROTECT",
        11 => "ABORTED COMMAND",
        14 => "MISCOMPARE",
        _ => "sense",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind_and_kinds_are_bounded() {
        let mut report = Report::default();
        report.error(2, Some((6, 0x2900)));
        report.error(2, Some((6, 0x2900)));
        report.error(0x28, None);
        assert_eq!(report.errors["UNIT ATTENTION 29/00"], 2);
        assert_eq!(report.errors["status 28"], 1);
        for code in 0..1000 {
            report.error(2, Some((5, code)));
        }
        assert_eq!(report.errors.len(), ERROR_KINDS_MAX + 1);
        assert_eq!(report.errors.values().sum::<u64>(), 1003);
    }
}
