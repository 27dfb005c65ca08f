//! Writes the captions of one shard: one text embedding per sample.
//!
//! ```text
//! cache/captions-00000.parquet   one row per *sample* of views-00000.parquet; only in a cache that holds captions
//!     caption                    f16 [D], L2-normalized in f32
//! ```

use std::path::Path;

use arrow_array::builder::Float16Builder;
use arrow_schema::DataType;

use super::append_halves;
use super::optional::CaptionRecord;
use crate::error::ArtifactError;
use crate::manifest::FileEntry;
use crate::table::{GroupLimit, TableWriter, list_field};

/// Name of the caption column.
pub(super) const CAPTION: &str = "caption";

/// Rows per batch, and minimum number of rows per row group.
const BATCH_ROWS: usize = 1024;
const GROUP_ROWS: usize = 16 * BATCH_ROWS;

/// A `captions-*.parquet` file under construction.
pub(super) struct CaptionWriter {
    table: TableWriter,
    dim: usize,
    values: Float16Builder,
    pending: usize,
}

impl CaptionWriter {
    pub(super) fn create(path: &Path, record: &CaptionRecord) -> Result<Self, ArtifactError> {
        let dim = record.dim;
        let column = list_field(path, CAPTION, DataType::Float16, dim)?;
        let table = TableWriter::create(path, vec![column], GroupLimit::Rows(GROUP_ROWS))?;
        Ok(Self { table, dim, values: Float16Builder::new(), pending: 0 })
    }

    /// Appends the caption embedding of a sample, a unit vector `[D]`.
    pub(super) fn push(&mut self, caption: &[f32]) -> Result<(), ArtifactError> {
        append_halves(&mut self.values, caption);
        self.pending += 1;
        if self.pending >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        self.pending = 0;
        let captions = self.table.lists(self.values.finish(), self.dim)?;
        self.table.write(vec![captions])
    }

    /// Completes the file and moves it to its final name.
    pub(super) fn finish(mut self) -> Result<FileEntry, ArtifactError> {
        if self.pending > 0 {
            self.flush()?;
        }
        self.table.finish()
    }
}
