//! Writes a KDEP bank.

use std::path::{Path, PathBuf};

use arrow_array::Float16Array;
use arrow_schema::DataType;
use half::f16;

use super::{COLUMN, KDEP_VERSION, KdepManifest, KdepRecord, MANIFEST, PROJECTION};
use crate::error::ArtifactError;
use crate::manifest::{Existing, FileEntry, write_json};
use crate::projection::Projection;
use crate::table::{GroupLimit, TableWriter, list_field};
use crate::target_files::{self, target_file};

/// Minimum number of bytes per row group. It bounds the memory of a writer; each thread has its own.
const GROUP_BYTES: usize = 8 << 20;

/// A KDEP bank under construction.
#[derive(Debug)]
pub struct KdepWriter {
    dir: PathBuf,
    dim: usize,
}

impl KdepWriter {
    /// Checks that a KDEP bank may be written to `dir`. Creates `dir` if it does not exist and changes nothing else.
    ///
    /// # Errors
    /// [`ArtifactError::Occupied`] if `dir` holds another kind of artifact, or a KDEP bank and `existing` is not
    /// [`Existing::Overwrite`].
    pub fn check(dir: &Path, existing: Existing) -> Result<(), ArtifactError> {
        target_files::check_folder(dir, "KDEP bank", MANIFEST, existing)
    }

    /// Starts a bank of targets of width `dim` in `dir`. Deletes an old bank.
    ///
    /// # Errors
    /// The errors of [`KdepWriter::check`]; [`ArtifactError::Io`].
    pub fn create(dir: &Path, dim: usize, existing: Existing) -> Result<Self, ArtifactError> {
        Self::check(dir, existing)?;
        target_files::clear_folder(dir, MANIFEST)?;
        Ok(Self { dir: dir.to_owned(), dim })
    }

    /// Starts the target file of one cache shard. Shards may be written concurrently and in any order.
    ///
    /// # Errors
    /// [`ArtifactError`] if the file cannot be created.
    pub fn shard(&self, shard: usize) -> Result<KdepShardWriter, ArtifactError> {
        KdepShardWriter::create(&self.dir.join(target_file(shard)), self.dim)
    }

    /// Writes the projection and the manifest, which lists `shards` target files with a total of `rows` rows.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O.
    pub fn finish(
        self,
        record: KdepRecord,
        projection: &Projection,
        shards: usize,
        rows: usize,
    ) -> Result<KdepManifest, ArtifactError> {
        projection.save(&self.dir.join(PROJECTION))?;
        let manifest = KdepManifest {
            format_version: KDEP_VERSION,
            record,
            rows,
            projection: FileEntry::describe(&self.dir, PROJECTION)?,
            targets: target_files::describe(&self.dir, shards)?,
        };
        write_json(&self.dir.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

/// The target file of one shard, under construction.
pub struct KdepShardWriter {
    table: TableWriter,
    dim: usize,
}

impl KdepShardWriter {
    fn create(path: &Path, dim: usize) -> Result<Self, ArtifactError> {
        let field = list_field(path, COLUMN, DataType::Float16, dim)?;
        let group_rows = GROUP_BYTES.div_ceil((dim * size_of::<f16>()).max(1));
        Ok(Self { table: TableWriter::create(path, vec![field], GroupLimit::Rows(group_rows))?, dim })
    }

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
        self.table.finish()
    }
}
