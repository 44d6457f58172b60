//! Random or sequential reads or writes at a depth (closed loop) or at a rate (open loop).
//!
//! In the open loop a command is due at a fixed time, and its latency counts from then, whether or
//! not the target was ready to take it: a stall shows in full, not only in the one command that hit
//! it. What is due and has no answer at the end counts with the time it has waited.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use iscsi::initiator::{ChapLogin, Completion, Settings, TaskId};
use ring::{Buffer, Event, Reactor, SharedBuffer};
use serde::Serialize;

use crate::block::BYTES;
use crate::limits::{self, HANG};
use crate::session::{Destination, News, Session};
use crate::verify::VerifyError;
use crate::{cdb, sense};

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
    pub rate: Option<u32>,
    /// How long.
    pub time: Duration,
    /// Bytes of each command.
    pub bytes: u32,
    /// Bytes of the LUN to be used; none: all.
    pub span: Option<u64>,
    /// Writes instead of reads. They destroy what is there.
    pub write: bool,
    /// One after the other instead of at random.
    pub sequential: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Commands that were answered.
    pub commands: u64,
    /// Commands that were due and had no answer at the end; in the open loop they are among the
    /// latencies, with the time they had waited.
    pub unfinished: u64,
    /// Seconds measured.
    pub seconds: f64,
    /// Commands a second.
    pub iops: f64,
    /// Bytes a second, in millions.
    pub megabytes: f64,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// 99 % are not above.
    pub p99_us: u64,
    /// 99.9 % are not above.
    pub p999_us: u64,
    /// Longest latency.
    pub max_us: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = [
            "IOPS",
            "MB/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "unfinished",
        ];
        for title in titles {
            write!(f, "{title:>12}")?;
        }
        writeln!(f)?;
        write!(f, "{:>12.0}{:>12.1}", self.iops, self.megabytes)?;
        for figure in [
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.max_us,
            self.unfinished,
        ] {
            write!(f, "{figure:>12}")?;
        }
        Ok(())
    }
}

/// Runs it.
///
/// # Errors
/// Whatever keeps the sessions from their work; a command that does not end well.
pub fn run(options: &Options) -> Result<Figures, VerifyError> {
    let mut reactor: Reactor<()> = Reactor::new(&ring::Options::default())?;
    let begun = reactor.now();
    let mut bench = Bench::new(options, begun)?;
    let mut events = Vec::new();
    let mut start = None;
    loop {
        let wait = start.map_or(limits::TURN, |start| {
            bench.until_due(options, start, reactor.now())
        });
        reactor.turn(Some(wait), &mut events)?;
        let now = reactor.now();
        for event in events.drain(..) {
            let Event::Io(done) = event else { continue };
            let place = Session::place_of(done.token) as usize;
            if let Some(port) = bench.ports.get_mut(place) {
                port.session
                    .completed(&mut reactor, done.token, done.outcome, &mut port.news);
            }
        }
        bench.listen(&mut reactor, options, now)?;
        match start {
            None if bench.ports.iter().all(|port| port.is_calm) => start = Some(now),
            None if now > begun + HANG => {
                return Err(unexpected(0, "not all sessions are logged in".to_owned()));
            }
            None => bench.calm(now),
            Some(start) if now >= start + options.time => {
                return Ok(bench.figures(options, start, now));
            }
            Some(start) => bench.fill(options, start, now),
        }
        for port in &mut bench.ports {
            port.session.flush(&mut reactor);
        }
    }
}

fn unexpected(initiator: usize, what: String) -> VerifyError {
    VerifyError::Unexpected {
        initiator: u32::try_from(initiator).unwrap_or(u32::MAX),
        what,
    }
}

/// One session.
struct Port {
    session: Session,
    news: Vec<News>,
    /// When each command in flight was due.
    due: HashMap<TaskId, Instant>,
    /// Its attentions are behind it, and it knows the capacity.
    is_calm: bool,
}

struct Bench {
    ports: Vec<Port>,
    latencies: Histogram<u64>,
    answered: u64,
    rng: fastrand::Rng,
    next: u64,
    /// Commands issued in the open loop.
    issued: u64,
    /// Places for a command.
    slots: u64,
    blocks: u32,
    payload: SharedBuffer,
}

