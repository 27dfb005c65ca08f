//! Builds a cache: finds missing shards and writes the manifest when all shards are complete.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::condition::{Condition, is_damage, not_the_same, unlisted_projection};
use super::shard::{ShardRecord, ShardWriter};
use super::{
    CACHE_VERSION, CacheConfig, CacheManifest, MANIFEST, Partition, ProjectionEntry, REJECTS, Reject,
    SHARD_KINDS, TOKEN_PROJECTION, shard_record,
};
use crate::error::{ArtifactError, IoContext, Remedy};
use crate::manifest::{
    ContentHash, Existing, FileEntry, FolderLock, PLAN, Verify, prepare_folder, read_json, read_manifest,
    remove_leftovers, require_kind, write_atomic, write_json, write_new, write_new_json,
};
use crate::projection::Projection;
use crate::source::LeftAside;

/// Contents of `extract.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct Plan {
    format_version: u32,
    pub(super) config: CacheConfig,
}

/// A cache under construction. Several processes may build one folder together, each with its own [`Partition`].
#[derive(Debug)]
pub struct CacheBuilder {
    dir: PathBuf,
    config: CacheConfig,
    left_aside: LeftAside,
    /// The manifest, if the cache was complete when it was opened.
    complete: Option<CacheManifest>,
    condition: Arc<Condition>,
    /// Held as long as this value.
    _locks: Vec<FolderLock>,
}

impl CacheBuilder {
    /// Starts or resumes the cache in `dir`, which no other process may write to at the same time.
    ///
    /// # Errors
    /// The errors of [`CacheBuilder::open_part`].
    pub fn open(dir: &Path, config: CacheConfig, existing: Existing) -> Result<Self, ArtifactError> {
        Self::open_part(dir, config, existing, Partition::WHOLE)
    }

    /// Starts or resumes the cache in `dir`. Other processes may make other parts of it at the same time. Damaged shards of
    /// a complete cache are made again, to the same bytes.
    ///
    /// # Errors
    /// [`ArtifactError::Busy`] if another process makes the same part or the whole cache; [`ArtifactError::Occupied`] if
    /// `dir` holds a complete or unfinished cache and `existing` is [`Existing::Refuse`]; [`ArtifactError::Mismatch`] if the cache to resume has another configuration.
    pub fn open_part(
        dir: &Path,
        config: CacheConfig,
        existing: Existing,
        partition: Partition,
    ) -> Result<Self, ArtifactError> {
        fs::create_dir_all(dir).during("create the folder", dir)?;
        if existing == Existing::Overwrite {
            let _alone = FolderLock::exclusive(dir)?;
            prepare_folder(dir, "cache")?;
            remove_cache(dir)?;
        }
        let config = config.with_row_key();
        let locks = lock(dir, partition)?;
        prepare_folder(dir, "cache")?;
        if !partition.is_shared() {
            remove_leftovers(dir)?;
        }
        if let Some(recorded) = Self::recorded(dir, &config, existing)? {
            return Self::new(dir, recorded, locks);
        }
        let plan = Plan { format_version: config.format_version(), config: config.clone() };
        write_new_json(&dir.join(PLAN), &plan)?;
        // Another process may have started a cache here a moment ago, with other settings.
        let config = match recorded_config(dir)? {
            Some(recorded) => require_same(dir, recorded, config)?,
            None => config,
        };
        Self::new(dir, config, locks)
    }

    /// The cache in `dir` that [`CacheBuilder::open`] would resume; `None` if it would start one. Writes nothing, and keeps
    /// no other process from writing.
    ///
    /// # Errors
    /// Those of [`CacheBuilder::open`], except for [`ArtifactError::Busy`].
    pub fn started(
        dir: &Path,
        config: &CacheConfig,
        existing: Existing,
    ) -> Result<Option<Self>, ArtifactError> {
        require_kind(dir, "cache")?;
        let recorded = Self::recorded(dir, &config.clone().with_row_key(), existing)?;
        recorded.map(|recorded| Self::new(dir, recorded, Vec::new())).transpose()
    }

