//! CHAP (RFC 1994 as RFC 7143 section 12.1.3 uses it), for both ends.
//!
//! Hashes go by their IANA numbers: MD5 5, SHA-1 6, SHA-256 7, SHA3-256 8. Challenges come from
//! the caller, who owns the source of randomness. Responses are compared in constant time. Known
//! attacks and their answers: a challenge sent back to us is refused ([`ChapError::Reflected`]),
//! one secret for both directions is refused ([`ChapError::SameSecret`]), values of a wrong length
//! never reach a buffer of a fixed size, and an unknown user costs the same work as a wrong
//! secret.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use md5::{Digest as _, Md5};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::limits::{BINARY_BYTES_MAX, BINARY_TEXT_MAX, CHALLENGE_BYTES_MIN};
use crate::text;

/// A CHAP secret; wiped when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A hash for CHAP under its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// MD5; the only one ESXi and Windows speak.
    Md5 = 5,
    /// SHA-1.
    Sha1 = 6,
    /// SHA-256.
    Sha256 = 7,
    /// SHA3-256.
    Sha3_256 = 8,
}

impl Algorithm {
    /// All of them, best first.
    pub const ALL: [Self; 4] = [Self::Sha3_256, Self::Sha256, Self::Sha1, Self::Md5];

    /// The number in CHAP_A.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Length of a response in bytes.
    #[must_use]
    pub const fn response_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3_256 => 32,
        }
    }

    /// The response: the hash of identifier, secret and challenge in a row.
    #[must_use]
    pub fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Md5 => {
                let mut hash = Md5::new();
                hash.update([identifier]);
                hash.update(secret.expose());
                hash.update(challenge);
                return hash.finalize().to_vec();
            }
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha3_256 => &digest::SHA3_256,
        };
        let mut hash = digest::Context::new(algorithm);
        hash.update(&[identifier]);
        hash.update(secret.expose());
        hash.update(challenge);
        hash.finish().as_ref().to_vec()
    }

    /// Whether a response proves the secret; takes the same time wherever it differs.
    #[must_use]
    pub fn verify(
        self,
        identifier: u8,
        secret: &Secret,
        challenge: &[u8],
        response: &[u8],
    ) -> bool {
        let mut expected = self.response(identifier, secret, challenge);
        let equal = constant_time::verify_slices_are_equal(&expected, response).is_ok();
        expected.zeroize();
        equal
    }
}

/// Whether two secrets are one and the same (compared in constant time).
#[must_use]
pub fn same_secret(a: &Secret, b: &Secret) -> bool {
    constant_time::verify_slices_are_equal(a.expose(), b.expose()).is_ok()
}

/// Why CHAP did not succeed.
///
/// All but the configuration errors end in the same login status, so that the other side cannot
/// tell them apart; the text is for our own log.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ChapError {
    /// The other side's list has no hash that is allowed here.
    #[error("no CHAP hash in common: offered {offered:?}")]
    NoCommonAlgorithm {
        /// What was offered.
        offered: String,
    },
    /// A key of the exchange is missing.
    #[error("{key} is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A key of the exchange came too early or twice.
    #[error("{key} does not belong to this step")]
    Unexpected {
        /// The key.
        key: &'static str,
    },
    /// A value that cannot be decoded or has a wrong length.
    #[error("{key}: {error}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        error: ValueError,
    },
    /// Unknown user or wrong secret; which one is not told.
    #[error("user unknown or secret wrong")]
    Refused,
    /// Our own challenge is too short to protect anything, or too long to be sent.
    #[error("our challenge has {len} bytes; it needs 16 to 1024 random ones")]
    Challenge {
        /// Its length.
        len: usize,
    },
    /// Our own challenge was sent back to us.
    #[error("the other side sent our own challenge back (reflection attack)")]
    Reflected,
    /// One secret is configured for both directions.
    #[error("the same secret is configured for both directions; give each its own")]
    SameSecret,
    /// The target's proof was asked for, but it has no account to prove.
    #[error("the target's proof was asked for, and none is configured")]
    MutualNotConfigured,
    /// The target's proof has to be asked for, and was not.
    #[error("mutual CHAP is required, and the initiator did not ask for the target's proof")]
    MutualRequired,
}

/// What is wrong with an encoded value.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ValueError {
    /// Neither 0x nor 0b in front.
    #[error("not hexadecimal (0x…) or base64 (0b…)")]
    Encoding,
    /// A character that the encoding does not have, an odd digit, or wrong padding.
    #[error("damaged hexadecimal or base64 text")]
    Damaged,
    /// Longer than may be.
    #[error("longer than {max} bytes")]
    Long {
        /// Most bytes.
        max: usize,
    },
    /// A length that the hash does not have.
    #[error("{len} bytes where {expected} are needed")]
    Length {
        /// Bytes that came.
        len: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// Nothing after the prefix.
    #[error("empty")]
    Empty,
    /// An identifier that is no number from 0 to 255.
    #[error("not a number from 0 to 255")]
    Identifier,
}

