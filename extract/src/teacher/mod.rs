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

mod folder;
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
mod unexported;

use std::path::{Path, PathBuf};

use lgd_data::align::Align;
use lgd_data::manifest::{ContentHash, Verify};

pub use resolved::Resolved;
pub(crate) use sentence::SentencePipeline;
pub use settings::{ImageSettings, KnownModel, Pooling};
pub use text_settings::{Clean, Padding, PaddingSide, TextPooling, TextSection, TextSettings};
pub(crate) use tokenizer::{Demand, Family, PromptTokenizer, Tokens};

use crate::device::Slot;
use crate::encoder::{EncoderOptions, ImageEncoder, Outputs, TextEncoder};
use crate::error::ExtractError;
use crate::lfs::refuse_pointer_file;
use crate::runtime::Runtime;
use folder::Folder;
use image_settings::ImageSources;
use models::{IMAGE_NAMES, Models, TEXT_NAMES, searched};
pub(crate) use onnx::OnnxFile;
use preprocessing::Preprocessing;
use sourced::Sourced;
pub use toml_file::TEACHER_TOML;
use toml_file::{ImageToml, TeacherToml};

/// Maximum size of a file with settings, in bytes.
pub(crate) const MAX_SETTINGS_BYTES: u64 = 64 << 20;

/// What a folder must have to be a teacher.
const FOLDER_HINT: &str = "a teacher is a folder with an image model and, if it knows language, a text model and its tokenizer, as \
     exporters write them, or with teacher.toml, which names them";

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
    /// Sentences for the user about the folder.
    notes: Vec<String>,
    /// Whether `teacher.toml` has a section `[text]`. Without one, a text model that is found may be incomplete.
    text_is_described: bool,
}

