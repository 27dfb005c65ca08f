//! Errors of building a bank.

use std::error::Error;
use std::path::PathBuf;

use lgd_data::ArtifactError;
use lgd_data::manifest::ContentHash;
use lgd_data::projection::ProjectionError;
use safetensors::SafeTensorError;

/// Any error of a text encoder.
pub type EncodeFailure = Box<dyn Error + Send + Sync>;

/// What is wrong with a segment of the prompt cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentFault {
    /// The content is not what the segment's name says.
    #[error("damaged prompt embeddings: the content's BLAKE3 is {got}")]
    Hash {
        /// Hash of the bytes on disk.
        got: ContentHash,
    },
    /// Not a safetensors file of prompts and embeddings.
    #[error(transparent)]
    Tensors(#[from] SafeTensorError),
    /// The prompts are not a JSON list of strings.
    #[error(transparent)]
    Prompts(#[from] serde_json::Error),
    /// Embeddings of another shape or type.
    #[error("embeddings: expected F32 {expected:?}, got {got}")]
    Shape {
        /// Prompts and width.
        expected: [usize; 2],
        /// Type and shape found.
        got: String,
    },
}

/// Why a bank cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BankError {
    /// A file of a cache or a bank cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The text encoder failed.
    #[error("cannot encode prompts {first:?} and {} more: {source}", count - 1)]
    Encode {
        /// First prompt of the batch.
        first: String,
        /// Prompts in the batch.
        count: usize,
        /// The encoder's error.
        source: EncodeFailure,
    },
    /// The text encoder returned another number of values than asked for.
    #[error("the text encoder returned {got} values for {prompts} prompts of width {dim}")]
    EncodedLength {
        /// Prompts in the batch.
        prompts: usize,
        /// Width that the encoder announced.
        dim: usize,
        /// Values returned.
        got: usize,
    },
    /// A prompt's embedding cannot be normalized.
    #[error(
        "the text embedding of {prompt:?} has norm {norm}\nhint: the text model is damaged or overflows; try it in f32"
    )]
    PromptNorm {
        /// The prompt.
        prompt: String,
        /// Its norm: zero, infinite or not a number.
        norm: f64,
    },
    /// The prompts of a category cancel out.
    #[error(
        "the prompts of category {category:?} have a mean of norm {norm}\nhint: give prompts that mean the same thing"
    )]
    CategoryNorm {
        /// The category.
        category: String,
        /// Norm of the mean.
        norm: f64,
    },
    /// A segment of the prompt cache is damaged.
    #[error("{}: {source}\nhint: delete this file; its prompts will be encoded again", path.display())]
    PromptSegment {
        /// The segment.
        path: PathBuf,
        /// What is wrong with it.
        source: SegmentFault,
    },
    /// A prompt that was not encoded.
    #[error("the embedding of {prompt:?} is not in the prompt cache")]
    PromptAbsent {
        /// The prompt.
        prompt: String,
    },
    /// Text and image embeddings cannot be compared.
    #[error(
        "the text encoder gives {text} values, the cached image embeddings have {image}\nhint: both must come from one aligned teacher"
    )]
    Width {
        /// Width of the text embeddings.
        text: usize,
        /// Width of the image embeddings.
        image: usize,
    },
    /// An embedding is zero, not finite or not normalized.
    #[error(
        "row {row} of the embeddings has norm {norm}, but 1 was expected\nhint: extract the cache again; a zero or NaN embedding says nothing about its image"
    )]
    RowNorm {
        /// The row, from 0.
        row: usize,
        /// Its norm.
        norm: f32,
    },
    /// There are no embeddings.
    #[error(
        "there are no embeddings to build a bank from\nhint: every sample was rejected; rejects.jsonl in the cache says why"
    )]
    NoRows,
    /// The cache holds no features.
    #[error(
        "{}: the cache holds no features of the teacher\nhint: extract it again with `lgd extract --features`", path.display()
    )]
    NoFeatures {
        /// The cache's folder.
        path: PathBuf,
    },
    /// A cached feature is infinite or not a number.
    #[error(
        "row {row} of the features holds a value that is not finite\nhint: extract the cache again; the teacher's feature may not fit f16"
    )]
    FeatureNotFinite {
        /// The row, from 0.
        row: usize,
    },
    /// The features cannot be projected to that width.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// A KDEP target is too large to be stored.
    #[error(
        "row {row}: the target {value} does not fit f16, which ends at 65504\nhint: give a larger --pts-temperature or --pts-power"
    )]
    TargetOverflow {
        /// The row, from 0.
        row: usize,
        /// Its largest target.
        value: f32,
    },
    /// An option outside its range.
    #[error("{what} must be {range}, got {got}")]
    Option {
        /// The option.
        what: &'static str,
        /// The values it can take.
        range: &'static str,
        /// The value given.
        got: String,
    },
    /// The job was asked to stop.
    #[error("interrupted; nothing of the bank is kept but the prompts that were encoded for it")]
    Interrupted,
}
