//! The run: a student in the making, and the finished one.
//!
//! ```text
//! runs/NAME/run.json                                 manifest; replaced at every checkpoint
//! runs/NAME/config.toml                              the resolved configuration, to be read by people
//! runs/NAME/metrics.jsonl                            one line per epoch and per so many steps
//! runs/NAME/checkpoints/step-000000120.safetensors   the two latest: parameters, buffers, optimizer, objective
//! runs/NAME/student.safetensors                      parameters and buffers of the finished student, torchvision's names
//! ```
//!
//! `run.json` lists length and hash of the checkpoints, and once the run is complete of the other files too. A checkpoint
//! is written first, then listed, then its predecessor but one is deleted: a kill between any two of these leaves a run
//! that resumes from what is listed.

mod config;
mod error;
mod folder;
mod metrics;
mod objectives;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::cache::{StoredFormat, TeacherRecord};
use lgd_data::error::IoContext;
use lgd_data::manifest::{ContentHash, FileEntry, Verify, read_manifest};
use serde::{Deserialize, Serialize};

pub use config::TrainConfig;
pub use error::{FailureKind, RunError};
pub(crate) use folder::RunFolder;
pub(crate) use metrics::{MetricsFile, epoch_losses};
pub use metrics::{MetricsKind, MetricsLine};
pub use objectives::{ObjectiveSettings, SlotMode, VisualMode};

use crate::loader::pixels::InputFormat;
use crate::student::{Head, Student, StudentConfig};

/// The version of the run format that this program writes and reads.
pub const RUN_VERSION: u32 = 1;

const MANIFEST: &str = "run.json";
const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const STUDENT: &str = "student.safetensors";

fn checkpoint_file(step: usize) -> String {
    format!("{CHECKPOINTS}/step-{step:09}.safetensors")
}

/// Where the initial weights came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InitRecord {
    /// The file.
    pub path: PathBuf,
    /// Its hash.
    pub blake3: ContentHash,
    /// Tensors taken over.
    pub applied: usize,
    /// The student's tensors that the file does not have.
    pub missing: Vec<String>,
    /// The file's tensors that the student does not have.
    pub unused: Vec<String>,
    /// Tensors of another shape, left as initialized.
    pub mismatched: Vec<String>,
}

/// The classes that a classifier tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassRecord {
    /// How many there are.
    pub count: usize,
    /// Their names, in the order of the labels, where the cache has them.
    pub names: Option<Vec<String>>,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointEntry {
    /// Steps done.
    pub step: usize,
    /// The file.
    pub file: FileEntry,
}

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunManifest {
    /// Version of the format, [`RUN_VERSION`].
    pub format_version: u32,
    /// The resolved configuration.
    pub config: TrainConfig,
    /// Hash of the cache's manifest.
    pub cache: ContentHash,
    /// Hash of the manifest of the bank of names, where the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bank: Option<ContentHash>,
    /// Hash of the KDEP bank's manifest, where the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kdep_bank: Option<ContentHash>,
    /// Hash of the text encoder that made the bank, or else of the one that came with the teacher: banks for zero-shot must come from the
    /// same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<ContentHash>,
    /// The classes of the student's classifier, where it ends in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassRecord>,
    /// Where the student trains: "cpu", in f32, or "cuda", in bf16. Bits differ between them.
    #[serde(default = "cpu")]
    pub device: String,
    /// The teacher, which decides how the student's input is made.
    pub teacher: TeacherRecord,
    /// Width D of the embeddings.
    pub dim: usize,
    /// Samples in the cache.
    pub samples: usize,
    /// The format of the cache's stored views, where the student is shown those; views are rendered from the images otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_views: Option<StoredFormat>,
    /// Steps per epoch.
    pub steps_per_epoch: usize,
    /// Steps done at the latest checkpoint.
    pub step: usize,
    /// Whether the student is finished.
    pub complete: bool,
    /// Where the initial weights came from, if not from the seed alone.
    pub init: Option<InitRecord>,
    /// The latest checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointEntry>,
    /// The files of a complete run; empty before.
    pub files: Vec<FileEntry>,
}

