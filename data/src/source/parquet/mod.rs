//! Parquet files that hold images, as on the Hugging Face hub: a single file or a folder of files.
//!
//! - Samples are the rows in order. The files of a folder are sorted bytewise by name. The key is the file name and the
//!   row number in the file, from 0, because a column of original paths may be missing or contain duplicates.
//! - Columns are named by the caller, or found ([`columns`]). The image column holds bytes, or structs with a field
//!   `bytes`. If several columns do, the image column is the one that the description by `datasets` in the file declares
//!   as images, or the one with a name such as `image`.
//! - The label column holds numbers, texts, bytes that are texts, or truth values. It has a name such as `label`, or it
//!   is the only column whose classes that description names. Texts are class numbers if all of them are numbers;
//!   otherwise they are names, numbered in bytewise order. -1, NaN, a null and an empty text mean "no label".
//! - The caption column holds texts or lists of numbers. It is read only if the source is opened for captions. Rows
//!   without a caption are then rejected.
//! - A note names the columns that could have been meant but are not read.
//! - Rows whose column `split`, or one with a similar name, marks several splits are refused.
//! - A folder with the files of several splits is refused, because the hub stores test images beside training images.
//! - Opening reads only footers, labels and captions. A row without an image is rejected when it is read.

mod blocks;
mod columns;
mod error;
mod file;
mod pages;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow_array::Array;
use rayon::prelude::*;

use self::blocks::DecodedBlocks;
use self::columns::{Columns, LabelKind};
use self::file::{ImageFile, ListedFile};
use super::labels::{self, Label};
use super::splits::SplitColumn;
use super::{
    CaptionColumn, Captions, FieldNames, ImageSource, Listing, Note, Rejected, Sample, SourceError, names,
    splits,
};
use crate::open_files::OpenFiles;
use crate::parquet_file::SharedFile;

pub use error::{ParquetProblem, ParquetSourceError};

/// Maximum number of files that are open at a time.
const OPEN_FILES: usize = 128;

/// An image, which is a row of one of the files.
#[derive(Debug, Clone, Copy)]
struct ImageRow {
    file: usize,
    row: usize,
}

/// The images of a Parquet file or of a folder of Parquet files.
#[derive(Debug)]
pub struct ParquetFiles {
    files: Vec<ImageFile>,
    open: OpenFiles,
    decoded: DecodedBlocks,
    listing: Listing,
    /// Row that holds each sample.
    rows: Vec<ImageRow>,
}

/// Whether `name` is the file name of a Parquet file.
pub(super) fn is_parquet(name: &str) -> bool {
    names::extension(name) == "parquet"
}

/// The files of a folder that is a set of Parquet files. Empty for any other folder.
///
/// # Errors
/// [`SourceError`] if the folder cannot be read, holds the files of several splits, or holds Parquet files among other
/// contents, where they would not be found.
pub(super) fn tables_of(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let io = |error| SourceError::io(folder, error);
    let wrong = |problem| ParquetSourceError::unusable(folder, problem).into();
    let paths = names::set_of(folder, is_parquet).map_err(io)?;
    if paths.is_empty() {
        return match names::among_no_images(folder, is_parquet).map_err(io)? {
            Some(other) => Err(wrong(ParquetProblem::Among { other })),
            None => Ok(paths),
        };
    }
    let names = paths.iter().map(|path| names::file_name(path));
    let splits: BTreeMap<String, String> = names.map(|name| (split_of(&name), name)).collect();
    // Files whose names do not mark a split may belong together.
    match splits.len() > 1 {
        true => Err(wrong(ParquetProblem::Splits { files: splits.into_values().collect() })),
        false => Ok(paths),
    }
}

/// The split that a file name marks: the part before the shard number, or a split word. Otherwise an empty string.
fn split_of(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    if let Some((before, _)) = stem.split_once("-of-")
        && let Some((split, number)) = before.rsplit_once('-')
        && number.bytes().all(|digit| digit.is_ascii_digit())
    {
        return split.to_owned();
    }
    splits::split_word(stem).unwrap_or_default().to_owned()
}

impl ParquetFiles {
    /// Lists one file.
    ///
    /// # Errors
    /// [`SourceError`] if the file cannot be read, is damaged, holds no images, or lacks the requested captions.
    pub fn open(path: &Path, captions: CaptionColumn, fields: &FieldNames) -> Result<Self, SourceError> {
        Self::open_all(path, vec![path.to_owned()], captions, fields)
    }

