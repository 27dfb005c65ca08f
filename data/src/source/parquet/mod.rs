//! Parquet files that hold images, as Hugging Face's hub has data sets: one, or a folder of them.
//!
//! - Samples are the rows in their order; files of a folder are taken in bytewise order of their names. The key is the file's name and the
//!   number of the row in it, from 0: what a column says about where an image once lay need not be there, nor be unique.
//! - Images are the column of bytes, or of structs with a part `bytes`, that is the only one of them, or that the description which
//!   `datasets` leaves in a file says to be one of images, or that is called so.
//! - Labels are a column of numbers or texts that is called so, or the only one of which that description names the classes. Texts are
//!   class numbers where all are numbers, else names, numbered in bytewise order. A negative number, null and an empty text are none.
//! - Captions are a column of texts, or of lists of numbers, read only where the source is opened for them. A row without one is then
//!   rejected.
//! - A folder with the files of several splits is refused: the hub keeps test images beside training images.
//! - Only footers, labels and captions are read at first. A row without its image is found out when it is read.

mod blocks;
mod columns;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use rayon::prelude::*;

use self::blocks::{Cut, Kept, SharedFile};
use self::columns::{Columns, LabelKind};
use super::{CaptionColumn, Captions, ImageSource, Rejected, Sample, SourceError, names};
use crate::open_files::OpenFiles;

/// Files that are open at a time.
const OPEN_FILES: usize = 128;

