//! Decorator: at most so many operations at once.
//!
//! One count over all shards. Depth 1 is the synchronous mode: one operation at a time, in the
//! order of their first polls. Past the depth operations wait, first come, first served, up to
//! [`DEPTH_WAITING_MAX`] of them; past that they are refused with [`DiskError::Busy`].

use std::sync::Arc;

use ring::{Io, Semaphore};

use crate::error::DeviceError;
use crate::limits::{DEPTH_WAITING_MAX, QUEUE_DEPTH_MAX};
use crate::request::{CacheMode, Disk, DiskError, Execution, Features, Geometry, Request};

/// A disk behind a queue of bounded depth.
#[derive(Debug)]
pub struct Depth {
    inner: Arc<dyn Disk>,
    permits: Semaphore,
    depth: u16,
    waiting_max: usize,
}

impl Depth {
    /// Lets at most `depth` operations (1 to [`QUEUE_DEPTH_MAX`]; clamped) into `inner` at once.
    pub fn new(inner: Arc<dyn Disk>, depth: u16) -> Self {
        Self::with_waiting(inner, depth, DEPTH_WAITING_MAX)
    }

    fn with_waiting(inner: Arc<dyn Disk>, depth: u16, waiting_max: usize) -> Self {
        let depth = depth.clamp(1, QUEUE_DEPTH_MAX);
        Self {
            inner,
            permits: Semaphore::new(depth.into()),
            depth,
            waiting_max,
        }
    }

    /// The depth.
    pub const fn depth(&self) -> u16 {
        self.depth
    }

    /// Operations inside now.
    pub fn in_flight(&self) -> usize {
        usize::from(self.depth).saturating_sub(self.permits.free())
    }

    /// Operations that wait to get in.
    pub fn waiting(&self) -> usize {
        self.permits.waiting()
    }
}

impl Disk for Depth {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn cache_mode(&self) -> CacheMode {
        self.inner.cache_mode()
    }

    fn execute(&self, io: &Io, request: Request) -> Execution {
        let (inner, permits, io) = (Arc::clone(&self.inner), self.permits.clone(), io.clone());
        let waiting_max = self.waiting_max;
        Box::pin(async move {
            let _permit = match permits.try_acquire() {
                Some(permit) => permit,
                // Shards that come at the same time may pass the bound by one each.
                None if permits.waiting() >= waiting_max => return Err(DiskError::Busy),
                None => permits.acquire().await,
            };
            inner.execute(&io, request).await
        })
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }

    fn set_cache_mode(&self, mode: CacheMode) -> Result<(), DeviceError> {
        self.inner.set_cache_mode(mode)
    }

    fn grow(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
        self.inner.grow(bytes)
    }

    fn flush_blocking(&self) -> Result<(), DeviceError> {
        self.inner.flush_blocking()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Action, Fault, Rule};
    use crate::ram::RamDisk;
    use crate::testing::{Shard, shards};

    #[test]
    fn one_at_a_time_and_a_bounded_queue() {
        for mut shard in shards() {
            let ram = Arc::new(RamDisk::new(1 << 20, 512, CacheMode::None).unwrap());
            let fault = Arc::new(Fault::new(ram));
            fault.add(Rule::any(Action::Stall)).unwrap();
            let inner: Arc<dyn Disk> = Arc::clone(&fault) as Arc<dyn Disk>;
            let depth = Arc::new(Depth::with_waiting(inner, 1, 2));
            for key in 0..3 {
                shard.start(key, &*depth, Request::Flush);
            }
            shard.until(|_| fault.stalled() == 1 && depth.waiting() == 2);
            assert_eq!((depth.in_flight(), depth.depth()), (1, 1));
            assert_eq!(
                shard.run(&*depth, Request::Flush).unwrap_err(),
                DiskError::Busy
            );
            fault.release();
            for key in 0..3 {
                assert!(shard.outcome(key).is_ok());
            }
            assert_eq!((depth.in_flight(), depth.waiting()), (0, 0));
        }
    }

    #[test]
    fn permits_wake_other_shards() {
        let ram = Arc::new(RamDisk::new(1 << 20, 512, CacheMode::None).unwrap());
        let depth = Arc::new(Depth::new(ram, 1));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let depth = Arc::clone(&depth);
                std::thread::spawn(move || {
                    let mut shard = Shard::any();
                    for _ in 0..500 {
                        shard.run(&*depth, Request::Flush).unwrap();
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(depth.in_flight(), 0);
    }
}
