//! The control plane: everything that concerns more than one shard, as tokio tasks.
//!
//! A change of a unit's shared state goes: lock the unit's change lock → begin the ticket (or find it
//! cancelled) → compute the new value → write beside the device what must last → publish → barrier →
//! answer. If the process dies before the write is durable, nothing has happened; after it, the
//! change holds at the next start although nobody was answered, as with a power cut on any disk.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::process::{Resource, getrlimit};
use scsi::change::Applied;
use scsi::{Attention, Change, Fault, Nexus, Response};
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc, oneshot};

use crate::door::Door;
use crate::exports::Exports;
use crate::limits;
use crate::message::{
    Abort, ConnectionId, ControlRequest, Login, Refusal, Reply, ResetKind, ShardHandle,
    ShardMessage, Ticket, UnitWork,
};
use crate::notice::Notice;
use crate::registry::{Obstacle, Registry, SessionShared};
use crate::unit::{Durable, LogicalUnit, Place};

/// What shards and the control plane share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) exports: ArcSwap<Exports>,
    pub(crate) registry: Registry,
    notices: mpsc::Sender<Notice>,
    pub(crate) notices_dropped: AtomicU64,
    /// What [`Instant`] says, in one place.
    pub(crate) clock: fn() -> Instant,
    /// How long a change waits for commands that it must outlive.
    pub(crate) drain_time: Duration,
    /// Places for logins that are being decided about.
    admissions: Arc<Semaphore>,
    /// Bounds on connections that are not sessions.
    pub(crate) door: Arc<Door>,
}

impl Shared {
    pub(crate) fn new(
        exports: Exports,
        notices: mpsc::Sender<Notice>,
        clock: fn() -> Instant,
        drain_time: Duration,
    ) -> Self {
        Self {
            exports: ArcSwap::from_pointee(exports),
            registry: Registry::default(),
            notices,
            notices_dropped: AtomicU64::new(0),
            clock,
            drain_time,
            door: Arc::new(Door::new(getrlimit(Resource::Nofile).current)),
            admissions: Arc::new(Semaphore::new(limits::ADMISSIONS_MAX)),
        }
    }

    /// A place for a login that is to be decided about; none when there are too many.
    pub(crate) fn admission(&self) -> Option<Place> {
        Arc::clone(&self.admissions).try_acquire_owned().ok()
    }

    /// Tells the admin floor; never waits.
    pub(crate) fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            crate::unit::count(&self.notices_dropped, 1);
        }
    }
}

/// The commands did not end within the bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Overdue;

/// Why a change was not carried out to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The document beside the device could not be written, and why; nothing has changed.
    NotSaved(String),
    /// It is published and holds, but what it had to outlive did not end within the bound.
    Overdue,
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSaved(_) => Self::fault(Fault::Hardware, true),
            Failure::Overdue => Self::fault(Fault::NotReady, true),
        }
    }
}

/// Why the document beside a device was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// The device is not open, and so its document is not ours; or the unit is retired, and the
    /// document may be that of its successor.
    #[error("the device is not open, or not served any more")]
    Closed,
    #[error(transparent)]
    Device(#[from] disk::DeviceError),
    #[error("the write was broken off")]
    Broken(#[from] tokio::task::JoinError),
}

/// Serves the requests of the shards. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shards: Arc<[ShardHandle]>,
}

