//! Floors: a crate imports only from floors below, or from what stands before it on its own floor.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Finding;
use crate::workspace::cargo;

/// Floors from the lowest, each in the order in which its crates may import one another; crates in
/// one bracket stand side by side.
const FLOORS: [(&str, &[&[&str]]); 5] = [
    ("protocol", &[&["iscsi", "scsi", "peerdist", "qmp"]]),
    (
        "mechanism",
        &[
            &["ring"],
            &["net"],
            &["disk"],
            &["export"],
            &["loadgen"],
            &["consensus"],
        ],
    ),
    (
        "services",
        &[
            &["doctor", "branch"],
            &["target"],
            &["initiator"],
            &["cluster"],
            &["vm"],
        ],
    ),
    ("admin", &[&["events"], &["settings"], &["api"]]),
    ("faces", &[&["sanctum", "sanctumd"]]),
];

/// Tools beside the floors: they may import anything, nothing imports them.
const BESIDE: [&str; 4] = ["simulator", "testbed", "xtask", "sanctum-fuzz"];

/// Words that say nothing about what a crate provides.
const BANNED_NAMES: [&str; 6] = ["util", "utils", "common", "base", "helpers", "misc"];

/// What a protocol crate must not need: sockets, files, clocks, runtimes.
const BANNED_BELOW: [&str; 9] = [
    "tokio",
    "async-std",
    "smol",
    "mio",
    "io-uring",
    "rustix",
    "socket2",
    "libc",
    "futures",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Absent for a normal dependency.
    kind: Option<String>,
}

/// The lowest floor that a face may import: what lies below is reached through a service.
const BELOW_FACES: usize = 2;

/// Floor and place on it.
type Position = (usize, usize);

fn position(name: &str) -> Option<Position> {
    FLOORS.iter().enumerate().find_map(|(floor, (_, ranks))| {
        ranks
            .iter()
            .position(|rank| rank.contains(&name))
            .map(|rank| (floor, rank))
    })
}

/// Crates with banned names or imports that the floors forbid.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let output = cargo()
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--locked",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    Ok(judge(&metadata))
}

fn judge(metadata: &Metadata) -> Vec<Finding> {
    let own: BTreeMap<&str, Option<Position>> = metadata
        .packages
        .iter()
        .map(|package| (package.name.as_str(), position(&package.name)))
        .collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        if name
            .split(['-', '_'])
            .any(|word| BANNED_NAMES.contains(&word))
        {
            findings.push(Finding::new(
                name,
                "a crate is named for what it provides, not util, common or base",
            ));
        }
        if BESIDE.contains(&name) {
            continue;
        }
        let Some(from) = own.get(name).copied().flatten() else {
            findings.push(Finding::new(
                name,
                "stands on no floor: add it to the table in xtask/src/tidy/floors.rs",
            ));
            continue;
        };
        let needed = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"));
        for dependency in needed {
            findings.extend(judge_import(name, from, &dependency.name, &own));
        }
    }
    findings
}

fn judge_import(
    name: &str,
    from: Position,
    needed: &str,
    own: &BTreeMap<&str, Option<Position>>,
) -> Option<Finding> {
    let floor = FLOORS[from.0].0;
    if !own.contains_key(needed) {
        let banned = from.0 == 0 && BANNED_BELOW.contains(&needed);
        return banned.then(|| Finding::new(name, format!("a protocol crate needs no {needed}")));
    }
    if BESIDE.contains(&needed) {
        return Some(Finding::new(name, format!("imports the tool {needed}")));
    }
    let to = own.get(needed).copied().flatten()?;
    let is_face = from.0 == FLOORS.len() - 1;
    let fault = if to >= from {
        "which is not below it"
    } else if is_face && to.0 < BELOW_FACES {
        "past the services"
    } else {
        return None;
    };
    let there = FLOORS[to.0].0;
    let text = format!("stands on the floor {floor} and imports {needed} from {there}, {fault}");
    Some(Finding::new(name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, needs: &[(&str, Option<&str>)]) -> Package {
        let dependencies = needs
            .iter()
            .map(|(name, kind)| Dependency {
                name: (*name).to_owned(),
                kind: kind.map(str::to_owned),
            })
            .collect();
        Package {
            name: name.to_owned(),
            dependencies,
        }
    }

    fn judged(packages: Vec<Package>) -> Vec<Finding> {
        judge(&Metadata { packages })
    }

    #[test]
    fn downwards_and_before_are_fine() {
        let fine = vec![
            package("iscsi", &[("thiserror", None)]),
            package("scsi", &[]),
            package("ring", &[("libc", None)]),
            package("disk", &[("scsi", None), ("ring", None)]),
            package(
                "target",
                &[("iscsi", None), ("disk", None), ("events", Some("dev"))],
            ),
            package("events", &[]),
            package(
                "sanctumd",
                &[("target", None), ("events", None), ("disk", Some("dev"))],
            ),
        ];
        assert_eq!(judged(fine), []);
    }

    #[test]
    fn upwards_sideways_and_runtimes_are_not() {
        let pairs = [
            vec![package("disk", &[("target", None)]), package("target", &[])],
            vec![package("ring", &[("disk", None)]), package("disk", &[])],
            vec![package("iscsi", &[("scsi", None)]), package("scsi", &[])],
            vec![
                package("target", &[("settings", None)]),
                package("settings", &[]),
            ],
            vec![package("iscsi", &[("tokio", None)])],
            vec![package("disk_util", &[])],
            vec![package("newcomer", &[])],
            vec![package("sanctumd", &[("disk", None)]), package("disk", &[])],
        ];
        for packages in pairs {
            let name = packages[0].name.clone();
            assert!(!judged(packages).is_empty(), "{name}");
        }
    }
}
