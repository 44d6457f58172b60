//! What ends a command badly: text for people, JSON for programs, and the exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed |
//! | 2 | the command line is wrong |
//! | 3 | the service cannot be reached |
//! | 4 | conflict: the present state stands against it (exists already, in use, changed meanwhile) |

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use api::{ClientError, Code, Problem};

use crate::output::Format;

/// How the process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// 1
    Failed,
    /// 2
    Usage,
    /// 3
    Unreachable,
    /// 4
    Conflict,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::Conflict => 4,
        })
    }
}

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed, on what, what to do.
    pub(crate) problem: Problem,
    /// How the process ends.
    pub(crate) exit: Exit,
}

impl Failure {
    /// A command line that clap takes but that does not make sense.
    pub(crate) fn usage(what: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            problem: Problem::new(Code::InvalidRequest, what).next(next_step),
            exit: Exit::Usage,
        }
    }

    /// A file, terminal or pipe of this side failed.
    pub(crate) fn local(what: impl Into<String>, error: &io::Error) -> Self {
        Self {
            problem: Problem::new(Code::Internal, what)
                .detail(error.to_string())
                .next(remedy(error.kind())),
            exit: Exit::Failed,
        }
    }

    /// The failure as it goes to standard error.
    pub(crate) fn render(&self, format: Format, color: bool) -> String {
        if format == Format::Json {
            let mut line = serde_json::to_string(&self.problem).unwrap_or_default();
            line.push('\n');
            return line;
        }
        let (bold, red, off) = if color {
            ("\x1b[1m", "\x1b[1;31m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut text = format!("{red}error:{off} {}\n", self.problem.what);
        for line in &self.problem.details {
            for line in line.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        if !self.problem.next_step.is_empty() {
            let _ = writeln!(text, "{bold}what to do:{off} {}", self.problem.next_step);
        }
        text
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit =
            if problem.code.status() == Code::InUse.status() && problem.code != Code::Cancelled {
                Exit::Conflict
            } else {
                Exit::Failed
            };
        Self { problem, exit }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => problem.into(),
            ClientError::Unreachable {
                ref socket,
                ref source,
            } => Self {
                problem: Problem::new(Code::Internal, error.to_string())
                    .detail(source.to_string())
                    .next(unreachable(socket, source.kind())),
                exit: Exit::Unreachable,
            },
            ClientError::Exchange { .. } => Self {
                problem: Problem::new(Code::Internal, error.to_string())
                    .causes(&error)
                    .next(
                        "a change may have been made or not: look with `sanctum settings history` \
                     before repeating it",
                    ),
                exit: Exit::Failed,
            },
            ClientError::Setup(_) => Self {
                problem: Problem::new(Code::Internal, error.to_string())
                    .causes(&error)
                    .next("nothing was sent; check this host's limits of open files and memory"),
                exit: Exit::Failed,
            },
        }
    }
}

/// What to do about a file, terminal or pipe of this side.
const fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "check the path: there is nothing there",
        io::ErrorKind::PermissionDenied => "check who may use it, or use sudo",
        io::ErrorKind::AlreadyExists => "choose another name: what is there is never written over",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space and repeat",
        _ => "check the file, terminal or pipe at this end and repeat",
    }
}

fn unreachable(socket: &std::path::Path, kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::PermissionDenied => format!(
            "only root, the service's user and members of its group may use {}: join the group, \
             or use sudo",
            socket.display()
        ),
        _ => "start the service (sanctumd run --data-dir DIR), or name its socket with --socket or SANCTUM_SOCKET"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_use() -> Failure {
        Problem::new(
            Code::InUse,
            "device disk0 cannot be removed: LUN 0 of iqn.2026-11.a:b uses it",
        )
        .detail("device[0]\nsecond line")
        .next("remove the LUN first: sanctum lun remove iqn.2026-11.a:b 0")
        .into()
    }

    #[test]
    fn text_for_people() {
        insta::assert_snapshot!(in_use().render(Format::Table, false), @r"
        error: device disk0 cannot be removed: LUN 0 of iqn.2026-11.a:b uses it
          device[0]
          second line
        what to do: remove the LUN first: sanctum lun remove iqn.2026-11.a:b 0
        ");
    }

    #[test]
    fn color_only_when_asked() {
        assert!(
            in_use()
                .render(Format::Table, true)
                .contains("\x1b[1;31merror:\x1b[0m")
        );
        assert!(!in_use().render(Format::Table, false).contains('\x1b'));
    }

    #[test]
    fn json_for_programs() {
        insta::assert_snapshot!(in_use().render(Format::Json, true), @r#"{"code":"in-use","what":"device disk0 cannot be removed: LUN 0 of iqn.2026-11.a:b uses it","next_step":"remove the LUN first: sanctum lun remove iqn.2026-11.a:b 0","details":["device[0]\nsecond line"]}"#);
    }

    #[test]
    fn exit_codes() {
        let exit = |code| Failure::from(Problem::new(code, "x")).exit;
        for code in [
            Code::AlreadyExists,
            Code::InUse,
            Code::GenerationConflict,
            Code::Refused,
        ] {
            assert_eq!(exit(code), Exit::Conflict, "{code}");
        }
        for code in [
            Code::NotFound,
            Code::InvalidSettings,
            Code::Cancelled,
            Code::NoSpace,
        ] {
            assert_eq!(exit(code), Exit::Failed, "{code}");
        }
        assert_eq!(Failure::usage("a", "b").exit, Exit::Usage);
    }

    #[test]
    fn what_fails_at_this_end_says_what_to_do() {
        let failure = |kind: io::ErrorKind| Failure::local("cannot write /x", &kind.into());
        let next = |kind| failure(kind).problem.next_step;
        assert!(next(io::ErrorKind::AlreadyExists).contains("another name"));
        assert!(!next(io::ErrorKind::Other).is_empty());
    }

    #[test]
    fn unreachable_says_what_to_do() {
        let failure = |kind: io::ErrorKind| {
            Failure::from(ClientError::Unreachable {
                socket: "/run/sanctum/api.sock".into(),
                source: kind.into(),
            })
        };
        let missing = failure(io::ErrorKind::NotFound);
        assert_eq!(missing.exit, Exit::Unreachable);
        assert!(missing.problem.next_step.starts_with("start the service"));
        assert!(
            failure(io::ErrorKind::PermissionDenied)
                .problem
                .next_step
                .contains("group")
        );
    }
}
