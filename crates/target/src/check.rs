//! Static checks of a configuration: what can be known to be wrong without touching anything.

use std::collections::HashSet;

use wildmatch::WildMatch;

use crate::config::{AccessRule, Authentication, Backing, Config, Device, Portal, Target};
use crate::limits;

/// Something in the configuration cannot be served.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    /// Where, such as `target[1].lun[0].device`.
    pub path: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

fn fail(path: impl Into<String>, reason: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError {
        path: path.into(),
        reason: reason.into(),
    })
}

/// Checks names, references, ranges and limits. `secret_exists` tells whether the store has a secret.
///
/// # Errors
/// The first thing found wrong, with its path.
pub fn check(config: &Config, secret_exists: &dyn Fn(&str) -> bool) -> Result<(), ConfigError> {
    counts(config)?;
    let portals = unique(
        config.portals.iter().map(|portal| portal.name.as_str()),
        |n| format!("portal[{n}].name"),
    )?;
    for (n, portal) in config.portals.iter().enumerate() {
        check_portal(n, portal, &config.portals[..n])?;
    }
    let devices = unique(
        config.devices.iter().map(|device| device.name.as_str()),
        |n| format!("device[{n}].name"),
    )?;
    for (n, device) in config.devices.iter().enumerate() {
        check_device(n, device, &config.devices[..n])?;
    }
    let accounts = unique(
        config.accounts.iter().map(|account| account.user.as_str()),
        |n| format!("chap[{n}].user"),
    )?;
    for (n, account) in config.accounts.iter().enumerate() {
        let most = limits::USER_BYTES_MAX;
        no_longer(&format!("chap[{n}].user"), &account.user, most)?;
        // What stands there may be a secret by mistake: it is never repeated.
        if !secret_exists(&account.secret) {
            return fail(
                format!("chap[{n}].secret"),
                format!(
                    "account `{}` names a secret that the secrets store does not hold",
                    account.user
                ),
            );
        }
    }
    let known = Known {
        portals,
        devices,
        accounts,
    };
    unique(
        config.targets.iter().map(|target| target.name.as_str()),
        |n| format!("target[{n}].name"),
    )?;
    let mut used = HashSet::new();
    for (n, target) in config.targets.iter().enumerate() {
        check_target(&format!("target[{n}]"), target, &known, &mut used)?;
    }
    match &config.discovery {
        Some(authentication) => check_authentication("discovery", authentication, &known),
        None => Ok(()),
    }
}

struct Known<'a> {
    portals: HashSet<&'a str>,
    devices: HashSet<&'a str>,
    accounts: HashSet<&'a str>,
}

fn counts(config: &Config) -> Result<(), ConfigError> {
    for (path, have, most) in [
        ("portal", config.portals.len(), limits::PORTALS_MAX),
        ("device", config.devices.len(), limits::DEVICES_MAX),
        ("chap", config.accounts.len(), limits::ACCOUNTS_MAX),
        ("target", config.targets.len(), limits::TARGETS_MAX),
    ] {
        no_more(path, have, most)?;
    }
    Ok(())
}

/// Bounds a list that stands in the document.
fn no_more(path: &str, have: usize, most: usize) -> Result<(), ConfigError> {
    if have > most {
        return fail(path, format!("{have} entries; at most {most} are served"));
    }
    Ok(())
}

fn no_longer(path: &str, text: &str, most: usize) -> Result<(), ConfigError> {
    if text.len() > most {
        return fail(path, format!("has {} bytes; at most {most}", text.len()));
    }
    Ok(())
}

fn unique<'a>(
    names: impl Iterator<Item = &'a str>,
    path: impl Fn(usize) -> String,
) -> Result<HashSet<&'a str>, ConfigError> {
    let mut seen = HashSet::new();
    for (n, name) in names.enumerate() {
        if name.is_empty() {
            fail(path(n), "must not be empty")?;
        }
        if name.chars().any(char::is_control) {
            fail(path(n), "must not have control characters")?;
        }
        if !seen.insert(name) {
            fail(path(n), format!("`{name}` stands here twice"))?;
        }
    }
    Ok(seen)
}

