//! The test ladder: each rung is a program with a bound, whose figures are read and summed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock::now;
use crate::count::{Counter, Counts, Style};
use crate::process::{self, Ended};
use crate::workspace::{cargo, target_dir};
use crate::{fuzz, packages, tidy};

/// Environment variable that forces `ring` to one driver.
const DRIVER_VARIABLE: &str = "SANCTUM_RING";
/// The driver without io_uring.
const FALLBACK: &str = "epoll";

/// One rung.
pub(crate) struct Rung {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Hang bound; the usual time is several times smaller.
    pub(crate) bound: Duration,
    work: Work,
}

/// What a rung does.
enum Work {
    /// Runs a program and reads its figures.
    Program(Style, fn(&Path) -> Command),
    /// Runs in this process.
    Here(fn(&Path) -> Result<Counts>),
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// All rungs, in the order they are climbed.
pub(crate) const LADDER: &[Rung] = &[
    Rung {
        name: "fmt",
        about: "formatting",
        bound: minutes(2),
        work: Work::Program(Style::ExitCode, fmt),
    },
    Rung {
        name: "tidy",
        about: "house rules",
        bound: minutes(2),
        work: Work::Here(tidy::count),
    },
    Rung {
        name: "clippy",
        about: "lints, warnings refused",
        bound: minutes(20),
        work: Work::Program(Style::ExitCode, clippy),
    },
    Rung {
        name: "unit",
        about: "unit, pair, property and model tests",
        bound: minutes(30),
        work: Work::Program(Style::Nextest, unit),
    },
    Rung {
        name: "fallback",
        about: "ring and target without io_uring",
        bound: minutes(15),
        work: Work::Program(Style::Nextest, fallback),
    },
    Rung {
        name: "doc",
        about: "examples in the documentation",
        bound: minutes(10),
        work: Work::Program(Style::Libtest, doc),
    },
    Rung {
        name: "pages",
        about: "the documentation itself, warnings refused",
        bound: minutes(10),
        work: Work::Program(Style::ExitCode, pages),
    },
    Rung {
        name: "corpus",
        about: "fuzz corpora replayed",
        bound: minutes(10),
        work: Work::Here(fuzz::replay),
    },
    Rung {
        name: "build",
        about: "the binaries",
        bound: minutes(20),
        work: Work::Program(Style::ExitCode, build),
    },
    Rung {
        name: "wire",
        about: "our Python initiator",
        bound: minutes(15),
        work: Work::Program(Style::Closing, wire),
    },
    Rung {
        name: "wire-fallback",
        about: "a smoke of it without io_uring",
        bound: minutes(5),
        work: Work::Program(Style::Closing, wire_fallback),
    },
    Rung {
        name: "libiscsi",
        about: "iscsi-test-cu, and tgt for scale",
        bound: minutes(15),
        work: Work::Program(Style::Closing, libiscsi),
    },
    Rung {
        name: "qemu-tools",
        about: "iscsi-ls and qemu-img on `up`",
        bound: minutes(5),
        work: Work::Program(Style::Closing, qemu_tools),
    },
    Rung {
        name: "guest",
        about: "Linux guests with open-iscsi",
        bound: minutes(15),
        work: Work::Program(Style::Closing, guest),
    },
    Rung {
        name: "soak",
        about: "eight initiators, verified blocks, a minute",
        bound: minutes(5),
        work: Work::Program(Style::Closing, soak),
    },
];

/// What the Python suites run.
pub(crate) const BINARIES: [&str; 3] = ["sanctumd", "sanctum", "loadgen"];

fn fmt(_root: &Path) -> Command {
    let mut command = cargo();
    command.args(["fmt", "--all", "--check"]);
    command
}

fn clippy(_root: &Path) -> Command {
    let mut command = cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]);
    command
}

fn unit(_root: &Path) -> Command {
    let mut command = cargo();
    command.args([
        "nextest",
        "run",
        "--workspace",
        "--locked",
        "--no-fail-fast",
    ]);
    command
}

