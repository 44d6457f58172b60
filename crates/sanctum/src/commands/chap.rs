//! `sanctum chap`: accounts that initiators and targets prove themselves with.

use api::Secret;
use api::request::{NewAccount, NewSecret};
use api::view::SecretStored;
use clap::{Args, Subcommand};

use crate::cli::Context;
use crate::commands::{listed, yes_no};
use crate::failure::Failure;
use crate::prompt;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists accounts; secrets are not shown
    List,
    /// Adds an account
    Add {
        /// Name that the initiator (or the target) gives
        user: String,
        #[command(flatten)]
        source: Source,
    },
    /// Sets a new secret; sessions that are open stay
    SetSecret {
        /// Name of the account
        user: String,
        #[command(flatten)]
        source: Source,
    },
    /// Removes an account and its secret
    Remove {
        /// Name of the account
        user: String,
    },
}

/// Where the secret comes from. Never from the command line, which every user of the host can read.
#[derive(Args, Debug)]
pub(crate) struct Source {
    /// Reads the secret from the first line of standard input (default: asks on the terminal)
    #[arg(long, conflicts_with = "generate")]
    secret_stdin: bool,
    /// Lets the service make up a secret and keep it in its secrets file
    #[arg(long)]
    generate: bool,
}

impl Source {
    fn secret(&self, user: &str) -> Result<Option<Secret>, Failure> {
        if self.generate {
            return Ok(None);
        }
        if self.secret_stdin {
            return prompt::secret_from_stdin().map(Some);
        }
        if prompt::interactive() {
            return prompt::hidden_twice(&format!("CHAP secret of {user}")).map(Some);
        }
        Err(Failure::usage(
            "there is no terminal to ask for the secret on",
            "pipe it in with --secret-stdin, or let the service make one up with --generate",
        ))
    }
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        match self {
            Self::List => list(context).await,
            Self::Add { user, source } => {
                let secret = source.secret(&user)?;
                let stored = client
                    .add_account(&NewAccount {
                        user: user.clone(),
                        secret,
                    })
                    .await?;
                let sentence = format!("account {user} added; {}", place(&stored));
                context.output.done(&stored, &sentence)
            }
            Self::SetSecret { user, source } => {
                let secret = source.secret(&user)?;
                let stored = client.set_secret(&user, &NewSecret { secret }).await?;
                let sentence = format!("account {user} has a new secret; {}", place(&stored));
                context.output.done(&stored, &sentence)
            }
            Self::Remove { user } => {
                let applied = client.remove_account(&user).await?;
                context
                    .output
                    .done(&applied, &format!("account {user} removed with its secret"))
            }
        }
    }
}

fn place(stored: &SecretStored) -> String {
    let how = if stored.generated {
        "generated, and kept"
    } else {
        "kept"
    };
    let advice = stored
        .advice
        .as_ref()
        .map(|advice| format!("\nnote: {advice}"))
        .unwrap_or_default();
    format!(
        "its secret is {how} as `{}` in {}{advice}",
        stored.secret,
        stored.file.display()
    )
}

async fn list(context: &Context) -> Result<(), Failure> {
    let accounts = context.client.accounts().await?;
    let rows = accounts
        .iter()
        .map(|account| {
            vec![
                account.user.clone(),
                account.secret.clone(),
                yes_no(account.secret_stored),
                listed(&account.used_by, "nothing"),
            ]
        })
        .collect();
    context
        .output
        .list(&accounts, &["user", "secret", "stored", "used by"], rows)
}
