//! A service over disks that refuse, hang, are full or broken, and tell so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use disk::{
    CacheMode, DeviceError, Disk, DiskError, Execution, Features, Geometry, Request, Wanted,
};
use parking_lot::{Condvar, Mutex};
use target::config::{Backing, Config, Lun};
use target::info::DeviceState;
use target::{Notice, Opener, Options, Secrets, Service, ServiceError};
use tokio::sync::mpsc;

use crate::support::{HANG, Initiator, cdb, config, free_port, ram, sense};

/// Closed, until it is opened.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// Whether it is closed, how many stand before it, and how many of these may pass.
    state: Mutex<(bool, usize, usize)>,
    moved: Condvar,
    /// Somebody else has what is behind it.
    pub(crate) is_taken: AtomicBool,
}

impl Door {
    pub(crate) fn close(&self) {
        self.state.lock().0 = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().0 = false;
        self.moved.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.moved.notify_all();
        while state.0 && state.2 == 0 {
            self.moved.wait(&mut state);
        }
        state.1 -= 1;
        state.2 = state.2.saturating_sub(1);
    }

    /// Of those that stand before it, or come.
    pub(crate) fn let_one_pass(&self) {
        self.state.lock().2 += 1;
        self.moved.notify_all();
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.state.lock().2 == 0
    }

    pub(crate) fn standing(&self) -> usize {
        self.state.lock().1
    }

    pub(crate) fn wait_for_somebody(&self) {
        let mut state = self.state.lock();
        while state.1 == 0 {
            let late = self.moved.wait_for(&mut state, HANG).timed_out();
            assert!(!late, "nobody came to the door");
        }
    }
}

/// The size that the settings give a device.
pub(crate) fn size_of(backing: &Backing) -> Option<u64> {
    match backing {
        Backing::Image { size, .. } | Backing::Ram { size, .. } => Some(*size),
        Backing::Block { .. } | Backing::Iso { .. } => None,
    }
}

/// A disk that does not do everything it is asked for.
#[derive(Debug)]
struct Moody {
    inner: Arc<dyn Disk>,
    mood: Arc<Mood>,
}

#[derive(Debug, Default)]
pub(crate) struct Mood {
    pub(crate) refuses_modes: AtomicBool,
    pub(crate) is_full: AtomicBool,
    pub(crate) loses_writes: AtomicBool,
    /// Only a disk that is opened anew is well again.
    pub(crate) is_broken: AtomicBool,
    pub(crate) flushing: Door,
    pub(crate) syncing: Door,
    /// Holds up the shard's whole thread.
    pub(crate) executing: Door,
    mode: Mutex<Option<CacheMode>>,
}

impl Disk for Moody {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn cache_mode(&self) -> CacheMode {
        self.inner.cache_mode()
    }

    fn execute(&self, io: &ring::Io, request: Request) -> Execution {
        self.mood.executing.pass();
        self.inner.execute(io, request)
    }

    fn broken(&self) -> Option<DiskError> {
        let is_broken = self.mood.is_broken.load(Ordering::Acquire);
        let broken = is_broken.then_some(DiskError::Io { errno: 5 });
        broken.or_else(|| self.inner.broken())
    }

    fn notes(&self) -> Vec<String> {
        vec!["it has moods".to_owned()]
    }

    fn sync_ahead(&self, mode: CacheMode) -> Result<(), DeviceError> {
        self.mood.syncing.pass();
        self.inner.sync_ahead(mode)
    }

    fn set_cache_mode(&self, mode: CacheMode, wanted: &Wanted) -> Result<(), DeviceError> {
        if self.mood.refuses_modes.load(Ordering::Acquire) {
            return Err(DeviceError::Mode {
                path: "/moody".into(),
                mode,
                reason: "it is not in the mood",
            });
        }
        self.inner.set_cache_mode(mode, wanted)?;
        *self.mood.mode.lock() = Some(mode);
        Ok(())
    }

    fn grow(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
        if self.mood.is_full.load(Ordering::Acquire) {
            return Err(DeviceError::NoSpace {
                path: "/moody".into(),
                need: 1,
            });
        }
        self.inner.grow(bytes)
    }

    fn flush_blocking(&self) -> Result<(), DeviceError> {
        self.mood.flushing.pass();
        if self.mood.loses_writes.load(Ordering::Acquire) {
            return Err(DeviceError::Sync {
                path: "/moody".into(),
                source: std::io::Error::other("gone with the wind"),
            });
        }
        self.inner.flush_blocking()
    }
}

type Moods = Arc<Mutex<BTreeMap<u64, Arc<Mood>>>>;

/// A service over moody disks.
pub(crate) struct Site {
    pub(crate) service: Service,
    address: std::net::SocketAddr,
    moods: Moods,
    pub(crate) opening: Arc<Door>,
    notices: mpsc::Receiver<Notice>,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) data_dir: PathBuf,
    _directory: tempfile::TempDir,
}

