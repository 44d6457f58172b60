//! Devices are opened: each within a bound, none under the identity of another one.
//!
//! Opening waits for a disk, and a disk may not answer. At the start devices are opened beside each
//! other; what is overdue is served NOT READY under its own identity, where that can be read, and
//! loaded as soon as the disk answers. A thread that waits for a disk waits as long as that takes, so
//! there is one for each path at most ([`Opens`]).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use disk::{BesideStore, CacheMode, DeviceError, Disk};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::apply::{Ready, blocking, device_error};
use crate::config::{Backing, Config, Device};
use crate::devices::{self, Exposure};
use crate::limits;
use crate::load::Waiting;
use crate::notice::Notice;
use crate::provision::Fault;
use crate::service::{Inner, Opener, Service, ServiceError, not_switched};
use crate::unit::LogicalUnit;

type Opened = Result<LogicalUnit, String>;

/// Whose turn it is to open what lies at a path: one at a time, for what does not answer keeps its
/// thread.
#[derive(Debug, Default)]
pub(crate) struct Opens(Mutex<HashMap<PathBuf, Arc<Semaphore>>>);

impl Opens {
    fn turn(&self, device: &Device) -> Arc<Semaphore> {
        let place = device.backing.path();
        let place = place.map_or_else(|| PathBuf::from(&device.name), Path::to_path_buf);
        let mut turns = self.0.lock();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        let turn = turns.entry(place);
        Arc::clone(turn.or_insert_with(|| Arc::new(Semaphore::new(1))))
    }

    /// Whether somebody is opening it, maybe for as long as its disk does not answer.
    pub(crate) fn is_taken(&self, device: &Device) -> bool {
        self.turn(device).available_permits() == 0
    }
}

/// Why a device is not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    #[error("{}", unanswered(*.0))]
    Unanswered(Duration),
    #[error("an earlier try to open it has not ended; look at the disk or file system under it")]
    Earlier,
    #[error("{}", devices::chain(.0))]
    Refused(DeviceError),
    #[error("opening it was broken off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl NotOpened {
    /// Whether it may open by itself later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unanswered(_) | Self::Earlier => true,
            Self::Refused(error) => devices::fault(error) == Fault::InUse,
            Self::Broken(_) => false,
        }
    }

    pub(crate) fn of(&self, device: &Device) -> ServiceError {
        ServiceError::Device {
            device: device.name.clone(),
            reason: self.to_string(),
            fault: match self {
                Self::Refused(error) => devices::fault(error),
                Self::Unanswered(_) | Self::Earlier | Self::Broken(_) => Fault::Other,
            },
        }
    }
}

/// How long to wait for what is in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Patience {
    Some,
    None,
}

impl Patience {
    fn open(
        self,
        opener: &Opener,
        backing: &Backing,
        mode: CacheMode,
    ) -> Result<Arc<dyn Disk>, DeviceError> {
        match self {
            Self::Some => opener.open(backing, mode),
            Self::None => opener.open_now(backing, mode),
        }
    }
}

/// What came of opening within the bound.
struct Outcome {
    opened: Opened,
    /// Somebody has it, maybe an earlier run of ours whose last operations have not ended.
    in_use: bool,
}

impl Service {
    /// Opens what is found at the start, as far as it can be opened.
    pub(crate) async fn open_all(&self, config: &Config) -> Ready {
        let documents = self.documents(config).await;
        let mut opening = JoinSet::new();
        for (place, device) in config.devices.iter().enumerate() {
            let twin = documents[..place]
                .iter()
                .position(|other| other.is_some() && *other == documents[place]);
            let twin = twin.map(|other| config.devices[other].name.clone());
            let (service, exposure) = (self.clone(), Exposure::of(config, &device.name));
            let device = device.clone();
            opening.spawn(async move {
                let opened = match twin {
                    Some(other) => (Err(same_disk(&other)), false),
                    None => service.open_first(&device, exposure).await,
                };
                (place, opened)
            });
        }
        let mut all = opening.join_all().await;
        // The first of two that are the same stays.
        all.sort_by_key(|(place, _)| *place);
        let mut ready = Ready::default();
        for (device, (_, (opened, pending))) in config.devices.iter().zip(all) {
            if pending {
                ready.pending.push(device.name.clone());
            }
            let opened = opened.and_then(|unit| {
                alone(device, &unit, ready.units.values()).map(|()| self.opened(unit))
            });
            let trouble = match &opened {
                Ok(unit) => unit.trouble(),
                Err(reason) => Some(reason.clone()),
            };
            if let Some(reason) = trouble {
                self.tell_failed(&device.name, &reason);
            }
            match opened {
                Ok(unit) => {
                    ready.units.insert(device.name.clone(), unit);
                }
                Err(reason) => {
                    ready.failed.insert(device.name.clone(), reason);
                }
            }
        }
        ready
    }