    /// The configuration of the cache in `dir` that is to be resumed.
    fn recorded(
        dir: &Path,
        wanted: &CacheConfig,
        existing: Existing,
    ) -> Result<Option<CacheConfig>, ArtifactError> {
        let Some(recorded) = recorded_config(dir)? else { return Ok(None) };
        match existing {
            Existing::Overwrite => Ok(None),
            Existing::Resume => require_same(dir, recorded, wanted.clone()).map(Some),
            Existing::Refuse => {
                let complete = dir.join(MANIFEST).exists();
                let what = if complete { "a cache" } else { "an unfinished cache" };
                let (path, what, remedy) = (dir.to_owned(), what.to_owned(), Remedy::Resume);
                Err(ArtifactError::Occupied { path, what, remedy })
            }
        }
    }

    fn new(dir: &Path, config: CacheConfig, locks: Vec<FolderLock>) -> Result<Self, ArtifactError> {
        Ok(Self {
            dir: dir.to_owned(),
            config,
            left_aside: LeftAside::default(),
            complete: finished(dir)?,
            condition: Arc::default(),
            _locks: locks,
        })
    }

    /// Records in the manifest what the source left aside. It is no part of the configuration: system files may appear
    /// before a cache is resumed.
    #[must_use]
    pub fn with_left_aside(mut self, left_aside: LeftAside) -> Self {
        self.left_aside = left_aside;
        self
    }

    /// Configuration of the cache.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Folder of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Positions in the listing that `shard` covers.
    pub fn sample_range(&self, shard: usize) -> Range<usize> {
        let start = shard * self.config.shard_samples;
        start..(start + self.config.shard_samples).min(self.config.samples)
    }

    /// Shards of `partition` that are incomplete or damaged, in ascending order. The bytes of finished shards are hashed, once
    /// per process.
    ///
    /// # Errors
    /// [`ArtifactError`] if a file cannot be read.
    pub fn missing_shards(&self, partition: Partition) -> Result<Vec<usize>, ArtifactError> {
        let mut missing = Vec::new();
        let pin = self.pin()?;
        for shard in (0..self.config.shards()).filter(|&shard| partition.contains(shard)) {
            let entry = match &self.complete {
                Some(manifest) => manifest.shards.get(shard).cloned(),
                None => self.record(shard, pin)?.map(|record| record.entry),
            };
            let sound = entry.map(|entry| self.condition.is_sound(&self.dir, shard, &entry));
            if !sound.transpose()?.unwrap_or(false) {
                missing.push(shard);
            }
        }
        // Checked last: another process may meanwhile have written the manifest and removed the records.
        let finished_since = self.complete.is_none() && self.dir.join(MANIFEST).exists();
        if finished_since { Ok(Vec::new()) } else { Ok(missing) }
    }

    /// The fault of the tokens' projection, and the first one of each shard that was finished, if
    /// [`CacheBuilder::missing_shards`] found them damaged.
    pub fn damage(&self) -> Vec<String> {
        self.condition.damage()
    }

    /// Whether the cache was complete when it was opened.
    pub fn is_complete(&self) -> bool {
        self.complete.is_some()
    }

    /// Starts writing one shard.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`] if the tokens need a projection that has not been fitted yet; [`ArtifactError`] if
    /// the shard's files cannot be created.
    pub fn shard_writer(&self, shard: usize) -> Result<ShardWriter, ArtifactError> {
        let pin = self.pin()?.ok_or_else(|| ArtifactError::Missing {
            path: self.projection_path(),
            what: "the projection of the tokens",
            hint: "",
        })?;
        let expected = self.complete.as_ref().and_then(|manifest| manifest.shards.get(shard));
        ShardWriter::create(&self.dir, &self.config, pin, (shard, expected), &self.condition)
    }

    fn projection_path(&self) -> PathBuf {
        self.dir.join(TOKEN_PROJECTION)
    }

