//! The behaviour of a reactor, with the same tests over all three drivers.

mod files;
mod futures;
mod reactors;
mod simulations;
mod sockets;
mod support;
