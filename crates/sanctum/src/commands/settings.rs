//! `sanctum settings`: everything the service serves, in one document.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api::request::{Change, Export, Rollback, SettingsText};
use api::view::SettingsApplied;
use api::{Code, Problem, Secret};
use clap::{Args, Subcommand};

use crate::cli::Context;
use crate::failure::Failure;
use crate::limits;
use crate::{output, prompt};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the settings in force, or a kept generation
    Show {
        /// A generation from the history
        #[arg(long, value_name = "N")]
        generation: Option<u64>,
    },
    /// Writes the settings in force to a file, without secrets unless asked for
    Export {
        /// The file; it must not exist. `-` writes to standard output
        file: PathBuf,
        /// Puts the secrets in, encrypted under a passphrase that is asked for
        #[arg(long)]
        with_secrets: bool,
        /// Reads the passphrase from the first line of standard input
        #[arg(long, requires = "with_secrets")]
        passphrase_stdin: bool,
    },
    /// Shows what applying a document would change; changes nothing
    Diff {
        #[command(flatten)]
        document: Document,
    },
    /// Applies a document: all of it, or nothing
    Apply {
        #[command(flatten)]
        document: Document,
        /// Shows what would change; changes nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Returns to a kept generation, as a new one
    Rollback {
        /// Its number in the history
        generation: u64,
        /// Refuses unless this generation is in force
        #[arg(long, value_name = "N")]
        expect: Option<u64>,
    },
    /// Lists kept generations
    History,
}

/// A document, and what is expected where it goes.
#[derive(Args, Debug)]
pub(crate) struct Document {
    /// The document; `-` reads standard input
    file: PathBuf,
    /// Refuses unless this generation is in force
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    /// Reads the passphrase of an export with secrets from the first line of standard input
    #[arg(long)]
    passphrase_stdin: bool,
}

impl Command {
    pub(crate) async fn run(self, context: Context) -> Result<(), Failure> {
        match self {
            Self::Show { generation } => {
                let shown = match generation {
                    Some(generation) => context.client.settings_of(generation).await?,
                    None => context.client.settings().await?,
                };
                context.output.done(&shown, shown.text.trim_end())
            }
            Self::Export {
                file,
                with_secrets,
                passphrase_stdin,
            } => {
                let passphrase = match (with_secrets, passphrase_stdin) {
                    (false, _) => None,
                    (true, true) => Some(prompt::secret_from_stdin()?),
                    (true, false) => Some(prompt::hidden_twice("passphrase of the export")?),
                };
                let shown = context
                    .client
                    .export_settings(&Export { passphrase })
                    .await?;
                if file == Path::new("-") {
                    return match context.output.format {
                        output::Format::Json => context.output.one(&shown, Vec::new()),
                        output::Format::Table => output::text(&shown.text),
                    };
                }
                export(&file, &shown.text)?;
                let sentence = format!(
                    "generation {} written to {}",
                    shown.generation,
                    file.display()
                );
                context.output.done(&shown, &sentence)
            }
            Self::Diff { document }
            | Self::Apply {
                document,
                dry_run: true,
            } => diff(&context, &document).await,
            Self::Apply {
                document,
                dry_run: false,
            } => {
                let text = read(&document.file, document.passphrase_stdin)?;
                let client = expecting(&context, document.expect);
                tell(&context, &client.apply_settings(&text).await?)
            }
            Self::Rollback { generation, expect } => {
                let client = expecting(&context, expect);
                let applied = client.roll_back(Rollback { generation }).await?;
                tell(&context, &applied)
            }
            Self::History => history(&context).await,
        }
    }
}

/// The client, with the expected generation in its changes.
fn expecting(context: &Context, expect: Option<u64>) -> api::Client {
    let change = Change {
        expect,
        ..context.client.carried_change().clone()
    };
    context.client.clone().with_change(change)
}

