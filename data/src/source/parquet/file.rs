//! Lists one Parquet file: its columns, labels and captions, and how to read its images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow_array::ArrayRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;

use super::super::labels::Label;
use super::super::{CaptionColumn, Captions, FieldNames};
use super::blocks::{self, BlockMap};
use super::columns::{self, Columns};
use super::{ParquetProblem, ParquetSourceError, values};
use crate::parquet_file::SharedFile;

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
        let blocks =
            BlockMap::new(&metadata, leaf).map_err(|what| wrong(ParquetProblem::Syntax(what.into())))?;
        require_embedded(&metadata, leaf, &columns.image).map_err(wrong)?;
        require_codecs(&metadata, &columns).map_err(wrong)?;
        let column = |name: &str| {
            blocks::guarded(|| read_column(opened.clone(), &metadata, name, blocks.rows()))
                .map_err(|error| failed(error, ParquetProblem::Damaged))
        };
        let labels = match &columns.label {
            None => Vec::new(),
            Some((name, kind)) => values::labels(&column(name)?, name, kind).map_err(wrong)?,
        };
        let splits = match &columns.split {
            None => Vec::new(),
            Some((name, kind)) => values::splits(&column(name)?, kind),
        };
        let mut uncaptioned = BTreeMap::new();
        let captions = match &columns.caption {
            None => None,
            Some((name, kind)) => {
                Some(values::captions(&column(name)?, name, *kind, &mut uncaptioned).map_err(wrong)?)
            }
        };
        let file = ImageFile { path: path.clone(), metadata, leaf, blocks };
        Ok(Self { file, columns, labels, splits, captions, uncaptioned })
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

/// Reads all `rows` rows of a top-level column.
fn read_column(
    file: SharedFile,
    metadata: &ArrowReaderMetadata,
    name: &str,
    rows: usize,
) -> Result<Vec<ArrayRef>, ParquetError> {
    let root = metadata.schema().index_of(name)?;
    let mask = ProjectionMask::roots(metadata.parquet_schema(), [root]);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
        .with_projection(mask)
        .build()?;
    let arrays = reader
        .map(|batch| Ok(batch?.columns().first().cloned()))
        .filter_map(Result::transpose)
        .collect::<Result<Vec<ArrayRef>, ParquetError>>()?;
    let got: usize = arrays.iter().map(|array| array.len()).sum();
    match got == rows {
        true => Ok(arrays),
        false => Err(ParquetError::General(format!("column {name} has {got} rows, expected {rows}"))),
    }
}
