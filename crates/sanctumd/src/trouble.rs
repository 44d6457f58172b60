//! Turns the errors of the crates below into what is said on the socket: one place, so that the
//! same fault reads the same wherever it is met.

use std::error::Error;
use std::path::Path;

use api::{Code, Problem};
use settings::{
    ActivateError, CommitError, ExportError, GenerationError, ImportError, LoadError, ProposeError,
    SecretsError, StageError,
};
use target::ServiceError;
use target::provision::{Fault, ProvisionError};

use crate::limits;

/// A fault of the service's host, with its causes.
pub(crate) fn internal(error: &dyn Error) -> Problem {
    Problem::new(Code::Internal, error.to_string())
        .causes(error)
        .next("see the service's log; the cause is on this host")
}

/// The data path would not have it.
pub(crate) fn service(error: &ServiceError) -> Problem {
    let text = error.to_string();
    match error {
        ServiceError::Config(error) => settings_refused(&[format!("iscsi.{error}")]),
        ServiceError::NotFound { what, .. } => Problem::new(Code::NotFound, text)
            .next(format!("list what there is: sanctum {what} list")),
        ServiceError::Stuck { .. } => Problem::new(Code::TimedOut, text)
            .next("the change itself holds; look at `sanctum device list` and at the system log"),
        ServiceError::Unflushed { .. } => Problem::new(Code::Internal, text)
            .next("the change itself holds; look at the disk and at the system log"),
        ServiceError::NotSwitched { .. } => Problem::new(Code::Busy, text)
            .next("nothing was changed; look at `sanctum device list` and at the system log"),
        ServiceError::NotUndone { .. } => Problem::new(Code::Internal, text)
            .next("apply the settings once more when the disk answers"),
        ServiceError::LoadFailed { device, .. } => Problem::new(Code::Refused, text).next(format!(
            "mend what is said of {device}, then: sanctum device load {device}"
        )),
        ServiceError::Reserved { device, .. } => Problem::new(Code::Refused, text).next(format!(
            "see who holds them: sanctum device show {device}; to have them gone: \
                 sanctum device clear-reservations {device}"
        )),
        ServiceError::Listen { portal, .. } => Problem::new(Code::Refused, text)
            .causes(error)
            .next(format!(
                "check address and port of portal {portal}; nothing was changed"
            )),
        ServiceError::Device {
            fault: Fault::NoSpace,
            ..
        } => Problem::new(Code::NoSpace, text)
            .causes(error)
            .next("free space, or choose a smaller size; nothing was changed"),
        ServiceError::Device { device, .. } => Problem::new(Code::Refused, text)
            .causes(error)
            .next(format!(
                "mend what is said of {device} and repeat; nothing was changed"
            )),
        _ => Problem::new(Code::Internal, text)
            .causes(error)
            .next("see the service's log; the cause is on this host"),
    }
}

/// The service stopped, but not all of it ended.
pub(crate) fn unfinished(left: &target::Unfinished) -> Problem {
    Problem::new(Code::TimedOut, left.to_string())
        .next("look at these disks and at the system log before the service is started again")
}

/// What backs a device could not be made, looked at or removed.
pub(crate) fn provision(error: &ProvisionError) -> Problem {
    let (code, next_step) = match error.fault() {
        Fault::Exists => (
            Code::AlreadyExists,
            "choose another --path, or use the file with --existing",
        ),
        Fault::Leftover => (
            Code::AlreadyExists,
            "bring the image back that it belongs to, remove it when that image is gone for \
             good, or choose another --path",
        ),
        Fault::NoSpace => (
            Code::NoSpace,
            "free space, choose a smaller size, or make the image thin",
        ),
        Fault::Missing => (
            Code::NotFound,
            "check the path; a file to be made anew needs no --existing",
        ),
        Fault::Cancelled => (Code::Cancelled, ""),
        Fault::Invalid => (Code::InvalidRequest, "choose another size"),
        _ => (
            Code::Refused,
            "mend what is said of the file, or choose another --path",
        ),
    };
    Problem::new(code, error.to_string())
        .causes(error)
        .next(next_step)
}

/// Settings that would be wrong; each line is a place and a reason.
pub(crate) fn settings_refused(lines: &[String]) -> Problem {
    let mut problem = Problem::new(
        Code::InvalidSettings,
        "the settings would be wrong; nothing was changed",
    )
    .next("correct what is named above and try again");
    problem.details.extend_from_slice(lines);
    problem
}

