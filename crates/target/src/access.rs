//! Who may use a target, and which LUNs it sees there.

use std::net::{IpAddr, SocketAddr};

use crate::check::pattern_matches;
use crate::config::{AccessRule, Action, Authentication, Portal, Target};

/// Where a login comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// Normalized initiator name.
    pub(crate) initiator: &'a str,
    pub(crate) peer: SocketAddr,
    /// Name of the portal it came in through.
    pub(crate) portal: &'a str,
}

/// What the rules say.
#[derive(Clone, Debug)]
pub(crate) struct Permission<'a> {
    pub(crate) read_only: bool,
    pub(crate) authentication: &'a Authentication,
    rule: &'a AccessRule,
}

/// One LUN as an initiator sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SeenLun {
    /// The number it uses.
    pub(crate) seen: u16,
    /// The target's own number.
    pub(crate) lun: u16,
    pub(crate) read_only: bool,
}

/// Asks the rules in order; the first that matches decides, none denies.
pub(crate) fn permission<'a>(target: &'a Target, origin: Origin<'_>) -> Option<Permission<'a>> {
    if !answers_on(target, origin.portal) {
        return None;
    }
    let rule = target.access.iter().find(|rule| matches(rule, origin))?;
    let read_only = match rule.action {
        Action::Deny => return None,
        Action::Allow => false,
        Action::ReadOnly => true,
    };
    Some(Permission {
        read_only,
        authentication: rule
            .authentication
            .as_ref()
            .unwrap_or(&target.authentication),
        rule,
    })
}

impl Permission<'_> {
    /// The LUN map, sorted by the number seen.
    pub(crate) fn luns(&self, target: &Target) -> Vec<SeenLun> {
        let of = |number: u16| target.luns.iter().find(|lun| lun.number == number);
        let mut map: Vec<SeenLun> = match &self.rule.luns {
            None => target
                .luns
                .iter()
                .map(|lun| SeenLun {
                    seen: lun.number,
                    lun: lun.number,
                    read_only: self.read_only || lun.read_only,
                })
                .collect(),
            Some(mappings) => mappings
                .iter()
                .filter_map(|mapping| {
                    of(mapping.lun).map(|lun| SeenLun {
                        seen: mapping.seen,
                        lun: mapping.lun,
                        read_only: self.read_only || lun.read_only,
                    })
                })
                .collect(),
        };
        map.sort_by_key(|lun| lun.seen);
        map
    }
}

/// Whether the target listens on the portal of this name.
pub(crate) fn answers_on(target: &Target, portal: &str) -> bool {
    target.portals.is_empty() || target.portals.iter().any(|name| name == portal)
}

fn matches(rule: &AccessRule, origin: Origin<'_>) -> bool {
    let peer = canonical(origin.peer.ip());
    pattern_matches(&rule.initiator, origin.initiator)
        && rule.network.is_none_or(|network| network.contains(&peer))
        && rule
            .portal
            .as_deref()
            .is_none_or(|portal| portal == origin.portal)
}

