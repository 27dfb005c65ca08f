//! A value with the place that it comes from.

/// A value and its source, such as "preprocessor_config.json: SiglipImageProcessor" or "assumed".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sourced<T> {
    pub value: T,
    pub source: String,
}

impl<T> Sourced<T> {
    pub(crate) fn new(value: T, source: impl Into<String>) -> Self {
        Self { value, source: source.into() }
    }
}
