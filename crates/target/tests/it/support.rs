//! A service in this process, and small blocking initiators on our own engine.

#![expect(
    clippy::disallowed_methods,
    reason = "the initiators of these tests live on the system's clock"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::fault::Rule;
use disk::{DeviceError, Disk, Fault, OpKind};
use iscsi::initiator::{
    Cdb, Completion, Connection, Event, Request, Settings, TaskId, TmfFunction, TmfResponse,
};
use parking_lot::Mutex;
use target::config::{AccessRule, Action, Backing, Config, Device, Lun, Portal, Target};
use target::{Notice, Opener, Options, Secrets, Service};
use tokio::sync::mpsc;

/// The target of these tests.
pub(crate) const TARGET: &str = "iqn.2026-11.test:target";
/// Nothing here takes longer unless it hangs.
pub(crate) const HANG: Duration = Duration::from_secs(20);
/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

/// A running service with one RAM disk as LUN 0 behind a fault decorator.
pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) address: SocketAddr,
    pub(crate) fault: Arc<Fault>,
    _notices: mpsc::Receiver<Notice>,
    pub(crate) runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A configuration with a RAM disk `ram` as LUN 0 for everybody.
pub(crate) fn config(port: u16) -> Config {
    Config {
        portals: vec![Portal {
            name: "lo".to_owned(),
            address: "127.0.0.1".parse().unwrap(),
            port,
            interface: None,
            group: 1,
            enabled: true,
        }],
        devices: vec![ram("ram", 16 << 20)],
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
            access: vec![rule("*", Action::Allow)],
        }],
        ..Config::default()
    }
}

pub(crate) fn ram(name: &str, size: u64) -> Device {
    let backing = Backing::Ram {
        size,
        block_size: 512,
    };
    Device::new(name, backing)
}

pub(crate) fn rule(initiator: &str, action: Action) -> AccessRule {
    AccessRule {
        initiator: initiator.to_owned(),
        network: None,
        portal: None,
        action,
        luns: None,
        authentication: None,
    }
}

impl World {
    /// Starts with the given bound for waiting on commands.
    pub(crate) fn start(drain_time: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, drain_time, config(free_port()))
    }

    pub(crate) fn start_in(
        directory: tempfile::TempDir,
        drain_time: Duration,
        config: Config,
    ) -> Self {
        let options = Options {
            shards: 2,
            drain_time,
            ..Options::new(directory.path())
        };
        Self::start_with(directory, options, config)
    }

    pub(crate) fn start_with(
        directory: tempfile::TempDir,
        options: Options,
        config: Config,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let place: Arc<Mutex<Option<Arc<Fault>>>> = Arc::default();
        let seen = Arc::clone(&place);
        let opener = Opener::new(
            move |backing: &Backing, mode| -> Result<Arc<dyn Disk>, DeviceError> {
                let fault = Arc::new(Fault::new(disk::open(backing, mode)?));
                seen.lock().get_or_insert_with(|| Arc::clone(&fault));
                Ok(fault)
            },
        );
        let options = Options { opener, ..options };
        let address = config.portals[0].socket_address();
        let (sender, notices) = mpsc::channel(1024);
        let service = runtime
            .block_on(Service::start(options, config, Secrets::new(), sender))
            .unwrap();
        let fault = place.lock().take().unwrap();
        Self {
            service,
            address,
            fault,
            _notices: notices,
            runtime,
            _directory: directory,
        }
    }

    /// An initiator that is logged in and has its power-on attention behind it.
    pub(crate) fn initiator(&self, name: &str) -> Initiator {
        let mut initiator = Initiator::connect(self.address, name, 1).unwrap();
        let first = initiator.run(cdb(&[0]), None, 0);
        assert_eq!(first.status, 2, "the power-on attention");
        initiator
    }

    /// A write of block 0 that is on the disk, and stays there until the fault is released.
    pub(crate) fn stalled_write(&self, initiator: &mut Initiator) -> TaskId {
        let stall = Rule::next(OpKind::Write, disk::fault::Action::Stall);
        self.fault.add(stall).unwrap();
        let write = initiator.submit(write10(0, 1), Some(block(0xaa)), 0);
        self.wait_for("the stalled write", || self.fault.stalled() == 1);
        write
    }

    /// Waits until a condition holds.
    pub(crate) fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_for(what, condition);
    }
}

/// Waits, within a bound, until a condition holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + HANG;
    while !condition() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::yield_now();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.fault.release();
        // What a test leaves stuck, it has looked at itself.
        let _ = self.runtime.block_on(self.service.shutdown());
    }
}

/// A CDB of 16 bytes from its first ones.
pub(crate) fn cdb(bytes: &[u8]) -> Cdb {
    let mut all = [0; 16];
    all[..bytes.len()].copy_from_slice(bytes);
    Cdb::new(all)
}

