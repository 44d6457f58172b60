//! From text to a document, or to everything that is wrong with it.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::document::{Document, VERSION, version_reason};
use crate::limits;
use crate::problem::{CheckError, Lines, Problem, Problems};
use crate::shape;

/// Reads a document.
///
/// # Errors
/// Everything found wrong, with lines: bytes that are no text, syntax, another version, unknown
/// keys (all of them), values of the wrong type.
pub fn parse(bytes: &[u8]) -> Result<Document, Problems> {
    parse_text(text(bytes, limits::DOCUMENT_BYTES)?)
}

/// [`parse`] for what is text already.
pub(crate) fn parse_text(text: &str) -> Result<Document, Problems> {
    let lines = Lines::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax(&errors, &lines));
    }
    version(root.get_ref(), &lines)?;
    let unknown = shape::unknown_keys(&root, &lines);
    if !unknown.is_empty() {
        return Err(Problems::new(unknown));
    }
    Document::deserialize(toml::Deserializer::from(root.clone())).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let path = path_at(&root, at);
        if is_private(&path) {
            return lines.problem(at, path, "expected a text in quotes").into();
        }
        humanize(error.message()).at(&lines, at, path).into()
    })
}

/// The bytes as text, if they are, and not too many.
pub(crate) fn text(bytes: &[u8], most: u64) -> Result<&str, Problems> {
    let nowhere = |reason: String| Problem {
        line: 0,
        column: 0,
        path: String::new(),
        reason,
        suggestion: None,
    };
    if bytes.len() as u64 > most {
        return Err(nowhere(format!(
            "the document is {} bytes long; the most is {most}",
            bytes.len(),
        ))
        .into());
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let valid = std::str::from_utf8(valid).unwrap_or_default();
        Lines::new(valid)
            .problem(valid.len(), "", "this is no UTF-8 text")
            .into()
    })
}

/// Where in the text a check's refusal points, as a problem.
pub(crate) fn locate(text: &str, error: &CheckError) -> Problem {
    let lines = Lines::new(text);
    let (root, _) = DeTable::parse_recoverable(text);
    for path in [error.path.clone(), format!("iscsi.{}", error.path)] {
        if let Some(at) = offset_of(root.get_ref(), &path) {
            return lines.problem(at, path, error.reason.clone());
        }
    }
    Problem {
        line: 0,
        column: 0,
        path: error.path.clone(),
        reason: error.reason.clone(),
        suggestion: None,
    }
}

/// Whether a secret may stand there by mistake: what is found is not repeated then.
fn is_private(path: &str) -> bool {
    path.ends_with(".secret") || path.starts_with("sealed_secrets")
}

/// One problem a line: a line that went wrong once often goes wrong again.
fn syntax(errors: &[toml::de::Error], lines: &Lines<'_>) -> Problems {
    let mut list: Vec<Problem> = errors
        .iter()
        .map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let reason = match error.message() {
                text if text.starts_with("string values must be quoted") => {
                    "a value is missing here, or a text is not in quotes".to_owned()
                }
                text => text.to_owned(),
            };
            lines.problem(at, "", reason)
        })
        .collect();
    list.sort_by_key(|problem| (problem.line, problem.column));
    list.dedup_by_key(|problem| problem.line);
    Problems::new(list)
}

/// The version comes first: the keys of another one are not unknown, they are of another language.
fn version(root: &DeTable<'_>, lines: &Lines<'_>) -> Result<(), Problems> {
    let Some(value) = root.get("version") else {
        let reason = format!("required key `version` is missing; write `version = {VERSION}`");
        return Err(lines.problem(0, "version", reason).into());
    };
    let number = value
        .get_ref()
        .as_integer()
        .and_then(|integer| u32::from_str_radix(integer.as_str(), integer.radix()).ok());
    let reason = match number {
        Some(VERSION) => return Ok(()),
        Some(other) => version_reason(other),
        None => format!("the version is a whole number; write `version = {VERSION}`"),
    };
    Err(lines.problem(value.span().start, "version", reason).into())
}

