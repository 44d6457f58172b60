//! Rules on the text of files: lengths, opening comments.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Finding, Source, files};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function, from its `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that may be longer, with reasons.
pub(crate) struct Exceptions(Vec<(String, String)>);

impl Exceptions {
    /// Reads the list; a line without a reason is an error.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut list = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, ' ');
            let (Some(file), Some(function), Some(_reason)) =
                (words.next(), words.next(), words.next())
            else {
                bail!(
                    "{}:{}: wants `path function reason`",
                    path.display(),
                    index + 1
                );
            };
            list.push((file.to_owned(), function.to_owned()));
        }
        Ok(Self(list))
    }

    fn allows(&self, path: &str, function: &str) -> bool {
        self.0
            .iter()
            .any(|(file, name)| file == path && name == function)
    }
}

/// Files and functions that are too long.
pub(crate) fn lengths(sources: &[Source], exceptions: &Exceptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let code = blank(&source.text);
        if !is_test_file(&source.path) {
            let lines = lines_without_tests(&source.text);
            if lines > FILE_LINES_MAX {
                let text = format!(
                    "{lines} lines without tests, {FILE_LINES_MAX} at most: split it by what it does"
                );
                findings.push(Finding::new(source.path.as_str(), text));
            }
        }
        for function in functions(&code) {
            if function.lines > FUNCTION_LINES_MAX
                && !exceptions.allows(&source.path, &function.name)
            {
                let place = format!("{}:{}", source.path, function.line);
                let text = format!(
                    "fn {} has {} lines, {FUNCTION_LINES_MAX} at most",
                    function.name, function.lines
                );
                findings.push(Finding::new(place, text));
            }
        }
    }
    findings
}

/// Files without a module comment at their top.
pub(crate) fn opening(sources: &[Source]) -> Vec<Finding> {
    let opens = |source: &&Source| !source.text.trim_start().starts_with("//!");
    let finding = |source: &Source| {
        Finding::new(source.path.as_str(), "opens without a module comment (//!)")
    };
    sources.iter().filter(opens).map(finding).collect()
}

/// The crate that holds the house's `unsafe`, each block with its SAFETY comment (clippy refuses
/// others).
const UNSAFE: &str = "crates/ring/";

/// Roots of crates that do not forbid unsafe code.
pub(crate) fn safe(sources: &[Source]) -> Vec<Finding> {
    let is_root = |path: &str| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    sources
        .iter()
        .filter(|source| is_root(&source.path) && !source.path.starts_with(UNSAFE))
        .filter(|source| !blank(&source.text).contains("#![forbid(unsafe_code)]"))
        .map(|source| Finding::new(source.path.as_str(), "wants #![forbid(unsafe_code)]"))
        .collect()
}

