//! iSCSI names: iqn., eui. and naa. (RFC 7143 section 4.2.7).

use thiserror::Error;

use crate::limits::NAME_BYTES_MAX;

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing there.
    #[error("an iSCSI name must not be empty")]
    Empty,
    /// Longer than 223 bytes.
    #[error("an iSCSI name has at most 223 bytes, this one has {len}")]
    Long {
        /// Its length.
        len: usize,
    },
    /// No known prefix, or the part after it is not of its form.
    #[error(
        "an iSCSI name looks like iqn.2026-01.org.example:disk, eui. with 16 hexadecimal digits, \
         or naa. with 16 or 32"
    )]
    Form,
    /// A character that no name may have.
    #[error("an iSCSI name has only letters, digits, and . - : (found {found:?})")]
    Character {
        /// The character.
        found: char,
    },
}

/// Checks a name and brings it to the form in which names are compared: lower case.
///
/// Letters outside ASCII are let pass in lower case; underscores too, because initiators in the
/// field have them though the standard's name profile does not.
///
/// # Errors
/// [`NameError`] says what to change.
pub fn normalize(name: &str) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::Long { len: name.len() });
    }
    let allowed = |c: char| {
        matches!(c, '.' | '-' | ':' | '_')
            || c.is_ascii_alphanumeric()
            || (!c.is_ascii() && c.is_alphanumeric())
    };
    if let Some(found) = name.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character { found });
    }
    let lower = name.to_lowercase();
    // Lower case may be longer than what came (rare letters outside ASCII).
    if lower.len() > NAME_BYTES_MAX {
        return Err(NameError::Long { len: lower.len() });
    }
    if form(&lower) {
        Ok(lower)
    } else {
        Err(NameError::Form)
    }
}

fn form(name: &str) -> bool {
    let Some((kind, rest)) = name.split_once('.') else {
        return false;
    };
    let hex = rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        "iqn" => iqn(rest),
        "eui" => hex && rest.len() == 16,
        "naa" => hex && matches!(rest.len(), 16 | 32),
        _ => false,
    }
}

/// `yyyy-mm.` and a naming authority.
fn iqn(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else {
        return false;
    };
    let Some((year, month)) = date.split_once('-') else {
        return false;
    };
    let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    digits(year, 4)
        && digits(month, 2)
        && matches!(month.parse::<u8>(), Ok(1..=12))
        && !authority.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for (name, normal) in [
            (
                "iqn.1991-05.com.microsoft:PC_1",
                "iqn.1991-05.com.microsoft:pc_1",
            ),
            ("IQN.2026-12.org.example", "iqn.2026-12.org.example"),
            ("eui.02004567A425678D", "eui.02004567a425678d"),
            ("naa.52004567BA64678D", "naa.52004567ba64678d"),
            (
                "naa.62004567BA64678D0123456789ABCDEF",
                "naa.62004567ba64678d0123456789abcdef",
            ),
            ("iqn.2026-01.de.bücher:Ä", "iqn.2026-01.de.bücher:ä"),
        ] {
            assert_eq!(normalize(name).as_deref(), Ok(normal));
        }
    }

    #[test]
    fn names_of_223_bytes() {
        let base = "iqn.2026-01.org.example:";
        let longest = format!("{base}{}", "a".repeat(NAME_BYTES_MAX - base.len()));
        assert_eq!(longest.len(), 223);
        assert_eq!(normalize(&longest), Ok(longest.clone()));
        assert_eq!(
            normalize(&format!("{longest}a")),
            Err(NameError::Long { len: 224 })
        );
    }

    #[test]
    fn bad_names() {
        assert_eq!(normalize(""), Err(NameError::Empty));
        assert_eq!(
            normalize("iqn.2026-01.org/x"),
            Err(NameError::Character { found: '/' })
        );
        for bad in [
            "iqn",
            "iqn.",
            "iqn.2026-01",
            "iqn.2026-13.org",
            "iqn.26-01.org",
            "iqn.2026-01.",
            "eui.123",
            "eui.02004567A425678G",
            "naa.1",
            "wwn.52004567ba64678d",
        ] {
            assert_eq!(normalize(bad), Err(NameError::Form), "{bad}");
        }
    }
}
