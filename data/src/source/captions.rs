//! Captions of samples: texts, or text embeddings that were computed elsewhere.

use half::f16;

use super::{Sample, listing_hash};
use crate::manifest::ContentHash;

/// One caption per sample, in listing order.
#[derive(Clone, Debug, PartialEq)]
pub enum Captions {
    /// Texts; none are empty.
    Texts(Vec<String>),
    /// Text embeddings.
    Embeddings {
        /// Embedding width D.
        dim: usize,
        /// Unit vectors, `[samples, D]`, in the f16 precision in which they are stored.
        values: Vec<f16>,
    },
}

/// Kind of the captions in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaptionKind {
    Text,
    Embedding,
}

/// Why the embedding of a caption is not usable. The messages follow the name of the embedding's column.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptionFault {
    /// The value is not a list of numbers.
    #[error("is not a JSON array of numbers: {0}")]
    Json(#[source] serde_json::Error),
    /// A value is infinite or not a number.
    #[error("has values that are not finite numbers")]
    NotFinite,
    /// There are no values.
    #[error("has no numbers")]
    Empty,
    /// All values are zero, so the embedding has no direction.
    #[error("is all zeros")]
    Zero,
    /// The number of values differs from that of the preceding embeddings.
    #[error("has {got} numbers, expected {expected} as in earlier rows")]
    Width {
        /// Number of values of the preceding embeddings.
        expected: usize,
        /// Number of values of this embedding.
        got: usize,
    },
    /// A text follows embeddings, or an embedding follows texts.
    #[error("is of another kind than in earlier rows")]
    Kind,
}

impl Captions {
    /// Makes an empty list of captions.
    pub(super) fn empty(kind: CaptionKind) -> Self {
        match kind {
            CaptionKind::Text => Self::Texts(Vec::new()),
            CaptionKind::Embedding => Self::Embeddings { dim: 0, values: Vec::new() },
        }
    }

    /// The hash of a listing with its captions. Like [`listing_hash`], it changes with any key, label or caption.
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

    /// The captions of the samples at `positions`, in that order.
    pub(super) fn select(&self, positions: &[usize]) -> Self {
        match self {
            Self::Texts(texts) => {
                Self::Texts(positions.iter().map(|&position| texts[position].clone()).collect())
            }
            &Self::Embeddings { dim, ref values } => {
                let rows = positions.iter().flat_map(|&position| &values[position * dim..][..dim]);
                Self::Embeddings { dim, values: rows.copied().collect() }
            }
        }
    }

    /// Appends the captions of more samples, which must have the same kind and width.
    pub(super) fn append(&mut self, more: Self) -> Result<(), CaptionFault> {
        match (self, more) {
            (Self::Texts(texts), Self::Texts(more)) => texts.extend(more),
            (Self::Embeddings { dim, values }, Self::Embeddings { dim: width, values: more }) => {
                // An empty list has no width.
                if !more.is_empty() {
                    require_width(dim, width)?;
                    values.extend(more);
                }
            }
            _ => return Err(CaptionFault::Kind),
        }
        Ok(())
    }

    /// Appends a text.
    pub(super) fn push_text(&mut self, text: &str) {
        if let Self::Texts(texts) = self {
            texts.push(text.to_owned());
        }
    }

    /// Normalizes an embedding and appends it.
    pub(super) fn push_embedding(&mut self, numbers: &[f64]) -> Result<(), CaptionFault> {
        if let Self::Embeddings { dim, values } = self {
            let unit = unit_vector(numbers)?;
            require_width(dim, unit.len())?;
            values.extend(unit);
        }
        Ok(())
    }
}

/// Checks the width of another embedding. `dim` is 0 before the first one, which sets it.
fn require_width(dim: &mut usize, width: usize) -> Result<(), CaptionFault> {
    if *dim != 0 && width != *dim {
        return Err(CaptionFault::Width { expected: *dim, got: width });
    }
    *dim = width;
    Ok(())
}

/// Parses the numbers of a JSON array.
pub(super) fn numbers_of(json: &str) -> Result<Vec<f64>, CaptionFault> {
    serde_json::from_str(json).map_err(CaptionFault::Json)
}

/// Returns the L2-normalized embedding.
fn unit_vector(numbers: &[f64]) -> Result<Vec<f16>, CaptionFault> {
    if !numbers.iter().all(|number| number.is_finite()) {
        return Err(CaptionFault::NotFinite);
    }
    // Divided by the largest magnitude first, so that no square overflows or underflows.
    let largest = numbers.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
    if largest == 0.0 {
        return Err(if numbers.is_empty() { CaptionFault::Empty } else { CaptionFault::Zero });
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
            let got = unit_vector(&numbers_of(&format!("[3{scale}, -4{scale}]")).unwrap()).unwrap();
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
            let fault = numbers_of(json).and_then(|numbers| unit_vector(&numbers)).unwrap_err();
            let reason = fault.to_string();
            assert!(reason.contains(part), "{json}: {reason}");
        }
    }
}
