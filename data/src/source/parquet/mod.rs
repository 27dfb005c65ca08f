//! Parquet files that hold images, as Hugging Face's hub and query engines write them: one, or a folder of them.
//!
//! - Samples are the rows in their order; files of a folder are taken in bytewise order of their names. The key is the file's name and the
//!   number of the row in it, from 0: what a column says about where an image once lay need not be there, nor be unique.
//! - Images are the column of bytes, or of structs with a part `bytes`, that is the only one of them or called `image` or `img`.
//! - Labels are a column of class numbers or of names that is called so, or the only one of class numbers with names in the description that
//!   `datasets` leaves in a file. Names without such a description are numbered in bytewise order. A negative number and null are none.
//! - Captions are a column `caption` or `text` of texts, or `caption_embedding` of lists of numbers, read only where the source is opened
//!   for them. A row without one is then rejected.
//! - Files of several splits are refused: a folder of the hub's has the test images beside the training images.
//! - Only a file's footer and its labels are read at first. A row that does not hold its image is found out when it is read.

mod blocks;
mod columns;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use rayon::prelude::*;

use self::blocks::{Cut, Kept, SharedFile};
use self::columns::{Columns, LabelKind};
use super::captions::CaptionKind;
use super::{CaptionColumn, Captions, ImageSource, Rejected, Sample, SourceError, names};
use crate::open_files::OpenFiles;

/// Files that are open at a time.
const OPEN_FILES: usize = 128;

/// What names of files call the parts of a data set.
const SPLITS: [&str; 7] = ["train", "test", "val", "valid", "validation", "dev", "eval"];

/// What can be wrong with a Parquet file of images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableProblem {
    /// Not Parquet, or cut.
    #[error("not a whole Parquet file: {0}\nhint: finish its download, or copy it again")]
    Syntax(String),
    /// Damaged behind its footer.
    #[error("damaged: {0}\nhint: copy the file again")]
    Damaged(String),
    /// No column that could be one of images.
    #[error(
        "none of its columns {got} holds images\nhint: images stand in a column of bytes, or of structs with a part bytes; where rows are paths or addresses, give a .csv list of the files"
    )]
    NoImages {
        /// Its columns.
        got: String,
    },
    /// Several columns that could be the one of images.
    #[error("its columns {got} may all hold the images\nhint: call the one that does image")]
    Ambiguous {
        /// The columns.
        got: String,
    },
    /// Other columns than in the file before.
    #[error("has {got}, but {first} has {expected}\nhint: give files of one data set")]
    Columns {
        /// The other file's name.
        first: String,
        /// What it has.
        expected: String,
        /// What this one has.
        got: String,
    },
    /// A label that is no class.
    #[error("row {row}, column {column}: class {got}, expected a number below {classes}")]
    Label {
        /// Row of the file, from 0.
        row: usize,
        /// The column of labels.
        column: String,
        /// What it holds.
        got: i64,
        /// How many classes there are.
        classes: usize,
    },
    /// An embedding that cannot be used.
    #[error("row {row}: the caption_embedding {reason}")]
    CaptionEmbedding {
        /// Row of the file, from 0.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Training and test images in one folder.
    #[error(
        "its files are of several splits: {}\nhint: give a folder with the files of one; links will do",
        splits.join(", ")
    )]
    Splits {
        /// The splits.
        splits: Vec<&'static str>,
    },
}

/// One of the files.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// The column of images.
    leaf: usize,
    cut: Cut,
}

/// Where an image lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    table: usize,
    row: usize,
}

/// Listed Parquet files.
#[derive(Debug)]
pub struct ParquetFiles {
    root: PathBuf,
    tables: Vec<Table>,
    files: OpenFiles,
    kept: Kept,
    samples: Vec<Sample>,
    places: Vec<Place>,
    class_names: Option<Vec<String>>,
    captions: Option<Captions>,
    ignores_captions: bool,
    rejected: Vec<Rejected>,
    passed_over: Option<String>,
}

/// Whether a file's name says that it is a Parquet file.
pub(super) fn is_parquet(name: &str) -> bool {
    names::extension(name) == "parquet"
}

/// The files of a folder that is a set of them, none for another folder.
///
/// # Errors
/// A folder that cannot be read, or with the files of several splits.
pub(super) fn tables_of(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let paths = names::set_of(folder, is_parquet).map_err(|error| SourceError::io(folder, error))?;
    let splits: BTreeSet<&str> = paths.iter().filter_map(|path| split_of(&names::file_name(path))).collect();
    if splits.len() > 1 {
        let problem = TableProblem::Splits { splits: splits.into_iter().collect() };
        return Err(SourceError::Table { path: folder.to_owned(), problem });
    }
    Ok(paths)
}

