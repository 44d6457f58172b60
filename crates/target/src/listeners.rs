//! Listening sockets of the portals.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Portal;
use crate::limits;

/// Address and interface: what a socket is bound to.
pub(crate) type Place = (SocketAddr, Option<String>);

/// Sockets in use, by place: a portal that changes only its name or group keeps its socket.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) sockets: HashMap<Place, ring::Fd>,
}

/// Where a portal listens.
pub(crate) fn place(portal: &Portal) -> Place {
    (portal.socket_address(), portal.interface.clone())
}

/// Binds and listens.
///
/// # Errors
/// The system's answer: the address is not there, the port is taken, the interface is unknown.
pub(crate) fn bind(portal: &Portal) -> io::Result<ring::Fd> {
    let address = portal.socket_address();
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // An IPv4 portal on the same port stands beside it.
        socket.set_only_v6(true)?;
    }
    if let Some(interface) = &portal.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(Arc::new(OwnedFd::from(socket)))
}
