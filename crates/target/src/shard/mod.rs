//! The data path: one shard a core, each a thread with its own ring, connections and sessions.
//!
//! A shard turns like this: take what ended (socket operations, disk operations), take messages of
//! the control plane, take passes of gates; each of these becomes a call that changes the shard's
//! state and appends to send lists; at the end of the turn every connection that has something to
//! send sends it at once. Nothing here waits but the turn itself.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the loop, messages, clocks |
//! | `connection.rs` | sockets: accept, receive, send, end |
//! | `session.rs` | login, discovery, sessions and their LUN maps |
//! | `command.rs` | commands: from the CDB to the answer |
//! | `disk.rs` | their disk operations |
//! | `memory.rs` | whose buffers those are |
//! | `abort.rs` | task management, barriers, what ends early |
//! | `abandon.rs` | a shard that ends before its time |

mod abandon;
mod abort;
mod command;
mod connection;
mod disk;
mod memory;
mod session;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use ::disk::{DiskError, Reply as DiskReply};
use ring::{Completion, Event, Fd, Io, Outcome, Pool, PoolLimits, Reactor};
use slab::Slab;
use tokio::sync::mpsc;

use self::abort::Wait;
use self::command::Running;
use self::connection::{Connection, Token, TokenKind};
use self::session::Session;
use crate::control::Shared;
use crate::limits;
use crate::message::{Board, ConnectionId, ControlRequest, PortalState, ShardHandle, ShardMessage};

/// How a disk operation ended.
type Finished = Result<DiskReply, DiskError>;

/// What a shard is started with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) ring: ring::Options,
    pub(crate) pool_bytes: usize,
    /// Core to stay on.
    pub(crate) core: Option<usize>,
}

/// What it needs from the others, once all are there.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) shared: Arc<Shared>,
    pub(crate) control: mpsc::Sender<ControlRequest>,
    pub(crate) peers: Arc<[ShardHandle]>,
}

struct Listener {
    portal: Arc<PortalState>,
    socket: Fd,
    token: Token,
    /// Accepting failed; it is tried again at the next tick.
    resting: bool,
}

/// One shard; lives on its thread.
pub(crate) struct Shard {
    index: usize,
    reactor: Reactor<Finished>,
    io: Io,
    /// Data of commands.
    pool: Pool,
    /// Bytes of it that one initiator may hold.
    share: usize,
    /// Receive buffers of connections: commands never take their place, nor they that of commands.
    receive_pool: Pool,
    inbox: mpsc::Receiver<ShardMessage>,
    board: Arc<Board>,
    links: Links,
    engine_config: Arc<iscsi::target::Config>,
    listeners: Slab<Listener>,
    connections: Slab<Connection>,
    logins: usize,
    sessions: Slab<Session>,
    by_tsih: HashMap<u16, usize>,
    /// Sessions to be refused when they come to be opened: their end was asked for before.
    doomed: HashSet<u16>,
    running: Slab<Running>,
    waits: Slab<Wait>,
    /// Connections with something to send.
    dirty: Vec<usize>,
    /// Rises with every connection, listener and command, so that old names mean nothing new.
    generation: u32,
    now: Instant,
    next_tick: Instant,
    stopping: bool,
    /// Why it ends before its time.
    failure: Option<String>,
}

/// A shard's thread, and how to reach it.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) handle: ShardHandle,
    pub(crate) thread: std::thread::JoinHandle<()>,
    pub(crate) kind: ring::DriverKind,
    pub(crate) links: std::sync::mpsc::SyncSender<Links>,
}

/// Starts a shard; it waits for its links before it does anything.
///
/// # Errors
/// The reason in words when the ring cannot be set up.
pub(crate) fn start(setup: Setup) -> Result<Started, String> {
    let (inbox_in, inbox) = mpsc::channel(limits::SHARD_INBOX);
    let board = Arc::new(Board::default());
    let (ready_in, ready) = std::sync::mpsc::sync_channel(1);
    let (links_in, links) = std::sync::mpsc::sync_channel::<Links>(1);
    let shard_board = Arc::clone(&board);
    let thread = std::thread::Builder::new()
        .name(format!("shard-{}", setup.index))
        .spawn(move || {
            let reactor = match Reactor::new(&setup.ring) {
                Ok(reactor) => reactor,
                Err(error) => {
                    let _ = ready_in.send(Err(error.to_string()));
                    return;
                }
            };
            if ready_in
                .send(Ok((reactor.waker(), reactor.kind())))
                .is_err()
            {
                return;
            }
            let Ok(links) = links.recv() else { return };
            stay_on(setup.core);
            Shard::new(&setup, reactor, inbox, shard_board, links).run();
        })
        .map_err(|error| format!("no thread for a shard: {error}"))?;
    let (waker, kind) = ready
        .recv()
        .map_err(|_| "a shard ended at its start".to_owned())??;
    let handle = ShardHandle::new(inbox_in, waker, board);
    Ok(Started {
        handle,
        thread,
        kind,
        links: links_in,
    })
}

fn stay_on(core: Option<usize>) {
    let Some(core) = core else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "the shard cannot be kept on its core");
    }
}

