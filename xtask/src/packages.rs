//! Debian packages of the foreign suites.
//!
//! Two traps. Packages must not start services (tgt and open-iscsi would), and all QEMU packages
//! must come from one source version: a machine may carry a qemu-utils from another suite than the
//! configured one, so the version of qemu-system-x86 decides and the others follow, downgraded
//! where need be.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// What the suites run, beyond QEMU.
const PACKAGES: [&str; 7] = [
    "libiscsi-bin",
    "open-iscsi",
    "sg3-utils",
    "tgt",
    "busybox-static",
    "e2fsprogs",
    "python3",
];

/// QEMU's packages; the first decides the version.
const QEMU: [&str; 3] = ["qemu-system-x86", "qemu-block-extra", "qemu-utils"];

/// What forbids starting services while packages are installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";

const BOUND: Duration = Duration::from_secs(900);

/// Installs what is missing.
///
/// # Errors
/// Not root, no apt, or apt failed.
pub(crate) fn install() -> Result<()> {
    let versions = installed()?;
    let missing: Vec<&str> = PACKAGES
        .into_iter()
        .filter(|name| version_of(&versions, name).is_none())
        .collect();
    let mixed = qemu_is_mixed(&versions);
    if missing.is_empty() && !mixed {
        return Ok(());
    }
    if !is_root() {
        let all: Vec<&str> = PACKAGES.iter().chain(&QEMU).copied().collect();
        bail!(
            "Debian packages are missing and this is not root; as root: apt-get install {}",
            all.join(" ")
        );
    }
    apt(&["update"])?;
    let mut wanted: Vec<String> = missing.into_iter().map(str::to_owned).collect();
    if mixed {
        let version = candidate(QEMU[0])?;
        wanted.extend(QEMU.iter().map(|name| format!("{name}={version}")));
    }
    let _guard = NoServices::forbid()?;
    let mut arguments = vec![
        "install",
        "--yes",
        "--no-install-recommends",
        "--allow-downgrades",
    ];
    arguments.extend(wanted.iter().map(String::as_str));
    apt(&arguments)
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// `name version` lines of installed packages.
fn installed() -> Result<String> {
    let output = Command::new("dpkg-query")
        .args([
            "--show",
            "--showformat",
            "${db:Status-Abbrev} ${Package} ${Version}\n",
        ])
        .output()
        .context("cannot run dpkg-query: the foreign suites need Debian's packages")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The installed version of a package.
fn version_of<'a>(listing: &'a str, name: &str) -> Option<&'a str> {
    listing.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("ii") && words.next() == Some(name))
            .then(|| words.next())
            .flatten()
    })
}

/// QEMU's packages are absent or of different versions.
fn qemu_is_mixed(listing: &str) -> bool {
    let first = version_of(listing, QEMU[0]);
    first.is_none() || QEMU.iter().any(|name| version_of(listing, name) != first)
}

/// The version that the configured suites offer.
fn candidate(name: &str) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["policy", name])
        .output()
        .context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
        .with_context(|| format!("apt offers no {name}: is Debian's main section configured?"))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    let mut tail: Vec<String> = Vec::new();
    let ended = process::run(&mut command, BOUND, |line| {
        tail.push(line.to_owned());
        if tail.len() > 20 {
            tail.remove(0);
        }
    })?;
    if !ended.success() {
        bail!(
            "apt-get {} failed:\n{}",
            arguments.join(" "),
            tail.join("\n")
        );
    }
    Ok(())
}

/// Forbids package scripts to start services; what was there before is put back.
struct NoServices {
    made: bool,
}

impl NoServices {
    fn forbid() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { made: false });
        }
        let mut options = fs::OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY);
        let file = file.with_context(|| format!("cannot write {POLICY}"))?;
        std::io::Write::write_all(&mut &file, b"#!/bin/sh\nexit 101\n")
            .with_context(|| format!("cannot write {POLICY}"))?;
        file.set_permissions(fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot set the mode of {POLICY}"))?;
        Ok(Self { made: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            drop(fs::remove_file(POLICY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_qemu_is_seen() {
        let one = "ii  qemu-system-x86 1:7.2\nii  qemu-block-extra 1:7.2\nii  qemu-utils 1:7.2\n";
        assert!(!qemu_is_mixed(one));
        assert!(qemu_is_mixed(&one.replace("utils 1:7.2", "utils 1:10.0")));
        assert!(qemu_is_mixed("ii  qemu-utils 1:10.0\n"));
        assert!(qemu_is_mixed(""));
    }

    #[test]
    fn removed_packages_are_not_installed() {
        assert_eq!(version_of("rc  tgt 1.0\nii  tgt-rbd 2\n", "tgt"), None);
        assert_eq!(
            version_of("ii  tgt 1:1.0.85-1\n", "tgt"),
            Some("1:1.0.85-1")
        );
    }
}
