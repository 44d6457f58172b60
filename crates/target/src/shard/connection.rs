//! Sockets of a shard: accept, receive, send, end.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use iscsi::target::{Connection as Engine, Fatal};
use ring::{Buffer, Fd, Op, SendList, SharedBuffer};
use scsi::Nexus;

use super::memory::Charge;
use super::{Listener, Shard};
use crate::door::{TurnedAway, Visit};
use crate::limits;
use crate::message::{ConnectionId, ControlRequest, PortalState, ShardMessage};
use crate::proof::Proof;
use crate::unit::LogicalUnit;

/// What a token of the ring stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenKind {
    Accept,
    Receive,
    Send,
}

/// Kind, place and generation, packed in the ring's token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let kind: Self = match token.kind {
            TokenKind::Accept => 0,
            TokenKind::Receive => 1,
            TokenKind::Send => 2,
        };
        kind << 56 | Self::from(token.generation & 0x00ff_ffff) << 32 | Self::from(token.index)
    }
}

impl From<u64> for Token {
    #[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
    fn from(token: u64) -> Self {
        Self {
            kind: match token >> 56 {
                0 => TokenKind::Accept,
                1 => TokenKind::Receive,
                _ => TokenKind::Send,
            },
            index: token as u32,
            generation: (token >> 32) as u32 & 0x00ff_ffff,
        }
    }
}

/// Data sent by reference: a disk buffer, or bytes made for one answer.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    Disk(SharedBuffer),
    Inline(Arc<[u8]>),
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Disk(buffer) => buffer.as_ref(),
            Self::Inline(bytes) => bytes,
        }
    }
}

/// What a connection is about to send.
#[derive(Debug, Default)]
pub(super) struct Out(SendList);

impl iscsi::Output for Out {
    type Payload = Payload;

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.push_bytes(bytes);
    }

    fn payload(&mut self, payload: Payload, range: Range<usize>) {
        match payload {
            Payload::Disk(buffer) => self.0.push_shared(buffer, range),
            Payload::Inline(bytes) => {
                if let Some(bytes) = bytes.get(range) {
                    self.0.push_bytes(bytes);
                }
            }
        }
    }
}

/// One TCP connection.
pub(super) struct Connection {
    pub(super) generation: u32,
    socket: Fd,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) portal: Arc<PortalState>,
    pub(super) engine: Engine,
    pub(super) out: Out,
    /// An emptied list, for its memory.
    spare: SendList,
    sending: bool,
    /// Bytes of the send under way.
    in_send: usize,
    /// Buffers in the list that gathers, and in the one being sent.
    pub(super) queued: Charge,
    in_flight: Charge,
    receiving: bool,
    buffer: Option<Buffer>,
    /// Part of `buffer` that the engine has not seen.
    unread: Range<usize>,
    is_dirty: bool,
    /// The engine's clocks are to be looked at before the next flush.
    pub(super) tick_soon: bool,
    /// The control plane is deciding about its login: input rests.
    pub(super) waiting: bool,
    /// Still in login: counts against [`limits::LOGINS_PER_SHARD_MAX`].
    pub(super) in_login: bool,
    pub(super) session: Option<usize>,
    /// Its place among those that come from where it comes from.
    pub(super) visit: Visit,
    /// Deferred errors on their way to the initiator.
    pub(super) tellings: Vec<Telling>,
    /// What a discovery session proved; a normal one keeps it in [`crate::registry`].
    pub(super) proof: Option<Proof>,
    /// Closes when everything is sent.
    pub(super) closing: bool,
    /// Gone; its place is kept until its operations have come back.
    dead: bool,
}

/// A nexus is being told that its writes are in doubt. It is told once it has acknowledged the
/// response that says so; at most one for each of its LUNs.
pub(super) struct Telling {
    pub(super) stat_sn: u32,
    pub(super) unit: Arc<LogicalUnit>,
    pub(super) nexus: Nexus,
}