/// As [`settings_refused`], for a plan whose accounts of these users have no secret.
pub(crate) fn plan_refused(lines: &[String], users: &[&str]) -> Problem {
    let problem = settings_refused(lines);
    if users.is_empty() {
        return problem;
    }
    let mut add: Vec<String> = users
        .iter()
        .take(limits::ACCOUNTS_NAMED_MAX)
        .map(|user| format!("sanctum chap add {}", api::quoted(Path::new(user))))
        .collect();
    if users.len() > add.len() {
        add.push(format!("and {} more", users.len() - add.len()));
    }
    problem.next(format!(
        "an account has no secret here: add it first ({}), or name a secret that is there \
         (sanctum chap list)",
        add.join("; ")
    ))
}

fn places(problems: &settings::Problems) -> Vec<String> {
    problems.to_string().lines().map(str::to_owned).collect()
}

/// No plan could be made.
pub(crate) fn propose(error: &ProposeError) -> Problem {
    match error {
        ProposeError::Invalid(problems) => settings_refused(&places(problems)),
        ProposeError::Write(error) => settings_refused(&[error.to_string()]),
        ProposeError::Generation(error) => generation(error),
        ProposeError::Read(_) => internal(error),
    }
}

/// A generation cannot be had.
pub(crate) fn generation(error: &GenerationError) -> Problem {
    match error {
        GenerationError::Unknown { .. } => {
            Problem::new(Code::NotFound, error.to_string()).next("see sanctum settings history")
        }
        GenerationError::Unusable { number, problems } => {
            let mut problem =
                Problem::new(Code::Refused, format!("generation {number} is damaged"))
                    .next("choose another one: sanctum settings history");
            problem.details = places(problems);
            problem
        }
        GenerationError::Read { .. } => internal(error),
    }
}

/// Settings cannot be taken away.
pub(crate) fn export(error: &ExportError) -> Problem {
    match error {
        ExportError::WeakPassphrase => {
            Problem::new(Code::InvalidRequest, error.to_string()).next("choose a longer one")
        }
        ExportError::Crypto | ExportError::Write(_) => internal(error),
    }
}

/// An export cannot be read.
pub(crate) fn import(error: &ImportError) -> Problem {
    match error {
        ImportError::Invalid(problems) => settings_refused(&places(problems)),
        ImportError::PassphraseNeeded | ImportError::WrongPassphrase => {
            Problem::new(Code::InvalidRequest, error.to_string())
                .next("give the passphrase that the export was made with; nothing was changed")
        }
        ImportError::Secrets(error) => secrets(error),
        ImportError::Sealed { .. } | ImportError::Write(_) => {
            settings_refused(&[error.to_string()])
        }
    }
}

/// A plan was not staged.
pub(crate) fn stage(error: &StageError) -> Problem {
    match error {
        StageError::Refused(problems) => settings_refused(&places(problems)),
        StageError::Conflict { .. } => Problem::new(Code::GenerationConflict, error.to_string())
            .next("read the settings again, compare, and repeat"),
        StageError::ChangedOutside => Problem::new(Code::Refused, error.to_string())
            .next("apply your edits with `sanctum settings apply FILE`; the file under settings/ is the service's own"),
        StageError::Busy => Problem::new(Code::Busy, error.to_string()).next("try again"),
        StageError::Write(source) => full(source, unwritten(error)),
    }
}

/// A plan was not carried out.
pub(crate) fn activate(error: &ActivateError) -> Problem {
    let problem = unwritten(error);
    match error {
        ActivateError::NotActivated(source) | ActivateError::NotConfirmed { source, .. } => {
            full(source, problem)
        }
    }
}

/// A plan was not committed.
pub(crate) fn commit(error: &CommitError) -> Problem {
    match error {
        CommitError::Stage(error) => stage(error),
        CommitError::Activate(error) => activate(error),
    }
}

/// The data directory's disk did not take what was written.
fn unwritten(error: &dyn Error) -> Problem {
    Problem::new(Code::Internal, error.to_string())
        .causes(error)
        .next("check the disk of the data directory, then repeat")
}

/// A full disk is something that a person can do something about.
fn full(source: &std::io::Error, mut problem: Problem) -> Problem {
    if matches!(
        source.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    ) {
        problem.code = Code::NoSpace;
        problem.next_step = "free space on the file system of the data directory".to_owned();
    }
    problem
}