impl Control {
    /// Runs until all shards are gone. Never waits for anything but requests: each is carried out in
    /// a task of its own, and there are as many of these as there are places.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<ControlRequest>) {
        let mut next_look = tokio::time::Instant::now() + limits::TICK;
        loop {
            match tokio::time::timeout_at(next_look, requests.recv()).await {
                Ok(Some(request)) => {
                    let control = self.clone();
                    tokio::spawn(async move { control.serve(request).await });
                }
                Ok(None) => return,
                Err(_) => {
                    self.look();
                    next_look = tokio::time::Instant::now() + limits::TICK;
                }
            }
        }
    }

    /// Finds what shards could not tell, because there was no room or because they are gone: nexuses
    /// that are gone and still hold something, units that have drained, units that never will, devices
    /// that do not become well by themselves.
    fn look(&self) {
        let exports = self.shared.exports.load();
        for (device, unit) in &exports.units {
            // Whoever has the lock changes something: the next look sees what comes of it.
            if unit.durable.try_lock().is_err() {
                continue;
            }
            let mut found = Vec::new();
            if unit.is_stuck() && unit.zombies() == 0 {
                found.extend(unit.place().map(|place| ControlRequest::Recovered {
                    place,
                    unit: Arc::clone(unit),
                }));
            }
            if unit.has_lost() && !unit.is_stuck() {
                found.extend(unit.place().map(|place| ControlRequest::Stuck {
                    place,
                    unit: Arc::clone(unit),
                }));
            }
            if unit.disk().is_some_and(|disk| disk.broken().is_some()) {
                found.extend(unit.place().map(|place| ControlRequest::Broken {
                    place,
                    unit: Arc::clone(unit),
                }));
            }
            let published = unit.published();
            let holders = published.legacy.iter().chain(published.prevented.iter());
            let target = exports.exposure(device).map(|(target, _)| &target.name);
            for nexus in holders {
                if target.is_some_and(|target| self.shared.registry.has(target, nexus)) {
                    continue;
                }
                found.extend(unit.place().map(|place| ControlRequest::NexusLost {
                    place,
                    unit: Arc::clone(unit),
                    target: target.cloned().unwrap_or_default(),
                    nexus: nexus.clone(),
                }));
            }
            for request in found {
                let control = self.clone();
                tokio::spawn(async move { control.serve(request).await });
            }
        }
    }

    /// The place of a request is free again when this returns.
    async fn serve(&self, request: ControlRequest) {
        match request {
            ControlRequest::Change {
                unit,
                nexus,
                change,
                ticket,
                reply,
            } => {
                let Some((durable, _place)) = lock_for(&unit, &ticket).await else {
                    return;
                };
                let result = self.change(&unit, durable, &nexus, &change, reply).await;
                self.reply(reply, result).await;
            }
            ControlRequest::Record {
                place: _place,
                unit,
                nexus,
                shard,
            } => self.record(unit, nexus, shard).await,
            ControlRequest::Told {
                place: _place,
                unit,
                nexus,
            } => told(&unit, &nexus).await,
            ControlRequest::Broken {
                place: _place,
                unit,
            } => broken(&unit).await,
            ControlRequest::Reset {
                units,
                by,
                kind,
                shard,
                connection,
                tag,
            } => {
                let complete = self.reset_all(units, &by, kind).await;
                let done = ShardMessage::ResetDone {
                    connection,
                    tag,
                    complete,
                };
                self.send(shard, done).await;
            }
            ControlRequest::Admit {
                place: _place,
                shard,
                connection,
                login,
            } => self.admit(shard, connection, &login).await,
            ControlRequest::NexusLost {
                place: _place,
                unit,
                target,
                nexus,
            } => self.nexus_lost(&unit, &target, &nexus).await,
            ControlRequest::Stuck {
                place: _place,
                unit,
            } => self.stuck(&unit).await,
            ControlRequest::Recovered {
                place: _place,
                unit,
            } => self.recovered(&unit).await,
        }
    }

    async fn change(
        &self,
        unit: &Arc<LogicalUnit>,
        durable: OwnedMutexGuard<Durable>,
        nexus: &Nexus,
        change: &Change,
        reply: Reply,
    ) -> Result<(), Response> {
        if unit.is_stuck() {
            // It would wait for the commands that the one before has waited for in vain.
            return Err(Failure::Overdue.into());
        }
        let needs_device = !matches!(change, Change::Prevent { .. });
        let moves_medium = matches!(change, Change::LoadEject { .. });
        let stuck = unit.published().medium == scsi::Medium::Stuck;
        if needs_device && durable.store.is_none() || moves_medium && stuck {
            // Reservations are those of whoever has the device; they are read when it is opened.
            // Nor has it a medium to take out or load: only opening it makes it ready.
            return Err(Response::fault(Fault::NotReady, true));
        }
        let applied = scsi::change::apply(&unit.published(), nexus, change)?;
        self.note(unit, nexus, &applied);
        let done = self.carry_out(unit, durable, applied, Some(reply)).await;
        done.map_err(Response::from)
    }

    async fn record(&self, unit: Arc<LogicalUnit>, nexus: Nexus, shard: usize) {
        let result = record(&unit, &nexus).await;
        let done = ShardMessage::Recorded {
            unit,
            nexus,
            result,
        };
        self.send(shard, done).await;
    }

    /// What a nexus without a session held by RESERVE(6) or PREVENT goes. A nexus that has come back
    /// keeps it: perhaps it has reserved anew.
    async fn nexus_lost(&self, unit: &Arc<LogicalUnit>, target: &str, nexus: &Nexus) {
        let durable = Arc::clone(&unit.durable).lock_owned().await;
        if self.shared.registry.has(target, nexus) {
            return;
        }
        let lost = scsi::change::nexus_lost(&unit.published(), nexus);
        if let Some(applied) = lost {
            // The nexus is gone; there is nobody to tell about a failure.
            let _ = self.carry_out(unit, durable, applied, None).await;
        }
    }

    fn note(&self, unit: &LogicalUnit, nexus: &Nexus, applied: &Applied) {
        let preempted = applied.attentions.iter().any(|(_, attention)| {
            matches!(
                attention,
                Attention::ReservationsPreempted | Attention::RegistrationsPreempted
            )
        });
        if preempted {
            self.shared.tell(Notice::ReservationPreempted {
                device: unit.name.clone(),
                initiator: nexus.initiator.to_string(),
            });
        }
    }

    /// `false`: the shard is gone.
    async fn send(&self, shard: usize, message: ShardMessage) -> bool {
        match self.shards.get(shard) {
            Some(shard) => shard.send(message).await,
            None => false,
        }
    }

    async fn reply(&self, to: Reply, result: Result<(), Response>) {
        self.send(
            to.shard,
            ShardMessage::Changed {
                key: to.key,
                result,
            },
        )
        .await;
    }

    /// Persists, publishes, passes the barrier.
    pub(crate) async fn carry_out(
        &self,
        unit: &Arc<LogicalUnit>,
        mut durable: OwnedMutexGuard<Durable>,
        applied: Applied,
        asked_by: Option<Reply>,
    ) -> Result<(), Failure> {
        let before = unit.published().reservations.clone();
        if applied.persist {
            let mut beside = durable.beside.clone();
            beside.reservations = applied.unit.reservations.saved();
            beside.mode = Some(applied.unit.mode.saved);
            durable = save(durable, beside).await.map_err(|error| {
                let error = crate::devices::chain(&error);
                tracing::error!(device = %unit.name, %error, "cannot write beside the device");
                Failure::NotSaved(error)
            })?;
        }
        let reserved = !Arc::ptr_eq(&before, &applied.unit.reservations);
        let abort = match applied.abort {
            nexuses if nexuses.is_empty() => Abort::None,
            nexuses => Abort::Nexuses(nexuses),
        };
        unit.publish(applied.unit);
        let work = UnitWork {
            attentions: applied.attentions,
            abort,
            drain: reserved,
            asked_by,
            ..UnitWork::new(unit)
        };
        let passed = self.barrier(work).await;
        if passed.is_err() {
            self.declare_stuck(unit, &durable);
        }
        passed.map_err(|Overdue| Failure::Overdue)
    }

    /// The unit's lock, for those that must not wait for a disk that may never answer: whoever has
    /// the lock can be writing beside the device.
    pub(crate) async fn locked(
        &self,
        unit: &LogicalUnit,
    ) -> Result<OwnedMutexGuard<Durable>, Overdue> {
        let lock = Arc::clone(&unit.durable).lock_owned();
        let locked = tokio::time::timeout(self.shared.drain_time, lock).await;
        locked.map_err(|_| Overdue)
    }

    /// Passes through every shard. In each, from then on, every check is made against what is
    /// published now; the answer comes when what had to end has ended.
    pub(crate) async fn barrier(&self, work: UnitWork) -> Result<(), Overdue> {
        let work = Arc::new(work);
        let mut answers = Vec::with_capacity(self.shards.len());
        for shard in self.shards.iter() {
            let (done, answer) = oneshot::channel();
            shard
                .send(ShardMessage::Work {
                    work: Arc::clone(&work),
                    done,
                })
                .await;
            answers.push(answer);
        }
        let all = async {
            let mut gone = false;
            for answer in answers {
                gone |= answer.await.is_err();
            }
            // A shard that is gone starts nothing any more; what it had on the disk may go on, and
            // was marked before its answer was given up.
            if gone && work.unit.has_lost() {
                return Err(Overdue);
            }
            Ok(())
        };
        tokio::time::timeout(self.shared.drain_time, all)
            .await
            .unwrap_or(Err(Overdue))
    }

    /// Resets units beside each other; whether all of them are done.
    async fn reset_all(
        &self,
        units: Vec<(Arc<LogicalUnit>, Place)>,
        by: &Nexus,
        kind: ResetKind,
    ) -> bool {
        let mut resets = tokio::task::JoinSet::new();
        for (unit, place) in units {
            let (control, by) = (self.clone(), by.clone());
            resets.spawn(async move {
                let _place = place;
                control.reset(&unit, &by, kind).await.is_ok()
            });
        }
        let mut complete = true;
        while let Some(done) = resets.join_next().await {
            complete &= done.unwrap_or(false);
        }
        complete
    }

    async fn reset(
        &self,
        unit: &Arc<LogicalUnit>,
        by: &Nexus,
        kind: ResetKind,
    ) -> Result<(), Overdue> {
        let durable = self.locked(unit).await?;
        if unit.is_stuck() {
            return Err(Overdue);
        }
        let attentions = match kind {
            ResetKind::ClearTaskSet => Vec::new(),
            ResetKind::Unit => {
                let applied = scsi::change::reset(&unit.published(), Some(by));
                unit.publish(applied.unit);
                self.shared.tell(Notice::LunReset {
                    device: unit.name.clone(),
                    initiator: by.initiator.to_string(),
                });
                applied.attentions
            }
        };
        let work = UnitWork {
            attentions,
            abort: Abort::All,
            cleared_by: (kind == ResetKind::ClearTaskSet).then(|| by.clone()),
            ..UnitWork::new(unit)
        };
        let passed = self.barrier(work).await;
        if passed.is_err() {
            self.declare_stuck(unit, &durable);
        }
        passed
    }

    async fn admit(&self, shard: usize, connection: ConnectionId, login: &Login) {
        let outcome = self.admission(shard, login).await;
        let admitted = outcome.as_ref().map_or(0, |session| session.tsih);
        let message = ShardMessage::Admitted {
            connection,
            outcome,
        };
        if !self.send(shard, message).await {
            // The shard is gone, and nobody opens the session.
            self.shared.registry.remove(admitted);
        }
    }

    async fn admission(&self, shard: usize, login: &Login) -> Result<Arc<SessionShared>, Refusal> {
        let nexus = Nexus::new(login.initiator.as_str(), login.isid, login.portal.group);
        let until = tokio::time::Instant::now() + self.shared.drain_time;
        loop {
            let exports = self.shared.exports.load_full();
            let target = exports.target(&login.target).ok_or(Refusal::NotFound)?;
            exports.luns_for(login)?;
            let now = (self.shared.clock)();
            let exclusive = !target.allow_multiple;
            match self
                .shared
                .registry
                .admit(login, &nexus, shard, exclusive, now)
            {
                // Its LUNs are looked up by the shard, in the turn that opens it: only so can no
                // change of the configuration slip in between.
                Ok(session) => return Ok(session),
                Err(Obstacle::Refused(refusal)) => return Err(refusal),
                Err(Obstacle::Old(old, ended)) => {
                    let reason = "the initiator logged in again with the same ISID";
                    self.send(
                        old.shard,
                        ShardMessage::End {
                            tsih: old.tsih,
                            reason,
                        },
                    )
                    .await;
                    tokio::time::timeout_at(until, ended)
                        .await
                        .map_or(Err(Refusal::Stuck), |_| Ok(()))?;
                }
            }
        }
    }

    /// Ends a session and waits until its last command has ended.
    pub(crate) async fn end_session(
        &self,
        tsih: u16,
        shard: usize,
        reason: &'static str,
    ) -> Result<(), Overdue> {
        let ended = self.shared.registry.ended(tsih);
        self.send(shard, ShardMessage::End { tsih, reason }).await;
        tokio::time::timeout(self.shared.drain_time, ended)
            .await
            .map(|_| ())
            .map_err(|_| Overdue)
    }

    async fn stuck(&self, unit: &Arc<LogicalUnit>) {
        let durable = unit.durable.lock().await;
        self.declare_stuck(unit, &durable);
    }

    pub(crate) fn declare_stuck(&self, unit: &LogicalUnit, durable: &Durable) {
        if unit.is_stuck() {
            return;
        }
        unit.set_trouble(Some("commands on the disk do not end".to_owned()));
        let mut next = scsi::Unit::clone(&unit.published());
        unit.set_stuck(Some(next.medium));
        next.medium = scsi::Medium::Stuck;
        unit.publish(next);
        self.shared.tell(Notice::DeviceStuck {
            device: unit.name.clone(),
        });
        // No barrier: nothing was promised that a shard could break. What drained meanwhile is over.
        self.declare_recovered(unit, durable);
    }

    async fn recovered(&self, unit: &Arc<LogicalUnit>) {
        let durable = unit.durable.lock().await;
        self.declare_recovered(unit, &durable);
    }

    /// Only under the unit's lock.
    fn declare_recovered(&self, unit: &LogicalUnit, _durable: &Durable) {
        if unit.zombies() > 0 {
            return;
        }
        let Some(medium) = unit.set_stuck(None) else {
            return;
        };
        // One that was being opened anew is as far as it was, and not ready.
        let trouble = (medium == scsi::Medium::Stuck).then_some("its commands have ended; load it");
        unit.set_trouble(trouble.map(str::to_owned));
        let mut next = scsi::Unit::clone(&unit.published());
        next.medium = medium;
        unit.publish(next);
        if medium == scsi::Medium::Present {
            self.shared.tell(Notice::DeviceReady {
                device: unit.name.clone(),
            });
        }
    }
}

