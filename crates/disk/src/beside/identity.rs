//! Serial numbers, world-wide names, and the identity of this boot and this process.

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::rand::{GetRandomFlags, getrandom};

use super::BesideError;

/// Company id of the names we make: the locally administered bit is set, so that it can belong to
/// no company.
const COMPANY: u32 = 0x02_53_41;

/// This boot of the host, and this process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProcessIdentity {
    /// The kernel's identity of this boot.
    pub boot_id: String,
    /// Random, made once in this process.
    pub process: String,
}

impl ProcessIdentity {
    /// That of the calling process; the same at every call.
    ///
    /// # Errors
    /// [`BesideError::System`].
    pub fn current() -> Result<Self, BesideError> {
        static CURRENT: OnceLock<ProcessIdentity> = OnceLock::new();
        if let Some(current) = CURRENT.get() {
            return Ok(current.clone());
        }
        let process = format!("{:016x}", u64::from_be_bytes(random()?));
        let fresh = Self {
            boot_id: boot_id()?,
            process,
        };
        Ok(CURRENT.get_or_init(|| fresh).clone())
    }
}

/// The kernel's identity of this boot of the host.
///
/// # Errors
/// [`BesideError::System`] where /proc is not there.
pub fn boot_id() -> Result<String, BesideError> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .map_err(|source| BesideError::System {
            what: "the identity of this boot",
            source,
        })
}

/// A new serial number and world-wide name. The serial is the name's last half, so that a person
/// recognizes the one in the other.
pub(super) fn generate() -> Result<(String, [u8; 16]), BesideError> {
    let bytes: [u8; 16] = random()?;
    let vendor = u128::from_be_bytes(bytes) & ((1 << 100) - 1);
    // NAA 6: type (4 bits), company (24), vendor's identifier (36) and its extension (64).
    let naa = (6 << 124) | (u128::from(COMPANY) << 100) | vendor;
    let serial = format!("{:016x}", vendor & u128::from(u64::MAX));
    Ok((serial, naa.to_be_bytes()))
}

fn random<const N: usize>() -> Result<[u8; N], BesideError> {
    let mut bytes = [0; N];
    let failed = |source| BesideError::System {
        what: "random bytes",
        source,
    };
    let got =
        getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| failed(errno.into()))?;
    if got < N {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// Sixteen bytes as hexadecimal digits.
pub(super) mod hex16 {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in crate::beside) fn serialize<S: Serializer>(
        bytes: &[u8; 16],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:032x}", u128::from_be_bytes(*bytes)))
    }

    pub(in crate::beside) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(&text, 16) {
            Ok(value) if plain => Ok(value.to_be_bytes()),
            _ => Err(de::Error::custom(
                "a world-wide name is 32 hexadecimal digits",
            )),
        }
    }
}
