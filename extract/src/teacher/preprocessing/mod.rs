//! How a teacher's own tool turns an image into its input, from the files that tools write beside a model:
//!
//! | file | tool |
//! |---|---|
//! | `preprocessor_config.json` | transformers |
//! | `processor_config.json`, in `image_processor` | transformers 5 |
//! | `open_clip_config.json` | OpenCLIP |
//! | `config.json`, in `pretrained_cfg` | timm |
//!
//! Several files may exist. If two give a value, the values must be equal unless `teacher.toml` sets it. Values are
//! parsed on demand: a value that `teacher.toml` sets may be malformed here.

mod hugging_face;
mod open_clip;
mod processors;
mod timm;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use lgd_data::ordinary;
use lgd_data::render::{Normalization, Resample};
use lgd_data::view::{CENTER_FRACTION, CenterCrop};
use serde_json::Value;

use super::MAX_SETTINGS_BYTES;
use super::sourced::Sourced;
use crate::error::ExtractError;
use crate::lfs::refuse_pointer;

/// The files in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preprocessing {
    files: Vec<PreprocessingFile>,
}

/// One file's content, and the rules to read it by.
#[derive(Clone, Debug)]
struct PreprocessingFile {
    path: PathBuf,
    /// The object with the settings.
    json: Value,
    /// File and class, as in "preprocessor_config.json: SiglipImageProcessor".
    source: String,
    rules: &'static Rules,
}

/// Reads a setting from a file; `None` if the file does not contain it.
type Rule<T> = fn(&PreprocessingFile) -> Result<Option<T>, ExtractError>;

/// How one tool's settings are read.
#[derive(Debug)]
struct Rules {
    /// Side of the square input, px.
    size: Rule<u32>,
    /// Mean and standard deviation of RGB in 0..1.
    normalization: Rule<Normalization>,
    resample: Rule<Resample>,
    /// Resize and crop.
    center: Rule<CenterCrop>,
    /// What the reading of the geometry had to assume.
    assumption: fn(&PreprocessingFile) -> Option<&'static str>,
}

