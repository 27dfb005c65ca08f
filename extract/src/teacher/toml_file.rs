//! The structure of `teacher.toml`: every key is optional, and unknown keys are errors.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::settings::Pooling;
use super::text_settings::{Clean, Padding, PaddingSide, TextPooling};
use crate::error::ExtractError;

/// Name of the file that describes a teacher.
pub(crate) const TEACHER_TOML: &str = "teacher.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeacherToml {
    pub name: Option<String>,
    pub image: Option<ImageToml>,
    pub text: Option<TextToml>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageToml {
    pub model: Option<PathBuf>,
    pub size: Option<u32>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
    pub resample: Option<ResampleName>,
    pub center_fraction: Option<f32>,
    pub layout: Option<LayoutName>,
    pub input: Option<String>,
    pub output: Option<String>,
    pub pooling: Option<Pooling>,
    pub prefix_tokens: Option<usize>,
    pub features: Option<String>,
    pub tokens: Option<String>,
    pub token_grid: Option<[usize; 2]>,
    pub normalize: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextToml {
    pub model: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    pub context_length: Option<usize>,
    pub padding: Option<Padding>,
    pub padding_side: Option<PaddingSide>,
    pub pad_id: Option<u32>,
    pub clean: Option<Clean>,
    pub input: Option<String>,
    pub output: Option<String>,
    pub pooling: Option<TextPooling>,
    pub normalize: Option<bool>,
}

/// Names of the resampling filters.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ResampleName {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

/// Names of the axis orders.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LayoutName {
    Nchw,
    Nhwc,
}

impl TeacherToml {
    /// Reads the file and checks everything that needs no other file.
    pub(crate) fn read(path: &Path) -> Result<Self, ExtractError> {
        let text = std::fs::read_to_string(path).map_err(|source| ExtractError::TeacherFile {
            path: path.to_owned(),
            source,
            hint: "a teacher is a folder with teacher.toml, its models and its tokenizer",
        })?;
        let parsed: Self = toml::from_str(&text).map_err(|error| ExtractError::syntax(path, error))?;
        parsed.check(path)?;
        Ok(parsed)
    }

    fn check(&self, path: &Path) -> Result<(), ExtractError> {
        let refuse = |reason: &str| Err(ExtractError::setting(path, reason, ""));
        if self.image.is_none() && self.text.is_none() {
            return refuse("neither [image] nor [text] is there");
        }
        let normalize = [
            self.image.as_ref().and_then(|image| image.normalize),
            self.text.as_ref().and_then(|text| text.normalize),
        ];
        if normalize.contains(&Some(false)) {
            return refuse(
                "normalize = false: embeddings are always stored as unit vectors, with their norm beside them",
            );
        }
        let fraction = self.image.as_ref().and_then(|image| image.center_fraction);
        if let Some(fraction) = fraction.filter(|fraction| !(*fraction > 0.0 && *fraction <= 1.0)) {
            return refuse(&format!("[image] center_fraction = {fraction}: expected above 0, at most 1"));
        }
        let misplaced = |image: &ImageToml| {
            let pooled = image.pooling.is_none_or(|pooling| pooling == Pooling::Mean);
            image.prefix_tokens.is_some() && !pooled && image.tokens.is_none()
        };
        if self.image.as_ref().is_some_and(misplaced) {
            return refuse("[image] prefix_tokens only goes with pooling = \"mean\" or with tokens");
        }
        let grid = self.image.as_ref().and_then(|image| Some((image.token_grid?, image.tokens.is_some())));
        match grid {
            Some(([0, _] | [_, 0], _)) => return refuse("[image] token_grid: a grid has rows and columns"),
            Some((_, false)) => return refuse("[image] token_grid only goes with tokens"),
            _ => {}
        }
        Ok(())
    }
}
