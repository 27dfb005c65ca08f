//! The hash of a text encoder as versions up to 0.1 recorded it in caches: of the model, of `tokenizer.json`, and of
//! the settings as `teacher.toml` spelled them. It is computed only to recognize such caches
//! (docs/decisions/0017).

use std::path::Path;

use lgd_data::manifest::ContentHash;
use serde_json::Value;

use super::hash_model;
use super::preprocessing::read_json;
use super::text_settings::TextSettings;
use crate::error::ExtractError;

/// Longest context that was read from a tokenizer's files.
const MAX_CONTEXT: usize = 65_536;

/// Computes the hash; `None` if there is no tokenizer that those versions could read.
pub(super) fn former_hash(settings: &TextSettings) -> Result<Option<ContentHash>, ExtractError> {
    let tokenizer = settings.tokenizer().unwrap_or_else(|| settings.dir.join("tokenizer.json"));
    if !tokenizer.is_file() {
        return Ok(None);
    }
    let open_clip = read_json(&settings.dir.join("open_clip_config.json"))?;
    let open_clip =
        open_clip.and_then(|(_, json)| length(json.pointer("/model_cfg/text_cfg/context_length")));
    let beside = beside(&tokenizer)?;
    let context_length = settings
        .set
        .context_length
        .or(open_clip)
        .or(beside.context_length.filter(|length| *length <= MAX_CONTEXT));
    let pad_id = settings.set.pad_id.or(beside.pad_id);
    let mut hasher = blake3::Hasher::new();
    hash_model(&mut hasher, &settings.model)?;
    hasher.update(ContentHash::of_file(&tokenizer)?.as_bytes());
    let fingerprint = format!(
        "context_length={context_length:?} padding={:?} pad_id={pad_id:?} input={:?} output={:?} pooling={:?}",
        settings.set.padding, settings.set.input, settings.set.output, settings.set.pooling
    );
    hasher.update(fingerprint.as_bytes());
    Ok(Some(hasher.finalize().into()))
}

/// Values of the tokenizer's own files.
struct Beside {
    context_length: Option<usize>,
    pad_id: Option<u32>,
}

/// Reads `tokenizer.json` at `path` and `tokenizer_config.json` beside it.
fn beside(path: &Path) -> Result<Beside, ExtractError> {
    let json = |path: &Path| read_json(path).map(|found| found.map_or(Value::Null, |(_, json)| json));
    let (tokenizer, config) = (json(path)?, json(&path.with_file_name("tokenizer_config.json"))?);
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(Beside {
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

fn length(value: Option<&Value>) -> Option<usize> {
    value.and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok())
}

/// The id of a token in the added tokens or the vocabulary.
fn token_id(tokenizer: &Value, token: &str) -> Option<u32> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.filter(|entry| entry.get("content").and_then(Value::as_str) == Some(token));
    let vocabulary = tokenizer.pointer("/model/vocab").and_then(|vocabulary| vocabulary.get(token));
    let id = added.filter_map(|entry| entry.get("id")).chain(vocabulary).find_map(Value::as_u64)?;
    u32::try_from(id).ok()
}
