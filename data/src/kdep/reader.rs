//! Reads a KDEP bank.

use std::path::{Path, PathBuf};

use super::{COLUMN, KDEP_VERSION, KdepManifest, MANIFEST};
use crate::cache::Cache;
use crate::column::MappedColumn;
use crate::error::ArtifactError;
use crate::manifest::{ContentHash, FilesInUse, VerifiedFile, Verify, read_manifest};
use crate::projection::Projection;
use crate::target_files::MadeFrom;

/// A complete KDEP bank, opened for reading.
#[derive(Debug)]
pub struct KdepBank {
    dir: PathBuf,
    manifest: KdepManifest,
    hash: ContentHash,
    in_use: FilesInUse,
    /// Target files, one per shard of the cache.
    targets: Vec<VerifiedFile>,
    projection: Projection,
}

impl KdepBank {
    /// Whether `dir` holds the manifest of a KDEP bank.
    pub fn is_kdep(dir: &Path) -> bool {
        dir.join(MANIFEST).exists()
    }

    /// Opens the bank in `dir` and verifies its files to `depth`.
    ///
    /// # Errors
    /// [`ArtifactError`] if the manifest or a file is missing, altered or inconsistent.
    pub fn open(dir: &Path, depth: Verify) -> Result<Self, ArtifactError> {
        let path = dir.join(MANIFEST);
        let (manifest, hash) =
            read_manifest::<KdepManifest>(&path, KDEP_VERSION, "the KDEP bank's manifest")?;
        let in_use = FilesInUse::default();
        let file = in_use.verify(&manifest.projection, dir, depth)?;
        let targets = manifest.targets.iter().map(|shard| in_use.verify(shard, dir, depth));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let path = file.path().to_owned();
        let (projection, _) = Projection::of_bytes(&file.read()?, &path)?;
        let expected = (manifest.record.features, manifest.record.dim);
        let got = (projection.width(), projection.dim());
        if got != expected {
            let reason = format!("expected a projection from {} to {}, got {got:?}", expected.0, expected.1);
            return Err(ArtifactError::invalid(&path, reason));
        }
        Ok(Self { dir: dir.to_owned(), manifest, hash, in_use, targets, projection })
    }

    /// Fails unless the bank was made from `cache`.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`], with both hashes or both row counts.
    pub fn require_cache(&self, cache: &Cache) -> Result<(), ArtifactError> {
        let made_from = MadeFrom {
            manifest: self.dir.join(MANIFEST),
            cache: self.manifest.record.cache,
            rows: self.manifest.rows,
            hint: "the KDEP bank belongs to another cache; build it again from this one",
        };
        made_from.require(cache)
    }

    /// Fails if a file has changed since the bank was opened. [`Verify::Full`] also hashes those files again that were hashed.
    ///
    /// # Errors
    /// [`ArtifactError::Changed`], which names the file; [`ArtifactError::Io`].
    pub fn require_unchanged(&self, depth: Verify) -> Result<(), ArtifactError> {
        self.in_use.require_unchanged(depth)
    }

    /// Folder of the bank.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Manifest of the bank.
    pub fn manifest(&self) -> &KdepManifest {
        &self.manifest
    }

    /// Hash of the manifest, which covers every file.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Target width d.
    pub fn dim(&self) -> usize {
        self.manifest.record.dim
    }

    /// Projection that the targets were computed with.
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Opens the targets, `[rows, d]`: f16 on disk, converted to f32 when copied.
    ///
    /// # Errors
    /// [`ArtifactError`] if a shard is unreadable or the row count differs from the manifest's.
    pub fn targets(&self) -> Result<MappedColumn<f32>, ArtifactError> {
        let targets = MappedColumn::open_verified(&self.targets, COLUMN, self.dim())?;
        let (expected, got) = (self.manifest.rows, targets.rows());
        if expected != got {
            let reason = format!("expected {expected} target rows, got {got}");
            return Err(ArtifactError::invalid(&self.dir, reason));
        }
        Ok(targets)
    }
}
