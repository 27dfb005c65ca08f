//! What tests of several sources of images share.

use std::path::Path;

use lgd_data::source::{ImageSource, Sample, SourceError, open_source};

/// An open source of images.
pub fn open(path: &Path) -> Box<dyn ImageSource> {
    open_source(path).unwrap_or_else(|error| panic!("{error}"))
}

/// Keys and labels of its samples.
pub fn listed(source: &dyn ImageSource) -> Vec<(&str, Option<u32>)> {
    source.samples().iter().map(|Sample { key, label }| (&**key, *label)).collect()
}

/// What is said of one that cannot be opened.
pub fn message(outcome: Result<Box<dyn ImageSource>, SourceError>) -> String {
    outcome.map(|_| ()).unwrap_err().to_string()
}
