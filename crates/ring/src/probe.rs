//! Finding out whether io_uring works here, and the likely cause where it does not.
//!
//! A ring that can be set up need not be one that works: filters and old kernels refuse single
//! operations. So the probe runs those that can be tried without leaving the process, on a memory
//! file and a socket pair, and asks the kernel about the others.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use io_uring::{IoUring, opcode};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Resource, getrlimit};

use crate::buffer::Buffer;
use crate::clock;
use crate::driver::uring::Uring;
use crate::driver::{Driver, DriverKind, Finished};
use crate::error::RingError;
use crate::limits::{PROBE_ENTRIES, PROBE_STEP_BOUND};
use crate::op::{AllocateMode, Fd, Op, Outcome, SendList};

/// The variable that goes before [`crate::Options::driver`].
pub(crate) const VARIABLE: &str = "SANCTUM_RING";

/// Whether io_uring is to be used here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// That it works, or the likely cause in words why not, and what to do.
    pub uring: Result<(), String>,
}

/// Sets up a ring and runs the operations this crate needs. Costs about a millisecond.
pub fn probe() -> Probe {
    let uring = try_uring()
        .map_err(|Failure { step, error }| likely_cause(step, &error, &Surroundings::look()));
    Probe { uring }
}

/// What the first probe of this process found.
pub(crate) fn probe_once() -> &'static Probe {
    static FOUND: OnceLock<Probe> = OnceLock::new();
    FOUND.get_or_init(probe)
}

/// The driver that is asked for, by `word` (of the variable) before `option`; `None` = probe.
pub(crate) fn asked_for(
    word: Option<&str>,
    option: Option<DriverKind>,
) -> Result<Option<DriverKind>, RingError> {
    if option == Some(DriverKind::Simulated) {
        return Ok(option);
    }
    match word {
        None | Some("") => Ok(option),
        Some("uring") => Ok(Some(DriverKind::Uring)),
        Some("epoll") => Ok(Some(DriverKind::Epoll)),
        Some(word) => Err(RingError::UnknownDriver {
            word: word.to_owned(),
        }),
    }
}

/// What was tried, and how it failed.
struct Failure {
    step: &'static str,
    error: io::Error,
}

trait Step<R> {
    /// Names what was tried.
    fn step(self, step: &'static str) -> Result<R, Failure>;
}

impl<R, E: Into<io::Error>> Step<R> for Result<R, E> {
    fn step(self, step: &'static str) -> Result<R, Failure> {
        self.map_err(|error| Failure {
            step,
            error: error.into(),
        })
    }
}

fn try_uring() -> Result<(), Failure> {
    ask_kernel()?;
    let mut ring = Uring::new(PROBE_ENTRIES, 1).map_err(|error| Failure {
        step: "setting up a ring",
        error: match error {
            RingError::Create { source, .. } => source,
            other => io::Error::other(other.to_string()),
        },
    })?;
    try_file(&mut ring)?;
    try_sockets(&mut ring)
}

/// Features and operations that cannot be tried without side effects.
fn ask_kernel() -> Result<(), Failure> {
    let ring = IoUring::new(PROBE_ENTRIES).step("setting up a ring")?;
    let old = |what| Failure {
        step: what,
        error: io::Error::from_raw_os_error(libc::EINVAL),
    };
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(old("asking for timed waits"));
    }
    let mut probe = io_uring::register::Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .step("asking for the operations")?;
    let needed = [
        (opcode::Accept::CODE, "asking for accept"),
        (opcode::Connect::CODE, "asking for connect"),
        (opcode::PollAdd::CODE, "asking for poll"),
        (opcode::AsyncCancel::CODE, "asking for cancel"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, what)) => Err(old(what)),
        None => Ok(()),
    }
}

