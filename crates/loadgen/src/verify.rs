//! Mixed I/O under disturbance, with every block checked.

mod counters;
mod worker;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use iscsi::initiator::{ChapLogin, Digest, Settings};
use ring::{Event, Reactor, RingError};
use serde::Serialize;

use self::counters::Counters;
use self::worker::Worker;
use crate::limits;
use crate::model::Wrong;
use crate::session::{Destination, News, Session};
use crate::watch::{Memory, Watch};

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The portal.
    pub portal: SocketAddr,
    /// The target's name.
    pub target: String,
    /// The LUN's number, 0 to 255. Everything on it is overwritten.
    pub lun: u8,
    /// How to prove who we are.
    pub chap: Option<ChapLogin>,
    /// Initiators, each with a name, a session and blocks of its own.
    pub initiators: usize,
    /// Commands of each in flight.
    pub depth: usize,
    /// How long to go on.
    pub time: Duration,
    /// Blocks of 512 bytes that the load uses, counters included.
    pub blocks: u64,
    /// How often a connection is killed (RST); zero: never.
    pub kill_every: Duration,
    /// How often tasks are aborted or the unit reset; zero: never.
    pub reset_every: Duration,
    /// How long the target may be away before that counts as an error.
    pub away_max: Duration,
    /// Same seed, same choices.
    pub seed: u64,
    /// Takes over what an earlier run with the same initiators left, instead of expecting zeros.
    pub adopt: bool,
    /// Process whose memory is sampled.
    pub watch: Option<u32>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The options do not fit together.
    #[error("{0}")]
    Options(String),
    /// The reactor cannot go on.
    #[error("the reactor failed")]
    Ring(#[from] RingError),
    /// A block holds what it cannot hold.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// A counter went wrong.
    #[error("counter {counter}: {what}")]
    Counter {
        /// Which.
        counter: u64,
        /// Expected and found.
        what: String,
    },
    /// No answer.
    #[error("initiator {initiator}: {what} has no answer after {} s", limits::HANG.as_secs())]
    Hang {
        /// Which.
        initiator: u32,
        /// What was asked.
        what: String,
    },
    /// The target was away for too long.
    #[error("initiator {initiator}: not logged in for {seconds} s; last: {last}")]
    Away {
        /// Which.
        initiator: u32,
        /// For how long.
        seconds: u64,
        /// Why it was lost last.
        last: String,
    },
    /// The unit stays NOT READY.
    #[error(
        "initiator {initiator}: the unit has been NOT READY for {seconds} s (code {code:04x}h)"
    )]
    NotReady {
        /// Which.
        initiator: u32,
        /// For how long.
        seconds: u64,
        /// Additional sense code and qualifier.
        code: u16,
    },
    /// A command ended as it must not.
    #[error("initiator {initiator}: {what}")]
    Unexpected {
        /// Which.
        initiator: u32,
        /// The command and its end.
        what: String,
    },
}

/// What was done and seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Commands that ended well, by kind.
    pub reads: u64,
    /// See `reads`.
    pub writes: u64,
    /// See `reads`.
    pub unmaps: u64,
    /// See `reads`.
    pub flushes: u64,
    /// Increments by COMPARE AND WRITE that succeeded.
    pub increments: u64,
    /// COMPARE AND WRITE that found another value.
    pub miscompares: u64,
    /// Bytes of reads and writes.
    pub bytes: u64,
    /// Commands whose end is unknown.
    pub unknown: u64,
    /// BUSY and TASK SET FULL.
    pub busy: u64,
    /// Unit attentions.
    pub attentions: u64,
    /// Of these, changes of the capacity.
    pub capacity_changes: u64,
    /// Connections killed by us.
    pub kills: u64,
    /// Connections lost otherwise.
    pub losses: u64,
    /// Task management functions answered.
    pub functions: u64,
    /// Blocks verified in the last pass.
    pub verified_blocks: u64,
    /// Longest time from a command to its answer, in milliseconds.
    pub slowest_ms: u128,
    /// Memory of the process watched.
    pub memory: Option<Memory>,
}

/// Runs the load, then reads everything once more.
///
/// # Errors
/// The first thing found wrong.
pub fn run(options: &Options) -> Result<Report, VerifyError> {
    check(options)?;
    let mut reactor: Reactor<()> = Reactor::new(&ring::Options::default())?;
    let mut run = Run::new(options, reactor.now());
    let start = reactor.now();
    let mut events = Vec::new();
    let mut next_sample = start;
    loop {
        reactor.turn(Some(Duration::from_millis(5)), &mut events)?;
        let now = reactor.now();
        for event in events.drain(..) {
            let Event::Io(completion) = event else {
                continue;
            };
            let place = Session::place_of(completion.token) as usize;
            let Some(worker) = run.workers.get_mut(place) else {
                continue;
            };
            let mut news = std::mem::take(&mut worker.news);
            worker.session.completed(
                &mut reactor,
                completion.token,
                completion.outcome,
                &mut news,
            );
            worker.news = news;
        }
        let stopping = now >= start + options.time;
        if !stopping {
            run.disturb(&mut reactor, options);
        }
        if run.turn(&mut reactor, options, stopping)? {
            break;
        }
        if let (Some(watch), true) = (&mut run.watch, now >= next_sample) {
            watch.sample();
            next_sample = now + Duration::from_millis(500);
        }
    }
    run.counters.settle()?;
    run.report.memory = run.watch.as_ref().and_then(Watch::memory);
    Ok(run.report)
}

