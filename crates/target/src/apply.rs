//! From one configuration to the next: all or nothing.
//!
//! ```text
//! check ─► open devices, bind portals ─► grow ─► switch cache modes ─► (keep the document) ─► publish
//!                                                      │ fails              │ fails
//!                                                      └── modes go back ◄──┘
//! ```
//!
//! Everything that can fail comes first. What was opened or bound goes away by itself when a later
//! step fails, a device that has grown keeps its longer file, which nobody is shown
//! ([`devices::blocks`]), and cache modes go back. Publishing cannot fail: see [`crate::publish`].
//!
//! What an operator asks for (a configuration, loading, ejecting, clearing) is done one at a time,
//! in their turn (`Inner::operators`), and runs to its end even when nobody waits for it any more: a
//! change that was published and never passed the barrier would be one that shards do not know of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use disk::{CacheMode, Disk, Wanted};
use scsi::change::{Applied, Selector};
use scsi::{Attention, Unit};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::{Backing, Config, Device};
use crate::control::{Failure, Overdue};
use crate::devices;
use crate::exports::Exports;
use crate::limits;
use crate::listeners::{self, Listeners, Place};
use crate::opening::{Patience, unanswered, within};
use crate::provision::Fault;
use crate::secrets::Secrets;
use crate::service::{Service, ServiceError, failed, not_switched};
use crate::unit::{Durable, LogicalUnit};

/// What is ready before anything is published.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) units: BTreeMap<String, Arc<LogicalUnit>>,
    pub(crate) failed: BTreeMap<String, String>,
    pub(crate) sockets: Vec<(Place, ring::Fd)>,
    /// At the start: what is loaded later by itself.
    pub(crate) pending: Vec<String>,
}

/// A configuration that can be served and is not yet: see [`Service::prepare`].
///
/// No other change by an operator comes in between. Dropped without an answer it is given up, and
/// cache modes that were switched for it stay until the next change puts them right.
#[derive(Debug)]
#[must_use = "a prepared change is committed or undone"]
pub struct Prepared {
    service: Service,
    held: OwnedMutexGuard<Listeners>,
    config: Config,
    secrets: Secrets,
    ready: Ready,
    switched: Vec<Switched>,
}

/// A device whose cache mode was touched.
#[derive(Debug)]
struct Switched {
    unit: Arc<LogicalUnit>,
    disk: Arc<dyn Disk>,
    /// As it was, with the mode that the disk had.
    before: Device,
}

/// Whether initiators that hold reservations have a say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reservations {
    Respect,
    Ignore,
}

impl Prepared {
    /// Serves it.
    ///
    /// # Errors
    /// [`ServiceError::Stuck`]: the change holds, but commands that it should have outlived still run.
    /// [`ServiceError::Unflushed`]: it holds, but a device that was taken out is not stable.
    pub async fn commit(self) -> Result<(), ServiceError> {
        to_the_end(async move {
            let Self {
                service,
                mut held,
                config,
                secrets,
                ready,
                switched: _,
            } = self;
            Box::pin(service.publish(config, secrets, ready, &mut held)).await
        })
        .await
    }

    /// Gives it up: cache modes that were switched for it go back.
    ///
    /// # Errors
    /// [`ServiceError::NotUndone`] names the devices that keep their new mode.
    pub async fn undo(self) -> Result<(), ServiceError> {
        to_the_end(async move {
            let (service, switched) = (self.service, self.switched);
            let undone = service.switch_back(switched).await;
            drop(self.held);
            undone.map_err(|left| left.error("the change was given up".to_owned()))
        })
        .await
    }
}

impl Service {
    /// Goes over to another configuration.
    ///
    /// # Errors
    /// As [`Service::prepare`], where nothing has changed, and as [`Prepared::commit`], where the
    /// change holds.
    pub async fn apply(&self, config: Config, secrets: Secrets) -> Result<(), ServiceError> {
        let service = self.clone();
        to_the_end(async move {
            let prepared = Box::pin(service.prepare_alone(config, secrets)).await?;
            Box::pin(prepared.commit()).await
        })
        .await
    }

    /// Does everything of a change that can fail, before anybody is shown anything of it: for a
    /// caller that has to keep the configuration somewhere before it holds.
    ///
    /// # Errors
    /// What cannot be done; nothing has changed then, but for [`ServiceError::NotUndone`].
    pub async fn prepare(
        &self,
        config: Config,
        secrets: Secrets,
    ) -> Result<Prepared, ServiceError> {
        let service = self.clone();
        to_the_end(async move { Box::pin(service.prepare_alone(config, secrets)).await }).await
    }

