//! Finds the models of a folder by their names and inputs.
//!
//! | encoder | names, in the folder, then in `onnx/` |
//! |---|---|
//! | image | `image.onnx`, `vision_model.onnx`, `visual.onnx`, `model.onnx` |
//! | text | `text.onnx`, `text_model.onnx`, `textual.onnx`, `model.onnx` |
//!
//! `model.onnx` is the encoder that its inputs belong to, or both. A folder with one model of any other name has that
//! one. Variants such as `vision_model_quantized.onnx` are never chosen, because their embeddings differ.

use std::path::{Path, PathBuf};

use super::onnx::OnnxFile;
use super::sourced::Sourced;
use super::toml_file::TEACHER_TOML;
use crate::error::ExtractError;

/// Subfolder in which exporters put models.
const SUBFOLDER: &str = "onnx";
const IMAGE: &[&str] = &["image", "vision_model", "visual"];
const TEXT: &[&str] = &["text", "text_model", "textual"];
const EITHER: &str = "model";
/// Ends of the names of variants: other precisions, and files that an optimizer wrote.
const VARIANTS: &[&str] = &[
    "fp16",
    "fp32",
    "bf16",
    "float16",
    "quantized",
    "int8",
    "uint8",
    "int4",
    "uint4",
    "q4",
    "q4f16",
    "q8",
    "bnb4",
    "O1",
    "O2",
    "O3",
    "O4",
    "optimized",
];

/// The models of a folder. Paths are relative to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Models {
    /// The image model, and where its name comes from.
    pub image: Option<Sourced<PathBuf>>,
    /// The text model, and where its name comes from.
    pub text: Option<Sourced<PathBuf>>,
    /// Other models, in order of their paths.
    pub unused: Vec<PathBuf>,
    /// All models in the folder, in order of their paths.
    all: Vec<PathBuf>,
}

impl Models {
    /// Finds the models of the folder `dir`.
    ///
    /// # Errors
    /// [`ExtractError::TeacherFile`] if a folder cannot be read.
    pub(crate) fn find(dir: &Path) -> Result<Self, ExtractError> {
        let all = list(dir)?;
        let named = |name: &str| {
            let in_folder = |folder: &str| {
                all.iter().find(|path| **path == Path::new(folder).join(format!("{name}.onnx")))
            };
            (in_folder(""), in_folder(SUBFOLDER))
        };
        let first = |names: &[&str]| {
            let found: Vec<_> = names.iter().map(|name| named(name)).collect();
            let in_folder = found.iter().find_map(|(above, _)| *above);
            in_folder.or_else(|| found.iter().find_map(|(_, below)| *below)).cloned()
        };
        let by_name = |names: &[&str]| first(names).map(|path| Sourced::new(path, "found by its name"));
        let (mut image, mut text) = (by_name(IMAGE), by_name(TEXT));
        let either = first(&[EITHER]).map(|path| Sourced::new(path, "found by its name and inputs"));
        let either = either.or_else(|| match all.as_slice() {
            [only] if !is_variant(only) => {
                Some(Sourced::new(only.clone(), "the only model; its inputs say which encoder it is"))
            }
            _ => None,
        });
        if let Some(model) = either.filter(|_| image.is_none() || text.is_none()) {
            let (pixels, tokens) = takes(&dir.join(&model.value));
            // A model whose inputs cannot be read is reported when it is opened.
            if image.is_none() && (pixels || !tokens && text.is_none()) {
                image = Some(model.clone());
            }
            if text.is_none() && tokens {
                text = Some(model);
            }
        }
        Ok(Self { image, text, unused: Vec::new(), all }.with_unused())
    }

    /// Takes account of the models that `teacher.toml` names: they replace those found, and one that has both inputs
    /// serves as the other encoder if there is none.
    pub(crate) fn share(&mut self, dir: &Path, image: Option<&Path>, text: Option<&Path>) {
        let both = |model: &Path| takes(&dir.join(model)) == (true, true);
        let shared = |model: &Path, section: &str| {
            let source = format!("{TEACHER_TOML}: the model of [{section}] takes pixels and tokens");
            Some(Sourced::new(model.to_owned(), source))
        };
        if let Some(model) = image {
            self.image = Some(Sourced::new(model.to_owned(), TEACHER_TOML));
            if text.is_none() && self.text.is_none() && both(model) {
                self.text = shared(model, "image");
            }
        }
        if let Some(model) = text {
            self.text = Some(Sourced::new(model.to_owned(), TEACHER_TOML));
            if image.is_none() && self.image.is_none() && both(model) {
                self.image = shared(model, "text");
            }
        }
        *self = std::mem::take(self).with_unused();
    }