/// The split that a file's name tells.
fn split_of(name: &str) -> Option<&'static str> {
    let mut words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.find_map(|word| SPLITS.into_iter().find(|split| word.eq_ignore_ascii_case(split)))
}

impl ParquetFiles {
    /// Lists one file.
    ///
    /// # Errors
    /// [`SourceError`] where it cannot be read, is damaged, holds no image, or lacks the captions that are to be read.
    pub fn open(path: &Path, captions: CaptionColumn) -> Result<Self, SourceError> {
        Self::open_all(path, vec![path.to_owned()], captions)
    }

    /// Lists the files `paths` of a folder; `root` is what the user named.
    ///
    /// # Errors
    /// As [`ParquetFiles::open`].
    pub(super) fn open_all(
        root: &Path,
        paths: Vec<PathBuf>,
        captions: CaptionColumn,
    ) -> Result<Self, SourceError> {
        let captions = captions == CaptionColumn::Read;
        // All of them, and then the first error: which one is told must not depend on threads.
        let listed: Vec<Result<Listed, SourceError>> =
            paths.into_par_iter().map(|path| Listed::read(path, captions)).collect();
        let listed = listed.into_iter().collect::<Result<Vec<Listed>, _>>()?;
        require_alike(&listed)?;
        let Some(first) = listed.iter().find(|file| file.rows > 0) else {
            let hint = "samples are the rows, and there is none";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        };
        let Columns { label, caption, .. } = &first.columns;
        if captions && caption.is_none() {
            return Err(SourceError::NoCaptions { path: root.to_owned() });
        }
        let class_names = match label {
            Some((_, LabelKind::Named(names))) => Some(names.clone()),
            Some((_, LabelKind::Name)) => Some(distinct(&listed)),
            _ => None,
        };
        let ignores_captions = caption.is_some() && !captions;
        let captions = caption.as_ref().filter(|_| captions).map(|(_, kind)| Captions::empty(*kind));
        let mut source = Self {
            root: root.to_owned(),
            passed_over: first.columns.passed_over(&first.table.metadata),
            tables: Vec::with_capacity(listed.len()),
            files: OpenFiles::new(OPEN_FILES),
            kept: Kept::default(),
            samples: Vec::new(),
            places: Vec::new(),
            class_names,
            captions,
            ignores_captions,
            rejected: Vec::new(),
        };
        let names = source.class_names.clone().unwrap_or_default();
        let numbers: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
        for file in listed {
            source.add(file, &numbers)?;
        }
        match source.captions.is_some() && source.samples.is_empty() {
            true => Err(SourceError::NoCaptions { path: root.to_owned() }),
            false => Ok(source),
        }
    }

    /// Adds the rows of the next file; `numbers` are those of the classes that have names.
    fn add(&mut self, file: Listed, numbers: &HashMap<&str, u32>) -> Result<(), SourceError> {
        let name = names::file_name(&file.table.path);
        let wrong = |problem| SourceError::Table { path: file.table.path.clone(), problem };
        let table = self.tables.len();
        for row in 0..file.rows {
            let key = format!("{name}/{row}");
            if let Some(detail) = file.uncaptioned.get(&row) {
                self.rejected.push(Rejected { key, reason: "no-caption", detail: (*detail).to_owned() });
                continue;
            }
            let label = match &file.labels {
                Labels::None => None,
                Labels::Numbers(labels) => labels[row],
                Labels::Names(labels) => labels[row].as_deref().and_then(|label| numbers.get(label).copied()),
            };
            self.samples.push(Sample { key, label });
            self.places.push(Place { table, row });
        }
        if let Some((captions, more)) = self.captions.as_mut().zip(file.captions) {
            captions
                .append(more)
                .map_err(|reason| wrong(TableProblem::CaptionEmbedding { row: 0, reason }))?;
        }
        self.tables.push(file.table);
        Ok(())
    }
}