async fn diff(context: &Context, document: &Document) -> Result<(), Failure> {
    let text = read(&document.file, document.passphrase_stdin)?;
    let difference = context.client.diff_settings(&text).await?;
    let now = difference.generation;
    if let Some(expect) = document.expect.filter(|expect| *expect != now) {
        let what = format!("generation {now} is in force, not {expect}");
        let problem = Problem::new(Code::GenerationConflict, what);
        return Err(problem
            .next("read the settings again, compare, and repeat")
            .into());
    }
    let shown = if difference.changed {
        let (new, gone) = (&difference.secrets, &difference.secrets_removed);
        differences(&difference.text, new, gone).join("\n")
    } else {
        format!("no difference to generation {now}")
    };
    context.output.done(&difference, &shown)
}

/// What differs, for people.
fn differences(text: &str, secrets: &[String], removed: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    if !text.is_empty() {
        lines.push(text.trim_end().to_owned());
    }
    if !secrets.is_empty() {
        lines.push(format!("secrets new or replaced: {}", secrets.join(", ")));
    }
    if !removed.is_empty() {
        lines.push(format!(
            "secrets removed, as no account names them: {}",
            removed.join(", ")
        ));
    }
    if lines.is_empty() {
        lines.push("only comments or layout differ".to_owned());
    }
    lines
}

fn tell(context: &Context, applied: &SettingsApplied) -> Result<(), Failure> {
    let generation = applied.generation;
    let mut lines = if applied.changed {
        let (new, gone) = (&applied.secrets, &applied.secrets_removed);
        let mut lines = differences(&applied.text, new, gone);
        lines.push(format!("generation {generation} is in force"));
        lines
    } else {
        vec![format!(
            "nothing to change; generation {generation} stays in force"
        )]
    };
    lines.extend(applied.notes.iter().map(|note| format!("note: {note}")));
    context.output.done(applied, &lines.join("\n"))
}

async fn history(context: &Context) -> Result<(), Failure> {
    let entries = context.client.history().await?;
    let rows = entries
        .iter()
        .map(|entry| {
            let active = if entry.active { "in force" } else { "" };
            vec![
                entry.generation.to_string(),
                to_the_second(&entry.time),
                entry.who.clone(),
                entry.why.clone(),
                active.to_owned(),
            ]
        })
        .collect();
    context.output.list(
        &entries,
        &["generation", "time", "who", "why", "state"],
        rows,
    )
}

/// A time as people compare it; programs get all of it.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

fn read(file: &Path, passphrase_stdin: bool) -> Result<SettingsText, Failure> {
    if passphrase_stdin && file == Path::new("-") {
        return Err(Failure::usage(
            "standard input cannot be both the document and its passphrase",
            "name the document's file",
        ));
    }
    let failure =
        |error: &io::Error| Failure::local(format!("cannot read {}", file.display()), error);
    let mut text = String::new();
    let most = limits::SETTINGS_BYTES_MAX;
    let read = if file == Path::new("-") {
        io::stdin().lock().take(most + 1).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|open| open.take(most + 1).read_to_string(&mut text))
    };
    read.map_err(|error| failure(&error))?;
    if text.len() as u64 > most {
        return Err(Failure::usage(
            format!(
                "{} is larger than a settings document may be",
                file.display()
            ),
            "check that it is the right file",
        ));
    }
    let passphrase = passphrase(&text, passphrase_stdin)?;
    Ok(SettingsText {
        text,
        passphrase,
        file: Some(file.to_owned()),
    })
}

/// The passphrase of a document that holds secrets; the service says so when one is missing.
fn passphrase(text: &str, from_stdin: bool) -> Result<Option<Secret>, Failure> {
    if from_stdin {
        return prompt::secret_from_stdin().map(Some);
    }
    let sealed = text.lines().any(|line| line.trim() == "[sealed_secrets]");
    if sealed && prompt::interactive() {
        return prompt::hidden_once("passphrase of the export").map(Some);
    }
    Ok(None)
}

/// Writes a new file that only its owner reads: it names secrets, though it does not hold them.
fn export(file: &Path, text: &str) -> Result<(), Failure> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| {
            open.write_all(text.as_bytes())?;
            open.sync_all()
        })
        .map_err(|error| Failure::local(format!("cannot write {}", file.display()), &error))
}
