//! The handle to the running service: start, apply, look, stop.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use disk::{Backing, CacheMode, DeviceError, Disk};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::check::ConfigError;
use crate::config::Config;
use crate::control::{Control, Failure, Shared};
use crate::devices;
use crate::exports::Exports;
use crate::info::{DeviceInfo, PortalInfo, SessionInfo, Status};
use crate::limits;
use crate::listeners::Listeners;
use crate::notice::Notice;
use crate::opening::Opens;
use crate::provision::{Fault, FileId};
use crate::secrets::Secrets;
use crate::shard;
use crate::unit::LogicalUnit;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where identities and reservations of devices lie that have no place beside themselves.
    pub data_dir: PathBuf,
    /// Shards; 0 = one for each core the process may use.
    pub shards: usize,
    /// Forces an I/O driver.
    pub driver: Option<ring::DriverKind>,
    /// How long an idle shard polls before it sleeps.
    pub spin: Duration,
    /// Buffer memory of each shard in bytes; 0 = [`limits::POOL_BYTES_PER_SHARD`].
    pub pool_bytes_per_shard: usize,
    /// How long a change waits for commands that it must outlive; see [`limits::DRAIN_TIME_MAX`].
    pub drain_time: Duration,
    /// How long a device that is taken out, or the service when it stops, waits for the last flush;
    /// see [`limits::FLUSH_TIME_MAX`].
    pub flush_time: Duration,
    /// How long opening a device may take; see [`limits::OPEN_TIME_MAX`].
    pub open_time: Duration,
    /// How devices are opened.
    pub opener: Opener,
}

impl Options {
    /// The usual ones.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            shards: 0,
            driver: None,
            spin: Duration::ZERO,
            pool_bytes_per_shard: 0,
            drain_time: limits::DRAIN_TIME_MAX,
            flush_time: limits::FLUSH_TIME_MAX,
            open_time: limits::OPEN_TIME_MAX,
            opener: Opener::default(),
        }
    }
}

type Open = dyn Fn(&Backing, CacheMode) -> Result<Arc<dyn Disk>, DeviceError> + Send + Sync;
type MayServe = dyn Fn(&Path, FileId) -> Result<(), String> + Send + Sync;

/// Opens devices: [`disk::open`], or something around it that decorates what was opened.
#[derive(Clone)]
pub struct Opener {
    patient: Arc<Open>,
    at_once: Arc<Open>,
}

impl Opener {
    /// Opens with a function of the caller's.
    pub fn new(
        open: impl Fn(&Backing, CacheMode) -> Result<Arc<dyn Disk>, DeviceError> + Send + Sync + 'static,
    ) -> Self {
        let open: Arc<Open> = Arc::new(open);
        Self {
            patient: Arc::clone(&open),
            at_once: open,
        }
    }

    /// Opens only what may be served. `may_serve` is asked at every opening of an image or ISO image:
    /// with its path in the configuration, and with the file that was opened, for who may write to
    /// its folder can have put another file, or a link to one, in its place. It says why not, and
    /// what to do.
    #[must_use]
    pub fn checked(
        self,
        may_serve: impl Fn(&Path, FileId) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let may_serve: Arc<MayServe> = Arc::new(may_serve);
        let checked = |open: Arc<Open>| -> Arc<Open> {
            let may_serve = Arc::clone(&may_serve);
            Arc::new(move |backing, mode| {
                let disk = open(backing, mode)?;
                judge(backing, disk.as_ref(), &*may_serve)?;
                Ok(disk)
            })
        };
        Self {
            patient: checked(self.patient),
            at_once: checked(self.at_once),
        }
    }

    pub(crate) fn open(
        &self,
        backing: &Backing,
        mode: CacheMode,
    ) -> Result<Arc<dyn Disk>, DeviceError> {
        (self.patient)(backing, mode)
    }

    /// Without waiting for what is in use.
    pub(crate) fn open_now(
        &self,
        backing: &Backing,
        mode: CacheMode,
    ) -> Result<Arc<dyn Disk>, DeviceError> {
        (self.at_once)(backing, mode)
    }
}

fn judge(backing: &Backing, disk: &dyn Disk, may_serve: &MayServe) -> Result<(), DeviceError> {
    let (Some(path), Some(file)) = (backing.path(), disk.file()) else {
        return Ok(());
    };
    let refused = |reason| DeviceError::Refused {
        path: path.into(),
        reason,
    };
    may_serve(path, file).map_err(refused)?;
    // Judged was the file. One that was exchanged meanwhile may have been something else when it
    // was opened.
    if FileId::at(path).ok() == Some(file) {
        return Ok(());
    }
    let reason = "another file came to its place while it was opened; look at who writes to its \
                  folder, then load the device";
    Err(refused(reason.to_owned()))
}

