//! `loadgen`: drives a LUN and checks every block (`verify`), or measures (`bench`).

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use iscsi::initiator::{ChapLogin, Secret};
use loadgen::verify::Mix;
use loadgen::{bench, limits, verify};

/// Load for an iSCSI target: verified, or measured.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mixed I/O of several initiators under kills and resets; every block is checked. Overwrites
    /// the LUN
    Verify(Verify),
    /// Reads or writes at a depth or a rate, with latencies
    Bench(Bench),
}

#[derive(Args, Debug)]
struct Where {
    /// Address and port of the portal
    #[arg(long)]
    portal: SocketAddr,
    /// The target's name
    #[arg(long)]
    target: String,
    /// The LUN's number
    #[arg(long, default_value_t = 0)]
    lun: u8,
    /// CHAP user
    #[arg(long, requires = "secret_file")]
    user: Option<String>,
    /// File that holds the CHAP secret and nothing else
    #[arg(long, requires = "user")]
    secret_file: Option<PathBuf>,
    /// Bytes of the LUN to use at most; all of it when absent, and what is added while it runs
    #[arg(long)]
    size: Option<u64>,
    /// Seconds to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

impl Where {
    fn chap(&self) -> Result<Option<ChapLogin>> {
        let (Some(user), Some(file)) = (&self.user, &self.secret_file) else {
            return Ok(None);
        };
        let secret = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the secret from {}", file.display()))?;
        Ok(Some(ChapLogin {
            user: user.clone(),
            secret: Secret::new(secret.trim_end_matches('\n').as_bytes().to_vec()),
            algorithms: Vec::new(),
            optional: false,
            mutual: None,
        }))
    }
}

#[derive(Args, Debug)]
struct Verify {
    #[command(flatten)]
    place: Where,
    /// Initiators, each with a session and blocks of its own
    #[arg(long, default_value_t = 8)]
    initiators: usize,
    /// Commands of each in flight
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Bytes of one read or write: LEAST..MOST, whole blocks of 512
    #[arg(long, default_value = "512..1048576", value_parser = parse_bytes)]
    block: RangeInclusive<u32>,
    /// How often each kind is chosen, such as read=43,write=42,unmap=3,flush=2,caw=10 (the default)
    #[arg(long)]
    mix: Option<Mix>,
    /// Time between two killed connections, such as 500ms or 2s (a plain number: milliseconds); 0:
    /// none
    #[arg(long, default_value = "500ms", value_parser = parse_time)]
    kill_every: Duration,
    /// Time between two aborts or resets; 0: none
    #[arg(long, default_value = "1s", value_parser = parse_time)]
    reset_every: Duration,
    /// Seconds for which the target may be away, as for a restart; 0: a connection lost is an error
    #[arg(long, alias = "away-max", default_value_t = 0, value_name = "SECONDS")]
    tolerate_restart: u64,
    /// Seconds after which a request without an answer is a hang
    #[arg(long, default_value_t = limits::HANG.as_secs(), value_name = "SECONDS")]
    hang: u64,
    /// Same seed, same choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Takes over what an earlier run left
    #[arg(long)]
    adopt: bool,
    /// File for the report; it goes to the standard output in any case
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Bench {
    #[command(flatten)]
    place: Where,
    /// Sessions
    #[arg(long, default_value_t = 1)]
    sessions: usize,
    /// Commands of each session in flight
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Commands a second over all sessions; as many as the depth allows when absent
    #[arg(long)]
    rate: Option<u32>,
    /// Bytes of a command
    #[arg(long, default_value_t = 4096)]
    bytes: u32,
    /// Writes; destroys what is there
    #[arg(long)]
    write: bool,
    /// One after the other instead of at random
    #[arg(long)]
    sequential: bool,
    /// How to print the figures
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Verify(verify) => run_verify(&verify),
        Command::Bench(bench) => run_bench(&bench),
    };
    match done {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_verify(asked: &Verify) -> Result<String> {
    let place = &asked.place;
    let options = verify::Options {
        portal: place.portal,
        target: place.target.clone(),
        lun: place.lun,
        chap: place.chap()?,
        initiators: asked.initiators,
        depth: asked.depth,
        time: Duration::from_secs(place.seconds),
        blocks: place.size.map(|size| size / 512),
        bytes: asked.block.clone(),
        mix: asked.mix.unwrap_or_default(),
        kill_every: asked.kill_every,
        reset_every: asked.reset_every,
        away_max: Duration::from_secs(asked.tolerate_restart),
        hang: Duration::from_secs(asked.hang),
        seed: asked.seed,
        adopt: asked.adopt,
    };
    let report = verify::run(&options).with_context(|| format!("seed {}", asked.seed))?;
    let text = serde_json::to_string_pretty(&report)?;
    if let Some(file) = &asked.json {
        std::fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(text)
}

fn parse_time(text: &str) -> Result<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => text
            .strip_suffix('s')
            .map_or((text, 1e-3), |number| (number, 1.0)),
    };
    let number: f64 = number.trim().parse().context("say 500ms or 2s")?;
    Duration::try_from_secs_f64(number * unit).context("say 500ms or 2s")
}

fn parse_bytes(text: &str) -> Result<RangeInclusive<u32>> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let bytes = |text: &str| -> Result<u32> {
        let bytes = text.parse().context("say LEAST..MOST in bytes")?;
        anyhow::ensure!(bytes % 512 == 0, "{bytes} is not a multiple of 512");
        Ok(bytes)
    };
    Ok(bytes(least)?..=bytes(most)?)
}

fn run_bench(asked: &Bench) -> Result<String> {
    let place = &asked.place;
    let figures = bench::run(&bench::Options {
        portal: place.portal,
        target: place.target.clone(),
        lun: place.lun,
        chap: place.chap()?,
        sessions: asked.sessions,
        depth: asked.depth,
        rate: asked.rate,
        time: Duration::from_secs(place.seconds),
        bytes: asked.bytes,
        span: place.size,
        write: asked.write,
        sequential: asked.sequential,
    })?;
    Ok(match asked.output {
        Output::Table => figures.to_string(),
        Output::Json => serde_json::to_string_pretty(&figures)?,
    })
}
