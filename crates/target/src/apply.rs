//! From one configuration to the next: all or nothing.
//!
//! Everything that can fail comes first and leaves no trace when it does: static checks, rules that
//! forbid a change, opening devices, binding portals. Growing and changing cache modes come last
//! among these; a device that has grown already when a later one fails keeps its longer file, which
//! nobody is told of. Then the new value is published, and sessions follow it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use disk::{CacheMode, Disk};
use scsi::change::{Applied, Selector};
use scsi::{Attention, Medium};
use tokio::sync::oneshot;

use crate::config::{Backing, Config, Device, Portal};
use crate::control::Overdue;
use crate::devices::{self, Exposure};
use crate::exports::Exports;
use crate::limits;
use crate::listeners::{self, Listeners, Place};
use crate::message::{Abort, PortalState, ShardMessage, UnitWork};
use crate::notice::Notice;
use crate::registry::SessionShared;
use crate::secrets::Secrets;
use crate::service::{Inner, Service, ServiceError};
use crate::unit::LogicalUnit;

/// What is ready before anything changes.
#[derive(Default)]
struct Prepared {
    units: BTreeMap<String, Arc<LogicalUnit>>,
    failed: BTreeMap<String, String>,
    sockets: Vec<(Place, ring::Fd)>,
}

impl Service {
    /// Serves what is found at the start, as far as it can be served.
    pub(crate) async fn serve_first(&self, config: Config, secrets: Secrets) {
        let mut prepared = Prepared::default();
        for device in &config.devices {
            match self.open_device(&config, device).await {
                Ok(unit) => {
                    if let Some(reason) = unit.trouble() {
                        self.tell_failed(&device.name, &reason);
                    }
                    prepared.units.insert(device.name.clone(), unit);
                }
                Err(reason) => {
                    self.tell_failed(&device.name, &reason);
                    prepared.failed.insert(device.name.clone(), reason);
                }
            }
        }
        for portal in config.portals.iter().filter(|portal| portal.enabled) {
            match bind_patiently(portal).await {
                Ok(socket) => prepared.sockets.push((listeners::place(portal), socket)),
                Err(error) => self.shared().tell(Notice::PortalFailed {
                    portal: portal.name.clone(),
                    reason: format!("{}: {error}", portal.socket_address()),
                }),
            }
        }
        self.switch(config, secrets, prepared).await;
    }

    /// Portals that could not listen are tried again until they do: an address may come later than
    /// the service. Ends with the service.
    pub(crate) async fn revive_portals(inner: Weak<Inner>) {
        loop {
            tokio::time::sleep(limits::PORTAL_RETRY).await;
            let Some(inner) = inner.upgrade() else { return };
            let service = Self { inner };
            let mut held = service.inner.listeners.lock().await;
            if service.inner.stopping.load(Ordering::Acquire) {
                return;
            }
            let exports = service.shared().exports.load_full();
            let deaf = |portal: &&Portal| {
                let state = exports.portals.get(&portal.name);
                state.is_some_and(|state| !state.listening.load(Ordering::Acquire))
            };
            for portal in exports.config.portals.iter().filter(deaf) {
                let place = listeners::place(portal);
                if let Ok(socket) = listeners::bind(portal) {
                    held.sockets.insert(place, socket);
                    service.shared().tell(Notice::PortalListens {
                        portal: portal.name.clone(),
                    });
                }
            }
            service.switch_portals(&exports, &exports, &mut held).await;
        }
    }

    fn tell_failed(&self, device: &str, reason: &str) {
        self.shared().tell(Notice::DeviceFailed {
            device: device.to_owned(),
            reason: reason.to_owned(),
        });
    }

