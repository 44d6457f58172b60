//! What an operator asks of one device: load, eject, clear its reservations.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use disk::{Beside, BesideStore, DeviceError, Disk, Geometry};
use scsi::change::{Applied, Selector};
use scsi::{Attention, Medium, Unit};
use tokio::time::timeout;

use crate::apply::{Ready, blocking, device_error, device_failed, nothing, to_the_end};
use crate::config::{Backing, Config, Device};
use crate::control::{Failure, Overdue};
use crate::devices;
use crate::exports::Exports;
use crate::limits;
use crate::listeners::Listeners;
use crate::message::UnitWork;
use crate::notice::Notice;
use crate::opening::Patience;
use crate::provision::Fault;
use crate::service::{self, Service, ServiceError, failed, not_switched};
use crate::unit::{Durable, LogicalUnit};

/// What became of a device that is loaded by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waiting {
    /// It is loaded, or nobody waits for it any more.
    Over,
    /// To be tried again.
    Still,
}

impl Service {
    /// Brings a device back that was not ready, accepts a RAM disk whose contents ended with an
    /// earlier process as blank, loads the medium of a removable device, or takes the new size of a
    /// physical disk that has grown. A device that is gone, or whose flush has failed, is opened anew:
    /// initiators that wrote into its cache are told that their writes may be lost before a flush of
    /// theirs succeeds. Where there is nothing to do, nobody is told anything.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Device`] with what is still wrong,
    /// [`ServiceError::LoadFailed`] where it was served up to now,
    /// [`ServiceError::NotSwitched`] where an earlier change of it does not end,
    /// [`ServiceError::Stuck`] where the device is loaded but commands did not end.
    pub async fn load_device(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        to_the_end(async move {
            let mut held = service.inner.operators.lock().await;
            Box::pin(service.load_alone(&name, &mut held, None)).await
        })
        .await
    }