    /// Where the documents of physical disks lie, in the order of the configuration: two that are
    /// the same disk must not even be opened beside each other. Images are kept apart by a lock.
    async fn documents(&self, config: &Config) -> Vec<Option<PathBuf>> {
        let mut asking = JoinSet::new();
        for (place, device) in config.devices.iter().enumerate() {
            if !matches!(device.backing, Backing::Block { .. }) {
                continue;
            }
            let (service, device) = (self.clone(), device.clone());
            asking.spawn(async move {
                let data_dir = service.inner.options.data_dir.clone();
                let store =
                    move || BesideStore::for_device(&device.backing, &device.name, &data_dir).ok();
                let store = service.opening(store).await.ok().flatten();
                (place, store.map(|store| store.path().to_path_buf()))
            });
        }
        let mut documents = vec![None; config.devices.len()];
        for (place, document) in asking.join_all().await {
            documents[place] = document;
        }
        documents
    }

    /// `true`: it is late or in use, and loaded by itself later.
    async fn open_first(&self, device: &Device, exposure: Exposure) -> (Opened, bool) {
        let bound = self.inner.options.open_time;
        let (backed, data_dir) = (device.clone(), self.inner.options.data_dir.clone());
        let shown = exposure.clone();
        let unopened =
            |reason: String| move || devices::assemble(&backed, Err(reason), &shown, &data_dir);
        // Nobody is served before all are opened or given up, so there is one bound for both: what
        // is late is looked at while it is still being opened.
        let mut opening = Box::pin(self.open_within(device, &exposure, Patience::Some));
        let (outcome, known) = match timeout(bound / 2, &mut opening).await {
            Ok(Ok(Outcome { opened, in_use })) => return (opened, in_use),
            Ok(Err(reason)) => {
                let unopened = unopened(reason.to_string());
                (Err(reason), within(bound / 2, unopened).await)
            }
            Err(_) => {
                let unopened = unopened(unanswered(bound));
                tokio::join!(opening, within(bound / 2, unopened))
            }
        };
        let reason = match outcome {
            Ok(Outcome { opened, in_use }) => return (opened, in_use),
            Err(reason) => reason,
        };
        let opened = known.map_err(|_| reason.to_string()).and_then(|unit| unit);
        (opened, reason.may_pass())
    }

    /// What was late or in use at the start is loaded once it answers or is free, unless nobody
    /// wants it any more: after a kill the kernel still holds a disk that has not answered, and no
    /// host may have to wait for a person because of that. Ends with the service.
    pub(crate) async fn load_by_itself(inner: Weak<Inner>, device: String) {
        loop {
            let Some(inner) = inner.upgrade() else { return };
            let service = Self { inner };
            match service.load_if_waiting(&device).await {
                Ok(Waiting::Over) => return,
                Ok(Waiting::Still) => {}
                Err(error) => return service.tell_failed(&device, &error.to_string()),
            }
            drop(service);
            tokio::time::sleep(limits::OPEN_RETRY).await;
        }
    }

    /// Opens a device beside others that are open.
    pub(crate) async fn open_device(
        &self,
        config: &Config,
        device: &Device,
        others: impl Iterator<Item = &Arc<LogicalUnit>>,
        patience: Patience,
    ) -> Result<Arc<LogicalUnit>, String> {
        let exposure = Exposure::of(config, &device.name);
        let outcome = self.open_within(device, &exposure, patience).await;
        let outcome = outcome.map_err(|reason| reason.to_string())?;
        let unit = outcome.opened?;
        alone(device, &unit, others)?;
        Ok(self.opened(unit))
    }

    /// The same with what [`Service::open_disk`] has opened.
    pub(crate) async fn adopt_device(
        &self,
        config: &Config,
        device: &Device,
        disk: Arc<dyn Disk>,
        others: impl Iterator<Item = &Arc<LogicalUnit>>,
    ) -> Result<Arc<LogicalUnit>, ServiceError> {
        let (backed, exposure) = (device.clone(), Exposure::of(config, &device.name));
        let data_dir = self.inner.options.data_dir.clone();
        let assemble = move || devices::assemble(&backed, Ok(disk), &exposure, &data_dir);
        let unit = self.opening(assemble).await;
        let unit = unit.map_err(|_| not_switched(&device.name))?;
        let unit = unit.map_err(|reason| device_error(device, reason))?;
        alone(device, &unit, others).map_err(|reason| device_error(device, reason))?;
        Ok(self.opened(unit))
    }

    fn opened(&self, unit: LogicalUnit) -> Arc<LogicalUnit> {
        self.tell_doubt(&unit);
        Arc::new(unit)
    }

