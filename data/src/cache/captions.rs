//! Writing one shard's captions: the text embedding of each sample.
//!
//! ```text
//! cache/captions-00000.parquet   one row per *sample* of views-00000.parquet; only in a cache that holds captions
//!     caption                    f16 [D], L2-normalized in f32
//! ```

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::Float16Builder;
use arrow_array::{FixedSizeListArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::optional::CaptionRecord;
use crate::error::ArtifactError;
use crate::table::{TableWriter, fixed_list, item_field};

/// Name of the column.
pub(super) const CAPTION: &str = "caption";

/// Rows held back before they are handed to the Parquet writer, and rows per row group.
const BATCH_ROWS: usize = 1024;
const GROUP_BATCHES: usize = 16;

/// One `captions-*.parquet` under construction.
pub(super) struct CaptionWriter {
    table: TableWriter,
    width: i32,
    values: Float16Builder,
    pending: usize,
    batches: usize,
}

impl CaptionWriter {
    pub(super) fn create(path: &Path, record: &CaptionRecord) -> Result<Self, ArtifactError> {
        let width = i32::try_from(record.dim).map_err(|error| ArtifactError::parquet(path, error))?;
        let column = Field::new(CAPTION, fixed_list(DataType::Float16, width), false);
        let table = TableWriter::create(path, Schema::new(vec![column]))?;
        Ok(Self { table, width, values: Float16Builder::new(), pending: 0, batches: 0 })
    }

    /// Appends a sample's caption, a unit vector `[D]`.
    pub(super) fn push(&mut self, caption: &[f32]) -> Result<(), ArtifactError> {
        let mut half = vec![f16::ZERO; caption.len()];
        half.convert_from_f32_slice(caption);
        self.values.append_slice(&half);
        self.pending += 1;
        if self.pending >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        let path = self.table.path().to_owned();
        let parquet = |error| ArtifactError::parquet(&path, error);
        let values = Arc::new(self.values.finish());
        let list = FixedSizeListArray::try_new(item_field(DataType::Float16), self.width, values, None);
        let array = Arc::new(list.map_err(parquet)?);
        let batch = RecordBatch::try_new(Arc::clone(self.table.schema()), vec![array]).map_err(parquet)?;
        self.table.write(&batch)?;
        self.pending = 0;
        self.batches += 1;
        if self.batches.is_multiple_of(GROUP_BATCHES) { self.table.end_group() } else { Ok(()) }
    }

    /// Completes the file.
    pub(super) fn finish(mut self) -> Result<(), ArtifactError> {
        if self.pending > 0 {
            self.flush()?;
        }
        self.table.finish()
    }
}