/// Decodes a binary value: hexadecimal after 0x, base64 after 0b (case of the prefix is free).
///
/// # Errors
/// Never more than 1024 bytes come out; anything longer, empty or damaged is a [`ValueError`].
pub fn decode_value(value: &str) -> Result<Vec<u8>, ValueError> {
    if value.len() > BINARY_TEXT_MAX {
        return Err(ValueError::Long {
            max: BINARY_BYTES_MAX,
        });
    }
    let (prefix, digits) = value
        .as_bytes()
        .split_at_checked(2)
        .ok_or(ValueError::Encoding)?;
    let bytes = match prefix {
        b"0x" | b"0X" => hex(digits)?,
        b"0b" | b"0B" => base64(digits)?,
        _ => return Err(ValueError::Encoding),
    };
    match bytes.len() {
        0 => Err(ValueError::Empty),
        1..=BINARY_BYTES_MAX => Ok(bytes),
        _ => Err(ValueError::Long {
            max: BINARY_BYTES_MAX,
        }),
    }
}

/// Decodes a response, which has exactly the length of the hash.
///
/// # Errors
/// [`ValueError`], also for a good value of another length.
pub fn decode_response(value: &str, algorithm: Algorithm) -> Result<Vec<u8>, ValueError> {
    let bytes = decode_value(value)?;
    let expected = algorithm.response_len();
    if bytes.len() == expected {
        Ok(bytes)
    } else {
        Err(ValueError::Length {
            len: bytes.len(),
            expected,
        })
    }
}

/// Decodes CHAP_I.
///
/// # Errors
/// [`ValueError::Identifier`] for anything but a number from 0 to 255.
pub fn decode_identifier(value: &str) -> Result<u8, ValueError> {
    text::number(value)
        .and_then(|number| u8::try_from(number).ok())
        .ok_or(ValueError::Identifier)
}

/// Encodes a binary value as hexadecimal.
#[must_use]
pub fn encode_value(bytes: &[u8]) -> String {
    let mut value = String::with_capacity(bytes.len().saturating_mul(2).saturating_add(2));
    value.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0x0f] {
            value.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    value
}

/// Checks the length of a challenge of ours, before it protects anything.
///
/// # Errors
/// [`ChapError::Challenge`].
pub const fn check_challenge(challenge: &[u8]) -> Result<(), ChapError> {
    match challenge.len() {
        CHALLENGE_BYTES_MIN..=BINARY_BYTES_MAX => Ok(()),
        len => Err(ChapError::Challenge { len }),
    }
}

/// The first hash in `allowed` (ordered by preference) that the other side's CHAP_A list names.
///
/// # Errors
/// [`ChapError::NoCommonAlgorithm`].
pub fn choose(offered: &str, allowed: &[Algorithm]) -> Result<Algorithm, ChapError> {
    let numbers: Vec<u64> = offered.split(',').filter_map(text::number).collect();
    allowed
        .iter()
        .copied()
        .find(|algorithm| numbers.contains(&u64::from(algorithm.number())))
        .ok_or_else(|| ChapError::NoCommonAlgorithm {
            offered: offered.to_owned(),
        })
}

/// A list of hashes as CHAP_A writes it.
#[must_use]
pub fn list(algorithms: &[Algorithm]) -> String {
    let numbers: Vec<String> = algorithms.iter().map(|a| a.number().to_string()).collect();
    numbers.join(",")
}

fn hex(digits: &[u8]) -> Result<Vec<u8>, ValueError> {
    let (pairs, odd) = digits.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(ValueError::Damaged);
    }
    pairs
        .iter()
        .map(|[high, low]| {
            let byte = char::from(*high).to_digit(16)? << 4 | char::from(*low).to_digit(16)?;
            u8::try_from(byte).ok()
        })
        .collect::<Option<_>>()
        .ok_or(ValueError::Damaged)
}

fn base64(digits: &[u8]) -> Result<Vec<u8>, ValueError> {
    let (groups, odd) = digits.as_chunks::<4>();
    if !odd.is_empty() {
        return Err(ValueError::Damaged);
    }
    let mut bytes = Vec::with_capacity(groups.len().saturating_mul(3));
    for (index, group) in groups.iter().enumerate() {
        let last = index.saturating_add(1) == groups.len();
        let padding = match group {
            [_, _, b'=', b'='] if last => 2,
            [_, _, _, b'='] if last => 1,
            _ => 0,
        };
        let mut word = 0_u32;
        for (position, digit) in group.iter().enumerate() {
            let padded = position.saturating_add(padding) >= 4;
            let sextet = if padded {
                0
            } else {
                sextet(*digit).ok_or(ValueError::Damaged)?
            };
            word = word << 6 | sextet;
        }
        let [_, decoded @ ..] = word.to_be_bytes();
        let keep = 3_usize.saturating_sub(padding);
        // Bits beyond the last whole byte are zero in an honest encoding.
        if decoded.iter().skip(keep).any(|byte| *byte != 0) {
            return Err(ValueError::Damaged);
        }
        bytes.extend(decoded.iter().take(keep));
    }
    Ok(bytes)
}

