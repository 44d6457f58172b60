//! `up` and `down`: a running service with a usable default, in one command.
//!
//! What the default is lives in `sanctumd init`; this builds, starts, waits and prints.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::clock::wait_for;
use crate::process;
use crate::workspace::{cargo, target_dir};

/// How long the service may take until it answers.
const START_MAX: Duration = Duration::from_secs(30);
/// How long it may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Options of `up`.
#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Where everything is kept (default: target/sanctum-up)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Builds with the release profile
    #[arg(long)]
    release: bool,
    /// ADDRESS:PORT of the portal, for a new data directory
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3260")]
    portal: String,
    /// Size in bytes of the first, thin image, for a new data directory
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 30)]
    size: u64,
}

/// Options of `down`.
#[derive(Args, Debug)]
pub(crate) struct Down {
    /// The data directory given to `up`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What `sanctumd init` made or found.
#[derive(Debug, Deserialize)]
struct Report {
    created: bool,
    portal: Option<String>,
    target: Option<String>,
    user: Option<String>,
    secrets_file: PathBuf,
    socket: PathBuf,
    #[serde(default)]
    notes: Vec<String>,
}

fn data_dir(root: &Path, given: Option<&PathBuf>) -> Result<PathBuf> {
    let directory = given
        .cloned()
        .unwrap_or_else(|| target_dir(root).join("sanctum-up"));
    std::path::absolute(&directory).with_context(|| format!("cannot use {}", directory.display()))
}

impl Up {
    /// Builds, makes the data directory on first use, starts, prints.
    pub(crate) fn run(&self, root: &Path) -> Result<bool> {
        let profile = if self.release { "release" } else { "dev" };
        let mut build = cargo();
        build
            .args([
                "build",
                "--locked",
                "-p",
                "sanctumd",
                "-p",
                "sanctum",
                "--profile",
                profile,
            ])
            .current_dir(root);
        if !process::run(&mut build, Duration::from_secs(3600), |line| {
            println!("{line}")
        })?
        .success()
        {
            bail!("the build failed");
        }
        let programs = target_dir(root).join(if self.release { "release" } else { "debug" });
        let directory = data_dir(root, self.data_dir.as_ref())?;
        let report = self.init(&programs, &directory)?;
        let started = if answers(&programs, &report.socket) {
            println!("the service runs already");
            false
        } else {
            start(&programs, &directory, &report.socket)?;
            true
        };
        print(&report, &programs, &directory, started);
        Ok(true)
    }

    fn init(&self, programs: &Path, directory: &Path) -> Result<Report> {
        let output = Command::new(programs.join("sanctumd"))
            .args(["init", "--output", "json", "--data-dir"])
            .arg(directory)
            .args(["--portal", &self.portal, "--size", &self.size.to_string()])
            .stdin(Stdio::null())
            .output()
            .context("cannot run sanctumd init")?;
        if !output.status.success() {
            bail!(
                "sanctumd init failed: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        serde_json::from_slice(&output.stdout).context("cannot read what sanctumd init says")
    }
}

/// Whether a service answers at the socket.
fn answers(programs: &Path, socket: &Path) -> bool {
    Command::new(programs.join("sanctum"))
        .args(["status", "--output", "json", "--socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Starts the service apart from this terminal and waits until it answers.
fn start(programs: &Path, directory: &Path, socket: &Path) -> Result<()> {
    let log_path = directory.join("sanctumd.log");
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
    let second = log.try_clone().context("cannot share the log")?;
    let mut child = Command::new(programs.join("sanctumd"))
        .args(["run", "--data-dir"])
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(second)
        .process_group(0)
        .spawn()
        .context("cannot start sanctumd")?;
    fs::write(pid_file(directory), child.id().to_string()).context("cannot note the process id")?;
    let look = || {
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || answers(programs, socket) {
            Some(ended)
        } else {
            None
        }
    };
    match wait_for(START_MAX, look) {
        Some(None) => Ok(()),
        Some(Some(status)) => {
            bail!(
                "sanctumd ended with {status}; {} says why:\n{}",
                log_path.display(),
                tail(&log_path)
            )
        }
        None => {
            drop(child.kill());
            bail!(
                "sanctumd does not answer after {} s; see {}",
                START_MAX.as_secs(),
                log_path.display()
            )
        }
    }
}

fn pid_file(directory: &Path) -> PathBuf {
    directory.join("xtask-up.pid")
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn print(report: &Report, programs: &Path, directory: &Path, started: bool) {
    let none = || "none".to_owned();
    let portal = report.portal.clone().unwrap_or_else(none);
    let target = report.target.clone().unwrap_or_else(none);
    let word = if started { "started" } else { "running" };
    println!(
        "\nsanctumd is {word}{}",
        if report.created {
            ", with a new data directory"
        } else {
            ""
        }
    );
    println!("  portal   {portal}");
    println!("  target   {target}");
    println!("  user     {}", report.user.clone().unwrap_or_else(none));
    println!(
        "  secrets  {} (readable by its owner only)",
        report.secrets_file.display()
    );
    println!("  data     {}", directory.display());
    println!("  socket   {}", report.socket.display());
    for note in &report.notes {
        println!("  note     {note}");
    }
    let sanctum = programs.join("sanctum");
    println!("\nNext:");
    println!("  export SANCTUM_SOCKET={}", quoted(&report.socket));
    println!("  {} target list", quoted(&sanctum));
    println!("  {}", list_luns(report, &portal));
    println!("\n`cargo xtask down` stops it.");
}

/// A path as one word of a shell's command line.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The command that lists LUNs: libiscsi's, with the secret taken from its file, not shown.
fn list_luns(report: &Report, portal: &str) -> String {
    let Some(user) = &report.user else {
        return format!("iscsi-ls -s iscsi://{portal}");
    };
    let secret = format!(
        "$(sed -n 's/^\"{user}\" = \"\\(.*\\)\"$/\\1/p' {})",
        quoted(&report.secrets_file)
    );
    format!(
        "LIBISCSI_CHAP_USERNAME={user} LIBISCSI_CHAP_PASSWORD=\"{secret}\" iscsi-ls -s iscsi://{portal}"
    )
}

impl Down {
    /// Stops what `up` started.
    pub(crate) fn run(&self, root: &Path) -> Result<bool> {
        let directory = data_dir(root, self.data_dir.as_ref())?;
        let file = pid_file(&directory);
        let Ok(pid) = fs::read_to_string(&file) else {
            println!("nothing to stop: {} is not there", file.display());
            return Ok(true);
        };
        // The process id may have gone to another program since: only a sanctumd of this directory
        // is stopped.
        let command_line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ours = command_line.contains("sanctumd")
            && command_line.contains(&*directory.to_string_lossy());
        if ours {
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .context("cannot run kill")?;
            if wait_for(STOP_MAX, || ended(&pid).then_some(())).is_none() {
                bail!("sanctumd (process {pid}) does not stop");
            }
        }
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        println!(
            "{}",
            if ours {
                "stopped"
            } else {
                "it was not running any more"
            }
        );
        Ok(true)
    }
}

/// A process that is gone, or that nobody waited for yet, has no command line.
fn ended(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty())
}