impl Shard {
    fn new(
        setup: &Setup,
        reactor: Reactor<Finished>,
        inbox: mpsc::Receiver<ShardMessage>,
        board: Arc<Board>,
        links: Links,
    ) -> Self {
        let now = reactor.now();
        let pool = Pool::new(PoolLimits {
            bytes_max: setup.pool_bytes,
            idle_bytes_max: limits::POOL_IDLE_BYTES,
        });
        Self {
            index: setup.index,
            io: reactor.io(),
            reactor,
            pool,
            share: setup.pool_bytes / limits::INITIATOR_SHARE,
            receive_pool: Pool::new(PoolLimits {
                bytes_max: limits::CONNECTIONS_PER_SHARD_MAX * limits::RECEIVE_BYTES,
                idle_bytes_max: limits::POOL_IDLE_BYTES,
            }),
            inbox,
            board,
            links,
            engine_config: self::session::engine_config(),
            listeners: Slab::new(),
            connections: Slab::new(),
            logins: 0,
            sessions: Slab::new(),
            by_tsih: HashMap::new(),
            doomed: HashSet::new(),
            running: Slab::new(),
            waits: Slab::new(),
            dirty: Vec::new(),
            generation: 0,
            now,
            next_tick: now + limits::TICK,
            stopping: false,
            failure: None,
        }
    }

    fn run(mut self) {
        let mut events = Vec::new();
        while !(self.stopping && self.is_idle()) {
            let wait = self.next_tick.saturating_duration_since(self.now);
            if let Err(error) = self.reactor.turn(Some(wait), &mut events) {
                tracing::error!(shard = self.index, %error, "the shard's ring failed");
                self.failure = Some(format!("its ring failed: {error}"));
                return;
            }
            self.now = self.reactor.now();
            for event in events.drain(..) {
                match event {
                    Event::Io(completion) => self.completed(completion),
                    Event::Task { key, output } => self.disk_done(key, output),
                    Event::Woken => {}
                }
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.receive_message(message);
            }
            self.take_grants();
            if self.now >= self.next_tick {
                self.tick();
            }
            self.flush_all();
        }
    }

    fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.running.is_empty() && self.sessions.is_empty()
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1) & 0x00ff_ffff;
        self.generation
    }

    fn completed(&mut self, completion: Completion) {
        let token = Token::from(completion.token);
        match (token.kind, completion.outcome) {
            (TokenKind::Accept, Outcome::Accepted(result)) => self.accepted(token, result),
            (TokenKind::Receive, Outcome::Received { buffer, result }) => {
                self.received(token, buffer, result);
            }
            (TokenKind::Send, Outcome::Sent { list, result }) => self.sent(token, list, result),
            (kind, outcome) => {
                tracing::error!(?kind, ?outcome, "an operation ended as another one");
            }
        }
    }

    fn receive_message(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Listen {
                portal,
                listener,
                done,
            } => {
                self.listen(portal, listener);
                let _ = done.send(());
            }
            ShardMessage::Unlisten { portal, done } => {
                self.unlisten(&portal);
                let _ = done.send(());
            }
            ShardMessage::Connection {
                socket,
                peer,
                portal,
                visit,
            } => {
                self.add_connection(socket, peer, portal, visit);
            }
            ShardMessage::Admitted {
                connection,
                outcome,
            } => self.admitted(connection, outcome),
            ShardMessage::Changed { key, result } => self.changed(key, result),
            ShardMessage::Recorded {
                unit,
                nexus,
                result,
            } => self.recorded(&unit, &nexus, &result),
            ShardMessage::Work { work, done } => self.work(&work, done),
            ShardMessage::ResetDone {
                connection,
                tag,
                complete,
            } => {
                self.reset_done(connection, tag, complete);
            }
            ShardMessage::End { tsih, reason } => self.end_by_handle(tsih, reason),
            ShardMessage::Remap { tsih, luns, done } => self.remap(tsih, luns, done),
            ShardMessage::Stop => self.stop(),
            #[cfg(test)]
            ShardMessage::Fail => panic!("a test ends this shard"),
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        for listener in std::mem::take(&mut self.listeners)
            .into_iter()
            .map(|(_, l)| l)
        {
            self.reactor.cancel(listener.token.into());
            listener
                .portal
                .listening
                .store(false, std::sync::atomic::Ordering::Release);
        }
        let connections: Vec<usize> = self.connections.iter().map(|(index, _)| index).collect();
        for index in connections {
            self.lose(index, "the service stops");
        }
    }

    /// Looks at the clocks: logins, keep-alives, bounds of what waits.
    fn tick(&mut self) {
        self.next_tick = self.now + limits::TICK;
        let connections: Vec<usize> = self.connections.iter().map(|(index, _)| index).collect();
        for index in connections {
            self.tick_connection(index);
        }
        self.check_waits();
        self.tell_slow();
        self.wake_listeners();
        if let Some(refused) = self.links.shared.door.report(self.now) {
            self.links.shared.tell(refused);
        }
    }

    fn connection(&mut self, id: ConnectionId) -> Option<(usize, &mut Connection)> {
        let index = usize::try_from(id.index).ok()?;
        let connection = self.connections.get_mut(index)?;
        (connection.generation == id.generation).then_some((index, connection))
    }
}
