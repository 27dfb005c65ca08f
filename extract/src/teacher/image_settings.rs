//! Resolves the settings of the image model: `teacher.toml`, then the exporter's files, then the model's own file.

use std::path::{Path, PathBuf};

use lgd_data::render::{MAX_SIZE, Normalization, PixelLayout, Resample};
use lgd_data::view::{CENTER_FRACTION, CenterCrop, CropRounding, ResizeMode};

use super::model_config::ModelConfig;
use super::onnx::{Declared, Element, OnnxFile};
use super::preprocessing::{Preprocessing, is_of_unit_range, read_json};
use super::resolved::Resolved;
use super::settings::{ImageSettings, KnownModel};
use super::sourced::Sourced;
use super::toml_file::{ImageToml, LayoutName, TEACHER_TOML};
use crate::error::ExtractError;

/// The normalization that leaves bytes as they are: (value / 255 - 0) / (1 / 255).
const BYTES: Normalization = Normalization { mean: [0.0; 3], std: [1.0 / 255.0; 3] };

/// What settings are resolved from.
pub(super) struct ImageSources<'a> {
    /// The teacher's folder.
    pub dir: &'a Path,
    /// `teacher.toml`, or the folder if there is none, for messages.
    pub place: &'a Path,
    /// The section `[image]`; empty if there is none.
    pub toml: &'a ImageToml,
    /// The image model and where its name comes from.
    pub model: Sourced<PathBuf>,
    pub preprocessing: &'a Preprocessing,
    /// Whether the teacher has a text model.
    pub beside_text: bool,
}