    /// Loads what was not open at the start and still waits. What an operator or an initiator has
    /// ejected meanwhile stays so, and a RAM disk is never accepted as blank without being asked.
    /// Nobody waits for the disk: it is opened before the turn among operators is taken.
    pub(crate) async fn load_if_waiting(&self, name: &str) -> Result<Waiting, ServiceError> {
        let Some(device) = self.waiting(name) else {
            return Ok(Waiting::Over);
        };
        let disk = match self.open_disk(&device, Patience::None).await {
            Ok(disk) => disk,
            Err(reason) if reason.may_pass() => return Ok(Waiting::Still),
            Err(reason) => return Err(reason.of(&device)),
        };
        let service = self.clone();
        to_the_end(async move {
            let turn = service.inner.operators.lock();
            let Ok(mut held) = timeout(limits::OPERATORS_PATIENCE, turn).await else {
                return Ok(Waiting::Still);
            };
            match service.waiting(&device.name) {
                Some(now) if now == device => {}
                Some(_) => return Ok(Waiting::Still),
                None => return Ok(Waiting::Over),
            }
            let loaded = service.load_alone(&device.name, &mut held, Some(disk));
            match Box::pin(loaded).await {
                Ok(()) => Ok(Waiting::Over),
                // Neither says anything of the device for good.
                Err(ServiceError::NotSwitched { .. } | ServiceError::Stuck { .. }) => {
                    Ok(Waiting::Still)
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// A device that was not open at the start and still is not, unless somebody has ejected it.
    fn waiting(&self, name: &str) -> Option<Device> {
        let exports = self.shared().exports.load_full();
        let waits = match exports.units.get(name) {
            Some(unit) => unit.disk().is_none() && unit.published().medium == Medium::Stuck,
            None => exports.failed.contains_key(name),
        };
        if !waits || self.inner.stopping.load(Ordering::Acquire) {
            return None;
        }
        exports.config.device(name).cloned()
    }

    /// `opened`: nobody has asked; it was opened by itself.
    async fn load_alone(
        &self,
        name: &str,
        held: &mut Listeners,
        opened: Option<Arc<dyn Disk>>,
    ) -> Result<(), ServiceError> {
        let exports = self.shared().exports.load_full();
        let Some(device) = exports.config.device(name) else {
            return Err(ServiceError::NotFound {
                what: "device",
                name: name.to_owned(),
            });
        };
        let Some(unit) = exports.units.get(name) else {
            return self.load_anew(&exports, device, opened, held).await;
        };
        let asked = opened.is_none();
        let mut told = Ok(());
        let mut was_open = false;
        match unit.disk() {
            Some(disk) if disk.broken().is_none() => {
                if matches!(device.backing, Backing::Block { .. }) {
                    self.take_size(unit, device, disk).await?;
                }
            }
            broken => {
                if broken.is_some() {
                    drop(broken);
                    self.let_go(unit).await?;
                    was_open = true;
                }
                told = self.reopen(unit, device, opened).await;
            }
        }
        if unit.disk().is_none() {
            return match told {
                Err(error) => Err(self.not_loaded(unit, error, was_open)),
                Ok(()) => Ok(()),
            };
        }
        if asked {
            self.accept_contents(unit, device).await?;
        } else if unit.published().medium == Medium::Absent {
            unit.set_trouble(None);
            return told;
        }
        let ready = unit.published().medium == Medium::Present;
        if !ready {
            self.change_medium(unit, Medium::Present).await?;
        }
        if !ready || unit.trouble().is_some() {
            unit.set_trouble(None);
            self.tell_ready(name);
        }
        told
    }

    /// It has no disk, and says why. One that had one up to now is told as failed.
    fn not_loaded(&self, unit: &LogicalUnit, error: ServiceError, was_open: bool) -> ServiceError {
        let reason = match &error {
            ServiceError::Device { reason, .. } => reason.clone(),
            _ if was_open => "an earlier change of it does not end".to_owned(),
            _ => return error,
        };
        unit.set_trouble(Some(reason.clone()));
        if !was_open {
            return error;
        }
        self.tell_failed(&unit.name, &reason);
        ServiceError::LoadFailed {
            device: unit.name.clone(),
            reason,
        }
    }

    fn tell_ready(&self, name: &str) {
        self.shared().tell(Notice::DeviceReady {
            device: name.to_owned(),
        });
    }

    /// A device that had not even an identity: as if the configuration came anew.
    async fn load_anew(
        &self,
        exports: &Exports,
        device: &Device,
        opened: Option<Arc<dyn Disk>>,
        held: &mut Listeners,
    ) -> Result<(), ServiceError> {
        let config = Config::clone(&exports.config);
        let others = exports.units.values();
        let unit = match opened {
            Some(disk) => self.adopt_device(&config, device, disk, others).await?,
            None => {
                let unit = self
                    .open_device(&config, device, others, Patience::Some)
                    .await;
                unit.map_err(|reason| device_error(device, reason))?
            }
        };
        let trouble = unit.trouble();
        let mut ready = Ready::default();
        ready.units.insert(device.name.clone(), unit);
        ready.failed = exports.failed.clone();
        ready.failed.remove(&device.name);
        self.publish(config, exports.secrets.clone(), ready, held)
            .await?;
        // With an identity it is shown to initiators, but as one that is not ready.
        if let Some(reason) = trouble {
            return Err(device_error(device, reason));
        }
        self.tell_ready(&device.name);
        Ok(())
    }

    /// A disk that is gone, or whose flush has failed, is closed: only opened anew does it serve again,
    /// and only then can a flush be believed. What was acknowledged from its cache may be lost. That
    /// is written down first, while the device is still held: whoever wrote is told, and neither a
    /// kill nor a device that does not open makes anybody forget it.
    async fn let_go(&self, unit: &Arc<LogicalUnit>) -> Result<(), ServiceError> {
        let overdue = || not_switched(&unit.name);
        let control = &self.inner.control;
        let mut durable = control.locked(unit).await.map_err(|Overdue| overdue())?;
        if unit.is_stuck() {
            return Err(overdue());
        }
        let noting = crate::control::note_lost(durable);
        let noted = timeout(self.shared().drain_time, noting).await;
        durable = noted.map_err(|_| overdue())?.map_err(|error| {
            let reason = Failure::NotSaved(devices::chain(&error));
            failed(&unit.name, reason)
        })?;
        unit.set_trouble(Some("it is being opened anew".to_owned()));
        let mut next = Unit::clone(&unit.published());
        next.medium = Medium::Stuck;
        unit.publish(next);
        let drained = control.barrier(UnitWork {
            drain: true,
            ..UnitWork::new(unit)
        });
        if drained.await.is_err() {
            control.declare_stuck(unit, &durable);
            return Err(ServiceError::LoadFailed {
                device: unit.name.clone(),
                reason: "commands on the disk do not end".to_owned(),
            });
        }
        durable.store = None;
        unit.set_disk(None);
        Ok(())
    }

    /// Takes what was opened, with what lies beside it now: while it was not open, somebody else may
    /// have had it. The document is read, and written, while the device is held.
    async fn reopen(
        &self,
        unit: &Arc<LogicalUnit>,
        device: &Device,
        opened: Option<Arc<dyn Disk>>,
    ) -> Result<(), ServiceError> {
        let disk = match opened {
            Some(disk) => disk,
            None => {
                let disk = self.open_disk(device, Patience::Some).await;
                disk.map_err(|reason| reason.of(device))?
            }
        };
        fits(&unit.published(), disk.geometry(), device)?;
        let durable = self.inner.control.locked(unit).await;
        let durable = durable.map_err(|Overdue| not_switched(&device.name))?;
        let (backed, data_dir) = (device.clone(), self.inner.options.data_dir.clone());
        let claim = Arc::clone(&disk);
        let taking = blocking(move || {
            let taken = take_document(&backed, &data_dir, &durable);
            drop(claim);
            (durable, taken)
        });
        let taken = timeout(self.shared().drain_time, taking).await;
        let taken = taken.map_err(|_| not_switched(&device.name))?;
        let failed = |reason| device_error(device, reason);
        let (mut durable, taken) = taken.map_err(failed)?;
        let Taken {
            store,
            beside,
            is_as_known,
            is_empty,
        } = taken.map_err(failed)?;
        let now = Arc::clone(&unit.published());
        let geometry = disk.geometry();
        let blocks = devices::blocks(geometry, device);
        let mut applied = if (now.blocks, now.block_size) == (blocks, geometry.block_size) {
            nothing(&now)
        } else {
            scsi::change::resize(&now, blocks)
        };
        applied.unit.block_size = geometry.block_size;
        devices::adopt_features(&mut applied.unit, disk.as_ref(), device);
        if !is_as_known {
            devices::restore(&mut applied.unit, &beside);
            tell_restored(&now, &mut applied);
        }
        if is_empty {
            applied.unit.medium = Medium::Absent;
        }
        unit.set_doubt(beside.clone());
        // While nobody reaches the disk: no flush may succeed before who wrote is told, and nobody
        // write whom this document does not name.
        let work = UnitWork {
            doubt: true,
            ..UnitWork::new(unit)
        };
        let told = self.inner.control.barrier(work).await;
        told.map_err(|Overdue| not_switched(&device.name))?;
        durable.beside = beside;
        durable.store = Some(store);
        let published = self.carry_out(unit, durable, applied).await;
        // Not before every shard goes by the reservations that hold.
        unit.set_disk(Some(disk));
        self.tell_doubt(unit);
        published.map_err(|failure| service::failed(&device.name, failure))
    }

    /// A physical disk, or the volume under it, may have grown.
    async fn take_size(
        &self,
        unit: &Arc<LogicalUnit>,
        device: &Device,
        disk: Arc<dyn Disk>,
    ) -> Result<(), ServiceError> {
        let taken = self.open_alone(device, move |_| disk.grow(None)).await;
        let geometry = match taken.map_err(|reason| reason.of(device))? {
            Ok(geometry) => geometry,
            Err(DeviceError::Shrink { have, want, .. }) => {
                return Err(device_error(device, shrunk(have, want)));
            }
            Err(error) => return Err(device_failed(device, &error)),
        };
        let blocks = devices::blocks(geometry, device);
        if unit.published().blocks == blocks {
            return Ok(());
        }
        // It has grown, whether or not commands that it had to wait for have ended.
        let told = self.change_unit(unit, |unit| scsi::change::resize(unit, blocks));
        let told = told.await;
        self.shared().tell(Notice::DeviceGrown {
            device: device.name.clone(),
            bytes: geometry.bytes(),
        });
        told
    }

    /// A RAM disk's contents are this process's from now on.
    async fn accept_contents(
        &self,
        unit: &Arc<LogicalUnit>,
        device: &Device,
    ) -> Result<(), ServiceError> {
        if unit.published().medium != Medium::Absent {
            return Ok(());
        }
        let failed = |reason| device_error(device, reason);
        let durable = self.inner.control.locked(unit).await;
        let durable = durable.map_err(|Overdue| not_switched(&device.name))?;
        let mut beside = durable.beside.clone();
        beside.loaded(devices::process().map_err(failed)?);
        self.save(durable, beside).await.map_err(failed)
    }

    /// Takes the medium of a removable device out, whatever initiators say.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Device`] where it is not removable,
    /// [`ServiceError::NotSwitched`] while commands on the disk, or an earlier change of it, do
    /// not end.
    pub async fn eject_device(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        to_the_end(async move {
            let _alone = service.inner.operators.lock().await;
            let unit = service.unit(&name)?;
            if !unit.published().removable {
                let reason = "its medium cannot be taken out; the device is not removable";
                return Err(ServiceError::Device {
                    device: name,
                    reason: reason.to_owned(),
                    fault: Fault::Other,
                });
            }
            service.change_medium(&unit, Medium::Ejected).await
        })
        .await
    }

    /// Removes all persistent reservations and registrations of a device.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Device`] where that cannot be written down
    /// (nothing has changed then), [`ServiceError::NotSwitched`], [`ServiceError::Stuck`].
    pub async fn clear_reservations(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        to_the_end(async move {
            let _alone = service.inner.operators.lock().await;
            let unit = service.unit(&name)?;
            let clear = scsi::change::clear_reservations;
            service.change_unit(&unit, clear).await
        })
        .await
    }

    /// The state of a unit that is stuck is kept for when it is not: it must not be overwritten.
    async fn change_medium(
        &self,
        unit: &Arc<LogicalUnit>,
        medium: Medium,
    ) -> Result<(), ServiceError> {
        let durable = self.inner.control.locked(unit).await;
        let durable = durable.map_err(|Overdue| not_switched(&unit.name))?;
        if unit.is_stuck() {
            return Err(not_switched(&unit.name));
        }
        let now = Arc::clone(&unit.published());
        let applied = if now.medium == medium {
            nothing(&now)
        } else {
            scsi::change::medium(&now, medium)
        };
        let published = self.carry_out(unit, durable, applied).await;
        published.map_err(|failure| failed(&unit.name, failure))
    }

    /// Makes a change of one unit: persists, publishes, passes the barrier.
    async fn change_unit(
        &self,
        unit: &Arc<LogicalUnit>,
        change: impl FnOnce(&Unit) -> scsi::change::Applied + Send,
    ) -> Result<(), ServiceError> {
        let durable = self.inner.control.locked(unit).await;
        let durable = durable.map_err(|Overdue| not_switched(&unit.name))?;
        let applied = change(&unit.published());
        let published = self.carry_out(unit, durable, applied).await;
        published.map_err(|failure| failed(&unit.name, failure))
    }
}

/// What lies beside a device that was opened.
struct Taken {
    store: BesideStore,
    beside: Beside,
    /// Nobody has changed it since this unit read or wrote it last: what the unit knows beyond it,
    /// reservations that end with the power, holds on.
    is_as_known: bool,
    /// It is a RAM disk whose contents ended with another process.
    is_empty: bool,
}

/// Reads the document beside a device that is open, and makes it that of this process. Blocks.
fn take_document(device: &Device, data_dir: &Path, known: &Durable) -> Result<Taken, String> {
    let chain = |error: DeviceError| devices::chain(&error);
    let store = BesideStore::for_device(&device.backing, &device.name, data_dir).map_err(chain)?;
    let found = store.load().map_err(chain)?;
    let is_same = |found: &Beside| found.naa == known.beside.naa;
    if store.path() != known.path || !found.as_ref().is_none_or(is_same) {
        return Err(
            "it is another disk than the one that initiators know; put the right one back, \
                    or remove the device and add it anew"
                .to_owned(),
        );
    }
    let Some(mut beside) = found else {
        return Err(format!(
            "its document {} is gone, and with it its identity and reservations; put it back, or \
             remove the device and add it anew",
            known.path.display()
        ));
    };
    let is_as_known = beside == known.beside;
    if devices::take_over(device, &mut beside)? {
        store.save(&beside).map_err(chain)?;
    }
    Ok(Taken {
        is_empty: devices::is_empty(device, &beside)?,
        store,
        beside,
        is_as_known,
    })
}

/// Who is not registered any more is told so, and everybody of other mode pages.
fn tell_restored(before: &Unit, applied: &mut Applied) {
    let now = &applied.unit;
    let registrations = before.reservations.registrations();
    let gone = registrations.filter(|(nexus, _)| !now.reservations.is_registered(nexus));
    let gone = gone.map(|(nexus, _)| Selector::Nexus(nexus.clone()));
    let mut news: Vec<_> = gone
        .map(|one| (one, Attention::RegistrationsPreempted))
        .collect();
    if now.mode != before.mode {
        news.push((Selector::All, Attention::ModeChanged));
    }
    applied.attentions.extend(news);
}

/// Whether what was found in place of a device can be the disk that initiators know. Before it was
/// ever opened they know none.
fn fits(known: &Unit, found: Geometry, device: &Device) -> Result<(), ServiceError> {
    if known.blocks == 0 {
        return Ok(());
    }
    if known.block_size != found.block_size {
        let reason = format!(
            "it has blocks of {} bytes, and had blocks of {}: it is another disk; put the right one \
             back, or remove the device and add it anew",
            found.block_size, known.block_size
        );
        return Err(device_error(device, reason));
    }
    let (had, has) = (
        known.blocks * u64::from(known.block_size),
        devices::blocks(found, device) * u64::from(found.block_size),
    );
    if has < had {
        return Err(device_error(device, shrunk(had, has)));
    }
    Ok(())
}

/// The LUN keeps the size that initiators know: what lies past the end fails when it is touched, and
/// all that is there stays in reach. Taking the smaller size would cut file systems short.
fn shrunk(had: u64, has: u64) -> String {
    format!(
        "it has {has} bytes now and had {had}: initiators are not shown a smaller disk, and what lay \
         past its end cannot be read or written; give it its size back, or remove the device and \
         add it anew"
    )
}
