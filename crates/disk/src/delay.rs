//! Decorator: seeded latency, for tests and for trying out what a slow disk does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::Io;

use crate::decorate::as_inner;
use crate::request::{Disk, Execution, OpKind, Request};

/// How long operations take longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Latency {
    /// At least this long.
    pub base: Duration,
    /// Up to this much more, evenly distributed.
    pub jitter: Duration,
}

/// A disk that answers later.
#[derive(Debug)]
pub struct Delay {
    inner: Arc<dyn Disk>,
    transfers: Latency,
    flushes: Latency,
    state: AtomicU64,
}

impl Delay {
    /// Delays flushes by `flushes` and everything else by `transfers`. The sequence of delays
    /// follows from `seed` and the order in which operations start.
    pub fn new(inner: Arc<dyn Disk>, transfers: Latency, flushes: Latency, seed: u64) -> Self {
        Self {
            inner,
            transfers,
            flushes,
            state: AtomicU64::new(seed),
        }
    }

    fn draw(&self, kind: OpKind) -> Duration {
        let latency = if kind == OpKind::Flush {
            self.flushes
        } else {
            self.transfers
        };
        let jitter = u64::try_from(latency.jitter.as_nanos()).unwrap_or(u64::MAX);
        let more = self
            .next()
            .checked_rem(jitter.saturating_add(1))
            .unwrap_or(0);
        latency.base + Duration::from_nanos(more)
    }

    /// SplitMix64: one atomic addition, then a mix of the bits.
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let z = self
            .state
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Disk for Delay {
    as_inner!();

    fn execute(&self, io: &Io, request: Request) -> Execution {
        let (inner, io, delay) = (
            Arc::clone(&self.inner),
            io.clone(),
            self.draw(request.kind()),
        );
        Box::pin(async move {
            io.sleep(delay).await;
            inner.execute(&io, request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::RamDisk;
    use crate::request::CacheMode;
    use crate::testing::Shard;

    fn delayed(seed: u64) -> Delay {
        let ram = Arc::new(RamDisk::new(1 << 20, 512, CacheMode::None).unwrap());
        let transfers = Latency {
            base: Duration::ZERO,
            jitter: Duration::from_millis(1),
        };
        let flushes = Latency {
            base: Duration::from_millis(20),
            jitter: Duration::ZERO,
        };
        Delay::new(ram, transfers, flushes, seed)
    }

    #[test]
    fn the_seed_decides() {
        let draws = |seed| {
            let delay = delayed(seed);
            (0..16)
                .map(|_| delay.draw(OpKind::Read))
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert!(
            draws(3)
                .iter()
                .all(|delay| *delay <= Duration::from_millis(1))
        );
        // The published first output of SplitMix64 for seed 0.
        assert_eq!(delayed(0).next(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn a_flush_takes_its_time() {
        let (mut shard, delay) = (Shard::any(), delayed(0));
        let start = shard.io().now();
        shard.run(&delay, Request::Flush).unwrap();
        assert!(shard.io().now() - start >= Duration::from_millis(20));
    }
}
