//! The bridge from the space of a text encoder to that of image embeddings, fitted by `lgd align` (docs/methods.md
//! section 5).
//!
//! ```text
//! DIR/align.json            manifest; written last
//! DIR/align.safetensors     mean: f32 [Dt] · matrix: f32 [D, Dt]
//! ```
//!
//! Dt is the width of the text encoder, D that of the image embeddings.

mod bridge;
mod folder;

use serde::{Deserialize, Serialize};

use crate::cache::TeacherRecord;
use crate::manifest::{ContentHash, FileEntry};

pub use bridge::Bridge;
pub use folder::Align;

/// Bridge format version that this program writes and reads.
pub const ALIGN_VERSION: u32 = 1;

/// Where the image side of a bridge comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ImageSide {
    /// The mean embedding of each category's images.
    Cache {
        /// Hash of the cache's manifest.
        cache: ContentHash,
        /// Teacher of the cache. Banks of other teachers are refused.
        teacher: Box<TeacherRecord>,
        /// Number of images with a label.
        images: usize,
    },
    /// The rows of a classifier.
    Head {
        /// Hash of the safetensors file.
        file: ContentHash,
        /// Name of the tensor.
        tensor: String,
    },
}

/// Shares of right decisions, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Among the categories that were held out together.
    pub among_held_out: f64,
    /// Among all categories.
    pub among_all: f64,
}

/// Accuracy on categories that the bridge was not fitted to. From a cache, every labeled image is classified by the
/// bridged prototypes. From a head, every bridged prototype selects its nearest row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Number of decisions: images, or categories of a head.
    pub decisions: usize,
    /// With the image side as it is.
    pub plain: Accuracy,
    /// With the mean of the image side subtracted from it, as in a bank centered on [`CenteredSide::Image`](crate::bank::CenteredSide).
    pub centered: Accuracy,
    /// Of a random choice.
    pub chance: Accuracy,
    /// Mean cosine between a category's bridged prototype and its centered target.
    pub cosine: f64,
}

/// Inputs, settings and accuracy of a bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlignRecord {
    /// Hash of the text encoder: model, tokenizer and resolved settings.
    pub text_encoder: ContentHash,
    /// Width Dt of the text encoder.
    pub text_dim: usize,
    /// Width D of the image embeddings.
    pub dim: usize,
    /// Source of the image side.
    pub images: ImageSide,
    /// Number of categories that the bridge was fitted to.
    pub categories: usize,
    /// Prompt templates.
    pub templates: Vec<String>,
    /// Ridge penalty lambda.
    pub ridge: f64,
    /// Whether the penalty was chosen by cross-validation.
    pub cross_validated: bool,
    /// Accuracy on held-out categories.
    pub held_out: HeldOut,
}

/// Contents of `align.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlignManifest {
    /// Format version, [`ALIGN_VERSION`].
    pub format_version: u32,
    /// Inputs, settings and accuracy.
    #[serde(flatten)]
    pub record: AlignRecord,
    /// Entry of `align.safetensors`.
    pub tensors: FileEntry,
}