    async fn prepare_alone(
        &self,
        config: Config,
        secrets: Secrets,
    ) -> Result<Prepared, ServiceError> {
        Self::check(&config, &|name| secrets.contains(name))?;
        let held = Arc::clone(&self.inner.operators).lock_owned().await;
        let before = self.shared().exports.load_full();
        for device in &config.devices {
            allowed(&before, device)?;
        }
        fits_memory(&before.config, &config)?;
        let mut ready = Ready::default();
        self.open_new(&before, &config, &mut ready).await?;
        bind_new(&before, &config, &held, &mut ready)?;
        self.grow_all(&before, &config).await?;
        let switched = self.switch_modes(&before, &config).await?;
        Ok(Prepared {
            service: self.clone(),
            held,
            config,
            secrets,
            ready,
            switched,
        })
    }

    async fn open_new(
        &self,
        before: &Exports,
        config: &Config,
        ready: &mut Ready,
    ) -> Result<(), ServiceError> {
        let new = |device: &&Device| !before.units.contains_key(&device.name);
        for device in config.devices.iter().filter(new) {
            // What was broken before and is as it was must not stand in the way of other changes, nor
            // keep them waiting: where an earlier try has not ended, it stays as it is.
            let as_before = before.config.devices.contains(device);
            let failed = before.failed.get(&device.name).filter(|_| as_before);
            if let Some(reason) = failed.filter(|_| self.inner.opens.is_taken(device)) {
                ready.failed.insert(device.name.clone(), reason.clone());
                continue;
            }
            let patience = failed.map_or(Patience::Some, |_| Patience::None);
            let kept = before.units.values();
            let kept = kept.filter(|unit| config.device(&unit.name).is_some());
            let others = kept.chain(ready.units.values());
            match self.open_device(config, device, others, patience).await {
                Ok(unit) if as_before || unit.trouble().is_none() => {
                    ready.units.insert(device.name.clone(), unit);
                }
                Ok(unit) => {
                    return Err(device_error(device, unit.trouble().unwrap_or_default()));
                }
                Err(reason) if as_before => {
                    ready.failed.insert(device.name.clone(), reason);
                }
                Err(reason) => return Err(device_error(device, reason)),
            }
        }
        Ok(())
    }

    /// Writes the document beside a device, within the bound. Past it the write goes on, and the
    /// unit's lock with it.
    pub(crate) async fn save(
        &self,
        durable: OwnedMutexGuard<Durable>,
        beside: disk::Beside,
    ) -> Result<(), String> {
        let bound = self.shared().drain_time;
        tokio::time::timeout(bound, crate::control::save(durable, beside))
            .await
            .map_or_else(
                |_| Err(unanswered(bound)),
                |saved| saved.map(drop).map_err(|error| devices::chain(&error)),
            )
    }

    /// Persists, publishes, passes the barrier. A document that is not written within the bound
    /// keeps nobody waiting: the change is carried out when it is.
    pub(crate) async fn carry_out(
        &self,
        unit: &Arc<LogicalUnit>,
        durable: OwnedMutexGuard<Durable>,
        applied: Applied,
    ) -> Result<(), Failure> {
        let (control, unit) = (self.inner.control.clone(), Arc::clone(unit));
        // Once for the document, once for the barrier.
        let bound = 2 * self.shared().drain_time;
        let work =
            to_the_end(async move { control.carry_out(&unit, durable, applied, None).await });
        tokio::time::timeout(bound, work)
            .await
            .unwrap_or(Err(Failure::Overdue))
    }

    async fn grow_all(&self, before: &Exports, config: &Config) -> Result<(), ServiceError> {
        for (_, device, unit) in kept(before, config) {
            let (Some(want), Some(disk)) = (size_of(&device.backing), unit.disk()) else {
                continue;
            };
            // It may be longer already, from a change that was given up.
            if want > disk.geometry().bytes() {
                on_disk(device, move || disk.grow(Some(want)).map(|_| ())).await?;
            }
        }
        Ok(())
    }