fn try_file(ring: &mut Uring) -> Result<(), Failure> {
    let file = memfd_create("ring-probe", MemfdFlags::CLOEXEC).step("creating a memory file")?;
    let file: Fd = Arc::new(file);
    let mut buffer = Buffer::zeroed(4096);
    buffer.fill(0x5a);
    let (mode, offset, len) = (AllocateMode::Extend, 0, 4096);
    let allocate = Op::Allocate {
        file: Arc::clone(&file),
        mode,
        offset,
        len,
    };
    finish(ring, allocate, "fallocate")?;
    let file_again = Arc::clone(&file);
    let write = Op::Write {
        file: file_again,
        buffer,
        range: 0..4096,
        offset: 0,
        durable: true,
    };
    finish(ring, write, "write")?;
    finish(
        ring,
        Op::Sync {
            file: Arc::clone(&file),
            data_only: true,
        },
        "fsync",
    )?;
    let read = Op::Read {
        file,
        buffer: Buffer::zeroed(4096),
        range: 0..4096,
        offset: 0,
    };
    match finish(ring, read, "read")? {
        Outcome::Read {
            buffer,
            result: Ok(4096),
        } if buffer.iter().all(|&b| b == 0x5a) => Ok(()),
        _ => Err(io::Error::other("the bytes written did not come back")).step("read"),
    }
}

fn try_sockets(ring: &mut Uring) -> Result<(), Failure> {
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (one, other): (OwnedFd, OwnedFd) = pair.step("creating a socket pair")?;
    let mut list = SendList::new();
    list.push_bytes(b"probe");
    finish(
        ring,
        Op::Send {
            socket: Arc::new(one),
            list,
        },
        "sendmsg",
    )?;
    let (socket, buffer) = (Arc::new(other), Buffer::zeroed(16));
    match finish(
        ring,
        Op::Recv {
            socket,
            buffer,
            range: 0..16,
        },
        "recv",
    )? {
        Outcome::Received {
            buffer,
            result: Ok(5),
        } if buffer.starts_with(b"probe") => Ok(()),
        _ => Err(io::Error::other("the bytes sent did not come")).step("recv"),
    }
}

/// Runs one operation to its end.
fn finish(ring: &mut Uring, op: Op, step: &'static str) -> Result<Outcome, Failure> {
    let mut ended: Vec<Finished> = Vec::new();
    ring.start(0, op, &mut ended);
    let end = clock::now() + PROBE_STEP_BOUND;
    while ended.is_empty() {
        let left = end.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).step(step);
        }
        ring.wait(Some(left), &mut ended)
            .map_err(|error| io::Error::other(error.to_string()))
            .step("waiting for completions")?;
    }
    match ended.pop().map(|finished| finished.outcome) {
        Some(
            Outcome::Written {
                result: Err(error), ..
            }
            | Outcome::Read {
                result: Err(error), ..
            }
            | Outcome::Received {
                result: Err(error), ..
            }
            | Outcome::Sent {
                result: Err(error), ..
            }
            | Outcome::Done(Err(error)),
        ) => Err(error).step(step),
        Some(outcome) => Ok(outcome),
        None => Err(io::Error::from(io::ErrorKind::TimedOut)).step(step),
    }
}

/// What on this machine decides whether io_uring works.
struct Surroundings {
    /// `kernel.io_uring_disabled`, where the kernel has it.
    disabled: Option<String>,
    /// Seccomp mode of this process: 2 = filtered.
    seccomp: Option<String>,
    /// Bytes that may be locked; `None` = without limit.
    memlock: Option<u64>,
    /// The kernel's release.
    kernel: String,
}

impl Surroundings {
    fn look() -> Self {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"));
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Self {
            disabled: disabled.map(|word| word.trim().to_owned()),
            seccomp: seccomp.map(|word| word.trim().to_owned()),
            memlock: getrlimit(Resource::Memlock).current,
            kernel: release,
        }
    }
}