impl ImageSource for ParquetFiles {
    fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let samples = self.samples.len();
        let Place { table: number, row } =
            *self.places.get(index).ok_or(SourceError::Index { index, samples })?;
        let table = &self.tables[number];
        let (block, row) = table.cut.find(row);
        let images = self.kept.get((number, block), |block| {
            let io = |error| SourceError::archive_io(&table.path, error);
            let file = SharedFile::new(self.files.get(number, &table.path).map_err(io)?).map_err(io)?;
            blocks::guarded(|| blocks::decode(file, &table.metadata, table.leaf, block))
                .map_err(|error| io(error_of(error)))
        })?;
        let path = || self.root.join(&self.samples[index].key);
        if images.is_null(row) {
            return Err(SourceError::NoBytes { path: path() });
        }
        let image = images.value(row);
        match u64::try_from(image.len()).is_ok_and(|length| length <= max_bytes) {
            true => Ok(image.to_vec()),
            false => Err(SourceError::TooManyBytes { path: path(), limit: max_bytes }),
        }
    }

    fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    fn captions(&self) -> Option<&Captions> {
        self.captions.as_ref()
    }

    fn ignores_captions(&self) -> bool {
        self.ignores_captions
    }

    fn passed_over(&self) -> Option<&str> {
        self.passed_over.as_deref()
    }
}

/// Refuses files that are not of one data set.
fn require_alike(listed: &[Listed]) -> Result<(), SourceError> {
    let Some(first) = listed.first() else { return Ok(()) };
    match listed.iter().find(|file| file.columns != first.columns) {
        None => Ok(()),
        Some(other) => {
            let problem = TableProblem::Columns {
                first: names::file_name(&first.table.path),
                expected: first.columns.to_string(),
                got: other.columns.to_string(),
            };
            Err(SourceError::Table { path: other.table.path.clone(), problem })
        }
    }
}

/// The names of all classes, in bytewise order.
fn distinct(listed: &[Listed]) -> Vec<String> {
    let labels = listed.iter().filter_map(|file| match &file.labels {
        Labels::Names(labels) => Some(labels),
        _ => None,
    });
    let distinct: BTreeSet<&String> = labels.flatten().flatten().collect();
    distinct.into_iter().cloned().collect()
}

/// An error of the system's as it was, where that is what stopped the reader.
fn error_of(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => {
            error.downcast::<io::Error>().map_or_else(io::Error::other, |error| *error)
        }
        error => io::Error::other(error),
    }
}

/// What one file tells without its images.
struct Listed {
    table: Table,
    columns: Columns,
    rows: usize,
    labels: Labels,
    /// Of the rows that have one, where captions are read.
    captions: Option<Captions>,
    /// Rows without a caption, and why, where captions are read.
    uncaptioned: BTreeMap<usize, &'static str>,
}

/// One entry per row, where there are labels.
enum Labels {
    None,
    Numbers(Vec<Option<u32>>),
    Names(Vec<Option<String>>),
}

impl Listed {
    fn read(path: PathBuf, captions: bool) -> Result<Self, SourceError> {
        let failed = |error: ParquetError, problem: fn(String) -> TableProblem| match error_of(error) {
            error if error.raw_os_error().is_some() => SourceError::archive_io(&path, error),
            error => SourceError::Table { path: path.clone(), problem: problem(error.to_string()) },
        };
        let wrong = |problem| SourceError::Table { path: path.clone(), problem };
        let open = || SharedFile::new(Arc::new(File::open(&path)?));
        let file = open().map_err(|error| SourceError::archive_io(&path, error))?;
        // Types as they are stored: those that a writer had in memory are of no interest.
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = blocks::guarded(|| ArrowReaderMetadata::load(&file, options))
            .map_err(|error| failed(error, TableProblem::Syntax))?;
        let columns = Columns::of(&metadata).map_err(wrong)?;
        let leaf = columns::leaf(&metadata, &columns.image)
            .ok_or_else(|| wrong(TableProblem::NoImages { got: columns.image.clone() }))?;
        let cut = Cut::new(&metadata, leaf);
        let rows = cut.rows();
        let expected = metadata.metadata().file_metadata().num_rows();
        if usize::try_from(expected) != Ok(rows) {
            let what = format!("{rows} rows in its row groups, expected {expected}");
            return Err(wrong(TableProblem::Syntax(what)));
        }
        let column = |name: &str| -> Result<Vec<ArrayRef>, SourceError> {
            blocks::guarded(|| read_column(file.clone(), &metadata, name, rows))
                .map_err(|error| failed(error, TableProblem::Damaged))
        };
        let labels = match &columns.label {
            None => Labels::None,
            Some((name, LabelKind::Name)) => Labels::Names(texts(&column(name)?)),
            Some((name, kind)) => {
                let classes = match kind {
                    LabelKind::Named(names) => names.len(),
                    _ => usize::try_from(u32::MAX).unwrap_or(usize::MAX),
                };
                Labels::Numbers(class_numbers(&column(name)?, name, classes).map_err(wrong)?)
            }
        };
        let mut uncaptioned = BTreeMap::new();
        let captions = match columns.caption.as_ref().filter(|_| captions) {
            None => None,
            Some((name, kind)) => Some(captions_in(&column(name)?, *kind, &mut uncaptioned).map_err(wrong)?),
        };
        let table = Table { path: path.clone(), metadata, leaf, cut };
        Ok(Self { table, columns, rows, labels, captions, uncaptioned })
    }
}

