//! The text encoder: maps prompts to unit vectors, always in f32.
//!
//! Prompts with the same number of tokens are encoded together, so padding neither costs time nor changes results.

mod inputs;
mod output;
mod pooling;
mod probe;

use std::path::Path;

use lgd_data::align::Align;
use lgd_data::manifest::ContentHash;

use super::{Embeddings, EncoderOptions, TEXT_BATCH};
use crate::device::{ExecutionDevice, Precision, Slot};
use crate::error::ExtractError;
use crate::runtime::Runtime;
use crate::session::{Model, Selection};
use crate::teacher::{PromptTokenizer, Resolved, TEACHER_TOML, TextPooling, TextSettings};
use inputs::{Inputs, TokenBatch};

/// A text model with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    model: Model,
    selection: Selection,
    tokenizer: PromptTokenizer,
    inputs: Inputs,
    pooling: TextPooling,
    rows: Rows,
    /// Width of the model's vectors; 0 before the first run.
    model_dim: usize,
    align: Option<Align>,
    hash: ContentHash,
    recorded_hash: ContentHash,
    resolved: Vec<Resolved>,
    notes: Vec<String>,
}

/// Number of prompts per run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// Any number up to this one.
    UpTo(usize),
    /// Always this number; a smaller batch is filled up.
    Exactly(usize),
}

/// Embeddings of a list of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedTexts {
    /// Unit vectors.
    pub embeddings: Embeddings,
    /// Number of texts that were longer than the context and were truncated.
    pub cut: usize,
}

impl TextEncoder {
    pub(crate) fn open(
        runtime: &Runtime,
        settings: &TextSettings,
        model_hash: ContentHash,
        align: Option<Align>,
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
        let inputs = Inputs::of(&model, settings.set.input.as_deref(), settings.image_size)?;
        let tokenizer = PromptTokenizer::open(settings, inputs.demand())?;
        let output = output::choose(&model, settings, tokenizer.family())?;
        let batch = options.batch.unwrap_or(TEXT_BATCH).max(1);
        let mut encoder = Self {
            selection: Selection::of(&model, &[&output.port.name])?,
            hash: hash(model_hash, &tokenizer, &inputs, &output)?,
            rows: inputs.fixed_rows().map_or(Rows::UpTo(batch), Rows::Exactly),
            resolved: tokenizer.resolved().iter().chain(&output.resolved).cloned().collect(),
            notes: tokenizer.notes().iter().cloned().chain(output.note).collect(),
            pooling: output.pooling,
            tokenizer,
            inputs,
            model_dim: 0,
            align: None,
            recorded_hash: model_hash,
            model,
        };
        encoder.probe()?;
        if let Some(align) = align {
            encoder.put_behind(align, &settings.dir)?;
        }
        Ok(encoder)
    }

    /// Puts `align` behind the model. Paths are shown relative to the teacher's folder `dir`.
    fn put_behind(&mut self, align: Align, dir: &Path) -> Result<(), ExtractError> {
        align.require_text_encoder(self.hash)?;
        self.hash = align.hash_behind(self.hash);
        self.recorded_hash = align.hash_behind(self.recorded_hash);
        let shown = align.dir().strip_prefix(dir).unwrap_or(align.dir()).display().to_string();
        self.resolved.push(Resolved::new("align", shown, TEACHER_TOML));
        self.align = Some(align);
        Ok(())
    }

    /// Width D of the embeddings.
    pub fn dim(&self) -> usize {
        self.align.as_ref().map_or(self.model_dim, |align| align.bridge().dim())
    }

    /// Hash of everything that decides an embedding: model, tokenizer, resolved settings and bridge. Equal hashes give
    /// equal embeddings.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Hash of the model and the bridge alone, under which a cache records the text encoder of its teacher.
    pub fn recorded_hash(&self) -> ContentHash {
        self.recorded_hash
    }

    /// The settings as the encoder uses them, with their origins.
    pub fn resolved(&self) -> &[Resolved] {
        &self.resolved
    }

    /// Notes for the user, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Maximum number of tokens of a prompt.
    pub fn context_length(&self) -> usize {
        self.tokenizer.context_length()
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
        let tokens = self.tokenizer.encode_all(texts)?;
        let length = |text: usize| tokens[text].ids.len();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| length(text));
        let (Rows::UpTo(rows) | Rows::Exactly(rows)) = self.rows;
        let mut raw = vec![0.0; texts.len() * self.model_dim];
        for group in order.chunk_by(|&a, &b| length(a) == length(b)) {
            for members in group.chunks(rows) {
                let filled = if self.rows == Rows::Exactly(rows) { rows } else { members.len() };
                let vectors = self.run(&TokenBatch::gather(&tokens, members, filled))?;
                for (vector, &text) in vectors.chunks_exact(self.model_dim).zip(members) {
                    raw[text * self.model_dim..][..self.model_dim].copy_from_slice(vector);
                }
            }
        }
        let cut = tokens.iter().filter(|tokens| tokens.cut).count();
        let raw = match &self.align {
            Some(align) => align.bridge().apply(&raw),
            None => raw,
        };
        Ok(EncodedTexts { embeddings: Embeddings::normalize(self.dim(), raw), cut })
    }

    /// Token ids of prompts, as the model gets them.
    ///
    /// # Errors
    /// [`ExtractError::Tokenizer`].
    pub fn token_ids(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>, ExtractError> {
        Ok(self.tokenizer.encode_all(prompts)?.into_iter().map(|tokens| tokens.ids).collect())
    }

    /// Number of prompts that are longer than the context.
    ///
    /// # Errors
    /// [`ExtractError::Tokenizer`].
    pub fn count_cut(&self, prompts: &[String]) -> Result<usize, ExtractError> {
        self.tokenizer.count_cut(prompts)
    }

    /// Raw vectors of a batch, [rows, D]. The first run decides D.
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, ExtractError> {
        let failed = |path: &Path, reason: String| ExtractError::inference(path, reason);
        let path = self.model.path().to_owned();
        let values = self
            .inputs
            .fill(batch, self.tokenizer.padding_counts())
            .map_err(|error| ExtractError::inference(&path, error))?;
        let pooling = self.pooling;
        let (vectors, dim) = self.model.run(values, &self.selection, |outputs| {
            pooling::pool(pooling, &outputs[0], batch).map_err(|reason| failed(&path, reason))
        })?;
        if self.model_dim != 0 && dim != self.model_dim {
            return Err(failed(
                &path,
                format!("the output's width changed from {} to {dim}", self.model_dim),
            ));
        }
        self.model_dim = dim;
        Ok(vectors)
    }
}

/// Hash of everything that decides an embedding.
fn hash(
    model: ContentHash,
    tokenizer: &PromptTokenizer,
    inputs: &Inputs,
    output: &output::Output,
) -> Result<ContentHash, ExtractError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"lgd text encoder, resolved\n").update(model.as_bytes());
    tokenizer.hash_into(&mut hasher)?;
    let used = (inputs.ids_name(), &output.port.name, output.pooling.name());
    hasher.update(format!(" input={} output={} pooling={}", used.0, used.1, used.2).as_bytes());
    Ok(hasher.finalize().into())
}
