//! A teacher: a folder with an image model, a text model, a tokenizer, and `teacher.toml`, which describes their
//! inputs and outputs.
//!
//! ```text
//! teacher/teacher.toml
//! teacher/image.onnx        pixels [N, 3, S, S] or [N, S, S, 3], f32 or f16, to embeddings
//! teacher/text.onnx         token ids [N, T] to embeddings of the same width
//! teacher/tokenizer.json
//! teacher/preprocessor_config.json, open_clip_config.json, tokenizer_config.json    optional: defaults
//! ```
//!
//! Opening a teacher reads only the small files. Encoding prompts never loads the image model, and encoding images
//! never loads the text model.

mod preprocessor;
mod settings;
mod side_files;
mod tokenizer_files;
mod toml_file;

use std::path::{Path, PathBuf};

use lgd_data::manifest::ContentHash;
use lgd_data::render::{Normalization, PixelLayout, Resample};
use lgd_data::view::CenterCrop;

pub use settings::{ImageSettings, Padding, Pooling, TextSettings};

use crate::device::Slot;
use crate::encoder::{EncoderOptions, ImageEncoder, Outputs, TextEncoder};
use crate::error::ExtractError;
use crate::runtime::Runtime;
use preprocessor::ImageDefaults;
use toml_file::{ImageToml, LayoutName, ResampleName, TEACHER_TOML, TeacherToml, TextToml};

/// Longest plausible context. Tokenizers without a limit store 10^30.
const MAX_CONTEXT: usize = 65_536;

/// A teacher's settings. The image settings are resolved, and the models opened, on demand.
#[derive(Clone, Debug)]
pub struct Teacher {
    dir: PathBuf,
    name: String,
    image: Option<ImageToml>,
    defaults: ImageDefaults,
    text: Option<TextSettings>,
}

impl Teacher {
    /// Reads `teacher.toml` in `dir` and the files with defaults beside it. Opens no model.
    ///
    /// # Errors
    /// [`ExtractError::TeacherFile`] if a file cannot be read; [`ExtractError::TeacherSetting`] if a key is unknown,
    /// a value is out of range, or a required value of `[text]` is missing.
    pub fn open(dir: &Path) -> Result<Self, ExtractError> {
        let path = dir.join(TEACHER_TOML);
        let parsed = TeacherToml::read(&path)?;
        let defaults = ImageDefaults::read(dir)?;
        let folder_name = || dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
        Ok(Self {
            name: parsed.name.unwrap_or_else(folder_name),
            image: parsed.image,
            text: parsed.text.map(|text| resolve_text(dir, &path, text, &defaults)).transpose()?,
            defaults,
            dir: dir.to_owned(),
        })
    }

    /// The name set in `teacher.toml`, else the folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The teacher's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Settings of the image model. They are resolved here, not in [`Teacher::open`], because encoding prompts does
    /// not require them to be valid.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if `teacher.toml` has no `[image]`, a value is out of range, a required value
    /// is missing, or files contradict each other.
    pub fn image(&self) -> Result<ImageSettings, ExtractError> {
        let image = self.image.clone().ok_or_else(|| self.no_section("[image]"))?;
        resolve_image(&self.dir, &self.dir.join(TEACHER_TOML), image, &self.defaults)
    }

    /// Settings of the text model.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if `teacher.toml` has no `[text]`.
    pub fn text(&self) -> Result<&TextSettings, ExtractError> {
        self.text.as_ref().ok_or_else(|| self.no_section("[text]"))
    }

    /// Whether `teacher.toml` has a `[text]` section.
    pub fn has_text(&self) -> bool {
        self.text.is_some()
    }

    fn no_section(&self, section: &str) -> ExtractError {
        ExtractError::setting(&self.dir.join(TEACHER_TOML), format!("there is no {section}"), "")
    }

