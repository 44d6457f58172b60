//! The service in this process, driven by initiators on our own engine.

mod config;
mod stuck;
mod support;
