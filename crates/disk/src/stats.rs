//! Decorator: counts, bytes, errors and latency of each kind of operation.
//!
//! Counters are relaxed atomics in a few copies, each on cache lines of its own; a thread always
//! uses the same copy. A snapshot adds the copies up; it is exact once operations have ended.
//! Latency is taken from the reactor's clock, which stands still within a turn: an operation that
//! ends in the turn it began in counts as zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ring::Io;
use serde::Serialize;

use crate::decorate::as_inner;
use crate::limits::{LATENCY_BUCKETS, STATS_STRIPES};
use crate::request::{Disk, Execution, OpKind, Request};

#[derive(Debug, Default)]
struct Cell {
    started: AtomicU64,
    ended: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; LATENCY_BUCKETS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe([Cell; OpKind::ALL.len()]);

type Counters = [Stripe; STATS_STRIPES];

/// The copy of the calling thread.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STATS_STRIPES;
    }
    MINE.with(|mine| *mine)
}

/// Figures of one kind of operation since the device was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct OpStats {
    /// Which.
    pub kind: OpKind,
    /// Operations started.
    pub started: u64,
    /// Operations ended, with or without an error. Dropped ones never end.
    pub ended: u64,
    /// Those that failed.
    pub errors: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Sum of the latencies in microseconds.
    pub micros: u64,
    /// Bucket 0: below one microsecond; bucket `n`: below 2^n and not in the one before; the last
    /// one: everything longer.
    pub buckets: [u64; LATENCY_BUCKETS],
}

/// A disk that is counted.
#[derive(Debug)]
pub struct Stats {
    inner: Arc<dyn Disk>,
    counters: Arc<Counters>,
}

impl Stats {
    /// Counts what goes into `inner`.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self {
            inner,
            counters: Arc::default(),
        }
    }

    /// The figures of all kinds, in the order of [`OpKind::ALL`].
    pub fn snapshot(&self) -> Vec<OpStats> {
        let sum = |at: usize, of: &dyn Fn(&Cell) -> &AtomicU64| {
            self.counters
                .iter()
                .map(|stripe| of(&stripe.0[at]).load(Ordering::Relaxed))
                .sum()
        };
        let one = |(at, kind): (usize, OpKind)| OpStats {
            kind,
            started: sum(at, &|cell| &cell.started),
            ended: sum(at, &|cell| &cell.ended),
            errors: sum(at, &|cell| &cell.errors),
            bytes: sum(at, &|cell| &cell.bytes),
            micros: sum(at, &|cell| &cell.micros),
            buckets: std::array::from_fn(|bucket| sum(at, &|cell| &cell.buckets[bucket])),
        };
        OpKind::ALL.into_iter().enumerate().map(one).collect()
    }

    /// Operations started and not ended, dropped ones included.
    pub fn in_flight(&self) -> u64 {
        let snapshot = self.snapshot();
        snapshot
            .iter()
            .map(|each| each.started.saturating_sub(each.ended))
            .sum()
    }
}

const fn index(kind: OpKind) -> usize {
    kind as usize
}

fn bucket(micros: u64) -> usize {
    let bits = usize::try_from(u64::BITS - micros.leading_zeros()).unwrap_or(usize::MAX);
    bits.min(LATENCY_BUCKETS - 1)
}

impl Cell {
    fn end(&self, bytes: u64, latency: Duration, failed: bool) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        } else {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Disk for Stats {
    as_inner!();

    fn execute(&self, io: &Io, request: Request) -> Execution {
        let (kind, bytes) = (request.kind(), request.bytes());
        let (counters, io_now, start) = (Arc::clone(&self.counters), io.clone(), io.now());
        let running = self.inner.execute(io, request);
        Box::pin(async move {
            let cell = &counters[stripe()].0[index(kind)];
            cell.started.fetch_add(1, Ordering::Relaxed);
            let result = running.await;
            let latency = io_now.now().saturating_duration_since(start);
            cell.end(bytes, latency, result.is_err());
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delay::{Delay, Latency};
    use crate::fault::{Action, Fault, Rule};
    use crate::ram::RamDisk;
    use crate::request::{CacheMode, DiskError};
    use crate::testing::{fill, read, shards, write};

    #[test]
    fn buckets_are_powers_of_two() {
        let buckets = [0, 1, 2, 3, 4, 1023, 1024, u64::MAX].map(bucket);
        assert_eq!(buckets, [0, 1, 2, 2, 3, 10, 11, LATENCY_BUCKETS - 1]);
        for (at, kind) in OpKind::ALL.into_iter().enumerate() {
            assert_eq!(index(kind), at);
        }
    }

    #[test]
    fn everything_is_counted() {
        for mut shard in shards() {
            let ram = Arc::new(RamDisk::new(1 << 20, 512, CacheMode::None).unwrap());
            let slow = Latency {
                base: Duration::from_millis(2),
                jitter: Duration::ZERO,
            };
            let quick = Latency {
                base: Duration::ZERO,
                jitter: Duration::ZERO,
            };
            let fault = Arc::new(Fault::new(Arc::new(Delay::new(ram, slow, quick, 0))));
            let stats = Stats::new(Arc::clone(&fault) as Arc<dyn Disk>);
            shard.run(&stats, write(0, &fill(1, 4096), false)).unwrap();
            shard.run(&stats, read(0, 512)).unwrap();
            shard.run(&stats, read(512, 512)).unwrap();
            fault
                .add(Rule::next(OpKind::Read, Action::Fail(DiskError::Gone)))
                .unwrap();
            shard.run(&stats, read(0, 512)).unwrap_err();
            let snapshot = stats.snapshot();
            let of = |kind| {
                snapshot
                    .iter()
                    .find(|each| each.kind == kind)
                    .copied()
                    .unwrap()
            };
            let (reads, writes) = (of(OpKind::Read), of(OpKind::Write));
            assert_eq!(
                (reads.started, reads.ended, reads.errors, reads.bytes),
                (3, 3, 1, 1024)
            );
            assert_eq!((writes.ended, writes.bytes), (1, 4096));
            assert!(writes.micros >= 2000);
            assert_eq!(writes.buckets[..11].iter().sum::<u64>(), 0);
            assert_eq!(reads.buckets.iter().sum::<u64>(), 3);
            assert_eq!(of(OpKind::Flush).started, 0);
            fault.add(Rule::any(Action::Stall)).unwrap();
            shard.start(5, &stats, Request::Flush);
            shard.until(|_| fault.stalled() == 1);
            assert_eq!(stats.in_flight(), 1);
            fault.release();
            shard.outcome(5).unwrap();
            assert_eq!(stats.in_flight(), 0);
        }
    }
}
