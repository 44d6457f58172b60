//! `sanctum discovery`: what initiators prove before they are told which targets there are.

use api::config::Authentication;
use clap::Subcommand;

use crate::cli::Context;
use crate::commands::target::{Proof, hashes};
use crate::commands::{listed, yes_no};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows what is asked for
    Show,
    /// Asks initiators for CHAP before they are told targets; replaces what was asked for
    Require {
        #[command(flatten)]
        proof: Proof,
    },
    /// Asks no proof; access rules still decide which targets an initiator is told
    Open,
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Show => show(context).await,
            Self::Require { proof } => {
                let proof = Authentication::from(proof);
                if proof.accounts.is_empty() {
                    return Err(Failure::usage(
                        "no account is named that initiators could use",
                        "name one with --chap USER (sanctum chap list), or ask no proof: \
                         sanctum discovery open",
                    ));
                }
                let applied = context.client.set_discovery(&proof).await?;
                let users = proof.accounts.join(", ");
                let sentence = format!("discovery asks for CHAP: {users}");
                context.output.done(&applied, &sentence)
            }
            Self::Open => {
                let open = Authentication::default();
                let applied = context.client.set_discovery(&open).await?;
                context.output.done(&applied, "discovery asks no proof")
            }
        }
    }
}

async fn show(context: &Context) -> Result<(), Failure> {
    let proof = context.client.discovery().await?;
    let fields = vec![
        ("chap", listed(&proof.accounts, "no proof asked")),
        (
            "mutual",
            proof.mutual.clone().unwrap_or_else(|| "no".to_owned()),
        ),
        ("mutual required", yes_no(proof.mutual_required)),
        ("hashes", hashes(&proof.algorithms)),
    ];
    context.output.one(&proof, fields)
}