impl Bench {
    fn new(options: &Options, now: Instant) -> Result<Self, VerifyError> {
        let fail = |what: String| Err(VerifyError::Options(what));
        if options.sessions == 0 || options.sessions > limits::INITIATORS_MAX {
            return fail(format!("1 to {} sessions", limits::INITIATORS_MAX));
        }
        if options.depth == 0 || options.depth > limits::DEPTH_MAX {
            return fail(format!("depth 1 to {}", limits::DEPTH_MAX));
        }
        let block = u32::try_from(BYTES).unwrap_or(u32::MAX);
        let bytes = options.bytes;
        if bytes == 0 || bytes > limits::TRANSFER_BYTES_MAX || !bytes.is_multiple_of(block) {
            let most = limits::TRANSFER_BYTES_MAX;
            return fail(format!(
                "{bytes} bytes: multiples of {block} up to {most} are possible"
            ));
        }
        if options.rate == Some(0) {
            return fail("a rate of 0".to_owned());
        }
        let latencies = Histogram::new_with_bounds(1, 3_600_000_000, 3)
            .map_err(|error| VerifyError::Options(error.to_string()))?;
        let port = |place| Port {
            session: Session::new(place, destination(options, place), now),
            news: Vec::new(),
            due: HashMap::new(),
            is_calm: false,
        };
        Ok(Self {
            ports: (0u32..).take(options.sessions).map(port).collect(),
            latencies,
            answered: 0,
            rng: fastrand::Rng::with_seed(1),
            next: 0,
            issued: 0,
            slots: 0,
            blocks: bytes / block,
            payload: Buffer::zeroed(bytes as usize).share(),
        })
    }

    /// When a number of commands is due in the open loop.
    fn due(options: &Options, start: Instant, number: u64) -> Option<Instant> {
        let rate = u64::from(options.rate?);
        let rest = (number % rate) * 1_000_000_000 / rate;
        Some(start + Duration::from_secs(number / rate) + Duration::from_nanos(rest))
    }

    /// How long nothing is to be sent.
    fn until_due(&self, options: &Options, start: Instant, now: Instant) -> Duration {
        let due = Self::due(options, start, self.issued);
        let wait = due.map(|due| due.saturating_duration_since(now));
        // What is due and found no room waits for an answer.
        wait.filter(|wait| !wait.is_zero())
            .map_or(limits::TURN, |wait| wait.min(limits::TURN))
    }

    fn listen(
        &mut self,
        reactor: &mut Reactor<()>,
        options: &Options,
        now: Instant,
    ) -> Result<(), VerifyError> {
        for place in 0..self.ports.len() {
            let port = &mut self.ports[place];
            port.session.tick(reactor, &mut port.news);
            let mut news = std::mem::take(&mut port.news);
            for news in news.drain(..) {
                match news {
                    News::Done(completion, data) => {
                        self.done(place, &completion, &data, options, now)?;
                    }
                    News::Lost { why, .. } => return Err(unexpected(place, why)),
                    News::Ready { .. } | News::Function(..) => {}
                }
            }
            self.ports[place].news = news;
        }
        Ok(())
    }

    fn done(
        &mut self,
        place: usize,
        completion: &Completion,
        data: &[u8],
        options: &Options,
        now: Instant,
    ) -> Result<(), VerifyError> {
        let port = &mut self.ports[place];
        let Some(due) = port.due.remove(&completion.task) else {
            return Ok(());
        };
        let good = completion.status == 0 && !completion.target_failure;
        if port.is_calm && good {
            self.answered += 1;
            self.record(now.saturating_duration_since(due));
            return Ok(());
        }
        if good {
            port.is_calm = true;
            return self.measured(data, options);
        }
        let attention = sense::key_and_code(&completion.sense).is_some_and(|(key, _)| key == 6);
        if attention && !port.is_calm {
            return Ok(());
        }
        Err(unexpected(place, format!("{completion:02x?}")))
    }

    fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(micros.max(1));
    }

    /// READ CAPACITY was answered.
    fn measured(&mut self, data: &[u8], options: &Options) -> Result<(), VerifyError> {
        let fail = |what: String| Err(VerifyError::Options(what));
        let Some((blocks, length)) = cdb::capacity(data) else {
            return fail(format!("the capacity is {data:02x?}"));
        };
        if usize::try_from(length) != Ok(BYTES) {
            return fail(format!(
                "the LUN has blocks of {length} bytes; this load needs {BYTES}"
            ));
        }
        let blocks = options
            .span
            .map_or(blocks, |span| blocks.min(span / BYTES as u64));
        self.slots = blocks / u64::from(self.blocks);
        if self.slots == 0 {
            return fail("a command is larger than what is to be used of the LUN".to_owned());
        }
        Ok(())
    }

    /// Asks for the capacity until the attentions are behind.
    fn calm(&mut self, now: Instant) {
        for port in &mut self.ports {
            if !port.is_calm && port.due.is_empty() && port.session.room() > 0 {
                let task = port
                    .session
                    .send(cdb::read_capacity(), None, cdb::CAPACITY_BYTES);
                port.due.extend(task.map(|task| (task, now)));
            }
        }
    }

    /// Sends what is due, one command a session in turn, until all are full.
    fn fill(&mut self, options: &Options, start: Instant, now: Instant) {
        let mut sent = true;
        while std::mem::take(&mut sent) {
            for place in 0..self.ports.len() {
                let due = Self::due(options, start, self.issued).unwrap_or(now);
                if due > now {
                    return;
                }
                let port = &self.ports[place];
                if port.due.len() >= options.depth || port.session.room() == 0 {
                    continue;
                }
                if let Some(task) = self.send(place, options) {
                    self.issued += 1;
                    self.ports[place].due.insert(task, due);
                    sent = true;
                }
            }
        }
    }

    fn send(&mut self, place: usize, options: &Options) -> Option<TaskId> {
        let slot = if options.sequential {
            self.next += 1;
            self.next % self.slots
        } else {
            self.rng.u64(..self.slots)
        };
        let lba = slot * u64::from(self.blocks);
        let session = &mut self.ports[place].session;
        if options.write {
            let data = Some(self.payload.clone());
            session.send(cdb::write(lba, self.blocks, false), data, 0)
        } else {
            session.send(cdb::read(lba, self.blocks), None, options.bytes)
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn figures(mut self, options: &Options, start: Instant, now: Instant) -> Figures {
        let seconds = now.saturating_duration_since(start).as_secs_f64();
        let waiting: Vec<Instant> = self
            .ports
            .iter()
            .flat_map(|port| port.due.values().copied())
            .collect();
        let mut unfinished = waiting.len() as u64;
        if options.rate.is_some() {
            for due in waiting {
                self.record(now.saturating_duration_since(due));
            }
            while let Some(due) = Self::due(options, start, self.issued).filter(|due| *due <= now) {
                self.record(now.saturating_duration_since(due));
                self.issued += 1;
                unfinished += 1;
            }
        }
        let iops = self.answered as f64 / seconds;
        let at = |quantile| self.latencies.value_at_quantile(quantile);
        Figures {
            commands: self.answered,
            unfinished,
            seconds,
            iops,
            megabytes: iops * f64::from(options.bytes) / 1e6,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latencies.max(),
        }
    }
}

fn destination(options: &Options, place: u32) -> Destination {
    let [.., low] = place.to_be_bytes();
    let name = format!("iqn.2026-11.local.sanctum:bench-{place}");
    let mut settings = Settings::new(&name, &options.target, [0x80, 0x4c, 0x42, 0, 0, low]);
    settings.chap = options.chap.clone();
    Destination {
        portal: options.portal,
        settings,
        lun: u64::from(options.lun) << 48,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rate: u32) -> Options {
        Options {
            portal: ([127, 0, 0, 1], 3260).into(),
            target: "iqn.2026-11.test:none".to_owned(),
            lun: 0,
            chap: None,
            sessions: 1,
            depth: 4,
            rate: Some(rate),
            time: Duration::from_secs(1),
            bytes: 4096,
            span: None,
            write: false,
            sequential: false,
        }
    }

    fn any_moment() -> Instant {
        let reactor: Reactor<()> = Reactor::new(&ring::Options::default()).unwrap();
        reactor.now()
    }

    #[test]
    fn commands_are_due_at_their_rate_and_the_wait_ends_there() {
        let (options, start) = (options(3000), any_moment());
        let due = |number| Bench::due(&options, start, number).unwrap() - start;
        assert_eq!(due(0), Duration::ZERO);
        assert_eq!(due(1), Duration::from_nanos(333_333));
        assert_eq!(due(3_000_000_000), Duration::from_secs(1_000_000));
        let mut bench = Bench::new(&options, start).unwrap();
        bench.issued = 1;
        assert_eq!(bench.until_due(&options, start, start), due(1));
        let late = start + Duration::from_millis(1);
        assert_eq!(bench.until_due(&options, start, late), limits::TURN);
    }

    #[test]
    fn a_stall_shows_in_all_that_was_due() {
        // A target that takes nothing for a second: at 1000 a second, half have waited half of it.
        let (options, start) = (options(1000), any_moment());
        let bench = Bench::new(&options, start).unwrap();
        let figures = bench.figures(&options, start, start + Duration::from_secs(1));
        assert_eq!((figures.commands, figures.unfinished), (0, 1001));
        assert!((499_000..=502_000).contains(&figures.p50_us), "{figures}");
        assert!(figures.max_us >= 999_000, "{figures}");
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let now = any_moment();
        let bad = [
            Options {
                sessions: 0,
                ..options(1)
            },
            Options {
                depth: 0,
                ..options(1)
            },
            Options {
                bytes: 1000,
                ..options(1)
            },
            options(0),
        ];
        for options in bad {
            assert!(matches!(
                Bench::new(&options, now),
                Err(VerifyError::Options(_))
            ));
        }
    }
}