/// All of a top-level column, which has `rows` rows.
fn read_column(
    file: SharedFile,
    metadata: &ArrowReaderMetadata,
    name: &str,
    rows: usize,
) -> Result<Vec<ArrayRef>, ParquetError> {
    let mask = ProjectionMask::columns(metadata.parquet_schema(), [name]);
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

/// The texts of a column, null where there is none.
fn texts(arrays: &[ArrayRef]) -> Vec<Option<String>> {
    let texts = arrays.iter().filter_map(|array| array.as_string_opt::<i32>());
    texts.flat_map(|texts| texts.iter().map(|text| text.map(str::to_owned))).collect()
}

/// The class numbers of the column `name`, each below `classes`; a negative number, as for hidden labels, is none.
fn class_numbers(arrays: &[ArrayRef], name: &str, classes: usize) -> Result<Vec<Option<u32>>, TableProblem> {
    let numbers = arrays.iter().flat_map(|array| integers(array));
    let checked = numbers.enumerate().map(|(row, number)| match number.filter(|number| *number >= 0) {
        None => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(label) if usize::try_from(label).is_ok_and(|label| label < classes) => Ok(Some(label)),
            _ => Err(TableProblem::Label { row, column: name.to_owned(), got: number, classes }),
        },
    });
    checked.collect()
}

/// The numbers of an array of integers of any width.
fn integers(array: &dyn Array) -> Vec<Option<i64>> {
    fn widen<T: ArrowPrimitiveType<Native: TryInto<i64>>>(array: &dyn Array) -> Vec<Option<i64>> {
        let numbers = array.as_primitive::<T>().iter();
        numbers.map(|number| number.map(|number| number.try_into().unwrap_or(i64::MAX))).collect()
    }
    match array.data_type() {
        DataType::Int8 => widen::<Int8Type>(array),
        DataType::Int16 => widen::<Int16Type>(array),
        DataType::Int32 => widen::<Int32Type>(array),
        DataType::UInt8 => widen::<UInt8Type>(array),
        DataType::UInt16 => widen::<UInt16Type>(array),
        DataType::UInt32 => widen::<UInt32Type>(array),
        DataType::UInt64 => widen::<UInt64Type>(array),
        _ => widen::<Int64Type>(array),
    }
}

/// The captions of a column; rows without one are added to `missing`.
fn captions_in(
    arrays: &[ArrayRef],
    kind: CaptionKind,
    missing: &mut BTreeMap<usize, &'static str>,
) -> Result<Captions, TableProblem> {
    let mut captions = Captions::empty(kind);
    match kind {
        CaptionKind::Text => {
            for (row, text) in texts(arrays).into_iter().enumerate() {
                match text.as_deref().map(str::trim) {
                    None => drop(missing.insert(row, "the caption is null")),
                    Some("") => drop(missing.insert(row, "the caption is empty")),
                    Some(text) => captions.push_text(text),
                }
            }
        }
        CaptionKind::Embedding => {
            let lists = arrays.iter().filter_map(|array| array.as_list_opt::<i32>());
            for (row, list) in lists.flat_map(|lists| lists.iter()).enumerate() {
                match list {
                    None => drop(missing.insert(row, "the caption_embedding is null")),
                    Some(list) => captions
                        .push_embedding(&floats(&list))
                        .map_err(|reason| TableProblem::CaptionEmbedding { row, reason })?,
                }
            }
        }
    }
    Ok(captions)
}

/// The numbers of an array of floats of any width; not a number where there is none.
fn floats(array: &dyn Array) -> Vec<f64> {
    fn widen<T: ArrowPrimitiveType<Native: Into<f64>>>(array: &dyn Array) -> Vec<f64> {
        array.as_primitive::<T>().iter().map(|number| number.map_or(f64::NAN, Into::into)).collect()
    }
    match array.data_type() {
        DataType::Float16 => widen::<Float16Type>(array),
        DataType::Float32 => widen::<Float32Type>(array),
        _ => widen::<Float64Type>(array),
    }
}
