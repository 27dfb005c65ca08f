//! The files that every kind of bank has: `targets-00000.parquet`, row for row with the views of the cache's shard.

use std::fs;
use std::path::Path;

use crate::cache::Existing;
use crate::error::{ArtefactError, IoContext};
use crate::manifest::{FileEntry, prepare_folder};

/// The name of the targets of one shard of the cache.
pub(crate) fn target_file(shard: usize) -> String {
    format!("targets-{shard:05}.parquet")
}

/// Whether a `kind` of bank with this manifest may be written to `dir`, which is created where it is absent; changes nothing
/// in it.
pub(crate) fn check_folder(
    dir: &Path,
    kind: &str,
    manifest: &str,
    existing: Existing,
) -> Result<(), ArtefactError> {
    prepare_folder(dir, kind)?;
    if dir.join(manifest).exists() && existing != Existing::Overwrite {
        let hint = "give --overwrite to replace it, or another folder";
        return Err(ArtefactError::Occupied { path: dir.to_owned(), what: format!("a {kind}"), hint });
    }
    Ok(())
}

/// Removes the manifest of the bank in `dir`, then its targets and what an interrupted job left of some.
pub(crate) fn clear_folder(dir: &Path, manifest: &str) -> Result<(), ArtefactError> {
    let manifest = dir.join(manifest);
    if manifest.exists() {
        // Without its manifest it is no bank: a job killed from here on leaves nothing that looks whole.
        fs::remove_file(&manifest).during("delete", &manifest)?;
    }
    for entry in fs::read_dir(dir).during("list", dir)? {
        let path = entry.during("list", dir)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = name.starts_with(".targets-") && name.ends_with(".tmp");
        if temporary || (name.starts_with("targets-") && name.ends_with(".parquet")) {
            fs::remove_file(&path).during("delete", &path)?;
        }
    }
    Ok(())
}

/// The entries of the first `shards` target files, for the manifest.
pub(crate) fn describe(dir: &Path, shards: usize) -> Result<Vec<FileEntry>, ArtefactError> {
    (0..shards).map(|shard| FileEntry::describe(dir, &target_file(shard))).collect()
}