impl Default for Opener {
    fn default() -> Self {
        Self {
            patient: Arc::new(disk::open),
            at_once: Arc::new(disk::open_now),
        }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

/// What the service could not do. Nothing has changed then, unless the variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The configuration is wrong in itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A device cannot be opened or changed.
    #[error("device {device}: {reason}")]
    Device {
        /// The device.
        device: String,
        /// Why, and what to do.
        reason: String,
        /// What is wrong, for programs.
        fault: Fault,
    },
    /// A portal cannot listen.
    #[error(
        "portal {portal} cannot listen on {address}; choose another address or port, or stop what uses it"
    )]
    Listen {
        /// The portal.
        portal: String,
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not while persistent reservations exist.
    #[error(
        "device {device}: {what} is refused while initiators hold persistent reservations \
         ({holders}); have them released, or clear them"
    )]
    Reserved {
        /// The device.
        device: String,
        /// What was asked.
        what: &'static str,
        /// Initiators that are registered.
        holders: String,
    },
    /// There is no such thing.
    #[error("there is no {what} named {name}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// The name given.
        name: String,
    },
    /// What the change has to wait for did not end in time: commands, or the document beside a
    /// device. The change holds, or comes to hold as soon as the disk answers.
    #[error(
        "{what}: what the change waits for did not end in time; look at the disk under the device"
    )]
    Stuck {
        /// The device or session.
        what: String,
    },
    /// A device was taken out, and what its cache held could not be made stable. The change holds.
    #[error(
        "device {device} was taken out, but its last flush failed ({reason}); treat what was written \
         since the last successful one as lost"
    )]
    Unflushed {
        /// The device.
        device: String,
        /// Why.
        reason: String,
    },
    /// Commands, or an earlier change of the device, did not end in time, and so the change was
    /// given up.
    #[error(
        "{what}: running commands or an earlier change do not end, so nothing was changed; look at \
         the disk under the device"
    )]
    NotSwitched {
        /// The device.
        what: String,
    },
    /// A change was given up, but not all that was done for it could be taken back.
    #[error(
        "{cause}; the cache mode of {devices} was changed by then and could not be put back \
         ({reason}): the next change of the settings puts it right"
    )]
    NotUndone {
        /// Why the change was given up.
        cause: String,
        /// The devices.
        devices: String,
        /// Why one of them could not be put back.
        reason: String,
    },
    /// A device that was served, but gone or not flushed, was to be opened anew, and could not be: it
    /// is not served now.
    #[error(
        "device {device} was closed to be opened anew, and its LUN is not ready until that succeeds: \
         {reason}"
    )]
    LoadFailed {
        /// The device.
        device: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The shards could not be started.
    #[error("the data path cannot start: {reason}")]
    Start {
        /// Why, and what to do.
        reason: String,
    },
}

/// The running service. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) control: Control,
    pub(crate) options: Options,
    /// The turn among operators: held along everything that one asks for. With it goes what the
    /// portals listen on, which changes in no other way.
    pub(crate) operators: Arc<tokio::sync::Mutex<Listeners>>,
    pub(crate) opens: Opens,
    /// What was taken out and had commands that did not end; a stop names what still has.
    pub(crate) retired: Mutex<Vec<Weak<LogicalUnit>>>,
    started: Instant,
    kind: ring::DriverKind,
    ring_reason: Option<String>,
    pub(crate) threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    pub(crate) stopping: AtomicBool,
}

impl Service {
    /// Starts shards, opens devices and listens. A device that cannot be opened leaves its LUN NOT
    /// READY, a portal that cannot listen is left out; both are told as notices, and the rest is
    /// served. Must be called within a tokio runtime, which then runs the control plane.
    ///
    /// # Errors
    /// [`ServiceError::Config`] and [`ServiceError::Start`].
    pub async fn start(
        options: Options,
        config: Config,
        secrets: Secrets,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Self, ServiceError> {
        Self::check(&config, &|name| secrets.contains(name))?;
        let started = start_shards(&options)?;
        let kind = started
            .first()
            .map_or(ring::DriverKind::Epoll, |shard| shard.kind);
        let shards: Arc<[_]> = started.iter().map(|shard| shard.handle.clone()).collect();
        let (control_in, control_out) = mpsc::channel(limits::CONTROL_INBOX);
        let shared = Arc::new(Shared::new(
            Exports::default(),
            notices,
            clock,
            options.drain_time,
        ));
        let mut threads = Vec::new();
        for shard in started {
            let links = shard::Links {
                shared: Arc::clone(&shared),
                control: control_in.clone(),
                peers: Arc::clone(&shards),
            };
            if shard.links.send(links).is_err() {
                return Err(ServiceError::Start {
                    reason: "a shard ended at its start".to_owned(),
                });
            }
            threads.push(shard.thread);
        }
        drop(control_in);
        let control = Control { shared, shards };
        tokio::spawn(control.clone().run(control_out));
        let service = Self {
            inner: Arc::new(Inner {
                control,
                options,
                operators: Arc::default(),
                opens: Opens::default(),
                retired: Mutex::default(),
                started: clock(),
                kind,
                ring_reason: ring::probe().uring.err(),
                threads: Mutex::new(threads),
                stopping: AtomicBool::new(false),
            }),
        };
        service.serve_first(config, secrets).await;
        tokio::spawn(Self::revive_portals(Arc::downgrade(&service.inner)));
        Ok(service)
    }

    /// Checks what can be known to be wrong without touching anything.
    ///
    /// # Errors
    /// The first thing found wrong, with its path.
    pub fn check(config: &Config, secret_exists: &dyn Fn(&str) -> bool) -> Result<(), ConfigError> {
        crate::check::check(config, secret_exists)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.control.shared
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.shared().exports.load().config)
    }

