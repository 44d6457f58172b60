//! `prove`: the long rungs, with dated figures.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::clock;
use crate::count::{Counter, Style};
use crate::fuzz;
use crate::process::{self, Ended};
use crate::rungs;
use crate::workspace::target_dir;

/// Options of `prove`.
#[derive(Args, Debug)]
pub(crate) struct Prove {
    /// Only these parts: test, fuzz, soak, kill
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Seconds of fuzzing for each target
    #[arg(long, default_value_t = 600)]
    fuzz_seconds: u64,
    /// Seconds of soak
    #[arg(long, default_value_t = 3600)]
    soak_seconds: u64,
    /// Rounds of kill -9 under a guest
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Where the figures go
    #[arg(long, value_name = "DIRECTORY", default_value = "docs/proofs")]
    report: PathBuf,
}

/// The parts, in the order they are run.
const PARTS: [&str; 4] = ["test", "fuzz", "soak", "kill"];

/// Case lines of a suite that are told one by one; of more only the number is told.
const LINES_MAX: usize = 4;

/// One line of the report.
struct Figure {
    what: String,
    held: bool,
    text: String,
    took: Duration,
}

impl Prove {
    /// Runs the parts; each is written down when it ends. `false` when something did not hold.
    ///
    /// Parts on their own (`--only`) may run side by side.
    pub(crate) fn run(&self, root: &Path) -> Result<bool> {
        if let Some(name) = self
            .only
            .iter()
            .find(|name| !PARTS.contains(&name.as_str()))
        {
            bail!("there is no part {name}; there are {}", PARTS.join(", "));
        }
        let report = root.join(&self.report);
        crate::packages::install()?;
        let mut held = true;
        for part in PARTS {
            if !self.only.is_empty() && !self.only.iter().any(|name| name == part) {
                continue;
            }
            let begin = jiff::Timestamp::now();
            let machine = machine(root);
            let figures = self.part(root, part);
            held &= figures.iter().all(|figure| figure.held);
            let text = section(part, begin, jiff::Timestamp::now(), &machine, &figures);
            let path = write_down(&report, begin, &text)?;
            println!("{text}\nwritten: {}", path.display());
        }
        Ok(held)
    }

    fn part(&self, root: &Path, part: &str) -> Vec<Figure> {
        match part {
            "test" => vec![measured("test ladder", || {
                let results = rungs::climb_all(root, &[], false)?;
                let table = rungs::table(&results);
                println!("{table}");
                Ok((rungs::held(&results), format!("<pre>{table}</pre>")))
            })],
            "fuzz" => fuzz::TARGETS
                .iter()
                .map(|target| {
                    measured(target, || {
                        let run = fuzz::fuzz(root, target, self.fuzz_seconds)?;
                        // A run that did nothing proves nothing.
                        Ok((run.clean && run.executions > 0, run.to_string()))
                    })
                })
                .collect(),
            "soak" => vec![measured("soak", || {
                let mut command = rungs::suite(root, &["soak"]);
                command.env("SANCTUM_SOAK_SECONDS", self.soak_seconds.to_string());
                suite(root, &mut command, self.soak_seconds + 1800)
            })],
            _ => vec![measured("kill -9 under a guest", || {
                let repeat = self.kills.to_string();
                let words = ["guest", "--only", "survive", "--repeat", &repeat];
                let bound = u64::from(self.kills) * 300 + 600;
                suite(root, &mut rungs::suite(root, &words), bound)
            })],
        }
    }
}

/// Takes the time. What cannot even be run does not hold, and the others are run all the same.
fn measured(what: &str, work: impl FnOnce() -> Result<(bool, String)>) -> Figure {
    let begin = clock::now();
    let (held, text) = work().unwrap_or_else(|error| (false, format!("{error:#}")));
    Figure {
        what: what.to_owned(),
        held,
        text,
        took: begin.elapsed(),
    }
}

