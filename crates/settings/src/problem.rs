//! What is wrong with a document, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;

/// One thing wrong with a document.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// Line, from 1; 0 where the place is not known.
    pub line: usize,
    /// Column in characters, from 1; 0 where the place is not known.
    pub column: usize,
    /// Where in the document, such as `iscsi.device[1].size`; empty for what concerns the text as
    /// such.
    pub path: String,
    /// What is wrong, for people.
    pub reason: String,
    /// What was probably meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// Everything found wrong with a document, in the order of its lines; never empty.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problems {
    /// The first [`limits::PROBLEMS`] of them.
    pub list: Vec<Problem>,
    /// How many there are beside.
    pub more: usize,
}

impl Problems {
    pub(crate) fn new(mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| (problem.line, problem.column));
        let more = list.len().saturating_sub(limits::PROBLEMS);
        list.truncate(limits::PROBLEMS);
        Self { list, more }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self::new(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A value that the service refuses: the answer of a check.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct CheckError {
    /// Where in the document; from its root (`iscsi.target[0].name`) or from the iSCSI section
    /// (`target[0].name`).
    pub path: String,
    /// Why, for people.
    pub reason: String,
}

impl CheckError {
    /// A refusal of the value at `path`.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// Turns offsets in a text into lines and columns.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        let starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1));
        Self {
            text,
            starts: starts.collect(),
        }
    }

    /// Line and column of a byte offset, both from 1; an offset past the end is the end.
    pub(crate) fn place(&self, offset: usize) -> (usize, usize) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .map_or(0, |before| before.chars().count());
        (line, column + 1)
    }

    pub(crate) fn problem(
        &self,
        offset: usize,
        path: impl Into<String>,
        reason: impl Into<String>,
    ) -> Problem {
        let (line, column) = self.place(offset);
        Problem {
            line,
            column,
            path: path.into(),
            reason: reason.into(),
            suggestion: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let lines = Lines::new("ab\nä=1\n\nx");
        assert_eq!(lines.place(0), (1, 1));
        assert_eq!(lines.place(2), (1, 3));
        assert_eq!(lines.place(3), (2, 1));
        assert_eq!(lines.place(4), (2, 1), "inside of a character");
        assert_eq!(lines.place(5), (2, 2));
        assert_eq!(lines.place(8), (3, 1));
        assert_eq!(lines.place(9), (4, 1));
        assert_eq!(lines.place(1000), (4, 2));
        assert_eq!(Lines::new("").place(5), (1, 1));
    }
}
