//! What is said on the management socket: the types of `/api/v1`, its errors, and a client.
//!
//! The service (`sanctumd`) answers these types, the command line (`sanctum`) and later the web
//! console speak them. Nothing here decides anything: no validation beyond the shape of a value, no
//! file, no server.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | the settings document's own words (portal, device, target ...), used as request bodies |
//! | [`view`] | what is answered: configured things together with their live state |
//! | [`request`] | bodies and query strings of requests that are not a settings type |
//! | [`problem`] | the one error type, its codes and their HTTP statuses |
//! | [`client`] | a typed client over the Unix socket |
//! | [`limits`] | how large and how long anything here may be |
//!
//! # Sketch
//!
//! One request is one HTTP/1.1 exchange with a JSON body on a Unix socket; a connection is reused
//! for the next. A change answers once it is both in force and stored ([`view::Applied`]), except
//! for work that takes long (reserving the space of an image): that answers at once with a
//! [`view::Task`], which is then polled. When the connection breaks between the request and its
//! answer, the change may have been made or not; the settings generation tells which, and a change
//! that carries [`request::Change::expect`] is safe to send again.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

pub mod client;
pub mod limits;
pub mod path;
pub mod problem;
pub mod request;
pub mod secret;
pub mod view;

pub use client::{Client, ClientError};
pub use path::quoted;
pub use problem::{Code, Problem};
pub use secret::Secret;

/// The settings document's own words.
pub mod config {
    pub use target::config::{
        AccessRule, Action, Authentication, Backing, CacheMode, ChapAccount, ChapAlgorithm, Device,
        Lun, LunMapping, Portal, Provisioning, Target,
    };
}

/// Where every path of this version starts.
pub const PREFIX: &str = "/api/v1";

/// Where a socket is that a group is to reach: outside of the data directory, which is private.
pub const SHARED_SOCKET: &str = "/run/sanctum/api.sock";

/// The data directory when nothing else is said: `/var/lib/sanctum` for root, the user's own data
/// directory for others.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/sanctum");
    }
    let own = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    own.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .map_or_else(
            || PathBuf::from("sanctum-data"),
            |base| base.join("sanctum"),
        )
}

/// The socket that a client tries when nothing else is said: that of the default data directory, or
/// the shared one where only that is there.
pub fn default_socket() -> PathBuf {
    let own = default_data_dir().join(SOCKET_NAME);
    let shared = Path::new(SHARED_SOCKET);
    if !own.exists() && shared.exists() {
        shared.to_owned()
    } else {
        own
    }
}

/// Name of the socket inside a data directory.
pub const SOCKET_NAME: &str = "api.sock";
