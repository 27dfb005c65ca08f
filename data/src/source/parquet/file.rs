//! Lists one Parquet file: its columns, labels and captions, and how to read its images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow_array::{Array, ArrayRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::reader::Length;

use super::super::labels::Label;
use super::super::{CaptionColumn, Captions, FieldNames};
use super::blocks::{self, BlockMap};
use super::columns::{self, Columns};
use super::pages::{self, ChunkPages, Excess};
use super::{ParquetProblem, ParquetSourceError, values};
use crate::parquet_file::SharedFile;

/// Rows that every file may have. Larger files may have as many as they have bytes.
const ROWS: u64 = 1 << 22;

/// Maximum size of a batch of a column beside the images, in bytes, and its maximum number of rows.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_ROWS: usize = 1024;

/// Maximum size of a column of labels or splits, in bytes: this and [`LABEL_LENGTH`] for each row.
const LABEL_BYTES: u64 = 64 << 20;
const LABEL_LENGTH: u64 = 128;

/// Maximum size of a column of captions in one file, in bytes.
const CAPTION_BYTES: u64 = 1 << 30;

/// A listed file whose images can be read.
#[derive(Debug)]
pub(super) struct ImageFile {
    pub path: PathBuf,
    pub metadata: ArrowReaderMetadata,
    /// Index of the leaf column of the images.
    pub leaf: usize,
    /// Rows of each row group, divided into blocks.
    pub blocks: BlockMap,
}

/// A file with the labels and captions of its rows.
pub(super) struct ListedFile {
    pub file: ImageFile,
    pub columns: Columns,
    /// Label of each row; empty without a label column.
    pub labels: Vec<Label>,
    /// Value of each row in the column of splits; empty without one.
    pub splits: Vec<String>,
    /// Captions of the rows that have one, if captions are read.
    pub captions: Option<Captions>,
    /// Rows without a caption and the reasons, if captions are read.
    pub uncaptioned: BTreeMap<usize, &'static str>,
}

impl ListedFile {
    /// Reads the footer, the labels and, if requested, the captions of the file at `path`.
    ///
    /// # Errors
    /// [`ParquetSourceError`] if the file cannot be read, holds no images, or has an invalid label or caption.
    pub(super) fn read(
        path: PathBuf,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, ParquetSourceError> {
        let failed = |error, problem| ParquetSourceError::while_listing(&path, error, problem);
        let wrong = |problem| ParquetSourceError::unusable(&path, problem);
        let opened =
            SharedFile::open(&path).map_err(|error| ParquetSourceError::unreadable(&path, error.into()))?;
        // Reads the types as stored, not the in-memory types of the writer.
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = blocks::guarded(|| ArrowReaderMetadata::load(&opened, options))
            .map_err(|error| failed(error, ParquetProblem::Syntax))?;
        let columns = Columns::of(&metadata, captions, fields).map_err(wrong)?;
        let leaf = columns::leaf(&metadata, &columns.image)
            .ok_or_else(|| wrong(ParquetProblem::NoImages { got: columns.image.clone() }))?;
        let groups = 0..metadata.metadata().num_row_groups();
        let pages = groups.map(|group| blocks::guarded(|| pages::of_chunk(&opened, &metadata, group, leaf)));
        let pages = pages.collect::<Result<Vec<ChunkPages>, _>>();
        let pages = pages.map_err(|error| failed(error, ParquetProblem::Damaged))?;
        let blocks = BlockMap::new(&metadata, leaf, &pages)
            .map_err(|what| wrong(ParquetProblem::Syntax(what.into())))?;
        require_rows(blocks.rows(), opened.len()).map_err(wrong)?;
        require_embedded(&metadata, leaf, &columns.image).map_err(wrong)?;
        require_codecs(&metadata, &columns).map_err(wrong)?;
        let column = |name: &str, most: u64| {
            blocks::guarded(|| read_column(&opened, &metadata, name, blocks.rows(), most))
                .map_err(|error| failed(error, ParquetProblem::Damaged))
        };
        let short = LABEL_BYTES.saturating_add(LABEL_LENGTH.saturating_mul(blocks.rows() as u64));
        let labels = match &columns.label {
            None => Vec::new(),
            Some((name, kind)) => values::labels(&column(name, short)?, name, kind).map_err(wrong)?,
        };
        let splits = match &columns.split {
            None => Vec::new(),
            Some((name, kind)) => values::splits(&column(name, short)?, kind),
        };
        let mut uncaptioned = BTreeMap::new();
        let captions = match &columns.caption {
            None => None,
            Some((name, kind)) => Some(
                values::captions(&column(name, CAPTION_BYTES)?, name, *kind, &mut uncaptioned)
                    .map_err(wrong)?,
            ),
        };
        let file = ImageFile { path: path.clone(), metadata, leaf, blocks };
        Ok(Self { file, columns, labels, splits, captions, uncaptioned })
    }
}

/// Fails if a file of `length` bytes has more rows than its images can be: a short run of references stands for any number
/// of rows, each of which takes memory.
fn require_rows(rows: usize, length: u64) -> Result<(), ParquetProblem> {
    match u64::try_from(rows).is_ok_and(|rows| rows <= ROWS.max(length)) {
        true => Ok(()),
        false => Err(ParquetProblem::Excess(format!("it has {rows} rows in {length} bytes"))),
    }
}

/// Fails if the file's statistics show that all its images are null.
fn require_embedded(metadata: &ArrowReaderMetadata, leaf: usize, name: &str) -> Result<(), ParquetProblem> {
    let groups = metadata.metadata().row_groups();
    let empty = groups.iter().filter(|group| group.num_rows() > 0).map(|group| {
        let nulls = group.column(leaf).statistics().and_then(|statistics| statistics.null_count_opt());
        nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(group.num_rows()))
    });
    let mut empty = empty.peekable();
    match empty.peek().is_some() && empty.all(|empty| empty) {
        true => Err(ParquetProblem::NotEmbedded { column: name.to_owned() }),
        false => Ok(()),
    }
}

