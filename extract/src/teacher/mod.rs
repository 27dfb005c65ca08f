//! A teacher: a folder with an image model and, if it knows language, a text model and a tokenizer.
//!
//! ```text
//! teacher/model.onnx or image.onnx, vision_model.onnx, visual.onnx, text.onnx, text_model.onnx, textual.onnx
//! teacher/onnx/                         the same names, if the models are not beside the other files
//! teacher/tokenizer.json
//! teacher/config.json, preprocessor_config.json, open_clip_config.json, ...    as exporters write them
//! teacher/teacher.toml                  optional: values that differ from the files'
//! ```
//!
//! Every setting is resolved from these files; `teacher.toml` overrides them value by value. Opening a teacher reads
//! only the small files. Encoding prompts never loads the image model, and encoding images never loads the text model.

mod former_hash;
mod image_settings;
mod model_config;
mod models;
mod onnx;
mod preprocessing;
mod resolved;
mod sentence;
mod settings;
mod sourced;
mod text_settings;
mod tokenizer;
mod toml_file;

use std::path::{Path, PathBuf};

use lgd_data::align::Align;
use lgd_data::manifest::{ContentHash, Verify};

pub use resolved::Resolved;
pub(crate) use sentence::SentencePipeline;
pub use settings::{ImageSettings, KnownModel, Pooling};
pub use text_settings::{Clean, Padding, PaddingSide, TextPooling, TextSettings};
pub(crate) use tokenizer::{Demand, Family, PromptTokenizer, Tokens};

use crate::device::Slot;
use crate::encoder::{EncoderOptions, ImageEncoder, Outputs, TextEncoder};
use crate::error::ExtractError;
use crate::lfs::refuse_pointer_file;
use crate::runtime::Runtime;
use image_settings::ImageSources;
use models::{IMAGE_NAMES, Models, TEXT_NAMES, searched};
pub(crate) use onnx::OnnxFile;
use preprocessing::Preprocessing;
use sourced::Sourced;
pub use toml_file::TEACHER_TOML;
use toml_file::{ImageToml, TeacherToml, TextToml};

/// What a folder without a usable teacher lacks.
const FOLDER_HINT: &str = "a teacher is a folder with an image model and, if it knows language, a text model and its tokenizer, as \
     exporters write them, or with teacher.toml, which names them";

/// Source of a model that `teacher.toml` does not name.
const FOUND: &str = "found by its name and inputs";

/// A teacher's settings. The image settings are resolved, and the models opened, on demand.
#[derive(Clone, Debug)]
pub struct Teacher {
    dir: PathBuf,
    name: String,
    /// Whether there is a `teacher.toml`.
    described: bool,
    image: Option<ImageToml>,
    models: Models,
    preprocessing: Preprocessing,
    text: Option<TextSettings>,
    /// Where the text model's name comes from.
    text_model_source: &'static str,
    /// Whether `teacher.toml` has a section `[text]`. Without one, a text model that is found may be incomplete.
    text_is_described: bool,
}