    /// The token projection. `None` if the tokens are not projected, if no process has fitted the projection yet, or if its
    /// file is damaged.
    ///
    /// # Errors
    /// [`ArtifactError`] if the file cannot be read, does not fit the tokens of this cache, or belongs to another
    /// cache.
    pub fn projection(&self) -> Result<Option<Projection>, ArtifactError> {
        let path = self.projection_path();
        let Some(record) = self.config.tokens.as_ref().filter(|_| self.config.projects() && path.exists())
        else {
            return Ok(None);
        };
        // Another process may meanwhile have completed the cache, and its manifest then lists the file.
        let listed = match self.recorded_projection() {
            Some(entry) => Some(entry.clone()),
            None => {
                finished(&self.dir)?.and_then(|manifest| manifest.token_projection).map(|entry| entry.file)
            }
        };
        let found = match listed {
            Some(entry) => entry.verify(&self.dir, Verify::Full).and_then(|()| Projection::load(&path)),
            None => unlisted_projection(&path, &self.config),
        };
        let found = match found {
            Err(error) if is_damage(&error) => {
                self.condition.projection_damaged(&error);
                return Ok(None);
            }
            found => found?,
        };
        let (expected, got) = ((record.teacher_dim, record.dim), (found.width(), found.dim()));
        if expected == got {
            return Ok(Some(found));
        }
        let reason = format!(
            "expected a projection from {} to {}, got {} to {}",
            expected.0, expected.1, got.0, got.1
        );
        Err(ArtifactError::invalid(&path, reason + "\nhint: overwrite the cache, or choose another folder"))
    }

    /// Stores `fitted` for all processes that build this cache, unless another process stored a projection first.
    /// Returns the stored projection, which all processes must use.
    ///
    /// # Errors
    /// The errors of [`CacheBuilder::projection`]; [`ArtifactError`] if the file cannot be written.
    pub fn keep_projection(&self, fitted: &Projection) -> Result<Projection, ArtifactError> {
        let path = self.projection_path();
        let bytes = fitted.to_bytes(&path, Some(self.config.hash()))?;
        match self.recorded_projection() {
            // A damaged one is replaced.
            None if path.exists() && self.projection()?.is_none() => drop(write_atomic(&path, &bytes)?),
            None => write_new(&path, &bytes)?,
            Some(expected) => {
                let got = FileEntry { blake3: ContentHash::of(&bytes), ..expected.clone() };
                if got != *expected {
                    return Err(not_the_same(&self.dir, expected, &got));
                }
                write_atomic(&path, &bytes)?;
            }
        }
        self.projection().map(|kept| kept.unwrap_or_else(|| fitted.clone()))
    }

    /// The entry of the projection in the manifest of a complete cache.
    fn recorded_projection(&self) -> Option<&FileEntry> {
        Some(&self.complete.as_ref()?.token_projection.as_ref()?.file)
    }

    /// The manifest entry of the projection.
    fn projection_entry(&self) -> Result<Option<ProjectionEntry>, ArtifactError> {
        let Some(projection) = self.projection()? else { return Ok(None) };
        let file = FileEntry::describe(&self.dir, TOKEN_PROJECTION)?;
        Ok(Some(ProjectionEntry { file, explained: projection.explained() }))
    }

    /// The hash that a shard record must contain: the configuration's, combined with the projection's if tokens are
    /// projected. `None` if the projection has not been fitted yet or is damaged.
    fn pin(&self) -> Result<Option<ContentHash>, ArtifactError> {
        let config = self.config.hash();
        if !self.config.projects() {
            return Ok(Some(config));
        }
        if self.projection()?.is_none() {
            return Ok(None);
        }
        let projection = ContentHash::of_file(&self.projection_path())?;
        Ok(Some(ContentHash::of(&[*config.as_bytes(), *projection.as_bytes()].concat())))
    }

