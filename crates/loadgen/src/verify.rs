//! Mixed I/O under disturbance, with every block checked.
//!
//! Nothing here may hide a fault of the target. So a command that has had no answer for a second,
//! and that nobody's reset can have ended, stops all disturbance that could end it: it is answered,
//! or it is a hang.

mod counters;
mod mix;
mod report;
mod worker;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use iscsi::initiator::{ChapLogin, Digest, Settings};
use ring::{Event, Reactor};

use self::counters::Counters;
pub use self::mix::Mix;
pub use self::report::{Report, VerifyError};
use self::worker::Worker;
use crate::block::BYTES;
use crate::limits;
use crate::session::{Destination, News, Session};

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
    /// Commands in flight of every third initiator; half and a quarter of that for the others.
    pub depth: usize,
    /// How long to go on.
    pub time: Duration,
    /// Blocks of 512 bytes to use at most; none: all there are, and what is added by growing.
    pub blocks: Option<u64>,
    /// Bytes of one read or write.
    pub bytes: RangeInclusive<u32>,
    /// How often each kind of command is chosen.
    pub mix: Mix,
    /// How often a connection is killed; zero: never.
    pub kill_every: Duration,
    /// How often tasks are aborted or the unit reset; zero: never.
    pub reset_every: Duration,
    /// How long the target may be away, as for a restart. Zero: a connection that we did not kill
    /// must not be lost.
    pub away_max: Duration,
    /// A request without an answer for so long is a hang.
    pub hang: Duration,
    /// Same seed, same choices, as far as the order of answers allows.
    pub seed: u64,
    /// Takes over what an earlier run with the same number of initiators left, instead of expecting
    /// zeros.
    pub adopt: bool,
}

/// What the workers share in a turn.
#[derive(Debug)]
struct Board {
    now: Instant,
    report: Report,
    counters: Counters,
    /// Blocks of the LUN in use, once known.
    capacity: u64,
    /// Somebody waits for an answer that should have come: nobody may end others' commands.
    overdue: bool,
    /// A function that ends everybody's commands was answered.
    swept: bool,
    /// So long such a function may still do its work whose answer never came, because the session
    /// of the one who had sent it ended first.
    sweeping_until: Option<Instant>,
    /// No new load; everything is read once more.
    stopping: bool,
}

/// Runs the load, then reads everything once more.
///
/// # Errors
/// The first thing found wrong.
pub fn run(options: &Options) -> Result<Report, VerifyError> {
    check(options)?;
    let mut reactor: Reactor<()> = Reactor::new(&ring::Options::default())?;
    let start = reactor.now();
    let mut run = Run::new(options, start);
    let mut events = Vec::new();
    loop {
        reactor.turn(Some(limits::TURN), &mut events)?;
        run.board.now = reactor.now();
        for event in events.drain(..) {
            if let Event::Io(completion) = event {
                run.completed(&mut reactor, completion);
            }
        }
        run.board.stopping = run.board.now >= start + options.time;
        run.board.overdue = run
            .workers
            .iter()
            .any(|worker| worker.is_overdue(run.board.now));
        if !run.board.stopping {
            run.disturb(&mut reactor, options);
        }
        if run.turn(&mut reactor, options)? {
            return run.end();
        }
    }
}

fn check(options: &Options) -> Result<(), VerifyError> {
    let fail = |what: String| Err(VerifyError::Options(what));
    if options.initiators == 0 || options.initiators > limits::INITIATORS_MAX {
        return fail(format!("1 to {} initiators", limits::INITIATORS_MAX));
    }
    if options.depth == 0 || options.depth > limits::DEPTH_MAX {
        return fail(format!("depth 1 to {}", limits::DEPTH_MAX));
    }
    let (least, most) = (*options.bytes.start(), *options.bytes.end());
    let block = u32::try_from(BYTES).unwrap_or(u32::MAX);
    if least < block || most > limits::TRANSFER_BYTES_MAX || least > most {
        return fail(format!(
            "{least} to {most} bytes: {block} to {} are possible, the smaller one first",
            limits::TRANSFER_BYTES_MAX
        ));
    }
    Ok(())
}

struct Run {
    workers: Vec<Worker>,
    board: Board,
    rng: fastrand::Rng,
    next_kill: Instant,
    next_reset: Instant,
}

