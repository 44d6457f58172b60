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
        if account.user.len() > 255 {
            return fail(format!("chap[{n}].user"), "longer than 255 bytes");
        }
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
        if have > most {
            return fail(path, format!("{have} entries; at most {most} are served"));
        }
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
    if device.name.len() > 64 || device.name.contains('/') || device.name.starts_with('.') {
        return fail(
            at("name"),
            "at most 64 bytes, without `/` and not starting with `.`",
        );
    }
    if !(1..=1024).contains(&device.queue_depth) {
        return fail(at("queue_depth"), "must be 1 to 1024");
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
            if *size > 1 << 60 {
                return fail(at("size"), "at most 1 EiB");
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
    if target.alias.as_ref().is_some_and(|alias| alias.len() > 255) {
        return fail(format!("{at}.alias"), "longer than 255 bytes");
    }
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
    if target.access.len() > limits::RULES_MAX {
        return fail(
            format!("{at}.access"),
            format!("at most {} rules", limits::RULES_MAX),
        );
    }
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
    if rule.initiator.is_empty() || rule.initiator.len() > 223 {
        return fail(
            format!("{at}.initiator"),
            "1 to 223 bytes; `*` stands for any name",
        );
    }
    if let Some(portal) = &rule.portal {
        refer(&format!("{at}.portal"), "portal", portal, &known.portals)?;
    }
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

/// iSCSI names (RFC 7143, 4.2.7): iqn, eui or naa form, at most 223 bytes, lower case.
fn check_iscsi_name(path: &str, name: &str) -> Result<(), ConfigError> {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let form = if let Some(rest) = name.strip_prefix("iqn.") {
        let (date, authority) = rest.split_at_checked(7).unwrap_or((rest, ""));
        let date = date.as_bytes();
        date.len() == 7
            && date[..4].iter().all(u8::is_ascii_digit)
            && date[4] == b'-'
            && date[5..].iter().all(u8::is_ascii_digit)
            && authority.len() > 1
            && authority.starts_with('.')
    } else if let Some(rest) = name.strip_prefix("eui.") {
        rest.len() == 16 && hex(rest)
    } else if let Some(rest) = name.strip_prefix("naa.") {
        matches!(rest.len(), 16 | 32) && hex(rest)
    } else {
        false
    };
    if !form {
        return fail(
            path,
            format!("`{name}` is no iSCSI name; one looks like iqn.2026-11.com.example:disks"),
        );
    }
    let allowed =
        |c: char| matches!(c, '-' | '.' | ':') || (c.is_alphanumeric() && !c.is_uppercase());
    if name.len() > 223 || !name.chars().all(allowed) {
        return fail(
            path,
            "at most 223 bytes of lower-case letters, digits, `-`, `.` and `:`",
        );
    }
    Ok(())
}

/// Whether a rule's pattern fits an initiator name (names compare in lower case).
pub(crate) fn pattern_matches(pattern: &str, name: &str) -> bool {
    WildMatch::new(&pattern.to_lowercase()).matches(name)
}
