//! What is served changes, and sessions follow.
//!
//! Nothing here can be refused any more: what could fail was done before ([`crate::apply`]). What
//! remains is to wait, each time within a bound, for commands that must not outlive the change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use scsi::Attention;
use scsi::change::{Applied, Selector};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::apply::{Ready, nothing};
use crate::config::{Config, Device, Portal};
use crate::control::Overdue;
use crate::devices::{self, Exposure};
use crate::exports::Exports;
use crate::limits;
use crate::listeners::{self, Listeners, Place};
use crate::message::{self, Abort, PortalState, ShardMessage, UnitWork};
use crate::notice::Notice;
use crate::registry::SessionShared;
use crate::secrets::Secrets;
use crate::service::{Inner, Service, ServiceError, failed, not_switched};
use crate::stop::Unstable;
use crate::unit::LogicalUnit;

impl Service {
    /// Serves what is found at the start, as far as it can be served.
    pub(crate) async fn serve_first(&self, config: Config, secrets: Secrets) {
        let mut ready = self.open_all(&config).await;
        for portal in config.portals.iter().filter(|portal| portal.enabled) {
            match bind_patiently(portal).await {
                Ok(socket) => ready.sockets.push((listeners::place(portal), socket)),
                Err(error) => self.shared().tell(Notice::PortalFailed {
                    portal: portal.name.clone(),
                    reason: format!("{}: {error}", portal.socket_address()),
                }),
            }
        }
        let pending = std::mem::take(&mut ready.pending);
        let mut held = self.inner.operators.lock().await;
        let published = self.publish(config, secrets, ready, &mut held).await;
        if let Err(error) = published {
            tracing::error!(%error, "at the start");
        }
        // Not before it is published: there was nothing to load.
        for device in pending {
            let inner = Arc::downgrade(&self.inner);
            tokio::spawn(Self::load_by_itself(inner, device));
        }
    }

