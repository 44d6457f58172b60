//! Which keys a document may hold, and where.
//!
//! Serde refuses unknown keys too, but one at a time, without a path, and (for a device, whose kind
//! is a flattened enum) not at all. So a pass over the tree finds all of them, with their places
//! and the nearest known key. The keys are asked of the types themselves ([`fields_of`]); only a
//! device's are listed here, and a test compares the list with what a device writes.

use std::sync::LazyLock;

use serde::de::value::Error as ProbeError;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use target::config as iscsi;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::document::{Document, ServiceSettings};
use crate::export::SealedSecrets;
use crate::parse::humanize;
use crate::problem::{Lines, Problem};

/// What may stand in a place of the document.
#[derive(Debug)]
enum Shape {
    /// A value, judged by its type.
    Value,
    /// A table with these keys.
    Table(Vec<(&'static str, Self)>),
    /// Tables of one shape.
    Tables(Box<Self>),
    /// A device: its keys depend on its kind.
    Device,
}

static DOCUMENT: LazyLock<Shape> = LazyLock::new(|| {
    let authentication = || table::<iscsi::Authentication>(vec![]);
    let rule = table::<iscsi::AccessRule>(vec![
        ("luns", tables(table::<iscsi::LunMapping>(vec![]))),
        ("authentication", authentication()),
    ]);
    let target = table::<iscsi::Target>(vec![
        ("authentication", authentication()),
        ("lun", tables(table::<iscsi::Lun>(vec![]))),
        ("access", tables(rule)),
    ]);
    let config = table::<iscsi::Config>(vec![
        ("portal", tables(table::<iscsi::Portal>(vec![]))),
        ("device", tables(Shape::Device)),
        ("chap", tables(table::<iscsi::ChapAccount>(vec![]))),
        ("target", tables(target)),
        ("discovery", authentication()),
    ]);
    table::<Document>(vec![
        ("service", table::<ServiceSettings>(vec![])),
        ("iscsi", config),
        ("sealed_secrets", table::<SealedSecrets>(vec![])),
    ])
});

/// The shape of a struct: its own keys, some of them with a shape of their own.
fn table<T: DeserializeOwned>(inner: Vec<(&'static str, Shape)>) -> Shape {
    let mut keys: Vec<_> = fields_of::<T>()
        .iter()
        .map(|field| (*field, Shape::Value))
        .collect();
    for (name, shape) in inner {
        match keys.iter_mut().find(|(key, _)| *key == name) {
            Some((_, slot)) => *slot = shape,
            None => debug_assert!(false, "no key {name}"),
        }
    }
    Shape::Table(keys)
}

fn tables(shape: Shape) -> Shape {
    Shape::Tables(Box::new(shape))
}

/// The keys of a struct as serde knows them; none for a type that is not a plain struct.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Probe<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = ProbeError;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ProbeError> {
            Err(serde::de::Error::custom("probe"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, ProbeError> {
            *self.0 = fields;
            Err(serde::de::Error::custom("probe"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    // The probe always answers with an error; what it saw is in `fields`.
    let _ = T::deserialize(Probe(&mut fields));
    fields
}

/// Finds all unknown keys, and what is wrong with devices.
pub(crate) fn unknown_keys(root: &Spanned<DeTable<'_>>, lines: &Lines<'_>) -> Vec<Problem> {
    let mut walk = Walk {
        lines,
        problems: Vec::new(),
    };
    if let Shape::Table(keys) = &*DOCUMENT {
        walk.table(root.get_ref(), keys, "");
    }
    walk.problems
}

struct Walk<'a> {
    lines: &'a Lines<'a>,
    problems: Vec<Problem>,
}

impl Walk<'_> {
    fn value(&mut self, value: &Spanned<DeValue<'_>>, shape: &Shape, path: &str) {
        match (shape, value.get_ref()) {
            (Shape::Table(keys), DeValue::Table(table)) => self.table(table, keys, path),
            (Shape::Tables(inner), DeValue::Array(array)) => {
                for (index, element) in array.iter().enumerate() {
                    self.value(element, inner, &format!("{path}[{index}]"));
                }
            }
            (Shape::Device, DeValue::Table(table)) => {
                self.device(table, value.span().start, path);
            }
            // A value of another type than expected is told by the types themselves.
            _ => {}
        }
    }

    fn table(&mut self, table: &DeTable<'_>, keys: &[(&'static str, Shape)], path: &str) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let path = join(path, name);
            match keys.iter().find(|(known, _)| *known == name) {
                Some((_, shape)) => self.value(value, shape, &path),
                None => self.unknown(key, path, keys.iter().map(|(known, _)| *known)),
            }
        }
    }

    fn unknown(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        path: String,
        known: impl Iterator<Item = &'static str> + Clone,
    ) {
        let suggestion = nearest(key.get_ref(), known.clone());
        let reason = if suggestion.is_some() {
            "unknown key".to_owned()
        } else {
            format!("unknown key; known here: {}", list(known))
        };
        self.problems.push(Problem {
            suggestion: suggestion.map(str::to_owned),
            ..self.lines.problem(key.span().start, path, reason)
        });
    }

    /// A device's keys one by one: the flattened kind hides them, and their lines, from serde.
    fn device(&mut self, table: &DeTable<'_>, start: usize, path: &str) {
        let kind_value = table.get("kind");
        let kind_text = kind_value.and_then(|value| value.get_ref().as_str());
        let kind = kind_text.and_then(|text| KINDS.iter().find(|kind| kind.name == text));
        let Some(kind) = kind else {
            self.no_kind(kind_value, kind_text, start, path);
            return;
        };
        let own = || COMMON.iter().chain(kind.keys);
        for (key, value) in table {
            let name: &str = key.get_ref();
            let path = join(path, name);
            if let Some(known) = own().find(|known| known.name == name) {
                if let Err(error) = (known.check)(value) {
                    let at = error.span().unwrap_or_else(|| value.span()).start;
                    let problem = humanize(error.message());
                    self.problems.push(problem.at(self.lines, at, path));
                }
            } else if KINDS
                .iter()
                .any(|kind| kind.keys.iter().any(|k| k.name == name))
            {
                let reason = format!("a device of kind \"{}\" has no such key", kind.name);
                let problem = self.lines.problem(key.span().start, path, reason);
                self.problems.push(problem);
            } else {
                self.unknown(key, path, own().map(|known| known.name));
            }
        }
        for missing in own().filter(|known| known.required && !table.contains_key(known.name)) {
            let reason = format!(
                "required key `{}` is missing in this device of kind \"{}\"",
                missing.name, kind.name
            );
            self.problems.push(self.lines.problem(start, path, reason));
        }
    }

    fn no_kind(
        &mut self,
        value: Option<&Spanned<DeValue<'_>>>,
        text: Option<&str>,
        start: usize,
        path: &str,
    ) {
        let names = KINDS.iter().map(|kind| kind.name);
        let mut problem = match value {
            Some(value) => self.lines.problem(
                value.span().start,
                join(path, "kind"),
                format!("unknown kind of device; there are {}", list(names.clone())),
            ),
            None => self.lines.problem(
                start,
                path,
                format!(
                    "required key `kind` is missing; one of {}",
                    list(names.clone())
                ),
            ),
        };
        problem.suggestion = text
            .and_then(|text| nearest(text, names))
            .map(str::to_owned);
        self.problems.push(problem);
    }
}

/// A key of a device.
struct Key {
    name: &'static str,
    required: bool,
    check: fn(&Spanned<DeValue<'_>>) -> Result<(), toml::de::Error>,
}

/// A kind of device with the keys it has beside the common ones.
struct Kind {
    name: &'static str,
    keys: &'static [Key],
}

const COMMON: &[Key] = &[
    required::<String>("name"),
    required::<String>("kind"),
    optional::<iscsi::CacheMode>("cache"),
    optional::<bool>("removable"),
    optional::<bool>("asynchronous"),
    optional::<u16>("queue_depth"),
    optional::<bool>("physical_blocks"),
];

const KINDS: &[Kind] = &[
    Kind {
        name: "image",
        keys: &[
            required::<std::path::PathBuf>("path"),
            SIZE,
            optional::<iscsi::Provisioning>("provisioning"),
            optional::<u32>("block_size"),
            optional::<bool>("read_only"),
        ],
    },
    Kind {
        name: "block",
        keys: &[
            required::<std::path::PathBuf>("path"),
            optional::<u32>("block_size"),
            optional::<bool>("read_only"),
        ],
    },
    Kind {
        name: "ram",
        keys: &[SIZE, optional::<u32>("block_size")],
    },
    Kind {
        name: "iso",
        keys: &[required::<std::path::PathBuf>("path")],
    },
];

/// A size has to fit TOML's signed numbers, or it could be read and not be written.
const SIZE: Key = Key {
    name: "size",
    required: true,
    check: |value| {
        fits::<u64>(value)?;
        fits::<i64>(value).map_err(|_| serde::de::Error::custom("a size is less than 2^63 bytes"))
    },
};

const fn required<T: DeserializeOwned>(name: &'static str) -> Key {
    Key {
        name,
        required: true,
        check: fits::<T>,
    }
}

const fn optional<T: DeserializeOwned>(name: &'static str) -> Key {
    Key {
        name,
        required: false,
        check: fits::<T>,
    }
}

fn fits<T: DeserializeOwned>(value: &Spanned<DeValue<'_>>) -> Result<(), toml::de::Error> {
    T::deserialize(ValueDeserializer::from(value.clone())).map(drop)
}

/// The known word that is probably meant by `word`.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_lowercase().replace('-', "_");
    known
        .map(|candidate| {
            let distance = strsim::osa_distance(&folded, &candidate.replace('-', "_"));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = words.map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

pub(crate) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let key = if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use target::config::{Backing, Device, Provisioning};

    use super::*;

    fn devices() -> Vec<Device> {
        let path = PathBuf::from("/x");
        let backings = [
            Backing::Image {
                path: path.clone(),
                size: 1,
                provisioning: Provisioning::Thin,
                block_size: 512,
                read_only: false,
            },
            Backing::Block {
                path: path.clone(),
                block_size: Some(512),
                read_only: false,
            },
            Backing::Ram {
                size: 1,
                block_size: 512,
            },
            Backing::Iso { path },
        ];
        let device = |backing| Device {
            name: "d".to_owned(),
            backing,
            cache: iscsi::CacheMode::None,
            removable: false,
            asynchronous: true,
            queue_depth: 1,
            physical_blocks: false,
        };
        backings.into_iter().map(device).collect()
    }

    /// Fails when a device gets a key, or a kind, that this module does not list.
    #[test]
    fn the_listed_keys_of_devices_are_those_of_the_types() {
        assert_eq!(devices().len(), KINDS.len());
        for device in devices() {
            let value = toml::Value::try_from(&device).expect("a table");
            let table = value.as_table().expect("a table");
            let kind = table["kind"].as_str().expect("a name");
            let listed = KINDS.iter().find(|k| k.name == kind).expect("listed");
            let mut listed: Vec<_> = COMMON.iter().chain(listed.keys).map(|k| k.name).collect();
            listed.sort_unstable();
            let mut written: Vec<_> = table.keys().map(String::as_str).collect();
            written.sort_unstable();
            assert_eq!(written, listed, "{kind}");
        }
    }

    /// A key listed as required is one without which serde refuses, and no other.
    #[test]
    fn required_keys_are_those_that_serde_requires() {
        for device in devices() {
            let value = toml::Value::try_from(&device).expect("a table");
            let table = value.as_table().expect("a table");
            let kind = table["kind"].as_str().expect("a name");
            let listed = KINDS.iter().find(|k| k.name == kind).expect("listed");
            for key in COMMON.iter().chain(listed.keys) {
                let mut without = table.clone();
                without.remove(key.name);
                let refused = without.try_into::<Device>().is_err();
                assert_eq!(refused, key.required, "{kind}.{}", key.name);
            }
        }
    }

    #[test]
    fn structs_tell_their_keys() {
        assert_eq!(fields_of::<iscsi::Lun>(), ["number", "device", "read_only"]);
        assert_eq!(
            fields_of::<Document>(),
            ["version", "service", "iscsi", "sealed_secrets"]
        );
        assert!(fields_of::<String>().is_empty());
    }

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["queue_depth", "cache", "size"];
        assert_eq!(nearest("szie", known.into_iter()), Some("size"));
        assert_eq!(
            nearest("Queue-Depth", known.into_iter()),
            Some("queue_depth")
        );
        assert_eq!(nearest("colour", known.into_iter()), None);
    }
}
