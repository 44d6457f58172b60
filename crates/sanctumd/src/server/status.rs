//! `/status`

use api::view::{Count, DeviceState, Status};
use axum::Json;
use axum::extract::State;

use super::Answer;
use crate::admin::Admin;

pub(super) async fn show(State(admin): State<Admin>) -> Answer<Status> {
    let service = admin.service();
    let status = service.status();
    let config = service.config();
    let devices = service.devices();
    let portals = service.portals();
    let enabled = || portals.iter().filter(|portal| portal.enabled);
    let mut attention = Vec::new();
    for device in &devices {
        if let Some(trouble) = trouble(&device.state) {
            attention.push(format!("device {}: {trouble}", device.name));
        }
        for note in &device.notes {
            attention.push(format!("device {}: {note}", device.name));
        }
    }
    for portal in enabled().filter(|portal| !portal.listening) {
        attention.push(format!(
            "portal {} does not listen on {}",
            portal.name, portal.address
        ));
    }
    let health = admin.events().health();
    if let Some(fault) = &health.fault {
        attention.push(format!("events cannot be written: {fault}"));
    }
    if status.notices_dropped > 0 {
        attention.push(format!(
            "{} events of the data path found no room and are lost; look for what floods them",
            status.notices_dropped
        ));
    }
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: status.uptime_seconds,
        data_dir: admin.data_dir().path().to_owned(),
        generation: admin.current()?.generation.number,
        shards: status.shards,
        driver: status.ring,
        driver_reason: status.ring_reason,
        portals: Count {
            working: enabled().filter(|portal| portal.listening).count(),
            total: enabled().count(),
        },
        devices: Count {
            working: devices
                .iter()
                .filter(|device| device.state == DeviceState::Ready)
                .count(),
            total: devices.len(),
        },
        targets: config.targets.len(),
        luns: config.targets.iter().map(|target| target.luns.len()).sum(),
        sessions: status.sessions,
        attention,
    }))
}

fn trouble(state: &DeviceState) -> Option<&str> {
    match state {
        DeviceState::NotReady { reason } => Some(reason),
        DeviceState::Empty => {
            Some("its contents ended with an earlier start; `sanctum device load` accepts it empty")
        }
        DeviceState::Ready | DeviceState::Ejected => None,
    }
}
