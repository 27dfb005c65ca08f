//! The condition of a cache's files: which finished shards are as they were written, and which must be made again.
//!
//! A shard of a complete cache that is made again is written to `.remade-00001/` first. Its files replace the damaged ones
//! only if they have the bytes that the manifest lists, so the cache stays the one that banks and runs belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::builder::Plan;
use super::shard::ShardRecord;
use super::{
    CACHE_VERSION, Cache, CacheConfig, CacheManifest, MANIFEST, ShardEntry, TOKEN_PROJECTION, shard_record,
};
use crate::error::{ArtifactError, IoContext};
use crate::manifest::{FileEntry, PLAN, Verify, read_json, read_manifest};
use crate::projection::Projection;

/// Whether `error` means that a file is not what was written, and not that it cannot be read at all.
pub(super) fn is_damage(error: &ArtifactError) -> bool {
    matches!(
        error,
        ArtifactError::Missing { .. }
            | ArtifactError::Length { .. }
            | ArtifactError::Hash { .. }
            | ArtifactError::Json { .. }
            | ArtifactError::Tensors { .. }
            | ArtifactError::Invalid { .. }
    )
}

/// What a process knows about the shards of the cache that it builds.
#[derive(Debug, Default)]
pub(super) struct Condition(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Shards that this process has hashed or written.
    sound: BTreeSet<usize>,
    /// The first fault of each shard that was finished, and is damaged.
    damage: BTreeMap<usize, String>,
    /// The fault of the tokens' projection.
    projection: Option<String>,
}

