//! The settings of a teacher after `teacher.toml` and the files beside its models have been brought together.
//!
//! A value in `teacher.toml` wins; what it leaves out comes from `preprocessor_config.json`, `open_clip_config.json`,
//! `tokenizer.json` and `tokenizer_config.json`; what these leave out is read from the model when it is opened.

use std::path::PathBuf;

use lgd_data::render::{Normalization, PixelLayout, Resample};
use serde::{Deserialize, Serialize};

/// How an output with several vectors per image or prompt becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The output is one vector already: [N, D].
    None,
    /// The first token of [N, T, D].
    Cls,
    /// The mean over tokens of [N, T, D]: over those after the prefix tokens (images), over those that are not padding
    /// (prompts).
    Mean,
    /// The mean over positions of a feature map, [N, D, H, W] or [N, H, W, D] as the input's layout.
    Gap,
}

/// How prompts are brought to one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// To the longest of a batch. Prompts of the same length are batched together, so nothing is actually padded.
    Longest,
    /// Always to the context length, as CLIP's text encoders need it.
    Fixed,
}

/// Inputs and outputs of the image model.
#[derive(Clone, Debug)]
pub struct ImageSettings {
    /// The ONNX model.
    pub model: PathBuf,
    /// Side of the square input, px; `None` = the model's own.
    pub size: Option<u32>,
    /// Per-channel mean and standard deviation of RGB in 0..1.
    pub normalization: Normalization,
    /// Resampling of the crop to the input size.
    pub resample: Resample,
    /// Share of the short side that the center crop keeps; `None` = not set.
    pub center_fraction: Option<f32>,
    /// Order of the input's axes; `None` = by the model's shape.
    pub layout: Option<PixelLayout>,
    /// Name of the input; `None` = the only one.
    pub input: Option<String>,
    /// Name of the output; `None` = the only one, or one with a known name.
    pub output: Option<String>,
    /// Pooling of the output; `None` = `none` if the output is [N, D].
    pub pooling: Option<Pooling>,
    /// Tokens before the patch tokens (class and register tokens), left out of the mean and of the tokens.
    pub prefix_tokens: usize,
    /// Name of the output with the pooled feature before its last activation, if the teacher has one.
    pub features: Option<String>,
    /// Name of the output with the patch tokens or the last feature map, if the teacher has one.
    pub tokens: Option<String>,
    /// Rows and columns of the tokens; `None` = a square, or the feature map's own.
    pub token_grid: Option<[usize; 2]>,
}

/// Inputs and outputs of the text model.
#[derive(Clone, Debug)]
pub struct TextSettings {
    /// The ONNX model.
    pub model: PathBuf,
    /// The tokenizer in the `tokenizers` library's JSON format.
    pub tokenizer: PathBuf,
    /// Longest prompt in tokens, special tokens included; `None` = the model's own fixed length.
    pub context_length: Option<usize>,
    /// Padding; `None` = fixed if the model's length is fixed or it takes no attention mask, else longest.
    pub padding: Option<Padding>,
    /// Token that pads; `None` = the tokenizer's own.
    pub pad_id: Option<u32>,
    /// Name of the input that takes token ids; `None` = `input_ids`, or the only one.
    pub input: Option<String>,
    /// Name of the output; `None` = the only one, or one with a known name.
    pub output: Option<String>,
    /// Pooling of the output; `None` = `none` if the output is [N, D].
    pub pooling: Option<Pooling>,
}

impl TextSettings {
    /// The settings that change an embedding, in a fixed textual form, for the text encoder's hash.
    pub(crate) fn fingerprint(&self) -> String {
        format!(
            "context_length={:?} padding={:?} pad_id={:?} input={:?} output={:?} pooling={:?}",
            self.context_length, self.padding, self.pad_id, self.input, self.output, self.pooling
        )
    }
}
