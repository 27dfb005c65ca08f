//! The run folder: a student in training or a finished one.
//!
//! ```text
//! runs/NAME/run.json                                 manifest; replaced at every checkpoint
//! runs/NAME/config.toml                              the resolved configuration, for people
//! runs/NAME/metrics.jsonl                            one line per epoch, and one every 50 steps
//! runs/NAME/metrics.csv                              the same as a table
//! runs/NAME/events.out.tfevents.1764561600.lgd       the same for TensorBoard
//! runs/NAME/checkpoints/step-000000120.safetensors   the two latest: parameters, buffers, optimizer, objective
//! runs/NAME/checkpoints/best-000000080.safetensors   the student of the best epoch so far, if samples are held out
//! runs/NAME/student.safetensors                      parameters and buffers of the finished student, torchvision's names
//! runs/NAME/best.safetensors                         the same of the best epoch, if samples are held out
//! ```
//!
//! `run.json` lists the lengths and hashes of the checkpoints and, in a complete run, of the other files. The table and the
//! events are not listed: they are made from `metrics.jsonl`. A checkpoint is written first, then listed, then the oldest
//! of three is deleted. If the process is killed between any two of these steps, the run resumes from the checkpoints
//! listed. A complete run keeps no checkpoint unless asked to.

mod config;
mod error;
mod events;
mod folder;
mod metadata;
mod metrics;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use lgd_data::ArtifactError;
use lgd_data::bank::{Bank, CenterRecord};
use lgd_data::cache::{StoredFormat, TeacherRecord};
use lgd_data::error::IoContext;
use lgd_data::manifest::{ContentHash, FileEntry, Verify, read_manifest};
use lgd_data::view::CenterCrop;
use serde::{Deserialize, Serialize};

pub use config::TrainConfig;
pub use error::{InitialWeightsError, RunError};
pub(crate) use folder::{KEPT, RunFolder};
pub use metrics::{BankPercent, HoldoutFigures, HoldoutScore, MetricsKind, MetricsLine, ScoreKind};
pub(crate) use metrics::{MetricsFile, epoch_losses, now, per_second};

use crate::loader::labels::ClassRecord;
use crate::loader::pixels::InputFormat;
use crate::student::{Head, Student, StudentConfig};

/// The version of the run format that this program writes and reads.
pub const RUN_VERSION: u32 = 1;

const MANIFEST: &str = "run.json";
const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const TABLE: &str = "metrics.csv";
const CHECKPOINTS: &str = "checkpoints";
const STUDENT: &str = "student.safetensors";
const BEST: &str = "best.safetensors";

fn checkpoint_file(step: usize) -> String {
    format!("{CHECKPOINTS}/step-{step:09}.safetensors")
}

/// The best weights of an unfinished run.
fn best_file(step: usize) -> String {
    format!("{CHECKPOINTS}/best-{step:09}.safetensors")
}

/// The source of the initial weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InitRecord {
    /// The file.
    pub path: PathBuf,
    /// Its hash.
    pub blake3: ContentHash,
    /// Tensors loaded.
    pub applied: usize,
    /// The student's tensors that the file does not have.
    pub missing: Vec<String>,
    /// The file's tensors that the student does not have.
    pub unused: Vec<String>,
    /// Tensors of another shape. They keep their random initialization.
    pub mismatched: Vec<String>,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointEntry {
    /// Steps done.
    pub step: usize,
    /// The file.
    pub file: FileEntry,
}

/// The best epoch by its score on held-out samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestRecord {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Steps done at its end.
    pub step: usize,
    /// The figure by which epochs are compared.
    pub score: ScoreKind,
    /// Its value.
    pub value: f32,
    /// Decided between equal values: the cosine, or 0.
    pub tie: f32,
    /// The student's weights after that epoch.
    pub weights: FileEntry,
}

impl BestRecord {
    /// Whether `score` is better than this epoch's.
    pub(crate) fn is_beaten_by(&self, score: HoldoutScore) -> bool {
        score.score > self.value || (score.score == self.value && score.tie > self.tie)
    }
}

