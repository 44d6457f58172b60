//! The command line as a whole: global flags and nouns.

use std::path::PathBuf;

use api::Client;
use api::request::Change;
use clap::{Parser, Subcommand};

use crate::commands::{
    access, chap, device, discovery, event, lun, portal, session, settings, setup, status, target,
};
use crate::failure::Failure;
use crate::output::{Format, Output};

/// Manages a Sanctum service.
///
/// Exit codes: 0 done, 1 failed, 2 wrong command line, 3 service not reachable, 4 conflict with the
/// present state (exists already, in use, changed meanwhile).
#[derive(Debug, Parser)]
#[command(name = "sanctum", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// How answers are written
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,

    /// Socket of the service (default: api.sock in the data directory that setup proposes, else
    /// /run/sanctum/api.sock)
    #[arg(long, global = true, env = "SANCTUM_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Why a change is made; kept in the settings history and the events
    #[arg(long, global = true, value_name = "TEXT")]
    reason: Option<String>,

    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// The service at a glance
    Status,
    /// iSCSI targets
    #[command(subcommand)]
    Target(target::Command),
    /// Devices exposed under a target
    #[command(subcommand)]
    Lun(lun::Command),
    /// What backs LUNs: images, disks, RAM, ISO images
    #[command(subcommand)]
    Device(device::Command),
    /// Addresses that accept connections
    #[command(subcommand)]
    Portal(portal::Command),
    /// Accounts that initiators and targets prove themselves with
    #[command(subcommand)]
    Chap(chap::Command),
    /// What initiators prove before they are told which targets there are
    #[command(subcommand)]
    Discovery(discovery::Command),
    /// Which initiators may use a target
    #[command(subcommand)]
    Access(access::Command),
    /// Initiators logged in now
    #[command(subcommand)]
    Session(session::Command),
    /// The settings document: everything above in one file
    #[command(subcommand)]
    Settings(settings::Command),
    /// What happened
    #[command(subcommand)]
    Event(event::Command),
    /// Makes a data directory with a usable default
    Setup(Box<setup::Setup>),
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
}

impl Cli {
    /// Runs the command.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let output = Output {
            format: self.output,
        };
        let change = Change {
            reason: self.reason,
            expect: None,
        };
        let client =
            Client::new(self.socket.unwrap_or_else(api::default_socket))?.with_change(change);
        let context = Context { client, output };
        match self.noun {
            Noun::Status => status::run(&context).await,
            Noun::Target(command) => command.run(&context).await,
            Noun::Lun(command) => command.run(&context).await,
            Noun::Device(command) => command.run(&context).await,
            Noun::Portal(command) => command.run(&context).await,
            Noun::Chap(command) => command.run(&context).await,
            Noun::Discovery(command) => command.run(&context).await,
            Noun::Access(command) => command.run(&context).await,
            Noun::Session(command) => command.run(&context).await,
            Noun::Settings(command) => command.run(context).await,
            Noun::Event(command) => command.run(&context).await,
            Noun::Setup(setup) => setup.run(output),
        }
    }
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
    fn commands_of_the_documents_parse() {
        // Every line of a `console` block in the documents that begins with `$ sanctum` is tried.
        let pages = [
            include_str!("../../../docs/cli.md"),
            include_str!("../../../docs/settings.md"),
            include_str!("../../../docs/security.md"),
        ];
        let mut tried = 0;
        for line in pages.iter().flat_map(|page| page.lines()) {
            let Some(command) = line.strip_prefix("$ sanctum ") else {
                continue;
            };
            let command = command.split(" | ").next().unwrap_or(command);
            let words = std::iter::once("sanctum").chain(command.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("`{line}`: {error}");
            }
            tried += 1;
        }
        assert!(tried >= 20, "only {tried} commands found in the documents");
    }

    #[test]
    fn bad_flags_are_refused() {
        for line in [
            "target",
            "target create",
            "device create image a",
            "device create image a --size 10X",
            "device create ram a --size 1G --cache lukewarm",
            "lun remove iqn.2026-11.a:b twelve",
            "lun add t d --number 70000",
            "portal add p 300.1.1.1",
            "access add t maybe",
            "access add t allow --network 10.0.0.0/33",
            "access add t allow --lun 1-2",
            "session drop 99999",
            "settings rollback yesterday",
            "event list --severity loud",
            "status --output yaml",
            "device update d --removable perhaps",
            "lun update t 0",
            "device queue d --depth 4",
            "device create image a --size 1G --preallocate",
            "portal add p 127.0.0.1 --disabled",
            "portal add p 127.0.0.1 --enabled",
            "event follow --limit 0",
            "frobnicate",
        ] {
            let words = std::iter::once("sanctum").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "`{line}` was taken");
        }
    }
}
