//! What the tests of all drivers share: a reactor with bounded waits, and sockets to use it on.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::{
    Buffer, Completion, DriverKind, Event, Fd, Op, Options, Outcome, Reactor, SendList, probe,
};

/// Far more than anything here takes: past it a test hangs.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Makes one test per driver of each body.
macro_rules! on_all_drivers {
    ($($body:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $body() { crate::support::on(ring::DriverKind::Uring, super::$body); })*
        }
        mod epoll {
            $(#[test] fn $body() { crate::support::on(ring::DriverKind::Epoll, super::$body); })*
        }
        mod simulated {
            $(#[test] fn $body() {
                crate::support::on(ring::DriverKind::Simulated, super::$body);
            })*
        }
    };
}
pub(crate) use on_all_drivers;

/// Runs a body on one driver; io_uring is left out, with a word, where the machine has none.
pub(crate) fn on(kind: DriverKind, body: fn(DriverKind)) {
    if kind == DriverKind::Uring
        && let Err(cause) = probe().uring
    {
        eprintln!("left out: {cause}");
        return;
    }
    body(kind);
}

#[expect(
    clippy::disallowed_methods,
    reason = "bounds of waiting are in real time"
)]
pub(crate) fn real_now() -> Instant {
    Instant::now()
}

pub(crate) fn options(kind: DriverKind) -> Options {
    Options {
        driver: Some(kind),
        entries: 256,
        ..Options::default()
    }
}

/// A reactor, and what its turns brought that nobody took yet.
pub(crate) struct Shard<T> {
    pub(crate) reactor: Reactor<T>,
    pub(crate) events: Vec<Event<T>>,
}

impl<T: 'static> Shard<T> {
    pub(crate) fn new(kind: DriverKind) -> Self {
        Self::with(&options(kind))
    }

    pub(crate) fn with(options: &Options) -> Self {
        let reactor = Reactor::new(options).expect("a reactor");
        Self {
            reactor,
            events: Vec::new(),
        }
    }

    /// Turns until `found` takes something from the events.
    pub(crate) fn until<R>(&mut self, mut found: impl FnMut(&mut Vec<Event<T>>) -> Option<R>) -> R {
        let end = real_now() + HANG;
        loop {
            if let Some(result) = found(&mut self.events) {
                return result;
            }
            assert!(
                real_now() < end,
                "nothing came; {:?} in flight",
                self.reactor.in_flight()
            );
            let timeout = Some(Duration::from_millis(100));
            self.reactor
                .turn(timeout, &mut self.events)
                .expect("a turn");
        }
    }

    /// The outcome of the raw operation with this token.
    pub(crate) fn outcome(&mut self, token: u64) -> Outcome {
        self.until(|events| {
            let of_token = |event: &Event<T>| {
                matches!(event, Event::Io(Completion { token: other, .. }) if *other == token)
            };
            let place = events.iter().position(of_token)?;
            match events.remove(place) {
                Event::Io(completion) => Some(completion.outcome),
                _ => None,
            }
        })
    }

    /// What the future with this key ended with.
    pub(crate) fn output(&mut self, key: u64) -> T {
        self.until(|events| {
            let of_key =
                |event: &Event<T>| matches!(event, Event::Task { key: other, .. } if *other == key);
            let place = events.iter().position(of_key)?;
            match events.remove(place) {
                Event::Task { output, .. } => Some(output),
                _ => None,
            }
        })
    }

    /// Runs one raw operation to its end.
    pub(crate) fn run(&mut self, op: Op) -> Outcome {
        self.reactor.submit(u64::MAX >> 1, op);
        self.outcome(u64::MAX >> 1)
    }

    pub(crate) fn recv(&mut self, socket: &Fd, len: usize) -> io::Result<Vec<u8>> {
        match self.run(recv_op(socket, len)) {
            Outcome::Received { buffer, result } => result.map(|count| buffer[..count].to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn send(&mut self, socket: &Fd, bytes: &[u8]) -> io::Result<()> {
        match self.run(send_op(socket, bytes)) {
            Outcome::Sent { list, result } => {
                assert!(list.is_empty());
                result
            }
            other => panic!("{other:?}"),
        }
    }

    /// Turns until nothing is in flight.
    pub(crate) fn settle(&mut self) {
        let end = real_now() + HANG;
        while self.reactor.in_flight() > 0 {
            assert!(
                real_now() < end,
                "{} still in flight",
                self.reactor.in_flight()
            );
            let timeout = Some(Duration::from_millis(100));
            self.reactor
                .turn(timeout, &mut self.events)
                .expect("a turn");
        }
    }
}

pub(crate) fn recv_op(socket: &Fd, len: usize) -> Op {
    Op::Recv {
        socket: Arc::clone(socket),
        buffer: Buffer::zeroed(len),
        range: 0..len,
    }
}

pub(crate) fn send_op(socket: &Fd, bytes: &[u8]) -> Op {
    let mut list = SendList::new();
    list.push_bytes(bytes);
    Op::Send {
        socket: Arc::clone(socket),
        list,
    }
}

pub(crate) fn fd(owned: impl Into<OwnedFd>) -> Fd {
    Arc::new(owned.into())
}

/// Two connected stream sockets.
pub(crate) fn pair() -> (Fd, Fd) {
    let (one, other) = UnixStream::pair().expect("a socket pair");
    (fd(one), fd(other))
}

/// A listener on a port of its own.
pub(crate) fn listen(address: &str) -> (Fd, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a loopback listener");
    let address = listener.local_addr().expect("its address");
    (fd(listener), address)
}

/// Two connected TCP sockets.
pub(crate) fn tcp_pair() -> (Fd, Fd) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
    let address = listener.local_addr().expect("its address");
    let one = TcpStream::connect(address).expect("a connection");
    let (other, _) = listener.accept().expect("the other end");
    (fd(one), fd(other))
}

/// Bytes that differ by place and by seed.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn buffer_of(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::zeroed(bytes.len());
    buffer.copy_from_slice(bytes);
    buffer
}

/// Writes without a reactor.
pub(crate) fn write_plain(socket: &Fd, bytes: &[u8]) {
    assert_eq!(rustix::io::write(socket, bytes), Ok(bytes.len()));
}
