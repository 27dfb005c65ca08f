//! The rules of transformers' image processors.

use std::path::Path;

use lgd_data::render::{Normalization, Resample};
use lgd_data::view::{CenterCrop, CropRounding, ResizeMode};
use serde_json::Value;

use super::processors::{self, GeometryRule, PlainSize, Processor};
use super::{PreprocessingFile, Rules, file_name, open_clip, read_json, rescaled, single, square, whole};
use crate::error::ExtractError;

const PREPROCESSOR: &str = "preprocessor_config.json";
const PROCESSOR: &str = "processor_config.json";

static RULES: Rules = Rules { size, normalization, resample, center, assumption };

/// ConvNeXt's processor squeezes images from this side on, and crops smaller ones.
const CONVNEXT_SQUEEZES: u32 = 384;

/// Steps of a processor that an input of RGB pixels is none the worse without.
const HARMLESS_STEPS: &[&str] = &["do_convert_rgb", "do_reduce_labels", "do_ocr"];

/// Steps that [`center`], [`normalization`] and the check for BGR read.
const KNOWN_STEPS: &[&str] =
    &["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order"];

/// Other settings that change the pixels and cannot be followed, with what they do.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("crop_to_patches", "cuts an image into tiles"),
    ("image_grid_pinpoints", "cuts an image into tiles"),
    ("max_num_patches", "resizes to a number of patches, not to a square"),
    ("min_pixels", "resizes to a number of pixels, not to a square"),
    ("max_pixels", "resizes to a number of pixels, not to a square"),
    ("size_divisor", "resizes to multiples of it"),
    ("size_divisibility", "resizes to multiples of it"),
    ("keep_aspect_ratio", "keeps the aspect ratio, so the input is not a square"),
];

/// Reads `preprocessor_config.json` in `dir`.
pub(super) fn preprocessor_config(dir: &Path) -> Result<Option<PreprocessingFile>, ExtractError> {
    match read_json(&dir.join(PREPROCESSOR))? {
        Some((path, json)) => file(dir, &path, json).map(Some),
        None => Ok(None),
    }
}

/// Reads the image processor in `processor_config.json` in `dir`. Before transformers 5, the file has none.
pub(super) fn processor_config(dir: &Path) -> Result<Option<PreprocessingFile>, ExtractError> {
    let Some((path, mut json)) = read_json(&dir.join(PROCESSOR))? else { return Ok(None) };
    match json.get_mut("image_processor").map(Value::take).filter(Value::is_object) {
        Some(nested) => file(dir, &path, nested).map(Some),
        None => Ok(None),
    }
}

fn file(dir: &Path, path: &Path, json: Value) -> Result<PreprocessingFile, ExtractError> {
    let mut file = PreprocessingFile { path: path.to_owned(), json, source: file_name(path), rules: &RULES };
    if open_clip::is_settings(&file.json) {
        return Ok(open_clip::wrapped(file));
    }
    if class(&file).is_none() {
        let config = read_json(&dir.join("config.json"))?;
        let model_type = config.as_ref().and_then(|(_, json)| json.get("model_type")).and_then(Value::as_str);
        let class = model_type.and_then(processors::of_model_type);
        if let (Some(class), Some(json)) = (class, file.json.as_object_mut()) {
            json.insert("image_processor_type".to_owned(), class.into());
        }
    }
    if let Some(class) = class(&file) {
        file.source = format!("{}: {class}", file.source);
    }
    Ok(file)
}

/// Name of the processor's class.
pub(super) fn class(file: &PreprocessingFile) -> Option<&str> {
    file.text("image_processor_type").or_else(|| file.text("feature_extractor_type"))
}

fn processor(file: &PreprocessingFile) -> Option<&'static Processor> {
    class(file).and_then(processors::named)
}

/// The family of models whose own class the file names.
pub(super) fn family(file: &PreprocessingFile) -> Option<&'static str> {
    match processor(file)?.name {
        "CLIP" => Some("clip"),
        "Siglip" => Some("siglip"),
        "Siglip2" => Some("siglip2"),
        "DINOv3ViT" => Some("dinov3_vit"),
        _ => None,
    }
}

