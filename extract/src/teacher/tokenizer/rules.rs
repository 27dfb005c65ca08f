//! Resolves the rules for prompts: length, padding and cleaning, each from the first file that gives it.

use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{
    PaddingDirection, PaddingParams, PaddingStrategy, PostProcessor, TruncationDirection, TruncationParams,
};

use super::files::{Family, Source, TokenizerFiles};
use super::{Clean, Demand, PromptTokenizer, broken, fixed};
use crate::error::ExtractError;
use crate::teacher::{Padding, PaddingSide, Resolved, TextSettings};

/// Longest plausible context. Tokenizers without a limit store 10^30.
const MAX_CONTEXT: usize = 65_536;

const TOML: &str = "teacher.toml";
const OPEN_CLIP: &str = "open_clip_config.json";
const CONFIG: &str = "tokenizer_config.json";

/// BERT's padding token, which has no other use.
const BERT_PAD: &str = "[PAD]";
/// The padding token of most SentencePiece vocabularies. Models such as SigLIP have it and pad with another one.
const PIECE_PAD: &str = "<pad>";

/// transformers' default length of a family whose files leave it out.
fn family_length(family: Family) -> Option<(usize, &'static str)> {
    match family {
        Family::Clip => Some((77, "transformers' default for CLIP")),
        Family::Siglip => Some((64, "transformers' default for SigLIP")),
        Family::Other => None,
    }
}

/// A value with its origin.
type Found<T> = (T, String);

/// Resolves everything.
pub(super) fn resolve(
    settings: &TextSettings,
    mut files: TokenizerFiles,
    demand: Demand,
) -> Result<PromptTokenizer, ExtractError> {
    let mut notes = Vec::new();
    if let Some((name, prompt)) = &files.prompt {
        notes.push(format!(
            "every prompt begins with {prompt:?}, default_prompt_name {name:?} in config_sentence_transformers.json"
        ));
    }
    check_open_clip(settings, &files)?;
    let (clean, clean_from) = clean(settings, &files)?;
    let lowercase = apply_lower_case(&mut files, clean, &mut notes)?;
    let stripped = stripped(settings, &files)?;
    let (context_length, length_from) = context_length(settings, &files, demand)?;
    require_room(settings, &files, context_length, &length_from)?;
    if let Some(most) =
        positions(&files).filter(|most| length_from == "tokenizer.json" && *most > context_length)
    {
        notes.push(format!(
            "tokenizer.json cuts prompts at {context_length} tokens, config.json gives the model {most} positions\nhint: for longer \
             prompts, set context_length in teacher.toml"
        ));
    }
    let (padding, padding_from) = padding(settings, &files, demand, context_length)?;
    let (side, side_from) = side(settings, &files);

    let file_name = files.paths[0].file_name().unwrap_or_default().to_string_lossy().into_owned();
    let tokenizer_from = if settings.set.tokenizer.is_some() { TOML } else { "found in the folder" };
    let mut resolved = vec![
        Resolved::new("tokenizer", file_name, tokenizer_from),
        Resolved::new("context_length", i64::try_from(context_length).unwrap_or(i64::MAX), length_from),
        Resolved::new("padding", if padding.is_some() { "fixed" } else { "longest" }, padding_from),
    ];
    let multiple = files.tokenizer.get_padding().and_then(|padding| padding.pad_to_multiple_of);
    let params = if padding.is_some() || multiple.is_some() {
        let (pad_id, from) = pad_id(settings, &files, demand)?;
        resolved.push(Resolved::new("padding_side", side.name(), side_from));
        resolved.push(Resolved::new("pad_id", i64::from(pad_id), from));
        Some(PaddingParams {
            strategy: padding.map_or(PaddingStrategy::BatchLongest, PaddingStrategy::Fixed),
            direction: match side {
                PaddingSide::Left => PaddingDirection::Left,
                PaddingSide::Right => PaddingDirection::Right,
            },
            pad_to_multiple_of: multiple.filter(|_| padding.is_none()),
            pad_id,
            ..PaddingParams::default()
        })
    } else {
        None
    };
    resolved.push(Resolved::new("clean", clean.name(), clean_from));

    let direction = truncation_direction(&files);
    let truncation =
        TruncationParams { max_length: context_length, direction, ..TruncationParams::default() };
    let mut tokenizer = files.tokenizer;
    tokenizer.with_truncation(Some(truncation)).map_err(|error| broken(&files.paths[0], error))?;
    tokenizer.with_padding(params);
    Ok(PromptTokenizer {
        tokenizer,
        paths: files.paths,
        family: files.family,
        context_length,
        prefix: files.prompt.map(|(_, prompt)| prompt).unwrap_or_default(),
        clean,
        stripped,
        padding_counts: files.family == Family::Siglip,
        lowercase,
        resolved,
        notes,
    })
}

