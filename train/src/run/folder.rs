//! Writes a run folder: starting, resuming, checkpoints, completion.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lgd_data::ArtifactError;
use lgd_data::error::IoContext;
use lgd_data::manifest::{
    ContentHash, Existing, FileEntry, FolderLock, LOCK, Verify, prepare_folder, read_manifest,
    remove_leftovers, require_kind, write_atomic, write_json,
};
use serde_json::Value;

use super::events::is_event_file;
use super::{
    BEST, BestRecord, CHECKPOINTS, CONFIG, CheckpointEntry, HoldoutScore, InitRecord, MANIFEST, METRICS,
    RUN_VERSION, RunError, RunManifest, STUDENT, TABLE, best_file, checkpoint_file,
};

/// Number of checkpoints kept. If the latest is damaged, the one before it remains.
pub(crate) const KEPT: usize = 2;

/// The files of a run besides its checkpoints, the manifest first.
const OWN: [&str; 6] = [MANIFEST, CONFIG, METRICS, TABLE, STUDENT, BEST];

/// Suffix of a file that has not been renamed to its final name yet.
const TEMPORARY: &str = ".tmp";

/// A run in progress.
#[derive(Debug)]
pub(crate) struct RunFolder {
    dir: PathBuf,
    manifest: RunManifest,
    /// Held as long as this value. Two trainings in one folder would delete each other's checkpoints.
    _lock: FolderLock,
}

impl RunFolder {
    /// Starts the run that `fresh` describes in `dir`, or resumes the one in it.
    ///
    /// # Errors
    /// [`RunError::Occupied`], [`RunError::Differs`], or an error of the files.
    pub(crate) fn open(dir: &Path, fresh: RunManifest, existing: Existing) -> Result<Self, RunError> {
        fs::create_dir_all(dir).during("create the folder", dir)?;
        let lock = FolderLock::exclusive(dir)?;
        prepare_folder(dir, "run")?;
        remove_leftovers(dir)?;
        if existing == Existing::Overwrite {
            remove_run(dir)?;
        }
        if let Some(manifest) = Self::started(dir, &fresh, existing)? {
            return Ok(Self { dir: dir.to_owned(), manifest, _lock: lock });
        }
        write_config(dir, &fresh)?;
        let checkpoints = dir.join(CHECKPOINTS);
        fs::create_dir_all(&checkpoints).during("create", &checkpoints)?;
        write_json(&dir.join(MANIFEST), &fresh)?;
        Ok(Self { dir: dir.to_owned(), manifest: fresh, _lock: lock })
    }

    /// The manifest of the run in `dir` that [`open`](Self::open) would resume; `None` if it would start the run `fresh`.
    /// Writes nothing.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), except for [`ArtifactError::Busy`].
    pub(crate) fn started(
        dir: &Path,
        fresh: &RunManifest,
        existing: Existing,
    ) -> Result<Option<RunManifest>, RunError> {
        require_kind(dir, "run")?;
        let path = dir.join(MANIFEST);
        if path.exists() && existing == Existing::Resume {
            let (manifest, _) = read_manifest::<RunManifest>(&path, RUN_VERSION, "the run's manifest")?;
            require_same(&path, &manifest, fresh)?;
            return Ok(Some(manifest));
        }
        if existing == Existing::Refuse && dir.exists() && holds_files(dir)? {
            let what = if path.exists() { "a run" } else { "files" };
            return Err(RunError::Occupied { dir: dir.to_owned(), what });
        }
        Ok(None)
    }

    /// The manifest as it is on disk.
    pub(crate) fn manifest(&self) -> &RunManifest {
        &self.manifest
    }

    /// Whether `dir` holds a run with a checkpoint.
    pub(crate) fn holds_checkpoint(dir: &Path) -> bool {
        let manifest = read_manifest::<RunManifest>(&dir.join(MANIFEST), RUN_VERSION, "the run's manifest");
        manifest.is_ok_and(|(manifest, _)| manifest.complete || !manifest.checkpoints.is_empty())
    }

    /// Whether the run is complete. If the finished student is missing or damaged and there is a checkpoint, the run
    /// becomes unfinished, and the student is written again from the checkpoint.
    ///
    /// # Errors
    /// The damage, if another file is damaged or there is no checkpoint.
    pub(crate) fn is_finished(&mut self) -> Result<bool, ArtifactError> {
        if !self.manifest.complete {
            return Ok(false);
        }
        let best = self.manifest.best.iter().map(|best| &best.weights);
        for file in self.manifest.files.iter().chain(best) {
            let damage = file.verify(&self.dir, Verify::Full);
            if damage.is_err() && file.name == STUDENT && self.has_checkpoint() {
                (self.manifest.complete, self.manifest.files) = (false, Vec::new());
                write_json(&self.dir.join(MANIFEST), &self.manifest)?;
                return Ok(false);
            }
            damage?;
        }
        // A process may have been killed before it deleted the checkpoints.
        self.remove_unlisted()?;
        Ok(true)
    }

