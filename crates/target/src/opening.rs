//! Devices are opened: each within a bound, none under the identity of another one.
//!
//! Opening waits for a disk, and a disk may not answer. At the start devices are opened beside each
//! other; what is overdue is served NOT READY under its own identity, where that can be read, and
//! loaded as soon as the disk answers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use disk::BesideStore;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::apply::{Ready, blocking};
use crate::config::{Backing, Config, Device};
use crate::devices::{self, Exposure};
use crate::limits;
use crate::notice::Notice;
use crate::provision::Fault;
use crate::service::{Inner, Service, ServiceError};
use crate::unit::LogicalUnit;

type Opened = Result<LogicalUnit, String>;

/// A device that could not be opened at the start, and what has to come first.
#[derive(Debug)]
pub(crate) enum Pending {
    /// The disk has not answered yet.
    Late(JoinHandle<Opened>),
    /// Somebody has it.
    InUse,
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
                    Some(other) => (Err(same_disk(&other)), None),
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
            ready
                .pending
                .extend(pending.map(|pending| (device.name.clone(), pending)));
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

    async fn open_first(&self, device: &Device, exposure: Exposure) -> (Opened, Option<Pending>) {
        let late = match self.open_within(device, &exposure).await {
            Ok(Outcome { opened, in_use }) => return (opened, in_use.then_some(Pending::InUse)),
            Err(late) => Pending::Late(late),
        };
        let reason = unanswered(self.inner.options.open_time);
        let (device, data_dir) = (device.clone(), self.inner.options.data_dir.clone());
        let assemble = move || devices::assemble(&device, Err(reason), &exposure, &data_dir);
        let opened = self.opening(assemble).await.and_then(|opened| opened);
        (opened, Some(late))
    }

    /// What was late or in use at the start is loaded once it answers or is free, unless nobody
    /// wants it any more: after a kill the kernel still holds a disk that has not answered, and no
    /// host may have to wait for a person because of that. Ends with the service.
    pub(crate) async fn load_by_itself(inner: Weak<Inner>, device: String, pending: Pending) {
        if let Pending::Late(late) = pending {
            // Closed here, whatever it is: time has passed, and it is opened as `load` does.
            drop(late.await);
        }
        loop {
            let Some(inner) = inner.upgrade() else { return };
            let service = Self { inner };
            match service.load_if_waiting(&device).await {
                Err(ServiceError::Device {
                    fault: Fault::InUse,
                    ..
                }) => {}
                Err(error) => return service.tell_failed(&device, &error.to_string()),
                Ok(()) => return,
            }
            drop(service);
            tokio::time::sleep(limits::IN_USE_RETRY).await;
        }
    }

    /// Opens a device beside others that are open.
    pub(crate) async fn open_device(
        &self,
        config: &Config,
        device: &Device,
        others: impl Iterator<Item = &Arc<LogicalUnit>>,
    ) -> Result<Arc<LogicalUnit>, String> {
        let exposure = Exposure::of(config, &device.name);
        let opened = self.open_within(device, &exposure).await;
        let outcome = opened.map_err(|_| unanswered(self.inner.options.open_time))?;
        let unit = outcome.opened?;
        alone(device, &unit, others)?;
        Ok(self.opened(unit))
    }

    fn opened(&self, unit: LogicalUnit) -> Arc<LogicalUnit> {
        let writers = unit.doubtful();
        if writers > 0 {
            self.shared().tell(Notice::WritesInDoubt {
                device: unit.name.clone(),
                writers,
            });
        }
        Arc::new(unit)
    }

    /// `Err`: not within the bound. What comes of it later has written nothing.
    async fn open_within(
        &self,
        device: &Device,
        exposure: &Exposure,
    ) -> Result<Outcome, JoinHandle<Opened>> {
        let (device, exposure) = (device.clone(), exposure.clone());
        let options = self.inner.options.clone();
        let given_up = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&given_up);
        let in_use = Arc::new(AtomicBool::new(false));
        let taken = Arc::clone(&in_use);
        let mut opening = spawn_blocking(move || {
            let opened = options.opener.open(&device.backing, device.cache);
            if seen.load(Ordering::Acquire) {
                return Err("nobody waits for it any more".to_owned());
            }
            let opened = opened.map_err(|error| {
                taken.store(devices::fault(&error) == Fault::InUse, Ordering::Release);
                devices::chain(&error)
            });
            devices::assemble(&device, opened, &exposure, &options.data_dir)
        });
        match timeout(self.inner.options.open_time, &mut opening).await {
            Ok(ended) => Ok(Outcome {
                opened: ended.unwrap_or_else(|error| Err(error.to_string())),
                in_use: in_use.load(Ordering::Acquire),
            }),
            Err(_) => {
                given_up.store(true, Ordering::Release);
                Err(opening)
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
    Some(durable.store.as_ref()?.path().to_path_buf())
}
