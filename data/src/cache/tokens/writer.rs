//! Writes the tokens of one shard.

use std::path::Path;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{FixedSizeBinaryBuilder, Float16Builder};
use arrow_schema::{DataType, Field};

use super::super::GROUP_BYTES;
use super::super::optional::{TokenEncoding, TokenRecord};
use super::{SCALE, TOKENS, push_halves, push_int8};
use crate::error::{ArtifactError, ParquetContext};
use crate::manifest::FileEntry;
use crate::table::{GroupLimit, TableWriter, list_field};

/// Approximate size of a data page in bytes.
const PAGE_BYTES: usize = 1 << 20;
/// Minimum size of a batch in bytes.
const BATCH_BYTES: usize = 4 << 20;

/// A `tokens-*.parquet` file under construction.
pub(in crate::cache) struct TokenWriter {
    table: TableWriter,
    record: TokenRecord,
    tokens: FixedSizeBinaryBuilder,
    scales: Float16Builder,
    /// Scratch buffer for the bytes of one row.
    row: Vec<u8>,
    /// Total size in bytes of the tokens in the open batch.
    pending: usize,
}

impl TokenWriter {
    pub(in crate::cache) fn create(path: &Path, record: &TokenRecord) -> Result<Self, ArtifactError> {
        if let Some(fault) = record.fault() {
            return Err(ArtifactError::invalid(path, fault));
        }
        let item = if record.encoding == TokenEncoding::Int8 { 1 } else { 2 };
        let width = i32::try_from(record.width() * item).in_parquet(path)?;
        let mut fields = vec![Field::new(TOKENS, DataType::FixedSizeBinary(width), false)];
        if record.encoding == TokenEncoding::Int8 {
            fields.push(list_field(path, SCALE, DataType::Float16, record.count())?);
        }
        let (limit, page_rows) = (GroupLimit::Bytes(GROUP_BYTES), PAGE_BYTES / record.row_bytes());
        Ok(Self {
            table: TableWriter::with_page_rows(path, fields, limit, page_rows)?,
            record: record.clone(),
            tokens: FixedSizeBinaryBuilder::new(width),
            scales: Float16Builder::new(),
            row: Vec::new(),
            pending: 0,
        })
    }

    /// Appends the tokens of a view, `[rows, columns, dim]`.
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
        self.tokens.append_value(&self.row).in_parquet(self.table.path())?;
        self.pending += self.row.len();
        if self.pending >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        self.pending = 0;
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.tokens.finish())];
        if self.record.encoding == TokenEncoding::Int8 {
            arrays.push(self.table.lists(self.scales.finish(), self.record.count())?);
        }
        self.table.write(arrays)
    }

    /// Completes the file and moves it to its final name.
    pub(in crate::cache) fn finish(mut self) -> Result<FileEntry, ArtifactError> {
        if self.pending > 0 {
            self.flush()?;
        }
        self.table.finish()
    }
}