pub(crate) const A: u64 = 16 << 20;
pub(crate) const B: u64 = 8 << 20;
pub(crate) const SOON: Duration = Duration::from_millis(1500);

/// RAM disks `ram` and `b` as LUN 0 and 1.
pub(crate) fn two() -> Config {
    let mut config = config(free_port());
    config.devices.push(ram("b", B));
    config.targets[0].luns.push(Lun {
        number: 1,
        device: "b".to_owned(),
        read_only: false,
    });
    config
}

impl Site {
    pub(crate) fn start(config: Config) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    pub(crate) fn start_in(directory: tempfile::TempDir, config: Config) -> Self {
        Self::start_behind(directory, config, Arc::default())
    }

    /// Behind this door are all devices but the one of the size A.
    pub(crate) fn start_behind(
        directory: tempfile::TempDir,
        config: Config,
        opening: Arc<Door>,
    ) -> Self {
        Self::start_patiently(directory, config, opening, SOON)
    }

    /// As [`Self::start_behind`]; opening a device may take so long.
    pub(crate) fn start_patiently(
        directory: tempfile::TempDir,
        config: Config,
        opening: Arc<Door>,
        open_time: Duration,
    ) -> Self {
        let options = Options {
            shards: 1,
            drain_time: SOON,
            flush_time: SOON,
            open_time,
            ..Options::new(directory.path())
        };
        let moods = Moods::default();
        let (seen, door) = (Arc::clone(&moods), Arc::clone(&opening));
        let opener = Opener::new(
            move |backing: &Backing, mode| -> Result<Arc<dyn Disk>, DeviceError> {
                if door.is_taken.load(Ordering::SeqCst) && size_of(backing) != Some(A) {
                    let path = "/of/somebody".into();
                    return Err(DeviceError::Locked { path });
                }
                let inner = disk::open(backing, mode)?;
                let size = inner.geometry().bytes();
                if size != A {
                    door.pass();
                }
                let mood = Arc::<Mood>::default();
                *mood.mode.lock() = Some(mode);
                seen.lock().insert(size, Arc::clone(&mood));
                Ok(Arc::new(Moody { inner, mood }))
            },
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = config.portals[0].socket_address();
        let (sender, notices) = mpsc::channel(1024);
        let options = Options { opener, ..options };
        let service = runtime
            .block_on(Service::start(options, config, Secrets::new(), sender))
            .unwrap();
        Self {
            service,
            address,
            moods,
            opening,
            notices,
            runtime,
            data_dir: directory.path().to_owned(),
            _directory: directory,
        }
    }

    pub(crate) fn mood(&self, size: u64) -> Arc<Mood> {
        Arc::clone(&self.moods.lock()[&size])
    }

    pub(crate) fn mode(&self, size: u64) -> Option<CacheMode> {
        *self.mood(size).mode.lock()
    }

    pub(crate) fn now(&self) -> Config {
        Config::clone(&self.service.config())
    }

    pub(crate) fn apply(&self, config: &Config) -> Result<(), ServiceError> {
        self.runtime
            .block_on(self.service.apply(config.clone(), Secrets::new()))
    }

    pub(crate) fn load(&self, name: &str) -> Result<(), ServiceError> {
        self.runtime.block_on(self.service.load_device(name))
    }

    pub(crate) fn state(&self, name: &str) -> DeviceState {
        let devices = self.service.devices();
        let device = devices.into_iter().find(|device| device.name == name);
        device.unwrap().state
    }

    /// An initiator that has heard of its power-on.
    pub(crate) fn initiator(&self, name: &str) -> Initiator {
        let mut initiator = Initiator::connect(self.address, name, 1).unwrap();
        assert_eq!(sense(&initiator.run(cdb(&[0]), None, 0)).0, 6);
        initiator
    }

    pub(crate) fn told(&mut self, code: &str) -> usize {
        let mut count = 0;
        while let Ok(notice) = self.notices.try_recv() {
            count += usize::from(notice.code() == code);
        }
        count
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.opening.open();
        for mood in self.moods.lock().values() {
            mood.flushing.open();
            mood.syncing.open();
            mood.executing.open();
        }
        // What a test leaves stuck, it has looked at itself.
        let _ = self.runtime.block_on(self.service.shutdown());
    }
}

/// Makes a file of so many bytes, or cuts or lengthens the one that is there.
pub(crate) fn file(path: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    file.unwrap().set_len(bytes).unwrap();
}

/// A command for LUN 1.
pub(crate) fn lun1(
    initiator: &mut Initiator,
    bytes: &[u8],
    len: u32,
) -> (iscsi::initiator::Completion, Vec<u8>) {
    let task = initiator.submit_to(1 << 48, cdb(bytes), None, len);
    initiator.end_of(task)
}
