//! Random or sequential reads or writes at a depth (closed loop) or at a rate (open loop).
//!
//! In the open loop a command is due at a fixed time, and its latency counts from then, whether or
//! not the target was ready to take it: a stall shows in full, not only in the one command that hit it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use iscsi::initiator::{ChapLogin, Settings, TaskId};
use ring::{Buffer, Event, Reactor, SharedBuffer};
use serde::Serialize;

use crate::block::BYTES;
use crate::cdb;
use crate::limits::HANG;
use crate::session::{Destination, News, Session};
use crate::verify::VerifyError;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The portal.
    pub portal: SocketAddr,
    /// The target's name.
    pub target: String,
    /// The LUN's number.
    pub lun: u8,
    /// How to prove who we are.
    pub chap: Option<ChapLogin>,
    /// Sessions.
    pub sessions: usize,
    /// Commands of each session in flight at most.
    pub depth: usize,
    /// Commands a second over all sessions; none: as fast as the depth allows.
    pub rate: Option<u64>,
    /// How long.
    pub time: Duration,
    /// Blocks of 512 bytes of each command.
    pub blocks: u32,
    /// Blocks of the LUN to be used.
    pub span: u64,
    /// Writes instead of reads. They destroy what is there.
    pub write: bool,
    /// One after the other instead of at random.
    pub sequential: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Commands that ended.
    pub commands: u64,
    /// Commands a second.
    pub iops: f64,
    /// Bytes a second, in millions.
    pub megabytes: f64,
    /// Latencies in microseconds.
    pub p50_us: u64,
    /// See `p50_us`.
    pub p99_us: u64,
    /// See `p50_us`.
    pub p999_us: u64,
    /// See `p50_us`.
    pub max_us: u64,
}

/// Runs it.
///
/// # Errors
/// Whatever keeps the sessions from their work; a command that does not end well.
pub fn run(options: &Options) -> Result<Figures, VerifyError> {
    let mut reactor: Reactor<()> = Reactor::new(&ring::Options::default())?;
    let mut bench = Bench::new(options, reactor.now())?;
    let mut events = Vec::new();
    let begun = reactor.now();
    let mut start = None;
    loop {
        reactor.turn(Some(Duration::from_millis(1)), &mut events)?;
        let now = reactor.now();
        for event in events.drain(..) {
            let Event::Io(done) = event else { continue };
            let place = Session::place_of(done.token) as usize;
            if let Some(session) = bench.sessions.get_mut(place) {
                session.completed(
                    &mut reactor,
                    done.token,
                    done.outcome,
                    &mut bench.news[place],
                );
            }
        }
        bench.listen(&mut reactor, now)?;
        if start.is_none() && bench.sessions.iter().all(Session::is_ready) {
            start = Some(now);
        }
        let Some(start) = start else {
            if now > begun + HANG {
                return Err(unexpected(0, "not all sessions are logged in".to_owned()));
            }
            continue;
        };
        if now >= start + options.time {
            return Ok(bench.figures(options, now - start));
        }
        bench.fill(&mut reactor, options, start, now);
    }
}

fn unexpected(initiator: usize, what: String) -> VerifyError {
    VerifyError::Unexpected {
        initiator: u32::try_from(initiator).unwrap_or(u32::MAX),
        what,
    }
}

struct Bench {
    sessions: Vec<Session>,
    news: Vec<Vec<News>>,
    /// When each command in flight was due.
    due: Vec<HashMap<TaskId, Instant>>,
    latencies: Histogram<u64>,
    rng: fastrand::Rng,
    next: u64,
    /// Commands issued in the open loop.
    issued: u64,
    payload: SharedBuffer,
}

