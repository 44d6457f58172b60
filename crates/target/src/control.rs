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
use scsi::change::Applied;
use scsi::{Attention, Fault, Nexus, Response};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::exports::Exports;
use crate::limits;
use crate::message::{
    Abort, ConnectionId, ControlRequest, Login, Refusal, Reply, ResetKind, ShardHandle,
    ShardMessage, UnitWork,
};
use crate::notice::Notice;
use crate::registry::{Obstacle, Registry, SessionShared};
use crate::unit::{Durable, LogicalUnit};

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
        }
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

/// Serves the requests of the shards. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shards: Arc<[ShardHandle]>,
}

impl Control {
    /// Runs until all shards are gone.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<ControlRequest>) {
        let room = Arc::new(Semaphore::new(limits::CONTROL_INBOX));
        while let Some(request) = requests.recv().await {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let control = self.clone();
            tokio::spawn(async move {
                control.serve(request).await;
                drop(place);
            });
        }
    }

    async fn serve(&self, request: ControlRequest) {
        match request {
            ControlRequest::Change {
                unit,
                nexus,
                change,
                ticket,
                reply,
            } => {
                let durable = Arc::clone(&unit.durable).lock_owned().await;
                if !ticket.begin() {
                    return;
                }
                let asked = scsi::change::apply(&unit.published(), &nexus, &change);
                let result = match asked {
                    Ok(applied) => {
                        self.note(&unit, &nexus, &applied);
                        let done = self.carry_out(&unit, durable, applied, Some(reply)).await;
                        done.map_err(Response::from)
                    }
                    Err(response) => Err(response),
                };
                self.reply(reply, result).await;
            }
            ControlRequest::Record { unit, nexus, reply } => {
                let result = self.record(&unit, nexus).await;
                self.reply(reply, result).await;
            }
            ControlRequest::Told { unit, nexus } => self.told(&unit, &nexus).await,
            ControlRequest::Reset {
                units,
                by,
                kind,
                shard,
                connection,
                tag,
            } => {
                let mut complete = true;
                for unit in units {
                    complete &= self.reset(&unit, &by, kind).await.is_ok();
                }
                let done = ShardMessage::ResetDone {
                    connection,
                    tag,
                    complete,
                };
                self.send(shard, done).await;
            }
            ControlRequest::Admit {
                shard,
                connection,
                login,
            } => {
                self.admit(shard, connection, &login).await;
            }
            ControlRequest::NexusLost { units, nexus } => {
                for unit in units {
                    let durable = Arc::clone(&unit.durable).lock_owned().await;
                    let lost = scsi::change::nexus_lost(&unit.published(), &nexus);
                    if let Some(applied) = lost {
                        // The nexus is gone; there is nobody to tell about a failure.
                        let _ = self.carry_out(&unit, durable, applied, None).await;
                    }
                }
            }
            ControlRequest::Stuck { unit } => self.stuck(&unit).await,
            ControlRequest::Recovered { unit } => self.recovered(&unit).await,
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

    async fn send(&self, shard: usize, message: ShardMessage) {
        if let Some(shard) = self.shards.get(shard) {
            shard.send(message).await;
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
        mut durable: tokio::sync::OwnedMutexGuard<Durable>,
        applied: Applied,
        asked_by: Option<Reply>,
    ) -> Result<(), Failure> {
        let before = unit.published().reservations.clone();
        if applied.persist {
            let mut beside = durable.beside.clone();
            beside.reservations = applied.unit.reservations.saved();
            beside.mode = Some(applied.unit.mode.saved);
            durable = save(durable, beside).await.map_err(|error| {
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
            unit: Arc::clone(unit),
            attentions: applied.attentions,
            abort,
            drain: reserved,
            cleared_by: None,
            asked_by,
        };
        let passed = self.barrier(work).await;
        drop(durable);
        match passed {
            Ok(()) => Ok(()),
            Err(Overdue) => {
                self.stuck(unit).await;
                Err(Failure::Overdue)
            }
        }
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
            for answer in answers {
                // A shard that is gone runs nothing any more.
                let _ = answer.await;
            }
        };
        tokio::time::timeout(self.shared.drain_time, all)
            .await
            .map_err(|_| Overdue)
    }

    async fn record(&self, unit: &Arc<LogicalUnit>, nexus: Nexus) -> Result<(), Response> {
        let durable = Arc::clone(&unit.durable).lock_owned().await;
        let mut beside = durable.beside.clone();
        let failed = |error: String| {
            tracing::error!(device = %unit.name, %error, "cannot write beside the device");
            Response::fault(Fault::Hardware, true)
        };
        let news = crate::doubt::about_to_write(&mut beside, &nexus)
            .map_err(|error| failed(crate::devices::chain(&error)))?;
        if news {
            drop(save(durable, beside).await.map_err(failed)?);
        }
        unit.recorded(nexus);
        Ok(())
    }

    async fn told(&self, unit: &Arc<LogicalUnit>, nexus: &Nexus) {
        let durable = Arc::clone(&unit.durable).lock_owned().await;
        let mut beside = durable.beside.clone();
        if beside.told(&nexus.to_string())
            && let Err(error) = save(durable, beside).await
        {
            // It will be told once more after the next start, which does no harm.
            tracing::warn!(device = %unit.name, %error, "cannot write beside the device");
        }
    }

    pub(crate) async fn reset(
        &self,
        unit: &Arc<LogicalUnit>,
        by: &Nexus,
        kind: ResetKind,
    ) -> Result<(), Overdue> {
        let durable = Arc::clone(&unit.durable).lock_owned().await;
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
            unit: Arc::clone(unit),
            attentions,
            abort: Abort::All,
            drain: false,
            cleared_by: (kind == ResetKind::ClearTaskSet).then(|| by.clone()),
            asked_by: None,
        };
        let passed = self.barrier(work).await;
        drop(durable);
        if passed.is_err() {
            self.stuck(unit).await;
        }
        passed
    }

    async fn admit(&self, shard: usize, connection: ConnectionId, login: &Login) {
        let outcome = self.admission(shard, login).await;
        self.send(
            shard,
            ShardMessage::Admitted {
                connection,
                outcome,
            },
        )
        .await;
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
        drop(durable);
        if unit.zombies() == 0 {
            self.recovered(unit).await;
        }
    }

    async fn recovered(&self, unit: &Arc<LogicalUnit>) {
        let _durable = unit.durable.lock().await;
        if unit.zombies() > 0 {
            return;
        }
        let Some(medium) = unit.set_stuck(None) else {
            return;
        };
        unit.set_trouble(None);
        let mut next = scsi::Unit::clone(&unit.published());
        next.medium = medium;
        unit.publish(next);
        self.shared.tell(Notice::DeviceReady {
            device: unit.name.clone(),
        });
    }
}

/// Writes the document beside the device on a blocking thread; the guard comes back with it.
pub(crate) async fn save(
    mut durable: tokio::sync::OwnedMutexGuard<Durable>,
    beside: disk::Beside,
) -> Result<tokio::sync::OwnedMutexGuard<Durable>, String> {
    tokio::task::spawn_blocking(move || {
        durable
            .store
            .save(&beside)
            .map_err(|error| crate::devices::chain(&error))?;
        durable.beside = beside;
        Ok(durable)
    })
    .await
    .map_err(|error| error.to_string())?
}