    fn with_unused(mut self) -> Self {
        let used = [&self.image, &self.text].map(|model| model.as_ref().map(|model| &model.value));
        self.unused = self.all.iter().filter(|path| !used.contains(&Some(*path))).cloned().collect();
        self
    }

    /// The unused models, for messages: "; the folder has a.onnx, b.onnx"; empty if there are none.
    pub(crate) fn others(&self) -> String {
        in_folder(&self.unused)
    }

    /// All models, for messages, in the form of [`Models::others`].
    pub(crate) fn listed(&self) -> String {
        in_folder(&self.all)
    }
}

fn in_folder(models: &[PathBuf]) -> String {
    let names: Vec<String> = models.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { String::new() } else { format!("; the folder has {}", names.join(", ")) }
}

/// Whether the model at `path` takes pixels, and whether it takes tokens; neither if it cannot be read.
fn takes(path: &Path) -> (bool, bool) {
    OnnxFile::read(path).map_or((false, false), |file| (file.takes_pixels(), file.takes_tokens()))
}

/// The names that a model is looked for under, for messages.
pub(crate) fn searched(names: &str) -> String {
    format!("{names} here and in {SUBFOLDER}/")
}

/// Names of image models, for messages.
pub(crate) const IMAGE_NAMES: &str = "image.onnx, vision_model.onnx, visual.onnx and model.onnx";
/// Names of text models, for messages.
pub(crate) const TEXT_NAMES: &str = "text.onnx, text_model.onnx, textual.onnx and model.onnx";

