//! Fetches a cache, bank, bridge or run: its manifest, then the files that the manifest lists.
//!
//! ```text
//! PREFIX/cache.json             the manifest
//! PREFIX/0b51…/views-00000…     its files, below the first 16 digits of the manifest's hash, as `output` stores them,
//! PREFIX/views-00000…           or beside it, as a copied folder has them
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, future, stream};
use lgd_data::ArtifactError;
use lgd_data::manifest::{ContentHash, FileEntry, FolderLock, require_sealed, write_atomic};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::error::StoreError;
use crate::shelf::{Shelf, touch};
use crate::transfer::{Pin, Remote};

/// The manifests of all kinds of artifacts.
pub(crate) const MANIFESTS: [&str; 5] = ["cache.json", "bank.json", "kdep.json", "align.json", "run.json"];

/// Largest manifest that is read, in bytes. One of a cache with 100,000 shards is a quarter of it.
pub(crate) const MOST_MANIFEST: u64 = 256 << 20;

/// Files that are fetched at the same time, each in several requests.
const FILES_AT_ONCE: usize = 4;

/// Attempts for a file whose hash is wrong: a damaged transfer is repeated, a damaged object is not cured.
const ATTEMPTS: usize = 4;

/// Pause between two looks at a folder that another process fills.
const PAUSE: Duration = Duration::from_millis(200);

/// A fetched artifact.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) dir: PathBuf,
    /// Keeps the folder as long as this value.
    pub(crate) lock: FolderLock,
    /// Number and bytes of the files that were not here before.
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// A manifest as the store has it.
pub(crate) struct Found {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: object_store::UpdateVersion,
}

impl Found {
    pub(crate) fn hash(&self) -> ContentHash {
        ContentHash::of(&self.bytes)
    }
}

/// The folder of an artifact's files below its prefix.
pub(crate) fn version_folder(hash: ContentHash) -> String {
    hash.to_string().chars().take(16).collect()
}

/// All manifests directly below the URL.
pub(crate) async fn manifests(remote: &Remote) -> Result<Vec<Found>, StoreError> {
    let read = MANIFESTS.map(|name| async move {
        let read = remote.read(name, MOST_MANIFEST).await?;
        Ok::<_, StoreError>(read.map(|(bytes, version)| Found { name, bytes, version }))
    });
    Ok(future::try_join_all(read).await?.into_iter().flatten().collect())
}

/// Fetches the artifact at the URL, without the files under the manifest's fields `skipped`, into `dir`; else into its
/// folder on the shelf.
pub(crate) async fn fetch(
    remote: &Remote,
    shelf: &Shelf,
    skipped: &[&str],
    dir: Option<PathBuf>,
) -> Result<Fetched, StoreError> {
    let found = sealed_manifest(remote).await?;
    let url = remote.url.shown_of(found.name);
    let parsed: Value = serde_json::from_slice(&found.bytes)
        .map_err(|source| ArtifactError::Json { path: PathBuf::from(&url), source })?;
    let mut listed = BTreeMap::new();
    list(&parsed, skipped, &mut listed);
    if let Some(name) = listed.keys().find(|name| !is_inside(name)) {
        return Err(ArtifactError::invalid(Path::new(&url), format!("it lists the file {name:?}")).into());
    }
    let dir = dir.unwrap_or_else(|| shelf.artifact(found.hash()));
    loop {
        let io = |error| StoreError::io("create the folder", &dir, error);
        fs::create_dir_all(&dir).map_err(io)?;
        // The second lock: only one process fetches, and the others find the files.
        let locks = FolderLock::shared(&dir).and_then(|lock| Ok((lock, FolderLock::of_part(&dir, "fetch")?)));
        let (lock, _fetching) = match locks {
            Err(error) if passes(&error) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            locks => locks?,
        };
        let is_here = |entry: &FileEntry| {
            let length = dir.join(&entry.name).metadata().map(|metadata| metadata.len());
            length.is_ok_and(|length| length == entry.bytes)
        };
        let missing: Vec<&FileEntry> = listed.values().filter(|entry| !is_here(entry)).collect();
        let bytes = missing.iter().map(|entry| entry.bytes).fold(0, u64::saturating_add);
        if !missing.is_empty() {
            let room = shelf.reserve(&remote.url.shown, bytes).await?;
            fetch_files(remote, &found, &missing, &dir).await?;
            room.keep();
        }
        // Last, so that a folder with a manifest is complete.
        let manifest = dir.join(found.name);
        if !manifest.exists() {
            write_atomic(&manifest, &found.bytes)?;
        }
        // Without the time, the folder is only deleted earlier.
        let _ = File::open(&dir).and_then(|dir| touch(&dir));
        let files = missing.len();
        return Ok(Fetched { dir, lock, files, bytes });
    }
}

