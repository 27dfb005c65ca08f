//! The contents of a source, except the bytes of its images.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Captions, FieldKind, FieldNames, SourceError};
use crate::manifest::ContentHash;

/// An image, identified by its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Path relative to the source, with components joined by `/`. It is unique in the source.
    pub key: String,
    /// Class index, if the source has one.
    pub label: Option<u32>,
}

/// An entry that was found but cannot be listed as a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Path relative to the source. Bytes that are not UTF-8 are replaced.
    pub key: String,
    /// Short, stable code for `rejects.jsonl`.
    pub reason: &'static str,
    /// Full message for the user.
    pub detail: String,
}

/// What a source assumed, for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// One line without the path of the source.
    pub text: String,
    /// The setting in [`FieldNames`] that changes the assumption, if one does.
    pub field: Option<FieldKind>,
}

impl Note {
    /// Makes a note about an assumption that naming a field changes.
    pub(super) fn about(field: FieldKind, text: String) -> Self {
        Self { text, field: Some(field) }
    }
}

impl From<String> for Note {
    fn from(text: String) -> Self {
        Self { text, field: None }
    }
}

impl From<&str> for Note {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Everything that a source knows before it reads an image. All sources use this struct.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// All samples. Keys are unique, and the order depends only on the data.
    pub samples: Vec<Sample>,
    /// Class names, indexed by label; `None` if labels are plain numbers or absent.
    pub class_names: Option<Vec<String>>,
    /// Entries that are not listed in `samples`.
    pub rejected: Vec<Rejected>,
    /// The caption of each sample, if the source was opened for captions ([`open_captioned`](super::open_captioned)).
    pub captions: Option<Captions>,
    /// Whether the source has captions but was not opened for them.
    pub ignores_captions: bool,
    /// Line number of the first sample, for a list.
    pub first_line: Option<u64>,
    /// Assumptions of this listing, such as the choice of one column among several.
    pub notes: Vec<Note>,
    /// Contents of the source that are neither samples nor rejected.
    pub left_aside: LeftAside,
    /// Fields that the source was opened with.
    pub fields: FieldNames,
}

/// Contents of a source that are neither samples nor rejected, counted by kind: `.json` or `system files`, for example.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeftAside(BTreeMap<String, u64>);

impl LeftAside {
    /// Whether nothing was left aside.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kinds in alphabetical order, with their counts.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(kind, &count)| (&**kind, count))
    }

    /// Counts `count` more of a kind.
    pub(super) fn add(&mut self, kind: &str, count: u64) {
        if count > 0 {
            *self.0.entry(kind.to_owned()).or_default() += count;
        }
    }

    /// Counts everything that `more` counts.
    pub(super) fn append(&mut self, more: &Self) {
        more.kinds().for_each(|(kind, count)| self.add(kind, count));
    }
}

impl fmt::Display for LeftAside {
    /// `left aside: 3 .json, 2 system files`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, count)) in self.kinds().enumerate() {
            write!(f, "{} {count} {kind}", if index == 0 { "left aside:" } else { "," })?;
        }
        Ok(())
    }
}

impl Listing {
    /// Returns sample `index`.
    ///
    /// # Errors
    /// [`SourceError::Index`] if `index` is out of range.
    pub fn sample(&self, index: usize) -> Result<&Sample, SourceError> {
        let samples = self.samples.len();
        self.samples.get(index).ok_or(SourceError::Index { index, samples })
    }
}

/// The hash of all keys and labels of a listing, in order. It changes when an image is added, removed, renamed or
/// relabeled.
pub fn listing_hash(samples: &[Sample]) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    for sample in samples {
        hasher.update(sample.key.as_bytes());
        match sample.label {
            Some(label) => hasher.update(format!("\0{label}\n").as_bytes()),
            None => hasher.update(b"\0\n"),
        };
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_hash_notices_every_kind_of_drift() {
        let sample = |key: &str, label| Sample { key: key.to_owned(), label };
        let base = listing_hash(&[sample("a/1", Some(0)), sample("b/1", Some(1))]);
        assert_ne!(base, listing_hash(&[sample("a/1", Some(0)), sample("b/1", Some(2))]));
        assert_ne!(base, listing_hash(&[sample("b/1", Some(1)), sample("a/1", Some(0))]));
        assert_ne!(base, listing_hash(&[sample("a/1", Some(0))]));
        assert_ne!(base, listing_hash(&[sample("a/1", None), sample("b/1", Some(1))]));
    }

    #[test]
    fn what_is_left_aside_is_one_line() {
        let mut aside = LeftAside::default();
        assert_eq!((aside.is_empty(), aside.to_string()), (true, String::new()));
        aside.add("system files", 2);
        aside.add(".json", 1);
        aside.add(".npy", 0);
        let more = aside.clone();
        aside.append(&more);
        assert_eq!(aside.to_string(), "left aside: 2 .json, 4 system files");
    }

    #[test]
    fn a_sample_that_is_not_there_is_an_error_with_the_length_of_the_listing() {
        let samples = vec![Sample { key: "a".to_owned(), label: None }];
        let listing = Listing { samples, ..Listing::default() };
        assert_eq!(listing.sample(0).unwrap().key, "a");
        assert!(matches!(listing.sample(1), Err(SourceError::Index { index: 1, samples: 1 })));
    }
}