/// All ONNX files in `dir` and its subfolder, relative to `dir`.
fn list(dir: &Path) -> Result<Vec<PathBuf>, ExtractError> {
    let mut found = Vec::new();
    for folder in ["", SUBFOLDER] {
        let path = dir.join(folder);
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !folder.is_empty() => continue,
            entries => entries.map_err(|source| unreadable(&path, source))?,
        };
        for entry in entries {
            let name = PathBuf::from(entry.map_err(|source| unreadable(&path, source))?.file_name());
            // Files that begin with a dot are an editor's or an operating system's.
            let hidden = name.to_string_lossy().starts_with('.');
            if name.extension().is_some_and(|extension| extension == "onnx") && !hidden {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a model is another precision of a model with a shorter name.
fn is_variant(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    stem.rsplit_once('_').is_some_and(|(_, end)| VARIANTS.contains(&end))
}

fn unreadable(path: &Path, source: std::io::Error) -> ExtractError {
    ExtractError::TeacherFile { path: path.to_owned(), source, hint: "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::onnx::tests::{Takes, model_that_takes};

    fn find(files: &[(&str, Takes)]) -> (Option<String>, Option<String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(SUBFOLDER)).unwrap();
        for (name, takes) in files {
            std::fs::write(dir.path().join(name), model_that_takes(*takes)).unwrap();
        }
        let found = Models::find(dir.path()).unwrap();
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let name = |model: Sourced<PathBuf>| text(model.value);
        (found.image.map(name), found.text.map(name), found.unused.into_iter().map(text).collect())
    }

    #[test]
    fn models_are_found_by_name_and_inputs() {
        use Takes::{Both, Nothing, Pixels, Tokens};
        for (files, image, text, unused) in [
            (vec![("image.onnx", Pixels), ("text.onnx", Tokens)], "image.onnx", "text.onnx", vec![]),
            // optimum: one graph for both.
            (vec![("model.onnx", Both)], "model.onnx", "model.onnx", vec![]),
            (vec![("onnx/model.onnx", Both)], "onnx/model.onnx", "onnx/model.onnx", vec![]),
            (vec![("model.onnx", Pixels)], "model.onnx", "", vec![]),
            (vec![("model.onnx", Tokens)], "", "model.onnx", vec![]),
            // transformers.js: both layouts and their variants.
            (
                vec![
                    ("onnx/model.onnx", Both),
                    ("onnx/text_model.onnx", Tokens),
                    ("onnx/vision_model.onnx", Pixels),
                    ("onnx/vision_model_fp16.onnx", Pixels),
                ],
                "onnx/vision_model.onnx",
                "onnx/text_model.onnx",
                vec!["onnx/model.onnx", "onnx/vision_model_fp16.onnx"],
            ),
            (
                vec![("onnx/model.onnx", Both), ("vision_model.onnx", Pixels)],
                "vision_model.onnx",
                "onnx/model.onnx",
                vec![],
            ),
            (vec![("visual.onnx", Pixels), ("textual.onnx", Tokens)], "visual.onnx", "textual.onnx", vec![]),
            // Immich's layout of open_clip exports is folders of their own; a lone model has any name.
            (vec![("dino.onnx", Pixels)], "dino.onnx", "", vec![]),
            (vec![("minilm.onnx", Tokens)], "", "minilm.onnx", vec![]),
            (vec![("a.onnx", Pixels), ("b.onnx", Pixels)], "", "", vec!["a.onnx", "b.onnx"]),
            (vec![("model_quantized.onnx", Pixels)], "", "", vec!["model_quantized.onnx"]),
            (vec![("model.onnx", Nothing)], "model.onnx", "", vec![]),
            (vec![("text.onnx", Tokens), ("model.onnx", Nothing)], "", "text.onnx", vec!["model.onnx"]),
            (vec![], "", "", vec![]),
        ] {
            let expected = [image, text].map(|name| (!name.is_empty()).then(|| name.to_owned()));
            let [image, text] = expected;
            assert_eq!(
                find(&files),
                (image, text, unused.into_iter().map(str::to_owned).collect()),
                "{files:?}"
            );
        }
    }

    #[test]
    fn every_model_says_how_it_was_found() {
        use Takes::{Both, Pixels, Tokens};
        for (files, image, text) in [
            (vec![("visual.onnx", Pixels), ("text.onnx", Tokens)], "found by its name", "found by its name"),
            (
                vec![("visual.onnx", Pixels), ("model.onnx", Tokens)],
                "found by its name",
                "found by its name and inputs",
            ),
            (vec![("clip.onnx", Both)], "the only model;", "the only model;"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for (name, takes) in &files {
                std::fs::write(dir.path().join(name), model_that_takes(*takes)).unwrap();
            }
            let found = Models::find(dir.path()).unwrap();
            for (model, source) in [(found.image, image), (found.text, text)] {
                assert!(model.unwrap().source.starts_with(source), "{files:?}");
            }
        }
    }

    #[test]
    fn a_named_graph_with_both_inputs_serves_as_both_encoders() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("clip.onnx"), model_that_takes(Takes::Both)).unwrap();
        std::fs::write(dir.path().join("other.onnx"), model_that_takes(Takes::Pixels)).unwrap();
        let found = Models::find(dir.path()).unwrap();
        assert_eq!((&found.image, &found.text), (&None, &None));
        assert_eq!(found.others(), "; the folder has clip.onnx, other.onnx");
        for (image, text, expected) in [
            (Some("clip.onnx"), None, [Some("clip.onnx"), Some("clip.onnx")]),
            (None, Some("clip.onnx"), [Some("clip.onnx"), Some("clip.onnx")]),
            (Some("other.onnx"), None, [Some("other.onnx"), None]),
            (Some("other.onnx"), Some("clip.onnx"), [Some("other.onnx"), Some("clip.onnx")]),
        ] {
            let mut models = found.clone();
            models.share(dir.path(), image.map(Path::new), text.map(Path::new));
            let source = |model: &Sourced<PathBuf>, set: bool| match set {
                true => assert_eq!(model.source, TEACHER_TOML),
                false => assert!(model.source.contains("takes pixels and tokens"), "{}", model.source),
            };
            models.image.iter().for_each(|model| source(model, image.is_some()));
            models.text.iter().for_each(|model| source(model, text.is_some()));
            let got = [models.image, models.text].map(|model| model.map(|model| model.value));
            assert_eq!(got, expected.map(|name| name.map(PathBuf::from)));
        }
    }
}