impl Preprocessing {
    /// Reads the files that exist in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self, ExtractError> {
        let found = [
            hugging_face::preprocessor_config(dir)?,
            hugging_face::processor_config(dir)?,
            open_clip::open(dir)?,
            timm::open(dir)?,
        ];
        Ok(Self { files: found.into_iter().flatten().collect() })
    }

    /// Side of the square input, px.
    pub(crate) fn size(&self) -> Result<Option<Sourced<u32>>, ExtractError> {
        self.agreed("the input size", "size", |rules| rules.size, |a, b| a == b)
    }

    /// Mean and standard deviation of RGB in 0..1.
    pub(crate) fn normalization(&self) -> Result<Option<Sourced<Normalization>>, ExtractError> {
        self.agreed("the normalization", "mean and std", |rules| rules.normalization, |a, b| a == b)
    }

    /// Resampling filter.
    pub(crate) fn resample(&self) -> Result<Option<Sourced<Resample>>, ExtractError> {
        self.agreed("the resampling", "resample", |rules| rules.resample, |a, b| a == b)
    }

    /// Resize and crop. Two files that differ only in how an odd border is halved agree, and the first one counts.
    pub(crate) fn center(&self) -> Result<Option<Sourced<CenterCrop>>, ExtractError> {
        let alike = |a: &CenterCrop, b: &CenterCrop| (a.fraction, a.resize) == (b.fraction, b.resize);
        let center =
            self.agreed("the resize and crop", "resize_mode and resize", |rules| rules.center, alike)?;
        let Some(center) = center else { return Ok(self.unresized()) };
        let file = self.files.iter().find(|file| file.source == center.source);
        Ok(Some(match file.and_then(|file| (file.rules.assumption)(file)) {
            Some(assumption) => Sourced::new(center.value, format!("{}; {assumption}", center.source)),
            None => center,
        }))
    }

    /// The crop that is assumed for a tool that does not resize: its model takes images of any size, lgd a square.
    fn unresized(&self) -> Option<Sourced<CenterCrop>> {
        let file = self.files.iter().find(|file| hugging_face::keeps_size(file))?;
        let source = format!(
            "{}; assumed {CENTER_FRACTION}: do_resize = false, so the tool resizes no image",
            file.source
        );
        Some(Sourced::new(CenterCrop::default(), source))
    }

    /// The family of the model that the class of an image processor shows: "siglip" for `SiglipImageProcessorFast`.
    pub(crate) fn family(&self) -> Option<Sourced<&'static str>> {
        self.files.iter().find_map(|file| {
            let family = hugging_face::family(file)?;
            Some(Sourced::new(family, file.source.clone()))
        })
    }

    /// Fails for a model that takes BGR, because images are passed to it as RGB.
    pub(crate) fn require_rgb(&self) -> Result<(), ExtractError> {
        match self.files.iter().find(|file| hugging_face::flips_channels(file)) {
            Some(file) => Err(ExtractError::setting(
                &file.path,
                "do_flip_channel_order = true: expected a model of RGB, this one takes BGR",
                "export the model with its first layer's channels in reverse, and set it to false",
            )),
            None => Ok(()),
        }
    }

    /// Fails for a model that takes no pixels.
    pub(crate) fn require_pixels(&self) -> Result<(), ExtractError> {
        let quantizes = |file: &&PreprocessingFile| hugging_face::quantizes_colors(file);
        match self.files.iter().find(quantizes) {
            Some(file) => Err(ExtractError::setting(
                &file.path,
                format!(
                    "{} replaces colors by numbers of clusters: expected a model of pixels",
                    hugging_face::class(file).unwrap_or("this processor, ImageGPT's,")
                ),
                "use another teacher; there is no setting for this one",
            )),
            None => Ok(()),
        }
    }

    /// The value on which all files agree; `None` if no file gives one. `keys` of `teacher.toml` decide a conflict.
    fn agreed<T: Copy + Debug>(
        &self,
        what: &str,
        keys: &str,
        rule: impl Fn(&Rules) -> Rule<T>,
        alike: impl Fn(&T, &T) -> bool,
    ) -> Result<Option<Sourced<T>>, ExtractError> {
        let mut first: Option<(T, &PreprocessingFile)> = None;
        for file in &self.files {
            let Some(value) = rule(file.rules)(file)? else { continue };
            match first {
                None => first = Some((value, file)),
                Some((one, from)) if !alike(&one, &value) => {
                    return Err(ExtractError::setting(
                        &file.path,
                        format!("{what} is {value:?}, but {} has {one:?}", from.path.display()),
                        format!("decide in teacher.toml: set {keys}"),
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(first.map(|(value, file)| Sourced::new(value, file.source.clone())))
    }
}

impl PreprocessingFile {
    /// The value of a key. Newer versions write null for values that do not apply; these count as absent.
    fn value(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.json.get(key).and_then(Value::as_str)
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.json.get(key).and_then(Value::as_f64)
    }

    /// Whether a key is set to something other than null, false, 0 or an empty list.
    fn is_on(&self, key: &str) -> bool {
        match self.json.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(value) => value.as_f64() != Some(0.0),
        }
    }

    fn refuse<T>(&self, reason: impl Into<String>, hint: &str) -> Result<T, ExtractError> {
        Err(ExtractError::setting(&self.path, reason, hint))
    }

    /// The error for a geometry that cannot be rendered.
    fn refuse_geometry<T>(&self, reason: impl Into<String>) -> Result<T, ExtractError> {
        self.refuse(
            reason,
            "set in teacher.toml what to do instead: resize_mode = \"shortest\", \"squash\" or \"longest\", and resize = pixels",
        )
    }

    fn side(&self, value: &Value) -> Result<u32, ExtractError> {
        match square(value) {
            Some(side) => Ok(side),
            None => self.refuse(
                format!("expected the size of a square input, got {value}"),
                "set size in teacher.toml",
            ),
        }
    }

    /// Three numbers, one per channel. One number counts for all channels.
    fn triple(&self, value: &Value) -> Result<[f64; 3], ExtractError> {
        if let Some(number) = value.as_f64() {
            return Ok([number; 3]);
        }
        let numbers: Option<Vec<f64>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        match numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok()) {
            Some(triple) => Ok(triple),
            None => self.refuse(
                format!("expected three numbers for mean or std, got {value}"),
                "set mean and std in teacher.toml",
            ),
        }
    }

    /// Resampling filter for a tool's name, as Pillow, torchvision and their enums spell it: "bicubic",
    /// "PIL.Image.BICUBIC", "InterpolationMode.BICUBIC".
    fn filter(&self, name: &str) -> Result<Resample, ExtractError> {
        let bare = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase().replace('_', "-");
        match bare.as_str() {
            "nearest" | "nearest-exact" => Ok(Resample::Nearest),
            "lanczos" | "antialias" => Ok(Resample::Lanczos),
            "bilinear" | "linear" => Ok(Resample::Bilinear),
            "bicubic" | "cubic" => Ok(Resample::Bicubic),
            _ => self.refuse(
                format!("resampling filter '{name}': expected nearest, bilinear, bicubic or lanczos"),
                "set resample in teacher.toml",
            ),
        }
    }

    /// Fails for a normalization that cannot be one of values in 0..1. `mean` and `std` are as the file has them, `scaling`
    /// says what the file does to pixels before it.
    fn of_unit_range(
        &self,
        normalization: Normalization,
        mean: [f64; 3],
        std: [f64; 3],
        scaling: &str,
    ) -> Result<Normalization, ExtractError> {
        if is_of_unit_range(&normalization) {
            return Ok(normalization);
        }
        let reason = format!("mean {mean:?} and std {std:?} are not those of pixels in 0..1, but {scaling}");
        let by_255 = |values: [f64; 3]| values.map(|value| (value / 255.0 * 1e6).round() / 1e6);
        let hint = match mean.iter().chain(&std).all(|value| (0.0..=255.0).contains(value)) {
            true => format!(
                "if they are of bytes, 0..255, set mean = {:?} and std = {:?} in teacher.toml",
                by_255(mean),
                by_255(std)
            ),
            false => "set mean and std of pixels in 0..1 in teacher.toml".to_owned(),
        };
        self.refuse(reason, &hint)
    }
}

/// Reads a JSON file and returns its path and content; `None` if it does not exist.
pub(crate) fn read_json(path: &Path) -> Result<Option<(PathBuf, Value)>, ExtractError> {
    let bytes = match ordinary::read(path, MAX_SETTINGS_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" }),
    };
    refuse_pointer(path, &bytes)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if bytes.trim_ascii().is_empty() {
        return Err(ExtractError::setting(
            path,
            "expected JSON, the file is empty",
            "copy it again from the model's folder",
        ));
    }
    let json = serde_json::from_slice(bytes).or_else(|error| {
        let quoted = quote_constants(&String::from_utf8_lossy(bytes));
        serde_json::from_str(&quoted).map_err(|_| ExtractError::syntax(path, error))
    })?;
    Ok(Some((path.to_owned(), json)))
}

/// Turns NaN, Infinity and -Infinity, which Python's json writes and reads, into texts: a value that is used is then
/// refused by its name, and one that is not does no harm.
fn quote_constants(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    // Every other part is the inside of a string, as long as escaped quotes do not count.
    let hidden = text.replace("\\\\", "\u{0}").replace("\\\"", "\u{1}");
    for (at, part) in hidden.split('"').enumerate() {
        if at > 0 {
            quoted.push('"');
        }
        if at % 2 == 0 {
            let part = part.replace("-Infinity", "\"-\u{2}\"").replace("Infinity", "\"\u{2}\"");
            quoted.push_str(&part.replace('\u{2}', "Infinity").replace("NaN", "\"NaN\""));
        } else {
            quoted.push_str(part);
        }
    }
    quoted.replace('\u{1}', "\\\"").replace('\u{0}', "\\\\")
}

/// A file's name, for sources.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
        Value::Object(map) => {
            let key = |name| map.get(name).filter(|value: &&Value| !value.is_null());
            match (key("height"), key("width"), key("shortest_edge")) {
                (Some(height), Some(width), _) => pair(height, width),
                (_, _, Some(edge)) => edge.as_u64(),
                _ => None,
            }
        }
        _ => None,
    };
    u32::try_from(side?).ok()
}

