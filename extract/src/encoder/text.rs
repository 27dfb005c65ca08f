//! The text encoder: maps prompts to unit vectors, always in f32.
//!
//! Prompts with the same number of tokens are encoded together, so padding neither costs time nor changes results.

use std::path::{Path, PathBuf};

use lgd_data::manifest::ContentHash;
use lgd_data::render::PixelLayout;
use ort::session::SessionInputValue;
use ort::value::{Tensor, TensorElementType};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use super::output::{PoolingPlan, choose, pooling_for};
use super::{Embeddings, EncoderOptions, TEXT_BATCH};
use crate::device::{ExecutionDevice, Precision, Slot};
use crate::error::{Cause, ExtractError};
use crate::runtime::Runtime;
use crate::session::{Model, Port, Selection, describe};
use crate::teacher::{Padding, Pooling, TextSettings};

/// Known names of outputs with one embedding per prompt, in order of preference.
const KNOWN_OUTPUTS: &[&str] =
    &["text_embeds", "text_embeddings", "sentence_embedding", "embeddings", "last_hidden_state"];

/// Common padding tokens, for tokenizers whose files do not name one. CLIP's pads with 0.
const PAD_TOKENS: &[&str] = &["[PAD]", "<pad>"];

const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
const TOKEN_TYPES: &str = "token_type_ids";

/// The kind of values that an input of the text model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    Ids,
    Mask,
    Types,
}

/// A text model with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    model: Model,
    selection: Selection,
    tokenizer: Tokenizer,
    tokenizer_path: PathBuf,
    feeds: Vec<(String, Feed, IntegerType)>,
    pooling: Pooling,
    batch: usize,
    batch_is_fixed: bool,
    dim: usize,
    hash: ContentHash,
}

/// Embeddings of a list of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedTexts {
    /// Unit vectors.
    pub embeddings: Embeddings,
    /// Number of texts that were longer than the context and were truncated.
    pub cut: usize,
}

/// Element type of the token inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IntegerType {
    I64,
    I32,
}

/// Tokens of prompts with the same length, [rows, length].
struct TokenBatch {
    rows: usize,
    length: usize,
    ids: Vec<i64>,
    mask: Vec<i64>,
    types: Vec<i64>,
}

impl TextEncoder {
    pub(crate) fn open(
        runtime: &Runtime,
        settings: &TextSettings,
        hash: ContentHash,
        options: &EncoderOptions,
    ) -> Result<Self, ExtractError> {
        // Text always runs with CUDA: TensorRT would plan again for every length, and it is known to break f16 CLIP
        // text encoders.
        let slot = match &options.device {
            ExecutionDevice::Cpu => Slot::Cpu,
            ExecutionDevice::Cuda(ordinals) | ExecutionDevice::TensorRt(ordinals) => {
                ordinals.first().map_or(Slot::Cpu, |&ordinal| Slot::Cuda(ordinal))
            }
        };
        let model = Model::open(runtime, &settings.model, slot, Precision::Exact, options.threads)?;
        let feeds = feeds(&model, settings.input.as_deref())?;
        let (fixed_batch, fixed_length) = ids_shape(&model, &feeds)?;
        let output = choose(&model, settings.output.as_deref(), KNOWN_OUTPUTS)?.clone();
        let pooling = pooling_for(&model, &output, settings.pooling)?;
        let has_mask = feeds.iter().any(|(_, feed, _)| *feed == Feed::Mask);
        let mut encoder = Self {
            tokenizer: load_tokenizer(&model, settings, fixed_length, has_mask)?,
            tokenizer_path: settings.tokenizer.clone(),
            selection: Selection::of(&model, &[&output.name])?,
            feeds,
            pooling,
            batch: fixed_batch.or(options.batch).unwrap_or(TEXT_BATCH).max(1),
            batch_is_fixed: fixed_batch.is_some(),
            dim: 0,
            hash,
            model,
        };
        // Encoding one prompt determines the width and reveals errors before the work starts.
        let probe = encoder.tokenize(&["a".to_owned()])?;
        let (_, dim) = encoder.run(&probe, &[0])?;
        encoder.dim = dim;
        Ok(encoder)
    }

    /// Width D of the embeddings.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Hash of model, tokenizer and settings. Equal hashes give equal embeddings.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Embeds prompts. Row i of the result, [N, D], is the unit vector of prompt i. A prompt longer than the context
    /// is truncated.
    ///
    /// # Errors
    /// [`ExtractError::PromptEmbedding`] if a prompt's embedding is not finite or is zero;
    /// [`ExtractError::Tokenizer`]; [`ExtractError::Inference`].
    pub fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, ExtractError> {
        let texts = self.encode_texts(prompts)?;
        let fault = (0..prompts.len()).find_map(|row| Some((row, texts.embeddings.fault(row)?)));
        match fault {
            Some((row, fault)) => Err(ExtractError::PromptEmbedding {
                path: self.model.path().to_owned(),
                prompt: prompts[row].clone(),
                fault: fault.to_string(),
            }),
            None => Ok(texts.embeddings.into_values()),
        }
    }

