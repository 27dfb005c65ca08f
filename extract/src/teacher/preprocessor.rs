//! Defaults from files that exporters write beside a model: `preprocessor_config.json` (Hugging Face) and
//! `open_clip_config.json` (OpenCLIP).
//!
//! Both files may exist. If both give a value, the values must be equal unless `teacher.toml` sets it.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use lgd_data::render::{Normalization, Resample};
use serde_json::Value;

use crate::error::ExtractError;

const HUGGING_FACE: &str = "preprocessor_config.json";
const OPEN_CLIP: &str = "open_clip_config.json";

/// A file's path and content, if the file exists.
type Found = Option<(PathBuf, Value)>;

/// Reads a setting from a file; `None` if the file does not contain it.
type Rule<T> = fn(&Path, &Value) -> Result<Option<T>, ExtractError>;

/// The content of one or both files. Values are parsed on demand: a value that `teacher.toml` sets may be malformed
/// here.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageDefaults {
    hugging_face: Found,
    open_clip: Found,
}

impl ImageDefaults {
    /// Reads the files that exist in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self, ExtractError> {
        Ok(Self {
            hugging_face: read_json(&dir.join(HUGGING_FACE))?,
            open_clip: read_json(&dir.join(OPEN_CLIP))?,
        })
    }

    /// Side of the square input, px.
    pub(crate) fn size(&self) -> Result<Option<u32>, ExtractError> {
        self.agreed("the input size", hugging_face::size, open_clip::size)
    }

    /// Mean and standard deviation of RGB in 0..1.
    pub(crate) fn normalization(&self) -> Result<Option<Normalization>, ExtractError> {
        self.agreed("the normalization", hugging_face::normalization, open_clip::normalization)
    }

    /// Resampling filter.
    pub(crate) fn resample(&self) -> Result<Option<Resample>, ExtractError> {
        self.agreed("the resampling", hugging_face::resample, open_clip::resample)
    }

    /// Share of the short side that the center crop keeps; `None` also if the image is squeezed instead of cropped.
    pub(crate) fn center_fraction(&self) -> Result<Option<f32>, ExtractError> {
        self.agreed("the center crop's share", hugging_face::center_fraction, open_clip::center_fraction)
    }

    /// Context length in tokens.
    pub(crate) fn context_length(&self) -> Option<usize> {
        let (_, json) = self.open_clip.as_ref()?;
        let length = json.pointer("/model_cfg/text_cfg/context_length")?.as_u64()?;
        usize::try_from(length).ok()
    }

    /// Fails for a model that takes BGR, because images are passed to it as RGB.
    pub(crate) fn require_rgb(&self) -> Result<(), ExtractError> {
        match &self.hugging_face {
            Some((path, json)) if json.get("do_flip_channel_order") == Some(&Value::Bool(true)) => {
                Err(ExtractError::setting(
                    path,
                    "do_flip_channel_order = true: expected a model of RGB, this one takes BGR",
                    "export the model with its first layer's channels in reverse, and set it to false",
                ))
            }
            _ => Ok(()),
        }
    }

    /// The value on which all files agree; `None` if no file gives one.
    fn agreed<T: Copy + PartialEq + Debug>(
        &self,
        what: &str,
        hugging_face: Rule<T>,
        open_clip: Rule<T>,
    ) -> Result<Option<T>, ExtractError> {
        let (first, second) = (given(&self.hugging_face, hugging_face)?, given(&self.open_clip, open_clip)?);
        match (first, second) {
            (Some((one, from)), Some((other, path))) if one != other => Err(ExtractError::setting(
                path,
                format!("{what} is {other:?}, but {} says {one:?}", from.display()),
                "decide in teacher.toml",
            )),
            (first, second) => Ok(first.or(second).map(|(value, _)| value)),
        }
    }
}