/// Whether a lock failed because another process fetches the artifact, or deletes it to make room.
fn passes(error: &ArtifactError) -> bool {
    match error {
        ArtifactError::Busy { .. } => true,
        ArtifactError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The manifest below the URL; complete, because its last field is the hash of the rest.
async fn sealed_manifest(remote: &Remote) -> Result<Found, StoreError> {
    let mut attempt = 0;
    loop {
        let found = manifests(remote).await?.into_iter().next().ok_or_else(|| StoreError::Missing {
            url: format!("{}/[cache, bank, kdep, align or run].json", remote.url.shown),
            hint: "\nhint: give the URL that the cache, bank, bridge or run was written to",
        })?;
        attempt += 1;
        match require_sealed(Path::new(&remote.url.shown_of(found.name)), &found.bytes) {
            Err(_) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(found),
        }
    }
}

async fn fetch_files(
    remote: &Remote,
    found: &Found,
    files: &[&FileEntry],
    dir: &Path,
) -> Result<(), StoreError> {
    let version = version_folder(found.hash());
    let own_folder = remote.head(&format!("{version}/{}", found.name)).await?.is_some();
    let fetch = |entry: &FileEntry| {
        let object = if own_folder { format!("{version}/{}", entry.name) } else { entry.name.clone() };
        let (path, entry) = (dir.join(&entry.name), entry.clone());
        async move { fetch_verified(remote, &object, &entry, &path).await }
    };
    stream::iter(files.iter().copied().map(fetch)).buffer_unordered(FILES_AT_ONCE).try_collect().await
}

/// Fetches a file, compares its hash, and then gives it its name.
async fn fetch_verified(
    remote: &Remote,
    object: &str,
    entry: &FileEntry,
    path: &Path,
) -> Result<(), StoreError> {
    let io = |error| StoreError::io("write", path, error);
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir).map_err(io)?;
    let mut attempt = 0;
    loop {
        let temporary = NamedTempFile::new_in(dir).map_err(io)?;
        remote.fetch(object, &Pin::of_any_version(entry.bytes), temporary.as_file()).await?;
        // Not on all threads: the command has not chosen their number yet.
        let got = temporary.reopen().and_then(ContentHash::of_reader).map_err(io)?;
        attempt += 1;
        if got == entry.blake3 {
            temporary.as_file().sync_all().map_err(io)?;
            temporary.persist(path).map_err(|error| io(error.error))?;
            return Ok(());
        }
        if attempt == ATTEMPTS {
            let url = remote.url.shown_of(object);
            return Err(StoreError::Hash { url, expected: entry.blake3, got });
        }
    }
}

/// Collects the file entries in a manifest, except below the fields `skipped`.
fn list(value: &Value, skipped: &[&str], listed: &mut BTreeMap<String, FileEntry>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| list(item, skipped, listed)),
        Value::Object(fields) => {
            if let Ok(entry) = serde_json::from_value::<FileEntry>(value.clone()) {
                listed.insert(entry.name.clone(), entry);
                return;
            }
            let read = fields.iter().filter(|(field, _)| !skipped.contains(&field.as_str()));
            read.for_each(|(_, value)| list(value, skipped, listed));
        }
        _ => {}
    }
}

/// Whether a name in a manifest leads to a file inside the folder.
fn is_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_manifest_are_found_at_any_depth_except_skipped_ones() {
        let entry =
            |name: &str| serde_json::json!({"name": name, "bytes": 3, "blake3": ContentHash::of(b"abc")});
        let manifest = serde_json::json!({
            "config": {"name": "a", "bytes": 3},
            "shards": [{"file": entry("views-00000.parquet"), "pixels": entry("pixels-00000.parquet")}],
            "rejects": entry("rejects.jsonl"),
        });
        let names = |skipped: &[&str]| {
            let mut listed = BTreeMap::new();
            list(&manifest, skipped, &mut listed);
            listed.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["pixels-00000.parquet", "rejects.jsonl", "views-00000.parquet"]);
        assert_eq!(names(&["pixels"]), ["rejects.jsonl", "views-00000.parquet"]);
    }

    #[test]
    fn names_stay_inside_the_folder() {
        for (name, inside) in
            [("a", true), ("a/b", true), ("", false), ("../a", false), ("/a", false), ("a/../../b", false)]
        {
            assert_eq!(is_inside(name), inside, "{name:?}");
        }
    }
}
