//! What shards and the control plane say to each other, through bounded channels.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use parking_lot::Mutex;
use scsi::change::Selector;
use scsi::{Attention, Change, Nexus};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::door::Visit;
use crate::gate::{Gate, Grant};
use crate::proof::Proof;
use crate::registry::SessionShared;
use crate::unit::{LogicalUnit, Place};

/// Names a connection of a shard; an old name never means a new connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ConnectionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A portal at run time.
#[derive(Debug)]
pub(crate) struct PortalState {
    pub(crate) name: String,
    pub(crate) group: u16,
    pub(crate) address: SocketAddr,
    pub(crate) interface: Option<String>,
    pub(crate) listening: AtomicBool,
    pub(crate) connections: AtomicUsize,
}

/// To a shard.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// Accept connections on this socket.
    Listen {
        portal: Arc<PortalState>,
        listener: ring::Fd,
        done: oneshot::Sender<()>,
    },
    /// Stop accepting for the portal; its connections stay until they are ended otherwise.
    Unlisten {
        portal: Arc<PortalState>,
        done: oneshot::Sender<()>,
    },
    /// An accepted connection to serve.
    Connection {
        socket: ring::Fd,
        peer: SocketAddr,
        portal: Arc<PortalState>,
        visit: Visit,
    },
    /// Answer to [`ControlRequest::Admit`].
    Admitted {
        connection: ConnectionId,
        outcome: Result<Arc<SessionShared>, Refusal>,
    },
    /// Answer to [`ControlRequest::Record`].
    Recorded {
        unit: Arc<LogicalUnit>,
        nexus: Nexus,
        result: Result<(), scsi::Response>,
    },
    /// Answer to [`ControlRequest::Change`].
    Changed {
        key: u64,
        result: Result<(), scsi::Response>,
    },
    /// A barrier: the unit was published anew. See [`UnitWork`].
    Work {
        work: Arc<UnitWork>,
        done: oneshot::Sender<()>,
    },
    /// Answer to [`ControlRequest::Reset`].
    ResetDone {
        connection: ConnectionId,
        tag: u32,
        complete: bool,
    },
    /// End a session; its registry entry goes when its last command has ended.
    End { tsih: u16, reason: &'static str },
    /// The session's LUN map, or its right to be there, may have changed.
    Remap {
        tsih: u16,
        luns: Vec<SeenUnit>,
        done: oneshot::Sender<()>,
    },
    /// End everything and stop.
    Stop,
    /// End as if something had gone wrong.
    #[cfg(test)]
    Fail,
}

/// A LUN of a session.
#[derive(Clone, Debug)]
pub(crate) struct SeenUnit {
    pub(crate) number: u16,
    pub(crate) read_only: bool,
    pub(crate) unit: Arc<LogicalUnit>,
}

/// What a shard does at a barrier, besides looking at the new value from now on.
#[derive(Debug)]
pub(crate) struct UnitWork {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) attentions: Vec<(Selector, Attention)>,
    pub(crate) abort: Abort,
    /// Answer only when commands that run on the disk now have ended: they may have been checked
    /// against the old value.
    pub(crate) drain: bool,
    /// Others than this one whose commands end are told so by a unit attention.
    pub(crate) cleared_by: Option<Nexus>,
    /// The command that asked does not end by its own change.
    pub(crate) asked_by: Option<Reply>,
    /// Nexuses whose writes are in doubt are told so from now on: the device was opened.
    pub(crate) doubt: bool,
}

impl UnitWork {
    /// Nothing but to look at the new value.
    pub(crate) fn new(unit: &Arc<LogicalUnit>) -> Self {
        Self {
            unit: Arc::clone(unit),
            attentions: Vec::new(),
            abort: Abort::None,
            drain: false,
            cleared_by: None,
            asked_by: None,
            doubt: false,
        }
    }
}

/// Commands that end at a barrier.
#[derive(Clone, Debug)]
pub(crate) enum Abort {
    None,
    /// Of these nexuses (PREEMPT AND ABORT).
    Nexuses(Vec<Nexus>),
    /// All of the unit (CLEAR TASK SET, resets, the unit goes away).
    All,
}