/// READ(10) and WRITE(10).
pub(crate) fn read10(lba: u32, blocks: u16) -> Cdb {
    rw10(0x28, lba, blocks)
}

pub(crate) fn write10(lba: u32, blocks: u16) -> Cdb {
    rw10(0x2a, lba, blocks)
}

fn rw10(opcode: u8, lba: u32, blocks: u16) -> Cdb {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = blocks.to_be_bytes();
    cdb(&[opcode, 0, a, b, c, d, 0, e, f])
}

/// PERSISTENT RESERVE OUT and its parameter list.
pub(crate) fn reserve_out(
    action: u8,
    kind: u8,
    key: u64,
    service_key: u64,
    aptpl: bool,
) -> (Cdb, Vec<u8>) {
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&service_key.to_be_bytes());
    list[20] = u8::from(aptpl);
    (cdb(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24]), list)
}

#[derive(Default)]
struct Wire(Vec<u8>);

impl iscsi::Output for Wire {
    type Payload = Arc<[u8]>;

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn payload(&mut self, payload: Arc<[u8]>, range: Range<usize>) {
        self.0.extend_from_slice(&payload[range]);
    }
}

/// What an initiator got.
#[derive(Debug)]
pub(crate) enum Answer {
    Done(Completion, Vec<u8>),
    Function(Option<TmfResponse>),
}

/// A normal login with nothing to prove.
pub(crate) fn settings(name: &str, isid: u8) -> Settings {
    let name = format!("iqn.2026-11.test:{name}");
    Settings::new(&name, TARGET, [0x80, 0, 0, 0, 0, isid])
}

/// One session over a blocking socket.
pub(crate) struct Initiator {
    stream: TcpStream,
    engine: Connection<Arc<[u8]>>,
    input: Vec<u8>,
    data: std::collections::HashMap<TaskId, Vec<u8>>,
    answers: Vec<(TaskId, Answer)>,
    login: Option<Result<(), String>>,
    closed: bool,
}

impl Initiator {
    /// Connects and logs in; `Err` has what the target said.
    pub(crate) fn connect(address: SocketAddr, name: &str, isid: u8) -> Result<Self, String> {
        let mut initiator = Self::begin(address, name, isid);
        initiator.outcome().map(|()| initiator)
    }

    /// Connects and starts a login without waiting for its end.
    pub(crate) fn begin(address: SocketAddr, name: &str, isid: u8) -> Self {
        Self::begin_with(address, settings(name, isid))
    }

