//! Writes Parquet tables whose wide columns can later be read in place (see [`crate::column`]).
//!
//! [`TableWriter`] is the only writer of Parquet files in this crate. It determines their layout: encodings, pages, and
//! the end of each row group ([`GroupLimit`]).

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, FixedSizeListArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::error::{ArtifactError, ParquetContext};
use crate::manifest::{AtomicFile, FileEntry};

/// Name of the items of a list column in the Parquet specification.
const ITEM: &str = "element";

/// Rows per data page of a mapped column: large enough that levels and headers are negligible, small enough that a page
/// of wide rows is a few megabytes.
const PAGE_ROWS: usize = 1024;

/// Limit on the size of a row group. The writer buffers each row group, so the limit bounds its memory.
///
/// The limit is checked after each batch, so a group ends with the batch that reaches it. `WriterProperties` has limits
/// too, but they split batches, which would change the bytes of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupLimit {
    /// The group ends after this many batches.
    Batches(usize),
    /// The group ends once it has at least this many rows.
    Rows(usize),
    /// The group ends once the values of its byte columns have at least this many bytes.
    Bytes(usize),
}

impl GroupLimit {
    /// Whether a group of size `filled` has reached the limit.
    fn reached_by(self, filled: usize) -> bool {
        let (Self::Batches(limit) | Self::Rows(limit) | Self::Bytes(limit)) = self;
        filled >= limit
    }

    /// The size of `batch`, in the unit of the limit.
    fn measure(self, batch: &RecordBatch) -> usize {
        match self {
            Self::Batches(_) => 1,
            Self::Rows(_) => batch.num_rows(),
            Self::Bytes(_) => batch.columns().iter().map(|column| value_bytes(column)).sum(),
        }
    }
}

/// Bytes of the values of a byte column whose array starts at its first value; 0 for other columns.
fn value_bytes(column: &dyn Array) -> usize {
    let fixed = column.as_fixed_size_binary_opt().map(|array| array.value_data().len());
    fixed.or_else(|| column.as_binary_opt::<i32>().map(|array| array.value_data().len())).unwrap_or(0)
}

/// Field of a mapped column: a required list of `width` required items per row.
pub(crate) fn list_field(
    path: &Path,
    name: &str,
    item: DataType,
    width: usize,
) -> Result<Field, ArtifactError> {
    let width = i32::try_from(width).in_parquet(path)?;
    Ok(Field::new(name, DataType::FixedSizeList(item_field(item), width), false))
}

fn item_field(item: DataType) -> Arc<Field> {
    Arc::new(Field::new(ITEM, item, false))
}

/// A Parquet file that appears under its name when it is complete.
pub(crate) struct TableWriter {
    writer: ArrowWriter<AtomicFile>,
    schema: SchemaRef,
    limit: GroupLimit,
    /// Size of the open row group, in the unit of the limit.
    filled: usize,
}

impl TableWriter {
    /// Starts the file at `path` with the columns `fields`. All fixed-size lists and byte columns are laid out for
    /// reading in place: PLAIN, uncompressed, no dictionary.
    pub(crate) fn create(path: &Path, fields: Vec<Field>, limit: GroupLimit) -> Result<Self, ArtifactError> {
        Self::with_page_rows(path, fields, limit, PAGE_ROWS)
    }

