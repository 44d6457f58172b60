//! Sessions of the whole service: who is logged in where.
//!
//! An entry stands from admission until the last command of the session has ended, so that a nexus
//! never has two sessions and reinstatement waits for the old one's commands (RFC 7143, 6.3.5).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use scsi::Nexus;
use tokio::sync::oneshot;

use crate::info::{SessionInfo, hex};
use crate::limits;
use crate::message::{Login, PortalState, Refusal};
use crate::proof::Proof;

/// What everybody may know of a session.
#[derive(Debug)]
pub(crate) struct SessionShared {
    pub(crate) tsih: u16,
    pub(crate) shard: usize,
    pub(crate) nexus: Nexus,
    pub(crate) target: String,
    pub(crate) portal: Arc<PortalState>,
    pub(crate) peer: SocketAddr,
    pub(crate) proof: Option<Proof>,
    header_digest: bool,
    data_digest: bool,
    since: Instant,
    luns: Mutex<Vec<u16>>,
    pub(crate) commands: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
}

impl SessionShared {
    pub(crate) fn set_luns(&self, luns: Vec<u16>) {
        *self.luns.lock() = luns;
    }

    fn info(&self, now: Instant) -> SessionInfo {
        SessionInfo {
            tsih: self.tsih,
            initiator: self.nexus.initiator.to_string(),
            isid: hex(&self.nexus.isid),
            target: self.target.clone(),
            portal: self.portal.name.clone(),
            peer: self.peer,
            user: self.proof.as_ref().map(|proof| proof.user.clone()),
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            luns: self.luns.lock().clone(),
            shard: self.shard,
            age_seconds: now.saturating_duration_since(self.since).as_secs(),
            commands: self.commands.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug)]
struct Entry {
    session: Arc<SessionShared>,
    waiters: Vec<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Inside {
    entries: HashMap<u16, Entry>,
    last: u16,
}

/// One for the service. The lock is held for look-ups only.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inside>);

/// What stands in the way of an admission.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// The nexus has a session; it must end first.
    Old(Arc<SessionShared>, oneshot::Receiver<()>),
    /// It cannot be let in.
    Refused(Refusal),
}

impl Registry {
    /// A handle for a session that nobody lists (discovery).
    pub(crate) fn spare_handle(&self) -> Option<u16> {
        self.0.lock().handle()
    }

    /// Enters a session, or says what is in the way.
    pub(crate) fn admit(
        &self,
        login: &Login,
        nexus: &Nexus,
        shard: usize,
        exclusive: bool,
        now: Instant,
    ) -> Result<Arc<SessionShared>, Obstacle> {
        let mut inside = self.0.lock();
        let of_target = |entry: &&mut Entry| entry.session.target == login.target;
        if let Some(entry) = inside
            .entries
            .values_mut()
            .filter(of_target)
            .find(|entry| entry.session.nexus == *nexus)
        {
            let (told, ended) = oneshot::channel();
            entry.waiters.push(told);
            return Err(Obstacle::Old(Arc::clone(&entry.session), ended));
        }
        let stranger = |entry: &Entry| {
            entry.session.target == login.target && entry.session.nexus.initiator != nexus.initiator
        };
        if exclusive && inside.entries.values().any(stranger) {
            return Err(Obstacle::Refused(Refusal::Taken));
        }
        let own = |entry: &&Entry| {
            entry.session.target == login.target && entry.session.nexus.initiator == nexus.initiator
        };
        if inside.entries.values().filter(own).count() >= limits::SESSIONS_PER_INITIATOR_MAX {
            return Err(Obstacle::Refused(Refusal::Enough));
        }
        let tsih = inside
            .handle()
            .ok_or(Obstacle::Refused(Refusal::Exhausted))?;
        let session = Arc::new(SessionShared {
            tsih,
            shard,
            nexus: nexus.clone(),
            target: login.target.clone(),
            portal: Arc::clone(&login.portal),
            peer: login.peer,
            proof: login.proof.clone(),
            header_digest: login.header_digest,
            data_digest: login.data_digest,
            since: now,
            luns: Mutex::new(Vec::new()),
            commands: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        });
        let entry = Entry {
            session: Arc::clone(&session),
            waiters: Vec::new(),
        };
        inside.entries.insert(tsih, entry);
        Ok(session)
    }

    /// The session has ended to its last command.
    pub(crate) fn remove(&self, tsih: u16) {
        let entry = self.0.lock().entries.remove(&tsih);
        for waiter in entry.into_iter().flat_map(|entry| entry.waiters) {
            // Nobody listens any more where the wait ran into its bound.
            let _ = waiter.send(());
        }
    }

    /// Resolves when the session has ended; at once when there is none.
    pub(crate) fn ended(&self, tsih: u16) -> oneshot::Receiver<()> {
        let (told, ended) = oneshot::channel();
        if let Some(entry) = self.0.lock().entries.get_mut(&tsih) {
            entry.waiters.push(told);
        }
        ended
    }

    pub(crate) fn find(&self, tsih: u16) -> Option<Arc<SessionShared>> {
        self.0
            .lock()
            .entries
            .get(&tsih)
            .map(|entry| Arc::clone(&entry.session))
    }

    /// Whether a nexus of this target has a session, or one that is about to open or to end.
    pub(crate) fn has(&self, target: &str, nexus: &Nexus) -> bool {
        let inside = self.0.lock();
        let mut sessions = inside.entries.values().map(|entry| &entry.session);
        sessions.any(|session| session.target == target && session.nexus == *nexus)
    }

    pub(crate) fn all(&self) -> Vec<Arc<SessionShared>> {
        let mut all: Vec<_> = self
            .0
            .lock()
            .entries
            .values()
            .map(|entry| Arc::clone(&entry.session))
            .collect();
        all.sort_by_key(|session| session.tsih);
        all
    }

    pub(crate) fn list(&self, now: Instant) -> Vec<SessionInfo> {
        self.all().iter().map(|session| session.info(now)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().entries.len()
    }
}

impl Inside {
    /// A handle not in use; never 0, and not soon used again.
    fn handle(&mut self) -> Option<u16> {
        for _ in 0..u16::MAX {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.entries.contains_key(&self.last) {
                return Some(self.last);
            }
        }
        None
    }
}
