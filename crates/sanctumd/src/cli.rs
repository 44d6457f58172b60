//! The command line of the service.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use api::Problem;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{init, limits, repair, run};

/// The Sanctum service.
///
/// Exit codes: 0 ended well, 1 failed, 2 wrong command line.
#[derive(Debug, Parser)]
#[command(name = "sanctumd", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM or SIGINT
    ///
    /// When everything is up, one line goes to standard output:
    /// `ready portal=ADDRESS[,ADDRESS...] socket=PATH`. Everything else goes to standard error.
    Run(Run),
    /// Makes a data directory with a usable default; changes nothing where there is one
    Init(Init),
    /// Brings kept settings back where the current ones are damaged or missing
    Restore {
        #[command(flatten)]
        dir: Dir,
        /// Which generation (default: the newest that is whole)
        #[arg(long, value_name = "N")]
        generation: Option<u64>,
    },
    /// Takes the current settings file as it is, after it was edited by hand
    Adopt {
        #[command(flatten)]
        dir: Dir,
    },
}

#[derive(Args, Debug)]
struct Dir {
    /// Directory for everything the service keeps
    #[arg(long, value_name = "DIR", env = "SANCTUM_DATA_DIR")]
    data_dir: PathBuf,
}

/// How to serve.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Directory for everything the service keeps
    #[arg(long, value_name = "DIR", env = "SANCTUM_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// Management socket (default: api.sock in the data directory)
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Threads of the data path, 0 is one per core (default: as the settings say)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=limits::SHARDS_MAX))]
    pub(crate) shards: Option<u16>,
    /// How the data path talks to the kernel (default: as the settings say)
    #[arg(long, value_enum)]
    pub(crate) ring: Option<Ring>,
    /// What is logged to standard error, such as info, debug or target=debug
    #[arg(
        long,
        value_name = "FILTER",
        env = "SANCTUM_LOG",
        default_value = "info",
        value_parser = filter
    )]
    log: String,
}

/// How the data path talks to the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Ring {
    /// io_uring where the kernel allows it, else epoll with threads
    Auto,
    /// io_uring, or no start
    Uring,
    /// epoll with threads
    Epoll,
}

/// What a host does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Role {
    /// Serves LUNs to initiators
    #[default]
    San,
}

/// What to make.
#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Directory for everything the service keeps
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// What this host does; kept in the settings
    #[arg(long, value_enum, default_value_t)]
    pub(crate) role: Role,
    /// Address and port that initiators connect to; the next free port is taken where this one is
    /// not
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3260")]
    pub(crate) portal: SocketAddr,
    /// Network interface that the portal is bound to
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Size of the first, thin image in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 30)]
    pub(crate) size: u64,
    /// How the report is written
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Format {
    /// Lines for people
    #[default]
    Table,
    /// One JSON value, a problem too
    Json,
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

impl Cli {
    /// Does what is asked for.
    pub(crate) fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Run(run) => {
                log_to_stderr(&run.log);
                run::run(&run)
            }
            Command::Init(init) => return init.run(),
            Command::Restore { dir, generation } => repair::restore(&dir.data_dir, generation),
            Command::Adopt { dir } => repair::adopt(&dir.data_dir),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprint!("{}", render(&problem));
                ExitCode::FAILURE
            }
        }
    }
}

impl Init {
    fn run(&self) -> ExitCode {
        let (text, code) = match init::init(self) {
            Ok(report) if self.output == Format::Json => (
                serde_json::to_string(&report).unwrap_or_default() + "\n",
                ExitCode::SUCCESS,
            ),
            Ok(report) => (init::show(&report), ExitCode::SUCCESS),
            Err(problem) if self.output == Format::Json => (
                serde_json::to_string(&problem).unwrap_or_default() + "\n",
                ExitCode::FAILURE,
            ),
            Err(problem) => {
                eprint!("{}", render(&problem));
                return ExitCode::FAILURE;
            }
        };
        match std::io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => code,
            Err(_) => ExitCode::FAILURE,
        }
    }
}

/// A problem as a person reads it.
pub(crate) fn render(problem: &Problem) -> String {
    let mut text = format!("error: {}\n", problem.what);
    for line in problem.details.iter().flat_map(|detail| detail.lines()) {
        let _ = writeln!(text, "  {line}");
    }
    if !problem.next_step.is_empty() {
        let _ = writeln!(text, "what to do: {}", problem.next_step);
    }
    text
}

fn log_to_stderr(filter: &str) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let stderr = std::io::stderr;
    let logger = tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_ansi(!plain && stderr().is_terminal())
        .with_env_filter(EnvFilter::new(filter));
    // Fails only where there is a logger already, and then that one logs.
    let _ = logger.try_init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_flags_are_refused() {
        for line in [
            "",
            "run",
            "run --data-dir /d --shards many",
            "run --data-dir /d --shards 65",
            "run --data-dir /d --ring fast",
            "run --data-dir /d --log =,=",
            "init --data-dir /d --portal localhost",
            "init --data-dir /d --size -1",
            "restore --data-dir /d --generation last",
            "serve",
        ] {
            let words = std::iter::once("sanctumd").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "`{line}` was taken");
        }
    }

    #[test]
    fn a_problem_for_people() {
        let problem = Problem::new(
            api::Code::InvalidSettings,
            "/d/settings/current.toml cannot be used",
        )
        .detail("line 3, column 1: unknown key `nmae`")
        .next("correct the file");
        insta::assert_snapshot!(render(&problem), @r"
        error: /d/settings/current.toml cannot be used
          line 3, column 1: unknown key `nmae`
        what to do: correct the file
        ");
    }
}
