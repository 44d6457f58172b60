//! `sanctum setup`: makes a data directory with a usable default.
//!
//! Asks on a terminal, or takes flags; then `sanctumd init` does the work, because only the service
//! knows what a data directory holds. A second run on the same directory changes nothing and prints
//! the same.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use api::view::SetupReport;
use api::{Code, Problem};
use clap::Args;

use crate::commands::portal;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::{limits, prompt, size};

#[derive(Args, Debug)]
pub(crate) struct Setup {
    /// What this host does: san (serves LUNs to initiators); kept in the settings
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: Option<Role>,
    /// Directory for everything the service keeps
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// ADDRESS or ADDRESS:PORT that initiators connect to
    #[arg(long, value_name = "ADDRESS", value_parser = portal::address)]
    address: Option<SocketAddr>,
    /// Network interface that the portal is bound to (default: none, the address decides)
    #[arg(long, value_name = "NAME", value_parser = interface)]
    interface: Option<String>,
    /// Size of the first, thin image
    #[arg(long, default_value = "8G", value_parser = size::parse)]
    size: u64,
    /// Takes defaults in place of questions
    #[arg(long)]
    non_interactive: bool,
}

/// What a host does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    /// Serves LUNs to initiators
    San,
}

/// Roles of later releases.
const ROLES_TO_COME: [&str; 3] = ["node", "branch", "witness"];

fn role(text: &str) -> Result<Role, String> {
    match text.to_lowercase().as_str() {
        "san" => Ok(Role::San),
        later if ROLES_TO_COME.contains(&later) => Err(format!(
            "this release does not have the role `{later}` yet; it has san"
        )),
        _ => Err("there is no such role; this release has san".to_owned()),
    }
}

/// The answers.
struct Answers {
    role: Role,
    data_dir: PathBuf,
    address: SocketAddr,
    interface: Option<String>,
    size: u64,
}

impl Setup {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let answers = if self.non_interactive {
            self.defaults()
        } else {
            self.ask()?
        };
        let report = init(&answers)?;
        if output.format == output::Format::Json {
            return output.one(&report, Vec::new());
        }
        output::text(&show(&report))
    }

    fn defaults(self) -> Answers {
        Answers {
            role: self.role.unwrap_or(Role::San),
            data_dir: self.data_dir.unwrap_or_else(api::default_data_dir),
            address: self.address.unwrap_or_else(default_address),
            interface: self.interface,
            size: self.size,
        }
    }

    /// Asks for what no flag answers.
    fn ask(self) -> Result<Answers, Failure> {
        let open = self.role.is_none() || self.data_dir.is_none() || self.address.is_none();
        if open && !prompt::interactive() {
            return Err(Failure::usage(
                "there is no terminal to ask on",
                "give --non-interactive, with --data-dir and --address where the \
                 defaults do not do",
            ));
        }
        let role = match self.role {
            Some(role) => role,
            None => prompt::ask("Role of this host (san)", "san", role)?,
        };
        let bound = match (self.interface, self.address) {
            (None, None) => prompt::ask(
                &format!(
                    "Network interface ({}; any = the address decides)",
                    interfaces().join(", ")
                ),
                "any",
                |text| {
                    if text == "any" {
                        Ok(None)
                    } else {
                        interface(text).map(Some)
                    }
                },
            )?,
            (given, _) => given,
        };
        let address = match self.address {
            Some(address) => address,
            None => {
                let default = default_address().to_string();
                prompt::ask("Address that initiators connect to", &default, own_address)?
            }
        };
        let data_dir = match self.data_dir {
            Some(dir) => dir,
            None => {
                let default = api::default_data_dir().display().to_string();
                prompt::ask(
                    "Directory for everything the service keeps",
                    &default,
                    directory,
                )?
            }
        };
        Ok(Answers {
            role,
            data_dir,
            address,
            interface: bound,
            size: self.size,
        })
    }
}

fn default_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], portal::PORT))
}

fn interfaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn interface(text: &str) -> Result<String, String> {
    let known = interfaces();
    if known.iter().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "there is no interface `{text}`; there are {}",
        known.join(", ")
    ))
}

