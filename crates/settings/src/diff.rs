//! What a change changes: as text for people, as a list for programs.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use similar::TextDiff;
use toml::{Table, Value};

use crate::limits;
use crate::shape::join;

/// One value that a change adds, removes or replaces.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Change {
    /// Where, with members of lists by their names where they have one: `iscsi.device[disk1].size`.
    pub path: String,
    /// The value before, as TOML; none for one that is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// The value after, as TOML; none for one that is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// A unified diff with three lines around each change; empty when the texts are equal.
pub(crate) fn unified(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    if old == new {
        return String::new();
    }
    TextDiff::configure()
        .timeout(limits::DIFF_TIME)
        .diff_lines(old, new)
        .unified_diff()
        .context_radius(3)
        .header(old_name, new_name)
        .to_string()
}

/// The changes between two documents as tables, in the order of their paths.
pub(crate) fn changes(old: &Table, new: &Table) -> Vec<Change> {
    let mut changes = Vec::new();
    tables("", old, new, &mut changes);
    changes
}

fn tables(path: &str, old: &Table, new: &Table, changes: &mut Vec<Change>) {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    let mut keys: Vec<&String> = old.keys().chain(added).collect();
    keys.sort();
    for key in keys {
        values(&join(path, key), old.get(key), new.get(key), changes);
    }
}

/// Lists that are left out of the document when they are empty, so that absent means the same.
const LISTS: [&str; 6] = ["portal", "device", "chap", "target", "lun", "access"];

fn values(path: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    let empty = Value::Array(Vec::new());
    let is_list = path
        .rsplit('.')
        .next()
        .is_some_and(|key| LISTS.contains(&key));
    let (old, new) = match (old, new) {
        (Some(Value::Array(_)), None) if is_list => (old, Some(&empty)),
        (None, Some(Value::Array(_))) if is_list => (Some(&empty), new),
        both => both,
    };
    match (old, new) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Table(old)), Some(Value::Table(new))) => tables(path, old, new, changes),
        (Some(Value::Array(old)), Some(Value::Array(new)))
            if old.iter().chain(new).all(Value::is_table) =>
        {
            arrays(path, old, new, changes);
        }
        _ => changes.push(Change {
            path: path.to_owned(),
            old: old.map(Value::to_string),
            new: new.map(Value::to_string),
        }),
    }
}

/// Lists of tables: members are matched by name, else by place.
fn arrays(path: &str, old: &[Value], new: &[Value], changes: &mut Vec<Change>) {
    let (Some(old_names), Some(new_names)) = (names(old), names(new)) else {
        for index in 0..old.len().max(new.len()) {
            let path = format!("{path}[{index}]");
            values(&path, old.get(index), new.get(index), changes);
        }
        return;
    };
    // By name: a list that somebody sends may be much longer than one that is served.
    let old_by: HashMap<&String, &Value> = old_names.iter().zip(old).collect();
    let new_by: HashMap<&String, &Value> = new_names.iter().zip(new).collect();
    let added = new_names.iter().filter(|name| !old_by.contains_key(name));
    for name in old_names.iter().chain(added) {
        let path = format!("{path}[{name}]");
        let (before, after) = (old_by.get(name).copied(), new_by.get(name).copied());
        values(&path, before, after, changes);
    }
    let kept_old: Vec<_> = old_names
        .iter()
        .filter(|n| new_by.contains_key(n))
        .collect();
    let kept_new: Vec<_> = new_names
        .iter()
        .filter(|n| old_by.contains_key(n))
        .collect();
    if kept_old != kept_new {
        let order = |names: &[&String]| {
            let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
            Some(format!("order: {}", names.join(", ")))
        };
        changes.push(Change {
            path: path.to_owned(),
            old: order(&kept_old),
            new: order(&kept_new),
        });
    }
}

/// The names of a list's members, if each has one of its own.
fn names(values: &[Value]) -> Option<Vec<String>> {
    let mut names = Vec::with_capacity(values.len());
    for value in values {
        let table = value.as_table()?;
        let name = ["name", "user", "number", "seen"]
            .iter()
            .find_map(|key| table.get(*key))?;
        names.push(match name {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
    }
    let mut sorted: Vec<_> = names.iter().collect();
    sorted.sort();
    sorted
        .windows(2)
        .all(|pair| pair[0] != pair[1])
        .then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "how long it takes is what is tested"
    )]
    fn a_long_list_is_compared_in_time() {
        let list = |from: usize| {
            let members = (from..from + 200_000).map(|n| {
                let name = ("name".to_owned(), Value::String(format!("member{n:06}")));
                Value::Table(Table::from_iter([name]))
            });
            Table::from_iter([("chap".to_owned(), Value::Array(members.collect()))])
        };
        let begun = std::time::Instant::now();
        assert_eq!(changes(&list(0), &list(100_000)).len(), 200_000);
        // Each with each would be some minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    }
}
