//! Who is let in through the management socket.

use api::{Code, Problem};
use parking_lot::Mutex;

use crate::peer::{Gid, group_id};
use crate::socket::Socket;

/// The socket, and the group that it is open to.
#[derive(Debug)]
pub(crate) struct Door {
    socket: Socket,
    /// Held while the socket is given to a group, which waits for its disk.
    giving: Mutex<()>,
    /// Locked only to be copied or replaced: each request asks for it.
    group: Mutex<Option<Gid>>,
}

impl Door {
    /// The door of a socket, open to no group yet.
    pub(crate) const fn new(socket: Socket) -> Self {
        Self {
            socket,
            giving: Mutex::new(()),
            group: Mutex::new(None),
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
    use super::*;

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