impl Bench {
    fn new(options: &Options, now: Instant) -> Result<Self, VerifyError> {
        let fail = |what: &str| Err(VerifyError::Options(what.to_owned()));
        if options.sessions == 0 || options.sessions > crate::limits::INITIATORS_MAX {
            return fail("1 to 64 sessions");
        }
        if options.blocks == 0 || u64::from(options.blocks) > options.span {
            return fail("a command is larger than the span");
        }
        let sessions = (0u32..)
            .take(options.sessions)
            .map(|place| {
                let [.., low] = place.to_be_bytes();
                let name = format!("iqn.2026-11.local.sanctum:bench-{place}");
                let isid = [0x80, 0x4c, 0x42, 0, 0, low];
                let mut settings = Settings::new(&name, &options.target, isid);
                settings.chap = options.chap.clone();
                let lun = u64::from(options.lun) << 48;
                Session::new(
                    place,
                    Destination {
                        portal: options.portal,
                        settings,
                        lun,
                    },
                    now,
                )
            })
            .collect();
        let latencies = Histogram::new_with_bounds(1, 60_000_000, 3)
            .map_err(|error| VerifyError::Options(error.to_string()))?;
        Ok(Self {
            sessions,
            news: (0..options.sessions).map(|_| Vec::new()).collect(),
            due: vec![HashMap::new(); options.sessions],
            latencies,
            rng: fastrand::Rng::with_seed(1),
            next: 0,
            issued: 0,
            payload: Buffer::zeroed(options.blocks as usize * BYTES).share(),
        })
    }

    fn listen(&mut self, reactor: &mut Reactor<()>, now: Instant) -> Result<(), VerifyError> {
        for (place, session) in self.sessions.iter_mut().enumerate() {
            session.tick(reactor, &mut self.news[place]);
            for news in self.news[place].drain(..) {
                match news {
                    News::Done(completion, _) => {
                        let Some(due) = self.due[place].remove(&completion.task) else {
                            continue;
                        };
                        // The first command of each session meets the power-on attention.
                        let attention = completion.status == 2
                            && completion.sense.get(2).is_some_and(|key| key & 0x0f == 6);
                        if completion.status != 0 && !attention {
                            return Err(unexpected(place, format!("{completion:02x?}")));
                        }
                        let took = now.saturating_duration_since(due).as_micros();
                        self.latencies
                            .saturating_record(u64::try_from(took).unwrap_or(u64::MAX).max(1));
                    }
                    News::Lost { why, .. } => return Err(unexpected(place, why)),
                    News::Ready | News::Function(..) => {}
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, reactor: &mut Reactor<()>, options: &Options, start: Instant, now: Instant) {
        for place in 0..self.sessions.len() {
            while self.due[place].len() < options.depth && self.sessions[place].room() > 0 {
                let due = match options.rate {
                    None => now,
                    Some(rate) => {
                        let at = start
                            + Duration::from_secs(self.issued)
                                / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
                        if at > now {
                            break;
                        }
                        self.issued += 1;
                        at
                    }
                };
                let Some(task) = self.send(place, options) else {
                    break;
                };
                self.due[place].insert(task, due);
            }
            self.sessions[place].flush(reactor);
        }
    }

    fn send(&mut self, place: usize, options: &Options) -> Option<TaskId> {
        let slots = options.span / u64::from(options.blocks);
        let slot = if options.sequential {
            self.next += 1;
            self.next % slots
        } else {
            self.rng.u64(..slots)
        };
        let lba = slot * u64::from(options.blocks);
        if options.write {
            let data = Some(self.payload.clone());
            self.sessions[place].send(cdb::write(lba, options.blocks, false), data, 0)
        } else {
            let len = u32::try_from(self.payload.len()).ok()?;
            self.sessions[place].send(cdb::read(lba, options.blocks), None, len)
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn figures(&self, options: &Options, took: Duration) -> Figures {
        let commands = self.latencies.len();
        let iops = commands as f64 / took.as_secs_f64();
        let at = |quantile| self.latencies.value_at_quantile(quantile);
        Figures {
            commands,
            iops,
            megabytes: iops * f64::from(options.blocks) * BYTES as f64 / 1e6,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latencies.max(),
        }
    }
}
