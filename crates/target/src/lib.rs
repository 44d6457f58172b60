//! The iSCSI target service.

pub mod config;
