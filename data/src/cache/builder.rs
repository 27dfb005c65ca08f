//! Building a cache: which shards are missing, and the manifest once none is.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shard::{ShardRecord, ShardWriter};
use super::{
    CACHE_VERSION, CacheConfig, CacheManifest, MANIFEST, Partition, REJECTS, Reject, pixel_file, shard_file,
    shard_record,
};
use crate::error::{ArtefactError, IoContext};
use crate::manifest::{
    FileEntry, PLAN, Verify, prepare_folder, read_json, read_manifest, write_atomic, write_json,
    write_new_json,
};

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
        prepare_folder(dir, "cache")?;
        if existing == Existing::Overwrite {
            remove_cache(dir)?;
        }
        match (recorded_config(dir)?, existing) {
            (Some(_), Existing::Refuse) => {
                let complete = dir.join(MANIFEST).exists();
                let what = if complete { "a cache" } else { "an unfinished cache" };
                let hint = "give --resume to go on, --overwrite to start anew, or another folder";
                return Err(ArtefactError::Occupied { path: dir.to_owned(), what: what.to_owned(), hint });
            }
            (Some(recorded), _) => require_same(dir, &recorded, &config)?,
            (None, _) => {
                let plan = Plan { format_version: CACHE_VERSION, config: config.clone() };
                write_new_json(&dir.join(PLAN), &plan)?;
                // Another part may have begun the folder a moment ago, and with other settings.
                if let Some(recorded) = recorded_config(dir)? {
                    require_same(dir, &recorded, &config)?;
                }
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
        let mut missing = Vec::new();
        for shard in (0..self.config.shards()).filter(|&shard| partition.contains(shard)) {
            if self.record(shard)?.is_none() {
                missing.push(shard);
            }
        }
        // Looked at last: another part may have written the manifest and removed the records meanwhile.
        if self.dir.join(MANIFEST).exists() { Ok(Vec::new()) } else { Ok(missing) }
    }

    /// Starts writing one shard.
    ///
    /// # Errors
    /// [`ArtefactError`] where its file cannot be created.
    pub fn shard_writer(&self, shard: usize) -> Result<ShardWriter, ArtefactError> {
        ShardWriter::create(&self.dir, &self.config, shard)
    }

    /// Writes the manifest if every shard is complete, whoever made it; `None` while some are missing. `listed` are the
    /// samples that were rejected when the images were listed.
    ///
    /// # Errors
    /// [`ArtefactError`] on I/O, or where a record was altered.
    pub fn finalize(&self, listed: &[Reject]) -> Result<Option<CacheManifest>, ArtefactError> {
        let mut shards = Vec::with_capacity(self.config.shards());
        let mut rejects = listed.to_vec();
        for shard in 0..self.config.shards() {
            let Some(record) = self.record(shard)? else { return self.finished() };
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
        write_json(&self.dir.join(MANIFEST), &manifest)?;
        self.remove_records();
        Ok(Some(manifest))
    }

    /// The manifest, where another part or an earlier run has written it.
    fn finished(&self) -> Result<Option<CacheManifest>, ArtefactError> {
        let path = self.dir.join(MANIFEST);
        if !path.exists() {
            return Ok(None);
        }
        read_manifest(&path, CACHE_VERSION, "the cache's manifest").map(|(manifest, _)| Some(manifest))
    }

    /// A shard's record, provided that it was made with this configuration and its file is there in full length.
    fn record(&self, shard: usize) -> Result<Option<ShardRecord>, ArtefactError> {
        let Some((record, _)) = read_json::<ShardRecord>(&self.dir.join(shard_record(shard)))? else {
            return Ok(None);
        };
        if record.config != self.config.hash() {
            return Ok(None);
        }
        let checked = record.entry.file.verify(&self.dir, Verify::Length);
        let checked = checked.and_then(|()| {
            record.entry.pixels.iter().try_for_each(|file| file.verify(&self.dir, Verify::Length))
        });
        match checked {
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
        let _ = remove_matching(&self.dir, is_temporary);
        let _ = fs::remove_file(self.dir.join(PLAN));
    }
}

/// The configuration of the cache that `dir` holds, complete or not.
fn recorded_config(dir: &Path) -> Result<Option<CacheConfig>, ArtefactError> {
    let manifest = dir.join(MANIFEST);
    if manifest.exists() {
        let (found, _) = read_manifest::<CacheManifest>(&manifest, CACHE_VERSION, "the cache's manifest")?;
        found.validate(&manifest)?;
        return Ok(Some(found.config));
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
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            // A setting may stand in one of them only.
            a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).find_map(|key| {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                let value = |of: &serde_json::Map<_, _>| of.get(key).cloned().unwrap_or_default();
                first_difference(&name, &value(a), &value(b))
            })
        }
        _ if a == b => None,
        _ => Some((name.to_owned(), a.to_string(), b.to_string())),
    }
}

/// Deletes a cache's files: the manifest first, so that a half-deleted cache is no cache, the plan last, so that until
/// then it is known whose shards these are.
fn remove_cache(dir: &Path) -> Result<(), ArtefactError> {
    remove_if_there(&dir.join(MANIFEST))?;
    remove_matching(dir, |name| is_shard(name) || is_temporary(name))?;
    remove_if_there(&dir.join(REJECTS))?;
    remove_if_there(&dir.join(PLAN))
}

/// Whether a file is a shard, its stored views or its record.
fn is_shard(name: &str) -> bool {
    let rest = name.strip_prefix("views-").or_else(|| name.strip_prefix("pixels-"));
    let number = rest.and_then(|rest| rest.split('.').next()?.parse().ok());
    number.is_some_and(|shard| {
        [shard_file(shard), pixel_file(shard), shard_record(shard)].contains(&name.to_owned())
    })
}

/// Whether a file is what a killed job left of a shard.
fn is_temporary(name: &str) -> bool {
    (name.starts_with(".views-") || name.starts_with(".pixels-")) && name.ends_with(".tmp")
}

fn remove_matching(dir: &Path, matches: impl Fn(&str) -> bool) -> Result<(), ArtefactError> {
    for entry in fs::read_dir(dir).during("list", dir)? {
        let path = entry.during("list", dir)?.path();
        if matches(&path.file_name().unwrap_or_default().to_string_lossy()) {
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
