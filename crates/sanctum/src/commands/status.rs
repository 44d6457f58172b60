//! `sanctum status`.

use crate::cli::Context;
use crate::commands::{count, duration};
use crate::failure::Failure;

/// Shows the service at a glance.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let status = context.client.status().await?;
    let mut fields = vec![
        ("version", status.version.clone()),
        (
            "running",
            format!(
                "{} (process {})",
                duration(status.uptime_seconds),
                status.pid
            ),
        ),
        ("data", status.data_dir.display().to_string()),
        ("settings", format!("generation {}", status.generation)),
        (
            "portals",
            format!(
                "{} of {} listen",
                status.portals.working, status.portals.total
            ),
        ),
        (
            "targets",
            format!(
                "{}, {}",
                count(status.targets, "target"),
                count(status.luns, "LUN")
            ),
        ),
        (
            "devices",
            format!(
                "{} of {} ready",
                status.devices.working, status.devices.total
            ),
        ),
        ("sessions", status.sessions.to_string()),
        (
            "shards",
            format!("{}, driven by {}", status.shards, status.driver),
        ),
    ];
    if let Some(reason) = &status.driver_reason {
        fields.push(("", format!("io_uring is not used: {reason}")));
    }
    if !status.attention.is_empty() {
        fields.push(("attention", status.attention.join("\n")));
    }
    context.output.one(&status, fields)
}