/// The unit's lock for a request whose turn has come; `None` when it was cancelled meanwhile.
async fn lock_for(
    unit: &LogicalUnit,
    ticket: &Ticket,
) -> Option<(OwnedMutexGuard<Durable>, Place)> {
    tokio::select! {
        durable = Arc::clone(&unit.durable).lock_owned() => Some((durable, ticket.begin()?)),
        () = ticket.cancelled() => None,
    }
}

async fn record(unit: &LogicalUnit, nexus: &Nexus) -> Result<(), Response> {
    let durable = Arc::clone(&unit.durable).lock_owned().await;
    if durable.store.is_none() {
        // What is remembered is not what lies beside the device any more.
        return Err(Response::fault(Fault::NotReady, true));
    }
    let mut beside = durable.beside.clone();
    let failed = |error: String| {
        tracing::error!(device = %unit.name, %error, "cannot write beside the device");
        Response::fault(Fault::Hardware, true)
    };
    let news = crate::doubt::about_to_write(&mut beside, nexus)
        .map_err(|error| failed(crate::devices::chain(&error)))?;
    if !news {
        return Ok(());
    }
    match save(durable, beside).await {
        Ok(_) => Ok(()),
        // Its writes were ended with it.
        Err(SaveError::Closed) => Err(Response::fault(Fault::NotReady, true)),
        Err(error) => Err(failed(crate::devices::chain(&error))),
    }
}