fn cpu() -> String {
    "cpu".to_owned()
}

impl RunManifest {
    /// What stands on the student's pooled feature: the classifier where there are classes, the projection to the teacher's space where a
    /// loss reads the embedding, else nothing.
    pub fn head(&self) -> Head {
        match &self.classes {
            Some(classes) => Head::Classifier { classes: classes.count },
            None if self.config.objective.outputs().embedding => Head::Projection { dim: self.dim },
            None => Head::None,
        }
    }

    /// How the student's input is made.
    pub fn input_format(&self) -> InputFormat {
        let TeacherRecord { resample, normalization, .. } = self.teacher;
        InputFormat { size: self.config.size, resample, normalization }
    }
}

/// A complete run, opened for reading.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    manifest: RunManifest,
    hash: ContentHash,
}

impl Run {
    /// Opens the run in `dir` and checks its files. Checkpoints may have been deleted; those that are there are checked too.
    ///
    /// # Errors
    /// [`ArtifactError`] where the run is not complete, or a file is missing or altered.
    pub fn open(dir: &Path, depth: Verify) -> Result<Self, RunError> {
        let path = dir.join(MANIFEST);
        let (manifest, hash) = read_manifest::<RunManifest>(&path, RUN_VERSION, "the run's manifest")?;
        if !manifest.complete {
            return Err(ArtifactError::Missing {
                path: dir.join(STUDENT),
                what: "the finished student",
                hint: "the run was not finished; go on with `lgd train --resume`",
            }
            .into());
        }
        let checkpoints = manifest.checkpoints.iter().map(|checkpoint| &checkpoint.file);
        let checkpoints = checkpoints.filter(|file| dir.join(&file.name).exists());
        for file in manifest.files.iter().chain(checkpoints) {
            file.verify(dir, depth)?;
        }
        Ok(Self { dir: dir.to_owned(), manifest, hash })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &RunManifest {
        &self.manifest
    }

    /// The hash of the manifest, which pins every file.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The file of the finished weights.
    pub fn weights(&self) -> PathBuf {
        self.dir.join(STUDENT)
    }

    /// Checks that `bank` is of the space that the student's embedding lies in.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] where text encoder or width differ.
    pub fn require_space_of(&self, bank: &Bank) -> Result<(), ArtifactError> {
        let record = &bank.manifest().record;
        let mismatch = |what: &str, expected: String, got: String| ArtifactError::Mismatch {
            path: bank.dir().to_owned(),
            what: what.to_owned(),
            expected,
            got,
            hint: "give a bank made with the text encoder of the run's own bank, or of its teacher",
        };
        // A teacher that came without a text encoder has nothing to compare with.
        if let Some(expected) = self.manifest.text_encoder.filter(|expected| *expected != record.text_encoder)
        {
            let (expected, got) = (expected.to_string(), record.text_encoder.to_string());
            return Err(mismatch("the text encoder", expected, got));
        }
        if record.dim != self.manifest.dim {
            let (expected, got) = (self.manifest.dim.to_string(), record.dim.to_string());
            return Err(mismatch("the width of the embeddings", expected, got));
        }
        Ok(())
    }

    /// The finished student on `device`.
    ///
    /// # Errors
    /// [`RunError`] where the weights are unreadable or are not this student's.
    pub fn student(&self, device: &Device) -> Result<Student, RunError> {
        let (config, head) = (&self.manifest.config, self.manifest.head());
        let mut student = Student::new(StudentConfig::new(config.student, head, config.seed), device)?;
        let path = self.weights();
        let bytes = fs::read(&path).during("read", &path)?;
        let report = student
            .load_safetensors(&bytes)
            .map_err(|error| ArtifactError::invalid(&path, error.to_string()))?;
        if !report.is_complete() || !report.unused.is_empty() {
            let reason = format!("it does not hold a {}: {report}", config.student);
            return Err(ArtifactError::invalid(&path, reason).into());
        }
        Ok(student)
    }
}
