//! One initiator's session over a reactor: connects, logs in, carries commands, comes back with the
//! same ISID after its connection is gone, so that the target ends what the old one left running.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use iscsi::initiator::{
    Cdb, Completion, Connection, Digest, Event, Request, Settings, TaskId, TmfFunction, TmfResponse,
};
use ring::{Buffer, Fd, Op, Outcome, Reactor, SendList, SharedBuffer};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits;

/// Where a session goes.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The portal.
    pub portal: SocketAddr,
    /// How to log in there.
    pub settings: Settings,
    /// Logical unit, as SAM writes it.
    pub lun: u64,
}

/// What a session tells.
#[derive(Debug)]
pub enum News {
    /// Logged in, for the first time or again: nothing of the old session runs any more.
    Ready {
        /// Whether data carry digests.
        digests: bool,
    },
    /// The connection is gone; what was in flight has no answer.
    Lost {
        /// How it ended.
        why: String,
        /// Whether [`Session::kill`] ended it.
        killed: bool,
    },
    /// A command has ended; what it read.
    Done(Completion, Vec<u8>),
    /// A task management function was answered.
    Function(TaskId, Option<TmfResponse>),
}

#[derive(Debug, Default)]
struct Out(SendList);

impl iscsi::Output for Out {
    type Payload = SharedBuffer;

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.push_bytes(bytes);
    }

    fn payload(&mut self, payload: SharedBuffer, range: Range<usize>) {
        self.0.push_shared(payload, range);
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Connect,
    Receive,
    Send,
}

/// One initiator.
#[derive(Debug)]
pub struct Session {
    place: u32,
    destination: Destination,
    generation: u32,
    socket: Option<Fd>,
    engine: Option<Connection<SharedBuffer>>,
    out: Out,
    sending: bool,
    reads: HashMap<TaskId, Vec<u8>>,
    /// When to connect again.
    retry: Option<Instant>,
    ready: bool,
}

impl Session {
    /// Session number `place`; it connects at the first [`Session::tick`].
    pub fn new(place: u32, destination: Destination, now: Instant) -> Self {
        Self {
            place,
            destination,
            generation: 0,
            socket: None,
            engine: None,
            out: Out::default(),
            sending: false,
            reads: HashMap::new(),
            retry: Some(now),
            ready: false,
        }
    }

    /// Session that a completion belongs to.
    #[expect(clippy::cast_possible_truncation, reason = "takes the field out")]
    pub const fn place_of(token: u64) -> u32 {
        token as u32 & 0xffff
    }

    fn token(&self, kind: Kind) -> u64 {
        let kind: u64 = match kind {
            Kind::Connect => 0,
            Kind::Receive => 1,
            Kind::Send => 2,
        };
        kind << 56 | u64::from(self.generation & 0x00ff_ffff) << 16 | u64::from(self.place)
    }

    /// Commands that may be sent now.
    pub fn room(&self) -> u32 {
        match &self.engine {
            Some(engine) if self.ready => engine.room(),
            _ => 0,
        }
    }

