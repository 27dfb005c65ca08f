//! Outputs of an image model for a batch of views, and their faults.

use std::fmt;

use half::f16;

use super::{EmbeddingFault, Embeddings, Tokens};

/// Optional outputs of an image model, read in the same pass as the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Read the output named by `features` in `teacher.toml`.
    pub features: bool,
    /// Read the output named by `tokens` in `teacher.toml`.
    pub tokens: bool,
}

/// Outputs of the image model for a batch of views. All parts have the same number of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedViews {
    /// Unit vectors.
    pub embeddings: Embeddings,
    /// Pooled features, if requested.
    pub features: Option<Features>,
    /// Tokens, if requested.
    pub tokens: Option<Tokens>,
}

/// Reasons why a view cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewFault {
    /// Its embedding has a fault.
    Embedding(EmbeddingFault),
    /// Its feature has a NaN or infinite element.
    FeatureNotFinite,
    /// Its feature has an element outside the range of f16.
    FeatureRange,
    /// One of its tokens has elements that are NaN, infinite, or too large to be standardized.
    Tokens,
}

impl ViewFault {
    /// A short stable code for `rejects.jsonl`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Embedding(EmbeddingFault::NotFinite) => "nan-embedding",
            Self::Embedding(EmbeddingFault::Zero) => "zero-embedding",
            Self::FeatureNotFinite => "nan-features",
            Self::FeatureRange => "huge-features",
            Self::Tokens => "nan-tokens",
        }
    }

    /// The faulty output, for messages.
    pub fn subject(self) -> &'static str {
        match self {
            Self::Embedding(_) => "the embedding",
            Self::FeatureNotFinite | Self::FeatureRange => "the feature",
            Self::Tokens => "a token",
        }
    }
}

impl fmt::Display for ViewFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding(fault) => fault.fmt(f),
            Self::FeatureNotFinite | Self::Tokens => EmbeddingFault::NotFinite.fmt(f),
            Self::FeatureRange => write!(f, "beyond {}, the range of f16", f16::MAX),
        }
    }
}

impl EncodedViews {
    /// The fault of a view, if it has one.
    pub fn fault(&self, row: usize) -> Option<ViewFault> {
        let embedding = self.embeddings.fault(row).map(ViewFault::Embedding);
        embedding
            .or_else(|| self.features.as_ref().and_then(|features| features.fault(row)))
            .or_else(|| self.tokens.as_ref().filter(|tokens| !tokens.usable(row)).map(|_| ViewFault::Tokens))
    }
}

/// Pooled features, not normalized, in rows of width `dim`.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    dim: usize,
    values: Vec<f32>,
}

impl Features {
    pub(crate) fn new(dim: usize, values: Vec<f32>) -> Self {
        Self { dim, values }
    }

    /// Width F.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All values, `[rows, F]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Consumes the features and returns all values, `[rows, F]`.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The feature of a row, `[F]`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }

    fn fault(&self, row: usize) -> Option<ViewFault> {
        let row = self.row(row);
        if row.iter().any(|value| !value.is_finite()) {
            return Some(ViewFault::FeatureNotFinite);
        }
        row.iter().any(|value| value.abs() > f16::MAX.to_f32()).then_some(ViewFault::FeatureRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_must_be_finite_and_within_f16() {
        let features = Features::new(
            2,
            vec![0.0, 0.0, 65504.0, -65504.0, 65505.0, 1.0, f32::NAN, 1e9, 1.0, f32::NEG_INFINITY],
        );
        let faults: Vec<_> = (0..5).map(|row| features.fault(row)).collect();
        let (range, nan) = (Some(ViewFault::FeatureRange), Some(ViewFault::FeatureNotFinite));
        assert_eq!(faults, [None, None, range, nan, nan]);
        assert_eq!(ViewFault::FeatureRange.to_string(), "beyond 65504, the range of f16");
    }
}