/// The normalization (byte x factor - offset - mean) / std, for values in 0..1 instead of bytes.
fn rescaled(mean: [f64; 3], std: [f64; 3], factor: f64, offset: f64) -> Normalization {
    // Exactly 1/255 is by far the most common factor, and must not change the last bit.
    let scale = if (factor * 255.0 - 1.0).abs() < 1e-6 { 1.0 } else { 255.0 * factor };
    #[expect(clippy::cast_possible_truncation, reason = "the model's input is f32")]
    let narrow = |value: f64| (value / scale) as f32;
    Normalization { mean: mean.map(|value| narrow(value + offset)), std: std.map(narrow) }
}

/// Whether a normalization can be one of pixels in 0..1. A mean far outside that range is meant for bytes and would
/// silently make a whole cache useless.
pub(super) fn is_of_unit_range(normalization: &Normalization) -> bool {
    normalization.mean.iter().all(|mean| mean.abs() <= 2.0)
        && normalization.std.iter().all(|std| *std > 0.0 && *std <= 2.0)
}

/// A length in pixels, rounded down as by Python's `int` and `floor`; `None` if it is not a usable one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the largest side")]
fn whole(length: f64) -> Option<u32> {
    (length >= 1.0 && length <= f64::from(lgd_data::render::MAX_SIZE)).then_some(length as u32)
}

/// Rounds to f32, in which views store the share of a crop.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn single(share: f64) -> f32 {
    share as f32
}

#[cfg(test)]
mod tests;