    /// Switches cache modes; all, or as it was.
    ///
    /// What the disk does decides, not what the earlier configuration says: a mode that an earlier
    /// change left behind is put right by the next one.
    async fn switch_modes(
        &self,
        before: &Exports,
        config: &Config,
    ) -> Result<Vec<Switched>, ServiceError> {
        let all = kept(before, config).filter_map(to_switch);
        let (behind, wanted): (Vec<_>, Vec<_>) = all.partition(|(kept, _)| is_left_behind(*kept));
        let ahead = wanted.iter();
        sync_ahead(ahead.map(|((_, device, _), disk)| (*device, Arc::clone(disk)))).await?;
        let mut switched = Vec::new();
        for ((old, device, unit), disk) in wanted {
            // What the device is now is named first: a change that fails can have come half-way.
            switched.push(Switched {
                unit: Arc::clone(unit),
                disk: Arc::clone(&disk),
                before: Device {
                    cache: disk.cache_mode(),
                    ..old.clone()
                },
            });
            let change = self.change_mode(unit, &disk, device, Reservations::Respect);
            if let Err(error) = change.await {
                return Err(match self.switch_back(switched).await {
                    Ok(()) => error,
                    Err(left) => left.error(error.to_string()),
                });
            }
        }
        self.put_right(behind).await;
        Ok(switched)
    }

    /// Modes that an earlier change left behind: nobody asks for these now, and the next change
    /// tries again, so what fails stands in the way of nothing.
    async fn put_right(&self, behind: Vec<(Kept<'_>, Arc<dyn Disk>)>) {
        for ((_, device, unit), disk) in behind {
            let ahead = std::iter::once((device, Arc::clone(&disk)));
            let switched = match sync_ahead(ahead).await {
                Ok(()) => {
                    self.change_mode(unit, &disk, device, Reservations::Respect)
                        .await
                }
                failed => failed,
            };
            if let Err(error) = switched {
                tracing::error!(
                    device = %unit.name, %error,
                    "its cache mode, left behind by an earlier change, cannot be put right"
                );
            }
        }
    }

    async fn switch_back(&self, switched: Vec<Switched>) -> Result<(), Left> {
        let mut left = Left::default();
        let ahead = switched.iter();
        // What does not become stable now is told of below.
        let _ = sync_ahead(ahead.map(|it| (&it.before, Arc::clone(&it.disk)))).await;
        for Switched { unit, disk, before } in switched.into_iter().rev() {
            let change = self.change_mode(&unit, &disk, &before, Reservations::Ignore);
            match change.await {
                Ok(()) => {}
                // What the disk does is told; that was all there was to wait for.
                Err(_) if disk.cache_mode() == before.cache => {}
                Err(error) => {
                    tracing::error!(device = %unit.name, %error, "its cache mode cannot go back");
                    left.devices.push(unit.name.clone());
                    left.reason = error.to_string();
                }
            }
        }
        if left.devices.is_empty() {
            Ok(())
        } else {
            Err(left)
        }
    }

    /// Towards more volatile, initiators are told first; towards more stable, last. What can take
    /// long was done by [`sync_ahead`]: changes of initiators wait for the unit's lock.
    async fn change_mode(
        &self,
        unit: &Arc<LogicalUnit>,
        disk: &Arc<dyn Disk>,
        device: &Device,
        reservations: Reservations,
    ) -> Result<(), ServiceError> {
        let mode = device.cache;
        // Under the unit's lock no reservation comes in between; one that comes once the first
        // step is made meets a mode that is changing already.
        let control = &self.inner.control;
        let durable = control.locked(unit).await;
        let durable = durable.map_err(|Overdue| not_switched(&device.name))?;
        if reservations == Reservations::Respect {
            unreserved(&unit.published(), device, "changing the cache mode")?;
        }
        let held = if mode == CacheMode::WriteThrough {
            Some(durable)
        } else {
            self.tell(unit, durable, device, |next| next.volatile_cache = true)
                .await?;
            None
        };
        let changing = Arc::clone(disk);
        let changed = switch(device, changing, mode, limits::DISK_TIME_MAX).await;
        let durable = match held {
            Some(durable) => durable,
            None => {
                let durable = control.locked(unit).await;
                durable.map_err(|Overdue| not_switched(&device.name))?
            }
        };
        let adopt = |next: &mut Unit| devices::adopt_features(next, disk.as_ref(), device);
        let told = self.tell(unit, durable, device, adopt).await;
        changed.and(told)
    }

    /// Publishes other features of a unit; initiators hear of them where the caching page changes.
    async fn tell(
        &self,
        unit: &Arc<LogicalUnit>,
        durable: OwnedMutexGuard<Durable>,
        device: &Device,
        change: impl FnOnce(&mut Unit),
    ) -> Result<(), ServiceError> {
        let now = Arc::clone(&unit.published());
        let mut applied = nothing(&now);
        change(&mut applied.unit);
        if applied.unit.volatile_cache != now.volatile_cache {
            let news = (Selector::All, Attention::ModeChanged);
            applied.attentions.push(news);
        }
        let published = self.carry_out(unit, durable, applied).await;
        published.map_err(|failure| match failure {
            Failure::Overdue => not_switched(&device.name),
            failure @ Failure::NotSaved(_) => failed(&device.name, failure),
        })
    }
}

/// Has a disk go over to a mode, within a bound. Past it, this and the disk agree on whether the
/// change is given up for good: one that came about later would be one that initiators were not
/// told of. One that the disk has taken is about to end.
async fn switch(
    device: &Device,
    disk: Arc<dyn Disk>,
    mode: CacheMode,
    bound: Duration,
) -> Result<(), ServiceError> {
    let wanted = Wanted::default();
    let asked = wanted.clone();
    let mut changing = Box::pin(blocking(move || disk.set_cache_mode(mode, &asked)));
    let done = match timeout(bound, &mut changing).await {
        Ok(done) => done,
        Err(_) if wanted.give_up() => return Err(device_error(device, unanswered(bound))),
        Err(_) => changing.await,
    };
    let changed = done.map_err(|reason| device_error(device, reason))?;
    changed.map_err(|error| device_failed(device, &error))
}

/// Devices that keep a cache mode that they should not have.
#[derive(Debug, Default)]
struct Left {
    devices: Vec<String>,
    reason: String,
}

impl Left {
    fn error(self, cause: String) -> ServiceError {
        ServiceError::NotUndone {
            cause,
            devices: self.devices.join(", "),
            reason: self.reason,
        }
    }
}

/// What is to become stable does so beside each other, with no lock held.
async fn sync_ahead(
    disks: impl Iterator<Item = (&Device, Arc<dyn Disk>)>,
) -> Result<(), ServiceError> {
    let mut syncing = JoinSet::new();
    for (device, disk) in disks {
        let device = device.clone();
        syncing.spawn(async move {
            let mode = device.cache;
            on_disk(&device, move || disk.sync_ahead(mode)).await
        });
    }
    syncing.join_all().await.into_iter().collect()
}

/// A device whose disk has another mode than it shall have.
fn to_switch<'a>((old, device, unit): Kept<'a>) -> Option<(Kept<'a>, Arc<dyn Disk>)> {
    let disk = unit.disk()?;
    if disk.cache_mode() == device.cache {
        return None;
    }
    let kept = (old, device, unit);
    if is_left_behind(kept) && devices::holders(&unit.published()).is_some() {
        return None;
    }
    Some((kept, disk))
}

