//! What the tests of this crate share: a shard over each driver, and short ways to say requests.

use std::collections::HashMap;
use std::time::Duration;

use ring::limits::ENTRIES_MIN;
use ring::{Buffer, DriverKind, Event, Io, Options, Reactor};

use crate::request::{Disk, DiskError, Reply, Request};

/// No wait of a test is longer.
const BOUND: Duration = Duration::from_secs(30);

/// A reactor with the outcomes of what was started on it.
pub(crate) struct Shard {
    reactor: Reactor<Result<Reply, DiskError>>,
    ended: HashMap<u64, Result<Reply, DiskError>>,
    next: u64,
}

/// One shard over each driver that works here. Without io_uring this says so.
pub(crate) fn shards() -> Vec<Shard> {
    let mut shards = vec![Shard::over(DriverKind::Epoll)];
    match ring::probe().uring {
        Ok(()) => shards.push(Shard::over(DriverKind::Uring)),
        Err(reason) => eprintln!("SKIPPED over io_uring: {reason}"),
    }
    shards
}

impl Shard {
    pub(crate) fn over(driver: DriverKind) -> Self {
        Self::with(&Options {
            driver: Some(driver),
            ..Options::default()
        })
    }

    /// With room for as few operations as can be.
    pub(crate) fn narrow() -> Self {
        Self::with(&Options {
            driver: Some(DriverKind::Epoll),
            entries: ENTRIES_MIN,
            ..Options::default()
        })
    }

    fn with(options: &Options) -> Self {
        let reactor = Reactor::new(options).unwrap();
        Self {
            reactor,
            ended: HashMap::new(),
            next: 1 << 32,
        }
    }

    /// Over the driver that always works.
    pub(crate) fn any() -> Self {
        Self::over(DriverKind::Epoll)
    }

    pub(crate) fn io(&self) -> Io {
        self.reactor.io()
    }

    /// Starts an operation whose outcome is asked for later.
    pub(crate) fn start(&mut self, key: u64, disk: &dyn Disk, request: Request) {
        let io = self.reactor.io();
        self.reactor.spawn(key, disk.execute(&io, request));
    }

    /// Operations the driver has, abandoned ones included.
    pub(crate) fn in_flight(&self) -> usize {
        self.reactor.in_flight()
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        self.reactor
            .turn(Some(Duration::from_millis(50)), &mut events)
            .unwrap();
        for event in events {
            if let Event::Task { key, output } = event {
                self.ended.insert(key, output);
            }
        }
    }

    /// Turns until a condition holds; fails at the bound.
    pub(crate) fn until(&mut self, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = self.reactor.now() + BOUND;
        while !condition(self) {
            assert!(
                self.reactor.now() < deadline,
                "the condition did not come to hold"
            );
            self.turn();
        }
    }

    pub(crate) fn has_ended(&self, key: u64) -> bool {
        self.ended.contains_key(&key)
    }

    /// The outcome of what was started under `key`.
    pub(crate) fn outcome(&mut self, key: u64) -> Result<Reply, DiskError> {
        self.until(|shard| shard.has_ended(key));
        self.ended.remove(&key).unwrap()
    }

    pub(crate) fn run(&mut self, disk: &dyn Disk, request: Request) -> Result<Reply, DiskError> {
        self.next += 1;
        let key = self.next;
        self.start(key, disk, request);
        self.outcome(key)
    }

    /// Reads, and panics unless that works.
    pub(crate) fn bytes(&mut self, disk: &dyn Disk, offset: u64, len: usize) -> Vec<u8> {
        match self.run(disk, read(offset, len)).unwrap() {
            Reply::Read(buffer) => buffer[..len].to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Status at an offset.
    pub(crate) fn status(&mut self, disk: &dyn Disk, offset: u64) -> (bool, u64) {
        match self.run(disk, Request::Status { offset }).unwrap() {
            Reply::Status { mapped, len } => (mapped, len),
            other => panic!("{other:?}"),
        }
    }
}

/// Waits for another thread; fails at the bound.
#[expect(
    clippy::disallowed_methods,
    reason = "looks at another thread's condition repeatedly, within a bound"
)]
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) {
    let look = Duration::from_millis(1);
    let looks = BOUND.as_millis() / look.as_millis();
    for _ in 0..looks {
        if condition() {
            return;
        }
        std::thread::sleep(look);
    }
    panic!("the condition did not come to hold");
}

/// A read into a buffer that is not empty before.
pub(crate) fn read(offset: u64, len: usize) -> Request {
    let mut buffer = Buffer::zeroed(len);
    buffer.fill(0xee);
    Request::Read {
        offset,
        len,
        buffer,
    }
}

pub(crate) fn write(offset: u64, bytes: &[u8], fua: bool) -> Request {
    let mut buffer = Buffer::zeroed(bytes.len());
    buffer.copy_from_slice(bytes);
    Request::Write {
        offset,
        len: bytes.len(),
        buffer,
        fua,
    }
}

/// Bytes that differ by seed and place.
pub(crate) fn fill(seed: u8, len: usize) -> Vec<u8> {
    (0..=250)
        .cycle()
        .take(len)
        .map(|at: u8| at ^ seed)
        .collect()
}