/// A reason for people, with a suggestion where one is near.
#[derive(Debug)]
pub(crate) struct Reason {
    text: String,
    suggestion: Option<String>,
}

impl Reason {
    pub(crate) fn at(self, lines: &Lines<'_>, offset: usize, path: impl Into<String>) -> Problem {
        Problem {
            suggestion: self.suggestion,
            ..lines.problem(offset, path, self.text)
        }
    }
}

/// Serde's message in the words of somebody who has not written Rust.
pub(crate) fn humanize(message: &str) -> Reason {
    let plain = |text: String| Reason {
        text,
        suggestion: None,
    };
    if let Some(field) = message.strip_prefix("missing field ") {
        return plain(format!("required key {field} is missing"));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ")
        && let Some((found, known)) = rest.split_once(", expected ")
    {
        let words: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        let suggestion = shape::nearest(found.trim_matches('`'), words.iter().copied());
        let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
        return Reason {
            text: format!(
                "unknown value \"{}\"; there are {}",
                found.trim_matches('`'),
                quoted.join(", ")
            ),
            suggestion: suggestion.map(str::to_owned),
        };
    }
    for (prefix, verb) in [("invalid type: ", "found"), ("invalid value: ", "not")] {
        if let Some(rest) = message.strip_prefix(prefix)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            let found = match found {
                "map" => "a table",
                "sequence" => "a list",
                other => other,
            };
            return plain(format!("expected {}, {verb} {found}", type_name(expected)));
        }
    }
    plain(message.to_owned())
}

fn type_name(name: &str) -> String {
    match name {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number from 0 on".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" => "a text in quotes".to_owned(),
        "a sequence" => "a list".to_owned(),
        other => match other.strip_prefix("struct ") {
            Some(_) => "a table".to_owned(),
            None => other.to_owned(),
        },
    }
}

/// Path of the innermost key or value that covers an offset. Tables made by headers cover only
/// their header, so that the whole tree is looked through.
fn path_at(root: &Spanned<DeTable<'_>>, offset: usize) -> String {
    let mut best = (usize::MAX, String::new());
    for (key, value) in root.get_ref() {
        visit(key, value, "", offset, &mut best);
    }
    best.1
}

fn visit(
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    path: &str,
    offset: usize,
    best: &mut (usize, String),
) {
    let path = shape::join(path, key.get_ref());
    cover(&key.span(), &path, offset, best);
    visit_value(value, &path, offset, best);
}

fn visit_value(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    offset: usize,
    best: &mut (usize, String),
) {
    cover(&value.span(), path, offset, best);
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                visit(key, value, path, offset, best);
            }
        }
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                visit_value(element, &format!("{path}[{index}]"), offset, best);
            }
        }
        _ => {}
    }
}

fn cover(span: &std::ops::Range<usize>, path: &str, offset: usize, best: &mut (usize, String)) {
    // Of equal spans the later one is the inner one.
    if span.contains(&offset) && span.len() <= best.0 {
        *best = (span.len(), path.to_owned());
    }
}

/// Offset of what stands at a path such as `iscsi.target[0].name`; of the innermost part that is
/// there, if its first part is.
fn offset_of(root: &DeTable<'_>, path: &str) -> Option<usize> {
    let mut table = Some(root);
    let mut found = None;
    for part in path.split('.') {
        let (name, indices) = match part.split_once('[') {
            Some((name, indices)) => (name, indices),
            None => (part, ""),
        };
        let Some((key, value)) = table.and_then(|table| {
            let mut entries = table.iter();
            entries.find(|(key, _)| key.get_ref() == name)
        }) else {
            break;
        };
        let mut at = key.span().start;
        let mut value = value;
        for index in indices.split(['[', ']']) {
            let element = index
                .parse::<usize>()
                .ok()
                .and_then(|index| value.get_ref().get(index));
            if let Some(element) = element {
                at = element.span().start;
                value = element;
            }
        }
        found = Some(at);
        table = value.get_ref().as_table();
    }
    found
}