impl Teacher {
    /// Finds the teacher's folder at `path`, a folder or a repository in the cache of the Hugging Face Hub, and the
    /// models in it, and reads `teacher.toml` and the files that exporters write beside a model. Opens no model.
    ///
    /// # Errors
    /// [`ExtractError::TeacherFile`] if a file cannot be read; [`ExtractError::TeacherSetting`] if `path` is not a
    /// folder, a key is unknown, a value is out of range, or there is neither `teacher.toml` nor a model.
    pub fn open(path: &Path) -> Result<Self, ExtractError> {
        let Folder { dir, name: folder_name, note } = Folder::of(path)?;
        let parsed = TeacherToml::read(&dir.join(TEACHER_TOML))?;
        let described = parsed.is_some();
        let TeacherToml { name, image, text } = parsed.unwrap_or_default();
        let mut models = Models::find(&dir)?;
        let text_is_described = text.is_some();
        models.share(
            &dir,
            image.as_ref().and_then(|image| image.model.as_deref()),
            text.as_ref().and_then(|text| text.model.as_deref()),
        );
        if image.is_none() && text.is_none() && models.image.is_none() && models.text.is_none() {
            return Err(no_teacher(&dir, &models));
        }
        let preprocessing = Preprocessing::read(&dir)?;
        if models.image.is_none() && !described {
            preprocessing.require_pixels()?;
        }
        let set_size = image.as_ref().and_then(|image| image.size);
        let image_size = set_size.or_else(|| preprocessing.size().ok().flatten().map(|size| size.value));
        let text = (text.is_some() || models.text.is_some())
            .then(|| resolve_text(&dir, text.unwrap_or_default(), &models, image_size));
        Ok(Self {
            name: name.unwrap_or(folder_name),
            described,
            image,
            models,
            preprocessing,
            text,
            notes: note.into_iter().collect(),
            text_is_described,
            dir,
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
    /// [`ExtractError::NoModel`] if there is no image model; [`ExtractError::TeacherSetting`] if `teacher.toml` names one
    /// that is not there, a value is out of range, a required value is missing, files contradict each other, or the
    /// preprocessing that they describe cannot be followed.
    pub fn image(&self) -> Result<ImageSettings, ExtractError> {
        let none = ImageToml::default();
        let toml = self.image.as_ref().unwrap_or(&none);
        let model = match &self.models.image {
            Some(model) => model.clone(),
            None if self.image.is_some() && self.models.unused.is_empty() => {
                Sourced::new(PathBuf::from("image.onnx"), "assumed")
            }
            None => return Err(self.no_model("image", IMAGE_NAMES)),
        };
        self.require_file("image", &self.dir.join(&model.value))?;
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
    /// [`ExtractError::NoModel`] if there is no text model.
    pub fn text(&self) -> Result<&TextSettings, ExtractError> {
        let text = self.text.as_ref().filter(|_| self.models.text.is_some());
        text.ok_or_else(|| self.no_model("text", TEXT_NAMES))
    }

    /// The text model, relative to the folder if it is in it, with the source of its name.
    ///
    /// # Errors
    /// Same as [`Teacher::text`].
    pub fn text_model(&self) -> Result<Resolved, ExtractError> {
        let model = self.models.text.as_ref().ok_or_else(|| self.no_model("text", TEXT_NAMES))?;
        Ok(Resolved::new("model", model.value.display().to_string(), model.source.as_str()))
    }

    /// Whether the teacher has an image model.
    pub fn has_image(&self) -> bool {
        self.image.is_some() || self.models.image.is_some()
    }

    /// Whether the teacher has a text model.
    pub fn has_text(&self) -> bool {
        self.text.is_some()
    }

    /// Sentences for the user about how the folder was found.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Models in the folder that are not used, relative to it, such as other precisions.
    pub fn unused_models(&self) -> &[PathBuf] {
        &self.models.unused
    }

    fn no_model(&self, encoder: &'static str, names: &str) -> ExtractError {
        let section = match (self.described, self.text.is_some() && encoder == "text") {
            (_, true) => format!("[{encoder}] in {TEACHER_TOML} names no model, and "),
            (true, false) => format!("{TEACHER_TOML} has no [{encoder}], and "),
            (false, false) => String::new(),
        };
        let reason = format!(
            "{section}there is no {encoder} model: looked for {}{}",
            searched(names),
            self.models.others()
        );
        ExtractError::NoModel { path: self.dir.clone(), encoder, reason }
    }

    /// Fails if the model that `teacher.toml` names is not there.
    fn require_file(&self, section: &str, model: &Path) -> Result<(), ExtractError> {
        let named = match section {
            "image" => self.image.as_ref().is_some_and(|image| image.model.is_some()),
            _ => self.text.as_ref().is_some_and(|text| text.set.model.is_some()),
        };
        if model.exists() || !named {
            return Ok(());
        }
        let reason =
            format!("[{section}] model: there is no file {}{}", model.display(), self.models.listed());
        let hint =
            format!("correct model in {TEACHER_TOML}, or remove the key to have the model found by its name");
        Err(ExtractError::setting(&self.dir.join(TEACHER_TOML), reason, hint))
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
        let model = &self.text()?.model;
        self.require_file("text", model)?;
        let mut hasher = blake3::Hasher::new();
        hash_model(&mut hasher, model)?;
        Ok(hasher.finalize().into())
    }

    /// The bridge behind the text model.
    fn align(&self) -> Result<Option<Align>, ExtractError> {
        let align = self.text.as_ref().and_then(|text| text.set.align.as_ref());
        Ok(align.map(|align| Align::open(&self.dir.join(align), Verify::Full)).transpose()?)
    }

    /// The hash under which versions up to 0.1 recorded this text encoder, if they could have used it.
    ///
    /// # Errors
    /// [`ExtractError::Artifact`] if a file cannot be read.
    pub fn former_text_hash(&self) -> Result<Option<ContentHash>, ExtractError> {
        let text = self.text()?;
        // Those versions knew no bridge.
        if text.set.align.is_some() { Ok(None) } else { former_hash::former_hash(text) }
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
fn resolve_text(dir: &Path, set: TextSection, models: &Models, image_size: Option<u32>) -> TextSettings {
    let model = models.text.as_ref().map_or(Path::new("text.onnx"), |model| &model.value);
    TextSettings { model: dir.join(model), dir: dir.to_owned(), set, image_size }
}

/// The error for a folder without any model, with the way to one.
fn no_teacher(dir: &Path, models: &Models) -> ExtractError {
    let missing = format!("no {TEACHER_TOML} and no model: looked for {}", searched(IMAGE_NAMES));
    match unexported::remedy(dir).filter(|_| models.unused.is_empty()) {
        Some((weights, hint)) => {
            let reason = format!(
                "{missing}; the folder has {}, weights that were not exported to ONNX",
                weights.join(", ")
            );
            ExtractError::setting(dir, reason, hint)
        }
        None if models.unused.is_empty() => ExtractError::setting(dir, missing, FOLDER_HINT),
        None => {
            let hint = format!("name one in {TEACHER_TOML}: [image] model = \"FILE\"");
            ExtractError::setting(dir, format!("{missing}{}", models.others()), hint)
        }
    }
}

#[cfg(test)]
mod tests;