/// An IPv4 address that came in through a dual-stack socket counts as IPv4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Addresses told to an initiator that discovers the target through `local`: of each enabled portal
/// by which it, coming from where it comes from, may use the target; one that listens on every
/// address is told as the address used now.
pub(crate) fn addresses(
    target: &Target,
    portals: &[Portal],
    origin: Origin<'_>,
    local: SocketAddr,
) -> Vec<(SocketAddr, u16)> {
    let usable = |portal: &&Portal| {
        let portal_of = Origin {
            portal: &portal.name,
            ..origin
        };
        portal.enabled && permission(target, portal_of).is_some()
    };
    portals
        .iter()
        .filter(usable)
        .filter_map(|portal| {
            let mut address = portal.socket_address();
            if address.ip().is_unspecified() {
                let local = canonical(local.ip());
                if address.is_ipv4() != local.is_ipv4() && address.is_ipv4() {
                    return None;
                }
                address.set_ip(local);
            }
            Some((address, portal.group))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Lun, LunMapping};

    fn rule(initiator: &str, action: Action) -> AccessRule {
        AccessRule {
            initiator: initiator.to_owned(),
            network: None,
            portal: None,
            action,
            luns: None,
            authentication: None,
        }
    }

    fn target(access: Vec<AccessRule>) -> Target {
        Target {
            name: "iqn.2026-11.test:a".to_owned(),
            alias: None,
            allow_multiple: true,
            portals: Vec::new(),
            authentication: Authentication::default(),
            luns: vec![
                Lun {
                    number: 0,
                    device: "a".to_owned(),
                    read_only: false,
                },
                Lun {
                    number: 5,
                    device: "b".to_owned(),
                    read_only: true,
                },
            ],
            access,
        }
    }

    fn origin(initiator: &str) -> Origin<'_> {
        Origin {
            initiator,
            peer: "[::ffff:10.1.2.3]:4000".parse().unwrap(),
            portal: "p",
        }
    }

    #[test]
    fn no_rule_denies_and_the_first_match_decides() {
        assert!(permission(&target(vec![]), origin("iqn.a")).is_none());
        let both = target(vec![
            rule("iqn.a", Action::Deny),
            rule("*", Action::ReadOnly),
        ]);
        assert!(permission(&both, origin("iqn.a")).is_none());
        assert!(permission(&both, origin("iqn.b")).unwrap().read_only);
    }

    #[test]
    fn networks_and_portals_narrow_a_rule() {
        let mut narrow = rule("IQN.*", Action::Allow);
        narrow.network = Some("10.1.0.0/16".parse().unwrap());
        assert!(permission(&target(vec![narrow.clone()]), origin("iqn.a")).is_some());
        narrow.network = Some("10.2.0.0/16".parse().unwrap());
        assert!(permission(&target(vec![narrow.clone()]), origin("iqn.a")).is_none());
        narrow.network = None;
        narrow.portal = Some("q".to_owned());
        assert!(permission(&target(vec![narrow]), origin("iqn.a")).is_none());
    }

    #[test]
    fn only_portals_that_the_rules_let_in_are_told() {
        let portal = |name: &str, last: u8| Portal {
            name: name.to_owned(),
            address: [10, 1, 0, last].into(),
            port: 3260,
            interface: None,
            group: u16::from(last),
            enabled: true,
        };
        let mut portals = [portal("p", 1), portal("q", 2), portal("r", 3)];
        let told = |target: &Target, portals: &[Portal]| {
            let local = "10.1.0.1:3260".parse().unwrap();
            let addresses = addresses(target, portals, origin("iqn.a"), local);
            addresses
                .iter()
                .map(|(_, group)| *group)
                .collect::<Vec<_>>()
        };
        let all = target(vec![rule("*", Action::Allow)]);
        assert_eq!(told(&all, &portals), [1, 2, 3]);
        let mut not_q = rule("*", Action::Deny);
        not_q.portal = Some("q".to_owned());
        let denied = target(vec![not_q, rule("*", Action::Allow)]);
        assert_eq!(told(&denied, &portals), [1, 3]);
        let mut only_p = rule("iqn.a", Action::Allow);
        only_p.portal = Some("p".to_owned());
        let mut narrow = target(vec![only_p.clone(), rule("iqn.b", Action::Allow)]);
        assert_eq!(told(&narrow, &portals), [1]);
        only_p.portal = Some("r".to_owned());
        only_p.network = Some("10.2.0.0/16".parse().unwrap());
        narrow.access.push(only_p);
        assert_eq!(told(&narrow, &portals), [1], "not from this network");
        portals[0].enabled = false;
        assert!(told(&narrow, &portals).is_empty());
    }

    #[test]
    fn maps_renumber_hide_and_keep_read_only() {
        let mut mapped = rule("*", Action::Allow);
        mapped.luns = Some(vec![
            LunMapping { seen: 3, lun: 5 },
            LunMapping { seen: 1, lun: 0 },
        ]);
        let target = target(vec![mapped]);
        let map = permission(&target, origin("iqn.a")).unwrap().luns(&target);
        assert_eq!(
            map,
            [
                SeenLun {
                    seen: 1,
                    lun: 0,
                    read_only: false
                },
                SeenLun {
                    seen: 3,
                    lun: 5,
                    read_only: true
                },
            ]
        );
    }
}
