//! Errors of teachers, encoders and the pipeline: which file or model, what was expected, and what was found.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use lgd_data::ArtifactError;
use lgd_data::projection::ProjectionError;
use lgd_data::source::SourceError;

/// An error of ONNX Runtime, a tokenizer or a parser, or words if there is no such error.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a teacher cannot be used or an extraction cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// No ONNX Runtime library was found.
    #[error(
        "ONNX Runtime was not found; looked at {}\nhint: run scripts/setup runtime, or set ORT_DYLIB_PATH to the full path of {}",
        list(tried),
        library_name()
    )]
    RuntimeMissing {
        /// Every path that was tried, in order.
        tried: Vec<PathBuf>,
    },
    /// A library was found but cannot be used.
    #[error("{}: not a usable ONNX Runtime library: {source}\nhint: version 1.24 or later is needed; run scripts/setup runtime", path.display())]
    RuntimeLoad {
        /// The library.
        path: PathBuf,
        /// The loader's error.
        source: Cause,
    },
    /// A second library was asked for in one process.
    #[error("ONNX Runtime is already loaded from {}; {} cannot be loaded beside it", loaded.display(), asked.display())]
    RuntimeConflict {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        asked: PathBuf,
    },
    /// A device that cannot be parsed.
    #[error("device '{asked}': {reason}\nhint: one of cpu, cuda:0, cuda:0,1, tensorrt:0")]
    DeviceSyntax {
        /// The value given.
        asked: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A device that this program or library cannot use. There is never a fall-back to another device.
    #[error("device {device} cannot be used: {reason}{}", hint_line(hint))]
    DeviceUnavailable {
        /// The device asked for.
        device: String,
        /// Why not.
        #[source]
        reason: Cause,
        /// The remedy; may be empty.
        hint: &'static str,
    },
    /// A teacher's file cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), hint_line(hint))]
    TeacherFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
        /// The remedy; may be empty.
        hint: &'static str,
    },
    /// A teacher's file is not TOML or JSON, or not of the expected form.
    #[error("{}: {}", path.display(), source.to_string().trim_end())]
    TeacherSyntax {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Cause,
    },
    /// A teacher's setting is malformed, missing, or contradicts another.
    #[error("{}: {reason}{}", path.display(), hint_line(hint))]
    TeacherSetting {
        /// The file that holds, or should hold, the setting.
        path: PathBuf,
        /// Key and value, and what is wrong.
        reason: String,
        /// The remedy; may be empty.
        hint: String,
    },
    /// A model that ONNX Runtime refuses to load.
    #[error("{}: ONNX Runtime cannot load the model on {device}: {source}", path.display())]
    ModelLoad {
        /// The model.
        path: PathBuf,
        /// The device it was to run on.
        device: String,
        /// The runtime's error.
        source: Cause,
    },
    /// A model whose inputs or outputs do not fit the teacher's settings, or cannot be used.
    #[error("{}: expected {expected}, got {got}{}", path.display(), hint_line(hint))]
    ModelInterface {
        /// The model.
        path: PathBuf,
        /// The interface needed.
        expected: String,
        /// The model's interface.
        got: String,
        /// The remedy; may be empty.
        hint: String,
    },
    /// A model that failed while running.
    #[error("{}: inference failed: {source}", path.display())]
    Inference {
        /// The model.
        path: PathBuf,
        /// The runtime's error.
        source: Cause,
    },
    /// A tokenizer that cannot be loaded or that failed.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// The tokenizer's error.
        source: Cause,
    },
    /// A prompt whose embedding cannot be normalized.
    #[error("{}: the embedding of prompt '{prompt}' is {fault}", path.display())]
    PromptEmbedding {
        /// The text model.
        path: PathBuf,
        /// The prompt.
        prompt: String,
        /// "all zeros" or "not finite".
        fault: String,
    },
    /// Tokens whose projection cannot be fitted.
    #[error("the tokens of {views} views cannot be projected: {source}")]
    Projection {
        /// Views that were to be fitted to.
        views: usize,
        /// What is wrong with them.
        source: ProjectionError,
    },
    /// The cache was started with other settings than this extraction's.
    #[error(
        "{what}: the cache was started with {expected}, but this run has {got}\nhint: use the same settings with --resume, or another folder"
    )]
    CacheMismatch {
        /// The setting.
        what: &'static str,
        /// Its value in the cache.
        expected: String,
        /// Its value now.
        got: String,
    },
    /// The storage of the images has failed. Rejecting them would leave out sound samples for good.
    #[error(
        "{source}\nhint: not the file but the storage seems to have failed: see to it, then run again with --resume; complete shards are \
         kept. If it is the file alone, empty it, and it will be rejected"
    )]
    Storage {
        /// The first image that could not be read, and why.
        source: SourceError,
    },
    /// A folder on disk cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The job was asked to stop. Complete shards stay; the rest is done by a later run.
    #[error(
        "interrupted; only complete shards are kept\nhint: run again with --resume to do the rest; a smaller --shard-samples keeps more"
    )]
    Interrupted,
}

impl ExtractError {
    /// Whether this is the answer to a request to stop, and not a failure.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    pub(crate) fn setting(path: &Path, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::TeacherSetting { path: path.to_owned(), reason: reason.into(), hint: hint.into() }
    }

    pub(crate) fn syntax(path: &Path, source: impl Into<Cause>) -> Self {
        Self::TeacherSyntax { path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn inference(path: &Path, source: impl Into<Cause>) -> Self {
        Self::Inference { path: path.to_owned(), source: source.into() }
    }
}

/// File name of the ONNX Runtime library on this system.
pub(crate) fn library_name() -> String {
    format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}