impl Condition {
    /// Whether the files of a finished shard in `dir` are as `entry` says. Their bytes are hashed once per process.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if a file cannot be read.
    pub(super) fn is_sound(
        &self,
        dir: &Path,
        shard: usize,
        entry: &ShardEntry,
    ) -> Result<bool, ArtifactError> {
        let depth = if self.lock().sound.contains(&shard) { Verify::Length } else { Verify::Full };
        match entry.files().try_for_each(|file| file.verify(dir, depth)) {
            Ok(()) => {
                self.lock().sound.insert(shard);
                Ok(true)
            }
            Err(error) if is_damage(&error) => {
                self.damaged(shard, &error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Records that a finished shard is damaged.
    pub(super) fn damaged(&self, shard: usize, error: &ArtifactError) {
        let mut known = self.lock();
        known.sound.remove(&shard);
        known.damage.insert(shard, first_line(error));
    }

    /// Records that the tokens' projection is damaged.
    pub(super) fn projection_damaged(&self, error: &ArtifactError) {
        self.lock().projection = Some(first_line(error));
    }

    /// Records that this process has written a shard.
    pub(super) fn made(&self, shard: usize) {
        let mut known = self.lock();
        known.sound.insert(shard);
        known.damage.remove(&shard);
    }

    /// The fault of a damaged projection, and the first one of each damaged shard.
    pub(super) fn damage(&self) -> Vec<String> {
        let known = self.lock();
        known.projection.iter().chain(known.damage.values()).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message without its hint.
fn first_line(error: &ArtifactError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Reads the projection of an unfinished cache with this configuration. No manifest lists the file, but it holds its own hash.
///
/// # Errors
/// [`ArtifactError::Mismatch`] if another cache has left the file; [`is_damage`] holds for the errors of a damaged one;
/// [`ArtifactError::Io`].
pub(super) fn unlisted_projection(path: &Path, config: &CacheConfig) -> Result<Projection, ArtifactError> {
    let bytes = fs::read(path).during("read", path)?;
    let sealed = match Projection::require_sealed(&bytes, path) {
        Err(error @ ArtifactError::Hash { .. }) => return Err(error),
        // A file of another cache, or of an earlier version, may have no hash.
        sealed => sealed,
    };
    let (found, owner) = Projection::of_bytes(&bytes, path)?;
    let config = config.hash();
    if owner == Some(config) {
        return sealed.map(|()| found);
    }
    Err(ArtifactError::Mismatch {
        path: path.to_owned(),
        what: "the hash of the configuration that the projection was fitted for".to_owned(),
        expected: config.to_string(),
        got: owner.map_or_else(|| "none".to_owned(), |owner| owner.to_string()),
        hint: "another extraction left it: delete the file to fit it again, overwrite the cache, or choose another folder",
    })
}

/// The folder in which a shard of a complete cache is made again. It is deleted when it is dropped.
#[derive(Debug)]
pub(super) struct Remade {
    home: PathBuf,
    scratch: PathBuf,
    expected: ShardEntry,
}

impl Remade {
    /// Creates the folder in `home`. One that a killed process has left is deleted.
    pub(super) fn create(home: &Path, shard: usize, expected: ShardEntry) -> Result<Self, ArtifactError> {
        let scratch = home.join(format!(".remade-{shard:05}"));
        if fs::symlink_metadata(&scratch).is_ok() {
            fs::remove_dir_all(&scratch).during("delete", &scratch)?;
        }
        fs::create_dir(&scratch).during("create the folder", &scratch)?;
        Ok(Self { home: home.to_owned(), scratch, expected })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.scratch
    }

    /// Moves the files of the finished shard to the cache.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] if they have other bytes than those that the manifest lists; nothing is moved then.
    pub(super) fn install(self, made: &ShardEntry) -> Result<(), ArtifactError> {
        let pairs = self.expected.files().zip(made.files());
        if let Some((expected, got)) = pairs.into_iter().find(|(expected, got)| expected != got) {
            return Err(not_the_same(&self.home, expected, got));
        }
        for file in made.files() {
            let to = self.home.join(&file.name);
            fs::rename(self.scratch.join(&file.name), &to).during("rename", &to)?;
        }
        File::open(&self.home).and_then(|dir| dir.sync_all()).during("flush", &self.home)
    }
}

impl Drop for Remade {
    fn drop(&mut self) {
        // A folder that cannot be deleted does no harm, and the next one of its name deletes it.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// The error for a file that was made again with other bytes.
pub(super) fn not_the_same(dir: &Path, expected: &FileEntry, got: &FileEntry) -> ArtifactError {
    ArtifactError::Mismatch {
        path: dir.join(&expected.name),
        what: "the BLAKE3 hash of the file, made again,".to_owned(),
        expected: expected.blake3.to_string(),
        got: got.blake3.to_string(),
        hint: "the images, the teacher, the processor or the library's version differ from those of the first extraction: \
               restore them, or overwrite the cache and make its banks again",
    }
}

/// The condition of all files of a cache, complete or not.
#[derive(Debug)]
pub struct CacheSurvey {
    /// Settings of the cache.
    pub config: CacheConfig,
    /// Whether the cache is complete.
    pub complete: bool,
    /// Number of shards that were finished.
    pub finished: usize,
    /// One error per file that is missing or not as it was written.
    pub damage: Vec<ArtifactError>,
}

impl Cache {
    /// Hashes every file of the cache in `dir`, which may be unfinished, and does not stop at the first damage.
    ///
    /// # Errors
    /// [`ArtifactError`] if there is neither a manifest nor the plan of an unfinished cache, if it is damaged, or if a file
    /// cannot be read.
    pub fn survey(dir: &Path) -> Result<CacheSurvey, ArtifactError> {
        let (manifest, plan) = (dir.join(MANIFEST), dir.join(PLAN));
        let mut damage = Vec::new();
        if manifest.exists() || !plan.exists() {
            let (manifest, _) =
                read_manifest::<CacheManifest>(&manifest, CACHE_VERSION, "the cache's manifest")?;
            let projection = manifest.token_projection.iter().map(|projection| &projection.file);
            let files = manifest.shards.iter().flat_map(ShardEntry::files).chain(projection);
            for file in files.chain([&manifest.rejects]) {
                collect(file.verify(dir, Verify::Full), &mut damage)?;
            }
            let finished = manifest.shards.len();
            return Ok(CacheSurvey { config: manifest.config, complete: true, finished, damage });
        }
        let (Plan { config, .. }, _) =
            read_manifest::<Plan>(&plan, CACHE_VERSION, "the plan of an unfinished cache")?;
        let mut finished = 0;
        for shard in 0..config.shards() {
            match read_json::<ShardRecord>(&dir.join(shard_record(shard))) {
                Ok(None) => {}
                Ok(Some((record, _))) => {
                    finished += 1;
                    for file in record.entry.files() {
                        collect(file.verify(dir, Verify::Full), &mut damage)?;
                    }
                }
                Err(error) => {
                    finished += 1;
                    collect(Err(error), &mut damage)?;
                }
            }
        }
        let projection = dir.join(TOKEN_PROJECTION);
        if config.projects() && projection.exists() {
            collect(unlisted_projection(&projection, &config).map(drop), &mut damage)?;
        }
        Ok(CacheSurvey { config, complete: false, finished, damage })
    }
}

/// Adds the error of a damaged file to `damage`, and returns any other error.
fn collect(
    verified: Result<(), ArtifactError>,
    damage: &mut Vec<ArtifactError>,
) -> Result<(), ArtifactError> {
    match verified {
        Err(error) if is_damage(&error) => damage.push(error),
        verified => verified?,
    }
    Ok(())
}
