//! House rules as code. Each finding names the file, the rule and what to do.

mod floors;
mod licences;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::count::Counts;

/// One broken rule.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    pub(crate) place: String,
    pub(crate) text: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            text: text.into(),
        }
    }
}

/// Functions that may be longer, one a line: `path function reason`.
const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";

/// Runs all rules and prints what they found.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let counts = count(root)?;
    println!("{counts}");
    Ok(counts.failed == 0)
}

/// Runs all rules; each is one check.
pub(crate) fn count(root: &Path) -> Result<Counts> {
    let sources = sources(root)?;
    let exceptions = source::Exceptions::read(&root.join(EXCEPTIONS))?;
    let rules: [(&str, Vec<Finding>); 6] = [
        (
            "files and functions are short",
            source::lengths(&sources, &exceptions),
        ),
        (
            "files open with a module comment",
            source::opening(&sources),
        ),
        (
            "crates forbid unsafe code, but for ring",
            source::safe(&sources),
        ),
        (
            "crates are named for what they provide, and keep to their floors",
            floors::check(root)?,
        ),
        (
            "what is linked in has a licence that goes with ours",
            licences::check(root)?,
        ),
        ("Python files open with a docstring", source::python(root)?),
    ];
    let mut counts = Counts::default();
    for (rule, findings) in rules {
        for finding in &findings {
            println!("{}: {}", finding.place, finding.text);
        }
        println!(
            "{} {rule}",
            if findings.is_empty() {
                "ok    "
            } else {
                "BROKEN"
            }
        );
        counts += Counts::one(findings.is_empty());
    }
    Ok(counts)
}

/// A Rust source file.
pub(crate) struct Source {
    /// Relative to the workspace.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every Rust file of the workspace's members.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for top in ["crates", "xtask", "fuzz"] {
        for path in files(&root.join(top), "rs")? {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let path = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .display()
                .to_string();
            found.push(Source { path, text });
        }
    }
    found.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(found)
}

/// Files with an extension under a directory; build output is left out.
fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot read {}", directory.display()))?
                .path();
            if path.is_dir() {
                if !is_output(&path) {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Whether a directory holds what was built. One that is called `target` does only beside a
/// manifest: there are a crate and modules of that name, too.
fn is_output(directory: &Path) -> bool {
    directory.ends_with("__pycache__")
        || directory.ends_with("target") && directory.with_file_name("Cargo.toml").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_all_but_what_was_built() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let found = sources(root).unwrap();
        let has = |path: &str| found.iter().any(|source| source.path == path);
        assert!(has("crates/target/src/lib.rs"));
        assert!(has("crates/iscsi/src/target/mod.rs"));
        assert!(is_output(&root.join("target")));
        assert!(is_output(&root.join("fuzz/target")));
        assert!(!is_output(&root.join("crates/target")));
    }
}
