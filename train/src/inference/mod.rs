//! Models that map images to features, embeddings or scores, and the pipeline that feeds them.
//!
//! ```text
//! source ──► read, decode, render (threads) ──► batches, in order ──► ImageModel ──► rows of every output
//! ```
//!
//! An [`ImageModel`] is a finished run ([`RunModel`]), or an exported file that another crate runs. Evaluation and
//! prediction see no difference.

mod error;
mod matrix;
mod pipeline;
mod run_model;

use std::fmt;
use std::path::PathBuf;

use lgd_data::image::RgbImage;
use lgd_data::manifest::ContentHash;
use lgd_data::render::Resample;
use lgd_data::view::CenterCrop;

use crate::loader::labels::ClassRecord;
use crate::run::Run;

pub use error::{InferenceError, ModelFailure};
pub use matrix::Matrix;
pub(crate) use matrix::{argmax, top1};
pub use pipeline::{Batch, Feed, InferenceOptions, Item, infer};
pub use run_model::RunModel;

/// What an output of a model holds, one row per image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputKind {
    /// Pooled feature, `[d]`.
    Feature,
    /// Unit vector in the teacher's space, `[D]`.
    Embedding,
    /// Cosine with each name, `[C]`.
    Scores,
    /// Logit of each class of a classifier, `[C]`.
    Logits,
    /// Probability of each name or class, `[C]`.
    Probabilities,
}

impl OutputKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Feature, Self::Embedding, Self::Scores, Self::Logits, Self::Probabilities];

    /// Name of the output in exported files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Feature => "feature",
            Self::Embedding => "embedding",
            Self::Scores => "scores",
            Self::Logits => "logits",
            Self::Probabilities => "probabilities",
        }
    }
}

impl fmt::Display for OutputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a model without running it.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// The run folder, or the file.
    pub path: PathBuf,
    /// Hash of the run's manifest, or of the file.
    pub hash: ContentHash,
    /// Architecture, if known.
    pub student: Option<String>,
    /// Epochs of training, if known.
    pub epochs: Option<u32>,
    /// Side of the square input, pixels.
    pub size: u32,
    /// Interpolation filter that images are resized with.
    pub resample: Resample,
    /// Center crop that images are shown with; `None` if it was not recorded.
    pub center: Option<CenterCrop>,
    /// Outputs and their widths.
    pub outputs: Vec<(OutputKind, usize)>,
    /// Temperature that cosines with names are divided by before a softmax; `None` if it was not recorded.
    pub temperature: Option<f32>,
    /// Names of the scores, in order, if the model has scores and names.
    pub names: Option<Vec<String>>,
    /// Classes of the logits, if the model has logits.
    pub classes: Option<ClassRecord>,
    /// Assumptions about what was not recorded, one sentence each.
    pub notes: Vec<String>,
}

impl ModelCard {
    /// Width of an output; `None` if the model does not have it.
    pub fn width(&self, kind: OutputKind) -> Option<usize> {
        self.outputs.iter().find(|(output, _)| *output == kind).map(|(_, width)| *width)
    }

    /// The outputs in words: `feature [512], embedding [384]`.
    pub fn outputs_in_words(&self) -> String {
        let words: Vec<String> =
            self.outputs.iter().map(|(kind, width)| format!("{kind} [{width}]")).collect();
        words.join(", ")
    }
}

/// A model that maps rendered images to rows of its outputs.
pub trait ImageModel {
    /// What is known of the model.
    fn card(&self) -> &ModelCard;

    /// The run that the model is the student of, if it is one. A run records its teacher and text encoder, which banks
    /// and caches are compared with.
    fn run(&self) -> Option<&Run> {
        None
    }

    /// Computes all outputs of `images`, each S x S with S = [`ModelCard::size`]. Returns the values of each of
    /// [`ModelCard::outputs`], in that order, `[N, width]`.
    ///
    /// # Errors
    /// If an image has another size, or the model fails.
    fn infer(&mut self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, ModelFailure>;
}
