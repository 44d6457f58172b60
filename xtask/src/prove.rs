//! `prove`: the long rungs, with dated figures.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::clock;
use crate::count::{Counts, Style};
use crate::fuzz;
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
}

/// One line of the report.
struct Figure {
    part: String,
    held: bool,
    text: String,
    took: Duration,
}

impl Prove {
    /// Runs the parts and writes the report; `false` when something did not hold.
    pub(crate) fn run(&self, root: &Path) -> Result<bool> {
        crate::packages::install()?;
        let mut figures = Vec::new();
        if self.wants("test") {
            let begin = clock::now();
            let held = rungs::test(root, &[], false)?;
            figures.push(Figure {
                part: "test ladder".to_owned(),
                held,
                text: String::new(),
                took: begin.elapsed(),
            });
        }
        if self.wants("fuzz") {
            for target in fuzz::TARGETS {
                let begin = clock::now();
                let run = fuzz::fuzz(root, target, self.fuzz_seconds)?;
                figures.push(Figure {
                    part: format!("fuzz {target}"),
                    held: run.clean,
                    text: run.to_string(),
                    took: begin.elapsed(),
                });
            }
        }
        if self.wants("soak") {
            figures.push(self.soak(root)?);
        }
        if self.wants("kill") {
            figures.push(self.kill(root)?);
        }
        let path = write_report(root, &figures)?;
        println!("written: {}", path.display());
        Ok(figures.iter().all(|figure| figure.held))
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == part)
    }

    fn soak(&self, root: &Path) -> Result<Figure> {
        let seconds = self.soak_seconds.to_string();
        let mut command = rungs::suite(root, &["soak"]);
        command.env("SANCTUM_SOAK_SECONDS", &seconds);
        measured(
            root,
            "soak",
            &mut command,
            Style::Closing,
            Duration::from_secs(self.soak_seconds + 1800),
        )
    }

    fn kill(&self, root: &Path) -> Result<Figure> {
        let repeat = self.kills.to_string();
        let words = ["guest", "--only", "survive", "--repeat", &repeat];
        let mut command = rungs::suite(root, &words);
        let bound = Duration::from_secs(u64::from(self.kills) * 300 + 600);
        measured(
            root,
            "kill -9 under a guest",
            &mut command,
            Style::Closing,
            bound,
        )
    }
}

fn measured(
    root: &Path,
    part: &str,
    command: &mut Command,
    style: Style,
    bound: Duration,
) -> Result<Figure> {
    let begin = clock::now();
    let (ended, counts): (_, Counts) = rungs::program(command, root, style, bound)?;
    let held = ended.success() && counts.passed > 0;
    Ok(Figure {
        part: part.to_owned(),
        held,
        text: counts.to_string(),
        took: begin.elapsed(),
    })
}

/// Writes `docs/proofs/DATE.md`; a second run on the same day is appended.
fn write_report(root: &Path, figures: &[Figure]) -> Result<PathBuf> {
    let now = jiff::Timestamp::now();
    let directory = root.join("docs/proofs");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(format!("{}.md", now.strftime("%Y-%m-%d")));
    let mut text = fs::read_to_string(&path)
        .unwrap_or_else(|_| format!("# Proofs of {}\n", now.strftime("%Y-%m-%d")));
    write!(
        text,
        "\n## {}, {}\n\n",
        now.strftime("%H:%M UTC"),
        machine(root)
    )?;
    text.push_str("| part | held | minutes | figures |\n| --- | --- | --- | --- |\n");
    for figure in figures {
        let held = if figure.held { "yes" } else { "NO" };
        let took = figure.took.as_secs_f64() / 60.0;
        writeln!(
            text,
            "| {} | {held} | {took:.1} | {} |",
            figure.part, figure.text
        )?;
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
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
    let profile = if target_dir(root).join("debug/sanctumd").exists() {
        "dev profile"
    } else {
        "not built"
    };
    format!(
        "{cores} cores, kernel {}, commit {}, {profile}",
        line("uname", &["-r"]),
        line("git", &["rev-parse", "--short", "HEAD"])
    )
}
