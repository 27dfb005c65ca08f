//! The rules of OpenCLIP's `open_clip_config.json`.
//!
//! ```text
//! {"model_cfg":      {"vision_cfg": {"image_size": 224}, "text_cfg": {"context_length": 77}},
//!  "preprocess_cfg": {"mean": [..], "std": [..], "interpolation": "bicubic", "resize_mode": "shortest"}}
//! ```

use std::path::{Path, PathBuf};

use lgd_data::render::{Normalization, Resample};
use lgd_data::view::{CenterCrop, CropRounding, ResizeMode};
use serde_json::{Value, json};

use super::{PreprocessingFile, Rules, file_name, read_json, rescaled};
use crate::error::ExtractError;

const OPEN_CLIP: &str = "open_clip_config.json";

static RULES: Rules = Rules { size, normalization, resample, center, assumption: |_| None };

/// Reads `open_clip_config.json` in `dir`.
pub(super) fn open(dir: &Path) -> Result<Option<PreprocessingFile>, ExtractError> {
    let file = |(path, json): (PathBuf, Value)| PreprocessingFile {
        source: file_name(&path),
        path,
        json,
        rules: &RULES,
    };
    Ok(read_json(&dir.join(OPEN_CLIP))?.map(file))
}

/// Whether the settings of an image processor are OpenCLIP's, as in processors that wrap its transforms.
pub(super) fn is_settings(json: &Value) -> bool {
    ["resize_mode", "interpolation"].into_iter().all(|key| json.get(key).is_some_and(Value::is_string))
}

/// Reads the settings of such a processor by the rules of this file.
pub(super) fn wrapped(file: PreprocessingFile) -> PreprocessingFile {
    let class = file.text("image_processor_type").unwrap_or("OpenCLIP's settings");
    let source = format!("{}: {class}", file.source);
    PreprocessingFile { json: json!({ "preprocess_cfg": file.json }), source, rules: &RULES, ..file }
}

/// A setting of the preprocessing, if it is given.
fn setting<'a>(file: &'a PreprocessingFile, key: &str) -> Option<&'a Value> {
    file.json.get("preprocess_cfg").and_then(|settings| settings.get(key)).filter(|value| !value.is_null())
}

fn size(file: &PreprocessingFile) -> Result<Option<u32>, ExtractError> {
    let size = setting(file, "size").or_else(|| file.json.pointer("/model_cfg/vision_cfg/image_size"));
    size.map(|value| file.side(value)).transpose()
}

fn resample(file: &PreprocessingFile) -> Result<Option<Resample>, ExtractError> {
    match setting(file, "interpolation").and_then(Value::as_str) {
        // In training the filter is drawn, in evaluation it is bicubic.
        Some("random") => Ok(Some(Resample::Bicubic)),
        Some(name) => file.filter(name).map(Some),
        None => Ok(file.json.get("preprocess_cfg").map(|_| Resample::Bicubic)),
    }
}

fn normalization(file: &PreprocessingFile) -> Result<Option<Normalization>, ExtractError> {
    match (setting(file, "mean"), setting(file, "std")) {
        (Some(mean), Some(std)) => {
            let (mean, std) = (file.triple(mean)?, file.triple(std)?);
            let normalization = rescaled(mean, std, 1.0 / 255.0, 0.0);
            file.of_unit_range(normalization, mean, std, "open_clip scales pixels to 0..1").map(Some)
        }
        (None, None) => Ok(file.json.get("preprocess_cfg").map(|_| Normalization::CLIP)),
        _ => file.refuse("expected mean and std together", "set mean and std in teacher.toml"),
    }
}

fn center(file: &PreprocessingFile) -> Result<Option<CenterCrop>, ExtractError> {
    if file.json.get("preprocess_cfg").is_none() {
        return Ok(None);
    }
    let mode = match setting(file, "resize_mode").map(|mode| mode.as_str().unwrap_or_default()) {
        None | Some("shortest") => ResizeMode::Shortest,
        Some("squash") => ResizeMode::Squash,
        Some("longest") => ResizeMode::Longest,
        Some(other) => {
            return file
                .refuse_geometry(format!("resize_mode '{other}': expected shortest, squash or longest"));
        }
    };
    let fill = setting(file, "fill_color");
    if mode == ResizeMode::Longest && fill.is_some_and(|fill| fill.as_f64() != Some(0.0)) {
        let fill = fill.unwrap_or(&Value::Null);
        return file.refuse_geometry(format!("fill_color = {fill}: lgd pads with black only"));
    }
    // The image is resized to the input's own side, so only the ratio, 1, matters.
    let side = 1;
    Ok(Some(CenterCrop::of_lengths(side, side, mode, CropRounding::HalfEven)))
}
