//! Tests over real files and devices.
