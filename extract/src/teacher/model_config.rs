//! A typed reading of `config.json`, which transformers and its exporters write beside a model.
//!
//! ```text
//! {"model_type": "clip",
//!  "text_config":   {"model_type": "clip_text_model", "max_position_embeddings": 77},
//!  "vision_config": {"model_type": "clip_vision_model", "num_register_tokens": 0}}
//! ```
//!
//! A model of one tower has the tower's values at the top. transformers leaves out values that equal its defaults,
//! so an absent value says nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::preprocessing::read_json;
use crate::error::ExtractError;

/// Name of the file.
pub(crate) const CONFIG: &str = "config.json";

/// The values of `config.json` that matter to a teacher.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelConfig {
    path: PathBuf,
    file: ConfigFile,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ConfigFile {
    #[serde(flatten)]
    top: TowerConfig,
    text_config: Option<TowerConfig>,
    vision_config: Option<TowerConfig>,
}

/// The values of one tower, or those at the top of the file.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct TowerConfig {
    /// Family of the model, such as `clip`, `siglip_text_model` or `dinov2`.
    pub model_type: Option<String>,
    /// Longest sequence of tokens.
    pub max_position_embeddings: Option<usize>,
    /// Id of the padding token. Some files have -1 or a list, which name none.
    pad_token_id: Option<Value>,
    /// Register tokens after the class token.
    pub num_register_tokens: Option<usize>,
    num_labels: Option<usize>,
    id2label: Option<BTreeMap<String, Value>>,
}

impl ModelConfig {
    /// Reads `config.json` in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// [`ExtractError::TeacherFile`] if the file cannot be read; [`ExtractError::TeacherSyntax`] if it is not JSON or
    /// a value has another type.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, ExtractError> {
        let Some((path, json)) = read_json(&dir.join(CONFIG))? else { return Ok(None) };
        let file = serde_json::from_value(json).map_err(|error| ExtractError::syntax(&path, error))?;
        Ok(Some(Self { path, file }))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The values at the top of the file.
    pub(crate) fn top(&self) -> &TowerConfig {
        &self.file.top
    }

    /// The text tower: `text_config`, or the whole file for a model of one tower.
    pub(crate) fn text(&self) -> &TowerConfig {
        self.file.text_config.as_ref().unwrap_or(&self.file.top)
    }

    /// The image tower: `vision_config`, or the whole file for a model of one tower.
    pub(crate) fn vision(&self) -> &TowerConfig {
        self.file.vision_config.as_ref().unwrap_or(&self.file.top)
    }

    /// Whether the model, or one of its towers, is of `family`: its `model_type` is `family` itself, or `family`
    /// followed by `_model`, `_text_model`, `_vision_model` or the like.
    pub(crate) fn is_family(&self, family: &str) -> bool {
        let towers = [Some(&self.file.top), self.file.text_config.as_ref(), self.file.vision_config.as_ref()];
        towers.into_iter().flatten().any(|tower| tower.is_family(family))
    }
}

impl TowerConfig {
    fn is_family(&self, family: &str) -> bool {
        let rest = self.model_type.as_deref().and_then(|kind| kind.strip_prefix(family));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    }

    /// Number of classes, if the model ends in a classifier with named classes.
    pub(crate) fn labels(&self) -> Option<usize> {
        self.num_labels.or_else(|| self.id2label.as_ref().map(BTreeMap::len))
    }

    /// Id of the padding token.
    pub(crate) fn pad_id(&self) -> Option<u32> {
        u32::try_from(self.pad_token_id.as_ref()?.as_u64()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ModelConfig>, ExtractError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), text).unwrap();
        ModelConfig::read(dir.path())
    }

    #[test]
    fn towers_have_their_own_values() {
        let config = read(
            r#"{"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 512, "id2label": null,
                "text_config": {"model_type": "clip_text_model", "hidden_size": 512, "max_position_embeddings": 77,
                                "pad_token_id": -1},
                "vision_config": {"hidden_size": 768, "num_register_tokens": 4}}"#,
        );
        let config = config.unwrap().unwrap();
        assert_eq!((config.text().max_position_embeddings, config.text().pad_id()), (Some(77), None));
        assert_eq!(config.vision().num_register_tokens, Some(4));
        assert!(config.is_family("clip") && !config.is_family("cli") && !config.is_family("siglip"));
        assert!(config.path().ends_with(CONFIG));
    }

    #[test]
    fn a_model_of_one_tower_has_its_values_at_the_top() {
        let config = read(
            "\u{feff}{\"model_type\": \"siglip_text_model\", \"pad_token_id\": 1, \"scale\": -Infinity, \"gain\": NaN,\n\
             \"note\": \"a \\\"NaN\\\"\", \"id2label\": {\"0\": \"cat\", \"1\": \"dog\"}}",
        );
        let config = config.unwrap().unwrap();
        assert_eq!((config.text().pad_id(), config.vision().labels()), (Some(1), Some(2)));
        assert!(config.is_family("siglip") && !config.is_family("siglip2"));
    }

    #[test]
    fn a_list_names_no_padding_token() {
        let config = read(r#"{"model_type": "bert", "pad_token_id": [1, 2]}"#).unwrap().unwrap();
        assert_eq!(config.text().pad_id(), None);
    }

    #[test]
    fn a_broken_file_is_named_and_an_absent_one_is_none() {
        assert!(read("").unwrap_err().to_string().contains("the file is empty"));
        assert!(read("version https://git-lfs").unwrap_err().to_string().contains("git lfs pull"));
        for text in ["{", r#"{"num_register_tokens": "four"}"#, "[]"] {
            assert!(read(text).unwrap_err().to_string().contains(CONFIG), "{text}");
        }
        assert!(ModelConfig::read(Path::new("/nowhere")).unwrap().is_none());
    }
}
