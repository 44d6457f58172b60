//! `sanctum event`: what happened.

use api::request::EventQuery;
use clap::{Subcommand, ValueEnum};

use crate::cli::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists events, newest last
    List {
        /// Only events after this number
        #[arg(long, value_name = "N")]
        after: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 30)]
        limit: usize,
        /// Only this severity and worse
        #[arg(long, value_enum)]
        severity: Option<Severity>,
        /// Only events of this code
        #[arg(long)]
        code: Option<String>,
        /// Only events about this target, device, portal ...
        #[arg(long)]
        subject: Option<String>,
    },
}

/// Severities by the names of the events.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Severity {
    /// Worth knowing
    Info,
    /// Not as it should be; service goes on
    Warning,
    /// Something failed
    Error,
    /// Data or service is at stake
    Critical,
}

impl From<Severity> for events::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Info,
            Severity::Warning => Self::Warning,
            Severity::Error => Self::Error,
            Severity::Critical => Self::Critical,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Self::List {
            after,
            limit,
            severity,
            code,
            subject,
        } = self;
        let query = EventQuery {
            since_id: after,
            severity_min: severity.map(Into::into),
            code,
            subject,
            limit: Some(limit),
        };
        let events = context.client.events(&query).await?;
        let rows = events
            .iter()
            .map(|event| {
                let mut message = event.message.clone();
                if let Some(cause) = &event.cause {
                    message.push_str(&format!(" ({cause})"));
                }
                if let Some(next_step) = &event.next_step {
                    message.push_str(&format!("; {next_step}"));
                }
                vec![
                    event.id.to_string(),
                    format!("{:.0}", event.time),
                    event.severity.to_string(),
                    event.code.clone(),
                    event.subject.clone(),
                    message,
                ]
            })
            .collect();
        let header = ["number", "time", "severity", "code", "subject", "message"];
        context.output.list(&events, &header, rows)
    }
}
