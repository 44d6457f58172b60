//! Runs a program with its lines as they come and a bound on its time.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::now;

/// Lines that wait for the reader; the program blocks past that.
const LINES_MAX: usize = 1024;

/// How a program ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// With exit code 0.
    Well,
    /// With another exit code or by a signal.
    Badly,
    /// It took longer than its bound and was killed with all it had started.
    OverTime,
}

impl Ended {
    /// Exit code 0.
    pub(crate) fn success(self) -> bool {
        self == Self::Well
    }
}

/// Runs `command` in a process group of its own and gives each line of its output (both streams) to
/// `each`.
///
/// # Errors
/// The program could not be started.
pub(crate) fn run(
    command: &mut Command,
    bound: Duration,
    mut each: impl FnMut(&str),
) -> Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let second = writer.try_clone().context("cannot share a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name}: is it installed?"))?;
    // The command holds the pipe's write ends; without this the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = sync_channel::<String>(LINES_MAX);
    let pump = thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut raw = Vec::new();
        while matches!(reader.read_until(b'\n', &mut raw), Ok(count) if count > 0) {
            let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
            raw.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = now() + bound;
    let ended = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(now())) {
            Ok(line) => each(&line),
            Err(RecvTimeoutError::Disconnected) => break finish(&mut child)?,
            Err(RecvTimeoutError::Timeout) => {
                kill_group(&mut child);
                break Ended::OverTime;
            }
        }
    };
    drop(lines);
    // A grandchild that outlived its parent may hold the pipe open; after a kill nobody does.
    if ended != Ended::OverTime {
        drop(pump.join());
    }
    Ok(ended)
}

fn finish(child: &mut Child) -> Result<Ended> {
    let status = child.wait().context("cannot wait for a program")?;
    Ok(if status.success() {
        Ended::Well
    } else {
        Ended::Badly
    })
}

/// Kills a program and all it started.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    drop(Command::new("kill").args(["-KILL", "--", &group]).status());
    drop(child.kill());
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_come_and_the_code_counts() {
        let mut seen = Vec::new();
        let ended = run(
            &mut shell("echo one; echo two >&2; exit 3"),
            Duration::from_secs(20),
            |line| {
                seen.push(line.to_owned());
            },
        );
        assert!(matches!(ended, Ok(Ended::Badly)));
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn a_program_over_its_bound_is_killed_with_its_children() {
        let begin = now();
        let ended = run(
            &mut shell("sleep 100 & sleep 100"),
            Duration::from_millis(200),
            |_| (),
        );
        assert!(matches!(ended, Ok(Ended::OverTime)));
        assert!(begin.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn a_missing_program_is_an_error() {
        assert!(
            run(
                &mut Command::new("no-such-program-here"),
                Duration::from_secs(1),
                |_| ()
            )
            .is_err()
        );
    }
}
