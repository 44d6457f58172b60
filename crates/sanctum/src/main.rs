//! `sanctum`: manages a Sanctum service from the command line.
//!
//! Every command is one or a few requests on the service's Unix socket (crate `api`); nothing is
//! decided here. The exception is `sanctum setup`, which has no service to talk to yet: it asks its
//! questions, then lets `sanctumd init` make the data directory.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod failure;
mod limits;
mod output;
mod progress;
mod prompt;
mod size;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.output;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.render(format, output::color()));
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("cannot start", &error))?;
    runtime.block_on(Box::pin(cli.run()))
}
