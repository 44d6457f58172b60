//! Fuzzing: cargo-fuzz on stable without a sanitizer, and the replay of the committed corpora.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::count::{Counts, Style};
use crate::process;
use crate::rungs;
use crate::workspace::{cargo, target_dir};

/// The version of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// What can be fuzzed, as `fuzz/Cargo.toml` names it.
pub(crate) const TARGETS: [&str; 5] = ["pdu", "text", "cdb", "chap", "settings"];

/// Options of `cargo xtask fuzz`.
#[derive(Args, Debug)]
pub(crate) struct Fuzz {
    /// The target; all in turn when absent
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

impl Fuzz {
    /// Fuzzes; `false` when a target crashed.
    pub(crate) fn run(&self, root: &Path) -> Result<bool> {
        let chosen: Vec<&str> = match &self.target {
            Some(name) if TARGETS.contains(&name.as_str()) => vec![name],
            Some(name) => bail!(
                "there is no fuzz target {name}; there are {}",
                TARGETS.join(", ")
            ),
            None => TARGETS.to_vec(),
        };
        let mut clean = true;
        for target in chosen {
            let run = fuzz(root, target, self.seconds)?;
            println!("{target}: {run}");
            clean &= run.clean;
        }
        Ok(clean)
    }
}

/// What a fuzzing run brought.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) clean: bool,
    pub(crate) executions: u64,
    pub(crate) seconds: u64,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match (self.clean, self.executions) {
            (_, 0) => "DID NOT RUN",
            (true, _) => "clean",
            (false, _) => "CRASHED (fuzz/artifacts has the input)",
        };
        write!(
            f,
            "{word}, {} executions in {} s",
            self.executions, self.seconds
        )
    }
}

/// Fuzzes one target for so many seconds. New inputs go to a scratch corpus under `fuzz/target`;
/// the committed one is only read.
pub(crate) fn fuzz(root: &Path, target: &str, seconds: u64) -> Result<Run> {
    ensure_cargo_fuzz()?;
    let scratch = root.join("fuzz/target/corpus").join(target);
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    let mut command = cargo();
    command
        .args([
            "fuzz",
            "run",
            "--sanitizer",
            "none",
            "--features",
            "fuzzer",
            target,
        ])
        .arg(&scratch)
        .arg(corpus(root, target))
        .args([
            "--",
            "-print_final_stats=1",
            "-timeout=10",
            "-rss_limit_mb=2048",
        ])
        .arg(format!("-max_total_time={seconds}"))
        .current_dir(root);
    let mut executions = 0;
    let bound = Duration::from_secs(seconds + 900);
    let ended = process::run(&mut command, bound, |line| {
        if let Some(figure) = line.strip_prefix("stat::number_of_executed_units:") {
            executions = figure.trim().parse().unwrap_or(0);
        }
        println!("{line}");
    })?;
    Ok(Run {
        clean: ended.success(),
        executions,
        seconds,
    })
}

/// The committed corpus of a target.
pub(crate) fn corpus(root: &Path, target: &str) -> PathBuf {
    root.join("fuzz/corpus").join(target)
}

fn ensure_cargo_fuzz() -> Result<()> {
    if cargo()
        .args(["fuzz", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return Ok(());
    }
    println!("installing cargo-fuzz {CARGO_FUZZ}");
    let mut command = cargo();
    command.args(["install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ]);
    if !process::run(&mut command, Duration::from_secs(1200), |line| {
        println!("{line}")
    })?
    .success()
    {
        bail!("cannot install cargo-fuzz {CARGO_FUZZ}");
    }
    Ok(())
}

/// Replays every committed corpus through the same harnesses, on the stable compiler, without
/// cargo-fuzz.
pub(crate) fn replay(root: &Path) -> Result<Counts> {
    for target in TARGETS {
        let directory = corpus(root, target);
        let files = std::fs::read_dir(&directory)
            .with_context(|| format!("no corpus {}", directory.display()))?;
        if files.count() == 0 {
            bail!("corpus {} is empty", directory.display());
        }
    }
    let mut command: Command = cargo();
    command.args([
        "test",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--locked",
        "--lib",
    ]);
    // The workspace's own directory and profile: what both need is built once.
    command.arg("--target-dir").arg(target_dir(root));
    Ok(rungs::program(&mut command, root, Style::Libtest, Duration::from_secs(600))?.1)
}