/// An address that this host holds: a socket can be bound to it.
fn own_address(text: &str) -> Result<SocketAddr, String> {
    let address = portal::address(text)?;
    match TcpListener::bind((address.ip(), 0)) {
        Ok(_) => Ok(address),
        Err(error) => Err(format!(
            "this host cannot listen on {}: {error}",
            address.ip()
        )),
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    if path.exists() && !path.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    Ok(path)
}

/// Runs `sanctumd init` and reads its report.
fn init(answers: &Answers) -> Result<SetupReport, Failure> {
    let program = service_program();
    let mut command = Command::new(&program);
    command
        .args(["init", "--output", "json", "--data-dir"])
        .arg(&answers.data_dir)
        .args([
            "--role",
            match answers.role {
                Role::San => "san",
            },
            "--portal",
            &answers.address.to_string(),
            "--size",
            &answers.size.to_string(),
        ]);
    if let Some(interface) = &answers.interface {
        command.args(["--interface", interface]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(&program, &error))?;
    let read = read_output(&mut child);
    let status = child.wait();
    let text =
        read.map_err(|error| Failure::local("cannot read what sanctumd init says", &error))?;
    let status = status.map_err(|error| Failure::local("cannot wait for sanctumd init", &error))?;
    if status.success()
        && let Ok(report) = serde_json::from_str(&text)
    {
        return Ok(report);
    }
    Err(serde_json::from_str::<Problem>(&text)
        .unwrap_or_else(|_| {
            Problem::new(Code::Internal, format!("sanctumd init ended with {status}"))
        })
        .into())
}

fn read_output(child: &mut Child) -> io::Result<String> {
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(limits::INIT_OUTPUT_BYTES_MAX)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}

/// The service binary: beside this one where it is, else wherever the search path has it.
fn service_program() -> OsString {
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("sanctumd"));
    match beside {
        Some(path) if path.is_file() => path.into_os_string(),
        _ => OsString::from("sanctumd"),
    }
}

fn not_started(program: &OsString, error: &io::Error) -> Failure {
    let mut failure = Failure::local(
        format!("cannot run {}", Path::new(program).display()),
        error,
    );
    failure.problem.next_step =
        "install sanctumd beside sanctum, or put it on the search path".to_owned();
    failure
}

fn show(report: &SetupReport) -> String {
    let name = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let portal = report
        .portal
        .map_or_else(|| "none".to_owned(), |address| address.to_string());
    let mut text = output::block(vec![
        ("portal", portal),
        ("target", name(&report.target)),
        ("CHAP user", name(&report.user)),
        (
            "secrets",
            format!(
                "{} (readable by its owner only)",
                report.secrets_file.display()
            ),
        ),
        ("data", report.data_dir.display().to_string()),
    ]);
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let socket = api::quoted(&report.socket);
    let _ = write!(
        text,
        "\nnext:\n  sanctumd run --data-dir {} &\n  export SANCTUM_SOCKET={socket}\n\
         \x20 sanctum status\n",
        api::quoted(&report.data_dir),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(created: bool) -> SetupReport {
        SetupReport {
            created,
            data_dir: "/var/lib/sanctum".into(),
            portal: Some(([127, 0, 0, 1], 3261).into()),
            target: Some("iqn.2026-11.local.sanctum:host-1f2e".to_owned()),
            user: Some("initiator".to_owned()),
            secrets_file: "/var/lib/sanctum/secrets/secrets.toml".into(),
            socket: "/var/lib/sanctum/api.sock".into(),
            notes: vec!["port 3260 is taken; the portal is on 3261".to_owned()],
        }
    }

    #[test]
    fn ends_with_what_to_type() {
        insta::assert_snapshot!(show(&report(true)), @r"
        portal     127.0.0.1:3261
        target     iqn.2026-11.local.sanctum:host-1f2e
        CHAP user  initiator
        secrets    /var/lib/sanctum/secrets/secrets.toml (readable by its owner only)
        data       /var/lib/sanctum
        note: port 3260 is taken; the portal is on 3261

        next:
          sanctumd run --data-dir /var/lib/sanctum &
          export SANCTUM_SOCKET=/var/lib/sanctum/api.sock
          sanctum status
        ");
    }

    #[test]
    fn what_to_type_can_be_pasted() {
        let odd = SetupReport {
            data_dir: "/srv/my disks".into(),
            socket: "/srv/my disks/api.sock".into(),
            ..report(true)
        };
        let text = show(&odd);
        assert!(
            text.contains("sanctumd run --data-dir '/srv/my disks' &"),
            "{text}"
        );
        assert!(
            text.contains("SANCTUM_SOCKET='/srv/my disks/api.sock'\n"),
            "{text}"
        );
    }

    #[test]
    fn a_second_run_prints_the_same() {
        assert_eq!(show(&report(true)), show(&report(false)));
    }

    #[test]
    fn roles_that_are_there_and_those_to_come() {
        assert_eq!(role("SAN"), Ok(Role::San));
        assert!(role("node").unwrap_err().contains("yet"));
        assert!(role("nas").unwrap_err().contains("no such role"));
    }

    #[test]
    fn answers_are_checked() {
        assert!(interface("lo").is_ok());
        assert!(interface("no-such-interface").unwrap_err().contains("lo"));
        assert!(own_address("127.0.0.1").is_ok());
        // TEST-NET-1 belongs to no host.
        assert!(own_address("192.0.2.1").is_err());
        assert!(directory("/proc/version").is_err());
    }
}