    /// Whether any of the listed checkpoints exists.
    fn has_checkpoint(&self) -> bool {
        self.manifest.checkpoints.iter().any(|entry| self.dir.join(&entry.file.name).exists())
    }

    /// Records the initial weights of the run.
    ///
    /// # Errors
    /// [`RunError::Differs`] if the run started from other weights.
    pub(crate) fn record_init(&mut self, record: InitRecord) -> Result<(), RunError> {
        let path = self.dir.join(MANIFEST);
        match &self.manifest.init {
            Some(recorded) if recorded.blake3 != record.blake3 => Err(RunError::Differs {
                path,
                what: "the hash of the initial weights".to_owned(),
                expected: recorded.blake3.to_string(),
                got: record.blake3.to_string(),
            }),
            Some(_) => Ok(()),
            None => {
                self.manifest.init = Some(record);
                write_json(&path, &self.manifest)?;
                Ok(())
            }
        }
    }

    /// The metrics file.
    pub(crate) fn metrics_path(&self) -> PathBuf {
        self.dir.join(METRICS)
    }

    /// The bytes of the latest checkpoint with its path, checked against its hash; `None` if the run has none yet. If it
    /// is deleted, the one before it is used.
    ///
    /// # Errors
    /// [`RunError::NoCheckpoint`], [`RunError::DamagedCheckpoint`].
    pub(crate) fn latest_checkpoint(&self) -> Result<Option<(PathBuf, Vec<u8>)>, RunError> {
        let entries = &self.manifest.checkpoints;
        let path_of = |entry: &CheckpointEntry| self.dir.join(&entry.file.name);
        let present = |entry: &&CheckpointEntry| path_of(entry).exists();
        let Some(latest) = entries.iter().rev().find(present) else {
            return match entries.last() {
                None => Ok(None),
                Some(entry) => Err(RunError::NoCheckpoint { path: path_of(entry) }),
            };
        };
        let path = path_of(latest);
        latest.file.verify(&self.dir, Verify::Full).map_err(|error| RunError::DamagedCheckpoint {
            path: path.clone(),
            reason: without_hint(&error),
            earlier: entries.iter().rev().filter(present).find(|entry| entry.step < latest.step).map(path_of),
        })?;
        let bytes = fs::read(&path).during("read", &path)?;
        Ok(Some((path, bytes)))
    }

    /// Writes the student of the best epoch so far. The next checkpoint lists it and deletes the one before.
    pub(crate) fn save_best(
        &mut self,
        (epoch, step): (u32, usize),
        score: HoldoutScore,
        weights: &[u8],
    ) -> Result<(), ArtifactError> {
        let name = best_file(step);
        let written = write_atomic(&self.dir.join(&name), weights)?;
        let weights = FileEntry { name, ..written };
        let HoldoutScore { kind, score: value, tie } = score;
        self.manifest.best = Some(BestRecord { epoch, step, score: kind, value, tie, weights });
        Ok(())
    }

    /// Writes and lists a checkpoint, then deletes older ones.
    pub(crate) fn save_checkpoint(&mut self, step: usize, bytes: &[u8]) -> Result<(), ArtifactError> {
        let name = checkpoint_file(step);
        let written = write_atomic(&self.dir.join(&name), bytes)?;
        let entry = CheckpointEntry { step, file: FileEntry { name, ..written } };
        // If the run continues from an earlier checkpoint, later ones may still be listed.
        self.manifest.checkpoints.retain(|entry| entry.step < step);
        self.manifest.checkpoints.push(entry);
        let surplus = self.manifest.checkpoints.len().saturating_sub(KEPT);
        self.manifest.checkpoints.drain(..surplus);
        self.manifest.step = step;
        write_json(&self.dir.join(MANIFEST), &self.manifest)?;
        self.remove_unlisted()
    }

    /// Writes the finished student and the best one, and lists every file. `metrics`: the entry of the metrics file.
    /// `epochs`: those that the run trained.
    pub(crate) fn finish(
        &mut self,
        weights: &[u8],
        metrics: FileEntry,
        epochs: u32,
    ) -> Result<(), ArtifactError> {
        let student = write_atomic(&self.dir.join(STUDENT), weights)?;
        if let Some(best) = self.manifest.best.as_mut().filter(|best| best.weights.name != BEST) {
            let path = self.dir.join(&best.weights.name);
            let bytes = fs::read(&path).during("read", &path)?;
            let (expected, got) = (best.weights.blake3, ContentHash::of(&bytes));
            if got != expected {
                return Err(ArtifactError::Hash { path, expected, got });
            }
            best.weights = write_atomic(&self.dir.join(BEST), &bytes)?;
        }
        // Written again: an earlier process may have written it, and its hash is not recorded before the end.
        self.manifest.files = vec![write_config(&self.dir, &self.manifest)?, metrics, student];
        self.manifest.stopped_after = (epochs < self.manifest.config.epochs).then_some(epochs);
        self.manifest.complete = true;
        write_json(&self.dir.join(MANIFEST), &self.manifest)?;
        self.remove_unlisted()
    }