    /// BLAKE3 hash of the image model, including weights in separate files. Reads all of these files.
    ///
    /// # Errors
    /// [`ExtractError::Artifact`] if a file cannot be read.
    pub fn image_hash(&self) -> Result<ContentHash, ExtractError> {
        let mut hasher = blake3::Hasher::new();
        hash_model(&mut hasher, &self.image()?.model)?;
        Ok(hasher.finalize().into())
    }

    /// BLAKE3 hash of everything that affects a prompt's embedding: text model, tokenizer and settings.
    ///
    /// # Errors
    /// [`ExtractError::Artifact`] if a file cannot be read.
    pub fn text_hash(&self) -> Result<ContentHash, ExtractError> {
        let settings = self.text()?;
        let mut hasher = blake3::Hasher::new();
        hash_model(&mut hasher, &settings.model)?;
        hasher.update(ContentHash::of_file(&settings.tokenizer)?.as_bytes());
        hasher.update(settings.fingerprint().as_bytes());
        Ok(hasher.finalize().into())
    }

    /// Opens the image model on the first device of `options`.
    ///
    /// # Errors
    /// [`ExtractError`] if the device cannot be used or the model does not match the settings.
    pub fn image_encoder(
        &self,
        runtime: &Runtime,
        options: &EncoderOptions,
    ) -> Result<ImageEncoder, ExtractError> {
        self.view_encoder(runtime, options, Outputs::default())
    }

    /// Like [`Teacher::image_encoder`], but also returns `outputs` besides the embedding.
    ///
    /// # Errors
    /// Same as [`Teacher::image_encoder`], and if the settings do not name a requested output.
    pub fn view_encoder(
        &self,
        runtime: &Runtime,
        options: &EncoderOptions,
        outputs: Outputs,
    ) -> Result<ImageEncoder, ExtractError> {
        let slot = options.device.slots().first().copied().unwrap_or(Slot::Cpu);
        ImageEncoder::open(runtime, &self.image()?, slot, options, outputs)
    }

    /// Opens the text model on the first device of `options`.
    ///
    /// # Errors
    /// [`ExtractError`] if the device cannot be used, or if the model or the tokenizer does not match the settings.
    pub fn text_encoder(
        &self,
        runtime: &Runtime,
        options: &EncoderOptions,
    ) -> Result<TextEncoder, ExtractError> {
        TextEncoder::open(runtime, self.text()?, self.text_hash()?, options)
    }
}

/// Adds a model to a hash: its file, then the files beside it whose names mark them as its weights, then the other
/// files that it refers to. Existing caches contain this hash. The files found by name come first because an earlier
/// version hashed only those.
fn hash_model(hasher: &mut blake3::Hasher, model: &Path) -> Result<(), ExtractError> {
    hasher.update(ContentHash::of_file(model)?.as_bytes());
    let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = model.parent().unwrap_or(Path::new("."));
    let unreadable =
        |path: &Path, source| ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" };
    let listing = std::fs::read_dir(folder).map_err(|source| unreadable(folder, source))?;
    let mut weights: Vec<PathBuf> = listing
        .filter_map(Result::ok)
        .filter(|entry| {
            let other = entry.file_name().to_string_lossy().into_owned();
            other
                .strip_prefix(&name)
                .is_some_and(|rest| rest.starts_with("_data") || rest.starts_with(".data"))
        })
        .map(|entry| entry.path())
        .collect();
    weights.sort();
    let located = side_files::locations(model).map_err(|source| unreadable(model, source))?;
    let located = located.iter().map(|location| folder.join(location));
    // A missing file is reported by ONNX Runtime.
    let others: Vec<PathBuf> = located.filter(|path| path.is_file() && !weights.contains(path)).collect();
    for path in weights.iter().chain(&others) {
        hasher.update(ContentHash::of_file(path)?.as_bytes());
    }
    Ok(())
}