    /// Writes the manifest if every shard is complete, whichever process wrote it. Returns `None` if shards are
    /// missing or damaged. `listed` are the samples that were rejected when the images were listed.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O, or if the list of rejects of a complete cache is damaged and cannot be made again.
    pub fn finalize(&self, listed: &[Reject]) -> Result<Option<CacheManifest>, ArtifactError> {
        if let Some(manifest) = &self.complete {
            self.restore_rejects(&manifest.rejects, listed)?;
            return Ok(Some(manifest.clone()));
        }
        let mut shards = Vec::with_capacity(self.config.shards());
        let mut rejects = listed.to_vec();
        let pin = self.pin()?;
        for shard in 0..self.config.shards() {
            // Another process or an earlier run may have written the manifest.
            let Some(record) = self.record(shard, pin)? else { return finished(&self.dir) };
            shards.push(record.entry);
            rejects.extend(record.rejects);
        }
        // Those of other parts are hashed only now that all shards are there.
        for (shard, entry) in shards.iter().enumerate() {
            if !self.condition.is_sound(&self.dir, shard, entry)? {
                return finished(&self.dir);
            }
        }
        let lines = self.lines(&rejects)?;
        let manifest = CacheManifest {
            format_version: self.config.format_version(),
            config: self.config.clone(),
            rows: shards.iter().map(|shard| shard.rows).sum(),
            rejected: rejects.len(),
            left_aside: self.left_aside.clone(),
            shards,
            rejects: write_atomic(&self.dir.join(REJECTS), lines.as_bytes())?,
            token_projection: self.projection_entry()?,
        };
        write_json(&self.dir.join(MANIFEST), &manifest)?;
        self.remove_records();
        Ok(Some(manifest))
    }

    /// The content of `rejects.jsonl`.
    fn lines(&self, rejects: &[Reject]) -> Result<String, ArtifactError> {
        let mut lines = String::new();
        for reject in rejects {
            let line = serde_json::to_string(reject)
                .map_err(|error| ArtifactError::json(&self.dir.join(REJECTS), error))?;
            lines.push_str(&line);
            lines.push('\n');
        }
        Ok(lines)
    }

    /// Writes the list of rejects of a complete cache again if it is damaged. This is possible if all of them were found
    /// when the images were listed: shards do not keep their rejects.
    fn restore_rejects(&self, entry: &FileEntry, listed: &[Reject]) -> Result<(), ArtifactError> {
        let Err(damage) = entry.verify(&self.dir, Verify::Full) else { return Ok(()) };
        let lines = self.lines(listed)?;
        if !is_damage(&damage) || ContentHash::of(lines.as_bytes()) != entry.blake3 {
            return Err(damage);
        }
        write_atomic(&self.dir.join(REJECTS), lines.as_bytes())?;
        Ok(())
    }

