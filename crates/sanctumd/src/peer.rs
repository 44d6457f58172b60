//! Who is at the other end of the management socket, and whether they may use it.
//!
//! Root, the service's own user, and members of one configurable group may. The kernel checks the
//! socket's mode (0660) when a client connects; this second look at the peer's credentials holds
//! even where somebody loosened the mode or passed a connected descriptor on.

use std::fs::File;
use std::io::Read;

use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::limits;

/// Who is at the other end of a connection, as the kernel knew it when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    uid: u32,
    gid: u32,
    pid: Option<i32>,
}

/// A user of the host that sent a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Caller {
    /// User name, or `uid N` where there is none.
    pub(crate) name: String,
    /// They may use the service.
    pub(crate) allowed: bool,
}

/// A group by its number.
pub(crate) type Gid = u32;

impl Peer {
    /// The peer of a connection. `None` when the kernel does not tell.
    pub(crate) fn of(stream: &UnixStream) -> Option<Self> {
        let peer = stream.peer_cred().ok()?;
        Some(Self {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid(),
        })
    }

    /// A peer of which only the user is known.
    #[cfg(test)]
    pub(crate) const fn of_user(uid: u32) -> Self {
        Self {
            uid,
            gid: u32::MAX,
            pid: None,
        }
    }

    /// Their user's number.
    pub(crate) const fn uid(self) -> u32 {
        self.uid
    }

    /// They are root or the service's own user.
    pub(crate) fn is_own(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }

    /// Who they are by their number alone: what is left where the system's files do not answer. Who
    /// needs no group is let in all the same.
    pub(crate) fn by_number(self) -> Caller {
        Caller {
            name: format!("uid {}", self.uid),
            allowed: self.is_own(),
        }
    }

    /// What they may do now, when the service is open to `group`. Looks at the system's files.
    pub(crate) fn caller(self, group: Option<Gid>) -> Caller {
        let Self { uid, gid, pid } = self;
        let name = user_name(uid);
        let member = |group| {
            gid == group
                || pid.is_some_and(|pid| process_groups(pid, uid).contains(&group))
                || is_member(&name, group)
        };
        let allowed = self.is_own() || group.is_some_and(member);
        Caller { name, allowed }
    }
}

impl Caller {
    /// The user that this process runs for: who called sudo, where somebody did.
    pub(crate) fn this_user() -> String {
        let own = user_name(rustix::process::getuid().as_raw());
        match std::env::var("SUDO_USER") {
            Ok(person) if !person.is_empty() => format!("{own} for {person}"),
            _ => own,
        }
    }
}

/// Supplementary groups of a process that still runs as `uid`. Empty when it is gone or another
/// user's: a process id can be used again, and then the answer would be about someone else.
fn process_groups(pid: i32, uid: u32) -> Vec<Gid> {
    groups_in_status(&read(&format!("/proc/{pid}/status")), uid).unwrap_or_default()
}

fn groups_in_status(status: &str, uid: u32) -> Option<Vec<Gid>> {
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let real: u32 = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    if real != uid {
        return None;
    }
    field("Groups:")?
        .split_whitespace()
        .map(|gid| gid.parse().ok())
        .collect()
}

/// Members that `/etc/group` names.
fn is_member(user: &str, group: Gid) -> bool {
    lines_of("/etc/group").iter().any(|fields| {
        field(fields, 2).parse() == Ok(group)
            && field(fields, 3).split(',').any(|name| name == user)
    })
}

fn user_name(uid: u32) -> String {
    lines_of("/etc/passwd")
        .into_iter()
        .find(|fields| field(fields, 2).parse() == Ok(uid))
        .map_or_else(
            || format!("uid {uid}"),
            |fields| field(&fields, 0).to_owned(),
        )
}

/// The number of a group by its name, or of a number as such.
pub(crate) fn group_id(name: &str) -> Option<Gid> {
    lines_of("/etc/group")
        .iter()
        .find(|fields| field(fields, 0) == name)
        .and_then(|fields| field(fields, 2).parse().ok())
        .or_else(|| name.parse().ok())
        // To the system this number means "no group named".
        .filter(|gid| *gid != Gid::MAX)
}

fn field(fields: &[String], index: usize) -> &str {
    fields.get(index).map_or("", String::as_str)
}

fn lines_of(path: &str) -> Vec<Vec<String>> {
    read(path)
        .lines()
        .map(|line| line.split(':').map(str::to_owned).collect())
        .collect()
}

fn read(path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        // What cannot be read names nobody, and so lets nobody in.
        let _ = file
            .take(limits::ACCOUNTS_FILE_BYTES_MAX)
            .read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_count_only_for_the_same_user() {
        let status =
            "Name:\tx\nUid:\t1000\t1001\t1000\t1000\nGid:\t5\t5\t5\t5\nGroups:\t4 24 1000 \n";
        assert_eq!(groups_in_status(status, 1001), Some(vec![4, 24, 1000]));
        assert_eq!(groups_in_status(status, 1000), None);
        assert_eq!(groups_in_status("Name:\tx\n", 1000), None);
        assert_eq!(
            groups_in_status("Uid:\t0\t0\t0\t0\nGroups:\n", 0),
            Some(vec![])
        );
    }

    #[test]
    fn names_of_this_host() {
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(u32::MAX - 1), format!("uid {}", u32::MAX - 1));
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_id("no-such-group"), None);
        assert_eq!(group_id("4711"), Some(4711));
        assert_eq!(group_id("4294967295"), None);
    }

    #[tokio::test]
    async fn this_process_is_let_in() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        assert_eq!(peer.uid, geteuid().as_raw());
        assert!(peer.caller(None).allowed);
    }

    #[test]
    fn a_right_goes_with_the_group_that_gave_it() {
        let stranger = Peer {
            uid: u32::MAX - 1,
            gid: 4711,
            pid: None,
        };
        assert!(!stranger.caller(None).allowed);
        assert!(stranger.caller(Some(4711)).allowed);
        assert!(!stranger.caller(Some(4712)).allowed);
    }
}
