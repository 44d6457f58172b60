//! The file of one generation: a header of comment lines, then the document as it was given.
//!
//! ```text
//! #: sanctum settings 1
//! #: number = 12
//! #: parent = 11
//! #: when = "2026-11-24T08:22:35Z"
//! #: who = "root"
//! #: why = "grow disk1"
//! #: sha256 = "…"
//! version = 1
//! …
//! ```
//!
//! The header is made of comments, so the file is a document in itself and lines are numbered
//! alike in both. The checksum covers the header lines before it and all that follows it: a file
//! that was damaged, or edited by hand, is told from one that was written here.

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::problem::Problem;

const MARK: &str = "#:";
const FIRST: &str = "#: sanctum settings 1";
const SUM: &str = "#: sha256 = ";
const NUMBER: &str = "#: number = ";

/// One generation of the settings: who made it, when and why.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Generation {
    /// Number, from 1.
    pub number: u64,
    /// The generation that was current before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// When it was made.
    pub when: Timestamp,
    /// Who made it, as far as the caller knew.
    pub who: String,
    /// Why, in the words of who made it.
    pub why: String,
    /// The generation whose content it brought back, if it is a rollback or a restoration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_of: Option<u64>,
}

/// Why a file is not that of a generation written here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum RecordError {
    /// It has no header, or not one of ours.
    Header(Problem),
    /// Header and content do not match the checksum.
    Checksum,
}

/// The file of a generation with this document text.
pub(crate) fn encode(generation: &Generation, text: &str) -> Result<Vec<u8>, toml::ser::Error> {
    let mut head = format!("{FIRST}\n");
    for line in toml::to_string(generation)?.lines() {
        head.push_str(MARK);
        head.push(' ');
        head.push_str(line);
        head.push('\n');
    }
    let sum = checksum(&head, text);
    Ok(format!("{head}{SUM}\"{sum}\"\n{text}").into_bytes())
}

/// Generation and document text of a file.
pub(crate) fn decode(file: &str) -> Result<(Generation, &str), RecordError> {
    let (head, text) = file.split_at(header_len(file));
    let broken = |line: usize, reason: &str| {
        RecordError::Header(Problem {
            line,
            column: 1,
            path: String::new(),
            reason: reason.to_owned(),
            suggestion: None,
        })
    };
    if head.lines().next() != Some(FIRST) {
        return Err(broken(1, "the header of a generation is missing"));
    }
    let sum_at = head.rfind(SUM);
    let (fields, sum) = match sum_at.map(|at| head.split_at(at)) {
        Some(parts) => parts,
        None => return Err(broken(1, "the header has no checksum")),
    };
    let sum = sum
        .strip_prefix(SUM)
        .and_then(|sum| sum.strip_suffix('\n'))
        .map(|sum| sum.trim_matches('"'));
    if sum != Some(checksum(fields, text).as_str()) {
        return Err(RecordError::Checksum);
    }
    let fields: String = fields
        .lines()
        .skip(1)
        .map(|line| format!("{}\n", line.trim_start_matches(MARK)))
        .collect();
    match toml::from_str::<Generation>(&fields) {
        Ok(generation) => Ok((generation, text)),
        Err(error) => Err(broken(2, error.message())),
    }
}

/// The document text of a file, with or without a header, matching its checksum or not.
pub(crate) fn without_header(file: &str) -> &str {
    file.split_at(header_len(file)).1
}

/// A name or reason as it can stand in a header: one line, bounded.
pub(crate) fn tidy(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

impl Generation {
    /// A generation with who and why made fit for the header.
    pub(crate) fn new(number: u64, parent: Option<u64>, when: Timestamp, by: (&str, &str)) -> Self {
        Self {
            number,
            parent,
            when,
            who: tidy(by.0, limits::WHO_BYTES),
            why: tidy(by.1, limits::WHY_BYTES),
            content_of: None,
        }
    }
}

/// The number in a file's header, whether the rest of the file is whole or was edited.
pub(crate) fn number(file: &[u8]) -> Option<u64> {
    let mut lines = file.split(|byte| *byte == b'\n');
    let number = lines.find_map(|line| line.strip_prefix(NUMBER.as_bytes()))?;
    std::str::from_utf8(number).ok()?.trim().parse().ok()
}

fn header_len(file: &str) -> usize {
    file.split_inclusive('\n')
        .take_while(|line| line.starts_with(MARK))
        .map(str::len)
        .sum()
}

fn checksum(head: &str, text: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(head.as_bytes());
    context.update(text.as_bytes());
    hex(context.finish().as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation() -> Generation {
        let mut generation = Generation::new(
            12,
            Some(11),
            Timestamp::from_second(1_795_000_000).expect("in range"),
            ("ro\"ot\n", "because\n#: sha256 = \"x\"\u{1b}[2J"),
        );
        generation.content_of = Some(3);
        generation
    }

    #[test]
    fn a_generation_reads_back() {
        for text in ["", "version = 1\n", "version = 1", "\n#: not ours\n"] {
            let file = encode(&generation(), text).expect("plain");
            let file = String::from_utf8(file).expect("text");
            assert_eq!(decode(&file), Ok((generation(), text)));
            assert_eq!(without_header(&file), text);
            assert_eq!(number(file.as_bytes()), Some(12));
            assert_eq!(number(format!("{file}# edited").as_bytes()), Some(12));
            assert_eq!(number(text.as_bytes()), None);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let file = encode(&generation(), "version = 1\nservice.spin_us = 10\n").expect("plain");
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            if let Ok(damaged) = String::from_utf8(damaged) {
                assert!(decode(&damaged).is_err(), "byte {at}: {damaged}");
            }
        }
    }

    #[test]
    fn a_cut_file_is_noticed() {
        let file = encode(&generation(), "version = 1\n").expect("plain");
        let file = String::from_utf8(file).expect("text");
        for at in 0..file.len() {
            assert!(decode(&file[..at]).is_err(), "cut at {at}");
        }
    }
}
