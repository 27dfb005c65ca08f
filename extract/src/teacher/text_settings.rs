//! The settings of a teacher's text side, as `teacher.toml` has them. Missing values are resolved when the text encoder
//! is opened: the rules are in `teacher/tokenizer/` and `encoder/text/`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Demand, PromptTokenizer};
use crate::error::ExtractError;

/// How an output with several vectors per prompt is reduced to one vector. Padding never counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPooling {
    /// No pooling: the output is [N, D].
    None,
    /// The first token of [N, T, D].
    Cls,
    /// The mean over the tokens of [N, T, D].
    Mean,
    /// The largest value of each of the D dimensions over the tokens of [N, T, D].
    Max,
    /// The last token of [N, T, D].
    LastToken,
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

/// The side of a prompt that is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaddingSide {
    /// Before the first token.
    Left,
    /// After the last token.
    Right,
}

/// How a prompt's text is cleaned before the tokenizer reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clean {
    /// Not at all.
    None,
    /// As open_clip's `whitespace`: typographic characters and HTML entities replaced, whitespace collapsed.
    Whitespace,
    /// As open_clip's `lower`: like `whitespace`, then lower case.
    Lower,
    /// As open_clip's `canonicalize`: underscores to spaces, no ASCII punctuation, lower case, whitespace collapsed.
    Canonicalize,
    /// As transformers' `SiglipTokenizer`: lower case, no ASCII punctuation, whitespace collapsed.
    Siglip,
}

impl TextPooling {
    /// Its name in `teacher.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::LastToken => "lasttoken",
        }
    }
}

impl PaddingSide {
    /// Its name in `teacher.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }
}

impl Clean {
    /// Its name in `teacher.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Whitespace => "whitespace",
            Self::Lower => "lower",
            Self::Canonicalize => "canonicalize",
            Self::Siglip => "siglip",
        }
    }
}

/// The section `[text]` of `teacher.toml`. `None` means resolved from the files beside the model and the model itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSection {
    /// The ONNX model, relative to the teacher's folder.
    pub model: Option<PathBuf>,
    /// The tokenizer in the `tokenizers` library's JSON format, relative to the teacher's folder.
    pub tokenizer: Option<PathBuf>,
    /// Maximum number of tokens per prompt, special tokens included.
    pub context_length: Option<usize>,
    /// Padding.
    pub padding: Option<Padding>,
    /// The side that is padded.
    pub padding_side: Option<PaddingSide>,
    /// Id of the padding token.
    pub pad_id: Option<u32>,
    /// Cleaning of the text.
    pub clean: Option<Clean>,
    /// Name of the input that takes token ids.
    pub input: Option<String>,
    /// Name of the output.
    pub output: Option<String>,
    /// Pooling of the output.
    pub pooling: Option<TextPooling>,
    /// Folder of a bridge, made by `lgd align`, that maps the embeddings to the space of the images'.
    pub align: Option<PathBuf>,
    /// Must be true if given: embeddings are always stored as unit vectors.
    pub normalize: Option<bool>,
}

/// Inputs and outputs of the text model.
#[derive(Clone, Debug)]
pub struct TextSettings {
    /// The ONNX model.
    pub model: PathBuf,
    /// Folder of the tokenizer's files and of `config.json`.
    pub dir: PathBuf,
    /// The values that `teacher.toml` sets.
    pub set: TextSection,
    /// Side of the images that the teacher takes, px, for a model that also has a pixel input.
    pub image_size: Option<u32>,
}

impl TextSettings {
    /// The tokens of `prompt`, for a model that takes a mask and prompts of any length. Needs no ONNX Runtime.
    ///
    /// # Errors
    /// [`ExtractError`] if the tokenizer's files are missing, damaged or contradict each other, or if the prompt has no
    /// tokens.
    pub fn tokenize(&self, prompt: &str) -> Result<Vec<u32>, ExtractError> {
        let demand = Demand { length: None, mask: true };
        PromptTokenizer::open(self, demand)?.encode(prompt).map(|tokens| tokens.ids)
    }

    /// The tokenizer that `teacher.toml` names; `None` means the one found in `dir`.
    pub(crate) fn tokenizer(&self) -> Option<PathBuf> {
        self.set.tokenizer.as_ref().map(|tokenizer| self.dir.join(tokenizer))
    }
}
