//! Who is let in through the management socket.

use std::sync::Arc;
use std::time::Duration;

use api::{Code, Problem};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admin::blocking;
use crate::limits;
use crate::peer::{Caller, Gid, Peer, group_id};
use crate::socket::Socket;

/// The socket, and the group that it is open to.
#[derive(Debug)]
pub(crate) struct Door {
    socket: Socket,
    /// Held while the socket is given to a group, which waits for its disk.
    giving: Mutex<()>,
    /// Locked only to be copied or replaced: each request asks for it.
    group: Mutex<Option<Gid>>,
    /// Places of those that look at the system's user and group files at once. Not those of
    /// requests that look at a disk: while that one does not answer, others are let in.
    looking: Arc<Semaphore>,
}

impl Door {
    /// The door of a socket, open to no group yet.
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            giving: Mutex::new(()),
            group: Mutex::new(None),
            looking: Arc::new(Semaphore::new(limits::CALLERS_LOOKED_UP_MAX)),
        }
    }

    /// The socket.
    pub(crate) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The group that may come in besides root and the service's user.
    pub(crate) fn group(&self) -> Option<Gid> {
        *self.group.lock()
    }

    /// Who a peer is, and whether they may come in. Asked for each request: a connection that stays
    /// open does not keep a right that was taken away.
    pub(crate) async fn caller(&self, peer: Peer) -> Caller {
        let group = self.group();
        let look = move || peer.caller(group);
        self.look_up(peer, limits::CALLER_TIME_MAX, look).await
    }

    /// Looks on a thread that may wait for the disk of the system's files; past the bound that
    /// thread is left behind, and the peer is known by their number alone.
    async fn look_up(
        &self,
        peer: Peer,
        bound: Duration,
        look: impl FnOnce() -> Caller + Send + 'static,
    ) -> Caller {
        let looked = async {
            let place = Arc::clone(&self.looking).acquire_owned().await;
            let work = move || {
                let _place = place;
                look()
            };
            blocking(work).await
        };
        match timeout(bound, looked).await {
            Ok(Ok(caller)) => caller,
            left => {
                tracing::warn!(?left, ?peer, "cannot look at the system's users and groups");
                peer.by_number()
            }
        }
    }

    /// Opens to the group of this name, or to none.
    ///
    /// # Errors
    /// There is no such group, or this user may not give the socket to it; the door is as it was.
    pub(crate) fn open_to(&self, name: Option<&str>) -> Result<(), Problem> {
        let Some(name) = name else {
            return self.give_to(None);
        };
        let group = group_id(name).ok_or_else(|| {
            Problem::new(Code::Refused, format!("this host has no group `{name}`"))
                .next("make the group, or choose another service.api_group")
        })?;
        self.give_to(Some(group))
    }

    /// As [`Door::open_to`], by the group's number.
    pub(crate) fn give_to(&self, wanted: Option<Gid>) -> Result<(), Problem> {
        let _giving = self.giving.lock();
        if self.group() != wanted {
            self.socket.set_group(wanted)?;
            *self.group.lock() = wanted;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    /// Longer than any wait that ends.
    const BOUND: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn where_the_users_cannot_be_looked_up_root_comes_in_and_members_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::new(Socket::listen(&dir.path().join("api.sock")).unwrap());
        let (root, other) = (Peer::of_user(0), Peer::of_user(u32::MAX - 1));
        let member = || Caller {
            name: "member".to_owned(),
            allowed: true,
        };
        let short = Duration::from_millis(1);
        let mut hanging = Vec::new();
        for _ in 0..limits::CALLERS_LOOKED_UP_MAX {
            let (let_go, told) = sync_channel::<()>(0);
            hanging.push(let_go);
            let look = move || {
                let _ = told.recv_timeout(BOUND);
                member()
            };
            assert!(!door.look_up(other, short, look).await.allowed);
        }
        // No more than so many threads are left to it.
        assert!(!door.look_up(other, short, member).await.allowed);
        let caller = door.look_up(root, short, member).await;
        assert_eq!((caller.name.as_str(), caller.allowed), ("uid 0", true));
        drop(hanging);
        assert_eq!(door.look_up(other, BOUND, member).await, member());
        assert_eq!(door.caller(root).await.name, "root");
    }

    #[test]
    fn stays_as_it_was_where_a_group_cannot_be_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let door = Door::new(Socket::listen(&path).unwrap());
        let problem = door.open_to(Some("no-such-group")).unwrap_err();
        assert!(problem.what.contains("no-such-group"));
        assert_eq!(door.group(), None);
        let own = rustix::process::getegid().as_raw();
        door.open_to(Some(&own.to_string())).unwrap();
        assert_eq!(door.group(), Some(own));
        std::fs::remove_file(&path).unwrap();
        door.open_to(None).unwrap_err();
        assert_eq!(door.group(), Some(own));
    }
}