impl ImageSources<'_> {
    /// Resolves everything that needs no opened model.
    pub(super) fn resolve(&self) -> Result<ImageSettings, ExtractError> {
        self.preprocessing.require_pixels()?;
        self.preprocessing.require_rgb()?;
        let toml = self.toml;
        let mut notes = Vec::new();
        let mut resolved =
            vec![Resolved::new("model", self.model.value.display().to_string(), self.model.source.clone())];
        let path = self.dir.join(&self.model.value);
        let pixels = declared_pixels(&path, toml.input.as_deref());
        let size = self.size(pixels.as_ref(), &mut resolved)?;
        // A processor that does something else altogether is refused before its values are.
        let center = self.center(size.or(pixels.as_ref().and_then(side_of)))?;
        let normalization = self.normalization(pixels.as_ref(), &mut resolved, &mut notes)?;
        let resample = self.resample(&mut resolved)?;
        let (center, center_source) =
            center.map_or((None, None), |center| (Some(center.value), Some(center.source)));
        Ok(ImageSettings {
            model: path,
            size,
            normalization,
            resample,
            center,
            center_source,
            layout: toml.layout.map(|name| match name {
                LayoutName::Nchw => PixelLayout::Nchw,
                LayoutName::Nhwc => PixelLayout::Nhwc,
            }),
            input: toml.input.clone(),
            output: toml.output.clone(),
            pooling: toml.pooling,
            prefix_tokens: toml.prefix_tokens,
            features: toml.features.clone(),
            tokens: toml.tokens.clone(),
            token_grid: toml.token_grid,
            known: self.known()?,
            resolved,
            notes,
        })
    }

    fn refuse<T>(&self, reason: impl Into<String>, hint: &str) -> Result<T, ExtractError> {
        Err(ExtractError::setting(self.place, reason, hint))
    }

    fn size(
        &self,
        pixels: Option<&Declared>,
        resolved: &mut Vec<Resolved>,
    ) -> Result<Option<u32>, ExtractError> {
        let size = match self.toml.size {
            Some(size) => Some(Sourced::new(size, TEACHER_TOML)),
            None => self.preprocessing.size()?,
        };
        if let Some(size) = size.as_ref().filter(|size| size.value == 0 || size.value > MAX_SIZE) {
            let reason = format!("size = {} ({}): expected 1 to {MAX_SIZE} pixels", size.value, size.source);
            return self.refuse(reason, "set size in teacher.toml");
        }
        match (&size, pixels.and_then(side_of)) {
            (Some(size), _) => {
                resolved.push(Resolved::new("size", i64::from(size.value), size.source.clone()))
            }
            (None, Some(side)) => resolved.push(Resolved::new("size", i64::from(side), self.model_name())),
            (None, None) => {}
        }
        Ok(size.map(|size| size.value))
    }

    /// File name of the model, as a source.
    fn model_name(&self) -> String {
        self.model.value.display().to_string()
    }

    fn normalization(
        &self,
        pixels: Option<&Declared>,
        resolved: &mut Vec<Resolved>,
        notes: &mut Vec<String>,
    ) -> Result<Normalization, ExtractError> {
        let set = match (self.toml.mean, self.toml.std) {
            (Some(mean), Some(std)) => Some(Normalization { mean, std }),
            (None, None) => None,
            (Some(_), None) => return self.refuse("[image] mean is set without std", "set both or neither"),
            (None, Some(_)) => return self.refuse("[image] std is set without mean", "set both or neither"),
        };
        if pixels.is_some_and(|pixels| pixels.element == Element::Byte) {
            if set.is_some() {
                let model = self.model_name();
                notes.push(format!("{model} takes bytes (u8), 0..255, so mean and std have no effect"));
            }
            return Ok(BYTES);
        }
        let normalization = match set {
            Some(set) => Some(Sourced::new(set, TEACHER_TOML)),
            None => self.preprocessing.normalization()?,
        };
        let Some(Sourced { value: normalization, source }) = normalization else {
            return self.refuse(
                "mean and std are not known: expected them in teacher.toml, preprocessor_config.json, processor_config.json, \
                 open_clip_config.json or timm's config.json",
                &self.missing_normalization(),
            );
        };
        // A file's own values are checked where they are read.
        if !is_of_unit_range(&normalization) {
            return self.refuse(
                format!(
                    "[image] mean {:?}, std {:?}: expected means within -2..2 and std above 0, at most 2",
                    normalization.mean, normalization.std
                ),
                "they are of pixels in 0..1; divide values of bytes by 255",
            );
        }
        // The tool itself would do so with images of bytes.
        if normalization.std.iter().all(|std| *std < 0.99 * BYTES.std[0]) {
            notes.push(format!(
                "{source} leaves pixels in 0..255, although mean and std are those of 0..1: the model gets values up to {:.0}\nhint: \
                 if it takes pixels in 0..1, set mean and std in teacher.toml",
                (1.0 - normalization.mean[0]) / normalization.std[0]
            ));
        }
        let list = |values: [f32; 3]| toml::Value::from(values.map(shortest_f64).to_vec());
        resolved.push(Resolved::new("mean", list(normalization.mean), source.clone()));
        resolved.push(Resolved::new("std", list(normalization.std), source));
        Ok(normalization)
    }

    /// The remedy if no file has mean and std.
    fn missing_normalization(&self) -> String {
        let above = std::path::absolute(self.dir).ok().and_then(|dir| Some(dir.parent()?.to_owned()));
        let above = above.filter(|above| above.join("preprocessor_config.json").is_file());
        match above {
            Some(above) => format!("give the folder above, {}, which has preprocessor_config.json", above.display()),
            None => "copy the exporter's file here, or set them in teacher.toml; CLIP: mean = [0.48145466, 0.4578275, 0.40821073], \
                     std = [0.26862954, 0.26130258, 0.27577711]; torchvision: mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, \
                     0.225]"
                .to_owned(),
        }
    }

    fn resample(&self, resolved: &mut Vec<Resolved>) -> Result<Resample, ExtractError> {
        let resample = match self.toml.resample {
            Some(resample) => Sourced::new(resample, TEACHER_TOML),
            None => match self.preprocessing.resample()? {
                Some(resample) => resample,
                None => Sourced::new(Resample::Bicubic, "assumed"),
            },
        };
        resolved.push(Resolved::new("resample", resample.value.to_string(), resample.source));
        Ok(resample.value)
    }

    /// Resize and crop. `side` is that of the input, if it is known.
    fn center(&self, side: Option<u32>) -> Result<Option<Sourced<CenterCrop>>, ExtractError> {
        let toml = self.toml;
        if toml.center_fraction.is_none() && toml.resize_mode.is_none() && toml.resize.is_none() {
            return self.preprocessing.center();
        }
        // What teacher.toml leaves open is as in the files, if they can be followed.
        let files = self.preprocessing.center().ok().flatten().map(|center| center.value);
        let resize = toml.resize_mode.or(files.map(|files| files.resize)).unwrap_or_default();
        let rounding = files.map_or(CropRounding::default(), |files| files.rounding);
        let fraction = match (toml.center_fraction, toml.resize, side) {
            (Some(fraction), ..) => fraction,
            (None, Some(length), Some(side)) => {
                CenterCrop::of_lengths(side, length, resize, rounding).fraction
            }
            (None, Some(_), None) => {
                return self.refuse(
                    "[image] resize is set, but the size of the input is not known",
                    "set size in teacher.toml",
                );
            }
            (None, None, _) => match files {
                Some(files) => files.fraction,
                None if resize == ResizeMode::Shortest => CENTER_FRACTION,
                None => 1.0,
            },
        };
        Ok(Some(Sourced::new(CenterCrop { fraction, resize, rounding }, TEACHER_TOML)))
    }

    /// The model's family and number of classes, from the files.
    fn known(&self) -> Result<KnownModel, ExtractError> {
        let config = ModelConfig::read(self.dir)?;
        let of_config = config.as_ref().and_then(|config| {
            let kind = config.vision().model_type.as_ref().or(config.top().model_type.as_ref())?;
            let family = ["_vision_model", "_vision", "_model"].iter().find_map(|end| kind.strip_suffix(end));
            let file = config.path().file_name().unwrap_or_default().to_string_lossy();
            Some(Sourced::new(family.unwrap_or(kind).to_owned(), file))
        });
        let of_class = || {
            let family = self.preprocessing.family()?;
            Some(Sourced::new(family.value.to_owned(), family.source))
        };
        let family = of_config.or_else(of_class);
        // timm's file has the number of classes under another name.
        let classes = read_json(&self.dir.join("config.json"))?
            .and_then(|(_, json)| json.get("num_classes").and_then(serde_json::Value::as_u64))
            .and_then(|classes| usize::try_from(classes).ok());
        Ok(KnownModel {
            source: family.as_ref().map_or_else(String::new, |family| family.source.clone()),
            family: family.map(|family| family.value),
            registers: config.as_ref().and_then(|config| config.vision().num_register_tokens),
            labels: config
                .as_ref()
                .and_then(|config| config.top().labels())
                .or(classes)
                .filter(|labels| *labels > 0),
            beside_text: self.beside_text,
        })
    }
}

/// The input of the model at `path` that takes pixels: the one of this name, else the one of four axes; `None` if the
/// file or the input cannot be read, which is reported when the model is opened.
fn declared_pixels(path: &Path, name: Option<&str>) -> Option<Declared> {
    let file = OnnxFile::read(path).ok()?;
    let mut inputs = file.inputs.into_iter();
    match name {
        Some(name) => inputs.find(|input| input.name == name),
        None => inputs.find(|input| input.shape.as_ref().is_some_and(|shape| shape.len() == 4)),
    }
}

/// Side of the input, if the model fixes it.
fn side_of(pixels: &Declared) -> Option<u32> {
    match pixels.shape.as_deref()? {
        [_, Some(3), Some(height), Some(width)] | [_, Some(height), Some(width), Some(3)]
            if height == width =>
        {
            u32::try_from(*height).ok()
        }
        _ => None,
    }
}

/// The f64 with the shortest decimal form of an f32: 0.485, not 0.48500001430511475.
fn shortest_f64(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}