fn check(options: &Options) -> Result<(), VerifyError> {
    let fail = |what: String| Err(VerifyError::Options(what));
    if options.initiators == 0 || options.initiators > limits::INITIATORS_MAX {
        return fail(format!("1 to {} initiators", limits::INITIATORS_MAX));
    }
    if options.depth == 0 || options.depth > limits::DEPTH_MAX {
        return fail(format!("depth 1 to {}", limits::DEPTH_MAX));
    }
    let each = options.blocks.saturating_sub(limits::COUNTERS) / options.initiators as u64;
    if !(4096..=limits::OWNED_BLOCKS_MAX).contains(&each) {
        return fail(format!(
            "{each} blocks for each initiator; 4096 to {} are needed",
            limits::OWNED_BLOCKS_MAX
        ));
    }
    Ok(())
}

struct Run {
    workers: Vec<Worker>,
    counters: Counters,
    report: Report,
    watch: Option<Watch>,
    rng: fastrand::Rng,
    next_kill: Instant,
    next_reset: Instant,
}

impl Run {
    fn new(options: &Options, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let each = (options.blocks - limits::COUNTERS) / options.initiators as u64;
        let workers = (0u32..)
            .take(options.initiators)
            .map(|place| {
                let first = limits::COUNTERS + each * u64::from(place);
                let session = Session::new(place, destination(options, place), now);
                let seed = rng.u64(..);
                Worker::new(
                    place,
                    session,
                    first..first + each,
                    seed,
                    options.adopt,
                    now,
                )
            })
            .collect();
        Self {
            workers,
            counters: Counters::new(options.adopt),
            report: Report::default(),
            watch: options.watch.map(Watch::new),
            rng,
            next_kill: now + options.kill_every,
            next_reset: now + options.reset_every,
        }
    }

    fn disturb(&mut self, reactor: &mut Reactor<()>, options: &Options) {
        let now = reactor.now();
        if !options.kill_every.is_zero() && now >= self.next_kill {
            self.next_kill = now + options.kill_every;
            let victim = self.rng.usize(..self.workers.len());
            let worker = &mut self.workers[victim];
            if worker.session.is_ready() {
                let mut news = std::mem::take(&mut worker.news);
                worker.session.kill(reactor, &mut news);
                worker.news = news;
                self.report.kills += 1;
            }
        }
        if !options.reset_every.is_zero() && now >= self.next_reset {
            self.next_reset = now + options.reset_every;
            let place = self.rng.usize(..self.workers.len());
            self.workers[place].reset(now);
        }
    }

    /// Whether everything is done.
    fn turn(
        &mut self,
        reactor: &mut Reactor<()>,
        options: &Options,
        stopping: bool,
    ) -> Result<bool, VerifyError> {
        let now = reactor.now();
        let mut done = true;
        for worker in &mut self.workers {
            let mut news = std::mem::take(&mut worker.news);
            worker.session.tick(reactor, &mut news);
            for news in news.drain(..) {
                match news {
                    News::Lost(why) => worker.lost(&why, now, &mut self.report, &mut self.counters),
                    News::Ready => worker.ready(now),
                    News::Done(completion, data) => {
                        worker.done(
                            &completion,
                            &data,
                            now,
                            &mut self.report,
                            &mut self.counters,
                        )?;
                    }
                    News::Function(task, response) => {
                        worker.answered(task, response, &mut self.report, &mut self.counters)?;
                    }
                }
            }
            worker.news = news;
            worker.watch(now, options.away_max)?;
            done &= worker.fill(now, options.depth, stopping, &mut self.counters);
            worker.session.flush(reactor);
        }
        Ok(done)
    }
}

/// Every second session has digests on, every third asks for R2Ts, every fourth has no immediate data.
fn destination(options: &Options, place: u32) -> Destination {
    let [.., low] = place.to_be_bytes();
    let name = format!("iqn.2026-11.local.sanctum:loadgen-{place}");
    let mut settings = Settings::new(&name, &options.target, [0x80, 0x4c, 0x47, 0, 0, low]);
    settings.chap = options.chap.clone();
    if place % 2 == 1 {
        settings.offer.header_digest = vec![Digest::Crc32c];
        settings.offer.data_digest = vec![Digest::Crc32c];
    }
    settings.offer.initial_r2t = place % 3 == 2;
    settings.offer.immediate_data = place % 4 != 3;
    Destination {
        portal: options.portal,
        settings,
        lun: u64::from(options.lun) << 48,
    }
}