impl Run {
    fn new(options: &Options, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let workers = (0u32..)
            .take(options.initiators)
            .map(|place| {
                let session = Session::new(place, destination(options, place), now);
                Worker::new(place, session, options, rng.u64(..), now)
            })
            .collect();
        let board = Board {
            now,
            report: Report::default(),
            counters: Counters::new(options.adopt),
            capacity: 0,
            overdue: false,
            swept: false,
            sweeping_until: None,
            stopping: false,
        };
        Self {
            workers,
            board,
            rng,
            next_kill: now + options.kill_every,
            next_reset: now + options.reset_every,
        }
    }

    fn completed(&mut self, reactor: &mut Reactor<()>, done: ring::Completion) {
        let place = Session::place_of(done.token) as usize;
        if let Some(Worker { session, news, .. }) = self.workers.get_mut(place) {
            session.completed(reactor, done.token, done.outcome, news);
        }
    }

    fn disturb(&mut self, reactor: &mut Reactor<()>, options: &Options) {
        let now = self.board.now;
        if !options.kill_every.is_zero() && now >= self.next_kill {
            self.next_kill = now + options.kill_every;
            let (victim, abrupt) = (self.rng.usize(..self.workers.len()), self.rng.bool());
            let worker = &mut self.workers[victim];
            if !worker.is_overdue(now) && worker.session.kill(reactor, abrupt, &mut worker.news) {
                self.board.report.kills += 1;
            }
        }
        if !options.reset_every.is_zero() && now >= self.next_reset {
            self.next_reset = now + options.reset_every;
            let place = self.rng.usize(..self.workers.len());
            self.workers[place].wants_reset = true;
        }
    }

    /// Whether everything is done.
    fn turn(&mut self, reactor: &mut Reactor<()>, options: &Options) -> Result<bool, VerifyError> {
        let board = &mut self.board;
        let mut done = true;
        for worker in &mut self.workers {
            worker.session.tick(reactor, &mut worker.news);
            let mut news = std::mem::take(&mut worker.news);
            for news in news.drain(..) {
                worker.hear(news, options, board)?;
            }
            worker.news = news;
            worker.watch(options, board.now)?;
            done &= worker.fill(options, board);
            worker.session.flush(reactor);
        }
        let sweeping = board.sweeping_until.is_some_and(|until| board.now < until);
        if std::mem::take(&mut board.swept) || sweeping {
            for worker in &mut self.workers {
                worker.swept(board.now);
            }
        }
        Ok(done)
    }

    fn end(mut self) -> Result<Report, VerifyError> {
        self.board.counters.settle()?;
        let mut report = self.board.report;
        report.capacity_blocks = self.board.capacity;
        Ok(report)
    }
}

impl Worker {
    fn hear(
        &mut self,
        news: News,
        options: &Options,
        board: &mut Board,
    ) -> Result<(), VerifyError> {
        match news {
            News::Lost { why, killed } => self.lost(&why, killed, options, board),
            News::Ready { digests } => {
                self.ready();
                board.report.logins += 1;
                board.report.logins_with_digests += u64::from(digests);
                Ok(())
            }
            News::Done(completion, data) => self.done(&completion, &data, options, board),
            News::Function(task, response) => self.answered(task, response, board),
        }
    }
}

/// Every second session has digests on where the target has them, every third asks for R2Ts, every
/// fourth has no immediate data, every fifth short bursts of short segments, one at a time.
fn destination(options: &Options, place: u32) -> Destination {
    let [.., low] = place.to_be_bytes();
    let name = format!("iqn.2026-11.local.sanctum:loadgen-{place}");
    let mut settings = Settings::new(&name, &options.target, [0x80, 0x4c, 0x47, 0, 0, low]);
    settings.chap = options.chap.clone();
    let offer = &mut settings.offer;
    if place % 2 == 1 {
        offer.header_digest = vec![Digest::Crc32c, Digest::None];
        offer.data_digest = vec![Digest::Crc32c, Digest::None];
    }
    offer.initial_r2t = place % 3 == 2;
    offer.immediate_data = place % 4 != 3;
    if place % 5 == 4 {
        offer.max_recv_data_segment_length = 8 * 1024;
        offer.first_burst_length = 4 * 1024;
        offer.max_burst_length = 64 * 1024;
        offer.max_outstanding_r2t = 1;
    }
    Destination {
        portal: options.portal,
        settings,
        lun: u64::from(options.lun) << 48,
    }
}