fn sextet(digit: u8) -> Option<u32> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let position = ALPHABET.iter().position(|known| *known == digit)?;
    u32::try_from(position).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    /// Expected values computed with Python's hashlib.
    #[test]
    fn responses_match_another_implementation() {
        for (algorithm, expected) in [
            (Algorithm::Md5, "0x4be1fbbb541c6d940f83217091986163"),
            (
                Algorithm::Sha1,
                "0xa7f9f2c48af0c41735c968136ef3286cebcc153c",
            ),
            (
                Algorithm::Sha256,
                "0x0845868c9579dc6d3629ab68dc37619fb6f2e0a49044ebc0088266dfe77ab26a",
            ),
            (
                Algorithm::Sha3_256,
                "0xd7c334e6a1a6d852673cf93501e829ededa82564bccc8f7aa7be231b3e3b1967",
            ),
        ] {
            let response = algorithm.response(7, &secret("correct horse"), b"challenge");
            assert_eq!(response.len(), algorithm.response_len());
            assert_eq!(encode_value(&response), expected, "{algorithm:?}");
            assert!(algorithm.verify(7, &secret("correct horse"), b"challenge", &response));
            assert!(!algorithm.verify(8, &secret("correct horse"), b"challenge", &response));
            assert!(!algorithm.verify(7, &secret("wrong horse"), b"challenge", &response));
            assert!(!algorithm.verify(7, &secret("correct horse"), b"challenge", &response[1..]));
        }
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(decode_value("0x00fFa5"), Ok(vec![0x00, 0xff, 0xa5]));
        assert_eq!(decode_value("0X01"), Ok(vec![1]));
        assert_eq!(decode_value("0x"), Err(ValueError::Empty));
        assert_eq!(decode_value("0x1"), Err(ValueError::Damaged), "half a byte");
        assert_eq!(decode_value("0x0g"), Err(ValueError::Damaged));
        assert_eq!(decode_value("0x+1"), Err(ValueError::Damaged));
        assert_eq!(decode_value("00ff"), Err(ValueError::Encoding));
        assert_eq!(decode_value("0"), Err(ValueError::Encoding));
        assert_eq!(decode_value("é"), Err(ValueError::Encoding));
    }

    #[test]
    fn base64_values() {
        assert_eq!(decode_value("0bTWFu"), Ok(b"Man".to_vec()));
        assert_eq!(decode_value("0BTWE="), Ok(b"Ma".to_vec()));
        assert_eq!(decode_value("0bTQ=="), Ok(b"M".to_vec()));
        assert_eq!(decode_value("0b+/+/"), Ok(vec![0xfb, 0xff, 0xbf]));
        for damaged in [
            "0bTWF",
            "0bT===",
            "0b====",
            "0bTWE=TWFu",
            "0bTW u",
            "0bTWF=",
            "0bTR==",
        ] {
            assert_eq!(decode_value(damaged), Err(ValueError::Damaged), "{damaged}");
        }
        assert_eq!(decode_value("0b"), Err(ValueError::Empty));
    }

    /// CVE-2018-14633: a response longer than the buffer it is decoded into.
    #[test]
    fn cve_2018_14633_values_too_long_or_short() {
        let hex = |len: usize| format!("0x{}", "ab".repeat(len));
        assert_eq!(decode_value(&hex(1024)).map(|v| v.len()), Ok(1024));
        assert_eq!(
            decode_value(&hex(1025)),
            Err(ValueError::Long { max: 1024 })
        );
        let base64 = |groups: usize| format!("0b{}", "AAAA".repeat(groups));
        assert_eq!(decode_value(&base64(341)).map(|v| v.len()), Ok(1023));
        assert_eq!(
            decode_value(&base64(342)),
            Err(ValueError::Long { max: 1024 })
        );
        for len in [1, 15, 17, 1024] {
            assert_eq!(
                decode_response(&hex(len), Algorithm::Md5),
                Err(ValueError::Length { len, expected: 16 })
            );
        }
        assert!(decode_response(&hex(16), Algorithm::Md5).is_ok());
        assert!(decode_response(&hex(16), Algorithm::Sha1).is_err());
    }

    #[test]
    fn identifiers() {
        assert_eq!(decode_identifier("0"), Ok(0));
        assert_eq!(decode_identifier("255"), Ok(255));
        assert_eq!(decode_identifier("0xff"), Ok(255));
        for bad in ["256", "", "-1", "x"] {
            assert_eq!(decode_identifier(bad), Err(ValueError::Identifier));
        }
    }

    #[test]
    fn the_better_hash_wins() {
        assert_eq!(choose("5,6,7,8", &Algorithm::ALL), Ok(Algorithm::Sha3_256));
        assert_eq!(choose("5,7", &Algorithm::ALL), Ok(Algorithm::Sha256));
        assert_eq!(choose("5", &[Algorithm::Md5]), Ok(Algorithm::Md5));
        assert!(choose("5", &[Algorithm::Sha256]).is_err());
        assert!(choose("", &Algorithm::ALL).is_err());
        assert_eq!(list(&Algorithm::ALL), "8,7,6,5");
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", secret("hidden")), "Secret(…)");
        assert!(same_secret(&secret("a"), &secret("a")));
        assert!(!same_secret(&secret("a"), &secret("ab")));
    }
}