/// Longest prompt: `teacher.toml`, the model, open_clip, sentence-transformers, the tokenizer's files, `config.json`.
fn context_length(
    settings: &TextSettings,
    files: &TokenizerFiles,
    demand: Demand,
) -> Result<Found<usize>, ExtractError> {
    let toml = settings.dir.join(TOML);
    match (settings.set.context_length, demand.length) {
        (Some(set), Some(fixed)) if set != fixed => {
            let reason = format!("[text] context_length = {set}, but the model takes {fixed} tokens");
            return Err(ExtractError::setting(&toml, reason, format!("set context_length = {fixed}")));
        }
        (Some(set), None) if positions(files).is_some_and(|most| set > most) => {
            let most = positions(files).unwrap_or_default();
            let reason =
                format!("[text] context_length = {set}, but config.json gives the model {most} positions");
            return Err(ExtractError::setting(
                &toml,
                reason,
                format!("set context_length to at most {most}"),
            ));
        }
        (Some(set), _) => return in_range(set, &toml).map(|length| (length, TOML.to_owned())),
        (None, Some(fixed)) => {
            return in_range(fixed, &settings.model).map(|length| (length, model_name(settings)));
        }
        (None, None) => {}
    }
    let number = |json: &Value, pointer: &str| {
        let length = json.pointer(pointer).and_then(Value::as_u64);
        length
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| (1..=MAX_CONTEXT).contains(length))
    };
    if let Some(length) = files.open_clip.as_ref().and_then(|json| number(json, "/context_length")) {
        return Ok((length, OPEN_CLIP.to_owned()));
    }
    let json = &files.tokenizer;
    let cut = json.get_truncation().map(|cut| cut.max_length).filter(|length| *length <= MAX_CONTEXT);
    let found = [
        (number(&files.sentence, "/max_seq_length"), "sentence_bert_config.json"),
        (cut, "tokenizer.json"),
        (fixed(json.get_padding()), "tokenizer.json"),
        (number(&files.config, "/model_max_length"), CONFIG),
    ];
    let found = found.into_iter().find_map(|(length, from)| Some((length?, from.to_owned())));
    let positions = positions(files).map(|length| (length, "config.json".to_owned()));
    match (found, positions) {
        // A model without a position for a token fails on it.
        (Some((length, from)), Some((most, _))) if most < length => {
            Ok((most, format!("config.json; {from} allows {length}")))
        }
        (Some(found), _) | (None, Some(found)) => Ok(found),
        (None, None) => family_length(files.family).map(|(length, from)| (length, from.to_owned())).ok_or_else(|| {
            let reason = "[text] context_length is not known: expected it here, in the model's shape, open_clip_config.json, \
                          tokenizer.json, tokenizer_config.json or config.json";
            ExtractError::setting(&toml, reason, "set context_length in teacher.toml, as the model was trained")
        }),
    }
}

/// Fails if the tokens that the tokenizer adds to every prompt leave no room for its words.
fn require_room(
    settings: &TextSettings,
    files: &TokenizerFiles,
    length: usize,
    from: &str,
) -> Result<(), ExtractError> {
    let added = files.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
    if length > added {
        return Ok(());
    }
    let reason = format!(
        "[text] context_length = {length} (source: {from}) leaves no room for words: every prompt has {added} special tokens"
    );
    let hint = "set context_length in teacher.toml, as the model was trained";
    Err(ExtractError::setting(&settings.dir.join(TOML), reason, hint))
}

fn in_range(length: usize, path: &std::path::Path) -> Result<usize, ExtractError> {
    if (1..=MAX_CONTEXT).contains(&length) {
        return Ok(length);
    }
    let reason = format!("[text] context_length = {length}: expected 1 to {MAX_CONTEXT}");
    Err(ExtractError::setting(path, reason, "set context_length in teacher.toml, as the model was trained"))
}