/// Why `step` failed with `error`, and what to do about it.
fn likely_cause(step: &str, error: &io::Error, around: &Surroundings) -> String {
    let filtered = around.seccomp.as_deref() == Some("2");
    let cause = match (error.raw_os_error(), around.disabled.as_deref()) {
        (Some(libc::EPERM | libc::EACCES), Some("2")) => {
            "the sysctl kernel.io_uring_disabled is 2, which turns io_uring off for everyone; set \
             it to 0"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), Some("1")) => {
            "the sysctl kernel.io_uring_disabled is 1, which leaves io_uring to the group in \
             kernel.io_uring_group and to CAP_SYS_ADMIN; set it to 0, or add the service's group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES | libc::ENOSYS), _) if filtered => {
            "this process runs under a seccomp filter, which seems to forbid io_uring; allow \
             io_uring_setup, io_uring_enter and io_uring_register in the container's profile or \
             the unit's SystemCallFilter"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "a security module seems to forbid io_uring; look for denials in the audit log"
                .to_owned()
        }
        (Some(libc::ENOSYS), _) => {
            format!(
                "the kernel ({}) is built without io_uring, or older than 5.1",
                around.kernel
            )
        }
        (Some(libc::EINVAL | libc::EOPNOTSUPP), _) => {
            format!(
                "the kernel ({}) is too old for it: 5.11 is needed",
                around.kernel
            )
        }
        (Some(libc::ENOMEM | libc::EAGAIN), _) => match around.memlock {
            Some(bytes) => format!(
                "memory for the ring was refused; the limit of locked memory (RLIMIT_MEMLOCK) is \
                 {bytes} bytes: raise it (LimitMEMLOCK= of the unit)"
            ),
            None => "the kernel is short of memory".to_owned(),
        },
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            "no descriptor is left; raise the limit of open files (LimitNOFILE= of the unit)"
                .to_owned()
        }
        _ => "the cause is not known".to_owned(),
    };
    format!("{step} failed ({error}): {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(disabled: Option<&str>, seccomp: &str) -> Surroundings {
        Surroundings {
            disabled: disabled.map(str::to_owned),
            seccomp: Some(seccomp.to_owned()),
            memlock: Some(65_536),
            kernel: "5.4.0-test".to_owned(),
        }
    }

    fn cause(errno: i32, around: &Surroundings) -> String {
        likely_cause(
            "setting up a ring",
            &io::Error::from_raw_os_error(errno),
            around,
        )
    }

    #[test]
    fn causes_name_what_is_to_be_changed() {
        assert!(cause(libc::EPERM, &around(Some("2"), "0")).contains("io_uring_disabled is 2"));
        assert!(cause(libc::EPERM, &around(Some("1"), "0")).contains("kernel.io_uring_group"));
        assert!(cause(libc::EPERM, &around(Some("0"), "2")).contains("seccomp"));
        assert!(cause(libc::EPERM, &around(Some("0"), "0")).contains("security module"));
        assert!(cause(libc::ENOSYS, &around(None, "2")).contains("seccomp"));
        assert!(cause(libc::ENOSYS, &around(None, "0")).contains("5.4.0-test"));
        assert!(cause(libc::EINVAL, &around(None, "0")).contains("too old"));
        assert!(cause(libc::ENOMEM, &around(None, "0")).contains("65536 bytes"));
        assert!(cause(libc::EMFILE, &around(None, "0")).contains("open files"));
        assert!(cause(libc::EIO, &around(None, "0")).starts_with("setting up a ring failed ("));
    }

    #[test]
    fn the_variable_goes_before_the_option_but_not_before_a_simulation() {
        let (uring, epoll) = (Some(DriverKind::Uring), Some(DriverKind::Epoll));
        let simulated = Some(DriverKind::Simulated);
        assert_eq!(asked_for(None, None).ok(), Some(None));
        assert_eq!(asked_for(None, uring).ok(), Some(uring));
        assert_eq!(asked_for(Some(""), uring).ok(), Some(uring));
        assert_eq!(asked_for(Some("epoll"), uring).ok(), Some(epoll));
        assert_eq!(asked_for(Some("uring"), None).ok(), Some(uring));
        assert_eq!(asked_for(Some("epoll"), simulated).ok(), Some(simulated));
        let error = asked_for(Some("iouring"), None)
            .expect_err("names no driver")
            .to_string();
        assert!(
            error.contains("\"iouring\"") && error.contains("epoll"),
            "{error}"
        );
    }

    #[test]
    fn what_is_around_can_be_read() {
        let around = Surroundings::look();
        assert!(!around.kernel.is_empty());
        assert!(around.seccomp.is_some());
    }
}
