//! Builds CLIP's tokenizer from its vocabulary: `vocab.json` with `merges.txt`, or OpenAI's list of merges alone. The
//! result has the parts that transformers' `CLIPTokenizerFast` writes to `tokenizer.json`.

use std::io::Read;
use std::path::Path;

use lgd_data::ordinary;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{bounds, broken, parse};
use crate::error::ExtractError;

/// Start and end of a text; the end also stands for unknown symbols.
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Number of merges that CLIP uses: its 49,152 tokens are 512 symbols, the merges, the start and the end.
const MERGES: usize = 49_152 - 256 - 2;

/// How a text is split before merging.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Reads `vocab.json` and `merges.txt`.
///
/// # Errors
/// [`ExtractError::TeacherFile`]; [`ExtractError::Tokenizer`] if the files are no vocabulary of CLIP.
pub(super) fn from_vocabulary(vocab: &Path, merges: &Path) -> Result<Tokenizer, ExtractError> {
    let vocab_text = read(vocab)?;
    let parsed: Map<String, Value> =
        serde_json::from_str(&vocab_text).map_err(|error| ExtractError::syntax(vocab, error))?;
    let list = read(merges)?;
    let rows = list.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    build(vocab, parsed, rows.collect())
}

/// Reads OpenAI's `bpe_simple_vocab_16e6.txt`, which may be gzipped. Tokens are numbered in its order.
///
/// # Errors
/// Same as [`from_vocabulary`].
pub(super) fn from_merges(path: &Path) -> Result<Tokenizer, ExtractError> {
    let text = read(path)?;
    let merges: Vec<&str> =
        text.lines().skip(1).filter(|line| !line.trim().is_empty()).take(MERGES).collect();
    let symbols: Vec<String> = byte_symbols().map(String::from).collect();
    let ends = symbols.iter().map(|symbol| format!("{symbol}</w>"));
    let joined = merges.iter().map(|merge| merge.replace(' ', ""));
    let special = [START.to_owned(), END.to_owned()];
    let tokens = symbols.iter().cloned().chain(ends).chain(joined).chain(special);
    let vocab = tokens.enumerate().map(|(id, token)| (token, Value::from(id))).collect();
    build(path, vocab, merges)
}

fn build(path: &Path, vocab: Map<String, Value>, merges: Vec<&str>) -> Result<Tokenizer, ExtractError> {
    let id = |token: &str| {
        let id = vocab.get(token).and_then(Value::as_u64);
        id.ok_or_else(|| broken(path, format!("not a vocabulary of CLIP: it has no token {token}")))
    };
    let (start, end) = (id(START)?, id(END)?);
    let added = |id: u64, token: &str| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(start, START), added(end, END)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, end], "cls": [START, start],
                           "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                  "merges": merges},
    });
    parse(path, file.to_string().as_bytes())
}

/// The characters that stand for bytes: printable bytes for themselves first, then the others from U+0100 on.
fn byte_symbols() -> impl Iterator<Item = char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..256_u32).filter(move |&byte| printable(byte));
    let others = (0..256_u32).filter(move |&byte| !printable(byte)).enumerate();
    let shifted = others.filter_map(|(at, _)| u32::try_from(at).ok().map(|at| at + 256));
    own.chain(shifted).filter_map(char::from_u32)
}

/// Reads a text file, which may be gzipped.
fn read(path: &Path) -> Result<String, ExtractError> {
    let failed = |source| ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" };
    let bytes = ordinary::read(path, bounds::MAX_BYTES).map_err(failed)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return String::from_utf8(bytes).map_err(|error| broken(path, error));
    }
    let mut text = String::new();
    let unpacked = flate2::read::GzDecoder::new(&*bytes);
    unpacked.take(bounds::MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    match u64::try_from(text.len()) {
        Ok(length) if length <= bounds::MAX_BYTES => Ok(text),
        _ => Err(broken(path, format!("unpacked, it has more than {} bytes, the limit", bounds::MAX_BYTES))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_symbol_of_its_own() {
        let symbols: Vec<char> = byte_symbols().collect();
        let distinct: std::collections::BTreeSet<char> = symbols.iter().copied().collect();
        assert_eq!((symbols.len(), distinct.len()), (256, 256));
        assert_eq!((symbols[0], symbols[187], symbols[188], symbols[255]), ('!', 'ÿ', 'Ā', 'Ń'));
    }
}