/// Nobody asks for this mode now: it must not stand in the way of other changes.
fn is_left_behind((old, device, _): Kept<'_>) -> bool {
    old.cache == device.cache
}

/// A device as it was and as it shall be.
type Kept<'a> = (&'a Device, &'a Device, &'a Arc<LogicalUnit>);

/// Devices that were served and still are, as they were and as they shall be.
fn kept<'a>(before: &'a Exports, config: &'a Config) -> impl Iterator<Item = Kept<'a>> {
    config.devices.iter().filter_map(|device| {
        let old = before.config.device(&device.name)?;
        let unit = before.units.get(&device.name)?;
        Some((old, device, unit))
    })
}

fn bind_new(
    before: &Exports,
    config: &Config,
    held: &Listeners,
    ready: &mut Ready,
) -> Result<(), ServiceError> {
    for portal in config.portals.iter().filter(|portal| portal.enabled) {
        let place = listeners::place(portal);
        if held.sockets.contains_key(&place) {
            continue;
        }
        match listeners::bind(portal) {
            Ok(socket) => ready.sockets.push((place, socket)),
            // It was deaf before; it is tried again by itself.
            Err(_) if before.config.portals.contains(portal) => {}
            Err(source) => {
                return Err(ServiceError::Listen {
                    portal: portal.name.clone(),
                    address: portal.socket_address(),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Runs to its end even when whoever waits for it goes away.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs what waits for a disk where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())
}

pub(crate) async fn on_disk<T: Send + 'static>(
    device: &Device,
    work: impl FnOnce() -> Result<T, disk::DeviceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = within(limits::DISK_TIME_MAX, work)
        .await
        .map_err(|reason| device_error(device, reason))?;
    done.map_err(|error| device_failed(device, &error))
}

pub(crate) fn device_error(device: &Device, reason: String) -> ServiceError {
    ServiceError::Device {
        device: device.name.clone(),
        reason,
        fault: Fault::Other,
    }
}

pub(crate) fn device_failed(device: &Device, error: &disk::DeviceError) -> ServiceError {
    ServiceError::Device {
        device: device.name.clone(),
        reason: devices::chain(error),
        fault: devices::fault(error),
    }
}

/// Changes nothing but what the caller puts into the unit.
pub(crate) fn nothing(unit: &Unit) -> Applied {
    let mut applied = scsi::change::resize(unit, unit.blocks);
    applied.attentions.clear();
    applied
}

const fn size_of(backing: &Backing) -> Option<u64> {
    match backing {
        Backing::Image { size, .. } | Backing::Ram { size, .. } => Some(*size),
        Backing::Block { .. } | Backing::Iso { .. } => None,
    }
}

/// The backing with its size taken out: what must not change while it is served.
fn without_size(backing: &Backing) -> Backing {
    let mut same = backing.clone();
    if let Backing::Image { size, .. } | Backing::Ram { size, .. } = &mut same {
        *size = 0;
    }
    same
}

/// Refused while initiators hold reservations, who are named.
fn unreserved(unit: &Unit, device: &Device, what: &'static str) -> Result<(), ServiceError> {
    devices::holders(unit).map_or(Ok(()), |holders| {
        Err(ServiceError::Reserved {
            device: device.name.clone(),
            what,
            holders,
        })
    })
}

/// RAM disks that the host has no memory for would take the whole service with them once they are
/// full.
fn fits_memory(before: &Config, config: &Config) -> Result<(), ServiceError> {
    let of = |device: &Device| match device.backing {
        Backing::Ram { size, .. } => size,
        Backing::Image { .. } | Backing::Block { .. } | Backing::Iso { .. } => 0,
    };
    let sum = |config: &Config| {
        let sizes = config.devices.iter().map(of);
        sizes.fold(0, u64::saturating_add)
    };
    let host = rustix::system::sysinfo();
    let have = host.totalram.saturating_mul(host.mem_unit.into());
    let want = sum(config);
    if want <= have || want <= sum(before) {
        return Ok(());
    }
    let grows = |device: &&Device| before.device(&device.name).map_or(0, of) < of(device);
    let Some(device) = config.devices.iter().rfind(grows) else {
        return Ok(());
    };
    Err(ServiceError::Device {
        device: device.name.clone(),
        reason: format!(
            "all RAM disks would have {want} bytes together, and this host has {have} bytes of \
             memory; make it smaller, or use an image"
        ),
        fault: Fault::Invalid,
    })
}

/// Whether a device may become what the new configuration says, as far as it can be known before
/// anything is opened. Reservations are looked at once more when the change is made.
fn allowed(before: &Exports, device: &Device) -> Result<(), ServiceError> {
    let old = before.config.device(&device.name);
    let (Some(old), Some(unit)) = (old, before.units.get(&device.name)) else {
        return Ok(());
    };
    if without_size(&old.backing) != without_size(&device.backing) {
        let reason = "what it is made of cannot change; remove the device and add it anew";
        return Err(device_error(device, reason.to_owned()));
    }
    if size_of(&device.backing) < size_of(&old.backing) {
        unreserved(&unit.published(), device, "shrinking")?;
        let reason = "a device cannot shrink: initiators would lose what lies at its end";
        return Err(device_error(device, reason.to_owned()));
    }
    if old.cache != device.cache {
        unreserved(&unit.published(), device, "changing the cache mode")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use disk::Request;

    use super::*;
    use crate::config::Provisioning;

    const HANG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_cache_mode_that_was_given_up_does_not_come_later() {
        let directory = tempfile::tempdir().unwrap();
        let (path, size) = (directory.path().join("a.img"), 1 << 20);
        disk::create_image(&path, size, Provisioning::Thin, &mut |_, _| true).unwrap();
        let backing = Backing::Image {
            path,
            size,
            provisioning: Provisioning::Thin,
            block_size: 512,
            read_only: false,
        };
        let disk = disk::open(&backing, CacheMode::WriteThrough).unwrap();
        let device = Device::new("a", backing);
        let change = |bound| switch(&device, Arc::clone(&disk), CacheMode::WriteBack, bound);
        // Holds the change up until the reactor turns.
        let mut reactor = ring::Reactor::new(&ring::Options::default()).unwrap();
        reactor.spawn(1, disk.execute(&reactor.io(), Request::Flush));
        let error = change(Duration::from_millis(20)).await.unwrap_err();
        assert!(error.to_string().contains("no answer"), "{error}");
        let mut events = Vec::new();
        while events.is_empty() {
            reactor.turn(Some(HANG), &mut events).unwrap();
        }
        let ended = async {
            while Arc::strong_count(&disk) > 1 {
                tokio::task::yield_now().await;
            }
        };
        timeout(HANG, ended).await.unwrap();
        assert_eq!(disk.cache_mode(), CacheMode::WriteThrough);
        change(HANG).await.unwrap();
        assert_eq!(disk.cache_mode(), CacheMode::WriteBack);
    }
}
