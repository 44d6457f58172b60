//! Keys of documents in the data directory.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::error::DeviceError;
use crate::limits::{BY_ID_NAMES_MAX, KEY_READABLE_MAX};
use crate::sysfs::Queue;

/// Where the document of a key lies.
pub(super) fn file(data_dir: &Path, key: &str) -> PathBuf {
    data_dir.join("devices").join(format!("{key}.json"))
}

/// A key from a device's own name.
pub(super) fn of_name(kind: &str, name: &str) -> String {
    key(kind, name)
}

/// A key from a block device's own identity, best first: world-wide name, serial number, volume
/// identity, backing file of a loop device, stable name. A partition adds its number.
pub(super) fn of_block(path: &Path) -> Result<String, DeviceError> {
    let stat = rustix::fs::stat(path).map_err(|errno| match errno {
        rustix::io::Errno::NOENT => DeviceError::Missing { path: path.into() },
        errno => DeviceError::Open {
            path: path.into(),
            source: errno.into(),
        },
    })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return Err(DeviceError::WrongKind {
            path: path.into(),
            found: crate::image::name_of(FileType::from_raw_mode(stat.st_mode)),
            wanted: "a block device",
        });
    }
    let from_kernel = Queue::under(stat.st_rdev).and_then(|queue| of_queue(&queue));
    from_kernel
        .or_else(|| by_id(Path::new("/dev/disk/by-id"), stat.st_rdev).map(|name| key("id", &name)))
        .ok_or_else(|| DeviceError::NoIdentity { path: path.into() })
}

/// Attributes that tell a disk apart from all others, with the word their keys start with.
const IDENTITIES: [(&str, &str); 7] = [
    ("wwid", "wwn"),
    ("device/wwid", "wwn"),
    ("serial", "serial"),
    ("device/serial", "serial"),
    ("dm/uuid", "dm"),
    ("md/uuid", "md"),
    ("loop/backing_file", "loop"),
];

fn of_queue(queue: &Queue) -> Option<String> {
    let (kind, value) = IDENTITIES
        .iter()
        .find_map(|(attribute, kind)| Some((*kind, queue.attribute(attribute)?)))?;
    Some(match queue.partition() {
        None => key(kind, &value),
        Some(number) => key(kind, &format!("{value}-part{number}")),
    })
}

/// The first name, in the alphabet's order, that leads to the device. Names by world-wide name are
/// preferred: the others carry model names that a driver may change.
fn by_id(directory: &Path, device: u64) -> Option<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .ok()?
        .take(BY_ID_NAMES_MAX)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            rustix::fs::stat(directory.join(name)).is_ok_and(|stat| stat.st_rdev == device)
        })
        .collect();
    names.sort_by_key(|name| (!name.starts_with("wwn-"), name.clone()));
    names.into_iter().next()
}

/// A file name from any text: readable, and different for different texts.
fn key(kind: &str, text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let readable: String = text
        .chars()
        .take(KEY_READABLE_MAX)
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if text.chars().all(plain) && text.len() <= KEY_READABLE_MAX {
        return format!("{kind}-{readable}");
    }
    format!("{kind}-{readable}-{:016x}", fingerprint(text))
}

/// FNV-1a, 64 bits: fixed for ever, because it is in file names.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_file_names_and_stay_as_they_are() {
        assert_eq!(key("ram", "scratch"), "ram-scratch");
        assert_eq!(fingerprint(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint("a"), 0xaf63_dc4c_8601_ec8c);
        let key_of = |text| key("loop", text);
        assert_eq!(
            key_of("/srv/a.img"),
            format!("loop-_srv_a_img-{:016x}", fingerprint("/srv/a.img"))
        );
        assert_ne!(key_of("/srv/a.img"), key_of("/srv/a_img"));
        assert_ne!(key_of("../../etc"), key_of("______etc"));
        let long = key_of(&"x".repeat(5000));
        assert!(long.len() < 120);
    }

    #[test]
    fn a_key_does_not_collide_with_a_plain_text_that_looks_like_it() {
        let hashed = key("ram", "a b");
        let plain = hashed.strip_prefix("ram-").unwrap();
        // A name that spells the hashed key of another one: both map to the same file only if the
        // names were chosen to collide; settings keep names unique and without blanks.
        assert_eq!(key("ram", plain), hashed);
        assert_ne!(key("ram", "a_b"), hashed);
    }
}
