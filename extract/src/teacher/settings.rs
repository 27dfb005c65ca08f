//! The settings of a teacher, merged from `teacher.toml` and the files beside its models.
//!
//! A value in `teacher.toml` has priority. A missing value is taken from `preprocessor_config.json`,
//! `open_clip_config.json`, `tokenizer.json` and `tokenizer_config.json`, or else read from the model when it is
//! opened.

use std::path::PathBuf;

use lgd_data::render::{Normalization, PixelLayout, Resample};
use lgd_data::view::CenterCrop;
use serde::{Deserialize, Serialize};

/// How an output with several vectors per image or prompt is reduced to one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// No pooling: the output is [N, D].
    None,
    /// The first token of [N, T, D].
    Cls,
    /// The mean over the tokens of [N, T, D]: for images, the tokens after the prefix tokens; for prompts, those that
    /// are not padding.
    Mean,
    /// The mean over the positions of a feature map, [N, D, H, W] or [N, H, W, D], in the input's layout.
    Gap,
}

/// How prompts are padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// To the longest prompt of the batch. Batches contain prompts of the same length, so in effect nothing is
    /// padded.
    Longest,
    /// Always to the context length, as CLIP's text encoders require.
    Fixed,
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
    /// Crop of the center view; `None` if not set.
    pub center: Option<CenterCrop>,
    /// Origin of `center`, such as a file or the name of a processor, for the line that describes view 0.
    pub center_source: Option<String>,
    /// Axis order of the input; `None` means inferred from the model's shape.
    pub layout: Option<PixelLayout>,
    /// Name of the input; `None` means the only one.
    pub input: Option<String>,
    /// Name of the output; `None` means the only one, or one with a known name.
    pub output: Option<String>,
    /// Pooling of the output; `None` means `none`, which requires an [N, D] output.
    pub pooling: Option<Pooling>,
    /// Number of tokens before the patch tokens (class and register tokens), left out of the mean and of the tokens.
    pub prefix_tokens: usize,
    /// Name of the output with the pooled feature before its last activation, if the teacher has one.
    pub features: Option<String>,
    /// Name of the output with the patch tokens or the last feature map, if the teacher has one.
    pub tokens: Option<String>,
    /// Rows and columns of the tokens' grid; `None` means a square, or the feature map's own.
    pub token_grid: Option<[usize; 2]>,
}

/// Inputs and outputs of the text model.
#[derive(Clone, Debug)]
pub struct TextSettings {
    /// The ONNX model.
    pub model: PathBuf,
    /// The tokenizer in the `tokenizers` library's JSON format.
    pub tokenizer: PathBuf,
    /// Maximum number of tokens per prompt, special tokens included; `None` means the model's fixed length.
    pub context_length: Option<usize>,
    /// Padding; `None` means `fixed` if the model's length is fixed or it has no attention mask, else `longest`.
    pub padding: Option<Padding>,
    /// Id of the padding token; `None` means the tokenizer's own.
    pub pad_id: Option<u32>,
    /// Name of the input that takes token ids; `None` means `input_ids`, or the only one.
    pub input: Option<String>,
    /// Name of the output; `None` means the only one, or one with a known name.
    pub output: Option<String>,
    /// Pooling of the output; `None` means `none`, which requires an [N, D] output.
    pub pooling: Option<Pooling>,
}

impl TextSettings {
    /// The settings that affect an embedding, in a fixed text form, for the text encoder's hash.
    pub(crate) fn fingerprint(&self) -> String {
        format!(
            "context_length={:?} padding={:?} pad_id={:?} input={:?} output={:?} pooling={:?}",
            self.context_length, self.padding, self.pad_id, self.input, self.output, self.pooling
        )
    }
}