fn check_portal(n: usize, portal: &Portal, before: &[Portal]) -> Result<(), ConfigError> {
    let most = limits::NAME_BYTES_MAX;
    no_longer(&format!("portal[{n}].name"), &portal.name, most)?;
    if portal.port == 0 {
        return fail(format!("portal[{n}].port"), "must be 1 to 65535");
    }
    if portal.group == 0 {
        return fail(format!("portal[{n}].group"), "must be 1 to 65535");
    }
    if portal.address.is_multicast() {
        return fail(format!("portal[{n}].address"), "is a multicast address");
    }
    if let Some(twin) = before.iter().find(|other| {
        other.socket_address() == portal.socket_address() && other.interface == portal.interface
    }) {
        return fail(
            format!("portal[{n}].address"),
            format!(
                "{} is portal `{}` already",
                portal.socket_address(),
                twin.name
            ),
        );
    }
    Ok(())
}

fn check_device(n: usize, device: &Device, before: &[Device]) -> Result<(), ConfigError> {
    let at = |field: &str| format!("device[{n}].{field}");
    no_longer(&at("name"), &device.name, limits::NAME_BYTES_MAX)?;
    if device.name.contains('/') || device.name.starts_with('.') {
        return fail(at("name"), "must be without `/` and not start with `.`");
    }
    let deepest = limits::QUEUE_DEPTH_MAX;
    if !(1..=deepest).contains(&device.queue_depth) {
        return fail(at("queue_depth"), format!("must be 1 to {deepest}"));
    }
    match &device.backing {
        Backing::Image {
            size, block_size, ..
        }
        | Backing::Ram { size, block_size } => {
            check_block_size(&at("block_size"), *block_size)?;
            if *size == 0 || size % u64::from(*block_size) != 0 {
                return fail(
                    at("size"),
                    format!(
                        "{size} bytes: must be a multiple of the block size, {block_size}, and not zero"
                    ),
                );
            }
            if *size > limits::DEVICE_BYTES_MAX {
                let most = limits::DEVICE_BYTES_MAX >> 60;
                return fail(at("size"), format!("{size} bytes; at most {most} EiB"));
            }
        }
        Backing::Block {
            block_size: Some(block_size),
            ..
        } => {
            check_block_size(&at("block_size"), *block_size)?;
        }
        Backing::Block { .. } | Backing::Iso { .. } => {}
    }
    let Some(path) = device.backing.path() else {
        return Ok(());
    };
    if !path.is_absolute() {
        return fail(
            at("path"),
            format!("{} is not an absolute path", path.display()),
        );
    }
    match before
        .iter()
        .find(|other| other.backing.path() == Some(path))
    {
        Some(twin) => fail(
            at("path"),
            format!("{} is device `{}` already", path.display(), twin.name),
        ),
        None => Ok(()),
    }
}

fn check_block_size(path: &str, block_size: u32) -> Result<(), ConfigError> {
    if matches!(block_size, 512 | 4096) {
        return Ok(());
    }
    fail(path, format!("{block_size}: must be 512 or 4096"))
}

fn check_target<'a>(
    at: &str,
    target: &'a Target,
    known: &Known<'_>,
    used: &mut HashSet<&'a str>,
) -> Result<(), ConfigError> {
    check_iscsi_name(&format!("{at}.name"), &target.name)?;
    let alias = target.alias.as_deref().unwrap_or_default();
    no_longer(&format!("{at}.alias"), alias, limits::ALIAS_BYTES_MAX)?;
    let most = limits::PORTALS_MAX;
    no_more(&format!("{at}.portals"), target.portals.len(), most)?;
    for (n, portal) in target.portals.iter().enumerate() {
        refer(
            &format!("{at}.portals[{n}]"),
            "portal",
            portal,
            &known.portals,
        )?;
    }
    check_authentication(
        &format!("{at}.authentication"),
        &target.authentication,
        known,
    )?;
    let mut numbers = HashSet::new();
    for (n, lun) in target.luns.iter().enumerate() {
        if lun.number >= limits::LUN_NUMBERS {
            return fail(
                format!("{at}.lun[{n}].number"),
                format!("must be 0 to {}", limits::LUN_NUMBERS - 1),
            );
        }
        if !numbers.insert(lun.number) {
            return fail(
                format!("{at}.lun[{n}].number"),
                format!("LUN {} stands here twice", lun.number),
            );
        }
        refer(
            &format!("{at}.lun[{n}].device"),
            "device",
            &lun.device,
            &known.devices,
        )?;
        if !used.insert(lun.device.as_str()) {
            return fail(
                format!("{at}.lun[{n}].device"),
                format!("device `{}` backs another LUN already", lun.device),
            );
        }
    }
    let most = limits::RULES_MAX;
    no_more(&format!("{at}.access"), target.access.len(), most)?;
    for (n, rule) in target.access.iter().enumerate() {
        check_rule(&format!("{at}.access[{n}]"), rule, &numbers, known)?;
    }
    Ok(())
}

