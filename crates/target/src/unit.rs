//! A logical unit at run time: the device under it, what is published about it, and what only the
//! control plane may change.
//!
//! Shards read [`LogicalUnit::published`] once for each step of a command and decide by it. A change
//! (reservation, mode, size, medium) is made by the control plane alone, one at a time for each unit
//! ([`LogicalUnit::durable`] is the lock): it makes a new value, writes beside the device what has to
//! last, publishes, and passes the barrier through every shard before anybody is told.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use disk::{Beside, BesideStore, Disk, FileId};
use parking_lot::Mutex;
use scsi::{Medium, Nexus, Unit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gate::Gate;
use crate::info::DeviceCounters;
use crate::limits;

/// A place among the requests to the control plane; free again when this is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// What the control plane changes under the unit's lock.
#[derive(Debug)]
pub(crate) struct Durable {
    /// Where the document lies.
    pub(crate) path: PathBuf,
    /// Only while the device is open, and held against everybody else. Before that the document may
    /// be written by whoever has it; once the unit is retired, it may be that of its successor.
    pub(crate) store: Option<BesideStore>,
    /// The document as it was read or written last.
    pub(crate) beside: Beside,
}

/// Shared by all shards and the control plane.
#[derive(Debug)]
pub(crate) struct LogicalUnit {
    /// Name of the device.
    pub(crate) name: String,
    disk: ArcSwapOption<Opened>,
    /// The image file that it has, or had last, open.
    file: Mutex<Option<FileId>>,
    published: ArcSwap<Unit>,
    /// Queue depth and ranges.
    pub(crate) gate: Gate,
    /// One change at a time.
    pub(crate) durable: Arc<tokio::sync::Mutex<Durable>>,
    /// Why the device is not ready, in words.
    trouble: Mutex<Option<String>>,
    /// Places for requests that wait for their turn or are being carried out.
    places: Arc<Semaphore>,
    /// Nexuses told by this process that their earlier writes are in doubt, and the document as it
    /// was when the device was opened; nobody is told anything before.
    doubt: Mutex<Option<Doubt>>,
    /// Aborted commands whose I/O has not ended.
    zombies: AtomicUsize,
    /// Operations of it went down with their shard: nobody will know when they end.
    lost: AtomicBool,
    stuck: AtomicBool,
    /// The medium's state before the unit was declared stuck.
    medium_before: Mutex<Option<Medium>>,
    pub(crate) counters: Counters,
}

/// Who is owed a deferred error, and who has got it.
#[derive(Debug)]
struct Doubt {
    opened: Beside,
    told: HashSet<Nexus>,
}

impl Doubt {
    fn new(opened: Beside) -> Self {
        let told = HashSet::new();
        Self { opened, told }
    }

    fn holds(&self, nexus: &Nexus) -> bool {
        self.opened.owes(&nexus.to_string()) && !self.told.contains(nexus)
    }

    fn tell(&mut self, nexus: &Nexus) {
        if self.told.len() < limits::TOLD_MAX {
            self.told.insert(nexus.clone());
        }
    }
}

#[derive(Debug)]
struct Opened(Arc<dyn Disk>);

/// Counters of a device, raised by the shards.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> DeviceCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DeviceCounters {
            reads: get(&self.reads),
            bytes_read: get(&self.bytes_read),
            writes: get(&self.writes),
            bytes_written: get(&self.bytes_written),
            errors: get(&self.errors),
        }
    }
}