impl Shard {
    pub(super) fn listen(&mut self, portal: Arc<PortalState>, socket: Fd) {
        let generation = self.next_generation();
        let entry = self.listeners.vacant_entry();
        let token = Token {
            kind: TokenKind::Accept,
            index: u32::try_from(entry.key()).unwrap_or(u32::MAX),
            generation,
        };
        portal.listening.store(true, Ordering::Release);
        entry.insert(Listener {
            portal,
            socket: Arc::clone(&socket),
            token,
            resting: false,
        });
        self.reactor
            .submit(token.into(), Op::Accept { listener: socket });
    }

    pub(super) fn unlisten(&mut self, portal: &Arc<PortalState>) {
        let found: Vec<usize> = self
            .listeners
            .iter()
            .filter(|(_, listener)| Arc::ptr_eq(&listener.portal, portal))
            .map(|(index, _)| index)
            .collect();
        for index in found {
            let listener = self.listeners.remove(index);
            self.reactor.cancel(listener.token.into());
            listener.portal.listening.store(false, Ordering::Release);
        }
    }

    pub(super) fn accepted(&mut self, token: Token, result: io::Result<(OwnedFd, SocketAddr)>) {
        let index = token.index as usize;
        let current = self
            .listeners
            .get(index)
            .filter(|listener| listener.token == token);
        let Some(listener) = current else {
            // The portal was closed meanwhile; so is what came in.
            return;
        };
        let portal = Arc::clone(&listener.portal);
        let socket = Arc::clone(&listener.socket);
        match result {
            Ok((socket, peer)) => self.place(Arc::new(socket), peer, portal),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of descriptors or memory: the next look at the clocks tries again.
                tracing::warn!(portal = %portal.name, %error, "cannot accept a connection");
                if let Some(listener) = self.listeners.get_mut(index) {
                    listener.resting = true;
                }
                return;
            }
        }
        self.reactor
            .submit(token.into(), Op::Accept { listener: socket });
    }

    /// Listeners that could not accept try again.
    pub(super) fn wake_listeners(&mut self) {
        for (_, listener) in &mut self.listeners {
            if std::mem::take(&mut listener.resting) {
                let listening = Op::Accept {
                    listener: Arc::clone(&listener.socket),
                };
                self.reactor.submit(listener.token.into(), listening);
            }
        }
    }

    /// Gives a new connection to the shard that has the fewest.
    fn place(&mut self, socket: Fd, peer: SocketAddr, portal: Arc<PortalState>) {
        // Turned away, it is closed.
        let Ok(visit) = self.links.shared.door.enter(peer, &socket) else {
            return;
        };
        let load =
            |shard: &crate::message::ShardHandle| shard.board.connections.load(Ordering::Relaxed);
        let least = self
            .links
            .peers
            .iter()
            .enumerate()
            .filter(|(_, shard)| !shard.has_ended())
            .min_by_key(|(_, shard)| load(shard));
        match least {
            Some((index, shard)) if index != self.index => {
                // A full inbox means that the shard has enough to do; the connection is refused.
                let message = ShardMessage::Connection {
                    socket,
                    peer,
                    portal,
                    visit,
                };
                shard.board.connections.fetch_add(1, Ordering::Relaxed);
                if shard.try_send(message).is_err() {
                    self.links.shared.door.refuse(peer, TurnedAway::Shard);
                    shard.board.connections.fetch_sub(1, Ordering::Relaxed);
                }
            }
            _ => {
                self.board.connections.fetch_add(1, Ordering::Relaxed);
                self.add_connection(socket, peer, portal, visit);
            }
        }
    }

    /// Serves a connection that was counted already.
    pub(super) fn add_connection(
        &mut self,
        socket: Fd,
        peer: SocketAddr,
        portal: Arc<PortalState>,
        visit: Visit,
    ) {
        let full = self.connections.len() >= limits::CONNECTIONS_PER_SHARD_MAX
            || self.logins >= limits::LOGINS_PER_SHARD_MAX;
        let buffer = self.receive_pool.take(limits::RECEIVE_BYTES);
        let local = local_address(&socket);
        let (Some(buffer), Some(local), false) = (buffer, local, full || self.stopping) else {
            if full {
                self.links.shared.door.refuse(peer, TurnedAway::Shard);
            }
            self.board.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let options = socket2::SockRef::from(&socket);
        // Without these the connection works, only less well.
        let _ = options.set_tcp_nodelay(true);
        let _ = options.set_keepalive(true);
        let _ = options.set_tcp_user_timeout(Some(limits::SEND_TIME_MAX));
        portal.connections.fetch_add(1, Ordering::Relaxed);
        self.logins += 1;
        let generation = self.next_generation();
        let index = self.connections.insert(Connection {
            generation,
            socket,
            peer,
            local,
            portal,
            engine: Engine::new(Arc::clone(&self.engine_config), self.now),
            out: Out::default(),
            spare: SendList::default(),
            sending: false,
            in_send: 0,
            queued: Charge::default(),
            in_flight: Charge::default(),
            receiving: false,
            buffer: Some(buffer),
            unread: 0..0,
            is_dirty: false,
            tick_soon: false,
            waiting: false,
            in_login: true,
            session: None,
            visit,
            tellings: Vec::new(),
            proof: None,
            closing: false,
            dead: false,
        });
        self.receive(index);
    }

    pub(super) fn id_of(&self, index: usize) -> Option<ConnectionId> {
        self.connections.get(index).map(|connection| ConnectionId {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            generation: connection.generation,
        })
    }

    fn token(&self, kind: TokenKind, index: usize) -> Token {
        Token {
            kind,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            generation: self.connections[index].generation,
        }
    }

    /// Starts a receive when there is nothing left to look at.
    fn receive(&mut self, index: usize) {
        let token = self.token(TokenKind::Receive, index);
        let connection = &mut self.connections[index];
        if connection.dead || connection.closing || connection.receiving {
            return;
        }
        if !connection.unread.is_empty() || connection.is_blocked() {
            return;
        }
        let Some(buffer) = connection.buffer.take() else {
            return;
        };
        connection.receiving = true;
        let socket = Arc::clone(&connection.socket);
        let range = 0..buffer.len();
        self.reactor.submit(
            token.into(),
            Op::Recv {
                socket,
                buffer,
                range,
            },
        );
    }

    pub(super) fn received(&mut self, token: Token, buffer: Buffer, result: io::Result<usize>) {
        let index = token.index as usize;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.receiving = false;
        connection.buffer = Some(buffer);
        if connection.dead {
            self.release(index);
            return;
        }
        match result {
            Ok(0) => self.lose(index, "the initiator closed the connection"),
            Ok(bytes) => {
                connection.unread = 0..bytes;
                self.pump(index);
            }
            Err(error) => {
                tracing::debug!(peer = %connection.peer, %error, "receive failed");
                self.lose(index, "the connection broke");
            }
        }
    }

    /// Lets the engine look at what came in, as far as there is room for what follows from it.
    pub(super) fn pump(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let Some(buffer) = connection.buffer.take() else {
            return;
        };
        let Range { mut start, end } = connection.unread.clone();
        loop {
            let connection = &mut self.connections[index];
            if connection.dead || connection.closing || connection.is_blocked() {
                break;
            }
            let mut input = &buffer[start..end];
            let next = connection
                .engine
                .next(self.now, &mut input, &mut connection.out);
            start = end - input.len();
            match next {
                Ok(Some(event)) => self.event(index, event),
                Ok(None) => break,
                Err(fatal) => {
                    tracing::info!(peer = %connection.peer, %fatal, "connection dropped");
                    self.close(index, "the initiator broke the protocol");
                    break;
                }
            }
        }
        self.note_told(index);
        let connection = &mut self.connections[index];
        connection.buffer = Some(buffer);
        connection.unread = start..end;
        if connection.dead {
            self.release(index);
            return;
        }
        self.mark(index);
        self.receive(index);
    }

    fn note_told(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let engine = &connection.engine;
        let told = connection
            .tellings
            .extract_if(.., |telling| engine.acknowledged(telling.stat_sn));
        for Telling { unit, nexus, .. } in told {
            unit.told(&nexus);
            if let Some(place) = unit.place() {
                // Without room the nexus is told once more after the next start.
                let told = ControlRequest::Told { place, unit, nexus };
                let _ = self.links.control.try_send(told);
            }
        }
    }

    /// Something may be there to send.
    pub(super) fn mark(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(index);
        }
    }

    pub(super) fn flush_all(&mut self) {
        while let Some(index) = self.dirty.pop() {
            let asked = self
                .connections
                .get_mut(index)
                .map(|c| std::mem::take(&mut c.tick_soon));
            if asked == Some(true) {
                self.tick_connection(index);
            }
            self.flush(index);
        }
    }

    fn flush(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.is_dirty = false;
        if connection.dead || connection.sending {
            return;
        }
        if connection.out.0.is_empty() {
            if connection.closing {
                self.lose(index, "the connection was closed");
            }
            return;
        }
        let spare = std::mem::take(&mut connection.spare);
        let list = std::mem::replace(&mut connection.out.0, spare);
        connection.sending = true;
        connection.in_send = list.len();
        connection.in_flight = std::mem::take(&mut connection.queued);
        let socket = Arc::clone(&connection.socket);
        let token = self.token(TokenKind::Send, index);
        self.reactor.submit(token.into(), Op::Send { socket, list });
    }

    pub(super) fn sent(&mut self, token: Token, list: SendList, result: io::Result<()>) {
        let index = token.index as usize;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.sending = false;
        connection.in_send = 0;
        connection.in_flight = Charge::default();
        connection.spare = list;
        if connection.dead {
            self.release(index);
            return;
        }
        if let Err(error) = result {
            tracing::debug!(peer = %connection.peer, %error, "send failed");
            self.lose(index, "the connection broke");
            return;
        }
        self.mark(index);
        self.pump(index);
    }

    /// Sends what there is, then ends the connection.
    pub(super) fn close(&mut self, index: usize, reason: &'static str) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.closing = true;
        let session = connection.session.take();
        self.mark(index);
        if let Some(session) = session {
            self.end_session(session, reason);
        }
    }

    /// Ends the connection now.
    pub(super) fn lose(&mut self, index: usize, reason: &'static str) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.dead {
            return;
        }
        connection.dead = true;
        // The pending receive and send come back by this.
        let _ = ring::op::shutdown(&connection.socket);
        let session = connection.session.take();
        if std::mem::take(&mut connection.in_login) {
            self.logins -= 1;
        }
        if let Some(session) = session {
            self.end_session(session, reason);
        }
        self.release(index);
    }

    /// Gives the place of a dead connection back when nothing of it is under way.
    fn release(&mut self, index: usize) {
        let connection = &self.connections[index];
        // Without its buffer, `pump` is at work on it and comes here again.
        if connection.sending || connection.receiving || connection.buffer.is_none() {
            return;
        }
        let connection = self.connections.remove(index);
        connection
            .portal
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        self.board.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn tick_connection(&mut self, index: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        // While input is held back the peer only looks silent; the socket's own bound watches over
        // what it does not take.
        if connection.dead || connection.is_blocked() || !connection.unread.is_empty() {
            return;
        }
        match connection.engine.tick(now, &mut connection.out) {
            Ok(_) => self.mark(index),
            Err(fatal) => {
                tracing::info!(peer = %connection.peer, %fatal, "connection dropped");
                let reason = match fatal {
                    Fatal::DataTimeout(_) => "the data of a write did not come in time",
                    _ => "the initiator did not answer in time",
                };
                self.lose(index, reason);
            }
        }
    }
}

impl Connection {
    /// No more input is looked at until something has been sent or decided.
    fn is_blocked(&self) -> bool {
        self.waiting || self.out.0.len() + self.in_send > limits::SEND_BACKLOG_BYTES_MAX
    }

    /// Nobody serves it any more.
    pub(super) fn break_off(self) {
        let _ = ring::op::shutdown(&self.socket);
        self.portal.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.dead
    }
}

fn local_address(socket: &Fd) -> Option<SocketAddr> {
    socket2::SockRef::from(&socket.as_fd())
        .local_addr()
        .ok()?
        .as_socket()
}
