//! The whole load against our own target in this process, on a disk that lies now and then: each
//! kind of lie must be told as what it is, and without one there must be nothing to tell.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use disk::{
    CacheMode, Delay, DeviceError, Disk, Execution, Features, Geometry, Latency, Reply, Request,
    Wanted,
};
use loadgen::verify::{Mix, Options, Report, VerifyError, run};
use ring::{Buffer, Io};
use target::config::{AccessRule, Action, Backing, Config, Device, Lun, Portal, Target};
use target::{Opener, Secrets, Service};
use tokio::sync::mpsc;

const TARGET: &str = "iqn.2026-11.test:lying";
/// So many honest operations pass before a lie.
const EVERY: u32 = 500;
/// What counts as a hang here.
const HANG: Duration = Duration::from_secs(3);
const COUNTERS_END: u64 = loadgen::limits::COUNTERS * 512;

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lie {
    None,
    /// Nothing is wrong, but all takes its time.
    Slow,
    /// Acknowledged and not done.
    LostWrite,
    /// The second half of the last block is not written, but zeros.
    TornWrite,
    /// Written one block further on.
    MisdirectedWrite,
    /// Zeros in place of what is there.
    EmptyRead,
    /// A step of a counter is acknowledged and not done.
    LostStep,
    /// Unmapped blocks keep what they held.
    LostUnmap,
    /// One operation, once, ends only long after it counts as a hang.
    Forgotten,
}

#[derive(Debug)]
struct Liar {
    honest: Arc<dyn Disk>,
    lie: Lie,
    operations: AtomicU32,
}

impl Liar {
    /// Whether the lie is due for a request to which it applies.
    fn is_due(&self, request: &Request) -> bool {
        let (counter, applies) = match request {
            Request::Write { offset, .. } => {
                let counter = *offset < COUNTERS_END;
                let write = matches!(
                    self.lie,
                    Lie::LostWrite | Lie::TornWrite | Lie::MisdirectedWrite | Lie::Forgotten
                );
                (counter, write || (counter && self.lie == Lie::LostStep))
            }
            Request::Read { offset, .. } => (*offset < COUNTERS_END, self.lie == Lie::EmptyRead),
            Request::Unmap { .. } | Request::Zero { .. } => (false, self.lie == Lie::LostUnmap),
            Request::Flush | Request::Status { .. } => (false, false),
        };
        if !applies || (counter && self.lie != Lie::LostStep) {
            return false;
        }
        let count = self.operations.fetch_add(1, Ordering::Relaxed);
        match self.lie {
            Lie::Forgotten => count == EVERY,
            // There are few of these.
            Lie::LostUnmap | Lie::LostStep => count % 20 == 19,
            _ => count % EVERY == EVERY - 1,
        }
    }
}

impl Disk for Liar {
    fn geometry(&self) -> Geometry {
        self.honest.geometry()
    }

    fn features(&self) -> Features {
        self.honest.features()
    }

    fn cache_mode(&self) -> CacheMode {
        self.honest.cache_mode()
    }

    fn execute(&self, io: &Io, request: Request) -> Execution {
        if !self.is_due(&request) {
            return self.honest.execute(io, request);
        }
        match (self.lie, request) {
            (Lie::Forgotten, request) => {
                let (honest, io) = (Arc::clone(&self.honest), io.clone());
                Box::pin(async move {
                    io.sleep(3 * HANG).await;
                    honest.execute(&io, request).await
                })
            }
            (Lie::EmptyRead, Request::Read { mut buffer, .. }) => {
                buffer.fill(0);
                Box::pin(async { Ok(Reply::Read(buffer)) })
            }
            (
                Lie::TornWrite,
                Request::Write {
                    offset,
                    len,
                    buffer,
                    fua,
                },
            ) => {
                let mut torn = Buffer::zeroed(len);
                torn[..len - 256].copy_from_slice(&buffer[..len - 256]);
                let request = Request::Write {
                    offset,
                    len,
                    buffer: torn,
                    fua,
                };
                let done = self.honest.execute(io, request);
                Box::pin(async move { done.await.map(|_| Reply::Written(buffer)) })
            }
            (
                Lie::MisdirectedWrite,
                Request::Write {
                    offset,
                    len,
                    buffer,
                    fua,
                },
            ) => {
                let last = self.geometry().bytes() - len as u64;
                let offset = (offset + 512).min(last);
                let request = Request::Write {
                    offset,
                    len,
                    buffer,
                    fua,
                };
                self.honest.execute(io, request)
            }
            (_, Request::Write { buffer, .. }) => Box::pin(async { Ok(Reply::Written(buffer)) }),
            (_, Request::Read { buffer, .. }) => Box::pin(async { Ok(Reply::Read(buffer)) }),
            _ => Box::pin(async { Ok(Reply::Done) }),
        }
    }

    fn set_cache_mode(&self, mode: CacheMode, wanted: &Wanted) -> Result<(), DeviceError> {
        self.honest.set_cache_mode(mode, wanted)
    }

    fn grow(&self, bytes: Option<u64>) -> Result<Geometry, DeviceError> {
        self.honest.grow(bytes)
    }

    fn flush_blocking(&self) -> Result<(), DeviceError> {
        self.honest.flush_blocking()
    }
}