/// The value that a rule reads from a file, and the file's path.
fn given<T>(file: &Found, rule: Rule<T>) -> Result<Option<(T, &Path)>, ExtractError> {
    let Some((path, json)) = file else { return Ok(None) };
    Ok(rule(path, json)?.map(|value| (value, path.as_path())))
}

/// The rules of `preprocessor_config.json`.
mod hugging_face {
    use super::*;

    fn enabled(json: &Value, step: &str) -> bool {
        json.get(step).and_then(Value::as_bool) != Some(false)
    }

    /// The value of a key. Newer versions write null for values that do not apply; these count as absent.
    fn value<'a>(json: &'a Value, key: &str) -> Option<&'a Value> {
        json.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn size(path: &Path, json: &Value) -> Result<Option<u32>, ExtractError> {
        // C-RADIO turns resizing and normalization off: its model takes any size and normalizes internally.
        let crop = value(json, "crop_size").filter(|_| enabled(json, "do_center_crop"));
        let resized = value(json, "size").filter(|_| enabled(json, "do_resize"));
        crop.or(resized).map(|size| side(path, size)).transpose()
    }

    pub(super) fn resample(path: &Path, json: &Value) -> Result<Option<Resample>, ExtractError> {
        let code = value(json, "resample").filter(|_| enabled(json, "do_resize"));
        code.map(|code| pillow_code(path, code)).transpose()
    }

    pub(super) fn normalization(path: &Path, json: &Value) -> Result<Option<Normalization>, ExtractError> {
        let factor = match json.get("rescale_factor").and_then(Value::as_f64) {
            _ if !enabled(json, "do_rescale") => 1.0,
            Some(factor) => factor,
            None => 1.0 / 255.0,
        };
        let (mean, std) = match (value(json, "image_mean"), value(json, "image_std")) {
            _ if !enabled(json, "do_normalize") => ([0.0; 3], [1.0; 3]),
            (Some(mean), Some(std)) => (triple(path, mean)?, triple(path, std)?),
            _ => return Ok(None),
        };
        Ok(Some(rescaled(mean, std, factor)))
    }

    /// Crop divided by short side, if the image is resized by its short side and then cropped. A plain number means
    /// the short side in CLIP's processors and a square in others; if it equals the crop, nothing is cut off either
    /// way.
    #[expect(clippy::cast_precision_loss, reason = "sides of images are far below 2^24")]
    pub(super) fn center_fraction(_: &Path, json: &Value) -> Result<Option<f32>, ExtractError> {
        let on = enabled(json, "do_resize") && enabled(json, "do_center_crop");
        let crop = value(json, "crop_size").filter(|_| on).and_then(square);
        let kind = ["feature_extractor_type", "image_processor_type"]
            .map(|key| json.get(key).and_then(Value::as_str));
        let of_clip = kind.iter().flatten().any(|kind| kind.starts_with("CLIP"));
        let plain = json.get("size").and_then(Value::as_u64);
        let plain = plain.filter(|size| of_clip || crop.is_some_and(|crop| u64::from(crop) == *size));
        let short = json.pointer("/size/shortest_edge").and_then(Value::as_u64).or(plain);
        let share = crop.zip(short).map(|(crop, short)| crop as f32 / short as f32);
        // A crop larger than the image is padded with black, which our crops never do.
        Ok(share.filter(|share| *share > 0.0 && *share <= 1.0))
    }
}

/// The rules of `open_clip_config.json`.
mod open_clip {
    use super::*;

    pub(super) fn size(path: &Path, json: &Value) -> Result<Option<u32>, ExtractError> {
        json.pointer("/model_cfg/vision_cfg/image_size").map(|value| side(path, value)).transpose()
    }

    pub(super) fn resample(path: &Path, json: &Value) -> Result<Option<Resample>, ExtractError> {
        match json.pointer("/preprocess_cfg/interpolation").and_then(Value::as_str) {
            None => Ok(None),
            Some("bicubic") => Ok(Some(Resample::Bicubic)),
            Some("bilinear") => Ok(Some(Resample::Bilinear)),
            Some(name) => Err(ExtractError::setting(
                path,
                format!("interpolation '{name}': expected bicubic or bilinear"),
                "give resample in teacher.toml",
            )),
        }
    }

