//! Where images come from: a folder of class folders, TAR archives, Parquet files, or a CSV list.
//!
//! An [`ImageSource`] is a [`Listing`], which is filled once when the source is opened, and a way to read the encoded bytes of a
//! sample. An entry that cannot be listed (an unreadable folder, a name that is not UTF-8) is kept apart as [`Rejected`] and changes
//! neither the samples nor the run.
//!
//! # Adding a source
//!
//! Two files change.
//!
//! 1. `source/NAME.rs`: a struct with a [`Listing`] and whatever reading needs (paths, offsets, open files), an `open` that fills the
//!    listing, and an `impl ImageSource` of two methods. `folder.rs` is the shortest example; `archive/` reads from inside a file.
//!    The source's own error type lives here too.
//! 2. `source/mod.rs`: a variant of [`SourceError`] for that error, and a line in `open` that recognizes the source by its name.
//!
//! Everything else (the pipeline, training, `lgd inspect`, tests) takes any `&dyn ImageSource`.

mod archive;
mod captions;
mod csv_list;
mod file;
mod folder;
mod listing;
mod names;
mod parquet;

use std::io;
use std::path::{Path, PathBuf};

pub use archive::{ArchiveError, ArchiveProblem, TarArchives};
pub use captions::{CaptionFault, Captions};
pub use csv_list::{CaptionColumn, CsvList, ListError, RowProblem};
pub use folder::ImageFolder;
pub use listing::{Listing, Rejected, Sample, listing_hash};
pub use parquet::{ParquetFiles, ParquetProblem, ParquetSourceError};

use file::{is_fault_of_file, read_sample};

/// A listed set of encoded images.
pub trait ImageSource: Send + Sync {
    /// Samples, labels, rejected entries and captions.
    fn listing(&self) -> &Listing;

    /// Returns the encoded bytes of sample `index`.
    ///
    /// # Errors
    /// [`SourceError::TooManyBytes`] if there are more than `max_bytes`, which are then not read; [`SourceError::Index`]; any error of
    /// the storage. [`SourceError::is_storage_failure`] tells a bad sample from bad storage.
    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError>;

    /// [`Listing::samples`].
    fn samples(&self) -> &[Sample] {
        &self.listing().samples
    }

    /// [`Listing::class_names`].
    fn class_names(&self) -> Option<&[String]> {
        self.listing().class_names.as_deref()
    }
}

/// Why a source cannot be opened or a sample not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A sample is missing, and so is everything else in its folder.
    #[error("cannot read {}: nothing is left in {}", path.display(), root.display())]
    Gone {
        /// The sample's file.
        path: PathBuf,
        /// The folder.
        root: PathBuf,
    },
    /// A path that is no source of images.
    #[error(
        "{} is not a source of images\nhint: give a folder of images, a .tar or .parquet file or a folder of them, or a .csv list with the columns path[,label]",
        path.display()
    )]
    Kind {
        /// The path.
        path: PathBuf,
    },
    /// A source without images.
    #[error("no images found in {}\nhint: {hint}", path.display())]
    NoImages {
        /// The folder or list.
        path: PathBuf,
        /// What is expected there.
        hint: &'static str,
    },
    /// The source was opened for captions and has none.
    #[error(
        "{} has no captions\nhint: give a .csv list with a header and a column caption (texts) or caption_embedding (JSON arrays of numbers), archives with a .txt beside every image, or Parquet files with such a column",
        path.display()
    )]
    NoCaptions {
        /// The folder, file or list.
        path: PathBuf,
    },
    /// A file larger than allowed.
    #[error("{} has more than {limit} bytes", path.display())]
    TooManyBytes {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
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
    /// An archive cannot be listed or read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A Parquet file cannot be listed, or an image not be read from it.
    #[error(transparent)]
    Parquet(#[from] ParquetSourceError),
    /// A row of a CSV list is wrong.
    #[error(transparent)]
    List(#[from] ListError),
}

impl SourceError {
    /// A short stable code for `rejects.jsonl`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => "missing",
            Self::Io { .. } => "unreadable",
            Self::Gone { .. } => "missing",
            Self::TooManyBytes { .. } => "too-many-bytes",
            Self::Archive(error) => error.reason(),
            Self::Parquet(error) => error.reason(),
            Self::Kind { .. }
            | Self::NoImages { .. }
            | Self::NoCaptions { .. }
            | Self::Index { .. }
            | Self::List(_) => "source",
        }
    }

    /// Whether the storage has failed and not a single file: rejecting the sample would leave out a sound image.
    pub fn is_storage_failure(&self) -> bool {
        match self {
            Self::Io { source, .. } => !is_fault_of_file(source),
            Self::Gone { .. } => true,
            Self::Archive(error) => matches!(error, ArchiveError::Io { .. }),
            Self::Parquet(error) => matches!(error, ParquetSourceError::Io { .. }),
            _ => false,
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Opens the images at `path`: a folder as an [`ImageFolder`], a `.tar` file or a folder of them as [`TarArchives`], a `.parquet` file
/// or a folder of them as [`ParquetFiles`], a `.csv` file as a [`CsvList`]. Captions are ignored.
///
/// # Errors
/// [`SourceError`] if the path is none of these, cannot be read, is damaged, or holds no image.
pub fn open_source(path: &Path) -> Result<Box<dyn ImageSource>, SourceError> {
    open(path, CaptionColumn::Ignore)
}

/// As [`open_source`], with the captions of the samples.
///
/// # Errors
/// As [`open_source`]; [`SourceError::NoCaptions`] if there are no captions.
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
    // Archives come first: a Parquet file beside archives describes them.
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
