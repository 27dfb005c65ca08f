//! Writing one shard's tokens.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{FixedSizeBinaryBuilder, Float16Builder};
use arrow_array::{ArrayRef, FixedSizeListArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use super::super::optional::{TokenEncoding, TokenRecord};
use super::{SCALE, TOKENS, push_halves, push_int8};
use crate::error::ArtifactError;
use crate::table::{TableWriter, fixed_list, item_field};

/// Bytes of a data page, about.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes held back before they are handed to the Parquet writer.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes per row group: bounds the writer's memory.
const GROUP_BYTES: usize = 64 << 20;

/// One `tokens-*.parquet` under construction.
pub(in crate::cache) struct TokenWriter {
    table: TableWriter,
    record: TokenRecord,
    tokens: FixedSizeBinaryBuilder,
    scales: Float16Builder,
    /// The row under way, as bytes.
    row: Vec<u8>,
    /// Bytes not yet handed over, and bytes in the current row group.
    pending: usize,
    group: usize,
}

impl TokenWriter {
    pub(in crate::cache) fn create(path: &Path, record: &TokenRecord) -> Result<Self, ArtifactError> {
        if let Some(fault) = record.fault() {
            return Err(ArtifactError::invalid(path, fault));
        }
        let item = if record.encoding == TokenEncoding::Int8 { 1 } else { 2 };
        let width =
            i32::try_from(record.width() * item).map_err(|error| ArtifactError::parquet(path, error))?;
        let mut fields = vec![Field::new(TOKENS, DataType::FixedSizeBinary(width), false)];
        if record.encoding == TokenEncoding::Int8 {
            fields.push(Field::new(
                SCALE,
                fixed_list(DataType::Float16, scales_per_row(path, record)?),
                false,
            ));
        }
        Ok(Self {
            table: TableWriter::with_page_rows(path, Schema::new(fields), PAGE_BYTES / record.row_bytes())?,
            record: record.clone(),
            tokens: FixedSizeBinaryBuilder::new(width),
            scales: Float16Builder::new(),
            row: Vec::new(),
            pending: 0,
            group: 0,
        })
    }

    /// Appends a view's tokens, `[rows, columns, dim]`.
    pub(in crate::cache) fn push(&mut self, tokens: &[f32]) -> Result<(), ArtifactError> {
        self.row.clear();
        match self.record.encoding {
            TokenEncoding::F16 | TokenEncoding::Projected => push_halves(tokens, &mut self.row),
            TokenEncoding::Int8 => {
                for token in tokens.chunks_exact(self.record.dim) {
                    self.scales.append_value(push_int8(token, &mut self.row));
                }
            }
        }
        let appended = self.tokens.append_value(&self.row);
        appended.map_err(|error| ArtifactError::parquet(self.table.path(), error))?;
        self.pending += self.row.len();
        if self.pending >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        let path = self.table.path().to_owned();
        let parquet = |error| ArtifactError::parquet(&path, error);
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.tokens.finish())];
        if self.record.encoding == TokenEncoding::Int8 {
            let (values, width) = (Arc::new(self.scales.finish()), scales_per_row(&path, &self.record)?);
            let list = FixedSizeListArray::try_new(item_field(DataType::Float16), width, values, None);
            arrays.push(Arc::new(list.map_err(parquet)?));
        }
        let batch = RecordBatch::try_new(Arc::clone(self.table.schema()), arrays).map_err(parquet)?;
        self.table.write(&batch)?;
        self.group += std::mem::take(&mut self.pending);
        if self.group < GROUP_BYTES {
            return Ok(());
        }
        self.group = 0;
        self.table.end_group()
    }

    /// Completes the file.
    pub(in crate::cache) fn finish(mut self) -> Result<(), ArtifactError> {
        if self.pending > 0 {
            self.flush()?;
        }
        self.table.finish()
    }
}

fn scales_per_row(path: &Path, record: &TokenRecord) -> Result<i32, ArtifactError> {
    i32::try_from(record.count()).map_err(|error| ArtifactError::parquet(path, error))
}
