//! Who is let in through the management socket.

use api::Problem;
use parking_lot::Mutex;

use crate::peer::{Gid, group_id};
use crate::socket::Socket;

/// The socket, and the group that it is open to.
#[derive(Debug)]
pub(crate) struct Door {
    socket: Socket,
    group: Mutex<Option<Gid>>,
}

impl Door {
    /// The door of a socket that is open to `group`.
    pub(crate) const fn new(socket: Socket, group: Option<Gid>) -> Self {
        Self {
            socket,
            group: Mutex::new(group),
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

    /// Opens to another group, or to none.
    ///
    /// # Errors
    /// This user may not give the socket to that group; the door is shut to all groups then.
    pub(crate) fn open_to(&self, name: Option<&str>) -> Result<(), Problem> {
        let wanted = name.and_then(group_id);
        *self.group.lock() = None;
        self.socket.set_group(wanted)?;
        *self.group.lock() = wanted;
        Ok(())
    }
}