    /// Sessions now.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.shared().registry.list(clock())
    }

    /// Devices, in the order of the configuration.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let exports = self.shared().exports.load();
        let line = |device: &crate::config::Device| match exports.units.get(&device.name) {
            Some(unit) => devices::info(device, unit),
            None => {
                let reason = exports.failed.get(&device.name);
                devices::failed_info(device, reason.map_or("unknown", String::as_str))
            }
        };
        exports.config.devices.iter().map(line).collect()
    }

    /// The image file that the service has, or had last, open as a device: what is at the device's
    /// path may be another one by now. `None` for other kinds, and where it never was open.
    pub fn file_of(&self, device: &str) -> Option<FileId> {
        let exports = self.shared().exports.load();
        exports.units.get(device)?.file()
    }

    /// Portals, in the order of the configuration.
    pub fn portals(&self) -> Vec<PortalInfo> {
        let exports = self.shared().exports.load();
        let line = |portal: &crate::config::Portal| {
            let state = exports.portals.get(&portal.name);
            PortalInfo {
                name: portal.name.clone(),
                address: portal.socket_address(),
                group: portal.group,
                enabled: portal.enabled,
                listening: state.is_some_and(|state| state.listening.load(Ordering::Acquire)),
                connections: state.map_or(0, |state| state.connections.load(Ordering::Relaxed)),
            }
        };
        exports.config.portals.iter().map(line).collect()
    }

    /// The service as a whole.
    pub fn status(&self) -> Status {
        Status {
            shards: self.inner.control.shards.len(),
            ring: self.inner.kind.to_string(),
            ring_reason: self.inner.ring_reason.clone(),
            uptime_seconds: clock()
                .saturating_duration_since(self.inner.started)
                .as_secs(),
            sessions: self.shared().registry.len(),
            notices_dropped: self.shared().notices_dropped.load(Ordering::Relaxed),
        }
    }

    /// Ends a session and waits until its last command has ended.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Stuck`].
    pub async fn drop_session(&self, tsih: u16) -> Result<(), ServiceError> {
        let session = self
            .shared()
            .registry
            .find(tsih)
            .ok_or_else(|| ServiceError::NotFound {
                what: "session",
                name: tsih.to_string(),
            })?;
        self.inner
            .control
            .end_session(tsih, session.shard, "an administrator ended it")
            .await
            .map_err(|_| ServiceError::Stuck {
                what: format!("session {tsih}"),
            })
    }

    pub(crate) fn unit(&self, device: &str) -> Result<Arc<LogicalUnit>, ServiceError> {
        let exports = self.shared().exports.load();
        if let Some(unit) = exports.units.get(device) {
            return Ok(Arc::clone(unit));
        }
        Err(match exports.failed.get(device) {
            Some(reason) => ServiceError::Device {
                device: device.to_owned(),
                reason: reason.clone(),
                fault: Fault::Other,
            },
            None => ServiceError::NotFound {
                what: "device",
                name: device.to_owned(),
            },
        })
    }
}

/// What was asked of a device came to nothing: its lock was not to be had.
pub(crate) fn not_switched(device: &str) -> ServiceError {
    ServiceError::NotSwitched {
        what: format!("device {device}"),
    }
}

/// A change of a unit that was not carried out to its end, as an operator's change.
pub(crate) fn failed(device: &str, failure: Failure) -> ServiceError {
    match failure {
        Failure::NotSaved(reason) => ServiceError::Device {
            device: device.to_owned(),
            reason,
            fault: Fault::Other,
        },
        Failure::Overdue => ServiceError::Stuck {
            what: format!("device {device}"),
        },
    }
}

#[expect(clippy::disallowed_methods, reason = "the service's one clock")]
fn clock() -> Instant {
    Instant::now()
}

fn start_shards(options: &Options) -> Result<Vec<shard::Started>, ServiceError> {
    let cores = allowed_cores();
    let count = match options.shards {
        0 => cores.len().max(1),
        count => count,
    };
    if count > limits::SHARDS_MAX {
        let reason = format!(
            "{count} shards; at most {} are possible",
            limits::SHARDS_MAX
        );
        return Err(ServiceError::Start { reason });
    }
    let pool_bytes = match options.pool_bytes_per_shard {
        0 => limits::POOL_BYTES_PER_SHARD,
        bytes => bytes,
    };
    (0..count)
        .map(|index| {
            // With fewer cores than shards the scheduler knows better than we do.
            let core = (count <= cores.len()).then(|| cores[index]);
            let ring = ring::Options {
                driver: options.driver,
                spin: options.spin,
                entries: ring::limits::ENTRIES_MAX,
                ..ring::Options::default()
            };
            shard::start(shard::Setup {
                index,
                ring,
                pool_bytes,
                core,
            })
            .map_err(|reason| ServiceError::Start { reason })
        })
        .collect()
}

fn allowed_cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}
