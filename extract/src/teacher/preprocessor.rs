//! Defaults that exporters leave beside a model: `preprocessor_config.json` (Hugging Face) and
//! `open_clip_config.json` (OpenCLIP).
//!
//! Both may be there; where both give a value they must agree, unless `teacher.toml` decides.

use std::path::{Path, PathBuf};

use lgd_data::render::{Normalization, Resample};
use serde_json::Value;

use crate::error::ExtractError;

const HUGGING_FACE: &str = "preprocessor_config.json";
const OPEN_CLIP: &str = "open_clip_config.json";

/// What one or both files say.
#[derive(Debug, Default)]
pub(crate) struct ImageDefaults {
    size: Vec<(u32, PathBuf)>,
    normalization: Vec<(Normalization, PathBuf)>,
    resample: Vec<(Resample, PathBuf)>,
    context_length: Option<usize>,
}

impl ImageDefaults {
    /// Reads whichever of the two files `dir` holds.
    pub(crate) fn read(dir: &Path) -> Result<Self, ExtractError> {
        let mut defaults = Self::default();
        if let Some((path, json)) = read_json(&dir.join(HUGGING_FACE))? {
            defaults.add_hugging_face(&path, &json)?;
        }
        if let Some((path, json)) = read_json(&dir.join(OPEN_CLIP))? {
            defaults.add_open_clip(&path, &json)?;
        }
        Ok(defaults)
    }

    pub(crate) fn size(&self) -> Result<Option<u32>, ExtractError> {
        agreed("the input size", &self.size)
    }

    pub(crate) fn normalization(&self) -> Result<Option<Normalization>, ExtractError> {
        agreed("the normalisation", &self.normalization)
    }

    pub(crate) fn resample(&self) -> Result<Option<Resample>, ExtractError> {
        agreed("the resampling", &self.resample)
    }

    pub(crate) fn context_length(&self) -> Option<usize> {
        self.context_length
    }

    fn add_hugging_face(&mut self, path: &Path, json: &Value) -> Result<(), ExtractError> {
        let enabled = |key: &str| json.get(key).and_then(Value::as_bool) != Some(false);
        // C-RADIO turns resizing and normalisation off: its model takes any size and normalises by itself.
        let crop = json.get("crop_size").filter(|_| enabled("do_center_crop"));
        let resized = json.get("size").filter(|_| enabled("do_resize"));
        if let Some(value) = crop.or(resized) {
            self.size.push((side(path, value)?, path.to_owned()));
        }
        if let Some(code) = json.get("resample").filter(|_| enabled("do_resize")) {
            self.resample.push((pillow_code(path, code)?, path.to_owned()));
        }
        let factor = match json.get("rescale_factor").and_then(Value::as_f64) {
            _ if !enabled("do_rescale") => 1.0,
            Some(factor) => factor,
            None => 1.0 / 255.0,
        };
        let (mean, std) = match (json.get("image_mean"), json.get("image_std")) {
            (Some(mean), Some(std)) if enabled("do_normalize") => (triple(path, mean)?, triple(path, std)?),
            _ if !enabled("do_normalize") => ([0.0; 3], [1.0; 3]),
            _ => return Ok(()),
        };
        self.normalization.push((rescaled(mean, std, factor), path.to_owned()));
        Ok(())
    }

    fn add_open_clip(&mut self, path: &Path, json: &Value) -> Result<(), ExtractError> {
        if let Some(value) = json.pointer("/model_cfg/vision_cfg/image_size") {
            self.size.push((side(path, value)?, path.to_owned()));
        }
        let length = json.pointer("/model_cfg/text_cfg/context_length").and_then(Value::as_u64);
        self.context_length = length.and_then(|length| usize::try_from(length).ok());
        let Some(preprocess) = json.get("preprocess_cfg") else { return Ok(()) };
        if let (Some(mean), Some(std)) = (preprocess.get("mean"), preprocess.get("std")) {
            let (mean, std) = (triple(path, mean)?, triple(path, std)?);
            self.normalization.push((rescaled(mean, std, 1.0 / 255.0), path.to_owned()));
        }
        if let Some(name) = preprocess.get("interpolation").and_then(Value::as_str) {
            let resample = match name {
                "bicubic" => Resample::Bicubic,
                "bilinear" => Resample::Bilinear,
                _ => {
                    return Err(ExtractError::setting(
                        path,
                        format!("interpolation '{name}' is not known"),
                        "",
                    ));
                }
            };
            self.resample.push((resample, path.to_owned()));
        }
        Ok(())
    }
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<(PathBuf, Value)>, ExtractError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" }),
    };
    let json =
        serde_json::from_slice(&bytes).map_err(|error| ExtractError::setting(path, error.to_string(), ""))?;
    Ok(Some((path.to_owned(), json)))
}

/// The one value that all sources give; `None` where there is no source.
fn agreed<T: Copy + PartialEq + std::fmt::Debug>(
    what: &str,
    values: &[(T, PathBuf)],
) -> Result<Option<T>, ExtractError> {
    match values {
        [] => Ok(None),
        [(first, _), rest @ ..] => match rest.iter().find(|(value, _)| value != first) {
            None => Ok(Some(*first)),
            Some((other, path)) => Err(ExtractError::setting(
                path,
                format!("{what} is {other:?}, but {} says {first:?}", values[0].1.display()),
                "decide in teacher.toml",
            )),
        },
    }
}

