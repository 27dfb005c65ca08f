//! The settings of a teacher, merged from `teacher.toml` and the files beside its models.
//!
//! A value in `teacher.toml` has priority. A missing value is taken from the files that exporters write, or else read
//! from the model when it is opened.

use std::path::PathBuf;

use lgd_data::render::{Normalization, PixelLayout, Resample};
use lgd_data::view::CenterCrop;
use serde::{Deserialize, Serialize};

use super::resolved::Resolved;

/// How an output with several vectors per image or prompt is reduced to one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// No pooling: the output is [N, D].
    None,
    /// The first token of [N, T, D].
    Cls,
    /// The mean over the tokens of [N, T, D] after the prefix tokens.
    Mean,
    /// The mean over the positions of a feature map, [N, D, H, W] or [N, H, W, D], in the input's layout.
    Gap,
}

impl Pooling {
    /// Its name in `teacher.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Gap => "gap",
        }
    }
}

/// Inputs and outputs of the image model.
#[derive(Clone, Debug)]
pub struct ImageSettings {
    /// The ONNX model.
    pub model: PathBuf,
    /// Side of the square input, px; `None` means the model's own.
    pub size: Option<u32>,
    /// Per-channel mean and standard deviation of RGB in 0..1.
    pub normalization: Normalization,
    /// Resampling of the crop to the input size.
    pub resample: Resample,
    /// Resize and crop of the plain view; `None` if neither `teacher.toml` nor a file says it.
    pub center: Option<CenterCrop>,
    /// Where `center` comes from; `None` if it is not set.
    pub center_source: Option<String>,
    /// Axis order of the input; `None` means inferred from the model's shape.
    pub layout: Option<PixelLayout>,
    /// Name of the input; `None` means the only one.
    pub input: Option<String>,
    /// Name of the output; `None` means the only one, or one with a known name.
    pub output: Option<String>,
    /// Pooling of the output; `None` means `none`, which requires an [N, D] output.
    pub pooling: Option<Pooling>,
    /// Number of tokens before the patch tokens (class and register tokens), left out of the mean and of the tokens;
    /// `None` means that of the model's family, else 0.
    pub prefix_tokens: Option<usize>,
    /// Name of the output with the pooled feature before its last activation, if the teacher has one.
    pub features: Option<String>,
    /// Name of the output with the patch tokens or the last feature map, if the teacher has one.
    pub tokens: Option<String>,
    /// Rows and columns of the tokens' grid; `None` means a square, or the feature map's own.
    pub token_grid: Option<[usize; 2]>,
    /// What the files say of the model's outputs.
    pub known: KnownModel,
    /// The settings of this struct that are set, with their sources.
    pub resolved: Vec<Resolved>,
    /// Sentences for the user about settings that have no effect.
    pub notes: Vec<String>,
}

/// What `config.json` and the files beside it say of an image model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownModel {
    /// Family in transformers' words, such as "clip", "siglip" or "dinov2".
    pub family: Option<String>,
    /// The file that names the family.
    pub source: String,
    /// Register tokens after the class token.
    pub registers: Option<usize>,
    /// Number of classes of the model's classifier.
    pub labels: Option<usize>,
    /// Whether the teacher has a text model, with which the embeddings must be comparable.
    pub beside_text: bool,
}
