//! Where images come from: a folder of class folders, TAR archives, Parquet files, or a CSV list.
//!
//! A source lists its samples once, in an order that depends on nothing but the data, and reads encoded bytes
//! on demand. What cannot even be listed (an unreadable folder, a name that is not UTF-8) is kept apart as
//! [`Rejected`] and changes neither the listing nor the run.

mod archive;
mod captions;
mod csv_list;
mod folder;
mod names;
mod parquet;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

pub use archive::{ArchiveProblem, TarArchives};
pub use captions::Captions;
pub use csv_list::{CaptionColumn, CsvList};
pub use folder::ImageFolder;
pub use parquet::{ParquetFiles, TableProblem};

/// One image by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Unique in its source: the path relative to the source, parts joined by `/`.
    pub key: String,
    /// Class index, where the source knows one.
    pub label: Option<u32>,
}

/// An entry that was found but cannot be listed as a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its path relative to the source, with replacement characters where it is not UTF-8.
    pub key: String,
    /// A short stable code for `rejects.jsonl`.
    pub reason: &'static str,
    /// What happened, for people.
    pub detail: String,
}

/// A listed set of encoded images.
pub trait ImageSource: Send + Sync {
    /// All samples, in listing order; keys are unique.
    fn samples(&self) -> &[Sample];

    /// Names of the classes, by label; `None` when labels are plain numbers or absent.
    fn class_names(&self) -> Option<&[String]>;

    /// The encoded bytes of sample `index`; an error when there are more than `max_bytes`, which are then not
    /// read.
    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError>;

    /// Entries left out of the listing.
    fn rejected(&self) -> &[Rejected];

    /// What is said about each sample in words, where the source was opened for it ([`open_captioned`]).
    fn captions(&self) -> Option<&Captions> {
        None
    }

    /// The line of a list in which its first sample stands; none of a source that is no list.
    fn first_line(&self) -> Option<u64> {
        None
    }

    /// Whether the source has captions that it was not opened for.
    fn ignores_captions(&self) -> bool {
        false
    }

    /// What the source holds and is neither listed nor rejected, in words.
    fn passed_over(&self) -> Option<&str> {
        None
    }
}

/// Why a source cannot be opened or a sample not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system refused.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A sample is missing because everything is.
    #[error("cannot read {}: nothing is left in {}", path.display(), root.display())]
    Gone {
        /// The sample's file.
        path: PathBuf,
        /// The folder.
        root: PathBuf,
    },
    /// None of the sources.
    #[error(
        "{} is not a source of images\nhint: give a folder of images, a .tar or .parquet file or a folder of them, or a .csv list with the columns path[,label]",
        path.display()
    )]
    Kind {
        /// What was given.
        path: PathBuf,
    },
    /// Nothing to list.
    #[error("no images found in {}\nhint: {hint}", path.display())]
    NoImages {
        /// The folder or list.
        path: PathBuf,
        /// What is expected there.
        hint: &'static str,
    },
    /// Captions were asked for and are not there.
    #[error(
        "{} has no captions\nhint: give a .csv list with a header and a column caption (texts) or caption_embedding (JSON arrays of numbers), archives with a .txt beside every image, or Parquet files with such a column",
        path.display()
    )]
    NoCaptions {
        /// The folder, file or list.
        path: PathBuf,
    },
    /// An archive is wrong.
    #[error("{}: {problem}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: ArchiveProblem,
    },
    /// A Parquet file is wrong.
    #[error("{}: {problem}", path.display())]
    Table {
        /// The file, or the folder of several.
        path: PathBuf,
        /// What is wrong with it.
        problem: TableProblem,
    },
    /// A row of a Parquet file without the image.
    #[error(
        "{} is null: the image is not in the file\nhint: where rows only name images, embed those first, or give a .csv list of them",
        path.display()
    )]
    NoBytes {
        /// The file and, below it, the number of the row.
        path: PathBuf,
    },
    /// An archive or a Parquet file cannot be read, and so none of its samples.
    #[error("cannot read {}: {error}", path.display())]
    ArchiveIo {
        /// The archive or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A row of a CSV list is wrong.
    #[error("{}, line {line}: {problem}", path.display())]
    Row {
        /// The list.
        path: PathBuf,
        /// Line of the file, from 1.
        line: u64,
        /// What is wrong with it.
        problem: RowProblem,
    },
    /// A file larger than allowed.
    #[error("{} has more than {limit} bytes", path.display())]
    TooManyBytes {
        /// The file.
        path: PathBuf,
        /// The limit it exceeds.
        limit: u64,
    },
    /// No sample has this index.
    #[error("sample {index} was asked for, the source has {samples}")]
    Index {
        /// The index asked for.
        index: usize,
        /// Length of the listing.
        samples: usize,
    },
}

