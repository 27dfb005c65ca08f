//! What a source says about its samples in words: texts, or embeddings of texts that somebody else encoded.

use half::f16;

use super::{RowProblem, Sample};
use crate::manifest::{ContentHash, listing_hash};

/// One caption per sample, in listing order.
#[derive(Clone, Debug, PartialEq)]
pub enum Captions {
    /// Texts, none empty.
    Texts(Vec<String>),
    /// Text embeddings.
    Embeddings {
        /// Width D.
        dim: usize,
        /// L2-normalised, `[samples, D]`, rounded as they are stored.
        values: Vec<f16>,
    },
}

/// How a list holds captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaptionKind {
    Text,
    Embedding,
}

impl Captions {
    /// No captions yet.
    pub(super) fn empty(kind: CaptionKind) -> Self {
        match kind {
            CaptionKind::Text => Self::Texts(Vec::new()),
            CaptionKind::Embedding => Self::Embeddings { dim: 0, values: Vec::new() },
        }
    }

    /// The hash of a listing with its captions: as [`listing_hash`], it changes with any of them.
    pub fn listing_hash(&self, samples: &[Sample]) -> ContentHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(listing_hash(samples).as_bytes());
        match self {
            Self::Texts(texts) => texts.iter().for_each(|text| {
                hasher.update(ContentHash::of(text.as_bytes()).as_bytes());
            }),
            Self::Embeddings { dim, values } => {
                hasher.update(format!("width {dim}\n").as_bytes());
                for row in values.chunks_exact(*dim) {
                    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
                    hasher.update(&bytes);
                }
            }
        }
        hasher.finalize().into()
    }

    /// Adds the caption in a cell of `key`'s row.
    pub(super) fn push(&mut self, key: &str, cell: &[u8]) -> Result<(), RowProblem> {
        let key = || key.to_owned();
        let text = std::str::from_utf8(cell).map_err(|_| RowProblem::CaptionEncoding { key: key() })?;
        if text.is_empty() {
            return Err(RowProblem::EmptyCaption { key: key() });
        }
        match self {
            Self::Texts(texts) => texts.push(text.to_owned()),
            Self::Embeddings { dim, values } => {
                let numbers = unit_vector(text)
                    .map_err(|reason| RowProblem::CaptionEmbedding { key: key(), reason })?;
                if *dim != 0 && numbers.len() != *dim {
                    let reason = format!("has {} numbers, those before it {dim}", numbers.len());
                    return Err(RowProblem::CaptionEmbedding { key: key(), reason });
                }
                *dim = numbers.len();
                values.extend(numbers);
            }
        }
        Ok(())
    }
}

/// The numbers of a JSON array, normalised; an error says what is wrong with them.
fn unit_vector(json: &str) -> Result<Vec<f16>, String> {
    let numbers: Vec<f64> =
        serde_json::from_str(json).map_err(|error| format!("is not a JSON array of numbers: {error}"))?;
    // Divided by the largest first, so that no square overflows or vanishes.
    let largest = numbers.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
    if largest == 0.0 {
        return Err(if numbers.is_empty() { "has no numbers" } else { "is all zeros" }.to_owned());
    }
    let norm = numbers.iter().map(|number| (number / largest).powi(2)).sum::<f64>().sqrt();
    Ok(numbers.iter().map(|number| f16::from_f64(number / largest / norm)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_hash_notices_changed_captions_of_either_kind() {
        let samples = ["a", "b"].map(|key| Sample { key: key.to_owned(), label: None });
        let texts =
            |a: &str, b: &str| Captions::Texts(vec![a.to_owned(), b.to_owned()]).listing_hash(&samples);
        let base = texts("one", "two");
        for other in [texts("one", "three"), texts("two", "one"), texts("onetwo", ""), listing_hash(&samples)]
        {
            assert_ne!(base, other);
        }
        assert_eq!(base, texts("one", "two"));
        let numbers = |dim, values: &[f32]| {
            let values = values.iter().map(|&value| f16::from_f32(value)).collect();
            Captions::Embeddings { dim, values }.listing_hash(&samples)
        };
        assert_ne!(numbers(2, &[1.0, 0.0, 0.0, 1.0]), numbers(2, &[1.0, 0.0, 0.5, 1.0]));
        assert_ne!(numbers(2, &[1.0, 0.0, 0.0, 1.0]), numbers(1, &[1.0, 0.0, 0.0, 1.0]));
    }

    #[test]
    fn arrays_become_unit_vectors_whatever_their_scale() {
        for scale in ["", "e-200", "e200"] {
            let got = unit_vector(&format!("[3{scale}, -4{scale}]")).unwrap();
            assert_eq!(got, [0.6, -0.8].map(f16::from_f64), "{scale}");
        }
        for (json, part) in [
            ("[]", "no numbers"),
            ("[0, 0.0]", "all zeros"),
            ("[1, NaN]", "not a JSON array"),
            ("[1e999]", "not a JSON array"),
            ("[1, \"2\"]", "not a JSON array"),
            ("1, 2", "not a JSON array"),
            ("[1, null]", "not a JSON array"),
        ] {
            let reason = unit_vector(json).unwrap_err();
            assert!(reason.contains(part), "{json}: {reason}");
        }
    }
}