/// Builds the binaries, runs a suite on a copy of them (so that building goes on meanwhile), and
/// tells its cases with what they noted.
fn suite(root: &Path, command: &mut Command, seconds: u64) -> Result<(bool, String)> {
    rungs::build_binaries(root)?;
    let copies = target_dir(root).join(format!("proofs-{}", std::process::id()));
    fs::create_dir_all(&copies).with_context(|| format!("cannot make {}", copies.display()))?;
    for name in rungs::BINARIES {
        let built = target_dir(root).join("debug").join(name);
        fs::copy(&built, copies.join(name))
            .with_context(|| format!("cannot copy {}", built.display()))?;
    }
    command.arg("--bin-dir").arg(&copies);
    let mut counter = Counter::new(Style::Closing);
    let mut lines = Vec::new();
    let ended = process::run(
        command.current_dir(root),
        Duration::from_secs(seconds),
        |line| {
            println!("{line}");
            counter.line(line);
            if line.contains("::")
                && ["passed ", "failed "]
                    .iter()
                    .any(|word| line.starts_with(word))
            {
                lines.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        },
    )?;
    fs::remove_dir_all(&copies).with_context(|| format!("cannot remove {}", copies.display()))?;
    let counts = counter.end(ended.success());
    let mut text = counts.to_string();
    if ended == Ended::OverTime {
        text.push_str("; over its bound");
    }
    if lines.len() <= LINES_MAX {
        lines.insert(0, text);
        text = lines.join("<br>");
    }
    Ok((ended.success() && counts.passed > 0, text))
}

/// A part of the report: when, where, of which commit, and what came of it.
fn section(
    part: &str,
    begin: jiff::Timestamp,
    end: jiff::Timestamp,
    machine: &str,
    figures: &[Figure],
) -> String {
    let from = begin.strftime("%Y-%m-%d %H:%M");
    let mut text = format!("\n## {part}, {from} to {} UTC\n\n", end.strftime("%H:%M"));
    text.push_str(machine);
    text.push_str("\n\n| what | held | minutes | figures |\n| --- | --- | --- | --- |\n");
    for figure in figures {
        let held = if figure.held { "yes" } else { "NO" };
        let took = figure.took.as_secs_f64() / 60.0;
        // A table's cell is one line without bars.
        let said = figure.text.replace('|', "/").replace('\n', "<br>");
        text.push_str(&format!(
            "| {} | {held} | {took:.1} | {said} |\n",
            figure.what
        ));
    }
    text
}

/// Adds to `DATE.md`, in one write, so that parts that run side by side cannot lose one another's.
fn write_down(directory: &Path, begin: jiff::Timestamp, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let date = begin.strftime("%Y-%m-%d");
    let path = directory.join(format!("{date}.md"));
    let fail = || format!("cannot write {}", path.display());
    let fresh = OpenOptions::new().create_new(true).append(true).open(&path);
    if let Ok(mut file) = fresh {
        file.write_all(format!("# Proofs of {date}\n").as_bytes())
            .with_context(fail)?;
    }
    let mut file = OpenOptions::new()
        .append(true)
        .open(&path)
        .with_context(fail)?;
    file.write_all(text.as_bytes()).with_context(fail)?;
    Ok(path)
}

/// Cores, kernel and commit that the figures belong to.
fn machine(root: &Path) -> String {
    let line = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).current_dir(root).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let changed = line(
        "git",
        &["status", "--porcelain", "--", ".", ":!docs/proofs"],
    );
    let changes = if changed.is_empty() {
        ""
    } else {
        " with changes that are not committed"
    };
    format!(
        "{cores} cores, kernel {}, dev profile, commit {}{changes}.",
        line("uname", &["-r"]),
        line("git", &["rev-parse", "--short", "HEAD"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_added_and_none_is_lost() {
        let directory = std::env::temp_dir().join(format!("xtask-proofs-{}", std::process::id()));
        let begin = jiff::Timestamp::UNIX_EPOCH;
        let add = |text: &str| write_down(&directory, begin, text).unwrap();
        let path = std::thread::scope(|scope| {
            for name in ["one", "two", "three"] {
                scope.spawn(move || (0..20).for_each(|_| drop(add(&format!("{name}\n")))));
            }
            add("four\n")
        });
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(path.file_name().unwrap(), "1970-01-01.md");
        assert_eq!(text.matches("# Proofs of 1970-01-01\n").count(), 1);
        for name in ["one", "two", "three"] {
            assert_eq!(text.matches(name).count(), 20, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_run_does_not_hold() {
        let figure = measured("x", || bail!("a|b\nc"));
        assert!(!figure.held);
        let text = section(
            "p",
            jiff::Timestamp::UNIX_EPOCH,
            jiff::Timestamp::UNIX_EPOCH,
            "m",
            &[figure],
        );
        assert!(text.ends_with("| x | NO | 0.0 | a/b<br>c |\n"), "{text}");
    }
}