/// What can be wrong with a row of a CSV list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    /// Not CSV.
    #[error("not valid CSV: {0}")]
    Syntax(String),
    /// Other columns than the first row has.
    #[error(
        "{got} columns, expected {expected}\nhint: every row is path or every row is path,label; other columns need a header"
    )]
    Columns {
        /// Columns of the first row, or the most allowed.
        expected: usize,
        /// Columns of this row.
        got: usize,
    },
    /// Other columns than the header has.
    #[error(
        "{got} columns, the header has {expected}\nhint: a text that holds commas stands in double quotes"
    )]
    Cells {
        /// Columns of the header.
        expected: usize,
        /// Columns of this row.
        got: usize,
    },
    /// A first row that looks like a header, but of other columns.
    #[error(
        "the header \"{got}\" is not understood\n\
         hint: the columns are path[,label], in this order, or with a column caption or caption_embedding in any; \
         if this row is an image, put the line path[,label] above it"
    )]
    Header {
        /// The row.
        got: String,
    },
    /// The path is empty.
    #[error("the path is empty")]
    EmptyPath,
    /// The label is empty.
    #[error(
        "\"{key}\" has no label, but other rows have one\nhint: label every row, or leave out the column"
    )]
    EmptyLabel {
        /// The row's path.
        key: String,
    },
    /// A path that stands in an earlier line.
    #[error("\"{key}\" already stands in line {first}\nhint: is the first column the path?")]
    Duplicate {
        /// The path.
        key: String,
        /// The earlier line.
        first: u64,
    },
    /// Numbers and names are mixed.
    #[error(
        "label \"{label}\" is not a class number, but the labels before it are\n\
         hint: use numbers from 0 or names, not both"
    )]
    NotANumber {
        /// The label found.
        label: String,
    },
    /// Names and numbers are mixed.
    #[error(
        "label \"{label}\" is a number, but the labels before it are names\n\
         hint: use numbers from 0 or names, not both"
    )]
    NotAName {
        /// The label found.
        label: String,
    },
    /// A label is not UTF-8.
    #[error("the label is not UTF-8")]
    LabelEncoding,
    /// The caption is empty.
    #[error("\"{key}\" has no caption\nhint: caption every row, or leave it out of the list")]
    EmptyCaption {
        /// The row's path.
        key: String,
    },
    /// A caption is not UTF-8.
    #[error("the caption of \"{key}\" is not UTF-8")]
    CaptionEncoding {
        /// The row's path.
        key: String,
    },
    /// A ready embedding that cannot be used.
    #[error("the caption_embedding of \"{key}\" {reason}")]
    CaptionEmbedding {
        /// The row's path.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl SourceError {
    /// A short stable code for `rejects.jsonl`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => "missing",
            Self::Io { .. } | Self::ArchiveIo { .. } => "unreadable",
            Self::Gone { .. } | Self::NoBytes { .. } => "missing",
            Self::TooManyBytes { .. } => "too-many-bytes",
            Self::Kind { .. }
            | Self::NoImages { .. }
            | Self::NoCaptions { .. }
            | Self::Archive { .. }
            | Self::Table { .. }
            | Self::Row { .. }
            | Self::Index { .. } => "source",
        }
    }

    /// Whether the storage has failed and not one file, so that samples would be rejected which are sound.
    pub fn is_storage_failure(&self) -> bool {
        match self {
            Self::Io { error, .. } => !lies_in_the_file(error),
            Self::Gone { .. } | Self::ArchiveIo { .. } => true,
            _ => false,
        }
    }

    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }

    fn archive_io(path: &Path, error: io::Error) -> Self {
        Self::ArchiveIo { path: path.to_owned(), error }
    }
}

