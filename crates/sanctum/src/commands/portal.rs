//! `sanctum portal`: addresses that accept connections.

use std::net::{IpAddr, SocketAddr};

use api::config::Portal;
use api::request::PortalChange;
use clap::{ArgAction, Subcommand};

use crate::cli::Context;
use crate::failure::Failure;

/// Where iSCSI listens when nothing else is said.
pub(crate) const PORT: u16 = 3260;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists portals
    List,
    /// Adds a portal and listens on it
    Add {
        /// Name
        name: String,
        /// ADDRESS or ADDRESS:PORT; an IPv6 address with a port stands in brackets
        #[arg(value_parser = address)]
        address: SocketAddr,
        /// Binds to one network interface
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        /// Portal group tag, 1 to 65535
        #[arg(
            long,
            value_name = "N",
            default_value_t = 1,
            value_parser = clap::value_parser!(u16).range(1..)
        )]
        group: u16,
        /// Listens on it (true) or only adds it (false)
        #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
        enabled: bool,
    },
    /// Removes a portal; sessions through it end
    Remove {
        /// Name
        name: String,
    },
    /// Listens on a portal
    Enable {
        /// Name
        name: String,
    },
    /// Stops listening on a portal; sessions through it end
    Disable {
        /// Name
        name: String,
    },
}

/// `127.0.0.1`, `127.0.0.1:3261`, `::1`, `[::1]:3261`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err("the port must be 1 to 65535".to_owned()),
        Ok(address) => Ok(address),
        Err(_) => Err("an IP address, or ADDRESS:PORT ([ADDRESS]:PORT for IPv6)".to_owned()),
    }
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        match self {
            Self::List => list(context).await,
            Self::Add {
                name,
                address,
                interface,
                group,
                enabled,
            } => {
                let portal = Portal {
                    name,
                    address: address.ip(),
                    port: address.port(),
                    interface,
                    group,
                    enabled,
                };
                let applied = client.add_portal(&portal).await?;
                let listens = if enabled { "listens on" } else { "added" };
                let sentence = format!("portal {} {listens} {address}", portal.name);
                context.output.done(&applied, &sentence)
            }
            Self::Remove { name } => {
                let applied = client.remove_portal(&name).await?;
                context
                    .output
                    .done(&applied, &format!("portal {name} removed"))
            }
            Self::Enable { name } => {
                let applied = client
                    .change_portal(&name, PortalChange { enabled: true })
                    .await?;
                context
                    .output
                    .done(&applied, &format!("portal {name} enabled"))
            }
            Self::Disable { name } => {
                let applied = client
                    .change_portal(&name, PortalChange { enabled: false })
                    .await?;
                context
                    .output
                    .done(&applied, &format!("portal {name} disabled"))
            }
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let portals = context.client.portals().await?;
    let rows = portals
        .iter()
        .map(|view| {
            let portal = &view.portal;
            let state = match (portal.enabled, view.listening) {
                (false, _) => "disabled",
                (true, true) => "listening",
                (true, false) => "not listening",
            };
            vec![
                portal.name.clone(),
                portal.socket_address().to_string(),
                portal.interface.clone().unwrap_or_default(),
                portal.group.to_string(),
                state.to_owned(),
                view.connections.to_string(),
            ]
        })
        .collect();
    let header = [
        "name",
        "address",
        "interface",
        "group",
        "state",
        "connections",
    ];
    context.output.list(&portals, &header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_port() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:3260"),
            ("10.0.0.1:3261", "10.0.0.1:3261"),
            ("::1", "[::1]:3260"),
            ("[fd00::1]:860", "[fd00::1]:860"),
        ] {
            assert_eq!(
                address(text).map(|read| read.to_string()),
                Ok(expected.to_owned())
            );
        }
        for text in [
            "",
            "localhost",
            "10.0.0.1:0",
            "10.0.0.1:70000",
            "fd00::1:99999",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
