//! Helpers for the tests of several sources of images.

use std::path::Path;

use lgd_data::source::{ImageSource, Sample, SourceError, open_source};

/// Opens a source of images; panics with its error message.
pub fn open(path: &Path) -> Box<dyn ImageSource> {
    open_source(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The keys and labels of a source.
pub fn listed(source: &dyn ImageSource) -> Vec<(&str, Option<u32>)> {
    source.samples().iter().map(|Sample { key, label }| (&**key, *label)).collect()
}

/// The texts of the notes of a source.
pub fn notes(source: &dyn ImageSource) -> Vec<&str> {
    source.listing().notes.iter().map(|note| &*note.text).collect()
}

/// The error message of a source that cannot be opened.
pub fn message(outcome: Result<Box<dyn ImageSource>, SourceError>) -> String {
    outcome.map(|_| ()).unwrap_err().to_string()
}