/// Adds to a counter that only statistics read.
pub(crate) fn count(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl LogicalUnit {
    pub(crate) fn new(
        name: String,
        disk: Option<Arc<dyn Disk>>,
        unit: Unit,
        depth: usize,
        durable: Durable,
    ) -> Self {
        Self {
            name,
            file: Mutex::new(disk.as_ref().and_then(|disk| disk.file())),
            doubt: Mutex::new(disk.is_some().then(|| Doubt::new(durable.beside.clone()))),
            disk: ArcSwapOption::new(disk.map(|disk| Arc::new(Opened(disk)))),
            published: ArcSwap::from_pointee(unit),
            gate: Gate::new(depth),
            places: Arc::new(Semaphore::new(limits::UNIT_REQUESTS_MAX)),
            durable: Arc::new(tokio::sync::Mutex::new(durable)),
            trouble: Mutex::new(None),
            zombies: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            medium_before: Mutex::new(None),
            counters: Counters::default(),
        }
    }

    /// What holds now. Ask anew for each step of a command.
    pub(crate) fn published(&self) -> arc_swap::Guard<Arc<Unit>> {
        self.published.load()
    }

    /// Only under the unit's lock, and followed by the barrier.
    pub(crate) fn publish(&self, unit: Unit) {
        self.published.store(Arc::new(unit));
    }

    /// The device, while it is open.
    pub(crate) fn disk(&self) -> Option<Arc<dyn Disk>> {
        self.disk
            .load()
            .as_ref()
            .map(|opened| Arc::clone(&opened.0))
    }

    /// Puts a device in or takes it out.
    pub(crate) fn set_disk(&self, disk: Option<Arc<dyn Disk>>) {
        if let Some(disk) = &disk {
            *self.file.lock() = disk.file();
        }
        self.disk.store(disk.map(|disk| Arc::new(Opened(disk))));
    }

    pub(crate) fn file(&self) -> Option<FileId> {
        *self.file.lock()
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    /// A place for a request to the control plane; none when too many wait already. Who finds none
    /// answers BUSY or a failure: a unit that stalls keeps no other one waiting.
    pub(crate) fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Whether writes of this nexus from before an unclean stop of the host are in doubt, and it was
    /// not told.
    pub(crate) fn is_in_doubt(&self, nexus: &Nexus) -> bool {
        let doubt = self.doubt.lock();
        doubt.as_ref().is_some_and(|doubt| doubt.holds(nexus))
    }

    /// It was told, as its acknowledgement shows. Past the bound nexuses are not remembered: they are
    /// told once more in their next session, which does no harm.
    pub(crate) fn told(&self, nexus: &Nexus) {
        if let Some(doubt) = &mut *self.doubt.lock() {
            doubt.tell(nexus);
        }
    }

    /// The device was opened, and this is its document: whom it owes is told.
    pub(crate) fn set_doubt(&self, opened: Beside) {
        *self.doubt.lock() = Some(Doubt::new(opened));
    }

    /// Nexuses in doubt when the device was opened.
    pub(crate) fn doubtful(&self) -> usize {
        let doubt = self.doubt.lock();
        doubt
            .as_ref()
            .map_or(0, |it| crate::doubt::count(&it.opened))
    }

    /// One more aborted command whose I/O goes on.
    pub(crate) fn zombie_born(&self) {
        self.zombies.fetch_add(1, Ordering::SeqCst);
    }

    /// One has ended; `true` when it was the last and the unit was declared stuck.
    ///
    /// The last one to go looks at `stuck` after it has counted itself out, and whoever declares the
    /// unit stuck looks at the count after that. Both orders are sequentially consistent, so at least
    /// one of the two sees the other, and a unit never stays stuck with nothing under way.
    pub(crate) fn zombie_gone(&self) -> bool {
        self.zombies.fetch_sub(1, Ordering::SeqCst) == 1 && self.stuck.load(Ordering::SeqCst)
    }

    /// The shard of one that goes on is gone: it counts for good.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    pub(crate) fn zombies(&self) -> usize {
        self.zombies.load(Ordering::SeqCst)
    }

    /// Declares the unit stuck, remembering the state of its medium, or takes that back. Returns
    /// what was remembered. Only under the unit's lock.
    pub(crate) fn set_stuck(&self, medium: Option<Medium>) -> Option<Medium> {
        self.stuck.store(medium.is_some(), Ordering::SeqCst);
        std::mem::replace(&mut self.medium_before.lock(), medium)
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_bound_nexuses_are_told_again() {
        let directory = tempfile::tempdir().unwrap();
        let backing = disk::Backing::Ram {
            size: 512,
            block_size: 512,
        };
        let store = BesideStore::for_device(&backing, "ram", directory.path()).unwrap();
        let mut beside = store.load_or_create().unwrap();
        let nexus = |number: u32| Nexus::new(format!("iqn.2026-11.test:{number}"), [0; 6], 1);
        let most = u32::try_from(limits::TOLD_MAX).unwrap();
        // More than the document has names for: everybody is owed.
        for number in 0..=most {
            beside.wrote(&nexus(number).to_string(), "an earlier boot");
        }
        assert!(beside.settle("this boot"));
        let mut doubt = Doubt::new(beside);
        for number in 0..2 * most {
            assert!(doubt.holds(&nexus(number)));
            doubt.tell(&nexus(number));
        }
        assert_eq!(doubt.told.len(), limits::TOLD_MAX);
        assert!(!doubt.holds(&nexus(0)));
        assert!(doubt.holds(&nexus(2 * most)));
        assert!(doubt.holds(&nexus(most)), "not remembered, so told again");
    }
}
