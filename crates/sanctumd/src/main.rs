//! `sanctumd`: the Sanctum service.
//!
//! Wires the floors together: settings, secrets and events from the data directory, the data path
//! (crate `target`), and the management API on a Unix socket. Nothing about iSCSI is decided here.
//!
//! ```text
//! data directory locked ─► settings, secrets, events ─► data path serves ─► socket open ─► ready
//!        one service            damaged: no start           a device that
//!        at a time              says line and way out       fails stops nothing
//! ```

#![forbid(unsafe_code)]

mod admin;
mod cli;
mod data_dir;
mod door;
mod init;
mod limits;
mod notices;
mod peer;
mod repair;
mod run;
mod server;
mod socket;
mod tasks;
mod trouble;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