/// A square side out of `224`, `[224, 224]`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`.
fn side(path: &Path, value: &Value) -> Result<u32, ExtractError> {
    let pair = |a: &Value, b: &Value| a.as_u64().filter(|a| Some(*a) == b.as_u64());
    let side = match value {
        Value::Number(number) => number.as_u64(),
        Value::Array(list) => match list.as_slice() {
            [a, b] => pair(a, b),
            _ => None,
        },
        Value::Object(map) => match (map.get("height"), map.get("width"), map.get("shortest_edge")) {
            (Some(height), Some(width), _) => pair(height, width),
            (_, _, Some(edge)) => edge.as_u64(),
            _ => None,
        },
        _ => None,
    };
    side.and_then(|side| u32::try_from(side).ok()).ok_or_else(|| {
        ExtractError::setting(
            path,
            format!("the input size {value} is not that of a square"),
            "give size in teacher.toml",
        )
    })
}

fn triple(path: &Path, value: &Value) -> Result<[f64; 3], ExtractError> {
    let numbers: Option<Vec<f64>> =
        value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
    numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok()).ok_or_else(|| {
        ExtractError::setting(path, format!("expected three numbers for mean or std, got {value}"), "")
    })
}

/// (byte x factor - mean) / std, written for values in 0..1 instead of bytes.
fn rescaled(mean: [f64; 3], std: [f64; 3], factor: f64) -> Normalization {
    // Exactly 1/255 is by far the usual case, and must not cost the last bit.
    let scale = if (factor * 255.0 - 1.0).abs() < 1e-6 { 1.0 } else { 255.0 * factor };
    #[expect(clippy::cast_possible_truncation, reason = "the model's input is f32")]
    let narrow = |values: [f64; 3]| values.map(|value| (value / scale) as f32);
    Normalization { mean: narrow(mean), std: narrow(std) }
}

/// Pillow's numbering of filters.
fn pillow_code(path: &Path, code: &Value) -> Result<Resample, ExtractError> {
    match code.as_u64() {
        Some(0) => Ok(Resample::Nearest),
        Some(1) => Ok(Resample::Lanczos),
        Some(2) => Ok(Resample::Bilinear),
        Some(3) => Ok(Resample::Bicubic),
        _ => Err(ExtractError::setting(
            path,
            format!(
                "resample = {code}: expected a Pillow code, 0 nearest, 1 Lanczos, 2 bilinear or 3 bicubic"
            ),
            "give resample in teacher.toml",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(files: &[(&str, &str)]) -> Result<ImageDefaults, ExtractError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        ImageDefaults::read(dir.path())
    }

    const CLIP: &str = r#"{"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}, "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;

    #[test]
    fn a_clip_preprocessor_gives_everything() {
        let read = defaults(&[(HUGGING_FACE, CLIP)]).unwrap();
        assert_eq!(read.size().unwrap(), Some(224));
        assert_eq!(read.resample().unwrap(), Some(Resample::Bicubic));
        assert_eq!(read.normalization().unwrap(), Some(Normalization::CLIP));
    }

    #[test]
    fn pillow_codes_are_not_in_order_of_quality() {
        for (code, filter) in
            [(0, Resample::Nearest), (1, Resample::Lanczos), (2, Resample::Bilinear), (3, Resample::Bicubic)]
        {
            let read = defaults(&[(HUGGING_FACE, &format!("{{\"resample\": {code}}}"))]).unwrap();
            assert_eq!(read.resample().unwrap(), Some(filter));
        }
        assert!(defaults(&[(HUGGING_FACE, "{\"resample\": 7}")]).is_err());
    }

    #[test]
    fn steps_that_are_turned_off_do_not_count() {
        let radio = r#"{"do_resize": false, "size": 224, "do_normalize": false, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "do_center_crop": false, "crop_size": 512}"#;
        let read = defaults(&[(HUGGING_FACE, radio)]).unwrap();
        assert_eq!(read.size().unwrap(), None);
        let identity = Normalization { mean: [0.0; 3], std: [1.0; 3] };
        assert_eq!(read.normalization().unwrap(), Some(identity));

        let bytes = r#"{"do_rescale": false, "image_mean": [127.5, 127.5, 127.5], "image_std": [255.0, 255.0, 255.0]}"#;
        let read = defaults(&[(HUGGING_FACE, bytes)]).unwrap();
        let half = Normalization { mean: [0.5; 3], std: [1.0; 3] };
        assert_eq!(read.normalization().unwrap(), Some(half));
    }

    #[test]
    fn files_that_disagree_are_named() {
        let open_clip =
            r#"{"model_cfg": {"vision_cfg": {"image_size": 240}, "text_cfg": {"context_length": 77}}}"#;
        let read = defaults(&[(HUGGING_FACE, CLIP), (OPEN_CLIP, open_clip)]).unwrap();
        assert_eq!(read.context_length(), Some(77));
        let text = read.size().unwrap_err().to_string();
        for part in [OPEN_CLIP, "240", HUGGING_FACE, "224", "hint: decide in teacher.toml"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn oblong_inputs_and_broken_files_are_refused() {
        assert!(defaults(&[(HUGGING_FACE, r#"{"size": {"height": 224, "width": 336}}"#)]).is_err());
        assert!(
            defaults(&[(HUGGING_FACE, r#"{"image_mean": [0.5, 0.5], "image_std": [1, 1, 1]}"#)]).is_err()
        );
        assert!(defaults(&[(HUGGING_FACE, "{")]).is_err());
    }
}
