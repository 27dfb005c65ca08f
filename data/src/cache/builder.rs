//! Building a cache: which shards are missing, and the manifest once none is.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shard::{ShardRecord, ShardWriter};
use super::{
    CACHE_VERSION, CacheConfig, CacheManifest, MANIFEST, PLAN, Partition, REJECTS, shard_file, shard_record,
};
use crate::error::{ArtefactError, IoContext};
use crate::manifest::{FileEntry, Verify, read_manifest, write_atomic, write_json};

/// What to do with a folder that already holds a cache or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Refuse,
    /// Keep complete shards, provided the configuration is the same.
    Resume,
    /// Delete the old cache first.
    Overwrite,
}

/// `extract.json`.
#[derive(Serialize, Deserialize)]
struct Plan {
    format_version: u32,
    config: CacheConfig,
}

/// A cache under construction. Several processes may build one folder, each with its own [`Partition`].
#[derive(Debug)]
pub struct CacheBuilder {
    dir: PathBuf,
    config: CacheConfig,
}

impl CacheBuilder {
    /// Starts or resumes the cache in `dir`.
    ///
    /// # Errors
    /// [`ArtefactError::Occupied`] where something is there and `existing` is [`Existing::Refuse`];
    /// [`ArtefactError::Mismatch`] where a resumed cache was begun with another configuration.
    pub fn open(dir: &Path, config: CacheConfig, existing: Existing) -> Result<Self, ArtefactError> {
        fs::create_dir_all(dir).during("create", dir)?;
        if existing == Existing::Overwrite {
            remove_cache(dir)?;
        }
        let found = recorded_config(dir)?;
        match (&found, existing) {
            (Some(_), Existing::Refuse) => {
                return Err(ArtefactError::Occupied { path: dir.to_owned(), what: "a cache".to_owned() });
            }
            (Some(recorded), _) => require_same(dir, recorded, &config)?,
            (None, _) => {
                let plan = Plan { format_version: CACHE_VERSION, config: config.clone() };
                write_json(&dir.join(PLAN), &plan)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), config })
    }

    /// The configuration.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Listing positions that `shard` covers.
    pub fn sample_range(&self, shard: usize) -> Range<usize> {
        let start = shard * self.config.shard_samples;
        start..(start + self.config.shard_samples).min(self.config.samples)
    }

    /// Shards of `partition` that are not complete, in order.
    ///
    /// # Errors
    /// [`ArtefactError`] where a record cannot be read.
    pub fn missing_shards(&self, partition: Partition) -> Result<Vec<usize>, ArtefactError> {
        if self.dir.join(MANIFEST).exists() {
            return Ok(Vec::new());
        }
        let mine = (0..self.config.shards()).filter(|&shard| partition.contains(shard));
        mine.filter_map(|shard| match self.record(shard) {
            Ok(Some(_)) => None,
            Ok(None) => Some(Ok(shard)),
            Err(error) => Some(Err(error)),
        })
        .collect()
    }

    /// Starts writing one shard.
    ///
    /// # Errors
    /// [`ArtefactError`] where its file cannot be created.
    pub fn shard_writer(&self, shard: usize) -> Result<ShardWriter, ArtefactError> {
        ShardWriter::create(&self.dir, &self.config, shard)
    }

    /// Writes the manifest if every shard is complete, whoever made it; `None` while some are missing.
    ///
    /// # Errors
    /// [`ArtefactError`] on I/O, or where a shard on disk is not what its record says.
    pub fn finalize(&self) -> Result<Option<CacheManifest>, ArtefactError> {
        let path = self.dir.join(MANIFEST);
        if path.exists() {
            return read_manifest(&path, CACHE_VERSION, "the cache's manifest")
                .map(|(manifest, _)| Some(manifest));
        }
        let mut shards = Vec::with_capacity(self.config.shards());
        let mut rejects = Vec::new();
        for shard in 0..self.config.shards() {
            let Some(record) = self.record(shard)? else { return Ok(None) };
            shards.push(record.entry);
            rejects.extend(record.rejects);
        }
        let mut lines = String::new();
        for reject in &rejects {
            let line = serde_json::to_string(reject).map_err(|error| ArtefactError::Json {
                path: self.dir.join(REJECTS),
                reason: error.to_string(),
            })?;
            lines.push_str(&line);
            lines.push('\n');
        }
        write_atomic(&self.dir.join(REJECTS), lines.as_bytes())?;
        let manifest = CacheManifest {
            format_version: CACHE_VERSION,
            config: self.config.clone(),
            rows: shards.iter().map(|shard| shard.rows).sum(),
            rejected: rejects.len(),
            shards,
            rejects: FileEntry::describe(&self.dir, REJECTS)?,
        };
        write_json(&path, &manifest)?;
        self.remove_records();
        Ok(Some(manifest))
    }

    /// A shard's record, provided its file is there in full length.
    fn record(&self, shard: usize) -> Result<Option<ShardRecord>, ArtefactError> {
        let path = self.dir.join(shard_record(shard));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).during("read", &path),
        };
        let record: ShardRecord = serde_json::from_slice(&bytes)
            .map_err(|error| ArtefactError::Json { path: path.clone(), reason: error.to_string() })?;
        match record.entry.file.verify(&self.dir, Verify::Length) {
            Ok(()) => Ok(Some(record)),
            // Someone deleted or cut the shard since: it is simply to be made again.
            Err(ArtefactError::Missing { .. } | ArtefactError::Length { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The records have served their purpose; one that stays behind is only clutter, so failures do not matter.
    fn remove_records(&self) {
        for shard in 0..self.config.shards() {
            let _ = fs::remove_file(self.dir.join(shard_record(shard)));
        }
        let _ = fs::remove_file(self.dir.join(PLAN));
    }
}

/// The configuration of the cache that `dir` holds, complete or not.
fn recorded_config(dir: &Path) -> Result<Option<CacheConfig>, ArtefactError> {
    let manifest = dir.join(MANIFEST);
    if manifest.exists() {
        let (manifest, _) = read_manifest::<CacheManifest>(&manifest, CACHE_VERSION, "the cache's manifest")?;
        return Ok(Some(manifest.config));
    }
    let plan = dir.join(PLAN);
    if plan.exists() {
        let (plan, _) = read_manifest::<Plan>(&plan, CACHE_VERSION, "the plan of an unfinished cache")?;
        return Ok(Some(plan.config));
    }
    Ok(None)
}

/// Names the first field in which two configurations differ.
fn require_same(dir: &Path, recorded: &CacheConfig, wanted: &CacheConfig) -> Result<(), ArtefactError> {
    if recorded == wanted {
        return Ok(());
    }
    let json = |config| serde_json::to_value(config).unwrap_or_default();
    let (what, expected, got) = first_difference("", &json(recorded), &json(wanted)).unwrap_or_default();
    let hint = "resume with the settings the cache was begun with, or give --overwrite or another folder";
    Err(ArtefactError::Mismatch { path: dir.to_owned(), what, expected, got, hint })
}

fn first_difference(
    name: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
) -> Option<(String, String, String)> {
    match (a, b) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => a.iter().find_map(|(key, a)| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            first_difference(&name, a, b.get(key).unwrap_or(&serde_json::Value::Null))
        }),
        _ if a == b => None,
        _ => Some((name.to_owned(), a.to_string(), b.to_string())),
    }
}

/// Deletes a cache's files, the manifest first, so that a half-deleted cache is no cache.
fn remove_cache(dir: &Path) -> Result<(), ArtefactError> {
    for name in [MANIFEST, PLAN, REJECTS] {
        remove_if_there(&dir.join(name))?;
    }
    for entry in fs::read_dir(dir).during("list", dir)? {
        let path = entry.during("list", dir)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let shard = name.strip_prefix("views-").and_then(|rest| rest.split('.').next()?.parse().ok());
        if shard.is_some_and(|shard| name == shard_file(shard) || name == shard_record(shard)) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), ArtefactError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during("delete", path),
        _ => Ok(()),
    }
}
