//! Turns prompts into tokens as the teacher's own tools do.
//!
//! The tokenizer's files say how long prompts may be, how they are padded and how their text is cleaned; a value in
//! `teacher.toml` has priority. [`PromptTokenizer`] holds the resolved rules and lists where each came from.

mod bounds;
mod clean;
mod clip;
mod files;
mod rules;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer};

use super::{Clean, Resolved, TextSettings};
use crate::error::{Cause, ExtractError};
pub(crate) use files::Family;
use files::TokenizerFiles;
use lgd_data::contained::contained;
use lgd_data::manifest::ContentHash;

/// More special tokens than any tokenizer adds to a prompt.
const SPECIAL_TOKENS: usize = 8;

/// What the model's inputs demand of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Number of tokens, if the model fixes it.
    pub length: Option<usize>,
    /// Whether the model takes a mask, and so can tell padding from words.
    pub mask: bool,
}

/// A tokenizer with the rules for prompts.
#[derive(Debug)]
pub(crate) struct PromptTokenizer {
    tokenizer: Tokenizer,
    paths: Vec<PathBuf>,
    family: Family,
    context_length: usize,
    /// Text before every prompt; mostly empty.
    prefix: String,
    clean: Clean,
    /// The separator's id, which is replaced with 0.
    stripped: Option<u32>,
    /// Whether the mask given to the model counts padding as words.
    padding_counts: bool,
    lowercase: bool,
    resolved: Vec<Resolved>,
    notes: Vec<String>,
}

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    /// False for padding.
    pub words: Vec<bool>,
    /// Whether the prompt was longer than the context and was cut.
    pub cut: bool,
}

impl PromptTokenizer {
    /// Reads the tokenizer of `settings` and resolves its rules for a model with this demand.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if a rule is missing or is not supported; [`ExtractError::Tokenizer`] and the
    /// errors of reading files.
    pub(crate) fn open(settings: &TextSettings, demand: Demand) -> Result<Self, ExtractError> {
        rules::resolve(settings, TokenizerFiles::read(settings)?, demand)
    }

    /// The file that names the tokenizer in messages.
    pub(crate) fn path(&self) -> &Path {
        &self.paths[0]
    }

    /// The model's family, as its files tell it.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Maximum number of tokens of a prompt.
    pub(crate) fn context_length(&self) -> usize {
        self.context_length
    }

    /// Whether the mask given to the model counts padding as words.
    pub(crate) fn padding_counts(&self) -> bool {
        self.padding_counts
    }

    /// The resolved settings.
    pub(crate) fn resolved(&self) -> &[Resolved] {
        &self.resolved
    }

    /// Rules that a user may not expect, one sentence each.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Tokens of a prompt. Never empty.
    ///
    /// # Errors
    /// [`ExtractError::Tokenizer`] if the text cannot be cleaned as the model requires, the tokenizer fails, or the
    /// prompt has no tokens.
    pub(crate) fn encode(&self, prompt: &str) -> Result<Tokens, ExtractError> {
        let text = self.clean.apply(&format!("{}{prompt}", self.prefix)).map_err(|entity| {
            broken(
                self.path(),
                format!(
                    "the prompt {prompt:?} has the unknown HTML entity {entity}\nhint: write the character itself"
                ),
            )
        })?;
        let encoding = match contained(|| self.tokenizer.encode(text, true)) {
            Ok(encoding) => encoding.map_err(|error| broken(self.path(), error))?,
            Err(panic) => {
                return Err(broken(self.path(), format!("it fails with the prompt {prompt:?}: {panic}")));
            }
        };
        let strip = |id: u32| if Some(id) == self.stripped { 0 } else { id };
        if encoding.is_empty() {
            return Err(broken(self.path(), format!("the prompt {prompt:?} has no tokens")));
        }
        Ok(Tokens {
            ids: encoding.get_ids().iter().map(|&id| strip(id)).collect(),
            words: encoding.get_attention_mask().iter().map(|&bit| bit != 0).collect(),
            cut: !encoding.get_overflowing().is_empty(),
        })
    }

    /// Tokens of many prompts.
    ///
    /// # Errors
    /// Same as [`PromptTokenizer::encode`].
    pub(crate) fn encode_all(&self, prompts: &[String]) -> Result<Vec<Tokens>, ExtractError> {
        prompts.par_iter().map(|prompt| self.encode(prompt)).collect()
    }

    /// Number of prompts that are longer than the context.
    ///
    /// # Errors
    /// Same as [`PromptTokenizer::encode`].
    pub(crate) fn count_cut(&self, prompts: &[String]) -> Result<usize, ExtractError> {
        // A token has at least one byte of ASCII text, and there are at most a few special tokens.
        let short = |prompt: &str| {
            let bytes = self.prefix.len() + prompt.len() + SPECIAL_TOKENS;
            prompt.is_ascii() && self.prefix.is_ascii() && bytes <= self.context_length
        };
        let long = prompts.par_iter().filter(|prompt| !short(prompt));
        let cut = long.map(|prompt| self.encode(prompt).map(|tokens| usize::from(tokens.cut)));
        cut.try_reduce(|| 0, |one, other| Ok(one + other))
    }

    /// Adds everything that decides a prompt's tokens to a hash. Settings that have no effect are left out.
    pub(crate) fn hash_into(&self, hasher: &mut blake3::Hasher) -> Result<(), ExtractError> {
        for path in &self.paths {
            hasher.update(ContentHash::of_file(path)?.as_bytes());
        }
        let cut = self.tokenizer.get_truncation().map(|cut| (cut.max_length, cut.direction, cut.stride));
        let padding = self.tokenizer.get_padding().map(|padding| {
            let length = match padding.strategy {
                PaddingStrategy::Fixed(length) => length,
                PaddingStrategy::BatchLongest => 0,
            };
            (length, padding.pad_to_multiple_of, padding.direction, padding.pad_id)
        });
        let rules = format!(
            "cut={cut:?} padding={padding:?} padding_counts={} clean={} stripped={:?} lowercase={}",
            self.padding_counts,
            self.clean.name(),
            self.stripped,
            self.lowercase
        );
        hasher.update(rules.as_bytes());
        if !self.prefix.is_empty() {
            hasher.update(format!(" prefix={:?}", self.prefix).as_bytes());
        }
        Ok(())
    }
}

/// The error of a tokenizer that is damaged or fails.
fn broken(path: &Path, error: impl Into<Cause>) -> ExtractError {
    ExtractError::Tokenizer { path: path.to_owned(), source: error.into() }
}

/// Parses the content of a `tokenizer.json`, for which the tokenizer's library may panic.
fn parse(path: &Path, bytes: &[u8]) -> Result<Tokenizer, ExtractError> {
    match contained(|| Tokenizer::from_bytes(bytes)) {
        Ok(tokenizer) => tokenizer.map_err(|error| broken(path, error)),
        Err(panic) => Err(broken(path, panic)),
    }
}

/// Whether prompts are padded to one length.
fn fixed(padding: Option<&PaddingParams>) -> Option<usize> {
    match padding?.strategy {
        PaddingStrategy::Fixed(length) => Some(length),
        PaddingStrategy::BatchLongest => None,
    }
}

#[cfg(test)]
mod tests;
