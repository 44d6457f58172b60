//! `sanctum lun`: devices exposed under a target.

use api::request::{LunChange, NewLun};
use clap::{ArgAction, Subcommand};
use serde::Serialize;

use crate::cli::Context;
use crate::commands::yes_no;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists LUNs
    List {
        /// Only of this target
        target: Option<String>,
    },
    /// Adds a device to a target
    Add {
        /// Target by name
        target: String,
        /// Device by name
        device: String,
        /// Number (default: the lowest free one)
        #[arg(long, value_name = "N")]
        number: Option<u16>,
        /// Nobody writes through this LUN (true), or those that may (false)
        #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
        read_only: bool,
    },
    /// Changes a LUN
    Update {
        /// Target by name
        target: String,
        /// Number of the LUN
        number: u16,
        /// Nobody writes through this LUN (true), or those that may (false)
        #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
        read_only: bool,
    },
    /// Removes a LUN; its device and the sessions of the target stay
    Remove {
        /// Target by name
        target: String,
        /// Number of the LUN
        number: u16,
    },
}

/// A LUN in a listing.
#[derive(Debug, Serialize)]
struct Row {
    target: String,
    number: u16,
    device: String,
    read_only: bool,
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List { target } => list(context, target).await,
            Self::Add {
                target,
                device,
                number,
                read_only,
            } => {
                let lun = NewLun {
                    device,
                    number,
                    read_only,
                };
                let added = context.client.add_lun(&target, &lun).await?;
                let sentence = format!("device {} is LUN {} of {target}", lun.device, added.number);
                context.output.done(&added, &sentence)
            }
            Self::Update {
                target,
                number,
                read_only,
            } => {
                let to = LunChange { read_only };
                let applied = context.client.change_lun(&target, number, to).await?;
                let how = if read_only { "read-only" } else { "writable" };
                let sentence = format!("LUN {number} of {target} is {how}");
                context.output.done(&applied, &sentence)
            }
            Self::Remove { target, number } => {
                let applied = context.client.remove_lun(&target, number).await?;
                context
                    .output
                    .done(&applied, &format!("LUN {number} of {target} removed"))
            }
        }
    }
}

async fn list(context: &Context, target: Option<String>) -> Result<(), Failure> {
    let targets = match target {
        Some(name) => vec![context.client.target(&name).await?],
        None => context.client.targets().await?,
    };
    let luns: Vec<Row> = targets
        .into_iter()
        .flat_map(|view| {
            let target = view.target.name;
            view.target.luns.into_iter().map(move |lun| Row {
                target: target.clone(),
                number: lun.number,
                device: lun.device,
                read_only: lun.read_only,
            })
        })
        .collect();
    let rows = luns
        .iter()
        .map(|lun| {
            vec![
                lun.target.clone(),
                lun.number.to_string(),
                lun.device.clone(),
                yes_no(lun.read_only),
            ]
        })
        .collect();
    context
        .output
        .list(&luns, &["target", "lun", "device", "read-only"], rows)
}