/// Python files without a docstring at their top.
pub(crate) fn python(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files(&root.join("tests"), "py")? {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let first = text.lines().find(|line| !line.starts_with("#!"));
        if !first.is_some_and(|line| line.starts_with("\"\"\"")) {
            let place = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .display()
                .to_string();
            findings.push(Finding::new(place, "opens without a docstring"));
        }
    }
    Ok(findings)
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// Lines up to the tests module at the end.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}

#[derive(Debug, Eq, PartialEq)]
struct Function {
    name: String,
    /// From 1.
    line: usize,
    lines: usize,
}

/// Functions with a body, in text whose strings and comments are blanked.
fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = at == 0 || !is_word(bytes[at - 1]);
        let name: String = code[at + 3..]
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(&bytes[at..]) {
            let line = line_of(bytes, at);
            found.push(Function {
                name,
                line,
                lines: line_of(bytes, at + end) - line + 1,
            });
        }
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Where the body ends that follows a signature; `None` for a declaration without a body.
fn body_end(bytes: &[u8]) -> Option<usize> {
    let mut braces = 0_usize;
    let mut brackets = 0_usize;
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' if braces == 0 => brackets += 1,
            b')' | b']' if braces == 0 => brackets = brackets.saturating_sub(1),
            b';' if braces == 0 && brackets == 0 => return None,
            b'{' if brackets == 0 || braces > 0 => braces += 1,
            b'}' if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// The text with comments, strings and character literals replaced by spaces; lines stay where they
/// are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = opaque(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if length == 0 {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let end = (at + length).min(bytes.len());
        out.extend(
            bytes[at..end]
                .iter()
                .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
        );
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The length of the comment, string or character literal that begins here; 0 when none does.
fn opaque(rest: &[u8], before: Option<u8>) -> usize {
    let until = |needle: &[u8], from: usize| {
        rest[from..]
            .windows(needle.len())
            .position(|window| window == needle)
            .map_or(rest.len(), |found| from + found + needle.len())
    };
    match rest {
        [b'/', b'/', ..] => rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len()),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'"', ..] => quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !before.is_some_and(|byte| is_word(byte) && byte != b'b') => {
            raw_string(rest)
        }
        // A character, not a lifetime.
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        [b'\'', first, ..] => {
            let width = if *first < 0x80 {
                1
            } else {
                first.leading_ones() as usize
            };
            if rest.get(1 + width) == Some(&b'\'') {
                width + 2
            } else {
                0
            }
        }
        _ => 0,
    }
}

/// The length of a literal that ends at the next quote without a backslash before it.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `r#"…"#`; 0 for a raw identifier.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.extend(std::iter::repeat_n(b'#', hashes));
    let from = 2 + hashes;
    let found = rest[from..]
        .windows(end.len())
        .position(|window| window == end);
    found.map_or(rest.len(), |found| from + found + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(String, usize)> {
        functions(&blank(text))
            .into_iter()
            .map(|function| (function.name, function.lines))
            .collect()
    }

    #[test]
    fn bodies_are_measured_and_declarations_are_not() {
        let text = "trait T {\n    fn declared(&self) -> [u8; 4];\n    fn given(&self) {\n        {}\n    }\n}\n";
        assert_eq!(names(text), [("given".to_owned(), 3)]);
    }

    #[test]
    fn braces_in_text_do_not_count() {
        let text = "fn a<'x>(s: &'x str) {\n    let _ = \"}\\\"}\";\n    let _ = '}';\n    let _ = r#\"}\"}\"#;\n    // }\n    /* } */\n}\nfn b() {}\n";
        assert_eq!(names(text), [("a".to_owned(), 7), ("b".to_owned(), 1)]);
    }

    #[test]
    fn words_that_end_in_fn_are_no_functions() {
        assert!(names("let my_fn x = 1; // fn no() {\n").is_empty());
    }

    #[test]
    fn long_ones_are_found_unless_excepted() {
        let text = format!("//! x\nfn long() {{\n{}}}\n", "    call();\n".repeat(80));
        let sources = [Source {
            path: "crates/a/src/lib.rs".to_owned(),
            text,
        }];
        assert_eq!(lengths(&sources, &Exceptions(vec![])).len(), 1);
        let excepted = Exceptions(vec![("crates/a/src/lib.rs".to_owned(), "long".to_owned())]);
        assert!(lengths(&sources, &excepted).is_empty());
    }

    #[test]
    fn roots_forbid_unsafe_code_but_for_the_one_that_holds_it() {
        let source = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let sources = [
            source("crates/a/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n"),
            source("crates/b/src/main.rs", "//! #![forbid(unsafe_code)]\n"),
            source("crates/b/src/other.rs", "//! x\n"),
            source("crates/ring/src/lib.rs", "//! x\n"),
        ];
        let places: Vec<String> = safe(&sources)
            .into_iter()
            .map(|found| found.place)
            .collect();
        assert_eq!(places, ["crates/b/src/main.rs"]);
    }

    #[test]
    fn tests_do_not_make_a_file_long() {
        let text = format!(
            "//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "// line\n".repeat(900)
        );
        assert_eq!(lines_without_tests(&text), 1);
    }
}
