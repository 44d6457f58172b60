//! `cargo xtask`: the one build driver. Builds, runs, tests and proves Sanctum.
//!
//! Everything a person or CI does with the project goes through here: `up` starts it, `test` climbs
//! the ladder of rungs, `verify` reads only, `fix` repairs, `fuzz` and `prove` take longer.

#![forbid(unsafe_code)]

mod clock;
mod count;
mod fuzz;
mod packages;
mod process;
mod prove;
mod rungs;
mod service;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs, tests and proves Sanctum.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Builds everything, starts the service with a usable default, prints how to go on
    Up(service::Up),
    /// Stops the service that `up` started
    Down(service::Down),
    /// Climbs the test ladder; ends with a table and `N passed, N failed, N skipped`
    Test {
        /// Only these rungs
        #[arg(long, value_name = "RUNG")]
        only: Vec<String>,
        /// Lists the rungs and ends
        #[arg(long)]
        list: bool,
        /// Does not install missing Debian packages
        #[arg(long)]
        no_packages: bool,
    },
    /// Proves the long promises and writes dated figures under docs/proofs
    Prove(prove::Prove),
    /// Fuzzes one target, or all of them in turn
    Fuzz(fuzz::Fuzz),
    /// Checks without changing anything: formatting, lints, house rules
    Verify,
    /// Repairs what can be repaired by itself: formatting and machine-applicable lints
    Fix,
    /// The house rules alone
    Tidy,
    /// Installs the Debian packages that the foreign suites need (root)
    Packages,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a task; `false` means that it ran and something failed.
fn run(task: Task) -> Result<bool> {
    workspace::check_toolchain()?;
    let root: PathBuf = workspace::root();
    match task {
        Task::Up(up) => up.run(&root),
        Task::Down(down) => down.run(&root),
        Task::Test { list: true, .. } => {
            rungs::list();
            Ok(true)
        }
        Task::Test {
            only, no_packages, ..
        } => rungs::test(&root, &only, no_packages),
        Task::Prove(prove) => prove.run(&root),
        Task::Fuzz(fuzz) => fuzz.run(&root),
        Task::Verify => rungs::verify(&root),
        Task::Fix => workspace::fix(&root),
        Task::Tidy => tidy::run(&root),
        Task::Packages => packages::install().map(|()| true),
    }
}