    pub(super) fn normalization(path: &Path, json: &Value) -> Result<Option<Normalization>, ExtractError> {
        match (json.pointer("/preprocess_cfg/mean"), json.pointer("/preprocess_cfg/std")) {
            (Some(mean), Some(std)) => {
                Ok(Some(rescaled(triple(path, mean)?, triple(path, std)?, 1.0 / 255.0)))
            }
            _ => Ok(None),
        }
    }

    /// The whole short side, if the image is resized by it; other modes squeeze or pad the image.
    pub(super) fn center_fraction(_: &Path, json: &Value) -> Result<Option<f32>, ExtractError> {
        let Some(preprocess) = json.get("preprocess_cfg") else { return Ok(None) };
        let mode = preprocess.get("resize_mode").map_or(Some("shortest"), Value::as_str);
        Ok((mode == Some("shortest")).then_some(1.0))
    }
}

/// Reads a JSON file; `None` if it does not exist.
pub(crate) fn read_json(path: &Path) -> Result<Found, ExtractError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" }),
    };
    let json = serde_json::from_slice(&bytes).map_err(|error| ExtractError::syntax(path, error))?;
    Ok(Some((path.to_owned(), json)))
}

/// The side of a square given as `224`, `[224, 224]`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`.
fn square(value: &Value) -> Option<u32> {
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
    u32::try_from(side?).ok()
}

fn side(path: &Path, value: &Value) -> Result<u32, ExtractError> {
    square(value).ok_or_else(|| {
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
        let reason = format!("expected three numbers for mean or std, got {value}");
        ExtractError::setting(path, reason, "give mean and std in teacher.toml")
    })
}

/// The normalization (byte x factor - mean) / std, expressed for values in 0..1 instead of bytes.
fn rescaled(mean: [f64; 3], std: [f64; 3], factor: f64) -> Normalization {
    // Exactly 1/255 is by far the most common factor, and must not change the last bit.
    let scale = if (factor * 255.0 - 1.0).abs() < 1e-6 { 1.0 } else { 255.0 * factor };
    #[expect(clippy::cast_possible_truncation, reason = "the model's input is f32")]
    let narrow = |values: [f64; 3]| values.map(|value| (value / scale) as f32);
    Normalization { mean: narrow(mean), std: narrow(std) }
}