/// Once the process has ended nobody could tell that a flush had failed: the next one, of a device
/// that was opened anew, would succeed. So who wrote is noted as in doubt before that.
async fn broken(unit: &LogicalUnit) {
    let durable = Arc::clone(&unit.durable).lock_owned().await;
    if let Err(error) = note_lost(durable).await {
        let error = crate::devices::chain(&error);
        tracing::error!(device = %unit.name, %error, "cannot write beside the device");
    }
}

/// Notes what a device whose cache is lost owes to initiators.
pub(crate) async fn note_lost(
    durable: OwnedMutexGuard<Durable>,
) -> Result<OwnedMutexGuard<Durable>, SaveError> {
    let mut beside = durable.beside.clone();
    if crate::doubt::lost(&mut beside) {
        return save(durable, beside).await;
    }
    Ok(durable)
}

async fn told(unit: &LogicalUnit, nexus: &Nexus) {
    let durable = Arc::clone(&unit.durable).lock_owned().await;
    let mut beside = durable.beside.clone();
    if !beside.told(&nexus.to_string()) {
        return;
    }
    match save(durable, beside).await {
        // It is told once more when the device is opened anew, which does no harm.
        Ok(_) | Err(SaveError::Closed) => {}
        // It will be told once more after the next start, which does no harm either.
        Err(error) => {
            let error = crate::devices::chain(&error);
            tracing::warn!(device = %unit.name, %error, "cannot write beside the device");
        }
    }
}