    /// Lists the files `paths` of a folder. `root` is the path that the user gave.
    ///
    /// # Errors
    /// The errors of [`ParquetFiles::open`].
    pub(super) fn open_all(
        root: &Path,
        paths: Vec<PathBuf>,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, SourceError> {
        // All files are listed before the first error is returned, so the error does not depend on thread timing.
        let listed: Vec<Result<ListedFile, ParquetSourceError>> =
            paths.into_par_iter().map(|path| ListedFile::read(path, captions, fields)).collect();
        let listed = listed.into_iter().collect::<Result<Vec<ListedFile>, _>>()?;
        require_alike(&listed)?;
        let Some(first) = listed.iter().find(|listed| listed.file.blocks.rows() > 0) else {
            let hint = "expected one row per image, got no rows";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        };
        let no_captions = || SourceError::NoCaptions { path: root.to_owned() };
        let split_note = require_one_split(&listed)?;
        let Columns { label, caption, .. } = &first.columns;
        if captions == CaptionColumn::Read && caption.is_none() {
            return Err(no_captions());
        }
        let listing = Listing {
            captions: caption.as_ref().map(|(_, kind)| Captions::empty(*kind)),
            ignores_captions: captions == CaptionColumn::Ignore
                && columns::has_captions(&first.file.metadata, fields),
            notes: first.columns.notes(&first.file.metadata).into_iter().chain(split_note).collect(),
            fields: fields.clone(),
            ..Listing::default()
        };
        let label = label.clone();
        let mut source = Self {
            files: Vec::with_capacity(listed.len()),
            open: OpenFiles::new(OPEN_FILES),
            decoded: DecodedBlocks::default(),
            listing,
            rows: Vec::new(),
        };
        let (numbers, names) = resolve(&listed)?;
        let mut rest = numbers.as_slice();
        for file in listed {
            let labels = rest.split_off(..file.labels.len()).unwrap_or_default();
            source.add(file, labels)?;
        }
        let names = match label {
            Some((name, kind)) => {
                source.listing.notes.extend(labels::notes(
                    &format!("column {name}"),
                    &numbers,
                    names.as_deref(),
                ));
                if let LabelKind::Named(names) = kind { Some(names) } else { names }
            }
            None => None,
        };
        source.listing.set_classes(names.unwrap_or_default());
        match source.listing.captions.is_some() && source.listing.samples.is_empty() {
            true => Err(no_captions()),
            false => Ok(source),
        }
    }

    /// Adds the rows of the next file. `labels` has the label of each row; it is empty without a label column.
    fn add(&mut self, listed: ListedFile, labels: &[Option<u32>]) -> Result<(), ParquetSourceError> {
        let ListedFile { file, captions, uncaptioned, .. } = listed;
        let name = names::file_name(&file.path);
        let captioned = self.rows.len();
        for row in 0..file.blocks.rows() {
            let key = format!("{name}/{row}");
            if let Some(detail) = uncaptioned.get(&row) {
                let detail = (*detail).to_owned();
                self.listing.rejected.push(Rejected { key, reason: "no-caption", detail });
                continue;
            }
            let label = labels.get(row).copied().flatten();
            self.listing.samples.push(Sample { key, label });
            self.rows.push(ImageRow { file: self.files.len(), row });
        }
        let first = self.rows.get(captioned);
        if let (Some(captions), Some(more), Some(first)) = (&mut self.listing.captions, captions, first) {
            captions.append(more).map_err(|source| {
                let problem = ParquetProblem::CaptionEmbedding { row: first.row, source };
                ParquetSourceError::unusable(&file.path, problem)
            })?;
        }
        self.files.push(file);
        Ok(())
    }
}

impl ImageSource for ParquetFiles {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        self.listing.sample(index)?;
        let ImageRow { file: number, row } = self.rows[index];
        let file = &self.files[number];
        let (block, at) = file.blocks.find(row);
        let images = self.decoded.get((number, block), file.blocks.largest(), |block| {
            let open = SharedFile::new(self.open.get(number, &file.path)?)?;
            blocks::decode_from(open, &file.metadata, file.leaf, block)
        });
        let images = images.map_err(|error| ParquetSourceError::unreadable(&file.path, error))?;
        let path = || file.path.join(row.to_string());
        if images.is_null(at) {
            return Err(ParquetSourceError::NoBytes { path: path() }.into());
        }
        let image = images.value(at);
        match u64::try_from(image.len()).is_ok_and(|length| length <= max_bytes) {
            true => Ok(image.to_vec()),
            false => Err(SourceError::TooManyBytes { path: path(), limit: max_bytes }),
        }
    }
}

/// Fails if the columns of the files differ.
fn require_alike(listed: &[ListedFile]) -> Result<(), ParquetSourceError> {
    let Some(first) = listed.first() else { return Ok(()) };
    match listed.iter().find(|other| !other.columns.are_those_of(&first.columns)) {
        None => Ok(()),
        Some(other) => {
            let (expected, got) = first.columns.difference(&other.columns);
            let first = names::file_name(&first.file.path);
            let problem = ParquetProblem::Columns { first, expected, got };
            Err(ParquetSourceError::unusable(&other.file.path, problem))
        }
    }
}

/// Fails if the rows are of several splits by a column that marks them. Returns a note if that column has several values
/// of another kind.
fn require_one_split(listed: &[ListedFile]) -> Result<Option<Note>, ParquetSourceError> {
    let column = listed.iter().find_map(|file| file.columns.split.as_ref());
    let Some(mut column) = column.map(|(name, _)| SplitColumn::new(name)) else { return Ok(None) };
    for file in listed {
        for (row, value) in file.splits.iter().enumerate() {
            column.add(value).map_err(|first| {
                let (name, got) = (column.name().to_owned(), value.clone());
                let problem = ParquetProblem::SplitColumn { row, column: name, first, got };
                ParquetSourceError::unusable(&file.file.path, problem)
            })?;
        }
    }
    Ok(column.note())
}

/// The labels of all rows of all files, and the class names if labels are names.
fn resolve(listed: &[ListedFile]) -> Result<labels::Resolved, ParquetSourceError> {
    let all: Vec<Label> = listed.iter().flat_map(|file| file.labels.iter().cloned()).collect();
    labels::resolve(&all).map_err(|(position, fault)| {
        let mut row = position;
        let of = listed.iter().find(|file| {
            let inside = row < file.labels.len();
            row -= if inside { 0 } else { file.labels.len() };
            inside
        });
        let path = of.map(|of| of.file.path.as_path()).unwrap_or(Path::new(""));
        let column = of.and_then(|of| of.columns.label.as_ref()).map(|(name, _)| name.clone());
        let column = column.unwrap_or_default();
        ParquetSourceError::unusable(path, ParquetProblem::Label { row, column, fault })
    })
}
