//! Errors of teachers, encoders and the pipeline. They name the file or model, what was expected, and what was found.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use lgd_data::ArtifactError;
use lgd_data::projection::ProjectionError;
use lgd_data::source::SourceError;

/// An error of ONNX Runtime, a tokenizer or a parser, or a message.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Reasons why a teacher cannot be used or an extraction fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// No ONNX Runtime library was found.
    #[error("ONNX Runtime was not found: looked for {}", list(tried))]
    RuntimeMissing {
        /// Every path that was tried, in order.
        tried: Vec<PathBuf>,
    },
    /// A library was found but is not usable.
    #[error("{}: expected the library of ONNX Runtime 1.24 or later: {source}", path.display())]
    RuntimeLoad {
        /// The library.
        path: PathBuf,
        /// The loader's error.
        source: Cause,
    },
    /// A second library was requested in one process.
    #[error("ONNX Runtime is already loaded from {}; {} cannot be loaded beside it", loaded.display(), asked.display())]
    RuntimeConflict {
        /// The library in use.
        loaded: PathBuf,
        /// The requested library.
        asked: PathBuf,
    },
    /// A device string cannot be parsed.
    #[error("device '{asked}': {reason}\nhint: one of cpu, cuda:0, cuda:0,1, tensorrt:0")]
    DeviceSyntax {
        /// The given string.
        asked: String,
        /// The problem.
        reason: String,
    },
    /// The program was built without the code for the device. It never falls back to another device.
    #[error("device {device} cannot be used: the program was built without {feature}")]
    DeviceNotBuilt {
        /// The requested device.
        device: String,
        /// The cargo feature with its code.
        feature: &'static str,
    },
    /// The library or the machine cannot use the device. The program never falls back to another device.
    #[error("device {device} cannot be used: {reason}{}", hint_line(hint))]
    DeviceUnavailable {
        /// The requested device.
        device: String,
        /// The reason.
        #[source]
        reason: Cause,
        /// The remedy; may be empty.
        hint: &'static str,
    },
    /// A file of the teacher's folder cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), hint_line(hint))]
    TeacherFile {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
        /// The remedy; may be empty.
        hint: &'static str,
    },
    /// A file of the teacher's folder is not valid TOML or JSON, or does not have the expected structure.
    #[error("{}: {}", path.display(), source.to_string().trim_end())]
    TeacherSyntax {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Cause,
    },
    /// A setting of the teacher is malformed, missing, or contradicts another one.
    #[error("{}: {reason}{}", path.display(), hint_line(hint))]
    TeacherSetting {
        /// The file that contains the setting, or should.
        path: PathBuf,
        /// Key, value and problem.
        reason: String,
        /// The remedy; may be empty.
        hint: String,
    },
    /// The teacher has no image model or no text model.
    #[error("{}: {reason}", path.display())]
    NoModel {
        /// The teacher's folder.
        path: PathBuf,
        /// "image" or "text".
        encoder: &'static str,
        /// The names that were looked for, and the models that are there.
        reason: String,
    },
    /// ONNX Runtime cannot load a model.
    #[error("{}: ONNX Runtime cannot load the model on {device}{}\n{source}", path.display(), hint_line(hint))]
    ModelLoad {
        /// The model.
        path: PathBuf,
        /// The device for the model.
        device: String,
        /// The remedy; may be empty.
        hint: &'static str,
        /// The runtime's error, in one line.
        source: Cause,
    },
    /// A model's inputs or outputs do not match the teacher's settings or are not supported.
    #[error("{}: expected {expected}, got {got}{}", path.display(), hint_line(hint))]
    ModelInterface {
        /// The model.
        path: PathBuf,
        /// The required interface.
        expected: String,
        /// The model's interface.
        got: String,
        /// The remedy; may be empty.
        hint: String,
    },
    /// Inference failed.
    #[error("{}: inference failed{}{source}", path.display(), before_cause(hint))]
    Inference {
        /// The model.
        path: PathBuf,
        /// The remedy; may be empty.
        hint: &'static str,
        /// The runtime's error, in one line.
        source: Cause,
    },
    /// A tokenizer cannot be loaded, or failed.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// The tokenizer's error.
        source: Cause,
    },
    /// A prompt's embedding cannot be normalized.
    #[error("{}: the embedding of prompt '{prompt}' is {fault}", path.display())]
    PromptEmbedding {
        /// The text model.
        path: PathBuf,
        /// The prompt.
        prompt: String,
        /// "all zeros" or "not finite".
        fault: String,
    },
    /// The projection of the tokens cannot be fitted.
    #[error("the tokens of {views} views cannot be projected: {source}")]
    Projection {
        /// Number of views in the sample for the fit.
        views: usize,
        /// The problem.
        source: ProjectionError,
    },
    /// The cache was started with other settings than this run's.
    #[error("{what}: the cache was started with {expected}, this run has {got}")]
    CacheMismatch {
        /// The setting.
        what: &'static str,
        /// Its value in the cache.
        expected: String,
        /// Its value now.
        got: String,
    },
    /// The storage of the images failed. Rejecting its samples would exclude good ones forever.
    #[error("{source}")]
    Storage {
        /// The first read error, which names the image.
        source: SourceError,
    },
    /// A file or folder of an artifact cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The job was interrupted. Complete shards are kept; a later run makes the others.
    #[error("interrupted; complete shards are kept")]
    Interrupted,
}

impl ExtractError {
    /// Whether this error reports an interruption requested by the caller, not a failure.
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
        Self::Inference { path: path.to_owned(), hint: "", source: source.into() }
    }
}

/// File name of the ONNX Runtime library on this system.
pub fn library_name() -> String {
    format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The text between a message and the cause at its end: the hint on its own line, if there is one.
fn before_cause(hint: &str) -> String {
    if hint.is_empty() { ": ".to_owned() } else { format!("{}\n", hint_line(hint)) }
}

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}
