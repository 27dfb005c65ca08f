//! The rules of timm's `config.json`.
//!
//! ```text
//! {"architecture": "resnet50", "num_classes": 1000,
//!  "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
//!                     "mean": [..], "std": [..]}}
//! ```
//!
//! Files before timm 0.9 have these keys beside `architecture`. Defaults are those of timm's `resolve_data_config`, which
//! takes `input_size` and `crop_pct`, not `test_input_size` and `test_crop_pct`.

use std::path::Path;

use lgd_data::render::{Normalization, Resample};
use lgd_data::view::{CenterCrop, CropRounding, ResizeMode};
use serde_json::Value;

use super::{PreprocessingFile, Rules, file_name, read_json, rescaled, single, whole};
use crate::error::ExtractError;

static RULES: Rules = Rules { size, normalization, resample, center, assumption: |_| None };

/// Default of `crop_pct`.
const CROP_PCT: f64 = 0.875;
/// Default of `input_size`.
const SIZE: u32 = 224;

/// Reads timm's settings in `config.json` in `dir`, if the file is timm's.
pub(super) fn open(dir: &Path) -> Result<Option<PreprocessingFile>, ExtractError> {
    let Some((path, json)) = read_json(&dir.join("config.json"))? else { return Ok(None) };
    let flat = json.get("architecture").is_some() && json.get("input_size").is_some();
    let Some(settings) = json.get("pretrained_cfg").or(flat.then_some(&json)).cloned() else {
        return Ok(None);
    };
    let source = format!("{}: timm's pretrained_cfg", file_name(&path));
    let file = PreprocessingFile { source, path, json: settings, rules: &RULES };
    Ok(file.json.is_object().then_some(file))
}

/// A list or number that counts as absent if it is empty or zero, as Python has it.
fn given<'a>(file: &'a PreprocessingFile, key: &str) -> Option<&'a Value> {
    file.json.get(key).filter(|_| file.is_on(key))
}

fn size(file: &PreprocessingFile) -> Result<Option<u32>, ExtractError> {
    let Some(size) = given(file, "input_size") else { return Ok(Some(SIZE)) };
    match size.as_array().map(Vec::as_slice) {
        Some([channels, height, width]) if channels.as_u64() == Some(3) => {
            file.side(&Value::from(vec![height.clone(), width.clone()])).map(Some)
        }
        _ => file.refuse(
            format!("input_size = {size}: expected three channels, then height and width"),
            "set size in teacher.toml",
        ),
    }
}

fn resample(file: &PreprocessingFile) -> Result<Option<Resample>, ExtractError> {
    file.filter(file.text("interpolation").unwrap_or("bicubic")).map(Some)
}

fn normalization(file: &PreprocessingFile) -> Result<Option<Normalization>, ExtractError> {
    let default = Normalization::IMAGENET;
    if given(file, "mean").is_none() && given(file, "std").is_none() {
        return Ok(Some(default));
    }
    let or = |key, default: [f32; 3]| {
        given(file, key).map_or(Ok(default.map(f64::from)), |value| file.triple(value))
    };
    let (mean, std) = (or("mean", default.mean)?, or("std", default.std)?);
    file.of_unit_range(rescaled(mean, std, 1.0 / 255.0, 0.0), mean, std, "timm scales pixels to 0..1")
        .map(Some)
}

fn center(file: &PreprocessingFile) -> Result<Option<CenterCrop>, ExtractError> {
    let mode = match file.text("crop_mode").unwrap_or("center") {
        "center" | "" => ResizeMode::Shortest,
        "squash" => ResizeMode::Squash,
        mode => {
            return file.refuse_geometry(format!(
                "crop_mode '{mode}': expected center or squash; border pads with the mean color, lgd with black"
            ));
        }
    };
    let share = given(file, "crop_pct").and_then(Value::as_f64).unwrap_or(CROP_PCT);
    // A malformed size is reported where the size is read.
    let Some(side) = size(file).ok().flatten().filter(|side| *side > 0) else { return Ok(None) };
    match whole(f64::from(side) / share) {
        Some(length) if share > 0.0 && length > 0 => Ok(Some(CenterCrop {
            fraction: single(share),
            resize: mode,
            rounding: CropRounding::FloorLength,
        })),
        _ => file.refuse_geometry(format!("crop_pct = {share}: expected above 0, at most 1")),
    }
}
