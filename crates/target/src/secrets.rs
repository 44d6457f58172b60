//! Secrets handed in by the admin floor, by name.

use std::collections::HashMap;
use std::fmt;

use zeroize::Zeroizing;

/// Names and values. The service keeps them for as long as a configuration needs them.
#[derive(Clone, Default)]
pub struct Secrets(HashMap<String, Zeroizing<Vec<u8>>>);

impl Secrets {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces one.
    pub fn insert(&mut self, name: impl Into<String>, value: Vec<u8>) {
        self.0.insert(name.into(), Zeroizing::new(value));
    }

    /// Whether there is one of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|value| value.as_slice())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