    /// Connects and starts a login under these settings.
    pub(crate) fn begin_with(address: SocketAddr, settings: Settings) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let engine = Connection::new(settings, Instant::now());
        let mut initiator = Self {
            stream,
            engine,
            input: Vec::new(),
            data: std::collections::HashMap::new(),
            answers: Vec::new(),
            login: None,
            closed: false,
        };
        let mut out = Wire::default();
        initiator.engine.start(&mut out);
        initiator.stream.write_all(&out.0).unwrap();
        initiator
    }

    /// Waits until the target has said something, and leaves it unread.
    pub(crate) fn wait_for_bytes(&self) {
        let until = Instant::now() + HANG;
        while self.stream.peek(&mut [0]).is_err() {
            assert!(Instant::now() < until, "no answer within {HANG:?}");
        }
    }

    /// The end of a login; `Err` has what the target said.
    pub(crate) fn outcome(&mut self) -> Result<(), String> {
        self.wait_until(|this| this.login.is_some());
        self.login.clone().unwrap()
    }

    pub(crate) fn is_logged_in(&self) -> bool {
        self.login == Some(Ok(()))
    }

    /// Sends SendTargets=All without waiting.
    pub(crate) fn ask_for_targets(&mut self) {
        let mut out = Wire::default();
        self.engine.send_targets("All", &mut out).unwrap();
        self.stream.write_all(&out.0).unwrap();
    }

    pub(crate) fn wait_until_closed(&mut self) {
        self.wait_until(|this| this.closed);
    }

    /// Sends a command without waiting.
    pub(crate) fn submit(&mut self, cdb: Cdb, data: Option<Vec<u8>>, read_len: u32) -> TaskId {
        self.submit_to(0, cdb, data, read_len)
    }

    /// Sends a command to another LUN than the first.
    pub(crate) fn submit_to(
        &mut self,
        lun: u64,
        cdb: Cdb,
        data: Option<Vec<u8>>,
        read_len: u32,
    ) -> TaskId {
        let request = match data {
            Some(data) => {
                let len = data.len();
                Request::write(lun, cdb, Arc::from(data), 0..len)
            }
            None => Request::read(lun, cdb, read_len),
        };
        let mut out = Wire::default();
        let task = self.engine.send_command(request, &mut out).unwrap();
        self.stream.write_all(&out.0).unwrap();
        task
    }

    /// Sends a task management function without waiting.
    pub(crate) fn function(&mut self, function: TmfFunction, referenced: Option<TaskId>) -> TaskId {
        let mut out = Wire::default();
        let task = self
            .engine
            .send_function(function, 0, referenced, &mut out)
            .unwrap();
        self.stream.write_all(&out.0).unwrap();
        task
    }

    /// Runs a command to its end.
    pub(crate) fn run(&mut self, cdb: Cdb, data: Option<Vec<u8>>, read_len: u32) -> Completion {
        let task = self.submit(cdb, data, read_len);
        self.end_of(task).0
    }

    /// The end of a command, and what it read.
    pub(crate) fn end_of(&mut self, task: TaskId) -> (Completion, Vec<u8>) {
        match self.answer(task) {
            Answer::Done(completion, data) => (completion, data),
            Answer::Function(response) => panic!("a function's answer: {response:?}"),
        }
    }

    /// Waits for the answer to a task.
    pub(crate) fn answer(&mut self, task: TaskId) -> Answer {
        self.wait_until(|this| this.answers.iter().any(|(id, _)| *id == task));
        let place = self.answers.iter().position(|(id, _)| *id == task).unwrap();
        self.answers.swap_remove(place).1
    }

    pub(crate) fn function_answer(&mut self, task: TaskId) -> Option<TmfResponse> {
        match self.answer(task) {
            Answer::Function(response) => response,
            Answer::Done(completion, _) => panic!("a command's end: {completion:?}"),
        }
    }

    /// Answers that are there and were not taken.
    pub(crate) fn answered(&self) -> usize {
        self.answers.len()
    }

    /// Whether an answer to the task is there already; looks once at what came in.
    pub(crate) fn has_answer(&mut self, task: TaskId) -> bool {
        self.look();
        self.answers.iter().any(|(id, _)| *id == task)
    }

    /// Whether the target has closed the connection; looks once at what came in.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.look();
        self.closed
    }

    pub(crate) fn poll_login(&mut self) -> bool {
        self.look();
        self.login.is_some()
    }

    /// Waits, within a bound, until something holds.
    pub(crate) fn wait_until(&mut self, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + HANG;
        while !condition(self) {
            assert!(Instant::now() < until, "no answer within {HANG:?}");
            self.look();
        }
    }

    /// Looks once at what came in.
    pub(crate) fn look(&mut self) {
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => {
                self.closed = true;
                self.login
                    .get_or_insert_with(|| Err("connection closed".to_owned()));
            }
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            Err(_) => {
                self.closed = true;
                return;
            }
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        let mut out = Wire::default();
        while let Some(event) = self
            .engine
            .next(Instant::now(), &mut rest, &mut out)
            .unwrap()
        {
            match event {
                Event::LoggedIn { .. } => self.login = Some(Ok(())),
                Event::LoginFailed { status, code, .. } => {
                    self.login = Some(Err(format!("{status:?} {code:#06x}")));
                }
                Event::Data {
                    task,
                    offset,
                    bytes,
                } => {
                    let data = self.data.entry(task).or_default();
                    assert_eq!(data.len(), offset as usize);
                    data.extend_from_slice(bytes);
                }
                Event::Done(completion) => {
                    let task = completion.task;
                    let data = self.data.remove(&task).unwrap_or_default();
                    self.answers.push((task, Answer::Done(completion, data)));
                }
                Event::Function { task, response } => {
                    self.answers.push((task, Answer::Function(response)));
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
        self.input = rest.to_vec();
        self.stream.write_all(&out.0).unwrap();
    }
}

/// Sense key and code of a CHECK CONDITION.
pub(crate) fn sense(completion: &Completion) -> (u8, u16) {
    assert_eq!(completion.status, 2, "not CHECK CONDITION: {completion:?}");
    let sense = &completion.sense;
    match sense[0] & 0x7f {
        0x70 | 0x71 => (sense[2] & 0x0f, u16::from_be_bytes([sense[12], sense[13]])),
        _ => (sense[1] & 0x0f, u16::from_be_bytes([sense[2], sense[3]])),
    }
}

/// Whether it tells, as a deferred error, that writes may be lost.
pub(crate) fn is_doubt(completion: &Completion) -> bool {
    completion.status == 2 && completion.sense[0] & 0x7f == 0x71 && sense(completion) == (3, 0x0c00)
}

/// A block's worth of one byte.
pub(crate) fn block(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK]
}

/// How long something took.
pub(crate) fn took(what: impl FnOnce()) -> Duration {
    let began = Instant::now();
    what();
    began.elapsed()
}