fn check_rule(
    at: &str,
    rule: &AccessRule,
    numbers: &HashSet<u16>,
    known: &Known<'_>,
) -> Result<(), ConfigError> {
    if rule.initiator.is_empty() {
        let reason = "must not be empty; `*` stands for any name";
        return fail(format!("{at}.initiator"), reason);
    }
    let most = limits::PATTERN_BYTES_MAX;
    no_longer(&format!("{at}.initiator"), &rule.initiator, most)?;
    if let Some(portal) = &rule.portal {
        refer(&format!("{at}.portal"), "portal", portal, &known.portals)?;
    }
    // Numbers are below a bound and stand here once: so is the list.
    let mut seen = HashSet::new();
    for (n, mapping) in rule.luns.iter().flatten().enumerate() {
        if mapping.seen >= limits::LUN_NUMBERS {
            return fail(
                format!("{at}.luns[{n}].seen"),
                format!("must be 0 to {}", limits::LUN_NUMBERS - 1),
            );
        }
        if !seen.insert(mapping.seen) {
            return fail(
                format!("{at}.luns[{n}].seen"),
                format!("LUN {} stands here twice", mapping.seen),
            );
        }
        if !numbers.contains(&mapping.lun) {
            return fail(
                format!("{at}.luns[{n}].lun"),
                format!("the target has no LUN {}", mapping.lun),
            );
        }
    }
    match &rule.authentication {
        Some(authentication) => {
            check_authentication(&format!("{at}.authentication"), authentication, known)
        }
        None => Ok(()),
    }
}

fn check_authentication(
    at: &str,
    authentication: &Authentication,
    known: &Known<'_>,
) -> Result<(), ConfigError> {
    let most = limits::ACCOUNTS_PER_RULE_MAX;
    no_more(
        &format!("{at}.accounts"),
        authentication.accounts.len(),
        most,
    )?;
    let algorithms = &authentication.algorithms;
    for (n, algorithm) in algorithms.iter().enumerate() {
        // So there are never more than there are kinds.
        if algorithms.iter().take(n).any(|other| other == algorithm) {
            return fail(format!("{at}.algorithms[{n}]"), "stands here twice");
        }
    }
    for (n, account) in authentication.accounts.iter().enumerate() {
        refer(
            &format!("{at}.accounts[{n}]"),
            "CHAP account",
            account,
            &known.accounts,
        )?;
    }
    if let Some(mutual) = &authentication.mutual {
        refer(
            &format!("{at}.mutual"),
            "CHAP account",
            mutual,
            &known.accounts,
        )?;
        if authentication.accounts.contains(mutual) {
            return fail(
                format!("{at}.mutual"),
                "the target must not prove itself with an account that initiators use: \
                 the same secret both ways can be reflected",
            );
        }
    }
    if authentication.accounts.is_empty()
        && (authentication.mutual.is_some() || authentication.mutual_required)
    {
        return fail(
            format!("{at}.accounts"),
            "mutual CHAP needs an account for the initiator, too",
        );
    }
    if authentication.mutual_required && authentication.mutual.is_none() {
        return fail(
            format!("{at}.mutual"),
            "is required, but no account is named for it",
        );
    }
    Ok(())
}

fn refer(path: &str, what: &str, name: &str, known: &HashSet<&str>) -> Result<(), ConfigError> {
    if known.contains(name) {
        return Ok(());
    }
    fail(path, format!("there is no {what} named `{name}`"))
}

