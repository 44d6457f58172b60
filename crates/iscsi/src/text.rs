//! `key=value` text as login and text PDUs carry it (RFC 7143 section 6.1).
//!
//! This module knows the form and its bounds; which keys there are and what they mean is in
//! [`crate::negotiation`].

use thiserror::Error;

use crate::limits::{BINARY_TEXT_MAX, KEY_BYTES_MAX, KEYS_MAX, VALUE_BYTES_MAX};

/// Answer to a key that the receiver does not know.
pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
/// Answer to a key that makes no sense in this session.
pub const IRRELEVANT: &str = "Irrelevant";
/// Answer to a value that cannot be accepted.
pub const REJECT: &str = "Reject";

/// What is wrong with a text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TextError {
    /// No equals sign.
    #[error("a key has no value (no equals sign in {len} bytes)")]
    NoValue {
        /// Length of the piece.
        len: usize,
    },
    /// Key empty, too long, or with characters that no key has.
    #[error("a key of {len} bytes is not a key name (1 to 63 letters, digits or . - + @ _)")]
    BadKey {
        /// Length of the key.
        len: usize,
    },
    /// Value longer than this key may have.
    #[error("the value of {key} has {len} bytes, more than {max}")]
    LongValue {
        /// The key.
        key: String,
        /// Length of its value.
        len: usize,
        /// Most it may have.
        max: usize,
    },
    /// Value is not UTF-8.
    #[error("the value of {key} is not UTF-8")]
    NotUtf8 {
        /// The key.
        key: String,
    },
    /// More keys than [`KEYS_MAX`].
    #[error("more than {KEYS_MAX} keys in one text")]
    TooManyKeys,
}

/// Splits a text into pairs, in order; repeated keys are the caller's matter.
///
/// Pairs end with a NUL; a missing last NUL and empty pieces (padding) are let pass. Values may
/// have 255 bytes, those of CHAP keys [`BINARY_TEXT_MAX`].
///
/// # Errors
/// [`TextError`] names the first piece that is out of form.
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    let mut pairs = Vec::new();
    for piece in pieces(text) {
        if pairs.len() >= KEYS_MAX {
            return Err(TextError::TooManyKeys);
        }
        pairs.push(pair(piece)?);
    }
    Ok(pairs)
}

/// As [`parse`], for a listing of targets: any number of pairs, for a text whose length the caller
/// has bounded.
///
/// # Errors
/// As [`parse`], but never [`TextError::TooManyKeys`].
pub fn parse_long(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    pieces(text).map(pair).collect()
}

fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == 0)
        .filter(|piece| !piece.is_empty())
}

fn pair(piece: &[u8]) -> Result<(&str, &str), TextError> {
    let at = piece
        .iter()
        .position(|byte| *byte == b'=')
        .ok_or(TextError::NoValue { len: piece.len() })?;
    let (key, rest) = piece.split_at_checked(at).unwrap_or((piece, &[]));
    let value = rest.get(1..).unwrap_or_default();
    let bad_key = TextError::BadKey { len: key.len() };
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.iter().all(|byte| key_byte(*byte)) {
        return Err(bad_key);
    }
    let key = str::from_utf8(key).map_err(|_| bad_key)?;
    let max = if key.starts_with("CHAP_") {
        BINARY_TEXT_MAX
    } else {
        VALUE_BYTES_MAX
    };
    if value.len() > max {
        return Err(TextError::LongValue {
            key: key.to_owned(),
            len: value.len(),
            max,
        });
    }
    let value = str::from_utf8(value).map_err(|_| TextError::NotUtf8 {
        key: key.to_owned(),
    })?;
    Ok((key, value))
}

const fn key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'@' | b'_' | b'#')
}

/// Appends one pair and its NUL.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number as keys write it: decimal, or hexadecimal after 0x.
#[must_use]
pub fn number(value: &str) -> Option<u64> {
    let hex = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((value, 10), |hex| (hex, 16));
    // The standard library would take a sign; the protocol does not.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_in_order() {
        let text = b"InitiatorName=iqn.x\0A=\0\0B=c=d\0";
        assert_eq!(
            parse(text).unwrap(),
            vec![("InitiatorName", "iqn.x"), ("A", ""), ("B", "c=d")]
        );
        assert_eq!(parse(b"").unwrap(), vec![]);
        assert_eq!(
            parse(b"A=1").unwrap(),
            vec![("A", "1")],
            "the last NUL may be missing"
        );
    }

    #[test]
    fn form_errors() {
        assert_eq!(parse(b"nothing\0"), Err(TextError::NoValue { len: 7 }));
        assert_eq!(parse(b"=x\0"), Err(TextError::BadKey { len: 0 }));
        assert_eq!(parse(b"a b=x\0"), Err(TextError::BadKey { len: 3 }));
        let long_key = [b"k".repeat(64), b"=v\0".to_vec()].concat();
        assert_eq!(parse(&long_key), Err(TextError::BadKey { len: 64 }));
        let long = [b"K=".to_vec(), b"v".repeat(256)].concat();
        assert!(matches!(
            parse(&long),
            Err(TextError::LongValue {
                len: 256,
                max: 255,
                ..
            })
        ));
        assert!(matches!(parse(b"K=\xff\0"), Err(TextError::NotUtf8 { .. })));
        assert_eq!(
            parse(&b"a=\0".repeat(KEYS_MAX + 1)),
            Err(TextError::TooManyKeys)
        );
        assert_eq!(parse(&b"a=\0".repeat(KEYS_MAX)).unwrap().len(), KEYS_MAX);
    }

    #[test]
    fn numbers() {
        assert_eq!(number("8192"), Some(8192));
        assert_eq!(number("0x2000"), Some(8192));
        assert_eq!(number("0XfF"), Some(255));
        for bad in [
            "",
            "0x",
            "+1",
            "-1",
            "1a",
            "0xg",
            " 1",
            "99999999999999999999",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
