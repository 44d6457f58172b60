//! The management socket: made so that nobody can connect before its mode and group are right.
//!
//! It is bound inside a directory that only this user can enter, gets its group and mode there, and
//! is then renamed to its place. So no umask has to be changed (that is shared by all threads) and
//! there is no moment in which the socket is open to all. A socket that an ended service left is
//! replaced; one that somebody answers on is not.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use api::{Code, Problem};
use rustix::fs::Gid as FsGid;

use crate::limits;
use crate::peer::Gid;

/// Read and write for owner and group.
const MODE: u32 = 0o660;

/// A listening socket, removed when dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Listens on `path`, open to this user.
    ///
    /// # Errors
    /// Somebody answers there; the path is too long or something else's.
    pub(crate) fn listen(path: &Path) -> Result<Self, Problem> {
        let path = std::path::absolute(path).map_err(|error| failed(path, &error))?;
        if path.as_os_str().as_bytes().len() > limits::SOCKET_PATH_BYTES_MAX {
            return Err(Problem::new(
                Code::InvalidRequest,
                format!(
                    "the socket's path {} is longer than the system allows ({} bytes)",
                    path.display(),
                    limits::SOCKET_PATH_BYTES_MAX
                ),
            )
            .next("choose a shorter one with --socket"));
        }
        check_free(&path)?;
        let private = Private::make(&path)?;
        let inside = private.path.join("s");
        let listener = bind(&inside).map_err(|error| failed(&path, &error))?;
        set_access(&inside, None).map_err(|error| failed(&path, &error))?;
        std::fs::rename(&inside, &path).map_err(|error| failed(&path, &error))?;
        Ok(Self {
            path,
            listener: Some(listener),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, once.
    pub(crate) const fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }

    /// Opens the socket to another group.
    ///
    /// # Errors
    /// This user may not give a file to that group; the socket is as it was.
    pub(crate) fn set_group(&self, group: Option<Gid>) -> Result<(), Problem> {
        set_access(&self.path, group).map_err(|error| no_group(&self.path, group, &error))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Leaving it behind does no harm: the next service finds that nobody answers.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A directory beside the socket's place that only this user can enter, removed when dropped.
struct Private {
    path: PathBuf,
}

impl Private {
    fn make(socket: &Path) -> Result<Self, Problem> {
        let path = socket.with_file_name(format!(".{}", std::process::id()));
        // A leftover of an earlier process of the same number; not empty means not ours.
        let _ = std::fs::remove_file(path.join("s"));
        let _ = std::fs::remove_dir(&path);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| failed(socket, &error))?;
        Ok(Self { path })
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path.join("s"));
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, limits::BACKLOG)?;
    Ok(UnixListener::from(socket))
}

fn set_access(path: &Path, group: Option<Gid>) -> io::Result<()> {
    // Closed first: where the mode comes after the group, the old group never has the new mode.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    // Without a group of its own the socket has this user's; its other members are refused by
    // their credentials.
    let group = group.map_or_else(rustix::process::getegid, FsGid::from_raw);
    let given = rustix::fs::chown(path, None, Some(group));
    std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(given?)
}

fn check_free(path: &Path) -> Result<(), Problem> {
    let data = match path.symlink_metadata() {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, &error)),
    };
    if !data.file_type().is_socket() {
        return Err(Problem::new(
            Code::AlreadyExists,
            format!("{} is there and is no socket", path.display()),
        )
        .next("remove it, or choose another place with --socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Problem::new(
            Code::InUse,
            format!("another service answers on {}", path.display()),
        )
        .next("stop it first, or choose another place with --socket")),
        // Nobody listens: what an ended service left.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed(path, &error)),
    }
}

fn failed(path: &Path, error: &io::Error) -> Problem {
    Problem::new(
        Code::Internal,
        format!("cannot listen on the socket {}", path.display()),
    )
    .detail(error.to_string())
    .next("check that its directory exists and that this user may write there")
}

fn no_group(path: &Path, group: Option<Gid>, error: &io::Error) -> Problem {
    let group = group.map_or_else(
        || "this user's group".to_owned(),
        |gid| format!("group {gid}"),
    );
    Problem::new(
        Code::Refused,
        format!("cannot open the socket {} to {group}", path.display()),
    )
    .detail(error.to_string())
    .next("make the service's user a member of that group, or choose another service.api_group")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn mode_is_right_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let socket = Socket::listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, MODE);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_left_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::listen(&path).unwrap();
        assert_eq!(Socket::listen(&path).unwrap_err().code, Code::InUse);
        UnixStream::connect(socket.path()).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::listen(&path).unwrap_err().code, Code::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let long = dir.path().join("x".repeat(120));
        assert_eq!(
            Socket::listen(&long).unwrap_err().code,
            Code::InvalidRequest
        );
    }
}