    /// Goes over to another configuration.
    ///
    /// # Errors
    /// What cannot be done; nothing has changed then. [`ServiceError::Stuck`] alone comes after the
    /// change: it holds, but commands that should have ended are still running.
    pub async fn apply(&self, config: Config, secrets: Secrets) -> Result<(), ServiceError> {
        Self::check(&config, &|name| secrets.contains(name))?;
        let mut held = self.inner.listeners.lock().await;
        let before = self.shared().exports.load_full();
        for device in &config.devices {
            allowed(&before, device)?;
        }
        let mut prepared = Prepared::default();
        for device in &config.devices {
            if before.units.contains_key(&device.name) {
                continue;
            }
            // What was broken before and is as it was must not stand in the way of other changes.
            let as_before = before.config.devices.contains(device);
            match self.open_device(&config, device).await {
                Ok(unit) if as_before || unit.trouble().is_none() => {
                    prepared.units.insert(device.name.clone(), unit);
                }
                Ok(unit) => {
                    return Err(device_error(device, unit.trouble().unwrap_or_default()));
                }
                Err(reason) if as_before => {
                    prepared.failed.insert(device.name.clone(), reason);
                }
                Err(reason) => return Err(device_error(device, reason)),
            }
        }
        for portal in config.portals.iter().filter(|portal| portal.enabled) {
            let place = listeners::place(portal);
            if held.sockets.contains_key(&place) {
                continue;
            }
            match listeners::bind(portal) {
                Ok(socket) => prepared.sockets.push((place, socket)),
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
        self.change_devices(&before, &config).await?;
        self.switch_holding(config, secrets, prepared, &mut held)
            .await
    }

    async fn open_device(
        &self,
        config: &Config,
        device: &Device,
    ) -> Result<Arc<LogicalUnit>, String> {
        let exposure = Exposure::of(config, &device.name);
        let (device, options) = (device.clone(), self.inner.options.clone());
        let open = move || devices::open(&device, &exposure, &options.data_dir, &options.opener);
        let unit = blocking(open).await??;
        let doubtful = unit.doubtful();
        if doubtful > 0 {
            self.shared().tell(Notice::WritesInDoubt {
                device: unit.name.clone(),
                writers: doubtful,
            });
        }
        Ok(Arc::new(unit))
    }

    /// Grows devices and changes their cache modes.
    async fn change_devices(&self, before: &Exports, config: &Config) -> Result<(), ServiceError> {
        for device in &config.devices {
            let old = before
                .config
                .devices
                .iter()
                .find(|old| old.name == device.name);
            let (Some(old), Some(unit)) = (old, before.units.get(&device.name)) else {
                continue;
            };
            let Some(disk) = unit.disk() else { continue };
            if let (Some(have), Some(want)) = (size_of(&old.backing), size_of(&device.backing))
                && want > have
            {
                let disk = Arc::clone(&disk);
                self.on_disk(device, move || disk.grow(Some(want)).map(|_| ()))
                    .await?;
            }
            if old.cache != device.cache {
                self.change_mode(unit, &disk, device).await?;
            }
        }
        Ok(())
    }

    async fn on_disk(
        &self,
        device: &Device,
        work: impl FnOnce() -> Result<(), disk::DeviceError> + Send + 'static,
    ) -> Result<(), ServiceError> {
        let done = blocking(work)
            .await
            .map_err(|reason| device_error(device, reason))?;
        done.map_err(|error| device_error(device, devices::chain(&error)))
    }

    /// Towards more volatile, initiators are told first; towards more stable, last.
    async fn change_mode(
        &self,
        unit: &Arc<LogicalUnit>,
        disk: &Arc<dyn Disk>,
        device: &Device,
    ) -> Result<(), ServiceError> {
        let mode = device.cache;
        if mode != CacheMode::WriteThrough {
            self.change_unit(unit, |unit| {
                let mut next = unit.clone();
                next.volatile_cache = true;
                told(&next, unit)
            })
            .await?;
        }
        let changing = Arc::clone(disk);
        let changed = self
            .on_disk(device, move || changing.set_cache_mode(mode))
            .await;
        let disk = Arc::clone(disk);
        self.change_unit(unit, |unit| {
            let mut next = unit.clone();
            devices::adopt_features(&mut next, disk.as_ref(), device);
            told(&next, unit)
        })
        .await?;
        changed
    }

    async fn switch(&self, config: Config, secrets: Secrets, prepared: Prepared) {
        let mut held = self.inner.listeners.lock().await;
        if let Err(error) = self
            .switch_holding(config, secrets, prepared, &mut held)
            .await
        {
            tracing::error!(%error, "at the start");
        }
    }

    /// Nothing here can fail but waiting for commands of what is gone.
    async fn switch_holding(
        &self,
        config: Config,
        secrets: Secrets,
        prepared: Prepared,
        held: &mut Listeners,
    ) -> Result<(), ServiceError> {
        let before = self.shared().exports.load_full();
        held.sockets.extend(prepared.sockets);
        let mut units = BTreeMap::new();
        for device in &config.devices {
            let unit = before
                .units
                .get(&device.name)
                .or_else(|| prepared.units.get(&device.name));
            if let Some(unit) = unit {
                units.insert(device.name.clone(), Arc::clone(unit));
            }
        }
        let portals = config.portals.iter().filter(|portal| portal.enabled);
        let portals = portals
            .map(|portal| (portal.name.clone(), portal_state(&before, portal)))
            .collect();
        let exports = Exports {
            config: Arc::new(config),
            secrets,
            units,
            portals,
            failed: prepared.failed,
        };
        self.shared().exports.store(Arc::new(exports));
        let after = self.shared().exports.load_full();
        self.switch_portals(&before, &after, held).await;
        let mut overdue = None;
        for device in &after.config.devices {
            if let Some(unit) = after.units.get(&device.name)
                && self.refresh(&after.config, unit, device).await.is_err()
            {
                overdue = Some(device.name.clone());
            }
        }
        // All at once: a session that does not end must not keep another one's access alive.
        let mut following = tokio::task::JoinSet::new();
        for session in self.shared().registry.all() {
            let (service, after) = (self.clone(), Arc::clone(&after));
            following.spawn(async move {
                let followed = service.follow(&after, &session).await;
                followed.map_err(|Overdue| session.nexus.initiator.to_string())
            });
        }
        while let Some(followed) = following.join_next().await {
            if let Ok(Err(initiator)) = followed {
                overdue = Some(initiator);
            }
        }
        for (name, unit) in &before.units {
            if !after.units.contains_key(name) && self.retire(unit).await.is_err() {
                overdue = Some(name.clone());
            }
        }
        overdue.map_or(Ok(()), |what| Err(ServiceError::Stuck { what }))
    }

    async fn switch_portals(&self, before: &Exports, after: &Exports, held: &mut Listeners) {
        for (name, state) in &before.portals {
            if after
                .portals
                .get(name)
                .is_some_and(|kept| Arc::ptr_eq(kept, state))
            {
                continue;
            }
            for shard in self.inner.control.shards.iter() {
                let (done, stopped) = oneshot::channel();
                shard
                    .send(ShardMessage::Unlisten {
                        portal: Arc::clone(state),
                        done,
                    })
                    .await;
                let _ = stopped.await;
            }
        }
        let shards = &self.inner.control.shards;
        for (number, state) in after.portals.values().enumerate() {
            if state.listening.load(Ordering::Acquire) {
                continue;
            }
            let place = (state.address, state.interface.clone());
            if let (Some(listener), Some(shard)) =
                (held.sockets.get(&place), shards.get(number % shards.len()))
            {
                let (done, listens) = oneshot::channel();
                shard
                    .send(ShardMessage::Listen {
                        portal: Arc::clone(state),
                        listener: Arc::clone(listener),
                        done,
                    })
                    .await;
                // A shard that is gone listens to nobody.
                let _ = listens.await;
            }
        }
        let used: Vec<Place> = after
            .portals
            .values()
            .map(|state| (state.address, state.interface.clone()))
            .collect();
        held.sockets.retain(|place, _| used.contains(place));
    }

    /// Publishes what the configuration says of a unit, where that changed.
    async fn refresh(
        &self,
        config: &Config,
        unit: &Arc<LogicalUnit>,
        device: &Device,
    ) -> Result<(), ServiceError> {
        let grants = unit.gate.set_depth(devices::depth(device));
        for grant in grants {
            if let Some(shard) = self.inner.control.shards.get(grant.waiter.shard) {
                shard.grant(grant);
            }
        }
        let durable = Arc::clone(&unit.durable).lock_owned().await;
        let now = unit.published();
        let exposure = Exposure::of(config, &device.name);
        let identity = devices::identity(now.kind, &durable.beside, &exposure);
        let (blocks, physical) =
            unit.disk()
                .map_or((now.blocks, now.physical_block_size), |disk| {
                    (
                        devices::blocks(disk.geometry(), device),
                        devices::physical(disk.geometry(), device),
                    )
                });
        let removable = device.removable || now.kind == scsi::Kind::Optical;
        let same_size = now.blocks == blocks && now.physical_block_size == physical;
        if *now.identity == identity && same_size && now.removable == removable {
            return Ok(());
        }
        let mut applied = if same_size {
            nothing(&now)
        } else {
            scsi::change::resize(&now, blocks)
        };
        applied.unit.physical_block_size = physical;
        if *now.identity != identity || now.removable != removable {
            applied
                .attentions
                .push((Selector::All, Attention::InquiryChanged));
        }
        applied.unit.identity = Arc::new(identity);
        applied.unit.removable = removable;
        drop(now);
        self.inner
            .control
            .carry_out(unit, durable, applied, None)
            .await
            .map_err(|failure| crate::service::failed(&unit.name, failure))
    }

    /// A session sees its new LUN map, or ends where it has no right to be any more.
    async fn follow(&self, exports: &Exports, session: &Arc<SessionShared>) -> Result<(), Overdue> {
        let luns = exports.luns_of_session(session);
        let Some(shard) = self.inner.control.shards.get(session.shard) else {
            return Ok(());
        };
        let luns = match luns {
            Ok(luns) => luns,
            Err(refusal) => {
                let control = &self.inner.control;
                return control
                    .end_session(session.tsih, session.shard, refusal.ended())
                    .await;
            }
        };
        session.set_luns(luns.iter().map(|lun| lun.number).collect());
        let (done, ended) = oneshot::channel();
        shard
            .send(ShardMessage::Remap {
                tsih: session.tsih,
                luns,
                done,
            })
            .await;
        tokio::time::timeout(self.shared().drain_time, ended)
            .await
            .map(|_| ())
            .map_err(|_| Overdue)
    }

    /// A device is not served any more: end what runs on it, make it stable, close it.
    async fn retire(&self, unit: &Arc<LogicalUnit>) -> Result<(), Overdue> {
        let work = UnitWork {
            unit: Arc::clone(unit),
            attentions: Vec::new(),
            abort: Abort::All,
            drain: false,
            cleared_by: None,
            asked_by: None,
        };
        self.inner.control.barrier(work).await?;
        self.make_stable(unit).await;
        unit.set_disk(None);
        self.note_contents_lost(unit).await;
        Ok(())
    }

    /// Brings a device back that was not ready, accepts a RAM disk whose contents ended with an
    /// earlier process as blank, or loads the medium of a removable device.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Device`] with what is still wrong.
    pub async fn load_device(&self, name: &str) -> Result<(), ServiceError> {
        let exports = self.shared().exports.load_full();
        let device = exports
            .config
            .devices
            .iter()
            .find(|device| device.name == name);
        let Some(device) = device else {
            return Err(ServiceError::NotFound {
                what: "device",
                name: name.to_owned(),
            });
        };
        let Some(unit) = exports.units.get(name) else {
            return self.load_anew(&exports, device).await;
        };
        if unit.disk().is_none() {
            self.reopen(unit, device).await?;
        }
        if unit.is_stuck() {
            return Err(device_error(
                device,
                "commands on the disk do not end".to_owned(),
            ));
        }
        self.accept_contents(unit)
            .await
            .map_err(|reason| device_error(device, reason))?;
        if unit.published().medium != Medium::Present {
            self.change_unit(unit, |unit| scsi::change::medium(unit, Medium::Present))
                .await?;
        }
        unit.set_trouble(None);
        self.shared().tell(Notice::DeviceReady {
            device: name.to_owned(),
        });
        Ok(())
    }

    /// A device that had not even an identity: as if the configuration came anew.
    async fn load_anew(&self, exports: &Exports, device: &Device) -> Result<(), ServiceError> {
        let config = Config::clone(&exports.config);
        let failed = exports.failed.keys().filter(|name| **name != device.name);
        let failed: Vec<String> = failed.cloned().collect();
        if failed.is_empty() {
            return self.apply(config, exports.secrets.clone()).await;
        }
        let unit = self.open_device(&config, device).await;
        let unit = unit.map_err(|reason| device_error(device, reason))?;
        let mut held = self.inner.listeners.lock().await;
        let mut prepared = Prepared::default();
        prepared.units.insert(device.name.clone(), unit);
        prepared.failed = exports.failed.clone();
        prepared.failed.remove(&device.name);
        self.switch_holding(config, exports.secrets.clone(), prepared, &mut held)
            .await
    }

    async fn reopen(&self, unit: &Arc<LogicalUnit>, device: &Device) -> Result<(), ServiceError> {
        let (backing, mode) = (device.backing.clone(), device.cache);
        let opener = self.inner.options.opener.clone();
        let opened = blocking(move || opener.open(&backing, mode)).await;
        let disk = opened
            .map_err(|reason| device_error(device, reason))?
            .map_err(|error| device_error(device, devices::chain(&error)))?;
        unit.set_disk(Some(Arc::clone(&disk)));
        self.change_unit(unit, |unit| {
            let mut applied = scsi::change::resize(unit, devices::blocks(disk.geometry(), device));
            devices::adopt_features(&mut applied.unit, disk.as_ref(), device);
            applied
        })
        .await
    }

    /// A RAM disk's contents end with its being served: should it come back under its name, it is
    /// empty and says so.
    async fn note_contents_lost(&self, unit: &Arc<LogicalUnit>) {
        let durable = Arc::clone(&unit.durable).lock_owned().await;
        let mut beside = durable.beside.clone();
        let Some(contents) = &mut beside.contents else {
            return;
        };
        contents.process.push_str(" (ended)");
        if let Err(error) = crate::control::save(durable, beside).await {
            tracing::warn!(device = %unit.name, %error, "cannot write beside the device");
        }
    }

    /// A RAM disk's contents are this process's from now on.
    async fn accept_contents(&self, unit: &Arc<LogicalUnit>) -> Result<(), String> {
        if unit.published().medium != Medium::Absent {
            return Ok(());
        }
        let durable = Arc::clone(&unit.durable).lock_owned().await;
        let mut beside = durable.beside.clone();
        beside.loaded(devices::process()?);
        crate::control::save(durable, beside).await.map(drop)
    }
}

/// Binds; a port that is taken is waited for a while: the kernel holds on to the listening socket
/// of a process that was killed until its last operation has ended.
async fn bind_patiently(portal: &Portal) -> std::io::Result<ring::Fd> {
    let until = tokio::time::Instant::now() + limits::PORTAL_PATIENCE;
    loop {
        match listeners::bind(portal) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(limits::PORTAL_LOOK).await;
            }
            result => return result,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())
}

fn device_error(device: &Device, reason: String) -> ServiceError {
    ServiceError::Device {
        device: device.name.clone(),
        reason,
    }
}

/// Changes nothing but what the caller puts into the unit.
fn nothing(unit: &scsi::Unit) -> Applied {
    let mut applied = scsi::change::resize(unit, unit.blocks);
    applied.attentions.clear();
    applied
}

/// The caching mode page reads differently now.
fn told(next: &scsi::Unit, before: &scsi::Unit) -> Applied {
    let changed = next.volatile_cache != before.volatile_cache;
    let mut applied = nothing(next);
    if changed {
        applied
            .attentions
            .push((Selector::All, Attention::ModeChanged));
    }
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

/// Whether a device may become what the new configuration says.
fn allowed(before: &Exports, device: &Device) -> Result<(), ServiceError> {
    let old = before
        .config
        .devices
        .iter()
        .find(|old| old.name == device.name);
    let (Some(old), Some(unit)) = (old, before.units.get(&device.name)) else {
        return Ok(());
    };
    if without_size(&old.backing) != without_size(&device.backing) {
        let reason = "what it is made of cannot change; remove the device and add it anew";
        return Err(device_error(device, reason.to_owned()));
    }
    let holders = devices::holders(&unit.published());
    if size_of(&device.backing) < size_of(&old.backing) {
        if let Some(holders) = holders {
            let what = "shrinking";
            return Err(ServiceError::Reserved {
                device: device.name.clone(),
                what,
                holders,
            });
        }
        let reason = "a device cannot shrink: initiators would lose what lies at its end";
        return Err(device_error(device, reason.to_owned()));
    }
    match holders {
        Some(holders) if old.cache != device.cache => Err(ServiceError::Reserved {
            device: device.name.clone(),
            what: "changing the cache mode",
            holders,
        }),
        _ => Ok(()),
    }
}

/// The portal as it was, where nothing about it changed.
fn portal_state(before: &Exports, portal: &Portal) -> Arc<PortalState> {
    let same = |state: &&Arc<PortalState>| {
        state.group == portal.group
            && state.address == portal.socket_address()
            && state.interface == portal.interface
    };
    if let Some(state) = before.portals.get(&portal.name).filter(same) {
        return Arc::clone(state);
    }
    Arc::new(PortalState {
        name: portal.name.clone(),
        group: portal.group,
        address: portal.socket_address(),
        interface: portal.interface.clone(),
        listening: AtomicBool::new(false),
        connections: AtomicUsize::new(0),
    })
}
