//! Writes a KDEP bank.

use std::path::Path;

use arrow_array::Float16Array;
use arrow_schema::DataType;
use half::f16;

use super::{COLUMN, KDEP_VERSION, KdepManifest, KdepRecord, MANIFEST, PROJECTION};
use crate::error::ArtifactError;
use crate::manifest::{ClaimedFolder, Existing, write_json};
use crate::projection::Projection;
use crate::table::{GroupLimit, TableWriter, list_field};
use crate::target_files::{self, FinishedTargets, target_file};

/// Minimum number of bytes per row group. It bounds the memory of a writer; each thread has its own.
const GROUP_BYTES: usize = 8 << 20;

/// A KDEP bank under construction.
#[derive(Debug)]
pub struct KdepWriter {
    folder: ClaimedFolder,
    dim: usize,
    finished: FinishedTargets,
}

impl KdepWriter {
    /// Locks `dir` for a KDEP bank. Creates `dir` if it does not exist and changes nothing else.
    ///
    /// # Errors
    /// [`ArtifactError::Busy`] if another process writes to `dir`; [`ArtifactError::Occupied`] if `dir` holds another
    /// kind of artifact, or a KDEP bank and `existing` is not [`Existing::Overwrite`].
    pub fn claim(dir: &Path, existing: Existing) -> Result<ClaimedFolder, ArtifactError> {
        ClaimedFolder::claim(dir, "KDEP bank", MANIFEST, existing)
    }

    /// Claims `dir` and starts a bank of targets of width `dim` in it. Deletes an old bank.
    ///
    /// # Errors
    /// The errors of [`KdepWriter::claim`] and [`KdepWriter::create_in`].
    pub fn create(dir: &Path, dim: usize, existing: Existing) -> Result<Self, ArtifactError> {
        Self::create_in(Self::claim(dir, existing)?, dim)
    }

    /// Starts a bank of targets of width `dim` in a claimed folder. Deletes an old bank.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn create_in(folder: ClaimedFolder, dim: usize) -> Result<Self, ArtifactError> {
        target_files::clear_folder(folder.dir(), MANIFEST)?;
        Ok(Self { folder, dim, finished: FinishedTargets::default() })
    }

    /// Starts the target file of one cache shard. Shards may be written concurrently and in any order.
    ///
    /// # Errors
    /// [`ArtifactError`] if the file cannot be created.
    pub fn shard(&self, shard: usize) -> Result<KdepShardWriter, ArtifactError> {
        let (path, dim) = (self.folder.dir().join(target_file(shard)), self.dim);
        let field = list_field(&path, COLUMN, DataType::Float16, dim)?;
        let group_rows = GROUP_BYTES.div_ceil((dim * size_of::<f16>()).max(1));
        let table = TableWriter::create(&path, vec![field], GroupLimit::Rows(group_rows))?;
        Ok(KdepShardWriter { table, dim, shard, finished: self.finished.clone() })
    }

    /// Writes the projection and the manifest, which lists `shards` target files with a total of `rows` rows.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O, or if a target file is missing.
    pub fn finish(
        self,
        record: KdepRecord,
        projection: &Projection,
        shards: usize,
        rows: usize,
    ) -> Result<KdepManifest, ArtifactError> {
        let dir = self.folder.dir();
        let targets = self.finished.entries(dir, shards)?;
        let manifest = KdepManifest {
            format_version: KDEP_VERSION,
            record,
            rows,
            projection: projection.save(&dir.join(PROJECTION))?,
            targets,
        };
        write_json(&dir.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

/// The target file of one shard, under construction.
pub struct KdepShardWriter {
    table: TableWriter,
    dim: usize,
    shard: usize,
    finished: FinishedTargets,
}

impl KdepShardWriter {
    /// Appends rows, `[n, d]`.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] if the length is not a multiple of d; [`ArtifactError::Parquet`] on I/O.
    pub fn push(&mut self, targets: &[f16]) -> Result<(), ArtifactError> {
        if !targets.len().is_multiple_of(self.dim) {
            let reason = format!("expected whole rows of {} values, got {} values", self.dim, targets.len());
            return Err(ArtifactError::invalid(self.table.path(), reason));
        }
        let rows = self.table.lists(Float16Array::from(targets.to_vec()), self.dim)?;
        self.table.write(vec![rows])
    }

    /// Completes the file and moves it to its final name.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O; the file then does not exist.
    pub fn finish(self) -> Result<(), ArtifactError> {
        self.finished.add(self.shard, self.table.finish()?);
        Ok(())
    }
}