/// Whether the model takes BGR.
pub(super) fn flips_channels(file: &PreprocessingFile) -> bool {
    let default = processor(file).is_some_and(|processor| processor.name == "MobileViT");
    file.value("do_flip_channel_order").map_or(default, |value| value == &Value::Bool(true))
}

/// Whether the processor replaces colors by numbers of clusters, as ImageGPT's does.
pub(super) fn quantizes_colors(file: &PreprocessingFile) -> bool {
    processor(file).is_some_and(|processor| processor.name == "ImageGPT")
        || file.is_on("do_color_quantize")
        || file.value("clusters").is_some_and(Value::is_array)
}

/// Whether the processor resizes no image.
pub(super) fn keeps_size(file: &PreprocessingFile) -> bool {
    !enabled(file, "do_resize")
}

fn enabled(file: &PreprocessingFile, step: &str) -> bool {
    file.json.get(step).and_then(Value::as_bool) != Some(false)
}

fn crops(file: &PreprocessingFile) -> bool {
    match (file.value("do_center_crop").and_then(Value::as_bool), processor(file)) {
        (Some(crops), _) => crops,
        (None, Some(processor)) => processor.crops,
        (None, None) => file.value("crop_size").is_some(),
    }
}

fn size(file: &PreprocessingFile) -> Result<Option<u32>, ExtractError> {
    // C-RADIO turns resizing and normalization off: its model takes any size and normalizes internally.
    let crop = file.value("crop_size").filter(|_| crops(file));
    let resized = file.value("size").filter(|_| enabled(file, "do_resize"));
    crop.or(resized).map(|size| file.side(size)).transpose()
}

fn resample(file: &PreprocessingFile) -> Result<Option<Resample>, ExtractError> {
    if !enabled(file, "do_resize") {
        return Ok(None);
    }
    let default = processor(file).and_then(|processor| processor.resample);
    let Some(set) = file.value("resample") else { return Ok(default) };
    let code = set.as_f64().or_else(|| set.as_str()?.parse().ok());
    match (code, set.as_str()) {
        (Some(0.0), _) => Ok(Some(Resample::Nearest)),
        (Some(1.0), _) => Ok(Some(Resample::Lanczos)),
        (Some(2.0), _) => Ok(Some(Resample::Bilinear)),
        (Some(3.0), _) => Ok(Some(Resample::Bicubic)),
        (None, Some(name)) => file.filter(name).map(Some),
        _ => file.refuse(
            format!(
                "resample = {set}: expected a filter's name or Pillow's code, 0 nearest, 1 Lanczos, 2 bilinear or 3 bicubic"
            ),
            "set resample in teacher.toml",
        ),
    }
}

fn normalization(file: &PreprocessingFile) -> Result<Option<Normalization>, ExtractError> {
    let rescales = enabled(file, "do_rescale");
    let factor = match file.number("rescale_factor") {
        _ if !rescales => 1.0,
        Some(factor) => factor,
        None => 1.0 / 255.0,
    };
    let scaling =
        if rescales { format!("rescale_factor = {factor}") } else { "do_rescale = false".to_owned() };
    // EfficientNet's processor subtracts 1 after rescaling.
    let offset = if rescales && file.is_on("rescale_offset") { 1.0 } else { 0.0 };
    let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
    if enabled(file, "do_normalize") {
        let default = processor(file).and_then(|processor| processor.normalization);
        (mean, std) = match (file.value("image_mean"), file.value("image_std"), default) {
            (Some(mean), Some(std), _) => (file.triple(mean)?, file.triple(std)?),
            (None, None, Some(default)) => (default.mean.map(f64::from), default.std.map(f64::from)),
            _ => return Ok(None),
        };
    }
    // Then it divides by the standard deviation a second time, for the weights of its classifier.
    let efficient_net = processor(file).is_some_and(|processor| processor.name == "EfficientNet");
    if file.json.get("include_top").map_or(efficient_net, |_| file.is_on("include_top")) {
        let again = file.value("image_std").map_or(Ok([0.5; 3]), |std| file.triple(std))?;
        std = [0, 1, 2].map(|channel| std[channel] * again[channel]);
    }
    let scaling = format!("{scaling} scales pixels to 0..{}", (255e3 * factor).round() / 1e3);
    file.of_unit_range(rescaled(mean, std, factor, offset), mean, std, &scaling).map(Some)
}

