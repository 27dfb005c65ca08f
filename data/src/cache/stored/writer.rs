//! Writes the stored views of one shard.

use std::path::Path;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, FixedSizeBinaryBuilder, UInt32Builder, UInt64Builder};
use arrow_schema::{DataType, Field};

use super::super::GROUP_BYTES;
use super::{CHECK, Encoding, JPEG, LENGTH, PIXELS, RowChecks, StoredFormat};
use crate::error::{ArtifactError, ParquetContext};
use crate::manifest::FileEntry;
use crate::table::{GroupLimit, TableWriter};

/// Approximate size of a data page in bytes.
const PAGE_BYTES: usize = 1 << 20;
/// Minimum size of a batch in bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Maximum number of JPEG views per page.
const JPEG_PAGE_ROWS: usize = 64;

/// Builder of the column that holds the views.
enum Views {
    Raw(FixedSizeBinaryBuilder),
    Jpeg { length: UInt32Builder, bytes: BinaryBuilder },
}

/// A `pixels-*.parquet` file under construction.
pub(in crate::cache) struct PixelWriter {
    table: TableWriter,
    check: UInt64Builder,
    views: Views,
    /// Total size in bytes of the views in the open batch.
    pending: usize,
    checks: RowChecks,
    rows: usize,
}

impl PixelWriter {
    pub(in crate::cache) fn create(
        path: &Path,
        format: StoredFormat,
        checks: RowChecks,
    ) -> Result<Self, ArtifactError> {
        let mut fields = vec![Field::new(CHECK, DataType::UInt64, false)];
        let (views, page_rows) = match format.encoding {
            Encoding::Raw => {
                let bytes = format.pixel_bytes().in_parquet(path)?;
                let width = i32::try_from(bytes).in_parquet(path)?;
                fields.push(Field::new(PIXELS, DataType::FixedSizeBinary(width), false));
                (Views::Raw(FixedSizeBinaryBuilder::new(width)), PAGE_BYTES / bytes)
            }
            Encoding::Jpeg { .. } => {
                fields.push(Field::new(LENGTH, DataType::UInt32, false));
                fields.push(Field::new(JPEG, DataType::Binary, false));
                let (length, bytes) = (UInt32Builder::new(), BinaryBuilder::new());
                (Views::Jpeg { length, bytes }, JPEG_PAGE_ROWS)
            }
        };
        let table = TableWriter::with_page_rows(path, fields, GroupLimit::Bytes(GROUP_BYTES), page_rows)?;
        Ok(Self { table, check: UInt64Builder::new(), views, pending: 0, checks, rows: 0 })
    }

    /// Appends an encoded view.
    pub(in crate::cache) fn push(&mut self, view: &[u8]) -> Result<(), ArtifactError> {
        let path = self.table.path();
        match &mut self.views {
            Views::Raw(pixels) => pixels.append_value(view).in_parquet(path)?,
            Views::Jpeg { length, bytes } => {
                length.append_value(u32::try_from(view.len()).in_parquet(path)?);
                bytes.append_value(view);
            }
        }
        self.check.append_value(self.checks.of(self.rows, view));
        self.rows += 1;
        self.pending += view.len();
        if self.pending >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        self.pending = 0;
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.check.finish())];
        match &mut self.views {
            Views::Raw(pixels) => arrays.push(Arc::new(pixels.finish())),
            Views::Jpeg { length, bytes } => {
                arrays.push(Arc::new(length.finish()));
                arrays.push(Arc::new(bytes.finish()));
            }
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
