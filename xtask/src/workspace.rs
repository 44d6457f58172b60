//! Where the workspace is, which toolchain it needs, and its repairs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// The oldest Rust that builds the workspace, as its manifest says too.
const RUST: (u32, u32) = (1, 95);

/// The directory of the workspace's manifest.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where built programs are.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Fails with a sentence when the Rust toolchain is too old.
pub(crate) fn check_toolchain() -> Result<()> {
    let output = Command::new("rustc")
        .arg("--version")
        .output()
        .context("cannot run rustc: is Rust installed?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(found) = version(&text) else {
        bail!("cannot read the version in {text:?}");
    };
    if found < RUST {
        bail!(
            "Rust {}.{} is installed, Sanctum needs {}.{} or newer; run `rustup update stable`",
            found.0,
            found.1,
            RUST.0,
            RUST.1
        );
    }
    Ok(())
}

/// Major and minor in `rustc 1.95.0 (…)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Formats and applies the lints that a machine can apply.
pub(crate) fn fix(root: &Path) -> Result<bool> {
    let bound = Duration::from_secs(1800);
    let mut clippy = cargo();
    clippy.args([
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--workspace",
        "--all-targets",
    ]);
    let mut fmt = cargo();
    fmt.args(["fmt", "--all"]);
    for mut command in [clippy, fmt] {
        if !process::run(command.current_dir(root), bound, |line| println!("{line}"))?.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(
            version("rustc 1.95.0 (f2d3ce0bd 2026-03-21)"),
            Some((1, 95))
        );
        assert_eq!(version("rustc 1.98.0-nightly (x)"), Some((1, 98)));
        assert_eq!(version("nonsense"), None);
    }
}