/// What names of files call the parts of a data set, by `datasets`' rules.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// What can be wrong with a Parquet file of images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableProblem {
    /// Not Parquet, or cut.
    #[error("not a whole Parquet file: {0}\nhint: finish its download, or copy it again")]
    Syntax(String),
    /// Damaged behind its footer.
    #[error("damaged: {0}\nhint: copy the file again")]
    Damaged(String),
    /// A compression that is not built in.
    #[error(
        "column {column} is compressed by {codec}, which is not read\nhint: write it with snappy, zstd or gzip"
    )]
    Codec {
        /// The column.
        column: String,
        /// Its compression.
        codec: String,
    },
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
    /// A column of images that were left outside.
    #[error(
        "column {column} is null in every row: the images are not in the file\nhint: embed them when the file is written, or give a .csv list of them"
    )]
    NotEmbedded {
        /// The column.
        column: String,
    },
    /// Captions that are no texts.
    #[error(
        "column {column} is {got}\nhint: captions are texts, one per row, or a caption_embedding of lists of floats"
    )]
    Captions {
        /// The column.
        column: String,
        /// Its type.
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
    #[error("row {row}, column {column}: class {got}, expected a whole number below {classes}")]
    Label {
        /// Row of the file, from 0.
        row: usize,
        /// The column of labels.
        column: String,
        /// What it holds.
        got: String,
        /// How many classes there are.
        classes: u32,
    },
    /// An embedding that cannot be used.
    #[error("row {row}: its caption_embedding {reason}")]
    CaptionEmbedding {
        /// Row of the file, from 0.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Training and test images in one folder, or what looks so.
    #[error(
        "its files are not of one split: {}\nhint: give a folder with the files of one; links will do",
        files.join(", ")
    )]
    Splits {
        /// One file of each.
        files: Vec<String>,
    },
    /// A folder that is no set of Parquet files, but holds such a set.
    #[error(
        "there are Parquet files, but not only: {other}\nhint: give one of the files, or a folder with nothing else in it"
    )]
    Among {
        /// What else is there.
        other: String,
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
/// A folder that cannot be read, with the files of several splits, or in which Parquet files are hidden that would not be found.
pub(super) fn tables_of(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let io = |error| SourceError::io(folder, error);
    let wrong = |problem| SourceError::Table { path: folder.to_owned(), problem };
    let paths = names::set_of(folder, is_parquet).map_err(io)?;
    if paths.is_empty() {
        return match names::among_no_images(folder, is_parquet).map_err(io)? {
            Some(other) => Err(wrong(TableProblem::Among { other })),
            None => Ok(paths),
        };
    }
    let names = paths.iter().map(|path| names::file_name(path));
    let splits: BTreeMap<String, String> = names.map(|name| (split_of(&name), name)).collect();
    // Files that are called nothing in particular may belong together.
    match splits.len() > 1 {
        true => Err(wrong(TableProblem::Splits { files: splits.into_values().collect() })),
        false => Ok(paths),
    }
}

/// The part of a data set that a file's name tells: what stands before the number of a shard, or a word for one; else empty.
fn split_of(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    if let Some((before, _)) = stem.split_once("-of-")
        && let Some((split, number)) = before.rsplit_once('-')
        && number.bytes().all(|digit| digit.is_ascii_digit())
    {
        return split.to_owned();
    }
    let words = stem.split(|letter: char| !letter.is_ascii_alphabetic()).map(str::to_ascii_lowercase);
    let split = |word: String| SPLITS.into_iter().find(|(_, words)| words.contains(&&*word));
    words.filter_map(split).next_back().map_or(String::new(), |(split, _)| split.to_owned())
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
        // All of them, and then the first error: which one is told must not depend on threads.
        let listed: Vec<Result<Listed, SourceError>> =
            paths.into_par_iter().map(|path| Listed::read(path, captions)).collect();
        let listed = listed.into_iter().collect::<Result<Vec<Listed>, _>>()?;
        require_alike(&listed)?;
        let Some(first) = listed.iter().find(|file| file.table.cut.rows() > 0) else {
            let hint = "samples are the rows, and there is none";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        };
        let no_captions = || SourceError::NoCaptions { path: root.to_owned() };
        let Columns { label, caption, .. } = &first.columns;
        if captions == CaptionColumn::Read && caption.is_none() {
            return Err(no_captions());
        }
        let class_names = match label {
            Some((_, LabelKind::Named(names))) => Some(names.clone()),
            Some((_, LabelKind::Text)) => class_names(&listed),
            _ => None,
        };
        let mut source = Self {
            captions: caption.as_ref().map(|(_, kind)| Captions::empty(*kind)),
            ignores_captions: captions == CaptionColumn::Ignore
                && columns::has_captions(&first.table.metadata),
            passed_over: first.columns.passed_over(&first.table.metadata),
            tables: Vec::with_capacity(listed.len()),
            files: OpenFiles::new(OPEN_FILES),
            kept: Kept::default(),
            samples: Vec::new(),
            places: Vec::new(),
            class_names: None,
            rejected: Vec::new(),
        };
        let names = class_names.as_deref().unwrap_or_default();
        let numbers: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
        for file in listed {
            source.add(file, &numbers)?;
        }
        source.class_names = class_names;
        match source.captions.is_some() && source.samples.is_empty() {
            true => Err(no_captions()),
            false => Ok(source),
        }
    }

    /// Adds the rows of the next file; `numbers` are those of the classes that texts name, none where texts are numbers.
    fn add(&mut self, file: Listed, numbers: &HashMap<&str, u32>) -> Result<(), SourceError> {
        let Listed { table, labels, captions, uncaptioned, .. } = file;
        let name = names::file_name(&table.path);
        let captioned = self.places.len();
        for row in 0..table.cut.rows() {
            let key = format!("{name}/{row}");
            if let Some(detail) = uncaptioned.get(&row) {
                self.rejected.push(Rejected { key, reason: "no-caption", detail: (*detail).to_owned() });
                continue;
            }
            let label = match &labels {
                Labels::None => None,
                Labels::Numbers(labels) => labels[row],
                Labels::Texts(labels) => labels[row]
                    .as_deref()
                    .and_then(|label| numbers.get(label).copied().or_else(|| label.parse().ok())),
            };
            self.samples.push(Sample { key, label });
            self.places.push(Place { table: self.tables.len(), row });
        }
        let first = self.places.get(captioned);
        if let (Some(captions), Some(more), Some(first)) = (&mut self.captions, captions, first) {
            captions.append(more).map_err(|reason| SourceError::Table {
                path: table.path.clone(),
                problem: TableProblem::CaptionEmbedding { row: first.row, reason },
            })?;
        }
        self.tables.push(table);
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
        let (block, at) = table.cut.find(row);
        let images = self.kept.get((number, block), |block| {
            let file = SharedFile::new(self.files.get(number, &table.path)?)?;
            blocks::decode_from(file, &table.metadata, table.leaf, block)
        });
        let images = images.map_err(|error| SourceError::archive_io(&table.path, io_error(error)))?;
        let path = || table.path.join(row.to_string());
        if images.is_null(at) {
            return Err(SourceError::NoBytes { path: path() });
        }
        let image = images.value(at);
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
            let (expected, got) = first.columns.difference(&other.columns);
            let first = names::file_name(&first.table.path);
            let problem = TableProblem::Columns { first, expected, got };
            Err(SourceError::Table { path: other.table.path.clone(), problem })
        }
    }
}

