//! The parts that all kinds of banks share: the files `targets-00000.parquet` etc., with one row per cache row, and the
//! record of the cache that the bank was made from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::Cache;
use crate::error::{ArtifactError, IoContext};
use crate::manifest::{ContentHash, FileEntry};

/// The cache that a bank was made from, as recorded in the bank's manifest.
pub(crate) struct MadeFrom {
    /// Path of the bank's manifest.
    pub(crate) manifest: PathBuf,
    /// Hash of the cache's manifest.
    pub(crate) cache: ContentHash,
    /// Number of target rows.
    pub(crate) rows: usize,
    /// Hint: how to make the bank again.
    pub(crate) hint: &'static str,
}

impl MadeFrom {
    /// Fails unless the bank was made from `cache`.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`], with both hashes or both row counts.
    pub(crate) fn require(self, cache: &Cache) -> Result<(), ArtifactError> {
        let (what, expected, got) = if self.cache != cache.hash() {
            ("the hash of the cache", cache.hash().to_string(), self.cache.to_string())
        } else if self.rows != cache.rows() {
            ("the number of rows", cache.rows().to_string(), self.rows.to_string())
        } else {
            return Ok(());
        };
        let Self { manifest: path, hint, .. } = self;
        Err(ArtifactError::Mismatch { path, what: what.to_owned(), expected, got, hint })
    }
}

/// File name of the targets of a cache shard.
pub(crate) fn target_file(shard: usize) -> String {
    format!("targets-{shard:05}.parquet")
}

/// Deletes the manifest of the bank in `dir`, then its targets.
pub(crate) fn clear_folder(dir: &Path, manifest: &str) -> Result<(), ArtifactError> {
    let manifest = dir.join(manifest);
    if manifest.exists() {
        // Without its manifest the folder is not a bank. If the job is killed after this line, nothing looks complete.
        fs::remove_file(&manifest).during("delete", &manifest)?;
    }
    for entry in fs::read_dir(dir).during("list", dir)? {
        let path = entry.during("list", dir)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("targets-") && name.ends_with(".parquet") {
            fs::remove_file(&path).during("delete", &path)?;
        }
    }
    Ok(())
}

/// The finished target files of a bank under construction. Shards may be finished by several threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct FinishedTargets(Arc<Mutex<BTreeMap<usize, FileEntry>>>);

impl FinishedTargets {
    /// Adds the file of a cache shard, with the entry of the bytes written.
    pub(crate) fn add(&self, shard: usize, file: FileEntry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, file);
    }

    /// Manifest entries of the first `shards` target files of the bank in `dir`.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`] if one was not written.
    pub(crate) fn entries(&self, dir: &Path, shards: usize) -> Result<Vec<FileEntry>, ArtifactError> {
        let finished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |shard| {
            finished.get(&shard).cloned().ok_or_else(|| ArtifactError::Missing {
                path: dir.join(target_file(shard)),
                what: "the targets of a shard, which were not written",
                hint: "",
            })
        };
        (0..shards).map(entry).collect()
    }
}