/// Fails if a column to be read has an unsupported compression.
fn require_codecs(metadata: &ArrowReaderMetadata, columns: &Columns) -> Result<(), ParquetProblem> {
    let read = [
        Some(&columns.image),
        columns.label.as_ref().map(|it| &it.0),
        columns.caption.as_ref().map(|it| &it.0),
        columns.split.as_ref().map(|it| &it.0),
    ];
    let chunks = metadata.metadata().row_groups().iter().flat_map(|group| group.columns());
    for chunk in chunks {
        let column = chunk.column_path().parts().first();
        let (true, Some(column)) = (read.contains(&column), column) else { continue };
        match chunk.compression() {
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) => {
            }
            codec => {
                let codec = codec.to_string();
                return Err(ParquetProblem::Codec { column: column.clone(), codec });
            }
        }
    }
    Ok(())
}

/// Reads all `rows` rows of a top-level column, which must not take more than `most` bytes.
fn read_column(
    file: &SharedFile,
    metadata: &ArrowReaderMetadata,
    name: &str,
    rows: usize,
    most: u64,
) -> Result<Vec<ArrayRef>, ParquetError> {
    let root = metadata.schema().index_of(name)?;
    let schema = metadata.parquet_schema();
    let leaves = (0..schema.num_columns()).filter(|leaf| schema.get_column_root_idx(*leaf) == root);
    let mut dictionary = 1;
    for leaf in leaves {
        for group in 0..metadata.metadata().num_row_groups() {
            dictionary = dictionary.max(pages::of_chunk(file, metadata, group, leaf)?.dictionary);
        }
    }
    // Every row may be the longest text of the dictionary.
    let batch = usize::try_from(BATCH_BYTES / dictionary).unwrap_or(usize::MAX).clamp(1, BATCH_ROWS);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone())
        .with_projection(ProjectionMask::roots(schema, [root]))
        .with_batch_size(batch)
        .build()?;
    let (mut arrays, mut bytes) = (Vec::new(), 0_u64);
    for column in reader {
        let Some(array) = column?.columns().first().cloned() else { continue };
        bytes = bytes.saturating_add(array.get_buffer_memory_size() as u64);
        if bytes > most {
            return Err(Excess(format!("column {name} has more than {most} bytes in its {rows} rows")).into());
        }
        arrays.push(array);
    }
    let got: usize = arrays.iter().map(|array| array.len()).sum();
    match got == rows {
        true => Ok(arrays),
        false => Err(ParquetError::General(format!("column {name} has {got} rows, expected {rows}"))),
    }
}