/// Why a login is not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// No rule allows it (any more).
    Forbidden,
    /// What it proved is not what is asked for (any more).
    Unproven,
    /// The target is gone.
    NotFound,
    /// The target serves one initiator at a time, and another one has it.
    Taken,
    /// The old session of this nexus does not end.
    Stuck,
    /// The initiator has as many sessions with the target as it may have.
    Enough,
    /// No session handle is free, or too much at once.
    Exhausted,
}

impl Refusal {
    /// To a person, of a login.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Forbidden => "no access rule allows it",
            Self::Unproven => "what has to be proven was changed while it logged in",
            Self::NotFound => "there is no such target",
            Self::Taken => {
                "another initiator uses the target, and it does not allow several at once"
            }
            Self::Stuck => "commands of its old session do not end",
            Self::Enough => "the initiator has as many sessions with the target as it may have",
            Self::Exhausted => "there is no room for another session",
        }
    }

    /// To a person, of a session that ends because its login would be refused now.
    pub(crate) const fn ended(self) -> &'static str {
        match self {
            Self::Unproven => {
                "its CHAP account or what has to be proven was changed; it may log in anew"
            }
            Self::NotFound => "the target is not served any more",
            Self::Forbidden | Self::Taken | Self::Stuck | Self::Enough | Self::Exhausted => {
                "the access rules do not allow it any more"
            }
        }
    }
}

/// To the control plane. Each carries the place that it takes there (see [`LogicalUnit::place`]).
#[derive(Debug)]
pub(crate) enum ControlRequest {
    /// Apply a change of shared state. The ticket has the place.
    Change {
        unit: Arc<LogicalUnit>,
        nexus: Nexus,
        change: Change,
        ticket: Arc<Ticket>,
        reply: Reply,
    },
    /// Remember beside the device that this nexus writes.
    Record {
        place: Place,
        unit: Arc<LogicalUnit>,
        nexus: Nexus,
        shard: usize,
    },
    /// Forget that writes of this nexus are in doubt: it was told.
    Told {
        place: Place,
        unit: Arc<LogicalUnit>,
        nexus: Nexus,
    },
    /// The device is gone or a flush of it has failed: who wrote is noted as in doubt.
    Broken {
        place: Place,
        unit: Arc<LogicalUnit>,
    },
    /// CLEAR TASK SET or a reset of units.
    Reset {
        units: Vec<(Arc<LogicalUnit>, Place)>,
        by: Nexus,
        kind: ResetKind,
        shard: usize,
        connection: ConnectionId,
        tag: u32,
    },
    /// Let a session in.
    Admit {
        place: Place,
        shard: usize,
        connection: ConnectionId,
        login: Box<Login>,
    },
    /// A nexus is gone: what it held by RESERVE(6) or PREVENT goes, too. Where this finds no room,
    /// the control plane finds it by itself.
    NexusLost {
        place: Place,
        unit: Arc<LogicalUnit>,
        target: String,
        nexus: Nexus,
    },
    /// Aborted commands did not end within the bound.
    Stuck {
        place: Place,
        unit: Arc<LogicalUnit>,
    },
    /// The last of them has ended. Where this finds no room, the control plane finds it by itself.
    Recovered {
        place: Place,
        unit: Arc<LogicalUnit>,
    },
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) shard: usize,
    pub(crate) key: u64,
}

/// How far a reset goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ResetKind {
    /// Ends the tasks of all nexuses, changes nothing else.
    ClearTaskSet,
    /// LOGICAL UNIT RESET, or one unit of a target reset.
    Unit,
}

/// A login that passed authentication and negotiation.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) initiator: String,
    pub(crate) isid: [u8; 6],
    pub(crate) target: String,
    pub(crate) portal: Arc<PortalState>,
    pub(crate) peer: SocketAddr,
    pub(crate) proof: Option<Proof>,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
}

/// Decides who wins when a command is aborted while its change waits: the change has begun, or the
/// abort came first, the change never happens, and its place is free before the abort is answered.
#[derive(Debug)]
pub(crate) struct Ticket {
    state: AtomicU8,
    cancelled: Notify,
    place: Mutex<Option<Place>>,
}