    /// The record of a shard, if it contains `pin` and the shard's files have their lengths. A damaged record or shard is
    /// noted.
    fn record(&self, shard: usize, pin: Option<ContentHash>) -> Result<Option<ShardRecord>, ArtifactError> {
        let record = match read_json::<ShardRecord>(&self.dir.join(shard_record(shard))) {
            Err(error) if is_damage(&error) => {
                self.condition.damaged(shard, &error);
                None
            }
            read => read?.map(|(record, _)| record).filter(|record| Some(record.config) == pin),
        };
        let Some(record) = record else { return Ok(None) };
        let checked = record.entry.files().try_for_each(|file| file.verify(&self.dir, Verify::Length));
        match checked {
            Ok(()) => Ok(Some(record)),
            // A file of the shard was deleted or truncated after it was written: extract the shard again.
            Err(error) if is_damage(&error) => {
                self.condition.damaged(shard, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the shard records, which a complete cache does not need. Errors are ignored because readers ignore
    /// leftover records.
    fn remove_records(&self) {
        for shard in 0..self.config.shards() {
            let _ = fs::remove_file(self.dir.join(shard_record(shard)));
        }
        let _ = remove_matching(&self.dir, is_temporary);
        let _ = fs::remove_file(self.dir.join(PLAN));
    }
}

/// The locks of a process that makes `partition` of the cache in `dir`.
fn lock(dir: &Path, partition: Partition) -> Result<Vec<FolderLock>, ArtifactError> {
    if !partition.is_shared() {
        return Ok(vec![FolderLock::exclusive(dir)?]);
    }
    let part = format!("{}-of-{}", partition.index, partition.of);
    Ok(vec![FolderLock::shared(dir)?, FolderLock::of_part(dir, &part)?])
}

/// The manifest of the cache in `dir`, or `None` if the cache is not complete.
fn finished(dir: &Path) -> Result<Option<CacheManifest>, ArtifactError> {
    let path = dir.join(MANIFEST);
    if !path.exists() {
        return Ok(None);
    }
    let (manifest, _) = read_manifest::<CacheManifest>(&path, CACHE_VERSION, "the cache's manifest")?;
    manifest.validate(&path)?;
    Ok(Some(manifest))
}

/// The configuration of the complete or unfinished cache in `dir`; `None` if there is no cache.
fn recorded_config(dir: &Path) -> Result<Option<CacheConfig>, ArtifactError> {
    if let Some(manifest) = finished(dir)? {
        return Ok(Some(manifest.config));
    }
    let plan = dir.join(PLAN);
    if plan.exists() {
        let (plan, _) = read_manifest::<Plan>(&plan, CACHE_VERSION, "the plan of an unfinished cache")?;
        return Ok(Some(plan.config));
    }
    Ok(None)
}

/// Returns the recorded configuration, or fails and names the first field in which the wanted one differs. The key of the
/// row checks is no setting: an older version recorded none, and finished shards have the recorded one.
fn require_same(
    dir: &Path,
    recorded: CacheConfig,
    wanted: CacheConfig,
) -> Result<CacheConfig, ArtifactError> {
    let wanted = CacheConfig { row_key: recorded.row_key, ..wanted };
    if recorded == wanted {
        return Ok(recorded);
    }
    let json = |config: &CacheConfig| serde_json::to_value(config).unwrap_or_default();
    let (what, expected, got) = first_difference("", &json(&recorded), &json(&wanted)).unwrap_or_default();
    // A difference inside one of these, such as another width, has a longer name.
    let hint = if ["captions", "features", "stored_views", "tokens"].contains(&what.as_str()) {
        "columns cannot be added to a cache: overwrite it, or choose another folder"
    } else {
        "resume with the settings of the cache, overwrite it, or choose another folder"
    };
    Err(ArtifactError::Mismatch { path: dir.to_owned(), what, expected, got, hint })
}

fn first_difference(
    name: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
) -> Option<(String, String, String)> {
    match (a, b) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            // Either object may lack a setting. In order of name, captions precede the listing, whose hash they change.
            a.keys().chain(b.keys()).collect::<BTreeSet<_>>().into_iter().find_map(|key| {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                let value = |of: &serde_json::Map<_, _>| of.get(key).cloned().unwrap_or_default();
                first_difference(&name, &value(a), &value(b))
            })
        }
        _ if a == b => None,
        _ => Some((name.to_owned(), a.to_string(), b.to_string())),
    }
}

/// Deletes the files of a cache. The manifest is deleted first, so that a half-deleted cache does not open. The
/// projection is next, because another cache must not use it. The plan is deleted last, because it identifies the
/// shards.
fn remove_cache(dir: &Path) -> Result<(), ArtifactError> {
    remove_if_exists(&dir.join(MANIFEST))?;
    remove_if_exists(&dir.join(TOKEN_PROJECTION))?;
    remove_matching(dir, is_shard)?;
    remove_if_exists(&dir.join(REJECTS))?;
    remove_if_exists(&dir.join(PLAN))
}

/// Whether a file name is that of a shard file or a shard record.
fn is_shard(name: &str) -> bool {
    SHARD_KINDS.iter().any(|kind| {
        let rest = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
        let number: Option<usize> = rest.and_then(|rest| rest.split('.').next()?.parse().ok());
        number
            .is_some_and(|shard| name == format!("{kind}-{shard:05}.parquet") || name == shard_record(shard))
    })
}

/// Whether a file name is that of an unfinished file of a shard or of the projection. If the cache is complete, no part of the
/// extraction needs these.
fn is_temporary(name: &str) -> bool {
    let Some(name) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")) else { return false };
    name.starts_with(TOKEN_PROJECTION)
        || SHARD_KINDS.iter().any(|kind| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-')))
}

fn remove_matching(dir: &Path, matches: impl Fn(&str) -> bool) -> Result<(), ArtifactError> {
    for entry in fs::read_dir(dir).during("list", dir)? {
        let path = entry.during("list", dir)?.path();
        if matches(&path.file_name().unwrap_or_default().to_string_lossy()) {
            remove_if_exists(&path)?;
        }
    }
    Ok(())
}

fn remove_if_exists(path: &Path) -> Result<(), ArtifactError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during("delete", path),
        _ => Ok(()),
    }
}
