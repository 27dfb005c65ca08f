//! The structure of `teacher.toml`: every key is optional, and unknown keys are errors.

use std::path::{Path, PathBuf};

use lgd_data::ordinary;
use lgd_data::render::{MAX_SIZE, Resample};
use lgd_data::view::ResizeMode;
use serde::Deserialize;

use super::MAX_SETTINGS_BYTES;
use super::settings::Pooling;
use super::text_settings::TextSection;
use crate::error::ExtractError;

/// Name of the file that describes a teacher.
pub const TEACHER_TOML: &str = "teacher.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeacherToml {
    pub name: Option<String>,
    pub image: Option<ImageToml>,
    pub text: Option<TextSection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageToml {
    pub model: Option<PathBuf>,
    pub size: Option<u32>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
    pub resample: Option<Resample>,
    pub center_fraction: Option<f32>,
    pub resize_mode: Option<ResizeMode>,
    pub resize: Option<u32>,
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

/// Names of the axis orders.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LayoutName {
    Nchw,
    Nhwc,
}

impl TeacherToml {
    /// Reads the file and checks everything that needs no other file. Returns `None` if there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, ExtractError> {
        let text = match ordinary::read_text(path, MAX_SETTINGS_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" }),
        };
        let parsed: Self = toml::from_str(&text).map_err(|error| ExtractError::syntax(path, error))?;
        parsed.check(path)?;
        Ok(Some(parsed))
    }

    fn check(&self, path: &Path) -> Result<(), ExtractError> {
        let refuse = |reason: &str, hint: &str| Err(ExtractError::setting(path, reason, hint));
        let normalize = [
            self.image.as_ref().and_then(|image| image.normalize),
            self.text.as_ref().and_then(|text| text.normalize),
        ];
        if normalize.contains(&Some(false)) {
            return refuse(
                "normalize = false: embeddings are always stored as unit vectors, with their norm beside them",
                "remove normalize",
            );
        }
        let fraction = self.image.as_ref().and_then(|image| image.center_fraction);
        if let Some(fraction) = fraction.filter(|fraction| !(*fraction > 0.0 && *fraction <= 1.0)) {
            let reason = format!("[image] center_fraction = {fraction}: expected above 0, at most 1");
            return refuse(&reason, "it is the share of the resized side that the crop keeps, such as 0.875");
        }
        if let Some(image) = self.image.as_ref().filter(|image| image.resize.is_some()) {
            if image.center_fraction.is_some() {
                return refuse(
                    "[image] center_fraction and resize are both set: expected one of them",
                    "remove center_fraction, and resize alone sets the length",
                );
            }
            if image.resize.is_none_or(|length| length == 0 || length > MAX_SIZE) {
                return refuse(
                    &format!("[image] resize: expected 1 to {MAX_SIZE} pixels"),
                    "it is the length that the image is resized to before the crop",
                );
            }
        }
        let misplaced = |image: &ImageToml| {
            let pooled = image.pooling.is_none_or(|pooling| pooling == Pooling::Mean);
            image.prefix_tokens.is_some() && !pooled && image.tokens.is_none()
        };
        if self.image.as_ref().is_some_and(misplaced) {
            return refuse(
                "[image] prefix_tokens has no effect without pooling = \"mean\" or tokens",
                "remove prefix_tokens, or name the output with tokens as tokens",
            );
        }
        let grid = self.image.as_ref().and_then(|image| Some((image.token_grid?, image.tokens.is_some())));
        match grid {
            Some(([rows @ 0, columns] | [rows, columns @ 0], _)) => {
                let reason =
                    format!("[image] token_grid = [{rows}, {columns}]: expected rows and columns above 0");
                return refuse(&reason, "remove token_grid if the grid is a square");
            }
            Some((_, false)) => {
                return refuse(
                    "[image] token_grid has no effect without tokens",
                    "remove token_grid, or name the output with tokens as tokens",
                );
            }
            _ => {}
        }
        Ok(())
    }
}