/// Which weights of a finished run are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// Those of the epoch with the best score on held-out samples.
    Best,
    /// Those after the last step.
    Last,
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
    /// Hash of the manifest of the bank of names, if the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bank: Option<ContentHash>,
    /// Absolute path of the folder of the bank of names at training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bank_dir: Option<PathBuf>,
    /// Hash of the KDEP bank's manifest, if the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kdep_bank: Option<ContentHash>,
    /// Hash of the text encoder that made the bank, else of the one that came with the teacher. Banks for zero-shot
    /// must come from the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<ContentHash>,
    /// What was subtracted from the teacher's embeddings, by the bank of names. Banks for zero-shot must subtract the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centered: Option<CenterRecord>,
    /// The classes of the student's classifier, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassRecord>,
    /// The kind of device: "cpu" (f32) or "cuda" (bf16). Bits differ between them.
    #[serde(default = "cpu")]
    pub device: String,
    /// The teacher. The student's input is prepared like the teacher's.
    pub teacher: TeacherRecord,
    /// Crop of the cache's center view, else the teacher's own. Images are evaluated with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center: Option<CenterCrop>,
    /// Width D of the embeddings.
    pub dim: usize,
    /// Samples in the cache.
    pub samples: usize,
    /// The format of the cache's stored views, if the student is shown them. Otherwise views are rendered from the
    /// images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_views: Option<StoredFormat>,
    /// Steps per epoch.
    pub steps_per_epoch: usize,
    /// Steps done at the latest checkpoint.
    pub step: usize,
    /// Whether the student is finished.
    pub complete: bool,
    /// Hash of the manifest of the cache that is evaluated instead of held-out samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ContentHash>,
    /// The best epoch so far, if samples are evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<BestRecord>,
    /// Epochs of a run that stopped early, because its score had not improved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_after: Option<u32>,
    /// The file of initial weights, if there was one.
    pub init: Option<InitRecord>,
    /// The latest checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointEntry>,
    /// The files of a complete run; empty until then.
    pub files: Vec<FileEntry>,
}

fn cpu() -> String {
    "cpu".to_owned()
}

impl RunManifest {
    /// The student's head: a classifier if there are classes; else a projection to the teacher's space if a loss reads
    /// the embedding; else none.
    pub fn head(&self) -> Head {
        match &self.classes {
            Some(classes) => Head::Classifier { classes: classes.count },
            None if self.config.objective.outputs().embedding => Head::Projection { dim: self.dim },
            None => Head::None,
        }
    }

    /// Epochs that a finished run trained: as many as configured, or fewer if it stopped early.
    pub fn epochs(&self) -> u32 {
        self.stopped_after.unwrap_or(self.config.epochs)
    }

    /// Size, filter and normalization of the student's input.
    pub fn input_format(&self) -> InputFormat {
        let TeacherRecord { resample, normalization, .. } = self.teacher;
        InputFormat { size: self.config.size, resample, normalization }
    }

    /// Checks that `bank` is in the space of the student's embedding.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] if the text encoder or the width differs; [`RunError::Centering`] if the centering does.
    pub fn require_space_of(&self, bank: &Bank) -> Result<(), RunError> {
        let record = &bank.manifest().record;
        let mismatch = |what: &str, expected: String, got: String| ArtifactError::Mismatch {
            path: bank.dir().to_owned(),
            what: what.to_owned(),
            expected,
            got,
            hint: "give a bank made with the text encoder of the run's own bank, or of its teacher",
        };
        // If the teacher came without a text encoder, there is nothing to compare with.
        let known = [Some(record.text_encoder), record.cache_text_encoder];
        if let Some(expected) = self.text_encoder.filter(|expected| !known.contains(&Some(*expected))) {
            let (expected, got) = (expected.to_string(), record.text_encoder.to_string());
            return Err(mismatch("the text encoder", expected, got).into());
        }
        if record.dim != self.dim {
            let (expected, got) = (self.dim.to_string(), record.dim.to_string());
            return Err(mismatch("the width of the embeddings", expected, got).into());
        }
        if record.center != self.centered {
            let [expected, got] = [self.centered, record.center].map(|center| match center {
                Some(center) => format!("{:?}, mean {}", center.side, center.mean),
                None => "none".to_owned(),
            });
            return Err(RunError::Centering { bank: bank.dir().to_owned(), expected, got });
        }
        Ok(())
    }
}

/// A complete run, opened for reading.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    manifest: RunManifest,
    hash: ContentHash,
    checkpoint: Checkpoint,
}