    pub(crate) fn tell_doubt(&self, unit: &LogicalUnit) {
        let writers = unit.doubtful();
        if writers > 0 {
            self.shared().tell(Notice::WritesInDoubt {
                device: unit.name.clone(),
                writers,
            });
        }
    }

    async fn open_within(
        &self,
        device: &Device,
        exposure: &Exposure,
        patience: Patience,
    ) -> Result<Outcome, NotOpened> {
        let (backed, exposure) = (device.clone(), exposure.clone());
        let options = self.inner.options.clone();
        self.open_alone(device, move |given_up| {
            let opened = patience.open(&options.opener, &backed.backing, backed.cache);
            let in_use = matches!(&opened, Err(error) if devices::fault(error) == Fault::InUse);
            let opened = if given_up.load(Ordering::Acquire) {
                Err("nobody waits for it any more".to_owned())
            } else {
                let opened = opened.map_err(|error| devices::chain(&error));
                devices::assemble(&backed, opened, &exposure, &options.data_dir)
            };
            Outcome { opened, in_use }
        })
        .await
    }

    /// Opens what a device is made of, and looks at nothing beside it.
    pub(crate) async fn open_disk(
        &self,
        device: &Device,
        patience: Patience,
    ) -> Result<Arc<dyn Disk>, NotOpened> {
        let (backing, mode) = (device.backing.clone(), device.cache);
        let opener = self.inner.options.opener.clone();
        let open = move |_: &AtomicBool| patience.open(&opener, &backing, mode);
        let opened = self.open_alone(device, open).await?;
        opened.map_err(NotOpened::Refused)
    }

    /// Runs what waits for a device that is opened, within the bound, when nothing else waits for it.
    /// Past the bound it goes on, and keeps the turn: what comes of it is dropped.
    pub(crate) async fn open_alone<T: Send + 'static>(
        &self,
        device: &Device,
        open: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, NotOpened> {
        let bound = self.inner.options.open_time;
        let turn = self.inner.opens.turn(device).acquire_owned();
        // Turns are never closed.
        let Ok(Ok(turn)) = timeout(bound, turn).await else {
            return Err(NotOpened::Earlier);
        };
        let given_up = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&given_up);
        let opening = spawn_blocking(move || {
            let _turn = turn;
            open(&seen)
        });
        match timeout(bound, opening).await {
            Ok(opened) => Ok(opened?),
            Err(_) => {
                given_up.store(true, Ordering::Release);
                Err(NotOpened::Unanswered(bound))
            }
        }
    }

    /// Runs what looks for a device, within the bound.
    pub(crate) async fn opening<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        within(self.inner.options.open_time, open).await
    }

    pub(crate) fn tell_failed(&self, device: &str, reason: &str) {
        self.shared().tell(Notice::DeviceFailed {
            device: device.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

/// Runs what waits for a disk, within a bound. Past it nobody waits any more; it goes on.
pub(crate) async fn within<T: Send + 'static>(
    bound: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    timeout(bound, blocking(work))
        .await
        .unwrap_or_else(|_| Err(unanswered(bound)))
}

pub(crate) fn unanswered(bound: Duration) -> String {
    let seconds = bound.as_secs_f32();
    format!("no answer for {seconds} seconds; look at the disk or file system under it")
}

/// Refuses a device that has the identity of another one: it is the same disk under another path,
/// whose writes the one's gate would not know of the other's, or a copy, document and all, which
/// initiators would take for a second path to the first.
fn alone<'a>(
    device: &Device,
    unit: &LogicalUnit,
    mut others: impl Iterator<Item = &'a Arc<LogicalUnit>>,
) -> Result<(), String> {
    let own = document(unit);
    let is_same = |other: &&Arc<LogicalUnit>| {
        let (a, b) = (unit.published(), other.published());
        let (a, b) = (&a.identity, &b.identity);
        a.naa == b.naa || a.serial == b.serial || (own.is_some() && own == document(other))
    };
    let Some(other) = others.find(is_same) else {
        return Ok(());
    };
    let other = &other.name;
    if matches!(device.backing, Backing::Block { .. }) {
        return Err(same_disk(other));
    }
    let copy = own.map_or_else(String::new, |path| format!(" {}", path.display()));
    Err(format!(
        "it has the serial number of the device {other}, as a copy has whose document was copied \
         with it: remove the copy's document{copy}, and it gets an identity of its own"
    ))
}

fn same_disk(other: &str) -> String {
    format!("it is the same disk as that of the device {other}; remove one of the two")
}

/// Where the document beside a device lies; unknown while it is being written.
fn document(unit: &LogicalUnit) -> Option<PathBuf> {
    let durable = unit.durable.try_lock().ok()?;
    Some(durable.path.clone())
}
