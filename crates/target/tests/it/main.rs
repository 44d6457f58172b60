//! The service in this process, driven by initiators on our own engine.

mod chap;
mod config;
mod door;
mod doubt;
mod load;
mod operator;
mod physical;
mod planted;
mod site;
mod stuck;
mod support;