    /// Like [`TableWriter::create`], with at most `page_rows` rows per page of a wide column. It suits rows so wide
    /// that the default would make pages of many megabytes.
    pub(crate) fn with_page_rows(
        path: &Path,
        fields: Vec<Field>,
        limit: GroupLimit,
        page_rows: usize,
    ) -> Result<Self, ArtifactError> {
        let page_rows = page_rows.clamp(1, PAGE_ROWS);
        let schema = Arc::new(Schema::new(fields));
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(Compression::UNCOMPRESSED)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_created_by(concat!("lgd ", env!("CARGO_PKG_VERSION")).to_owned())
            // The writer checks the size of a page once per this many rows.
            .set_write_batch_size(page_rows)
            .set_offset_index_disabled(false);
        for field in schema.fields() {
            let name = field.name().clone();
            let parts = match field.data_type() {
                DataType::FixedSizeList(..) => Some(vec![name, "list".to_owned(), ITEM.to_owned()]),
                DataType::FixedSizeBinary(_) | DataType::Binary => Some(vec![name]),
                _ => None,
            };
            if let Some(column) = parts.map(ColumnPath::new) {
                properties = properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_encoding(column.clone(), Encoding::PLAIN)
                    .set_column_data_page_row_count_limit(column, page_rows);
            }
        }
        let file = AtomicFile::create(path)?;
        let writer =
            ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties.build())).in_parquet(path)?;
        Ok(Self { writer, schema, limit, filled: 0 })
    }

    /// Final path of the file under construction.
    pub(crate) fn path(&self) -> &Path {
        self.writer.inner().path()
    }

    /// Makes an array of lists of `width` items for a column of [`list_field`].
    pub(crate) fn lists(&self, items: impl Array + 'static, width: usize) -> Result<ArrayRef, ArtifactError> {
        let width = i32::try_from(width).in_parquet(self.path())?;
        let item = item_field(items.data_type().clone());
        let lists =
            FixedSizeListArray::try_new(item, width, Arc::new(items), None).in_parquet(self.path())?;
        Ok(Arc::new(lists))
    }

    /// Appends a batch of rows, one array per column. Ends the row group if it has reached its limit.
    pub(crate) fn write(&mut self, columns: Vec<ArrayRef>) -> Result<(), ArtifactError> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).in_parquet(self.path())?;
        self.filled += self.limit.measure(&batch);
        let ends = self.limit.reached_by(self.filled);
        let written =
            self.writer.write(&batch).and_then(|()| if ends { self.writer.flush() } else { Ok(()) });
        if ends {
            self.filled = 0;
        }
        written.in_parquet(self.path())
    }

    /// Writes the footer and moves the file to its final name. Returns the file's manifest entry.
    pub(crate) fn finish(self) -> Result<FileEntry, ArtifactError> {
        let path = self.path().to_owned();
        self.writer.into_inner().in_parquet(&path)?.commit()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use arrow_array::{FixedSizeBinaryArray, Int32Array};
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    /// Row counts of the row groups after batches of these sizes. Each row has a value of 8 bytes.
    fn groups(limit: GroupLimit, batches: &[usize]) -> Vec<i64> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let fields = vec![
            Field::new("number", DataType::Int32, false),
            Field::new("bytes", DataType::FixedSizeBinary(8), false),
        ];
        let mut table = TableWriter::create(&path, fields, limit).unwrap();
        for &rows in batches {
            let bytes = FixedSizeBinaryArray::try_from_iter((0..rows).map(|_| [7_u8; 8])).unwrap();
            table.write(vec![Arc::new(Int32Array::from(vec![1; rows])), Arc::new(bytes)]).unwrap();
        }
        table.finish().unwrap();
        let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        file.metadata().row_groups().iter().map(|group| group.num_rows()).collect()
    }

    #[test]
    fn a_row_group_ends_with_the_batch_that_reaches_its_limit() {
        let batches = [10, 10, 10, 30, 5];
        assert_eq!(groups(GroupLimit::Batches(2), &batches), [20, 40, 5]);
        assert_eq!(groups(GroupLimit::Rows(15), &batches), [20, 40, 5]);
        assert_eq!(groups(GroupLimit::Rows(10), &batches), [10, 10, 10, 30, 5]);
        assert_eq!(groups(GroupLimit::Bytes(161), &batches), [30, 30, 5], "only the byte column counts");
        assert_eq!(groups(GroupLimit::Bytes(1), &[]), [0; 0]);
    }

    #[test]
    fn lists_of_another_length_are_refused_with_the_files_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let field = list_field(&path, "list", DataType::Int32, 3).unwrap();
        let table = TableWriter::create(&path, vec![field], GroupLimit::Rows(1)).unwrap();
        let error = table.lists(Int32Array::from(vec![1; 7]), 3).unwrap_err();
        assert!(error.to_string().contains("a.parquet"), "{error}");
        assert!(list_field(&path, "list", DataType::Int32, usize::MAX).is_err());
    }
}