impl Run {
    /// Opens the run in `dir` and checks its files. Checkpoints may have been deleted; those that exist are checked. Its
    /// weights are those of the best epoch if samples were held out, else the last ones; [`select`](Self::select) changes
    /// that.
    ///
    /// # Errors
    /// [`RunError::Unfinished`], or [`RunError::Artifact`] if a file is missing or altered.
    pub fn open(dir: &Path, depth: Verify) -> Result<Self, RunError> {
        let path = dir.join(MANIFEST);
        let (manifest, hash) = read_manifest::<RunManifest>(&path, RUN_VERSION, "the run's manifest")?;
        if !manifest.complete {
            return Err(RunError::Unfinished { path: dir.join(STUDENT) });
        }
        let checkpoints = manifest.checkpoints.iter().map(|checkpoint| &checkpoint.file);
        let checkpoints = checkpoints.filter(|file| dir.join(&file.name).exists());
        let best = manifest.best.iter().map(|best| &best.weights);
        for file in manifest.files.iter().chain(best).chain(checkpoints) {
            file.verify(dir, depth)?;
        }
        let checkpoint = if manifest.best.is_some() { Checkpoint::Best } else { Checkpoint::Last };
        Ok(Self { dir: dir.to_owned(), manifest, hash, checkpoint })
    }

    /// Verifies the checkpoints and the best weights of the unfinished run in `dir`. Returns the steps done at its latest
    /// checkpoint.
    ///
    /// # Errors
    /// [`RunError::Artifact`] if a file is missing or altered.
    pub fn verify_unfinished(dir: &Path) -> Result<usize, RunError> {
        let (manifest, _) =
            read_manifest::<RunManifest>(&dir.join(MANIFEST), RUN_VERSION, "the run's manifest")?;
        let checkpoints = manifest.checkpoints.iter().map(|checkpoint| &checkpoint.file);
        let best = manifest.best.iter().map(|best| &best.weights);
        checkpoints.chain(best).try_for_each(|file| file.verify(dir, Verify::Full))?;
        Ok(manifest.step)
    }

    /// Selects the weights that [`weights`](Self::weights) and [`student`](Self::student) return.
    ///
    /// # Errors
    /// [`RunError::NoBest`] if the best ones are selected and there are none.
    pub fn select(&mut self, checkpoint: Checkpoint) -> Result<(), RunError> {
        if checkpoint == Checkpoint::Best && self.manifest.best.is_none() {
            return Err(RunError::NoBest { dir: self.dir.clone() });
        }
        self.checkpoint = checkpoint;
        Ok(())
    }

    /// The selected weights.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// Epochs after which the selected weights were taken.
    pub fn epochs(&self) -> u32 {
        let best = self.manifest.best.as_ref().filter(|_| self.checkpoint == Checkpoint::Best);
        best.map_or(self.manifest.epochs(), |best| best.epoch + 1)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &RunManifest {
        &self.manifest
    }

    /// The hash of the manifest, which covers the hash of every file.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The file of the selected weights.
    pub fn weights(&self) -> PathBuf {
        self.dir.join(if self.checkpoint == Checkpoint::Best { BEST } else { STUDENT })
    }

    /// Opens the bank of names that the run was trained with, at its path at training; `None` if the run had none.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`] if no bank is there, or an older run does not record the path;
    /// [`ArtifactError::Mismatch`] if another bank is there. Also fails if the bank is damaged.
    pub fn own_bank(&self, depth: Verify) -> Result<Option<Bank>, ArtifactError> {
        let Some(expected) = self.manifest.bank else { return Ok(None) };
        let Some(dir) = self.manifest.bank_dir.as_ref().filter(|dir| dir.exists()) else {
            return Err(ArtifactError::Missing {
                path: self.manifest.bank_dir.clone().unwrap_or_else(|| self.dir.clone()),
                what: "the bank of names that the run was trained with",
                hint: "give the bank's folder, or another bank of the same text encoder",
            });
        };
        let bank = Bank::open(dir, depth)?;
        if bank.hash() == expected {
            return Ok(Some(bank));
        }
        Err(ArtifactError::Mismatch {
            path: dir.clone(),
            what: "the bank of names that the run was trained with".to_owned(),
            expected: expected.to_string(),
            got: bank.hash().to_string(),
            hint: "the bank was made again; give it explicitly to use it",
        })
    }

    /// Checks that `bank` is in the space of the student's embedding.
    ///
    /// # Errors
    /// Those of [`RunManifest::require_space_of`].
    pub fn require_space_of(&self, bank: &Bank) -> Result<(), RunError> {
        self.manifest.require_space_of(bank)
    }

    /// Loads the student with the selected weights onto `device`.
    ///
    /// # Errors
    /// If the weights are unreadable or belong to another student.
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