fn fallback(_root: &Path) -> Command {
    let mut command = cargo();
    command.args([
        "nextest",
        "run",
        "--locked",
        "--no-fail-fast",
        "-p",
        "ring",
        "-p",
        "target",
    ]);
    command.env(DRIVER_VARIABLE, FALLBACK);
    command
}

fn doc(_root: &Path) -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--doc", "--locked"]);
    command
}

fn pages(_root: &Path) -> Command {
    let mut command = cargo();
    command.args(["doc", "--workspace", "--no-deps", "--locked"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

fn build(_root: &Path) -> Command {
    let mut command = cargo();
    command.args(["build", "--locked"]);
    command.args(BINARIES.iter().flat_map(|name| ["-p", name]));
    command
}

/// Builds what the Python suites run.
pub(crate) fn build_binaries(root: &Path) -> Result<()> {
    let (ended, _) = program(&mut build(root), root, Style::ExitCode, minutes(20))?;
    if !ended.success() {
        bail!("the binaries cannot be built");
    }
    Ok(())
}

/// A run of the Python suites against the binaries of the dev profile.
pub(crate) fn suite(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg("-u").arg(root.join("tests/run.py")).args(words);
    command.arg("--bin-dir").arg(target_dir(root).join("debug"));
    command
}

fn wire(root: &Path) -> Command {
    suite(root, &["wire"])
}

fn wire_fallback(root: &Path) -> Command {
    suite(root, &["wire", "--driver", FALLBACK, "--only", "smoke"])
}

fn libiscsi(root: &Path) -> Command {
    suite(root, &["libiscsi", "--scale"])
}

fn qemu_tools(root: &Path) -> Command {
    suite(root, &["qemu_tools"])
}

fn guest(root: &Path) -> Command {
    suite(root, &["guest"])
}

fn soak(root: &Path) -> Command {
    suite(root, &["soak"])
}

/// What a rung brought.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) counts: Counts,
    pub(crate) took: Duration,
    pub(crate) ended: Ended,
}

/// Prints the rungs.
pub(crate) fn list() {
    for rung in LADDER {
        println!(
            "{:<15} {}  (bound {} min)",
            rung.name,
            rung.about,
            rung.bound.as_secs() / 60
        );
    }
}

/// Climbs the ladder, or the rungs in `only`, and prints what came of it; whether nothing failed.
pub(crate) fn test(root: &Path, only: &[String], no_packages: bool) -> Result<bool> {
    let results = climb_all(root, only, no_packages)?;
    println!("{}", table(&results));
    Ok(held(&results))
}

/// Climbs the ladder, or the rungs in `only`.
pub(crate) fn climb_all(root: &Path, only: &[String], no_packages: bool) -> Result<Vec<Outcome>> {
    let chosen = choose(only)?;
    ensure_nextest(&chosen)?;
    if !no_packages && chosen.iter().any(|rung| needs_packages(rung.name)) {
        packages::install()?;
    }
    chosen.into_iter().map(|rung| climb(root, rung)).collect()
}

/// The checks that change nothing and run nothing.
pub(crate) fn verify(root: &Path) -> Result<bool> {
    let only: Vec<String> = ["fmt", "tidy", "clippy", "pages"]
        .map(str::to_owned)
        .to_vec();
    test(root, &only, true)
}

fn choose(only: &[String]) -> Result<Vec<&'static Rung>> {
    for name in only {
        if !LADDER.iter().any(|rung| rung.name == name) {
            bail!("there is no rung {name}; `cargo xtask test --list` shows them");
        }
    }
    Ok(LADDER
        .iter()
        .filter(|rung| only.is_empty() || only.iter().any(|name| name == rung.name))
        .collect())
}

fn needs_packages(name: &str) -> bool {
    matches!(
        name,
        "wire" | "wire-fallback" | "libiscsi" | "qemu-tools" | "guest"
    )
}

/// nextest is a program of its own; it is installed at a pinned version where it is missing.
fn ensure_nextest(chosen: &[&Rung]) -> Result<()> {
    if !chosen
        .iter()
        .any(|rung| matches!(rung.work, Work::Program(Style::Nextest, _)))
    {
        return Ok(());
    }
    let there = cargo()
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if there {
        return Ok(());
    }
    println!("installing cargo-nextest {NEXTEST}");
    let mut command = cargo();
    command.args(["install", "--locked", "cargo-nextest", "--version", NEXTEST]);
    if !process::run(&mut command, minutes(20), |line| println!("{line}"))?.success() {
        bail!("cannot install cargo-nextest {NEXTEST}");
    }
    Ok(())
}

/// The version of nextest that is installed where there is none.
const NEXTEST: &str = "0.9.143";

/// Runs one rung and echoes what it prints.
pub(crate) fn climb(root: &Path, rung: &Rung) -> Result<Outcome> {
    println!("\n== {} : {}", rung.name, rung.about);
    let begin = now();
    let (ended, counts) = match &rung.work {
        Work::Program(style, command) => program(&mut command(root), root, *style, rung.bound)
            .with_context(|| format!("rung {}", rung.name))?,
        Work::Here(work) => {
            let counts = work(root).unwrap_or_else(|error| {
                println!("{error:#}");
                Counts::one(false)
            });
            (
                if counts.failed == 0 {
                    Ended::Well
                } else {
                    Ended::Badly
                },
                counts,
            )
        }
    };
    if ended == Ended::OverTime {
        println!(
            "{} took longer than its bound of {} s and was killed",
            rung.name,
            rung.bound.as_secs()
        );
    }
    Ok(Outcome {
        name: rung.name,
        counts,
        took: begin.elapsed(),
        ended,
    })
}

/// Runs a program, echoes its lines, reads its figures.
pub(crate) fn program(
    command: &mut Command,
    root: &Path,
    style: Style,
    bound: Duration,
) -> Result<(Ended, Counts)> {
    let mut counter = Counter::new(style);
    let ended = process::run(command.current_dir(root), bound, |line| {
        println!("{line}");
        counter.line(line);
    })?;
    Ok((ended, counter.end(ended.success())))
}

/// The rungs in a table, and the closing line.
pub(crate) fn table(results: &[Outcome]) -> String {
    let mut text = format!(
        "\n{:<15}{:>9}{:>9}{:>9}{:>10}\n",
        "rung", "passed", "failed", "skipped", "seconds"
    );
    for result in results {
        let counts = result.counts;
        let seconds = result.took.as_secs_f64();
        let word = if result.ended == Ended::OverTime {
            "  over its bound"
        } else {
            ""
        };
        text.push_str(&format!(
            "{:<15}{:>9}{:>9}{:>9}{seconds:>10.1}{word}\n",
            result.name, counts.passed, counts.failed, counts.skipped
        ));
    }
    text + &total(results).to_string()
}

/// Whether something was tested and nothing failed.
pub(crate) fn held(results: &[Outcome]) -> bool {
    let total = total(results);
    total.failed == 0 && !total.is_empty()
}

fn total(results: &[Outcome]) -> Counts {
    let mut total = Counts::default();
    for result in results {
        total += result.counts;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_unknown_ones_refused() {
        for (index, rung) in LADDER.iter().enumerate() {
            assert!(
                LADDER[..index].iter().all(|other| other.name != rung.name),
                "{} twice",
                rung.name
            );
        }
        assert!(choose(&["no-such-rung".to_owned()]).is_err());
        assert_eq!(
            choose(&["fmt".to_owned()]).map(|rungs| rungs.len()).ok(),
            Some(1)
        );
    }

    #[test]
    fn all_bounds_together_allow_no_endless_run() {
        let sum: u64 = LADDER.iter().map(|rung| rung.bound.as_secs()).sum();
        assert!(sum < 4 * 3600, "hang bounds sum up to {sum} s");
    }
}
