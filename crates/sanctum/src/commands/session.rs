//! `sanctum session`: initiators logged in now.

use clap::Subcommand;

use crate::cli::Context;
use crate::commands::duration;
use crate::failure::Failure;
use crate::size;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists sessions
    List,
    /// Ends a session; the initiator may log in again where the access rules let it
    Drop {
        /// Its handle, the first column of the listing
        tsih: u16,
    },
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List => list(context).await,
            Self::Drop { tsih } => {
                context.client.drop_session(tsih).await?;
                context.output.done(&(), &format!("session {tsih} ended"))
            }
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let sessions = context.client.sessions().await?;
    let rows = sessions
        .iter()
        .map(|session| {
            let digests = match (session.header_digest, session.data_digest) {
                (true, true) => "header, data",
                (true, false) => "header",
                (false, true) => "data",
                (false, false) => "none",
            };
            vec![
                session.tsih.to_string(),
                session.initiator.clone(),
                session.peer.to_string(),
                session.target.clone(),
                session.portal.clone(),
                session.user.clone().unwrap_or_default(),
                digests.to_owned(),
                session.commands.to_string(),
                size::show(session.bytes_read),
                size::show(session.bytes_written),
                duration(session.age_seconds),
            ]
        })
        .collect();
    let header = [
        "tsih",
        "initiator",
        "from",
        "target",
        "portal",
        "chap",
        "digests",
        "commands",
        "read",
        "written",
        "age",
    ];
    context.output.list(&sessions, &header, rows)
}
