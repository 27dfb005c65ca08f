//! A resolved setting with its origin, for `lgd teacher` and for messages.

use std::fmt;

/// A setting as the encoder uses it, and where its value came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Key in `teacher.toml`.
    pub key: &'static str,
    /// Value, as `teacher.toml` would give it.
    pub value: toml::Value,
    /// The file or rule that the value came from.
    pub from: String,
}

impl Resolved {
    pub(crate) fn new(key: &'static str, value: impl Into<toml::Value>, from: impl Into<String>) -> Self {
        Self { key, value: value.into(), from: from.into() }
    }
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.key, self.value, self.from)
    }
}
