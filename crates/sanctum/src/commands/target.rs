//! `sanctum target`: iSCSI targets.

use api::config::{Authentication, ChapAlgorithm, Target};
use api::request::TargetChange;
use api::view::TargetView;
use clap::{ArgAction, Args, Subcommand};

use crate::cli::Context;
use crate::commands::{access, listed, yes_no};
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists targets
    List,
    /// Shows a target with its LUNs and access rules
    Show {
        /// iSCSI name
        name: String,
    },
    /// Adds a target; nobody may use it until an access rule allows it
    Create {
        /// iSCSI name, such as iqn.2026-11.com.example:disks
        name: String,
        /// A word for people
        #[arg(long)]
        alias: Option<String>,
        /// Several initiators at once (true, for clusters) or one (false)
        #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
        allow_multiple: bool,
        /// Portal by name that it answers on; repeat for several (default: all)
        #[arg(long = "portal", value_name = "NAME")]
        portals: Vec<String>,
        #[command(flatten)]
        proof: Proof,
    },
    /// Changes a target; what is not given stays
    Update(Box<Update>),
    /// Removes a target; its sessions end, its devices stay
    Delete {
        /// iSCSI name
        name: String,
    },
}

/// What an initiator has to prove.
#[derive(Args, Debug)]
pub(crate) struct Proof {
    /// CHAP account that initiators may use; repeat for several (default: no proof asked)
    #[arg(long = "chap", value_name = "USER")]
    accounts: Vec<String>,
    /// CHAP account that the target proves itself with
    #[arg(long, value_name = "USER")]
    mutual: Option<String>,
    /// Whether initiators must ask for the target's proof
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    mutual_required: bool,
    /// CHAP hash that is allowed; repeat for several, best first (default: all)
    #[arg(long = "algorithm", value_name = "HASH", value_parser = algorithm)]
    algorithms: Vec<ChapAlgorithm>,
}

impl Proof {
    /// Nothing was said about it.
    pub(crate) fn is_silent(&self) -> bool {
        self.accounts.is_empty()
            && self.mutual.is_none()
            && !self.mutual_required
            && self.algorithms.is_empty()
    }
}

impl From<Proof> for Authentication {
    fn from(proof: Proof) -> Self {
        Self {
            accounts: proof.accounts,
            mutual: proof.mutual,
            mutual_required: proof.mutual_required,
            algorithms: proof.algorithms,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// iSCSI name
    name: String,
    /// New alias; empty removes it
    #[arg(long)]
    alias: Option<String>,
    /// Several initiators at once (true) or one (false)
    #[arg(long, value_name = "BOOL")]
    allow_multiple: Option<bool>,
    /// Portal by name; repeat for several; empty means all
    #[arg(long = "portal", value_name = "NAME")]
    portals: Option<Vec<String>>,
    /// CHAP account that initiators may use; repeat for several; empty asks no proof
    #[arg(long = "chap", value_name = "USER")]
    accounts: Option<Vec<String>>,
    /// CHAP account that the target proves itself with; empty removes it
    #[arg(long, value_name = "USER")]
    mutual: Option<String>,
    /// Whether initiators must ask for the target's proof
    #[arg(long, value_name = "BOOL")]
    mutual_required: Option<bool>,
    /// CHAP hash that is allowed; repeat for several, best first; empty means all
    #[arg(long = "algorithm", value_name = "HASH", value_parser = algorithm_or_empty)]
    algorithms: Option<Vec<Option<ChapAlgorithm>>>,
}

/// A repeated flag whose only value is empty means an empty list.
fn emptied(list: Option<Vec<String>>) -> Option<Vec<String>> {
    list.map(|names| names.into_iter().filter(|name| !name.is_empty()).collect())
}

/// As [`algorithm`], or nothing, for lifting the restriction.
fn algorithm_or_empty(text: &str) -> Result<Option<ChapAlgorithm>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    algorithm(text).map(Some)
}

/// The hashes under the names that the settings use.
fn algorithm(text: &str) -> Result<ChapAlgorithm, String> {
    serde_json::from_value(serde_json::Value::String(text.to_lowercase()))
        .map_err(|_| "one of md5, sha1, sha256, sha3-256".to_owned())
}

/// Hashes under the names that the settings use.
pub(crate) fn hashes(algorithms: &[ChapAlgorithm]) -> String {
    let name = |algorithm| match serde_json::to_value(algorithm) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    };
    let names: Vec<String> = algorithms.iter().map(name).collect();
    listed(&names, "all")
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List => list(context).await,
            Self::Show { name } => {
                let target = context.client.target(&name).await?;
                if context.output.format == output::Format::Json {
                    return context.output.one(&target, Vec::new());
                }
                output::text(&show(&target))
            }
            Self::Create {
                name,
                alias,
                allow_multiple,
                portals,
                proof,
            } => {
                let target = Target {
                    name,
                    alias,
                    allow_multiple,
                    portals,
                    authentication: proof.into(),
                    luns: Vec::new(),
                    access: Vec::new(),
                };
                let applied = context.client.add_target(&target).await?;
                let name = &target.name;
                context.output.done(
                    &applied,
                    &format!(
                        "target {name} added\nnext: sanctum lun add {name} DEVICE\n\
                         \x20     sanctum access add {name} allow --initiator NAME"
                    ),
                )
            }
            Self::Update(update) => update.run(context).await,
            Self::Delete { name } => {
                let applied = context.client.remove_target(&name).await?;
                context
                    .output
                    .done(&applied, &format!("target {name} removed"))
            }
        }
    }
}

