//! The run folder: `run.json` and `metrics.jsonl`.

use std::path::{Path, PathBuf};

use lgd_data::ArtifactError;
use lgd_data::manifest::{ContentHash, FileEntry, read_manifest};
use serde::Deserialize;
use serde_json::Value;

use super::Metrics;

/// Newest format version of runs that is read.
const RUN_VERSION: u32 = u32::MAX;

/// The fields of `run.json` that a report uses. Versions of the format differ in others.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RunRecord {
    /// All settings.
    #[serde(default)]
    pub config: Value,
    /// Hash of the cache's manifest.
    pub cache: ContentHash,
    /// Hash of the manifest of the bank of names.
    #[serde(default)]
    pub bank: Option<ContentHash>,
    /// Hash of the manifest of the KDEP bank.
    #[serde(default)]
    pub kdep_bank: Option<ContentHash>,
    /// Hash of the text encoder.
    #[serde(default)]
    pub text_encoder: Option<ContentHash>,
    /// Kind of device.
    #[serde(default)]
    pub device: Option<String>,
    /// The teacher.
    #[serde(default)]
    pub teacher: Value,
    /// Samples in the cache.
    #[serde(default)]
    pub samples: usize,
    /// Steps per epoch.
    #[serde(default)]
    pub steps_per_epoch: usize,
    /// Steps done at the latest checkpoint.
    #[serde(default)]
    pub step: usize,
    /// Whether the student is finished.
    #[serde(default)]
    pub complete: bool,
    /// The file of initial weights.
    #[serde(default)]
    pub init: Value,
    /// Files of a complete run.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

impl RunRecord {
    /// A setting as text; empty if there is no such setting.
    pub(crate) fn setting(&self, name: &str) -> String {
        match &self.config[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Epochs of the whole run.
    pub(crate) fn epochs(&self) -> Option<u64> {
        self.config["epochs"].as_u64()
    }
}

/// A run folder, finished or not.
#[derive(Clone, Debug)]
pub(crate) struct RunFolder {
    /// The folder.
    pub dir: PathBuf,
    /// `run.json`.
    pub record: RunRecord,
    /// Its hash.
    pub hash: ContentHash,
    /// `metrics.jsonl`.
    pub metrics: Metrics,
}

impl RunFolder {
    /// Reads the run in `dir`.
    ///
    /// # Errors
    /// [`ArtifactError`] if `run.json` is missing or altered, or a file cannot be read.
    pub(crate) fn read(dir: &Path) -> Result<Self, ArtifactError> {
        let (record, hash) =
            read_manifest::<RunRecord>(&dir.join("run.json"), RUN_VERSION, "the run's manifest")?;
        let metrics = Metrics::read(&dir.join("metrics.jsonl"), record.steps_per_epoch)?;
        Ok(Self { dir: dir.to_owned(), record, hash, metrics })
    }
}
