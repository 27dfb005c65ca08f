//! The steps that sentence-transformers takes after its transformer.
//!
//! ```text
//! modules.json              a list of steps: Transformer, Pooling, Dense, Normalize, each with its folder
//! 1_Pooling/config.json     {"pooling_mode": "mean"}, or {"pooling_mode_mean_tokens": true, ...}
//! config_sentence_transformers.json     {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
//! ```

use std::path::Path;

use serde_json::Value;

use super::TextPooling;
use super::preprocessing::read_json;
use crate::error::ExtractError;

const MODULES: &str = "modules.json";
const POOLING: &str = "1_Pooling/config.json";
const PROMPTS: &str = "config_sentence_transformers.json";

/// Export that has every step in its graph.
const WHOLE: &str = "export the whole model, with sentence_embedding as its output: optimum-cli export onnx --model FOLDER --library \
                     sentence_transformers --task feature-extraction OUT";

/// Older spellings of the modes.
const LEGACY: [(&str, &str); 6] = [
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
];

/// The steps after the transformer, as far as they change an embedding's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentencePipeline {
    /// Pooling of the tokens.
    pub pooling: TextPooling,
}

impl SentencePipeline {
    /// Reads the files in `dir`; `None` if sentence-transformers did not write the folder.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if a step or the pooling is not supported;
    /// [`ExtractError::TeacherFile`] or [`ExtractError::TeacherSyntax`] if a file cannot be read.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, ExtractError> {
        let Some((path, modules)) = read_json(&dir.join(MODULES))? else {
            return pooling(&dir.join(POOLING));
        };
        let mut found = None;
        for module in modules.as_array().into_iter().flatten() {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            let class = text("type").rsplit('.').next().unwrap_or_default();
            match class {
                "Transformer" | "Normalize" => {}
                "Pooling" => found = pooling(&dir.join(text("path")).join("config.json"))?,
                _ => {
                    let reason = format!(
                        "the step {class:?} (folder {:?}) follows the transformer, and the model's hidden states lack it",
                        text("path")
                    );
                    return Err(ExtractError::setting(&path, reason, WHOLE));
                }
            }
        }
        Ok(found)
    }

    /// Name and text of the prompt that sentence-transformers puts before every text; `None` if there is none.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if the name is not among the prompts, or the prompt's tokens do not count in
    /// pooling, which is not supported; the errors of reading files.
    pub(crate) fn default_prompt(dir: &Path) -> Result<Option<(String, String)>, ExtractError> {
        let Some((path, json)) = read_json(&dir.join(PROMPTS))? else { return Ok(None) };
        let Some(name) = json.get("default_prompt_name").and_then(Value::as_str) else { return Ok(None) };
        let Some(prompt) = json.get("prompts").and_then(|prompts| prompts.get(name)).and_then(Value::as_str)
        else {
            let reason = format!("default_prompt_name = {name:?}: prompts has no text of this name");
            let hint =
                "add it to prompts in this file, or set default_prompt_name to null to embed the texts alone";
            return Err(ExtractError::setting(&path, reason, hint));
        };
        if prompt.is_empty() {
            return Ok(None);
        }
        let pooling = read_json(&dir.join(POOLING))?;
        if let Some((path, _)) = pooling.filter(|(_, json)| json["include_prompt"] == false) {
            let reason =
                format!("include_prompt = false: pooling without the tokens of {prompt:?} is not supported");
            return Err(ExtractError::setting(&path, reason, WHOLE));
        }
        Ok(Some((name.to_owned(), prompt.to_owned())))
    }
}

fn pooling(path: &Path) -> Result<Option<SentencePipeline>, ExtractError> {
    let Some((path, json)) = read_json(path)? else { return Ok(None) };
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let legacy = || {
        let set = LEGACY.iter().filter(|(key, _)| json.get(*key) == Some(&Value::Bool(true)));
        set.map(|(_, mode)| (*mode).to_owned()).collect()
    };
    let modes: Vec<String> = json.get("pooling_mode").map_or_else(legacy, strings);
    let modes: Vec<&str> = modes.iter().map(String::as_str).collect();
    let pooling = match modes.as_slice() {
        // Without any mode sentence-transformers takes the mean. The square root only changes the length of the vector.
        [] | ["mean" | "mean_sqrt_len_tokens"] => TextPooling::Mean,
        ["cls"] => TextPooling::Cls,
        ["max"] => TextPooling::Max,
        ["lasttoken"] => TextPooling::LastToken,
        modes => {
            let reason = format!(
                "pooling {} is not supported: expected mean, cls, max or lasttoken",
                modes.join(" + ")
            );
            return Err(ExtractError::setting(&path, reason, WHOLE));
        }
    };
    Ok(Some(SentencePipeline { pooling }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(modules: Option<&str>, pooling: &str) -> Result<Option<TextPooling>, ExtractError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        std::fs::write(dir.path().join("1_Pooling/config.json"), pooling).unwrap();
        if let Some(modules) = modules {
            std::fs::write(dir.path().join(MODULES), modules).unwrap();
        }
        Ok(SentencePipeline::read(dir.path())?.map(|pipeline| pipeline.pooling))
    }

    fn modules(last: &str) -> String {
        let module = |at: usize, class: &str, path: &str| {
            format!(
                r#"{{"idx": {at}, "name": "{at}", "path": "{path}", "type": "sentence_transformers.models.{class}"}}"#
            )
        };
        format!(
            "[{}, {}, {}]",
            module(0, "Transformer", ""),
            module(1, "Pooling", "1_Pooling"),
            module(2, last, &format!("2_{last}"))
        )
    }

    #[test]
    fn both_spellings_of_the_modes_are_read() {
        for (json, expected) in [
            (
                r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#,
                TextPooling::Mean,
            ),
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#, TextPooling::Cls),
            (
                r#"{"embedding_dimension": 384, "pooling_mode": "max", "include_prompt": true}"#,
                TextPooling::Max,
            ),
            (r#"{"pooling_mode": ["lasttoken"]}"#, TextPooling::LastToken),
            (r#"{"pooling_mode_mean_sqrt_len_tokens": true}"#, TextPooling::Mean),
            ("{}", TextPooling::Mean),
        ] {
            assert_eq!(read(None, json).unwrap(), Some(expected), "{json}");
            assert_eq!(read(Some(&modules("Normalize")), json).unwrap(), Some(expected), "{json}");
        }
        assert_eq!(SentencePipeline::read(Path::new("/nowhere")).unwrap(), None);
    }

    #[test]
    fn steps_and_modes_that_are_not_in_the_graph_are_refused_by_name() {
        for (modules, pooling, part) in [
            (Some(modules("Dense")), "{}", "\"Dense\" (folder \"2_Dense\")"),
            (None, r#"{"pooling_mode": "weightedmean"}"#, "pooling weightedmean"),
            (
                None,
                r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#,
                "pooling cls + mean",
            ),
        ] {
            let text = read(modules.as_deref(), pooling).unwrap_err().to_string();
            assert!(text.contains(part) && text.contains("hint: export the whole model"), "{text}");
        }
    }
}