    /// Embeds texts; row i is text i. Texts whose embeddings cannot be used have a fault in the result.
    ///
    /// # Errors
    /// [`ExtractError::Tokenizer`]; [`ExtractError::Inference`].
    pub fn encode_texts(&mut self, texts: &[String]) -> Result<EncodedTexts, ExtractError> {
        let tokens = self.tokenize(texts)?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| tokens[text].get_ids().len());
        let mut raw = vec![0.0; texts.len() * self.dim];
        for group in order.chunk_by(|&a, &b| tokens[a].get_ids().len() == tokens[b].get_ids().len()) {
            for members in group.chunks(self.batch) {
                let (vectors, dim) = self.run(&tokens, members)?;
                for (vector, &text) in vectors.chunks_exact(dim).zip(members) {
                    raw[text * dim..][..dim].copy_from_slice(vector);
                }
            }
        }
        let cut = tokens.iter().filter(|tokens| !tokens.get_overflowing().is_empty()).count();
        Ok(EncodedTexts { embeddings: Embeddings::normalize(self.dim, raw), cut })
    }

    fn tokenize(&self, prompts: &[String]) -> Result<Vec<tokenizers::Encoding>, ExtractError> {
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        self.tokenizer
            .encode_batch(prompts, true)
            .map_err(|error| tokenizer_error(&self.tokenizer_path, error))
    }

    /// Raw vectors of `members`, which have the same number of tokens, and their width.
    fn run(
        &mut self,
        tokens: &[tokenizers::Encoding],
        members: &[usize],
    ) -> Result<(Vec<f32>, usize), ExtractError> {
        let path = self.model.path().to_owned();
        let rows = if self.batch_is_fixed { self.batch } else { members.len() };
        let batch = TokenBatch::gather(tokens, members, rows);
        if batch.length == 0 {
            return Err(tokenizer_error(&self.tokenizer_path, "a prompt has no tokens at all"));
        }
        let mut inputs = Vec::with_capacity(self.feeds.len());
        for (name, feed, integer) in &self.feeds {
            let value =
                batch.tensor(*feed, *integer).map_err(|error| ExtractError::inference(&path, error))?;
            inputs.push((name.as_str(), value));
        }
        let plan = PoolingPlan {
            pooling: self.pooling,
            prefix_tokens: 0,
            layout: PixelLayout::Nchw,
            mask: Some(&batch.mask),
        };
        let (vectors, dim) = self.model.run(inputs, &self.selection, |outputs| {
            plan.apply(&outputs[0], members.len()).map_err(|reason| ExtractError::inference(&path, reason))
        })?;
        if self.dim != 0 && dim != self.dim {
            return Err(ExtractError::inference(
                &path,
                format!("the output's width changed from {} to {dim}", self.dim),
            ));
        }
        Ok((vectors, dim))
    }
}

impl TokenBatch {
    /// Gathers the tokens of `members`. Rows past the last member repeat the first one, to fill a fixed batch.
    fn gather(tokens: &[tokenizers::Encoding], members: &[usize], rows: usize) -> Self {
        let length = members.first().map_or(0, |&first| tokens[first].get_ids().len());
        let padded = members.iter().chain(std::iter::repeat_n(&members[0], rows - members.len()));
        let mut batch = Self { rows, length, ids: Vec::new(), mask: Vec::new(), types: Vec::new() };
        for &member in padded {
            let encoding = &tokens[member];
            batch.ids.extend(encoding.get_ids().iter().map(|&id| i64::from(id)));
            batch.mask.extend(encoding.get_attention_mask().iter().map(|&bit| i64::from(bit)));
            batch.types.extend(encoding.get_type_ids().iter().map(|&kind| i64::from(kind)));
        }
        batch
    }

    fn tensor(&self, feed: Feed, integer: IntegerType) -> ort::Result<SessionInputValue<'static>> {
        let shape = [self.rows, self.length];
        let values = match feed {
            Feed::Ids => &self.ids,
            Feed::Mask => &self.mask,
            Feed::Types => &self.types,
        };
        Ok(match integer {
            IntegerType::I64 => Tensor::from_array((shape, values.clone()))?.into(),
            IntegerType::I32 => {
                // Token ids come from vocabularies of far fewer than 2^31 tokens.
                let narrow: Vec<i32> =
                    values.iter().map(|&value| i32::try_from(value).unwrap_or(i32::MAX)).collect();
                Tensor::from_array((shape, narrow))?.into()
            }
        })
    }
}

