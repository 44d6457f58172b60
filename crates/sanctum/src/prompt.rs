//! Questions on a terminal, and secrets that are typed or piped in.
//!
//! A secret is never a command-line argument: those are seen by every user of the host and kept in
//! shell histories.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use api::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::Failure;
use crate::limits;

/// Whether a person can be asked.
pub(crate) fn interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks until `parse` takes the answer; an empty answer means `default`.
pub(crate) fn ask<T>(
    question: &str,
    default: &str,
    mut parse: impl FnMut(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    for _ in 0..limits::QUESTION_TRIES {
        eprint!("{question} [{default}]: ");
        let answer = line(limits::ANSWER_BYTES_MAX)?;
        let answer = if answer.trim().is_empty() {
            default
        } else {
            answer.trim()
        };
        match parse(answer) {
            Ok(value) => return Ok(value),
            Err(reason) => eprintln!("  {reason}"),
        }
    }
    Err(Failure::usage(
        format!("no usable answer to `{question}`"),
        "give the answers as flags; see sanctum setup --help",
    ))
}

/// Reads a secret from standard input: its first line, without the line's end.
pub(crate) fn secret_from_stdin() -> Result<Secret, Failure> {
    let secret = line(limits::SECRET_BYTES_MAX)?;
    if secret.is_empty() {
        return Err(Failure::usage(
            "standard input holds no secret",
            "pipe one line into it",
        ));
    }
    Ok(Secret::new(secret))
}

/// Asks for a secret once, without showing it.
pub(crate) fn hidden_once(what: &str) -> Result<Secret, Failure> {
    hidden(&format!("{what}: "))
}

/// Asks for a secret twice, without showing it.
pub(crate) fn hidden_twice(what: &str) -> Result<Secret, Failure> {
    let first = hidden(&format!("{what}: "))?;
    let second = hidden("the same again: ")?;
    if first.expose() != second.expose() {
        return Err(Failure::usage("the two secrets differ", "try again"));
    }
    Ok(first)
}

fn hidden(question: &str) -> Result<Secret, Failure> {
    let failure = |error: &io::Error| Failure::local("cannot ask on this terminal", error);
    eprint!("{question}");
    io::stderr().flush().map_err(|error| failure(&error))?;
    let _echo = Silence::begin().map_err(|error| failure(&error))?;
    let secret = line(limits::SECRET_BYTES_MAX);
    Ok(Secret::new(secret?))
}

/// The terminal does not show what is typed while this lives.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The process is about to go on or end; a terminal that is gone needs no echo.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn line(most: u64) -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(most + 1)
        .read_line(&mut text)
        .map_err(|error| Failure::local("cannot read standard input", &error))?;
    if text.len() as u64 > most {
        return Err(Failure::usage(
            "the line on standard input is too long",
            "give a shorter one",
        ));
    }
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    Ok(text)
}