    /// Portals that could not listen are tried again until they do: an address may come later than
    /// the service. Ends with the service.
    pub(crate) async fn revive_portals(inner: Weak<Inner>) {
        loop {
            tokio::time::sleep(limits::PORTAL_RETRY).await;
            let Some(inner) = inner.upgrade() else { return };
            let service = Self { inner };
            let mut held = service.inner.operators.lock().await;
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

    /// Publishes a configuration; nothing can fail but waiting for commands of what is gone.
    pub(crate) async fn publish(
        &self,
        config: Config,
        secrets: Secrets,
        ready: Ready,
        held: &mut Listeners,
    ) -> Result<(), ServiceError> {
        let before = self.shared().exports.load_full();
        held.sockets.extend(ready.sockets);
        let mut units = BTreeMap::new();
        for device in &config.devices {
            let unit = before
                .units
                .get(&device.name)
                .or_else(|| ready.units.get(&device.name));
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
            failed: ready.failed,
        };
        self.shared().exports.store(Arc::new(exports));
        let after = self.shared().exports.load_full();
        self.switch_portals(&before, &after, held).await;
        // A device that does not answer must not keep a right alive that was taken away.
        let (followed, refreshed) = tokio::join!(self.follow_all(&after), self.refresh_all(&after));
        let retired = self.retire_all(&before, &after).await;
        followed.or(refreshed).or(retired).map_or(Ok(()), Err)
    }

    /// All devices at once. Gives one that is not done with.
    async fn refresh_all(&self, after: &Arc<Exports>) -> Option<ServiceError> {
        let mut refreshing = JoinSet::new();
        for name in after.units.keys() {
            let (service, after, name) = (self.clone(), Arc::clone(after), name.clone());
            refreshing.spawn(async move {
                let (Some(device), Some(unit)) =
                    (after.config.device(&name), after.units.get(&name))
                else {
                    return Ok(());
                };
                let refreshed = service.refresh(&after.config, unit, device).await;
                refreshed.map_err(|_| stuck(format!("device {name}")))
            });
        }
        error_of(refreshing).await
    }

    /// All at once: a session that does not end must not keep another one's access alive. Gives one
    /// that does not.
    async fn follow_all(&self, after: &Arc<Exports>) -> Option<ServiceError> {
        let mut following = JoinSet::new();
        for session in self.shared().registry.all() {
            let (service, after) = (self.clone(), Arc::clone(after));
            following.spawn(async move {
                let followed = service.follow(&after, &session).await;
                let session = || format!("the session of {}", session.nexus.initiator);
                followed.map_err(|Overdue| stuck(session()))
            });
        }
        error_of(following).await
    }

    /// All devices that are not served any more, at once. Gives one that did not end well.
    async fn retire_all(&self, before: &Exports, after: &Exports) -> Option<ServiceError> {
        let mut retiring = JoinSet::new();
        for (name, unit) in &before.units {
            if after.units.contains_key(name) {
                continue;
            }
            let (service, name, unit) = (self.clone(), name.clone(), Arc::clone(unit));
            retiring.spawn(async move {
                let retired = service.retire(&unit).await;
                retired.map_err(|why| service.retired_badly(name, why))
            });
        }
        error_of(retiring).await
    }

    fn retired_badly(&self, device: String, why: Unstable) -> ServiceError {
        match why {
            Unstable::Overdue => stuck(format!("device {device}")),
            Unstable::Failed(reason) => {
                self.shared().tell(Notice::DiskError {
                    device: device.clone(),
                    error: reason.clone(),
                });
                ServiceError::Unflushed { device, reason }
            }
        }
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
        let shards = self.inner.control.shards.iter();
        let shards: Vec<_> = shards.filter(|shard| !shard.has_ended()).collect();
        for (number, state) in after.portals.values().enumerate() {
            if state.listening.load(Ordering::Acquire) {
                continue;
            }
            let place = (state.address, state.interface.clone());
            if let (Some(listener), Some(shard)) = (
                held.sockets.get(&place),
                shards.get(number % shards.len().max(1)),
            ) {
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
        message::deliver(&self.inner.control.shards, &unit.gate, grants);
        // Whoever has the lock may wait for a disk that never answers: it is taken only where there
        // is something to change. What is looked at here, operators alone change.
        if news(config, unit, device).is_none() {
            return Ok(());
        }
        let durable = self.inner.control.locked(unit).await;
        let durable = durable.map_err(|Overdue| not_switched(&unit.name))?;
        let Some(applied) = news(config, unit, device) else {
            return Ok(());
        };
        let published = self.carry_out(unit, durable, applied).await;
        published.map_err(|failure| failed(&unit.name, failure))
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
    async fn retire(&self, unit: &Arc<LogicalUnit>) -> Result<(), Unstable> {
        let work = UnitWork {
            abort: Abort::All,
            ..UnitWork::new(unit)
        };
        let ended = self.inner.control.barrier(work).await;
        let stable = match ended {
            Ok(()) => self.make_stable(unit).await,
            Err(Overdue) => {
                let mut retired = self.inner.retired.lock();
                retired.retain(|unit| unit.strong_count() > 0);
                retired.push(Arc::downgrade(unit));
                Err(Unstable::Overdue)
            }
        };
        self.note_contents_lost(unit).await;
        // It goes on when it takes longer: once it is its turn, nobody writes the document after it.
        let closing = tokio::spawn(crate::control::close(Arc::clone(unit)));
        let closed = tokio::time::timeout(self.shared().drain_time, closing).await;
        match (stable, closed) {
            (Err(failed @ Unstable::Failed(_)), _) => Err(failed),
            (Ok(()), Ok(_)) => Ok(()),
            (Err(Unstable::Overdue), _) | (_, Err(_)) => Err(Unstable::Overdue),
        }
    }

    /// A RAM disk's contents end with its being served: should it come back under its name, it is
    /// empty and says so.
    async fn note_contents_lost(&self, unit: &Arc<LogicalUnit>) {
        let Ok(durable) = self.inner.control.locked(unit).await else {
            tracing::warn!(device = %unit.name, "an earlier write beside the device does not end");
            return;
        };
        let mut beside = durable.beside.clone();
        let Some(contents) = &mut beside.contents else {
            return;
        };
        if durable.store.is_none() {
            return;
        }
        contents.process.push_str(" (ended)");
        if let Err(error) = self.save(durable, beside).await {
            tracing::warn!(device = %unit.name, %error, "cannot write beside the device");
        }
    }
}

/// The unit with what the configuration says of it; `None` where it is like that already.
fn news(config: &Config, unit: &LogicalUnit, device: &Device) -> Option<Applied> {
    let now = unit.published();
    let exposure = Exposure::of(config, &device.name);
    let known = &now.identity;
    let identity = devices::identity(now.kind, known.serial.clone(), known.naa, &exposure);
    let (blocks, physical) = unit
        .disk()
        .map_or((now.blocks, now.physical_block_size), |disk| {
            (
                devices::blocks(disk.geometry(), device),
                devices::physical(disk.geometry(), device),
            )
        });
    let removable = device.removable || now.kind == scsi::Kind::Optical;
    let same_size = now.blocks == blocks && now.physical_block_size == physical;
    let same_inquiry = **known == identity && now.removable == removable;
    if same_size && same_inquiry {
        return None;
    }
    let mut applied = if same_size {
        nothing(&now)
    } else {
        scsi::change::resize(&now, blocks)
    };
    applied.unit.physical_block_size = physical;
    if !same_inquiry {
        let inquiry = (Selector::All, Attention::InquiryChanged);
        applied.attentions.push(inquiry);
    }
    applied.unit.identity = Arc::new(identity);
    applied.unit.removable = removable;
    Some(applied)
}

const fn stuck(what: String) -> ServiceError {
    ServiceError::Stuck { what }
}

/// Waits for all; gives one that did not end well.
async fn error_of(mut all: JoinSet<Result<(), ServiceError>>) -> Option<ServiceError> {
    let mut error = None;
    while let Some(one) = all.join_next().await {
        error = one.unwrap_or(Ok(())).err().or(error);
    }
    error
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Options;
    use crate::config::{Authentication, Backing, Lun, Target};
    use crate::service::ServiceError::{NotSwitched, Stuck};

    fn ram(name: &str) -> Device {
        let (size, block_size) = (1 << 20, 512);
        Device {
            removable: true,
            ..Device::new(name, Backing::Ram { size, block_size })
        }
    }

    /// Devices under a target.
    fn exposed(config: &Config) -> Config {
        let luns = config.devices.iter().zip(0..).map(|(device, number)| Lun {
            number,
            device: device.name.clone(),
            read_only: false,
        });
        let target = Target {
            name: "iqn.2026-11.test:target".to_owned(),
            alias: None,
            allow_multiple: true,
            portals: Vec::new(),
            authentication: Authentication::default(),
            luns: luns.collect(),
            access: Vec::new(),
        };
        Config {
            targets: vec![target],
            ..config.clone()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_document_that_is_never_written_holds_up_its_device_alone() {
        let directory = tempfile::tempdir().unwrap();
        let soon = Duration::from_millis(300);
        let options = Options {
            shards: 1,
            drain_time: soon,
            flush_time: soon,
            ..Options::new(directory.path())
        };
        let mut config = Config {
            devices: vec![ram("a"), ram("b")],
            ..Config::default()
        };
        let (sender, _notices) = tokio::sync::mpsc::channel(100);
        let started = Service::start(options, config.clone(), Secrets::new(), sender);
        let service = started.await.unwrap();
        let apply = |config: &Config| service.apply(config.clone(), Secrets::new());
        // Who writes beside a device has its lock.
        let unit = service.unit("a").unwrap();
        let writing = Arc::clone(&unit.durable).lock_owned().await;
        // Nothing changes about it: it is nobody's concern.
        config.devices.push(ram("c"));
        apply(&config).await.unwrap();
        for asked in [
            service.eject_device("a").await,
            service.clear_reservations("a").await,
        ] {
            let NotSwitched { what } = asked.unwrap_err() else {
                panic!("something else");
            };
            assert_eq!(what, "device a");
        }
        let mut through = config.clone();
        through.devices[0].cache = crate::config::CacheMode::WriteThrough;
        let refused = apply(&through).await;
        assert!(matches!(refused, Err(NotSwitched { .. })), "{refused:?}");
        assert_eq!(*service.config(), config);
        // Its new name waits; that of another one does not.
        config = exposed(&config);
        let overdue = apply(&config).await;
        assert!(matches!(overdue, Err(Stuck { .. })), "{overdue:?}");
        assert_eq!(*service.config(), config);
        let named = |device| {
            let unit = service.unit(device).unwrap();
            !unit.published().identity.target.is_empty()
        };
        assert!(named("b") && !named("a"));
        drop(writing);
        apply(&config).await.unwrap();
        assert!(named("a"), "the next change makes up for it");
        // It can be taken out all the same.
        let writing = Arc::clone(&unit.durable).lock_owned().await;
        config.targets.clear();
        config.devices.remove(0);
        let overdue = apply(&config).await;
        assert!(matches!(overdue, Err(Stuck { .. })), "{overdue:?}");
        assert_eq!(*service.config(), config);
        drop(writing);
        service.shutdown().await.unwrap();
    }
}
