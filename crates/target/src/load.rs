//! What an operator asks of one device: load, eject, clear its reservations.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use disk::{BesideStore, DeviceError, Disk, Geometry};
use scsi::{Medium, Unit};

use crate::apply::{Ready, device_error, device_failed, nothing, to_the_end};
use crate::config::{Backing, Config, Device};
use crate::control::Overdue;
use crate::devices;
use crate::exports::Exports;
use crate::listeners::Listeners;
use crate::notice::Notice;
use crate::provision::Fault;
use crate::service::{Service, ServiceError, failed, not_switched};
use crate::unit::LogicalUnit;

impl Service {
    /// Brings a device back that was not ready, accepts a RAM disk whose contents ended with an
    /// earlier process as blank, loads the medium of a removable device, or takes the new size of a
    /// physical disk that has grown. Where there is nothing to do, nobody is told anything.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Device`] with what is still wrong,
    /// [`ServiceError::NotSwitched`] where an earlier change of it does not end,
    /// [`ServiceError::Stuck`] where the device is loaded but commands did not end.
    pub async fn load_device(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        to_the_end(async move {
            let mut held = service.inner.listeners.lock().await;
            Box::pin(service.load_alone(&name, &mut held)).await
        })
        .await
    }

    /// Loads what was not open at the start and still waits. What an operator or an initiator has
    /// ejected meanwhile stays so, and a RAM disk is never accepted as blank without being asked.
    pub(crate) async fn load_if_waiting(&self, name: &str) -> Result<(), ServiceError> {
        let (service, name) = (self.clone(), name.to_owned());
        to_the_end(async move {
            let mut held = service.inner.listeners.lock().await;
            let exports = service.shared().exports.load_full();
            let waits = match exports.units.get(&name) {
                Some(unit) => unit.disk().is_none() && unit.published().medium == Medium::Stuck,
                None => exports.failed.contains_key(&name),
            };
            if !waits || service.inner.stopping.load(Ordering::Acquire) {
                return Ok(());
            }
            Box::pin(service.load_alone(&name, &mut held)).await
        })
        .await
    }

    async fn load_alone(&self, name: &str, held: &mut Listeners) -> Result<(), ServiceError> {
        let exports = self.shared().exports.load_full();
        let Some(device) = exports.config.device(name) else {
            return Err(ServiceError::NotFound {
                what: "device",
                name: name.to_owned(),
            });
        };
        let Some(unit) = exports.units.get(name) else {
            return self.load_anew(&exports, device, held).await;
        };
        if let Some(disk) = unit.disk() {
            if matches!(device.backing, Backing::Block { .. }) {
                self.take_size(unit, device, disk).await?;
            }
        } else {
            self.reopen(unit, device).await?;
        }
        self.accept_contents(unit, device).await?;
        let ready = unit.published().medium == Medium::Present;
        if !ready {
            self.change_medium(unit, Medium::Present).await?;
        }
        if !ready || unit.trouble().is_some() {
            unit.set_trouble(None);
            self.tell_ready(name);
        }
        Ok(())
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
        held: &mut Listeners,
    ) -> Result<(), ServiceError> {
        let config = Config::clone(&exports.config);
        let others = exports.units.values();
        let unit = self.open_device(&config, device, others).await;
        let unit = unit.map_err(|reason| device_error(device, reason))?;
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

    async fn reopen(&self, unit: &Arc<LogicalUnit>, device: &Device) -> Result<(), ServiceError> {
        let (backing, mode) = (device.backing.clone(), device.cache);
        let options = self.inner.options.clone();
        let name = device.name.clone();
        let opened = self.opening(move || {
            let disk = options.opener.open(&backing, mode)?;
            let store = BesideStore::for_device(&backing, &name, &options.data_dir)?;
            let beside = store.load()?;
            Ok((disk, store, beside))
        });
        let (disk, store, beside) = opened
            .await
            .map_err(|reason| device_error(device, reason))?
            .map_err(|error| device_failed(device, &error))?;
        let durable = self.inner.control.locked(unit).await;
        let durable = durable.map_err(|Overdue| not_switched(&device.name))?;
        let known = durable.store.as_ref();
        let is_same = known.is_some_and(|known| known.path() == store.path())
            && beside.is_none_or(|beside| beside.naa == durable.beside.naa);
        drop(durable);
        if !is_same {
            let reason = "it is another disk than the one that initiators know; put the right one \
                          back, or remove the device and add it anew";
            return Err(device_error(device, reason.to_owned()));
        }
        fits(&unit.published(), disk.geometry(), device)?;
        unit.set_disk(Some(Arc::clone(&disk)));
        self.change_unit(unit, |unit| {
            let geometry = disk.geometry();
            let mut applied = scsi::change::resize(unit, devices::blocks(geometry, device));
            applied.unit.block_size = geometry.block_size;
            devices::adopt_features(&mut applied.unit, disk.as_ref(), device);
            applied
        })
        .await
    }

    /// A physical disk, or the volume under it, may have grown.
    async fn take_size(
        &self,
        unit: &Arc<LogicalUnit>,
        device: &Device,
        disk: Arc<dyn Disk>,
    ) -> Result<(), ServiceError> {
        let taken = self.opening(move || disk.grow(None)).await;
        let geometry = match taken.map_err(|reason| device_error(device, reason))? {
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
            let _alone = service.inner.listeners.lock().await;
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
            let _alone = service.inner.listeners.lock().await;
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
