//! A secret on its way into the service: never printed, wiped when dropped.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroize;

/// A CHAP secret in a request. It serializes as a plain string (the socket is private to the host)
/// and shows nothing in `Debug`.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that stores it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The usual message repeats what it found.
        let text = String::deserialize(deserializer);
        text.map(Self)
            .map_err(|_| D::Error::custom("a secret is a text in quotes"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_not_repeated() {
        for wrong in ["8675309867530986", "[\"8675309\"]", "{\"a\":8675309}"] {
            let body = format!("{{\"secret\":{wrong}}}");
            let read = serde_json::from_str::<crate::request::NewSecret>(&body);
            let error = read.unwrap_err().to_string();
            assert!(!error.contains("8675309"), "{error}");
            assert!(error.contains("a secret is a text"), "{error}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2hunter2")), "Secret(…)");
    }
}