fn config(port: u16) -> Config {
    let backing = Backing::Ram {
        size: 24 << 20,
        block_size: 512,
    };
    Config {
        portals: vec![Portal {
            name: "lo".to_owned(),
            address: "127.0.0.1".parse().unwrap(),
            port,
            interface: None,
            group: 1,
            enabled: true,
        }],
        devices: vec![Device::new("ram", backing)],
        targets: vec![Target {
            name: TARGET.to_owned(),
            alias: None,
            allow_multiple: true,
            portals: Vec::new(),
            authentication: target::config::Authentication::default(),
            luns: vec![Lun {
                number: 0,
                device: "ram".to_owned(),
                read_only: false,
            }],
            access: vec![AccessRule {
                initiator: "*".to_owned(),
                network: None,
                portal: None,
                action: Action::Allow,
                luns: None,
                authentication: None,
            }],
        }],
        ..Config::default()
    }
}

/// Runs the load against a target whose disk tells this lie.
fn under(lie: Lie, options: impl FnOnce(SocketAddr) -> Options) -> Result<Report, VerifyError> {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let opener = Opener::new(move |backing, mode| -> Result<Arc<dyn Disk>, DeviceError> {
        let mut honest = disk::open(backing, mode)?;
        if lie == Lie::Slow {
            let latency = Latency {
                base: Duration::from_millis(250),
                jitter: Duration::from_millis(50),
            };
            honest = Arc::new(Delay::new(honest, latency, latency, 1));
        }
        Ok(Arc::new(Liar {
            honest,
            lie,
            operations: AtomicU32::new(0),
        }))
    });
    let service = target::Options {
        shards: 2,
        drain_time: 10 * HANG,
        opener,
        ..target::Options::new(directory.path())
    };
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let (sender, _notices) = mpsc::channel(1024);
    let service = runtime
        .block_on(Service::start(
            service,
            config(address.port()),
            Secrets::new(),
            sender,
        ))
        .unwrap();
    let result = run(&options(address));
    runtime.block_on(service.shutdown()).unwrap();
    result
}

fn options(portal: SocketAddr) -> Options {
    Options {
        portal,
        target: TARGET.to_owned(),
        lun: 0,
        chap: None,
        initiators: 4,
        depth: 8,
        time: Duration::from_secs(3),
        blocks: None,
        bytes: 512..=64 * 1024,
        mix: Mix::default(),
        kill_every: Duration::from_millis(150),
        reset_every: Duration::from_millis(100),
        away_max: Duration::ZERO,
        hang: HANG,
        seed: 7,
        adopt: false,
    }
}

/// The words of what is told of a lie.
fn told(lie: Lie) -> String {
    match under(lie, options) {
        Ok(report) => panic!("{lie:?} was not found: {report:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_honest_disk_has_nothing_to_tell() {
    let report = under(Lie::None, options).unwrap();
    assert!(
        report.reads > 0 && report.writes > 0 && report.unmaps > 0,
        "{report:?}"
    );
    assert!(report.increments > 0 && report.flushes > 0, "{report:?}");
    assert!(report.kills > 5 && report.functions > 5, "{report:?}");
    assert!(report.unknown > 0 && report.attentions > 0, "{report:?}");
    assert!(report.logins_with_digests > 0 && report.logins > report.logins_with_digests);
    assert_eq!(report.losses, 0);
    let owned = report.capacity_blocks - loadgen::limits::COUNTERS;
    assert!(report.verified_blocks >= owned, "{report:?}");
}

#[test]
fn a_reset_whose_answer_was_cut_off_explains_what_has_no_answer() {
    // It ends everybody's commands without a word, and the only one who knew of it is killed.
    let wild = |portal| Options {
        depth: 1,
        initiators: 8,
        time: Duration::from_secs(8),
        kill_every: Duration::from_millis(50),
        reset_every: Duration::from_millis(300),
        ..options(portal)
    };
    let report = under(Lie::Slow, wild).unwrap();
    assert!(report.kills > 5 && report.functions > 5, "{report:?}");
}

#[test]
fn lost_writes_are_told() {
    let told = told(Lie::LostWrite);
    assert!(told.contains("was acknowledged"), "{told}");
}

#[test]
fn torn_writes_are_told() {
    let told = told(Lie::TornWrite);
    assert!(told.contains("torn"), "{told}");
}

#[test]
fn misdirected_writes_are_told() {
    let told = told(Lie::MisdirectedWrite);
    let words = ["misdirected", "was acknowledged"];
    assert!(words.iter().any(|word| told.contains(word)), "{told}");
}

#[test]
fn reads_that_bring_nothing_are_told() {
    let told = told(Lie::EmptyRead);
    assert!(told.contains("write 0 was read"), "{told}");
}

#[test]
fn lost_increments_are_told() {
    let told = told(Lie::LostStep);
    assert!(told.contains("counter"), "{told}");
}

#[test]
fn unmaps_that_leave_data_are_told() {
    let told = told(Lie::LostUnmap);
    assert!(told.contains("write 0 was acknowledged"), "{told}");
}

#[test]
fn a_command_that_is_forgotten_is_a_hang_whatever_else_goes_on() {
    // Kills and resets go on all the time; they may not sweep it away.
    let slow = |portal| Options {
        time: Duration::from_secs(20),
        kill_every: Duration::from_secs(1),
        reset_every: Duration::from_secs(1),
        ..options(portal)
    };
    match under(Lie::Forgotten, slow) {
        // Itself; or what waits for it, where that began in its first second.
        Err(VerifyError::Hang { .. } | VerifyError::Away { .. }) => {}
        other => panic!("{other:?}"),
    }
}