fn resolve_image(
    dir: &Path,
    path: &Path,
    image: ImageToml,
    defaults: &ImageDefaults,
) -> Result<ImageSettings, ExtractError> {
    defaults.require_rgb()?;
    let size = if image.size.is_some() { image.size } else { defaults.size()? };
    if size.is_some_and(|size| size == 0 || size > lgd_data::render::MAX_SIZE) {
        return Err(ExtractError::setting(
            path,
            format!("[image] size = {}: out of range", size.unwrap_or(0)),
            "",
        ));
    }
    let normalization = match (image.mean, image.std) {
        (Some(mean), Some(std)) => Normalization { mean, std },
        (None, None) => defaults.normalization()?.ok_or_else(|| {
            ExtractError::setting(
                path,
                "[image] mean and std are neither here nor in preprocessor_config.json or open_clip_config.json",
                "CLIP: mean = [0.48145466, 0.4578275, 0.40821073], std = [0.26862954, 0.26130258, 0.27577711]; \
                 torchvision: mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]",
            )
        })?,
        _ => return Err(ExtractError::setting(path, "[image] mean and std must be given together", "")),
    };
    // Pixels are in 0..1. A mean far outside that range is meant for bytes and would silently make a whole cache
    // useless.
    let usable = normalization.mean.iter().all(|mean| mean.abs() <= 2.0)
        && normalization.std.iter().all(|std| *std > 0.0 && *std <= 2.0);
    if !usable {
        return Err(ExtractError::setting(
            path,
            format!("[image] {normalization:?}: expected means within -2..2 and std above 0, at most 2"),
            "they are for pixels in 0..1; divide values for bytes by 255",
        ));
    }
    let resample = match image.resample {
        Some(name) => resample_of(name),
        None => defaults.resample()?.unwrap_or(Resample::Bicubic),
    };
    let center_fraction = match image.center_fraction {
        Some(fraction) => Some(fraction),
        None => defaults.center_fraction()?,
    };
    Ok(ImageSettings {
        model: dir.join(image.model.unwrap_or_else(|| "image.onnx".into())),
        size,
        normalization,
        resample,
        center: center_fraction.map(CenterCrop::shortest),
        center_source: image.center_fraction.map(|_| TEACHER_TOML.to_owned()),
        layout: image.layout.map(|name| match name {
            LayoutName::Nchw => PixelLayout::Nchw,
            LayoutName::Nhwc => PixelLayout::Nhwc,
        }),
        input: image.input,
        output: image.output,
        pooling: image.pooling,
        prefix_tokens: image.prefix_tokens.unwrap_or(0),
        features: image.features,
        tokens: image.tokens,
        token_grid: image.token_grid,
    })
}

fn resample_of(name: ResampleName) -> Resample {
    match name {
        ResampleName::Nearest => Resample::Nearest,
        ResampleName::Bilinear => Resample::Bilinear,
        ResampleName::Bicubic => Resample::Bicubic,
        ResampleName::Lanczos => Resample::Lanczos,
    }
}

fn resolve_text(
    dir: &Path,
    path: &Path,
    text: TextToml,
    defaults: &ImageDefaults,
) -> Result<TextSettings, ExtractError> {
    let tokenizer = dir.join(text.tokenizer.unwrap_or_else(|| "tokenizer.json".into()));
    let beside = tokenizer_files::read(&tokenizer)?;
    let context_length = text
        .context_length
        .or(defaults.context_length())
        .or(beside.context_length.filter(|length| *length <= MAX_CONTEXT));
    if context_length.is_some_and(|length| !(1..=MAX_CONTEXT).contains(&length)) {
        let reason = format!("[text] context_length = {}: out of range", context_length.unwrap_or(0));
        return Err(ExtractError::setting(path, reason, ""));
    }
    Ok(TextSettings {
        model: dir.join(text.model.unwrap_or_else(|| "text.onnx".into())),
        tokenizer,
        context_length,
        padding: text.padding,
        pad_id: text.pad_id.or(beside.pad_id),
        input: text.input,
        output: text.output,
        pooling: text.pooling,
    })
}

#[cfg(test)]
mod tests;