impl Teacher {
    /// Finds the models in `dir`, and reads `teacher.toml` and the files that exporters write beside a model. Opens
    /// no model.
    ///
    /// # Errors
    /// [`ExtractError::TeacherFile`] if a file cannot be read; [`ExtractError::TeacherSetting`] if a key is unknown,
    /// a value is out of range, or there is neither `teacher.toml` nor a model.
    pub fn open(dir: &Path) -> Result<Self, ExtractError> {
        let path = dir.join(TEACHER_TOML);
        let parsed = TeacherToml::read(&path)?;
        let described = parsed.is_some();
        let TeacherToml { name, image, text } = parsed.unwrap_or_default();
        let mut models = Models::find(dir)?;
        let text_is_described = text.is_some();
        let text_is_named = text.as_ref().is_some_and(|text| text.model.is_some());
        models.share(
            dir,
            image.as_ref().and_then(|image| image.model.as_deref()),
            text.as_ref().and_then(|text| text.model.as_deref()),
        );
        if image.is_none() && text.is_none() && models.image.is_none() && models.text.is_none() {
            let expected = format!("no {TEACHER_TOML} and no model: looked for {}", searched(IMAGE_NAMES));
            return Err(ExtractError::setting(dir, format!("{expected}{}", models.others()), FOLDER_HINT));
        }
        let preprocessing = Preprocessing::read(dir)?;
        let folder_name = || dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
        let set_size = image.as_ref().and_then(|image| image.size);
        let image_size = set_size.or_else(|| preprocessing.size().ok().flatten().map(|size| size.value));
        let text = (text.is_some() || models.text.is_some())
            .then(|| resolve_text(dir, text.unwrap_or_default(), &models, image_size));
        Ok(Self {
            name: name.unwrap_or_else(folder_name),
            described,
            image,
            models,
            preprocessing,
            text,
            text_model_source: if text_is_named { TEACHER_TOML } else { FOUND },
            text_is_described,
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
    /// [`ExtractError::TeacherSetting`] if there is no image model, a value is out of range, a required value is
    /// missing, files contradict each other, or the preprocessing that they describe cannot be followed.
    pub fn image(&self) -> Result<ImageSettings, ExtractError> {
        let none = ImageToml::default();
        let toml = self.image.as_ref().unwrap_or(&none);
        let model = match (&toml.model, &self.models.image) {
            (Some(model), _) => Sourced::new(model.clone(), TEACHER_TOML),
            (None, Some(model)) => Sourced::new(model.clone(), FOUND),
            (None, None) if self.image.is_some() && self.models.unused.is_empty() => {
                Sourced::new(PathBuf::from("image.onnx"), "assumed")
            }
            (None, None) => return Err(self.no_model("image", IMAGE_NAMES)),
        };
        let toml_path = self.dir.join(TEACHER_TOML);
        ImageSources {
            dir: &self.dir,
            place: if self.described { &toml_path } else { &self.dir },
            toml,
            model,
            preprocessing: &self.preprocessing,
            beside_text: self.has_text(),
        }
        .resolve()
    }

    /// Settings of the text model.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if there is no text model.
    pub fn text(&self) -> Result<&TextSettings, ExtractError> {
        let text = self.text.as_ref().filter(|_| self.models.text.is_some());
        text.ok_or_else(|| self.no_model("text", TEXT_NAMES))
    }

    /// The text model, relative to the folder if it is in it, with the source of its name.
    ///
    /// # Errors
    /// Same as [`Teacher::text`].
    pub fn text_model(&self) -> Result<Resolved, ExtractError> {
        let model = &self.text()?.model;
        let model = model.strip_prefix(&self.dir).unwrap_or(model).display().to_string();
        Ok(Resolved::new("model", model, self.text_model_source))
    }

    /// Whether the teacher has an image model.
    pub fn has_image(&self) -> bool {
        self.image.is_some() || self.models.image.is_some()
    }

    /// Whether the teacher has a text model.
    pub fn has_text(&self) -> bool {
        self.text.is_some()
    }

    /// Models in the folder that are not used, relative to it, such as other precisions.
    pub fn unused_models(&self) -> &[PathBuf] {
        &self.models.unused
    }

    fn no_model(&self, encoder: &str, names: &str) -> ExtractError {
        let reason = format!(
            "{} and there is no {encoder} model: looked for {}{}",
            if self.text.is_some() && encoder == "text" {
                format!("[{encoder}] in {TEACHER_TOML} names no model,")
            } else {
                format!("there is no [{encoder}] in {TEACHER_TOML}")
            },
            searched(names),
            self.models.others()
        );
        let align = if encoder == "text" { "; for a teacher without language see lgd align" } else { "" };
        let hint = format!("name it in {TEACHER_TOML}: [{encoder}] model = \"FILE\"{align}");
        ExtractError::setting(&self.dir, reason, hint)
    }

    /// Hash of the text encoder, for a cache of images: `None` if there is none, or if nobody named it and it is
    /// incomplete.
    ///
    /// # Errors
    /// [`ExtractError::Artifact`] if a file of a text encoder that `teacher.toml` names cannot be read.
    pub(crate) fn text_identity(&self) -> Result<Option<ContentHash>, ExtractError> {
        match (&self.text, self.text_is_described) {
            (None, _) => Ok(None),
            (Some(_), true) => self.text_hash().map(Some),
            (Some(_), false) => Ok(self.text_hash().ok()),
        }
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

    /// BLAKE3 hash of the text model, including weights in separate files, and of the bridge behind it, if there is one. A
    /// cache records the text encoder under it. Tokenizer and settings are not part of it: they can change without another
    /// embedding space, and they are resolved only when the model is opened.
    ///
    /// # Errors
    /// [`ExtractError::Artifact`] if a file cannot be read.
    pub fn text_hash(&self) -> Result<ContentHash, ExtractError> {
        let model = self.text_model_hash()?;
        Ok(self.align()?.map_or(model, |align| align.hash_behind(model)))
    }

    fn text_model_hash(&self) -> Result<ContentHash, ExtractError> {
        let mut hasher = blake3::Hasher::new();
        hash_model(&mut hasher, &self.text()?.model)?;
        Ok(hasher.finalize().into())
    }

    /// The bridge behind the text model.
    fn align(&self) -> Result<Option<Align>, ExtractError> {
        let dir = self.text.as_ref().and_then(|text| text.align.as_deref());
        Ok(dir.map(|dir| Align::open(dir, Verify::Full)).transpose()?)
    }

    /// The hash under which versions up to 0.1 recorded this text encoder, if they could have used it.
    ///
    /// # Errors
    /// [`ExtractError::Artifact`] if a file cannot be read.
    pub fn former_text_hash(&self) -> Result<Option<ContentHash>, ExtractError> {
        let text = self.text()?;
        // Those versions knew no bridge.
        if text.align.is_some() { Ok(None) } else { former_hash::former_hash(text) }
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
        TextEncoder::open(runtime, self.text()?, self.text_model_hash()?, self.align()?, options)
    }
}

/// Adds a model to a hash: its file, then the files beside it whose names mark them as its weights, then the other
/// files that it refers to. Existing caches contain this hash. The files found by name come first because an earlier
/// version hashed only those.
fn hash_model(hasher: &mut blake3::Hasher, model: &Path) -> Result<(), ExtractError> {
    refuse_pointer_file(model)?;
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
    let file = OnnxFile::read(model).map_err(|source| unreadable(model, source))?;
    let located = file.weights.keys().map(|location| folder.join(location));
    // A missing file is reported by ONNX Runtime.
    let others: Vec<PathBuf> = located.filter(|path| path.is_file() && !weights.contains(path)).collect();
    for path in weights.iter().chain(&others) {
        hasher.update(ContentHash::of_file(path)?.as_bytes());
    }
    Ok(())
}

/// The settings of the text side. The tokenizer's files are read when the encoder is opened.
fn resolve_text(dir: &Path, text: TextToml, models: &Models, image_size: Option<u32>) -> TextSettings {
    TextSettings {
        model: dir.join(text.model.or(models.text.clone()).unwrap_or_else(|| "text.onnx".into())),
        dir: dir.to_owned(),
        tokenizer: text.tokenizer.map(|tokenizer| dir.join(tokenizer)),
        context_length: text.context_length,
        padding: text.padding,
        padding_side: text.padding_side,
        pad_id: text.pad_id,
        clean: text.clean,
        input: text.input,
        output: text.output,
        pooling: text.pooling,
        align: text.align.map(|align| dir.join(align)),
        image_size,
    }
}

#[cfg(test)]
mod tests;
