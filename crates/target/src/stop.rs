//! The end: sessions, shards, and a last flush of every device; each within a bound.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::apply::blocking;
use crate::message::ShardMessage;
use crate::service::Service;
use crate::unit::LogicalUnit;

/// What had not ended when the service stopped.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unfinished {
    /// Shards that still run. What holds them is in the kernel's hands: it can keep the process.
    pub shards: usize,
    /// Devices with commands that do not end, also such as are not served any more.
    pub stuck: Vec<String>,
    /// Devices whose last flush failed or did not end, and why. What was acknowledged from their
    /// cache may not outlive a power cut.
    pub unflushed: Vec<(String, String)>,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if !self.stuck.is_empty() {
            words.push(format!("commands do not end on {}", self.stuck.join(", ")));
        }
        for (device, reason) in &self.unflushed {
            words.push(format!("{device} could not be made stable: {reason}"));
        }
        if words.is_empty() {
            words.push(format!("{} shards do not end", self.shards));
        }
        write!(
            f,
            "stopped, but not all of it came to its end: {}",
            words.join("; ")
        )
    }
}

impl std::error::Error for Unfinished {}

/// Why a device is not stable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Unstable {
    /// The flush failed, and why.
    Failed(String),
    /// It did not end within the bound.
    Overdue,
}

impl Service {
    /// Stops: no more connections, sessions ended to their last command, everything made stable.
    /// Returns within [`Options::drain_time`](crate::Options::drain_time) twice and
    /// [`Options::flush_time`](crate::Options::flush_time), whatever the disks do.
    ///
    /// # Errors
    /// [`Unfinished`]: what did not end. The threads that wait for it are left behind, and with
    /// them what they hold: the tokio runtime must be given up with a bound, too.
    pub async fn shutdown(&self) -> Result<(), Unfinished> {
        let bound = self.inner.options.drain_time;
        // A change under way comes to its end first, if it does.
        let held = timeout(bound, self.inner.operators.lock()).await;
        self.inner.stopping.store(true, Ordering::Release);
        drop(held);
        let mut left = Unfinished::default();
        if timeout(bound, self.end_shards()).await.is_err() {
            let running = self.inner.control.shards.iter();
            left.shards = running.filter(|shard| !shard.has_ended()).count();
        }
        let exports = self.shared().exports.load_full();
        let is_stuck =
            |unit: &LogicalUnit| left.shards > 0 && (unit.gate.running() > 0 || unit.zombies() > 0);
        let retired = self.inner.retired.lock().clone();
        let retired = retired.iter().filter_map(Weak::upgrade);
        let retired = retired.filter(|unit| is_stuck(unit));
        let mut stuck: Vec<String> = retired.map(|unit| unit.name.clone()).collect();
        let mut flushing = JoinSet::new();
        for (name, unit) in &exports.units {
            if is_stuck(unit) {
                stuck.push(name.clone());
                continue;
            }
            let (service, unit, name) = (self.clone(), Arc::clone(unit), name.clone());
            flushing.spawn(async move { (name, service.make_stable(&unit).await) });
        }
        while let Some(flushed) = flushing.join_next().await {
            let reason = match flushed {
                Ok((_, Ok(()))) => continue,
                Ok((name, Err(Unstable::Failed(reason)))) => (name, reason),
                Ok((name, Err(Unstable::Overdue))) => (name, "the flush does not end".to_owned()),
                Err(error) => ("a device".to_owned(), error.to_string()),
            };
            left.unflushed.push(reason);
        }
        left.unflushed.sort();
        stuck.sort();
        stuck.dedup();
        left.stuck = stuck;
        if left == Unfinished::default() {
            return Ok(());
        }
        tracing::error!(%left, "stopped");
        Err(left)
    }

    /// Asks every shard to end and waits until all have.
    async fn end_shards(&self) {
        let mut ending = JoinSet::new();
        for shard in self.inner.control.shards.iter() {
            let shard = shard.clone();
            ending.spawn(async move {
                shard.send(ShardMessage::Stop).await;
                shard.ended().await;
            });
        }
        while ending.join_next().await.is_some() {}
        // What they held is let go with their threads, which are at their last instructions now.
        let threads = std::mem::take(&mut *self.inner.threads.lock());
        let joined = blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a shard panicked");
                }
            }
        });
        if let Err(error) = joined.await {
            tracing::error!(%error, "waiting for the shards");
        }
    }

    /// Flushes a device that nobody uses any more, and notes beside it that nothing is in doubt.
    pub(crate) async fn make_stable(&self, unit: &Arc<LogicalUnit>) -> Result<(), Unstable> {
        let stable = timeout(self.inner.options.flush_time, flush(unit)).await;
        let stable = stable.unwrap_or(Err(Unstable::Overdue));
        if let Err(why) = &stable {
            tracing::error!(device = %unit.name, ?why, "the last flush");
        }
        stable
    }
}

async fn flush(unit: &Arc<LogicalUnit>) -> Result<(), Unstable> {
    let Some(disk) = unit.disk() else {
        return Ok(());
    };
    let durable = Arc::clone(&unit.durable).lock_owned().await;
    let failed = match blocking(move || disk.flush_blocking()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(crate::devices::chain(&error)),
        Err(error) => Some(error),
    };
    if let Some(reason) = failed {
        if let Err(error) = crate::control::note_lost(durable).await {
            let error = crate::devices::chain(&error);
            tracing::error!(device = %unit.name, %error, "cannot write beside the device");
        }
        return Err(Unstable::Failed(reason));
    }
    let mut beside = durable.beside.clone();
    if beside.stopped_cleanly()
        && let Err(error) = crate::control::save(durable, beside).await
    {
        let error = crate::devices::chain(&error);
        // Initiators will be told of a doubt that is none, which does no harm.
        tracing::warn!(device = %unit.name, %error, "cannot write beside the device");
    }
    Ok(())
}