fn tokenizer_error(path: &Path, error: impl Into<Cause>) -> ExtractError {
    ExtractError::Tokenizer { path: path.to_owned(), source: error.into() }
}

/// Maps each input of the model to the values that it takes. Fails for an input with an unknown name.
fn feeds(model: &Model, ids: Option<&str>) -> Result<Vec<(String, Feed, IntegerType)>, ExtractError> {
    let inputs = model.inputs();
    let ids = match (ids, inputs) {
        (Some(name), _) => name,
        (None, [only]) => &only.name,
        (None, _) => INPUT_IDS,
    };
    if !inputs.iter().any(|port| port.name == ids) {
        let hint = "set input in teacher.toml to the name of the input that takes token ids";
        return Err(model.mismatch(format!("an input '{ids}'"), describe(inputs), hint));
    }
    inputs
        .iter()
        .map(|port| Ok((port.name.clone(), feed(model, port, ids)?, integer_type(model, port)?)))
        .collect()
}

fn feed(model: &Model, port: &Port, ids: &str) -> Result<Feed, ExtractError> {
    match port.name.as_str() {
        name if name == ids => Ok(Feed::Ids),
        ATTENTION_MASK => Ok(Feed::Mask),
        TOKEN_TYPES => Ok(Feed::Types),
        _ => {
            let expected = format!("only the inputs {ids}, {ATTENTION_MASK} and {TOKEN_TYPES}");
            Err(model.mismatch(expected, describe(model.inputs()), "export the text encoder by itself"))
        }
    }
}

fn integer_type(model: &Model, port: &Port) -> Result<IntegerType, ExtractError> {
    match port.element {
        Some(TensorElementType::Int64) => Ok(IntegerType::I64),
        Some(TensorElementType::Int32) => Ok(IntegerType::I32),
        _ => Err(model.mismatch("token inputs of i64 or i32", port.to_string(), "")),
    }
}

/// Batch size and length of the token ids, if the model fixes them.
fn ids_shape(
    model: &Model,
    feeds: &[(String, Feed, IntegerType)],
) -> Result<(Option<usize>, Option<usize>), ExtractError> {
    let ids = feeds.iter().find(|(_, feed, _)| *feed == Feed::Ids).map(|(name, _, _)| name);
    let port = model.inputs().iter().find(|port| Some(&port.name) == ids);
    match port.map(|port| (port.shape.as_slice(), port)) {
        Some((&[batch, length], _)) => Ok((batch, length)),
        Some((_, port)) => Err(model.mismatch("token ids of two axes, [N, T]", port.to_string(), "")),
        None => Err(model.mismatch("an input for token ids", describe(model.inputs()), "")),
    }
}

/// Loads the tokenizer, with truncation and padding as model and settings require.
fn load_tokenizer(
    model: &Model,
    settings: &TextSettings,
    fixed_length: Option<usize>,
    has_mask: bool,
) -> Result<Tokenizer, ExtractError> {
    let path = &settings.tokenizer;
    let mut tokenizer = Tokenizer::from_file(path).map_err(|error| tokenizer_error(path, error))?;
    let length = match (settings.context_length, fixed_length) {
        (Some(set), Some(fixed)) if set != fixed => {
            let hint = format!("set context_length = {fixed} in teacher.toml");
            let got = describe(model.inputs());
            return Err(model.mismatch(format!("token ids of length {set}"), got, hint));
        }
        (Some(length), _) | (None, Some(length)) => length,
        (None, None) => {
            let hint = "set context_length in teacher.toml";
            let expected = "a fixed number of tokens, or context_length in teacher.toml";
            return Err(model.mismatch(expected, describe(model.inputs()), hint));
        }
    };
    // A model without a mask cannot tell padding from words, and was trained on one length.
    let default = if fixed_length.is_some() || !has_mask { Padding::Fixed } else { Padding::Longest };
    let padding = settings.padding.unwrap_or(default);
    if padding == Padding::Longest && fixed_length.is_some() {
        let got = describe(model.inputs());
        return Err(model.mismatch(
            "a free token axis for padding = \"longest\"",
            got,
            "set padding = \"fixed\"",
        ));
    }
    let truncation = TruncationParams { max_length: length, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(|error| tokenizer_error(path, error))?;
    let pad_id = pad_id(&tokenizer, settings.pad_id);
    let params =
        PaddingParams { strategy: PaddingStrategy::Fixed(length), pad_id, ..PaddingParams::default() };
    tokenizer.with_padding((padding == Padding::Fixed).then_some(params));
    Ok(tokenizer)
}

fn pad_id(tokenizer: &Tokenizer, set: Option<u32>) -> u32 {
    set.or_else(|| PAD_TOKENS.iter().find_map(|token| tokenizer.token_to_id(token))).unwrap_or(0)
}