    /// Whether it is logged in.
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// Connects where that is due, and looks at the engine's clocks.
    pub fn tick<T: 'static>(&mut self, reactor: &mut Reactor<T>, news: &mut Vec<News>) {
        let now = reactor.now();
        if self.retry.is_some_and(|at| now >= at) {
            self.retry = None;
            self.connect(reactor, news);
            return;
        }
        if self.sending {
            return;
        }
        let Some(engine) = &mut self.engine else {
            return;
        };
        if let Err(fatal) = engine.tick(now, &mut self.out) {
            self.lose(reactor, fatal.to_string(), news);
        }
    }

    fn connect<T: 'static>(&mut self, reactor: &mut Reactor<T>, news: &mut Vec<News>) {
        self.generation = self.generation.wrapping_add(1);
        let address = self.destination.portal;
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )
        .and_then(|socket| socket.set_tcp_nodelay(true).map(|()| socket));
        match socket {
            Ok(socket) => {
                let socket: Fd = Arc::new(OwnedFd::from(socket));
                self.socket = Some(Arc::clone(&socket));
                reactor.submit(self.token(Kind::Connect), Op::Connect { socket, address });
            }
            Err(error) => self.lose(reactor, error.to_string(), news),
        }
    }

    /// Ends the connection, as a host that crashes: by an RST that overtakes what is on its way
    /// (`abrupt`), or after what was sent. Whether there was one.
    pub fn kill<T: 'static>(
        &mut self,
        reactor: &Reactor<T>,
        abrupt: bool,
        news: &mut Vec<News>,
    ) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        if abrupt {
            // A failure only makes it the other kind of end.
            let _ = rustix::net::connect_unspec(socket);
        }
        self.drop_connection(reactor, "killed".to_owned(), true, news);
        true
    }

    fn lose<T: 'static>(&mut self, reactor: &Reactor<T>, why: String, news: &mut Vec<News>) {
        self.drop_connection(reactor, why, false, news);
    }

    fn drop_connection<T: 'static>(
        &mut self,
        reactor: &Reactor<T>,
        why: String,
        killed: bool,
        news: &mut Vec<News>,
    ) {
        if let Some(socket) = self.socket.take() {
            // What is pending comes back by this.
            let _ = ring::op::shutdown(&socket);
        }
        self.generation = self.generation.wrapping_add(1);
        self.engine = None;
        self.out.0.clear();
        self.sending = false;
        self.ready = false;
        self.reads.clear();
        self.retry = Some(reactor.now() + limits::RECONNECT);
        news.push(News::Lost { why, killed });
    }

    /// An operation of this session has ended.
    pub fn completed<T: 'static>(
        &mut self,
        reactor: &mut Reactor<T>,
        token: u64,
        outcome: Outcome,
        news: &mut Vec<News>,
    ) {
        if (token >> 16) & 0x00ff_ffff != u64::from(self.generation & 0x00ff_ffff) {
            return;
        }
        match outcome {
            Outcome::Connected(Ok(())) => {
                let settings = self.destination.settings.clone();
                let mut engine = Connection::new(settings, reactor.now());
                engine.start(&mut self.out);
                self.engine = Some(engine);
                self.receive(reactor, Buffer::zeroed(limits::RECEIVE_BYTES));
            }
            Outcome::Received {
                buffer,
                result: Ok(count),
            } if count > 0 => {
                let fine =
                    self.take_in(reactor.now(), buffer.get(..count).unwrap_or_default(), news);
                match fine {
                    Ok(()) => self.receive(reactor, buffer),
                    Err(why) => self.lose(reactor, why, news),
                }
            }
            Outcome::Sent {
                list,
                result: Ok(()),
            } => {
                self.sending = false;
                if self.out.0.is_empty() {
                    self.out.0 = list;
                }
            }
            Outcome::Connected(Err(error))
            | Outcome::Received {
                result: Err(error), ..
            }
            | Outcome::Sent {
                result: Err(error), ..
            } => {
                self.lose(reactor, error.to_string(), news);
            }
            _ => self.lose(reactor, "the target closed the connection".to_owned(), news),
        }
    }

    fn receive<T: 'static>(&self, reactor: &mut Reactor<T>, buffer: Buffer) {
        if let Some(socket) = &self.socket {
            let (socket, range) = (Arc::clone(socket), 0..buffer.len());
            reactor.submit(
                self.token(Kind::Receive),
                Op::Recv {
                    socket,
                    buffer,
                    range,
                },
            );
        }
    }

    fn take_in(&mut self, now: Instant, bytes: &[u8], news: &mut Vec<News>) -> Result<(), String> {
        let Some(engine) = &mut self.engine else {
            return Ok(());
        };
        let mut input = bytes;
        loop {
            let event = engine
                .next(now, &mut input, &mut self.out)
                .map_err(|f| f.to_string())?;
            match event {
                None => return Ok(()),
                Some(Event::LoggedIn { .. }) => {
                    self.ready = true;
                    let digests = engine.negotiated().data_digest == Digest::Crc32c;
                    news.push(News::Ready { digests });
                }
                Some(Event::LoginFailed { status, code, .. }) => {
                    return Err(format!("login refused: {status:?} ({code:#06x})"));
                }
                Some(Event::Data {
                    task,
                    offset,
                    bytes,
                }) => {
                    let data = self.reads.entry(task).or_default();
                    if data.len() != offset as usize {
                        return Err(format!("data at {offset}, {} expected", data.len()));
                    }
                    data.extend_from_slice(bytes);
                }
                Some(Event::Done(completion)) => {
                    let data = self.reads.remove(&completion.task).unwrap_or_default();
                    news.push(News::Done(completion, data));
                }
                Some(Event::Function { task, response }) => {
                    news.push(News::Function(task, response));
                }
                Some(Event::Rejected { reason, .. }) => {
                    return Err(format!("rejected: {reason:?}"));
                }
                Some(Event::LoggedOut { .. }) => return Err("logged out".to_owned()),
                Some(Event::Message(_) | Event::Pong { .. } | Event::Targets(_)) => {}
            }
        }
    }

    /// Sends what there is.
    pub fn flush<T: 'static>(&mut self, reactor: &mut Reactor<T>) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.sending) else {
            return;
        };
        if self.out.0.is_empty() {
            return;
        }
        self.sending = true;
        let (socket, list) = (Arc::clone(socket), std::mem::take(&mut self.out.0));
        reactor.submit(self.token(Kind::Send), Op::Send { socket, list });
    }

    /// Sends a command; `None` when the window is closed.
    pub fn send(&mut self, cdb: Cdb, data: Option<SharedBuffer>, read_len: u32) -> Option<TaskId> {
        let lun = self.destination.lun;
        let request = match data {
            Some(data) => {
                let len = data.len();
                Request::write(lun, cdb, data, 0..len)
            }
            None => Request::read(lun, cdb, read_len),
        };
        self.engine
            .as_mut()?
            .send_command(request, &mut self.out)
            .ok()
    }

    /// Sends a task management function.
    pub fn function(
        &mut self,
        function: TmfFunction,
        referenced: Option<TaskId>,
    ) -> Option<TaskId> {
        let lun = self.destination.lun;
        self.engine
            .as_mut()?
            .send_function(function, lun, referenced, &mut self.out)
            .ok()
    }

    /// A command that was aborted has no answer; its place is free again.
    pub fn forget(&mut self, task: TaskId) {
        self.reads.remove(&task);
        if let Some(engine) = &mut self.engine {
            engine.forget(task);
        }
    }
}
