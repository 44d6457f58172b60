//! `sanctum access`: which initiators may use a target. The first rule that matches decides; where
//! none matches, access is denied.

use api::config::{AccessRule, Action, Authentication, LunMapping};
use api::request::{MoveRule, NewRule};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::cli::Context;
use crate::commands::listed;
use crate::commands::target::{Proof, hashes};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the rules of a target, in order
    List {
        /// Target by name
        target: String,
    },
    /// Adds a rule
    Add(Box<Add>),
    /// Removes a rule; sessions that no rule allows any more end
    Remove {
        /// Target by name
        target: String,
        /// Position, from 1
        position: usize,
    },
    /// Moves a rule
    Move {
        /// Target by name
        target: String,
        /// Position it has, from 1
        position: usize,
        /// Position it gets, from 1
        to: usize,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Add {
    /// Target by name
    target: String,
    /// What follows when the rule matches
    action: Decision,
    /// Initiator name; `*` and `?` stand for anything
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    initiator: String,
    /// Network that it comes from, such as 10.0.0.0/24 (default: any)
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    network: Option<IpNet>,
    /// Portal by name that it comes in through (default: any)
    #[arg(long, value_name = "NAME")]
    portal: Option<String>,
    /// LUN that it sees as SEEN=LUN, or just LUN; repeat for several (default: all)
    #[arg(long = "lun", value_name = "SEEN=LUN", value_parser = mapping)]
    luns: Vec<LunMapping>,
    /// Position that the rule takes, from 1 (default: last)
    #[arg(long, value_name = "N")]
    position: Option<usize>,
    #[command(flatten)]
    proof: Proof,
}

/// Actions by the names of the settings.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Decision {
    /// Full access
    Allow,
    /// No access; discovery does not show the target
    Deny,
    /// Reads only
    ReadOnly,
}

impl From<Decision> for Action {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Allow => Self::Allow,
            Decision::Deny => Self::Deny,
            Decision::ReadOnly => Self::ReadOnly,
        }
    }
}

/// `10.0.0.0/24`, or an address alone.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| "a network such as 10.0.0.0/24 or fd00::/64, or one address".to_owned())
}

/// `SEEN=LUN`, or one number for both.
fn mapping(text: &str) -> Result<LunMapping, String> {
    let (seen, lun) = text.split_once('=').unwrap_or((text, text));
    match (seen.parse(), lun.parse()) {
        (Ok(seen), Ok(lun)) => Ok(LunMapping { seen, lun }),
        _ => Err("a LUN number, or SEEN=LUN".to_owned()),
    }
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        match self {
            Self::List { target } => {
                let rules = client.rules(&target).await?;
                let rows = rules
                    .iter()
                    .map(|view| row(view.position, &view.rule))
                    .collect();
                context.output.list(&rules, &HEADER, rows)
            }
            Self::Add(add) => add.run(context).await,
            Self::Remove { target, position } => {
                let applied = client.remove_rule(&target, position).await?;
                context
                    .output
                    .done(&applied, &format!("rule {position} of {target} removed"))
            }
            Self::Move {
                target,
                position,
                to,
            } => {
                let applied = client.move_rule(&target, position, MoveRule { to }).await?;
                context.output.done(
                    &applied,
                    &format!("rule {position} of {target} is rule {to} now"),
                )
            }
        }
    }
}

impl Add {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let rule = AccessRule {
            initiator: self.initiator,
            network: self.network,
            portal: self.portal,
            action: self.action.into(),
            luns: (!self.luns.is_empty()).then_some(self.luns),
            authentication: (!self.proof.is_silent()).then(|| self.proof.into()),
        };
        let new = NewRule {
            position: self.position,
            rule,
        };
        let applied = context.client.add_rule(&self.target, &new).await?;
        let sentence = format!(
            "rule added to {}: {} {}",
            self.target, new.rule.action, new.rule.initiator
        );
        context.output.done(&applied, &sentence)
    }
}

/// Columns of a rule.
pub(crate) const HEADER: [&str; 9] = [
    "rule",
    "action",
    "initiator",
    "network",
    "portal",
    "luns",
    "chap",
    "mutual",
    "hashes",
];

/// A rule as a row of these columns.
pub(crate) fn row(position: usize, rule: &AccessRule) -> Vec<String> {
    let luns = rule.luns.as_ref().map(|luns| {
        let luns: Vec<String> = luns
            .iter()
            .map(|map| format!("{}={}", map.seen, map.lun))
            .collect();
        listed(&luns, "none")
    });
    let mut proof = vec!["as the target".to_owned(); 3];
    if let Some(own) = &rule.authentication {
        proof = vec![
            listed(&own.accounts, "no proof asked"),
            mutual(own),
            hashes(&own.algorithms),
        ];
    }
    let mut row = vec![
        position.to_string(),
        rule.action.to_string(),
        rule.initiator.clone(),
        rule.network
            .map_or_else(|| "any".to_owned(), |network| network.to_string()),
        rule.portal.clone().unwrap_or_else(|| "any".to_owned()),
        luns.unwrap_or_else(|| "all".to_owned()),
    ];
    row.extend(proof);
    row
}

/// The account that the target proves itself with, and whether it must.
fn mutual(proof: &Authentication) -> String {
    let account = proof.mutual.as_deref().unwrap_or("no");
    let required = if proof.mutual_required {
        ", required"
    } else {
        ""
    };
    format!("{account}{required}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses() {
        assert_eq!(network("10.0.0.0/24").unwrap().to_string(), "10.0.0.0/24");
        assert_eq!(network("10.0.0.7").unwrap().to_string(), "10.0.0.7/32");
        assert_eq!(network("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert!(network("10.0.0.0/33").is_err());
    }

    #[test]
    fn lun_maps() {
        assert_eq!(mapping("0=4"), Ok(LunMapping { seen: 0, lun: 4 }));
        assert_eq!(mapping("7"), Ok(LunMapping { seen: 7, lun: 7 }));
        assert!(mapping("1-2").is_err());
        assert!(mapping("1=70000").is_err());
    }
}