/// Writes the document beside the device on a blocking thread; the guard comes back with it.
pub(crate) async fn save(
    mut durable: OwnedMutexGuard<Durable>,
    beside: disk::Beside,
) -> Result<OwnedMutexGuard<Durable>, SaveError> {
    tokio::task::spawn_blocking(move || {
        let store = durable.store.as_ref().ok_or(SaveError::Closed)?;
        store.save(&beside)?;
        durable.beside = beside;
        Ok(durable)
    })
    .await?
}

/// The last act on a unit that is not served any more. Whoever comes late with something to write
/// is refused ([`SaveError::Closed`]), for the document may be that of its successor by then. The
/// device is let go after that: while an earlier write of the document does not end, an image is
/// still locked and nobody opens it anew.
pub(crate) async fn close(unit: Arc<LogicalUnit>) {
    let mut durable = unit.durable.lock().await;
    durable.store = None;
    unit.set_disk(None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backing, Config, Device};
    use crate::service::ServiceError::Stuck;
    use crate::{Options, Secrets, Service};

    async fn start(directory: &std::path::Path, config: &Config) -> Service {
        let soon = Duration::from_millis(300);
        let options = Options {
            shards: 1,
            drain_time: soon,
            flush_time: soon,
            ..Options::new(directory)
        };
        let (sender, _notices) = mpsc::channel(100);
        let started = Service::start(options, config.clone(), Secrets::new(), sender);
        started.await.unwrap()
    }

    fn served() -> Config {
        let (size, block_size) = (1 << 20, 512);
        let device = Device::new("a", Backing::Ram { size, block_size });
        Config {
            devices: vec![device],
            ..Config::default()
        }
    }

    fn nexus(number: u8) -> Nexus {
        let name = format!("iqn.2026-11.test:{number}");
        Nexus::new(name, [0x80, 0, 0, 0, 0, number], 1)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_comes_late_does_not_write_the_document_of_a_successor() {
        let directory = tempfile::tempdir().unwrap();
        let config = served();
        let service = start(directory.path(), &config).await;
        let apply = |config: &Config| service.apply(config.clone(), Secrets::new());
        let old = service.unit("a").unwrap();
        let mut durable = old.durable.lock().await;
        let path = durable.store.as_ref().unwrap().path().to_path_buf();
        durable
            .beside
            .wrote(&nexus(1).to_string(), "an earlier boot");
        assert!(durable.beside.settle("this boot"));
        drop(durable);
        apply(&Config::default()).await.unwrap();
        apply(&config).await.unwrap();
        let new = service.unit("a").unwrap();
        assert!(!Arc::ptr_eq(&old, &new));
        record(&new, &nexus(2)).await.unwrap();
        let document = std::fs::read(&path).unwrap();
        told(&old, &nexus(1)).await;
        assert!(record(&old, &nexus(3)).await.is_err());
        let durable = Arc::clone(&old.durable).lock_owned().await;
        let beside = durable.beside.clone();
        let late = save(durable, beside).await;
        assert!(matches!(late, Err(SaveError::Closed)), "{late:?}");
        assert_eq!(std::fs::read(&path).unwrap(), document);
        // The successor's own notes are written.
        record(&new, &nexus(3)).await.unwrap();
        assert_ne!(std::fs::read(&path).unwrap(), document);
        service.shutdown().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_document_whose_last_write_is_overdue_is_closed_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let service = start(directory.path(), &served()).await;
        let unit = service.unit("a").unwrap();
        let writing = Arc::clone(&unit.durable).lock_owned().await;
        let overdue = service.apply(Config::default(), Secrets::new()).await;
        assert!(matches!(overdue, Err(Stuck { .. })), "{overdue:?}");
        assert!(
            unit.disk().is_some(),
            "let go before its document is closed"
        );
        drop(writing);
        assert!(unit.durable.lock().await.store.is_none());
        assert!(unit.disk().is_none());
        service.shutdown().await.unwrap();
    }
}
