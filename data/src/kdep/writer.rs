//! Writing a KDEP bank.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{FixedSizeListArray, Float16Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use half::f16;

use super::{COLUMN, KDEP_VERSION, KdepManifest, KdepRecord, MANIFEST, PROJECTION};
use crate::cache::Existing;
use crate::error::ArtifactError;
use crate::manifest::{FileEntry, write_json};
use crate::projection::Projection;
use crate::table::{TableWriter, fixed_list, item_field};
use crate::target_files::{self, target_file};

/// A row group is buffered until it ends: about so many bytes bound the memory of a writer, of which there is one per thread.
const GROUP_BYTES: usize = 8 << 20;

/// A KDEP bank under construction.
#[derive(Debug)]
pub struct KdepWriter {
    dir: PathBuf,
    dim: usize,
}

impl KdepWriter {
    /// Whether a KDEP bank may be written to `dir`, which is created where it is absent; changes nothing in it.
    ///
    /// # Errors
    /// [`ArtifactError::Occupied`] where one is there and `existing` is not [`Existing::Overwrite`], or another artifact.
    pub fn check(dir: &Path, existing: Existing) -> Result<(), ArtifactError> {
        target_files::check_folder(dir, "KDEP bank", MANIFEST, existing)
    }

    /// Starts a bank of targets of width `dim` in `dir`; one that was there is gone from here on.
    ///
    /// # Errors
    /// As [`KdepWriter::check`]; [`ArtifactError::Io`].
    pub fn create(dir: &Path, dim: usize, existing: Existing) -> Result<Self, ArtifactError> {
        Self::check(dir, existing)?;
        target_files::clear_folder(dir, MANIFEST)?;
        Ok(Self { dir: dir.to_owned(), dim })
    }

    /// Starts the targets of one shard of the cache. Shards may be written at the same time and in any order.
    ///
    /// # Errors
    /// [`ArtifactError`] where the file cannot be created.
    pub fn shard(&self, shard: usize) -> Result<KdepShardWriter, ArtifactError> {
        KdepShardWriter::create(&self.dir.join(target_file(shard)), self.dim)
    }

    /// Writes the projection and the manifest over `shards` target files of `rows` rows in all.
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

/// The targets of one shard under construction.
pub struct KdepShardWriter {
    table: TableWriter,
    dim: usize,
    width: i32,
    group_rows: usize,
}

impl KdepShardWriter {
    fn create(path: &Path, dim: usize) -> Result<Self, ArtifactError> {
        let width = i32::try_from(dim).map_err(|error| ArtifactError::parquet(path, error))?;
        let field = Field::new(COLUMN, fixed_list(DataType::Float16, width), false);
        let table = TableWriter::create(path, Schema::new(vec![field]))?;
        Ok(Self { table, dim, width, group_rows: 0 })
    }

    /// Appends rows, `[n, d]`.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] where the length is no multiple of d; [`ArtifactError::Parquet`] on I/O.
    pub fn push(&mut self, targets: &[f16]) -> Result<(), ArtifactError> {
        let path = self.table.path().to_owned();
        if !targets.len().is_multiple_of(self.dim) {
            let reason = format!("{} values are no rows of {}", targets.len(), self.dim);
            return Err(ArtifactError::invalid(&path, reason));
        }
        let values = Arc::new(Float16Array::from(targets.to_vec()));
        let parquet = |error| ArtifactError::parquet(&path, error);
        let item = item_field(DataType::Float16);
        let list = FixedSizeListArray::try_new(item, self.width, values, None).map_err(parquet)?;
        let batch =
            RecordBatch::try_new(Arc::clone(self.table.schema()), vec![Arc::new(list)]).map_err(parquet)?;
        self.table.write(&batch)?;
        self.group_rows += targets.len() / self.dim;
        if self.group_rows * self.dim * size_of::<f16>() >= GROUP_BYTES {
            self.group_rows = 0;
            self.table.end_group()?;
        }
        Ok(())
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`ArtifactError`] on I/O; the file is then absent.
    pub fn finish(self) -> Result<(), ArtifactError> {
        self.table.finish()
    }
}