fn model_name(settings: &TextSettings) -> String {
    settings.model.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Number of positions that `config.json` gives the text model. RoBERTa's positions start after the padding id.
fn positions(files: &TokenizerFiles) -> Option<usize> {
    let model = files.model.as_ref()?;
    let positions =
        model.text().max_position_embeddings.filter(|length| (1..=MAX_CONTEXT).contains(length))?;
    let shifted = ["roberta", "xlm-roberta", "camembert", "mpnet"];
    let offset = if shifted.into_iter().any(|family| model.is_family(family)) { 2 } else { 0 };
    positions.checked_sub(offset)
}

/// The fixed length of prompts, or `None` if they are padded to the longest of a batch.
fn padding(
    settings: &TextSettings,
    files: &TokenizerFiles,
    demand: Demand,
    context: usize,
) -> Result<Found<Option<usize>>, ExtractError> {
    let by = |length: Option<usize>, from: &str| Ok((length, from.to_owned()));
    match (settings.set.padding, demand.length) {
        (Some(Padding::Longest), Some(length)) => {
            let reason = format!("[text] padding = \"longest\", but the model takes {length} tokens");
            let hint = "set padding = \"fixed\"";
            return Err(ExtractError::setting(&settings.dir.join(TOML), reason, hint));
        }
        (Some(Padding::Fixed), _) => return by(Some(context), TOML),
        (Some(Padding::Longest), None) => return by(None, TOML),
        (None, Some(length)) => return by(Some(length), &model_name(settings)),
        (None, None) => {}
    }
    if files.family == Family::Siglip {
        return by(Some(context), "SigLIP pads to one length");
    }
    if files.open_clip.is_some() {
        return by(Some(context), "open_clip pads to one length");
    }
    if files.is_sentence_transformers {
        return by(None, "sentence-transformers pads to the longest");
    }
    match files.tokenizer.get_padding() {
        Some(padding) => by(fixed(Some(padding)).map(|length| length.min(context)), "tokenizer.json"),
        None if demand.mask => by(None, "the model takes a mask"),
        None => by(Some(context), "the model takes no mask"),
    }
}

fn side(settings: &TextSettings, files: &TokenizerFiles) -> Found<PaddingSide> {
    if let Some(side) = settings.set.padding_side {
        return (side, TOML.to_owned());
    }
    if let Some(padding) = files.tokenizer.get_padding() {
        let side = match padding.direction {
            PaddingDirection::Left => PaddingSide::Left,
            PaddingDirection::Right => PaddingSide::Right,
        };
        return (side, "tokenizer.json".to_owned());
    }
    match files.config.get("padding_side").and_then(Value::as_str) {
        Some("left") => (PaddingSide::Left, CONFIG.to_owned()),
        Some("right") => (PaddingSide::Right, CONFIG.to_owned()),
        // transformers' classes that pad on the left by themselves.
        _ if ["GemmaTokenizer", "Siglip2Tokenizer"].contains(&files.class()) => {
            (PaddingSide::Left, format!("{}'s default", files.class()))
        }
        _ => (PaddingSide::Right, "default".to_owned()),
    }
}

fn truncation_direction(files: &TokenizerFiles) -> TruncationDirection {
    let config = files.config.get("truncation_side").and_then(Value::as_str);
    match (files.tokenizer.get_truncation(), config) {
        (Some(truncation), _) => truncation.direction,
        (None, Some("left")) => TruncationDirection::Left,
        _ => TruncationDirection::Right,
    }
}

/// Id of the padding token: `teacher.toml`, open_clip's own rule, `tokenizer.json`, the token that the other files name,
/// `config.json`.
fn pad_id(
    settings: &TextSettings,
    files: &TokenizerFiles,
    demand: Demand,
) -> Result<Found<u32>, ExtractError> {
    if let Some(id) = settings.set.pad_id {
        return Ok((id, TOML.to_owned()));
    }
    // OpenAI's and open_clip's own tokenizer pads with 0, whatever token that is, and whatever files are beside it.
    if files.source == Source::ClipMerges || files.open_clip.as_ref().is_some_and(uses_simple_tokenizer) {
        return Ok((0, "OpenAI's and open_clip's CLIP pad with 0".to_owned()));
    }
    if let Some(padding) = files.tokenizer.get_padding() {
        return Ok((padding.pad_id, "tokenizer.json".to_owned()));
    }
    let id = |token: &str| files.tokenizer.token_to_id(token);
    if let Some((token, from)) = files.special_token("pad_token") {
        return id(token).map(|id| (id, format!("{from}: {token}"))).ok_or_else(|| {
            let reason =
                format!("pad_token {token:?} is not in the vocabulary of {}", files.paths[0].display());
            ExtractError::setting(
                &files.paths[0].with_file_name(from),
                reason,
                "set [text] pad_id in teacher.toml",
            )
        });
    }
    if let Some(id) = files.model.as_ref().and_then(|model| model.text().pad_id()) {
        return Ok((id, "config.json".to_owned()));
    }
    // The padding tokens of transformers' classes, which their files may leave out.
    let class = match files.class() {
        "CLIPTokenizer" => Some("<|endoftext|>"),
        "SiglipTokenizer" => Some("</s>"),
        "GemmaTokenizer" | "Siglip2Tokenizer" | "T5Tokenizer" | "XLMRobertaTokenizer" => Some(PIECE_PAD),
        _ if files.source == Source::ClipVocabulary => Some("<|endoftext|>"),
        _ => None,
    };
    // Behind a mask the padding token does not matter.
    let masked = demand.mask && files.family != Family::Siglip;
    let named = class
        .into_iter()
        .chain([BERT_PAD])
        .chain(masked.then_some(PIECE_PAD))
        .find_map(|token| Some((id(token)?, format!("the token {token}"))));
    named.ok_or_else(|| {
        let reason = "[text] the padding token is not known: prompts are padded, but tokenizer.json and the files beside it do not \
                      name it";
        let hint = "copy tokenizer_config.json or special_tokens_map.json of the model beside tokenizer.json, or set pad_id in \
                    teacher.toml to the id that the model was trained with";
        ExtractError::setting(&settings.dir.join(TOML), reason, hint)
    })
}

/// Whether open_clip would tokenize with its own CLIP tokenizer, not one of transformers.
fn uses_simple_tokenizer(text_cfg: &Value) -> bool {
    text_cfg.get("hf_tokenizer_name").and_then(Value::as_str).is_none_or(str::is_empty)
}

/// Fails for settings of open_clip's tokenizer that are not supported.
fn check_open_clip(settings: &TextSettings, files: &TokenizerFiles) -> Result<(), ExtractError> {
    let Some(text_cfg) = &files.open_clip else { return Ok(()) };
    let path = settings.dir.join(OPEN_CLIP);
    let refuse = |key: &str, value: &Value| {
        let reason = format!("text_cfg: {key} = {value} changes the tokens and is not supported");
        Err(ExtractError::setting(
            &path,
            reason,
            "use another text encoder, or remove the key from the file to tokenize without it",
        ))
    };
    let off = |value: &Value| value.is_null() || value == &Value::Bool(false) || value.as_str() == Some("");
    if let Some(mode) = text_cfg.get("tokenizer_mode").filter(|mode| !off(mode)) {
        return refuse("tokenizer_mode", mode);
    }
    let kwargs = text_cfg.get("tokenizer_kwargs").and_then(Value::as_object);
    for (key, value) in kwargs.into_iter().flatten().filter(|(_, value)| !off(value)) {
        if !["clean", "strip_sep_token"].contains(&key.as_str()) {
            return refuse(&format!("tokenizer_kwargs.{key}"), value);
        }
    }
    Ok(())
}

fn clean(settings: &TextSettings, files: &TokenizerFiles) -> Result<Found<Clean>, ExtractError> {
    if let Some(clean) = settings.set.clean {
        return Ok((clean, TOML.to_owned()));
    }
    if let Some(text_cfg) = &files.open_clip {
        return match text_cfg.pointer("/tokenizer_kwargs/clean") {
            Some(name) => match name.as_str() {
                Some("lower") => Ok((Clean::Lower, OPEN_CLIP.to_owned())),
                Some("whitespace") => Ok((Clean::Whitespace, OPEN_CLIP.to_owned())),
                Some("canonicalize") => Ok((Clean::Canonicalize, OPEN_CLIP.to_owned())),
                _ => {
                    let reason = format!("clean = {name}: expected lower, whitespace or canonicalize");
                    let hint = "set [text] clean in teacher.toml";
                    Err(ExtractError::setting(&settings.dir.join(OPEN_CLIP), reason, hint))
                }
            },
            None if uses_simple_tokenizer(text_cfg) => Ok((Clean::Lower, "open_clip's default".to_owned())),
            None => Ok((Clean::Whitespace, "open_clip's default with hf_tokenizer_name".to_owned())),
        };
    }
    if files.class() == "SiglipTokenizer" {
        return Ok((Clean::Siglip, format!("{CONFIG}: SiglipTokenizer")));
    }
    // OpenAI's tokenizer cleans its texts as open_clip's does.
    if files.source == Source::ClipMerges {
        return Ok((Clean::Lower, "OpenAI's CLIP".to_owned()));
    }
    Ok((Clean::None, "default".to_owned()))
}

/// Id of the separator if open_clip replaces it with 0.
fn stripped(settings: &TextSettings, files: &TokenizerFiles) -> Result<Option<u32>, ExtractError> {
    let strips = files.open_clip.as_ref().and_then(|json| json.pointer("/tokenizer_kwargs/strip_sep_token"));
    if strips != Some(&Value::Bool(true)) {
        return Ok(None);
    }
    let token = files.special_token("sep_token").map_or("[SEP]", |(token, _)| token);
    let id = files.tokenizer.token_to_id(token).ok_or_else(|| {
        let reason = format!("strip_sep_token: the tokenizer has no token {token:?}");
        ExtractError::setting(&settings.dir.join(OPEN_CLIP), reason, "add sep_token to tokenizer_config.json")
    })?;
    Ok(Some(id))
}

/// Applies `do_lower_case` where transformers or sentence-transformers would, and says so. Returns whether the
/// tokenizer was changed.
///
/// transformers' classes with a `BertNormalizer` follow `tokenizer_config.json`; `Siglip2Tokenizer` always lowers;
/// every other class follows `tokenizer.json`.
fn apply_lower_case(
    files: &mut TokenizerFiles,
    clean: Clean,
    notes: &mut Vec<String>,
) -> Result<bool, ExtractError> {
    let lowers = matches!(clean, Clean::Lower | Clean::Canonicalize | Clean::Siglip);
    let config = files.config.get("do_lower_case").and_then(Value::as_bool);
    let before = files.tokenizer.get_normalizer().map_or(Ok(Value::Null), serde_json::to_value);
    let mut normalizer = before.map_err(|error| broken(&files.paths[0], error))?;
    let generic = ["", "PreTrainedTokenizer", "TokenizersBackend"].contains(&files.class());
    let sentence = files.sentence.get("do_lower_case") == Some(&Value::Bool(true));
    let bert = (normalizer["type"] == "BertNormalizer").then(|| normalizer["lowercase"] == true);
    let reason = match (bert, config) {
        (Some(lower), Some(set)) if lower != set && !generic => {
            normalizer["lowercase"] = set.into();
            format!(
                "{CONFIG} has do_lower_case = {set}, tokenizer.json the opposite: {CONFIG} decides, as in transformers"
            )
        }
        (Some(lower), Some(set)) if lower != set => {
            notes.push(format!(
                "{CONFIG} has do_lower_case = {set}, tokenizer.json the opposite: tokenizer.json decides, because {CONFIG} names no \
                 class that reads do_lower_case"
            ));
            return Ok(false);
        }
        _ if (sentence || files.class() == "Siglip2Tokenizer") && !lowers && !lowercases(&normalizer) => {
            let before = std::mem::take(&mut normalizer);
            let steps = [serde_json::json!({"type": "Lowercase"}), before];
            let steps: Vec<Value> = steps.into_iter().filter(|step| !step.is_null()).collect();
            normalizer = serde_json::json!({"type": "Sequence", "normalizers": steps});
            let origin = if sentence { "sentence_bert_config.json" } else { "Siglip2Tokenizer" };
            format!("prompts are put in lower case, as {origin} requires, although tokenizer.json does not")
        }
        _ => {
            if config == Some(true) && !lowers && !lowercases(&normalizer) {
                notes.push(format!(
                    "{CONFIG} has do_lower_case = true, tokenizer.json keeps upper case: tokenizer.json decides, as in \
                     transformers"
                ));
            }
            return Ok(false);
        }
    };
    let changed: NormalizerWrapper =
        serde_json::from_value(normalizer).map_err(|error| broken(&files.paths[0], error))?;
    files.tokenizer.with_normalizer(Some(changed)).map_err(|error| broken(&files.paths[0], error))?;
    notes.push(reason);
    Ok(true)
}

/// Whether a normalizer lowers letters. A compiled table of SentencePiece may do so; it counts as lowering.
fn lowercases(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        Some("Lowercase" | "Precompiled") => true,
        Some("BertNormalizer") => normalizer["lowercase"] == true,
        Some("Sequence") => {
            normalizer["normalizers"].as_array().is_some_and(|all| all.iter().any(lowercases))
        }
        _ => false,
    }
}
