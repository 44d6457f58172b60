//! Which settings staged secrets belong to, and what became of these.

use std::fmt;
use std::io;

use aws_lc_rs::digest::{SHA256, digest};

use crate::change::Staged;
use crate::record::{self, hex};
use crate::store::read_record;

/// First words of staged secrets; a [`Ticket`] follows.
pub(super) const STAGED: &str = "# Secrets of Sanctum, in force with these settings: ";

/// What a crash made of the settings that staged secrets belong to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    InForce,
    GivenUp,
    /// The current settings are not there, or others than those of before and after.
    Unknown,
}

/// Which settings staged secrets come into force with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ticket {
    number: u64,
    /// The generation that is current until then; 0 where there is none.
    before: u64,
    sum: String,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            before,
            sum,
        } = self;
        write!(f, "generation {number} after {before}, SHA-256 {sum}")
    }
}

impl Ticket {
    pub(super) fn of(settings: &Staged) -> io::Result<Self> {
        let sum = sum(&settings.file()?);
        let generation = settings.generation();
        Ok(Self {
            number: generation.map_or(0, |generation| generation.number),
            before: generation.and_then(|now| now.parent).unwrap_or(0),
            sum,
        })
    }

    pub(super) fn read(staged: &[u8]) -> Option<Self> {
        let head = staged.split(|byte| *byte == b'\n').next()?;
        let head = std::str::from_utf8(head).ok()?.strip_prefix(STAGED)?;
        let (generations, sum) = head.split_once(", SHA-256 ")?;
        let generations = generations.strip_prefix("generation ")?;
        let (number, before) = generations.split_once(" after ")?;
        Some(Self {
            number: number.parse().ok()?,
            before: before.parse().ok()?,
            sum: sum.to_owned(),
        })
    }

    pub(super) fn fate(&self, current: &[u8]) -> Fate {
        if sum(current) == self.sum {
            return Fate::InForce;
        }
        let edited = read_record(current).is_err();
        match record::number(current) {
            Some(number) if number == self.number && edited => Fate::InForce,
            // Of a later generation, these would have got their place before it was made.
            Some(number) if number >= self.number || number == self.before => Fate::GivenUp,
            _ => Fate::Unknown,
        }
    }
}

/// The sum that tells one settings file from all others.
fn sum(file: &[u8]) -> String {
    hex(digest(&SHA256, file).as_ref())
}
