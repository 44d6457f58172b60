//! Licences: everything from the registry may be given on under one that goes with ours.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Finding;
use crate::workspace::cargo;

/// Licences that ask for no more than their text beside ours.
const ALLOWED: [&str; 10] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "BSL-1.0",
    "CC0-1.0",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Crates whose licence is unknown or not on the list.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("cargo metadata failed: {said}");
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    Ok(judge(&metadata.packages))
}

fn judge(packages: &[Package]) -> Vec<Finding> {
    let finding = |package: &Package| {
        let licence = package.license.as_deref().unwrap_or("none told");
        let text = format!("licence {licence}: allowed are {}", ALLOWED.join(", "));
        Finding::new(format!("{} {}", package.name, package.version), text)
    };
    packages
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(is_allowed))
        .map(finding)
        .collect()
}

/// Whether an SPDX expression can be met by what is allowed.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any(&mut rest) && rest.is_empty()
}

/// `A OR B …`; each part is read to its end, whatever the ones before brought.
fn any(rest: &mut &[&str]) -> bool {
    let mut held = all(rest);
    while take(rest, "OR") {
        held |= all(rest);
    }
    held
}

/// `A AND B …`
fn all(rest: &mut &[&str]) -> bool {
    let mut held = one(rest);
    while take(rest, "AND") {
        held &= one(rest);
    }
    held
}

/// A name, with or without an exception (which only ever allows more), or an expression in
/// brackets.
fn one(rest: &mut &[&str]) -> bool {
    if take(rest, "(") {
        let held = any(rest);
        return take(rest, ")") && held;
    }
    let Some((name, left)) = rest.split_first() else {
        return false;
    };
    *rest = left;
    if take(rest, "WITH") {
        *rest = rest.get(1..).unwrap_or_default();
    }
    ALLOWED.contains(name)
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    let found = rest.first() == Some(&word);
    if found {
        *rest = &rest[1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for fine in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "ISC AND (Apache-2.0 OR GPL-2.0-only) AND BSD-3-Clause",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert!(is_allowed(fine), "{fine}");
        }
        for foul in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT",
            "MIT Apache-2.0",
            "OpenSSL WITH MIT",
        ] {
            assert!(!is_allowed(foul), "{foul}");
        }
    }

    #[test]
    fn unknown_ones_are_named() {
        let package = |name: &str, license: Option<&str>| Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
        };
        let found = judge(&[package("a", Some("MIT")), package("b", None)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "b 1.0.0");
    }
}