/// The protocol's own rule for names, and in the form in which they are compared.
fn check_iscsi_name(path: &str, name: &str) -> Result<(), ConfigError> {
    match iscsi::name::normalize(name) {
        Ok(normal) if normal == name => Ok(()),
        Ok(normal) => fail(path, format!("must be in lower case: `{normal}`")),
        Err(error) => fail(path, format!("`{name}`: {error}")),
    }
}

/// Whether a rule's pattern fits an initiator name (names compare in lower case).
pub(crate) fn pattern_matches(pattern: &str, name: &str) -> bool {
    WildMatch::new(&pattern.to_lowercase()).matches(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ChapAlgorithm;

    /// One portal, one device, one account, one target with all of them.
    fn good() -> Config {
        serde_json::from_value(serde_json::json!({
            "portal": [{"name": "p", "address": "192.0.2.1"}],
            "device": [{"name": "d", "kind": "ram", "size": 1 << 20}],
            "chap": [{"user": "u", "secret": "s"}],
            "target": [{
                "name": "iqn.2026-11.org.example:t_1",
                "portals": ["p"],
                "authentication": {"accounts": ["u"], "algorithms": ["sha3-256", "md5"]},
                "lun": [{"number": 0, "device": "d"}],
                "access": [{"action": "allow", "luns": [{"seen": 1, "lun": 0}]}],
            }],
        }))
        .unwrap()
    }

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = good();
        check(&config, &|_| true).unwrap();
        change(&mut config);
        check(&config, &|_| true).unwrap_err().to_string()
    }

    #[test]
    fn target_names_follow_the_protocols_rule() {
        let named = |name: &str| {
            let name = name.to_owned();
            refused(|config| config.targets[0].name = name)
        };
        assert_eq!(
            named("iqn.2026-11.org.Example:t"),
            "target[0].name: must be in lower case: `iqn.2026-11.org.example:t`"
        );
        // A thirteenth month is no date.
        assert!(named("iqn.2026-13.org.example:t").contains("looks like"));
        assert!(named("iqn.2026-11.org.example:t/1").contains("'/'"));
    }

    #[test]
    fn every_list_has_a_bound() {
        let portal = good().portals[0].clone();
        let rule = good().targets[0].access[0].clone();
        let many = |count: usize| std::iter::repeat_n("p".to_owned(), count).collect::<Vec<_>>();
        let all = [
            refused(|config| {
                let portals = (0..=limits::PORTALS_MAX).map(|n| crate::config::Portal {
                    name: n.to_string(),
                    port: u16::try_from(n + 1).unwrap(),
                    ..portal.clone()
                });
                config.portals = portals.collect();
            }),
            refused(|config| config.targets[0].portals = many(limits::PORTALS_MAX + 1)),
            refused(|config| config.targets[0].access = vec![rule; limits::RULES_MAX + 1]),
            refused(|config| {
                let most = limits::ACCOUNTS_PER_RULE_MAX;
                config.targets[0].authentication.accounts = many(most + 1);
            }),
        ];
        for refusal in &all {
            assert!(refusal.contains("entries; at most"), "{refusal}");
        }
        let twice = refused(|config| {
            let authentication = &mut config.targets[0].authentication;
            authentication.algorithms.push(ChapAlgorithm::Md5);
        });
        assert!(twice.starts_with("target[0].authentication.algorithms[2]: "));
    }

    #[test]
    fn every_text_and_number_has_a_bound() {
        let long = |bytes: usize| "x".repeat(bytes + 1);
        for refusal in [
            refused(|config| config.portals[0].name = long(limits::NAME_BYTES_MAX)),
            refused(|config| config.devices[0].name = long(limits::NAME_BYTES_MAX)),
            refused(|config| config.accounts[0].user = long(limits::USER_BYTES_MAX)),
            refused(|config| config.targets[0].alias = Some(long(limits::ALIAS_BYTES_MAX))),
            refused(|config| {
                config.targets[0].access[0].initiator = long(limits::PATTERN_BYTES_MAX);
            }),
        ] {
            assert!(refusal.contains("bytes; at most"), "{refusal}");
        }
        let deep = refused(|config| config.devices[0].queue_depth = limits::QUEUE_DEPTH_MAX + 1);
        assert_eq!(deep, "device[0].queue_depth: must be 1 to 1024");
    }
}