/// Opens a folder as an [`ImageFolder`], a `.tar` file or a folder of them as [`TarArchives`], a `.parquet` file or a folder of them as
/// [`ParquetFiles`], a `.csv` file as a [`CsvList`]. Captions are passed over.
///
/// # Errors
/// [`SourceError`].
pub fn open_source(path: &Path) -> Result<Box<dyn ImageSource>, SourceError> {
    open(path, CaptionColumn::Ignore)
}

/// As [`open_source`], with the captions of the samples.
///
/// # Errors
/// [`SourceError`], also where there are no captions.
pub fn open_captioned(path: &Path) -> Result<Box<dyn ImageSource>, SourceError> {
    open(path, CaptionColumn::Read)
}

fn open(path: &Path, captions: CaptionColumn) -> Result<Box<dyn ImageSource>, SourceError> {
    let metadata = path.metadata().map_err(|error| SourceError::io(path, error))?;
    let name = names::file_name(path);
    if metadata.is_dir() {
        open_folder(path, captions)
    } else if archive::is_archive(&name) {
        Ok(Box::new(TarArchives::open(path, captions)?))
    } else if parquet::is_parquet(&name) {
        Ok(Box::new(ParquetFiles::open(path, captions)?))
    } else if names::extension(&name) == "csv" {
        Ok(Box::new(CsvList::open(path, captions)?))
    } else {
        Err(SourceError::Kind { path: path.to_owned() })
    }
}

fn open_folder(path: &Path, captions: CaptionColumn) -> Result<Box<dyn ImageSource>, SourceError> {
    // Archives come first: a Parquet file beside them tells about them.
    let archives = archive::archives_of(path)?;
    if !archives.is_empty() {
        return Ok(Box::new(TarArchives::open_all(path, archives, captions)?));
    }
    let tables = parquet::tables_of(path)?;
    if !tables.is_empty() {
        return Ok(Box::new(ParquetFiles::open_all(path, tables, captions)?));
    }
    match captions {
        CaptionColumn::Read => Err(SourceError::NoCaptions { path: path.to_owned() }),
        CaptionColumn::Ignore => Ok(Box::new(ImageFolder::open(path)?)),
    }
}

/// Whether an error is one that a file, or the way to it, can be blamed for. The rest is a disk, a network, or this process.
fn lies_in_the_file(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    // Links in a circle and sockets, for which there is no kind.
    let errno = Errno::from_io_error(error);
    matches!(
        error.kind(),
        NotFound | PermissionDenied | IsADirectory | NotADirectory | InvalidInput | InvalidFilename
    ) || errno.is_some_and(|errno| [Errno::LOOP, Errno::NXIO].contains(&errno))
}

/// Reads the file of sample `index` below `root`.
fn read_sample(
    root: &Path,
    samples: &[Sample],
    index: usize,
    max_bytes: u64,
) -> Result<Vec<u8>, SourceError> {
    let sample = samples.get(index).ok_or(SourceError::Index { index, samples: samples.len() })?;
    let path = root.join(&sample.key);
    let too_many = || SourceError::TooManyBytes { path: path.clone(), limit: max_bytes };
    let read = || -> io::Result<Option<Vec<u8>>> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        if length > max_bytes {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        // The limit holds for what is read, too: a file may grow, and a device has no length.
        file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes).filter(|bytes| u64::try_from(bytes.len()).is_ok_and(|length| length <= max_bytes)))
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(match gone(root, &path) {
            Some(folder) => SourceError::Gone { path, root: folder },
            None => SourceError::io(&path, error),
        }),
        read => read.map_err(|error| SourceError::io(&path, error))?.ok_or_else(too_many),
    }
}

/// The folder without which everything is missing: that of the source where it is no longer there, or, of a sample that stands
/// elsewhere, the nearest that is there. Either may be empty, as the mount point of a share that is absent.
fn gone(root: &Path, path: &Path) -> Option<PathBuf> {
    // A list that was named without a folder.
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    if !root.exists() || is_empty(root) {
        return Some(root.to_owned());
    }
    let elsewhere =
        path.ancestors().skip(1).find(|folder| folder.exists()).filter(|_| !path.starts_with(root));
    elsewhere.filter(|folder| is_empty(folder)).map(Path::to_owned)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}