/// A secret cannot be kept or used.
pub(crate) fn secrets(error: &SecretsError) -> Problem {
    let code = match error {
        SecretsError::Name { .. } | SecretsError::Value { .. } => Code::InvalidRequest,
        SecretsError::Unknown { .. } => Code::NotFound,
        SecretsError::TooMany | SecretsError::TooOpen { .. } | SecretsError::NotOurs { .. } => {
            Code::Refused
        }
        SecretsError::Damaged { .. } => Code::InvalidSettings,
        SecretsError::Write { source, .. } => {
            return full(source, unwritten(error));
        }
        _ => Code::Internal,
    };
    let next_step = match error {
        SecretsError::Value { .. } => {
            "choose a secret of 12 to 16 letters and digits, which every initiator takes, or let \
             one be made: --generate"
        }
        SecretsError::Damaged { .. } => {
            "correct that line of the file; the service starts when it can be read"
        }
        SecretsError::Name { .. } => "choose another name",
        SecretsError::Unknown { .. } => "see which accounts name it: sanctum chap list",
        SecretsError::TooMany => "remove accounts that nobody uses: sanctum chap remove USER",
        SecretsError::TooOpen { .. } | SecretsError::NotOurs { .. } => {
            "put the file right as said, then repeat"
        }
        _ => "check the disk of the data directory; see the service's log",
    };
    Problem::new(code, error.to_string())
        .causes(error)
        .next(next_step)
}

/// There are no settings to start with.
pub(crate) fn load(error: &LoadError, data_dir: &Path) -> Problem {
    let dir = api::quoted(data_dir);
    let back = |restorable: Option<&settings::Generation>| match restorable {
        Some(generation) => format!(
            "to return to generation {} ({}): sanctumd restore --data-dir {dir}",
            generation.number, generation.why
        ),
        None => "no kept generation is whole; write the file anew from an export".to_owned(),
    };
    match error {
        LoadError::Absent { .. } => Problem::new(Code::NotFound, error.to_string())
            .next(format!("make them: sanctum setup --data-dir {dir}")),
        LoadError::Missing { path, restorable } => Problem::new(
            Code::InvalidSettings,
            format!("{} is missing", path.display()),
        )
        .next(back(restorable.as_deref())),
        LoadError::Unusable {
            path,
            problems,
            restorable,
        } => {
            let mut problem = Problem::new(
                Code::InvalidSettings,
                format!("{} cannot be used", path.display()),
            )
            .next(format!(
                "correct the file, then: sanctumd adopt --data-dir {dir}; or {}",
                back(restorable.as_deref())
            ));
            problem.details = places(problems);
            problem
        }
        LoadError::Changed {
            path,
            problem,
            restorable,
        } => Problem::new(
            Code::InvalidSettings,
            format!(
                "{} was changed by something else than the service",
                path.display()
            ),
        )
        .detail(problem.to_string())
        .next(format!(
            "if you edited it: sanctumd adopt --data-dir {dir}; if not, {}",
            back(restorable.as_deref())
        )),
        LoadError::Read { .. } => internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_such() {
        let source = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(stage(&StageError::Write(source())).code, Code::NoSpace);
        assert_eq!(
            activate(&ActivateError::NotActivated(source())).code,
            Code::NoSpace
        );
        let other = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(stage(&StageError::Write(other)).code, Code::Internal);
    }

    #[test]
    fn a_device_that_finds_no_space_is_told_as_such() {
        let failed = |fault| {
            service(&ServiceError::Device {
                device: "d".to_owned(),
                reason: "why".to_owned(),
                fault,
            })
        };
        assert_eq!(failed(Fault::NoSpace).code, Code::NoSpace);
        assert_eq!(failed(Fault::Other).code, Code::Refused);
    }

    #[test]
    fn what_was_changed_is_not_told_as_unchanged() {
        let problem = service(&ServiceError::LoadFailed {
            device: "d0".to_owned(),
            reason: "it is gone".to_owned(),
        });
        let told = format!("{} {}", problem.what, problem.next_step);
        assert!(!told.contains("nothing was changed"), "{told}");
        assert!(told.contains("sanctum device load d0"), "{told}");
    }

    #[test]
    fn damaged_settings_name_line_and_ways_out() {
        let problems = settings::parse(b"version = 1\n[service]\nnmae = \"x\"\n").unwrap_err();
        let error = LoadError::Unusable {
            path: "/d/settings/current.toml".into(),
            problems,
            restorable: None,
        };
        let problem = load(&error, Path::new("/d"));
        assert!(
            problem.details[0].starts_with("line 3"),
            "{:?}",
            problem.details
        );
        assert!(problem.next_step.contains("sanctumd adopt --data-dir /d"));
    }
}