impl Update {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let change = TargetChange {
            alias: self.alias,
            allow_multiple: self.allow_multiple,
            portals: emptied(self.portals),
            accounts: emptied(self.accounts),
            mutual: self.mutual,
            mutual_required: self.mutual_required,
            algorithms: self
                .algorithms
                .map(|given| given.into_iter().flatten().collect()),
        };
        if change == TargetChange::default() {
            return Err(Failure::usage(
                "nothing to change",
                "see sanctum target update --help",
            ));
        }
        let applied = context.client.change_target(&self.name, &change).await?;
        context
            .output
            .done(&applied, &format!("target {} changed", self.name))
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let targets = context.client.targets().await?;
    let rows = targets
        .iter()
        .map(|view| {
            let target = &view.target;
            vec![
                target.name.clone(),
                target.alias.clone().unwrap_or_default(),
                target.luns.len().to_string(),
                listed(&target.portals, "all"),
                listed(&target.authentication.accounts, "none asked"),
                target.access.len().to_string(),
                view.sessions.to_string(),
            ]
        })
        .collect();
    let header = [
        "name", "alias", "luns", "portals", "chap", "rules", "sessions",
    ];
    context.output.list(&targets, &header, rows)
}

fn show(view: &TargetView) -> String {
    let target = &view.target;
    let authentication = &target.authentication;
    let mut text = output::block(vec![
        ("name", target.name.clone()),
        ("alias", target.alias.clone().unwrap_or_default()),
        ("several initiators", yes_no(target.allow_multiple)),
        ("portals", listed(&target.portals, "all")),
        ("chap", listed(&authentication.accounts, "no proof asked")),
        (
            "mutual",
            authentication
                .mutual
                .clone()
                .unwrap_or_else(|| "no".to_owned()),
        ),
        ("mutual required", yes_no(authentication.mutual_required)),
        ("hashes", hashes(&authentication.algorithms)),
        ("sessions", view.sessions.to_string()),
    ]);
    let luns = target
        .luns
        .iter()
        .map(|lun| {
            vec![
                lun.number.to_string(),
                lun.device.clone(),
                yes_no(lun.read_only),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&output::table(&["lun", "device", "read-only"], luns));
    text.push('\n');
    let rules = target
        .access
        .iter()
        .enumerate()
        .map(|(n, rule)| access::row(n + 1, rule))
        .collect();
    text.push_str(&output::table(&access::HEADER, rules));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_by_name() {
        assert_eq!(algorithm("SHA3-256"), Ok(ChapAlgorithm::Sha3_256));
        assert_eq!(algorithm("md5"), Ok(ChapAlgorithm::Md5));
        assert!(algorithm("sha512").is_err());
    }

    #[test]
    fn an_empty_name_empties_the_list() {
        assert_eq!(emptied(None), None);
        assert_eq!(emptied(Some(vec![String::new()])), Some(vec![]));
    }
}
