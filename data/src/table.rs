//! Writing Parquet tables whose wide columns can later be read in place (see [`crate::column`]).

use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::error::ArtifactError;
use crate::manifest::AtomicFile;

/// The name of the items of a list column, as the Parquet specification has it.
const ITEM: &str = "element";

/// Rows per data page of a mapped column: large enough that levels and headers vanish, small enough that one page
/// of wide rows stays a few megabytes.
const PAGE_ROWS: usize = 1024;

/// The type of a mapped column: a required list of `width` required items.
pub(crate) fn fixed_list(item: DataType, width: i32) -> DataType {
    DataType::FixedSizeList(item_field(item), width)
}

/// The field of a list's items, needed again when the array is built.
pub(crate) fn item_field(item: DataType) -> Arc<Field> {
    Arc::new(Field::new(ITEM, item, false))
}

/// One Parquet file that appears when it is complete.
pub(crate) struct TableWriter {
    writer: ArrowWriter<AtomicFile>,
    schema: SchemaRef,
}

impl TableWriter {
    /// Starts `path`. Every fixed-size list of `schema`, and every column of bytes, is laid out for reading in place: PLAIN,
    /// uncompressed, no dictionary.
    pub(crate) fn create(path: &Path, schema: Schema) -> Result<Self, ArtifactError> {
        Self::with_page_rows(path, schema, PAGE_ROWS)
    }

    /// As [`TableWriter::create`] with at most `page_rows` rows per page of a wide column, for rows so wide that the usual
    /// number would make pages of many megabytes.
    pub(crate) fn with_page_rows(
        path: &Path,
        schema: Schema,
        page_rows: usize,
    ) -> Result<Self, ArtifactError> {
        let page_rows = page_rows.clamp(1, PAGE_ROWS);
        let schema = Arc::new(schema);
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(Compression::UNCOMPRESSED)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_created_by(concat!("lgd ", env!("CARGO_PKG_VERSION")).to_owned())
            // The writer looks at a page's size once per so many rows.
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
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties.build()))
            .map_err(|error| ArtifactError::parquet(path, error))?;
        Ok(Self { writer, schema })
    }

    /// The columns.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The file under construction.
    pub(crate) fn path(&self) -> &Path {
        self.writer.inner().path()
    }

    /// Appends rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArtifactError> {
        self.writer.write(batch).map_err(|error| ArtifactError::parquet(self.writer.inner().path(), error))
    }

    /// Ends the current row group, which returns its memory.
    pub(crate) fn end_group(&mut self) -> Result<(), ArtifactError> {
        self.writer.flush().map_err(|error| ArtifactError::parquet(self.writer.inner().path(), error))
    }

    /// Writes the footer and gives the file its name.
    pub(crate) fn finish(self) -> Result<(), ArtifactError> {
        let path = self.path().to_owned();
        self.writer.into_inner().map_err(|error| ArtifactError::parquet(&path, error))?.commit()
    }
}