    /// Deletes the checkpoints of a complete run.
    pub(crate) fn remove_checkpoints(&mut self) -> Result<(), ArtifactError> {
        self.manifest.checkpoints.clear();
        write_json(&self.dir.join(MANIFEST), &self.manifest)?;
        self.remove_unlisted()
    }

    /// Deletes checkpoints and best weights that the manifest does not list.
    fn remove_unlisted(&self) -> Result<(), ArtifactError> {
        let checkpoints = self.manifest.checkpoints.iter().map(|entry| &entry.file);
        let best = self.manifest.best.iter().map(|best| &best.weights);
        let listed: Vec<PathBuf> = checkpoints.chain(best).map(|file| self.dir.join(&file.name)).collect();
        remove_files(&self.dir.join(CHECKPOINTS), |path| {
            is_checkpoint(path) && !listed.iter().any(|listed| listed == path)
        })
    }
}

/// Writes the configuration of a run for people.
fn write_config(dir: &Path, run: &RunManifest) -> Result<FileEntry, ArtifactError> {
    let path = dir.join(CONFIG);
    let text = toml::to_string(&run.config)
        .map_err(|error| ArtifactError::invalid(&path, format!("cannot be written as TOML: {error}")))?;
    write_atomic(&path, text.as_bytes())
}

/// Whether `dir` holds any file except the lock.
fn holds_files(dir: &Path) -> Result<bool, ArtifactError> {
    for entry in fs::read_dir(dir).during("list", dir)? {
        if entry.during("list", dir)?.file_name() != LOCK {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether `path` has the name of a checkpoint or of best weights, or of an unfinished one:
/// `.step-000000120.safetensors.XYZ.tmp`.
fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["step-", "best-"].iter().any(|kind| {
        let finished = name.starts_with(kind) && name.ends_with(".safetensors");
        finished
            || (name.strip_prefix('.').is_some_and(|name| name.starts_with(kind))
                && name.ends_with(TEMPORARY))
    })
}

/// The first line of a message, without its hint, which does not apply to a checkpoint.
fn without_hint(error: &ArtifactError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// `Err(Differs)` with the first difference between the recorded run and the wanted one.
fn require_same(path: &Path, recorded: &RunManifest, wanted: &RunManifest) -> Result<(), RunError> {
    let mismatch = |what: &str, expected: String, got: String| RunError::Differs {
        path: path.to_owned(),
        what: what.to_owned(),
        expected,
        got,
    };
    if recorded.cache != wanted.cache {
        return Err(mismatch("the hash of the cache", recorded.cache.to_string(), wanted.cache.to_string()));
    }
    let banks = [
        ("the hash of the bank", recorded.bank, wanted.bank),
        ("the hash of the KDEP bank", recorded.kdep_bank, wanted.kdep_bank),
        ("the hash of the validation cache", recorded.validation, wanted.validation),
    ];
    if let Some((what, expected, got)) = banks.into_iter().find(|(_, recorded, wanted)| recorded != wanted) {
        let show = |hash: Option<ContentHash>| hash.map_or("none".to_owned(), |hash| hash.to_string());
        return Err(mismatch(what, show(expected), show(got)));
    }
    if recorded.device != wanted.device {
        return Err(mismatch("the kind of device", recorded.device.clone(), wanted.device.clone()));
    }
    if recorded.config == wanted.config {
        return Ok(());
    }
    let json = |manifest: &RunManifest| serde_json::to_value(&manifest.config).unwrap_or_default();
    let (recorded, wanted) = (json(recorded), json(wanted));
    let names = [&recorded, &wanted].into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys);
    let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    for name in names {
        let (expected, got) = (recorded.get(name), wanted.get(name));
        if expected != got {
            return Err(mismatch(&format!("the setting {name}"), show(expected), show(got)));
        }
    }
    Ok(())
}

/// Deletes a run's files. The manifest is first, so a half-deleted run is no longer a run. Other files are kept.
fn remove_run(dir: &Path) -> Result<(), ArtifactError> {
    for name in OWN {
        remove_if_there(&dir.join(name))?;
    }
    remove_files(dir, is_event_file)?;
    remove_files(&dir.join(CHECKPOINTS), is_checkpoint)
}

/// Deletes the files in `dir` that are `unwanted`. Does nothing if `dir` does not exist.
fn remove_files(dir: &Path, unwanted: impl Fn(&Path) -> bool) -> Result<(), ArtifactError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).during("list", dir),
    };
    for entry in entries {
        let path = entry.during("list", dir)?.path();
        if unwanted(&path) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), ArtifactError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during("delete", path),
        _ => Ok(()),
    }
}