/// The names of all classes that labels name, in bytewise order; none where all are class numbers.
fn class_names(listed: &[Listed]) -> Option<Vec<String>> {
    let labels = listed.iter().filter_map(|file| match &file.labels {
        Labels::Texts(labels) => Some(labels),
        _ => None,
    });
    let distinct: BTreeSet<&String> = labels.flatten().flatten().collect();
    let numbers = distinct.iter().all(|label| label.parse::<u32>().is_ok());
    (!numbers).then(|| distinct.into_iter().cloned().collect())
}

/// An error of the system's as it was, where that is what stopped the reader.
fn io_error(error: ParquetError) -> io::Error {
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
    Texts(Vec<Option<String>>),
}

impl Listed {
    fn read(path: PathBuf, captions: CaptionColumn) -> Result<Self, SourceError> {
        let failed = |error: ParquetError, problem: fn(String) -> TableProblem| match io_error(error) {
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
        let columns = Columns::of(&metadata, captions).map_err(wrong)?;
        let leaf = columns::leaf(&metadata, &columns.image)
            .ok_or_else(|| wrong(TableProblem::NoImages { got: columns.image.clone() }))?;
        let cut = Cut::new(&metadata, leaf).map_err(|what| wrong(TableProblem::Syntax(what)))?;
        require_embedded(&metadata, leaf, &columns.image).map_err(wrong)?;
        require_codecs(&metadata, &columns).map_err(wrong)?;
        let column = |name: &str| -> Result<Vec<ArrayRef>, SourceError> {
            blocks::guarded(|| read_column(file.clone(), &metadata, name, cut.rows()))
                .map_err(|error| failed(error, TableProblem::Damaged))
        };
        let labels = match &columns.label {
            None => Labels::None,
            Some((name, LabelKind::Text)) => Labels::Texts(values::texts(&column(name)?)),
            Some((name, kind)) => {
                let classes = match kind {
                    LabelKind::Named(names) => u32::try_from(names.len()).unwrap_or(u32::MAX),
                    _ => u32::MAX,
                };
                Labels::Numbers(values::class_numbers(&column(name)?, name, classes).map_err(wrong)?)
            }
        };
        let mut uncaptioned = BTreeMap::new();
        let captions = match &columns.caption {
            None => None,
            Some((name, kind)) => {
                Some(values::captions(&column(name)?, *kind, &mut uncaptioned).map_err(wrong)?)
            }
        };
        let table = Table { path: path.clone(), metadata, leaf, cut };
        Ok(Self { table, columns, labels, captions, uncaptioned })
    }
}

/// Refuses a file that is known to hold none of its images.
fn require_embedded(metadata: &ArrowReaderMetadata, leaf: usize, name: &str) -> Result<(), TableProblem> {
    let groups = metadata.metadata().row_groups();
    let empty = groups.iter().filter(|group| group.num_rows() > 0).map(|group| {
        let nulls = group.column(leaf).statistics().and_then(|statistics| statistics.null_count_opt());
        nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(group.num_rows()))
    });
    let mut empty = empty.peekable();
    match empty.peek().is_some() && empty.all(|empty| empty) {
        true => Err(TableProblem::NotEmbedded { column: name.to_owned() }),
        false => Ok(()),
    }
}

/// Refuses columns in a compression that is not built in, before an image is looked for.
fn require_codecs(metadata: &ArrowReaderMetadata, columns: &Columns) -> Result<(), TableProblem> {
    let read = [
        Some(&columns.image),
        columns.label.as_ref().map(|it| &it.0),
        columns.caption.as_ref().map(|it| &it.0),
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
                return Err(TableProblem::Codec { column: column.clone(), codec });
            }
        }
    }
    Ok(())
}

/// All of a top-level column, which has `rows` rows.
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
