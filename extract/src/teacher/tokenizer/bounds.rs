//! Bounds of `tokenizer.json`, checked before it is parsed as a tokenizer: what is nested too deep overflows the stack, and
//! normalizers that multiply a text fill the memory, both of which end the process.

use serde::Deserialize;
use serde_json::Value;

/// Maximum size of a tokenizer's file in bytes. The largest vocabularies take 40 MB.
pub(super) const MAX_BYTES: u64 = 256 << 20;

/// Maximum nesting. Tokenizers that exporters write have about ten levels.
const MAX_DEPTH: usize = 32;

/// Maximum number of normalizers, pre-tokenizers, processors and pieces of templates, all together.
const MAX_PARTS: usize = 4096;

/// Maximum factor by which all replacements together lengthen a text.
const MAX_GROWTH: f64 = 1e4;

/// Maximum number of tokens of padding and truncation that is not a mark for "no limit".
const MAX_LENGTH: u64 = 1 << 20;

/// What is small and decides how a text is processed.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    padding: Value,
}

/// Checks the content of a `tokenizer.json`.
///
/// # Errors
/// What is beyond its bound, or the error of the JSON.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let depth = depth(bytes);
    if depth > MAX_DEPTH {
        return Err(format!("nested {depth} levels deep, more than {MAX_DEPTH}"));
    }
    let parts: Parts = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let pipeline = [&parts.normalizer, &parts.pre_tokenizer, &parts.post_processor, &parts.decoder];
    let count: usize = pipeline.iter().map(|part| objects(part)).sum();
    if count > MAX_PARTS {
        return Err(format!(
            "its normalizer, pre_tokenizer, post_processor and decoder have {count} parts, more than {MAX_PARTS}"
        ));
    }
    let growth = growth(&parts.normalizer) * growth(&parts.pre_tokenizer);
    if growth.is_nan() || growth > MAX_GROWTH {
        return Err(format!(
            "its replacements lengthen a text up to {growth:e} times, more than {MAX_GROWTH:e} times"
        ));
    }
    let lengths = [parts.padding.pointer("/strategy/Fixed"), parts.padding.get("pad_to_multiple_of")];
    match lengths
        .into_iter()
        .flatten()
        .find_map(|length| length.as_u64().filter(|length| *length > MAX_LENGTH))
    {
        Some(length) => Err(format!("it pads texts to {length} tokens, more than {MAX_LENGTH}")),
        None => Ok(()),
    }
}

/// The deepest nesting of a JSON text, counted without recursion.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Number of objects in a value. Its nesting is bounded.
fn objects(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(objects).sum::<usize>(),
        Value::Array(list) => list.iter().map(objects).sum(),
        _ => 0,
    }
}

/// The factor by which the replacements in a value lengthen a text at most.
#[expect(clippy::cast_precision_loss, reason = "a factor of the lengths of short texts")]
fn growth(value: &Value) -> f64 {
    let inner: f64 = match value {
        Value::Object(map) => map.values().map(growth).product(),
        Value::Array(list) => list.iter().map(growth).product(),
        _ => 1.0,
    };
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    // A pattern matches once per its length; an expression, or an empty pattern, at every character.
    let pattern =
        value.pointer("/pattern/String").and_then(Value::as_str).filter(|pattern| !pattern.is_empty());
    let own = match (value.get("pattern"), text("content"), pattern) {
        (Some(_), Some(content), Some(pattern)) => content.len() as f64 / pattern.len() as f64,
        (Some(_), Some(content), None) => content.len() as f64,
        _ => 1.0,
    };
    inner * own.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_process_is_refused_before_it_is_parsed() {
        let replace = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"}"#;
        let sequence = |parts: &[&str]| {
            format!(r#"{{"normalizer": {{"type": "Sequence", "normalizers": [{}]}}}}"#, parts.join(","))
        };
        for (text, what) in [
            (format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000)), "nested 1000000 levels deep"),
            (format!(r#"{{"decoder": {}1{}}}"#, "[".repeat(40), "]".repeat(40)), "nested 41 levels deep"),
            (sequence(&[replace; 5]), "lengthen a text"),
            (
                sequence(&[r#"{"type": "Replace", "pattern": {"Regex": ""}, "content": "0123456789"}"#; 5]),
                "lengthen a text",
            ),
            (sequence(&[r#"{"type": "NFC"}"#; 5000]), "have 5001 parts"),
            (
                r#"{"padding": {"strategy": {"Fixed": 1000000000000}}}"#.to_owned(),
                "pads texts to 1000000000000",
            ),
            (
                r#"{"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 4294967296}}"#.to_owned(),
                "pads texts to",
            ),
            ("{".to_owned(), "EOF"),
        ] {
            let error = check(text.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(check(sequence(&[replace; 4]).as_bytes()), Ok(()));
        assert_eq!(check(br#"{"model": {"vocab": {"[\"{[[": 0}}, "normalizer": null}"#), Ok(()));
    }
}