/// A resize before the crop.
#[derive(Clone, Copy)]
struct Resize {
    mode: ResizeMode,
    length: u32,
    /// The length before it was rounded down, if a share of the crop was published instead of a length.
    unrounded: Option<f64>,
}

impl Resize {
    /// The resize, then a crop of `side` pixels. A published share is kept as it is: R at another size is computed from it.
    fn crop(self, side: u32) -> CenterCrop {
        let exact = CenterCrop::of_lengths(side, self.length, self.mode, CropRounding::Floor);
        let share =
            self.unrounded.map(|length| CenterCrop { fraction: single(f64::from(side) / length), ..exact });
        share.filter(|crop| crop.length(side) == self.length).unwrap_or(exact)
    }
}

fn center(file: &PreprocessingFile) -> Result<Option<CenterCrop>, ExtractError> {
    let rule = processor(file).map_or(GeometryRule::Standard, |processor| processor.geometry);
    if let GeometryRule::Refused(reason) = rule {
        return file.refuse_geometry(format!("{} {reason}", class(file).unwrap_or("the image processor")));
    }
    let crops = crops(file);
    if !enabled(file, "do_resize") {
        return match (crops, file.value("crop_size")) {
            (true, Some(size)) => file.refuse_geometry(format!(
                "do_center_crop without do_resize crops {size} px of an image of any size"
            )),
            _ => Ok(None),
        };
    }
    let Some(value) = file.value("size") else {
        return match class(file) {
            Some(class) if crops => file.refuse_geometry(format!(
                "neither size nor crop_size is here, and the defaults of {class} may not be this model's"
            )),
            _ => Ok(None),
        };
    };
    refuse_unsupported(file)?;
    let resize = resize(file, value)?;
    let resize = match rule {
        GeometryRule::ConvNext => return convnext(file, resize).map(Some),
        GeometryRule::PoolFormer => poolformer(file, resize)?,
        GeometryRule::Levit => levit(file, resize)?,
        GeometryRule::Standard | GeometryRule::Refused(_) => resize,
    };
    let side = match file.value("crop_size").filter(|_| crops) {
        Some(crop) => file.side(crop)?,
        None if resize.mode == ResizeMode::Squash => resize.length,
        None if crops => {
            return file.refuse_geometry(format!(
                "size = {value} with a center crop, but crop_size is not here, so the share that it keeps is not known"
            ));
        }
        None => {
            return file.refuse_geometry(format!(
                "size = {value} without a crop keeps the aspect ratio, so the input is not a square"
            ));
        }
    };
    if side == 0 || resize.length == 0 {
        return file.refuse_geometry(format!("size = {value} and crop {side}: expected lengths above 0"));
    }
    Ok(Some(resize.crop(side)))
}

/// Fails for steps and settings that change the pixels in ways that cannot be followed.
fn refuse_unsupported(file: &PreprocessingFile) -> Result<(), ExtractError> {
    let keys = file.json.as_object().into_iter().flat_map(|map| map.keys());
    let step = keys
        .filter(|key| key.starts_with("do_") && file.is_on(key))
        .find(|key| !KNOWN_STEPS.contains(&key.as_str()) && !HARMLESS_STEPS.contains(&key.as_str()));
    if let Some(step) = step {
        return file.refuse_geometry(format!("{step} = true: lgd has no such step"));
    }
    if let Some((key, reason)) = UNSUPPORTED.iter().find(|(key, _)| file.is_on(key)) {
        return file.refuse_geometry(format!("{key} = {} {reason}", file.json[*key]));
    }
    let multiple = file.value("ensure_multiple_of").and_then(Value::as_u64).unwrap_or(1);
    let side = file.value("size").and_then(square).map_or(0, u64::from);
    if multiple > 1 && !side.is_multiple_of(multiple) {
        return file.refuse_geometry(format!("ensure_multiple_of = {multiple} changes the size {side}"));
    }
    Ok(())
}