/// Resampling filter for Pillow's numeric code.
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
        assert!(defaults(&[(HUGGING_FACE, "{\"resample\": 7}")]).unwrap().resample().is_err());
    }

    #[test]
    fn steps_that_are_turned_off_do_not_count() {
        let null = r#"{"do_resize": true, "size": {"height": 224, "width": 224}, "resample": 2, "do_center_crop": null,
            "crop_size": null, "image_mean": null, "image_std": null}"#;
        let read = defaults(&[(HUGGING_FACE, null)]).unwrap();
        assert_eq!((read.size().unwrap(), read.normalization().unwrap()), (Some(224), None));

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
    fn odd_values_are_refused_when_they_are_asked_for_and_broken_files_at_once() {
        let hint = |error: ExtractError| error.to_string().lines().last().unwrap().to_owned();
        for size in [r#"{"height": 224, "width": 336}"#, r#"{"longest_edge": 224}"#, "[224]", "\"224\""] {
            let read = defaults(&[(HUGGING_FACE, &format!("{{\"size\": {size}}}"))]).unwrap();
            assert_eq!(hint(read.size().unwrap_err()), "hint: give size in teacher.toml", "{size}");
            assert!(read.resample().unwrap().is_none() && read.normalization().unwrap().is_none());
        }
        let read = defaults(&[
            (HUGGING_FACE, r#"{"image_mean": [0.5, 0.5], "image_std": [1, 1, 1], "resample": 4}"#),
            (OPEN_CLIP, r#"{"preprocess_cfg": {"interpolation": "random"}}"#),
        ]);
        let read = read.unwrap();
        assert_eq!(hint(read.normalization().unwrap_err()), "hint: give mean and std in teacher.toml");
        assert_eq!(hint(read.resample().unwrap_err()), "hint: give resample in teacher.toml");
        let random = defaults(&[(OPEN_CLIP, r#"{"preprocess_cfg": {"interpolation": "random"}}"#)]).unwrap();
        assert_eq!(hint(random.resample().unwrap_err()), "hint: give resample in teacher.toml");
        assert!(random.size().unwrap().is_none());
        assert!(defaults(&[(HUGGING_FACE, "{")]).is_err());
    }

    #[test]
    fn the_center_crop_keeps_what_the_files_say() {
        let hugging_face = |json: &str| defaults(&[(HUGGING_FACE, json)]).unwrap().center_fraction().unwrap();
        assert_eq!(hugging_face(CLIP), Some(0.875));
        for (json, fraction) in [
            (r#"{"crop_size": 336, "size": {"shortest_edge": 336}}"#, Some(1.0)),
            (r#"{"crop_size": 256, "size": {"shortest_edge": 224}}"#, None),
            (r#"{"crop_size": 224, "size": {"shortest_edge": 0}}"#, None),
            (r#"{"crop_size": 224, "size": {"height": 256, "width": 256}}"#, None),
            (r#"{"crop_size": {"height": 224, "width": 336}, "size": {"shortest_edge": 336}}"#, None),
            (r#"{"crop_size": 224, "size": {"shortest_edge": 256}, "do_center_crop": false}"#, None),
            (r#"{"crop_size": 224, "size": {"shortest_edge": 256}, "do_resize": false}"#, None),
            (r#"{"size": {"shortest_edge": 256}}"#, None),
            (r#"{"crop_size": 224, "size": 224}"#, Some(1.0)),
            (r#"{"crop_size": 224, "size": 256}"#, None),
            (
                r#"{"crop_size": 224, "size": 256, "feature_extractor_type": "CLIPFeatureExtractor"}"#,
                Some(0.875),
            ),
            (r#"{"crop_size": 224, "size": 256, "image_processor_type": "ViTImageProcessor"}"#, None),
        ] {
            assert_eq!(hugging_face(json), fraction, "{json}");
        }
        let open_clip = |json: &str| defaults(&[(OPEN_CLIP, json)]).unwrap().center_fraction().unwrap();
        for (json, fraction) in [
            (r#"{"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}"#, Some(1.0)),
            (r#"{"preprocess_cfg": {"resize_mode": "shortest"}}"#, Some(1.0)),
            (r#"{"preprocess_cfg": {"resize_mode": "squash"}}"#, None),
            (r#"{"preprocess_cfg": {"resize_mode": "longest"}}"#, None),
            (r#"{"model_cfg": {}}"#, None),
        ] {
            assert_eq!(open_clip(json), fraction, "{json}");
        }
        let both = defaults(&[(HUGGING_FACE, CLIP), (OPEN_CLIP, r#"{"preprocess_cfg": {}}"#)]).unwrap();
        let text = both.center_fraction().unwrap_err().to_string();
        assert!(text.contains("1.0") && text.contains("0.875") && text.contains("teacher.toml"), "{text}");
    }

    #[test]
    fn a_model_of_bgr_is_refused() {
        for (json, refused) in [
            (r#"{"do_flip_channel_order": true}"#, true),
            (r#"{"do_flip_channel_order": false}"#, false),
            ("{}", false),
        ] {
            assert_eq!(defaults(&[(HUGGING_FACE, json)]).unwrap().require_rgb().is_err(), refused, "{json}");
        }
        assert!(ImageDefaults::default().require_rgb().is_ok());
    }
}
