//! `sanctum event`: what happened.

use api::request::EventQuery;
use clap::{Args, Subcommand, ValueEnum};
use events::Event;

use crate::cli::Context;
use crate::failure::Failure;
use crate::limits;
use crate::output::{self, Format};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists events, newest last
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = limits::EVENTS_LISTED)]
        limit: usize,
        #[command(flatten)]
        which: Which,
    },
    /// Shows events as they happen, a line each, until ctrl-C
    Follow {
        /// Ends after so many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        #[command(flatten)]
        which: Which,
    },
}

/// Which events.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Only events after this number
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Only this severity and worse
    #[arg(long, value_enum)]
    severity: Option<Severity>,
    /// Only events of this code
    #[arg(long)]
    code: Option<String>,
    /// Only events about this target, device, portal ...
    #[arg(long)]
    subject: Option<String>,
}

impl From<Which> for EventQuery {
    fn from(which: Which) -> Self {
        Self {
            since_id: which.after,
            severity_min: which.severity.map(Into::into),
            code: which.code,
            subject: which.subject,
            limit: None,
        }
    }
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
        match self {
            Self::List { limit, which } => {
                let mut query = EventQuery::from(which);
                query.limit = Some(limit);
                let events = context.client.events(&query).await?;
                let rows = events.iter().map(cells).collect();
                let header = ["number", "time", "severity", "code", "subject", "message"];
                context.output.list(&events, &header, rows)
            }
            Self::Follow { limit, which } => {
                let following = follow(context, which.into(), limit);
                tokio::select! {
                    ended = Box::pin(following) => ended,
                    // Ctrl-C is how a person ends this.
                    _ = tokio::signal::ctrl_c() => Ok(()),
                }
            }
        }
    }
}

fn cells(event: &Event) -> Vec<String> {
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
}

/// Asks for the next events again and again; each answer comes within a bound.
async fn follow(
    context: &Context,
    mut query: EventQuery,
    limit: Option<u64>,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        query.limit = usize::try_from(left.min(limits::EVENTS_AT_ONCE)).ok();
        let next = context.client.next_events(&query).await?;
        if next.missed > 0 {
            eprintln!(
                "{} events were overwritten before they could be shown",
                next.missed
            );
        }
        for event in &next.events {
            left -= 1;
            let line = match context.output.format {
                Format::Json => serde_json::to_string(event)
                    .map_err(|error| Failure::local("cannot write JSON", &error.into()))?,
                Format::Table => output::line(&cells(event)),
            };
            // Whoever read what they wanted (`| head`) has closed the pipe.
            if !output::still_read(&format!("{line}\n"))? {
                return Ok(());
            }
        }
        query.since_id = Some(next.last_id);
    }
    Ok(())
}