/// What `size` says of the resize.
fn resize(file: &PreprocessingFile, size: &Value) -> Result<Resize, ExtractError> {
    let refuse = || {
        file.refuse_geometry(format!(
            "size = {size}: expected a plain number, equal height and width, or shortest_edge alone"
        ))
    };
    let map = size.as_object();
    let has = |name: &str| map.is_some_and(|map| map.get(name).is_some_and(|value| !value.is_null()));
    if ["longest_edge", "max_height", "max_width"].into_iter().any(has) {
        return refuse();
    }
    let Some(length) = square(size) else { return refuse() };
    let short = if size.is_number() {
        // Without a class, a crop shows that the number is the short side.
        processor(file).map_or(crops(file), |processor| processor.plain == PlainSize::Short)
    } else {
        has("shortest_edge") && !has("height")
    };
    let mode =
        if short && !file.is_on("use_square_size") { ResizeMode::Shortest } else { ResizeMode::Squash };
    Ok(Resize { mode, length, unrounded: None })
}

/// The share of the resized side that a crop keeps.
fn crop_pct(file: &PreprocessingFile, default: f64) -> Result<f64, ExtractError> {
    let share = file.number("crop_pct").unwrap_or(default);
    if share > 0.0 && share <= 1.0 {
        return Ok(share);
    }
    file.refuse_geometry(format!("crop_pct = {share}: expected above 0, at most 1"))
}

fn convnext(file: &PreprocessingFile, resize: Resize) -> Result<CenterCrop, ExtractError> {
    let side = resize.length;
    if resize.mode == ResizeMode::Squash {
        return file
            .refuse_geometry("size has a height and a width; this processor takes shortest_edge only");
    }
    if side >= CONVNEXT_SQUEEZES {
        return Ok(CenterCrop::of_lengths(side, side, ResizeMode::Squash, CropRounding::Floor));
    }
    let unrounded = f64::from(side) / crop_pct(file, 224.0 / 256.0)?;
    match whole(unrounded) {
        Some(length) if side > 0 => {
            Ok(Resize { mode: ResizeMode::Shortest, length, unrounded: Some(unrounded) }.crop(side))
        }
        _ => file.refuse_geometry(format!("size = {side}: expected a length above 0")),
    }
}

fn poolformer(file: &PreprocessingFile, resize: Resize) -> Result<Resize, ExtractError> {
    // A null turns the share off; an absent key means the default.
    if file.json.get("crop_pct").is_some_and(Value::is_null) {
        return Ok(resize);
    }
    let unrounded = f64::from(resize.length) / crop_pct(file, 0.9)?;
    let length = whole(unrounded).unwrap_or(resize.length);
    Ok(Resize { mode: ResizeMode::Shortest, length, unrounded: Some(unrounded) })
}

fn levit(file: &PreprocessingFile, resize: Resize) -> Result<Resize, ExtractError> {
    if resize.mode == ResizeMode::Squash {
        return Ok(resize);
    }
    // Multiplied in this order, as there.
    let unrounded = (256.0 / 224.0) * f64::from(resize.length);
    match whole(unrounded) {
        Some(length) => Ok(Resize { length, unrounded: Some(unrounded), ..resize }),
        None => file.refuse_geometry(format!("size = {}: out of range", resize.length)),
    }
}

fn assumption(file: &PreprocessingFile) -> Option<&'static str> {
    match (class(file), processor(file)) {
        (_, Some(_)) => None,
        (Some(_), None) => Some("assumed: an unknown class, read as a plain resize and crop"),
        (None, None) if file.value("size").is_some_and(Value::is_number) => Some(
            "assumed: no class is named, size is taken as the short side if there is a crop, else as both sides",
        ),
        (None, None) => None,
    }
}
