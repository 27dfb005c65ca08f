//! Context length and padding token from a tokenizer's own files.

use std::path::Path;

use serde_json::Value;

use super::preprocessing::read_json;
use crate::error::ExtractError;

/// Defaults for prompts.
#[derive(Debug, Default)]
pub(crate) struct TokenizerDefaults {
    pub context_length: Option<usize>,
    pub pad_id: Option<u32>,
}

/// Reads `tokenizer.json` at `path` and `tokenizer_config.json` beside it. Either file may be missing.
pub(crate) fn read(path: &Path) -> Result<TokenizerDefaults, ExtractError> {
    let tokenizer = read_json(path)?.unwrap_or_default();
    let config = read_json(&path.with_file_name("tokenizer_config.json"))?.unwrap_or_default();
    let length =
        |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok());
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(TokenizerDefaults {
        context_length: length(tokenizer.pointer("/truncation/max_length"))
            .or(length(config.get("model_max_length"))),
        pad_id: tokenizer.pointer("/padding/pad_id").and_then(id).or_else(|| {
            // A special token is either text or an object with the text as its content.
            let token =
                config.get("pad_token").and_then(|token| token.get("content").unwrap_or(token).as_str())?;
            token_id(&tokenizer, token)
        }),
    })
}

/// The id of a token in the added tokens or the vocabulary.
fn token_id(tokenizer: &Value, token: &str) -> Option<u32> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.filter(|entry| entry.get("content").and_then(Value::as_str) == Some(token));
    let vocabulary = tokenizer.pointer("/model/vocab").and_then(|vocabulary| vocabulary.get(token));
    let id = added.filter_map(|entry| entry.get("id")).chain(vocabulary).find_map(Value::as_u64)?;
    u32::try_from(id).ok()
}
