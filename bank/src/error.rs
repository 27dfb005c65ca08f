//! Errors of building a bank.

use std::error::Error;
use std::path::PathBuf;

use lgd_data::ArtifactError;
use lgd_data::manifest::ContentHash;
use lgd_data::projection::ProjectionError;
use safetensors::SafeTensorError;

/// An error of a text encoder.
pub type EncodeFailure = Box<dyn Error + Send + Sync>;

/// A fault in a segment of the prompt cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentFault {
    /// The content does not match the hash in the segment's name.
    #[error("damaged prompt embeddings: the content's BLAKE3 is {got}")]
    Hash {
        /// Hash of the bytes on disk.
        got: ContentHash,
    },
    /// The file is not a safetensors file with prompts and embeddings.
    #[error(transparent)]
    Tensors(#[from] SafeTensorError),
    /// The prompts are not a JSON list of strings.
    #[error(transparent)]
    Prompts(#[from] serde_json::Error),
    /// The embeddings have another shape or dtype.
    #[error("embeddings: expected F32 {expected:?}, got {got}")]
    Shape {
        /// Number of prompts and width.
        expected: [usize; 2],
        /// Dtype and shape found.
        got: String,
    },
}

/// Reasons why a bank cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BankError {
    /// A file of a cache or a bank could not be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The text encoder failed.
    #[error("cannot encode prompts {first:?} and {} more: {source}", count - 1)]
    Encode {
        /// First prompt of the batch.
        first: String,
        /// Number of prompts in the batch.
        count: usize,
        /// The encoder's error.
        source: EncodeFailure,
    },
    /// The text encoder returned an unexpected number of values.
    #[error("the text encoder returned {got} values for {prompts} prompts of width {dim}")]
    EncodedLength {
        /// Number of prompts in the batch.
        prompts: usize,
        /// Width that the encoder declared.
        dim: usize,
        /// Number of values returned.
        got: usize,
    },
    /// The norm of a prompt's embedding is zero, infinite or NaN.
    #[error(
        "the text embedding of {prompt:?} has norm {norm}, expected a finite one above 0\nhint: the text model is damaged or overflows; try it in f32"
    )]
    PromptNorm {
        /// The prompt.
        prompt: String,
        /// Its norm: zero, infinite or NaN.
        norm: f64,
    },
    /// The embeddings of a category's prompts cancel out.
    #[error(
        "the prompts of category {category:?} cancel out: their mean has norm {norm}\nhint: give prompts that mean the same thing"
    )]
    CategoryNorm {
        /// The category.
        category: String,
        /// Norm of the mean.
        norm: f64,
    },
    /// Two categories get the same tokens, so the text encoder cannot tell them apart.
    #[error(
        "the text encoder cannot tell the categories {first:?} and {second:?} apart: {reason}\n\
         hint: reword one of them, or give it a synonym or prompts of its own"
    )]
    SameCategories {
        /// One category.
        first: String,
        /// The other.
        second: String,
        /// What is equal: the tokens of their prompts, or the embeddings.
        reason: String,
    },
    /// A segment of the prompt cache is damaged.
    #[error("{}: {source}\nhint: delete this file; its prompts will be encoded again", path.display())]
    PromptSegment {
        /// The segment.
        path: PathBuf,
        /// The fault.
        source: SegmentFault,
    },
    /// A prompt has no embedding in the prompt cache.
    #[error("the embedding of {prompt:?} is not in the prompt cache")]
    PromptAbsent {
        /// The prompt.
        prompt: String,
    },
    /// The text encoder is not the one that the cache records.
    #[error("{}: the text encoder differs: expected {expected}, got {got}", path.display())]
    TextEncoder {
        /// The cache's folder.
        path: PathBuf,
        /// Hash that the cache records.
        expected: ContentHash,
        /// Hashes under which a cache may have recorded this one.
        got: String,
    },
    /// Text and image embeddings have different widths.
    #[error("the text encoder returns {text} values, the cached image embeddings have {image}")]
    Width {
        /// Width of the text embeddings.
        text: usize,
        /// Width of the image embeddings.
        image: usize,
    },
    /// An embedding is zero, not finite or not normalized.
    #[error(
        "row {row} of the embeddings has norm {norm}, expected 1\nhint: extract the cache again; a teacher that returns zeros or NaN is damaged or overflows"
    )]
    RowNorm {
        /// The row, from 0.
        row: usize,
        /// Its norm.
        norm: f32,
    },
    /// An embedding equals the mean that is subtracted from it.
    #[error("{what} equals the mean of the cache's embeddings, so that subtracting the mean leaves nothing")]
    EqualsMean {
        /// The embedding.
        what: String,
    },
    /// There is only one category, of which every image has probability 1.
    #[error(
        "{name:?} is the only category: every image gets probability 1 of it, so the bank teaches nothing\n\
         hint: write two names or more, one per line"
    )]
    OneCategory {
        /// Its name.
        name: String,
    },
    /// The cache has no embeddings.
    #[error(
        "the cache holds no embeddings, because every sample was rejected\nhint: rejects.jsonl in the cache says why"
    )]
    NoRows,
    /// The cache holds no features.
    #[error("{}: the cache holds no features of the teacher", path.display())]
    NoFeatures {
        /// The cache's folder.
        path: PathBuf,
    },
    /// A cached feature holds an infinite value or NaN.
    #[error(
        "row {row} of the features holds a value that is not finite\nhint: extract the cache again; the teacher's features may exceed the range of f16"
    )]
    FeatureNotFinite {
        /// The row, from 0.
        row: usize,
    },
    /// The features cannot be projected to the requested width.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// A KDEP target exceeds the range of f16.
    #[error("row {row}: the target {value} exceeds the range of f16, which ends at 65504")]
    TargetOverflow {
        /// The row, from 0.
        row: usize,
        /// Its largest target.
        value: f32,
    },
    /// An option is outside its range.
    #[error("{what} must be {range}, got {got}")]
    Option {
        /// Name of the option.
        what: &'static str,
        /// The allowed values.
        range: &'static str,
        /// The given value.
        got: String,
    },
    /// The job was interrupted.
    #[error("interrupted; the prompts encoded so far are kept, the bank is not")]
    Interrupted,
}