impl Ticket {
    const WAITING: u8 = 0;
    const BEGUN: u8 = 1;
    const CANCELLED: u8 = 2;

    pub(crate) fn new(place: Place) -> Self {
        Self {
            state: AtomicU8::new(Self::WAITING),
            cancelled: Notify::new(),
            place: Mutex::new(Some(place)),
        }
    }

    fn take(&self, to: u8) -> bool {
        self.state
            .compare_exchange(Self::WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The control plane begins, and keeps the place to its end; `None` when it was cancelled.
    pub(crate) fn begin(&self) -> Option<Place> {
        let begun = self.take(Self::BEGUN);
        begun.then(|| self.place.lock().take()).flatten()
    }

    /// The shard cancels; `false` when it has begun.
    pub(crate) fn cancel(&self) -> bool {
        let cancelled = self.take(Self::CANCELLED);
        if cancelled {
            self.place.lock().take();
            self.cancelled.notify_one();
        }
        cancelled
    }

    /// Resolves once it is cancelled.
    pub(crate) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

/// How anybody reaches a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    inbox: mpsc::Sender<ShardMessage>,
    waker: ring::Waker,
    pub(crate) board: Arc<Board>,
}

/// What others write and a shard reads between turns.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// Passes for commands of this shard that waited at a gate; as many as it has commands at most.
    grants: Mutex<Grants>,
    /// Connections it has: new ones go to the shard with the fewest.
    pub(crate) connections: AtomicUsize,
}

#[derive(Debug, Default)]
struct Grants {
    waiting: VecDeque<Grant>,
    closed: bool,
}

impl Board {
    /// Passes that are there now.
    pub(crate) fn grants(&self) -> usize {
        self.grants.lock().waiting.len()
    }

    /// One pass. Should the shard panic over it, the others are still here.
    pub(crate) fn take_grant(&self) -> Option<Grant> {
        self.grants.lock().waiting.pop_front()
    }

    /// The shard ends before its time: takes the last passes; further ones go back.
    pub(crate) fn close(&self) -> VecDeque<Grant> {
        let mut grants = self.grants.lock();
        grants.closed = true;
        std::mem::take(&mut grants.waiting)
    }
}

impl ShardHandle {
    pub(crate) const fn new(
        inbox: mpsc::Sender<ShardMessage>,
        waker: ring::Waker,
        board: Arc<Board>,
    ) -> Self {
        Self {
            inbox,
            waker,
            board,
        }
    }

    /// Sends, waiting for room. A shard that is gone takes nothing (`false`): the answer never comes.
    pub(crate) async fn send(&self, message: ShardMessage) -> bool {
        let sent = self.inbox.send(message).await.is_ok();
        if sent {
            self.waker.wake();
        }
        sent
    }

    /// Resolves when the shard has ended.
    pub(crate) async fn ended(&self) {
        self.inbox.closed().await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Sends if there is room, for senders that cannot wait.
    pub(crate) fn try_send(&self, message: ShardMessage) -> Result<(), ShardMessage> {
        match self.inbox.try_send(message) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(
                mpsc::error::TrySendError::Full(message)
                | mpsc::error::TrySendError::Closed(message),
            ) => Err(message),
        }
    }

    /// Gives a pass to a command that waited; one of a shard that is gone comes back.
    fn grant(&self, grant: Grant) -> Result<(), Grant> {
        let mut grants = self.board.grants.lock();
        if grants.closed {
            return Err(grant);
        }
        grants.waiting.push_back(grant);
        drop(grants);
        self.waker.wake();
        Ok(())
    }
}

/// Gives passes to those that waited for them. What was meant for a shard that is gone goes to the
/// next in turn.
pub(crate) fn deliver(shards: &[ShardHandle], gate: &Gate, grants: Vec<Grant>) {
    let mut grants = VecDeque::from(grants);
    while let Some(grant) = grants.pop_front() {
        let given = match shards.get(grant.waiter.shard) {
            Some(shard) => shard.grant(grant),
            None => Err(grant),
        };
        if let Err(grant) = given {
            grants.extend(gate.release(grant.pass));
        }
    }
}
