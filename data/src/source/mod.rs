//! Sources of images: a folder of class folders, TAR archives, Parquet files, or a CSV list.
//!
//! An [`ImageSource`] has a [`Listing`], which is filled once when the source is opened, and a method that reads the
//! encoded bytes of a sample. A single file that cannot be listed, such as one whose name is not UTF-8, is recorded as
//! [`Rejected`] and affects neither the samples nor the run. A folder that cannot be listed is an error.
//!
//! # Adding a source
//!
//! Two files change.
//!
//! 1. `source/NAME.rs`: a struct with a [`Listing`] and the data that reading needs (paths, offsets, open files), an
//!    `open` that fills the listing, and an `impl ImageSource` with two methods. `folder.rs` is the shortest example;
//!    `archive/` reads from inside a file. The source's own error type is defined here too.
//! 2. `source/mod.rs`: a variant of [`SourceError`] for that error, a line in `open_with` that recognizes the source by
//!    its name, and its words in [`KINDS`].
//!
//! Everything else (the pipeline, training, `lgd inspect`, tests) takes any `&dyn ImageSource`.

mod archive;
mod assemble;
mod captions;
mod classes;
mod clutter;
mod csv_list;
mod fields;
mod file;
mod folder;
mod foreign;
mod labels;
mod listing;
mod masks;
mod names;
mod parquet;
mod ranges;
mod splits;
mod subset;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use archive::{ArchiveError, ArchiveProblem, TarArchives};
pub use captions::{CaptionFault, Captions};
pub use csv_list::{CaptionColumn, CsvList, ListError, RowProblem};
pub use folder::ImageFolder;
pub use labels::{LabelFault, class_numbers, position_limit};
pub use listing::{LeftAside, Listing, Note, Rejected, Sample, listing_hash};
pub use parquet::{ParquetFiles, ParquetProblem, ParquetSourceError};
pub use ranges::expand as expand_range;
pub use subset::Subset;

use file::{is_fault_of_file, read_sample};

/// All kinds of sources, for messages and for the help of flags.
pub const KINDS: &str = "a folder of images (class = first-level folder), a .tar archive, a brace range or a folder of archives, a .parquet file or a folder of them, or a .csv, .tsv, .txt or .jsonl list with the columns path[,label]";

/// Names of the fields that hold image, label and caption, for a source with several candidates: columns of a table, or
/// endings of the files of a sample in archives and folders (`input.png`, `cls`), or keys of its `.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldNames {
    /// Field of the images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Field of the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Field of the captions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
}

impl FieldNames {
    /// Whether no field is named, so that the source finds all of them itself.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Images.
    Image,
    /// Labels.
    Label,
    /// Captions.
    Caption,
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Label => "label",
            Self::Caption => "caption",
        })
    }
}

/// A set of encoded images that can be listed and read.
pub trait ImageSource: Send + Sync {
    /// Samples, labels, rejected entries and captions.
    fn listing(&self) -> &Listing;

    /// Reads the encoded bytes of sample `index`.
    ///
    /// # Errors
    /// [`SourceError::TooManyBytes`] if there are more than `max_bytes`, which are then not read;
    /// [`SourceError::Index`]; any error of the storage. [`SourceError::is_storage_failure`] distinguishes bad storage
    /// from a bad sample.
    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError>;

    /// The samples, [`Listing::samples`].
    fn samples(&self) -> &[Sample] {
        &self.listing().samples
    }

    /// The class names, [`Listing::class_names`].
    fn class_names(&self) -> Option<&[String]> {
        self.listing().class_names.as_deref()
    }
}

/// Why a source cannot be opened or a sample cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A folder among the images, or an entry that may be one, cannot be listed, so its images are unknown.
    #[error(
        "cannot list {}: {source}\nhint: make it readable, move it elsewhere to go on without it, or give a .csv list of the images",
        path.display()
    )]
    Unlisted {
        /// Path of the folder or entry.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A sample is missing, and so is the rest of its folder.
    #[error("cannot read {}: {} is empty or gone\nhint: check that the disk or share is mounted", path.display(), root.display())]
    Gone {
        /// Path of the sample's file.
        path: PathBuf,
        /// The empty or missing folder.
        root: PathBuf,
    },
    /// The path is not a source of images.
    #[error(
        "{} is not a source of images\nhint: give {KINDS}",
        path.display()
    )]
    Kind {
        /// The rejected path.
        path: PathBuf,
    },
    /// The path is a data set in a format that is not read.
    #[error("{} is {what}\nhint: {hint}", path.display())]
    Foreign {
        /// Path of the file or folder.
        path: PathBuf,
        /// Name of the format.
        what: &'static str,
        /// The way out.
        hint: String,
    },
    /// A range of files has gaps.
    #[error(
        "{} of the {of} files of {} are missing; the first is {}\nhint: fetch them, or give a range without them",
        missing.len(), path.display(), missing[0].display()
    )]
    MissingFiles {
        /// The range.
        path: PathBuf,
        /// The missing files; there is at least one.
        missing: Vec<PathBuf>,
        /// Number of files in the range.
        of: usize,
    },
    /// The folders or archives in a folder are splits of a data set, such as training and test images.
    #[error(
        "{} holds several splits of a data set: {}\nhint: give one of them, or a .csv list with the images of one",
        path.display(),
        splits.join(", ")
    )]
    Splits {
        /// Path of the folder or archive.
        path: PathBuf,
        /// One folder or archive of each split.
        splits: Vec<String>,
    },
    /// A folder holds archives among other contents, where they would not be found.
    #[error("{} has no images, but archives; the first is {}\nhint: give the archive, or a folder with archives only", path.display(), first.display())]
    ArchivesAmong {
        /// Path of the folder.
        path: PathBuf,
        /// The first archive.
        first: PathBuf,
    },
    /// A sample has several fields of one kind.
    #[error("{}: sample {key} has several {kind}s: {}", path.display(), got.join(", "))]
    SeveralFields {
        /// Path of the source.
        path: PathBuf,
        /// What the fields hold.
        kind: FieldKind,
        /// Key of the sample.
        key: String,
        /// Names of the fields.
        got: Vec<String>,
    },
    /// No sample has the field that was named.
    #[error("{}: no sample has its {kind} in a field {name:?}; the fields are {}", path.display(), if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    NoField {
        /// Path of the source.
        path: PathBuf,
        /// What the field should hold.
        kind: FieldKind,
        /// The name.
        name: String,
        /// Names of the fields that there are.
        known: Vec<String>,
    },
    /// A file beside an image does not contain a label.
    #[error("{}: {fault}", path.display())]
    Label {
        /// Path of the file, or of the source followed by the key of the sample.
        path: PathBuf,
        /// Why the label is not usable.
        #[source]
        fault: LabelFault,
    },
    /// The source holds no images.
    #[error("no images found in {}\nhint: {hint}", path.display())]
    NoImages {
        /// Path of the folder or list.
        path: PathBuf,
        /// What the source should contain.
        hint: &'static str,
    },
    /// The source was opened for captions but has none.
    #[error(
        "{} has no captions\nhint: give a .csv list or Parquet files with a column caption (texts) or caption_embedding (arrays of numbers), or archives with a .txt beside every image",
        path.display()
    )]
    NoCaptions {
        /// Path of the folder, file or list.
        path: PathBuf,
    },
    /// A file is larger than allowed.
    #[error("{} has more than {limit} bytes, the limit", path.display())]
    TooManyBytes {
        /// Path of the file.
        path: PathBuf,
        /// Limit, in bytes.
        limit: u64,
    },
    /// The index of the sample is out of range.
    #[error("there is no sample {index}: the source has {samples}")]
    Index {
        /// Requested index.
        index: usize,
        /// Number of samples in the listing.
        samples: usize,
    },
    /// An archive cannot be listed or read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A Parquet file cannot be listed, or an image cannot be read from it.
    #[error(transparent)]
    Parquet(#[from] ParquetSourceError),
    /// A row of a CSV list is invalid.
    #[error(transparent)]
    List(#[from] ListError),
}

impl SourceError {
    /// Whether the path was refused as a source because it is a single file that is, or may be, an image.
    pub fn is_one_image(&self) -> bool {
        match self {
            Self::Kind { .. } => true,
            Self::Foreign { what, .. } => *what == foreign::ONE_IMAGE.what,
            _ => false,
        }
    }

    /// Short, stable code for `rejects.jsonl`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => "missing",
            Self::Io { .. } => "unreadable",
            Self::Gone { .. } => "missing",
            Self::TooManyBytes { .. } => "too-many-bytes",
            Self::Archive(error) => error.reason(),
            Self::Parquet(error) => error.reason(),
            _ => "source",
        }
    }

    /// Whether the storage failed, not a single file. Rejecting the sample would then omit an intact image.
    pub fn is_storage_failure(&self) -> bool {
        match self {
            Self::Io { source, .. } => !is_fault_of_file(source),
            Self::Gone { .. } => true,
            Self::Archive(error) => matches!(error, ArchiveError::Io { .. }),
            Self::Parquet(error) => matches!(error, ParquetSourceError::Io { .. }),
            _ => false,
        }
    }

    /// The error for a sample with the fields `got` of one kind.
    fn several(path: &Path, kind: FieldKind, key: &str, got: Vec<String>) -> Self {
        Self::SeveralFields { path: path.to_owned(), kind, key: key.to_owned(), got }
    }

    /// The error for a field that was named but is not there.
    fn no_field(path: &Path, kind: FieldKind, name: &str, known: Vec<String>) -> Self {
        Self::NoField { path: path.to_owned(), kind, name: name.to_owned(), known }
    }

    /// The field whose name in [`FieldNames`] resolves the error, if one does.
    pub fn field(&self) -> Option<FieldKind> {
        match self {
            Self::SeveralFields { kind, .. } | Self::NoField { kind, .. } => Some(*kind),
            Self::Parquet(ParquetSourceError::Unusable { problem, .. }) => problem.field(),
            Self::List(error) => error.problem.field(),
            _ => None,
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Opens the images at `path` without their captions: a folder as an [`ImageFolder`], a `.tar` file or a folder of them
/// as [`TarArchives`], a `.parquet` file or a folder of them as [`ParquetFiles`], and a `.csv` file as a [`CsvList`].
///
/// # Errors
/// [`SourceError`] if the path is none of these, cannot be read, is damaged, or holds no images.
pub fn open_source(path: &Path) -> Result<Box<dyn ImageSource>, SourceError> {
    open_with(path, CaptionColumn::Ignore, &FieldNames::default())
}

/// Like [`open_source`], but also reads the captions of the samples.
///
/// # Errors
/// The errors of [`open_source`]; [`SourceError::NoCaptions`] if there are no captions.
pub fn open_captioned(path: &Path) -> Result<Box<dyn ImageSource>, SourceError> {
    open_with(path, CaptionColumn::Read, &FieldNames::default())
}

/// Opens the images at `path`, with captions if requested, and takes images, labels and captions from the fields that
/// are named in `fields`.
///
/// # Errors
/// The errors of [`open_source`] and [`open_captioned`]; the source's own error if it has no such field.
pub fn open_with(
    path: &Path,
    captions: CaptionColumn,
    fields: &FieldNames,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return open_missing(path, error, captions, fields),
    };
    if metadata.is_dir() {
        return open_folder(path, captions, fields);
    }
    let name = names::file_name(path);
    if archive::is_archive(&name) {
        Ok(Box::new(TarArchives::open(path, captions, fields)?))
    } else if parquet::is_parquet(&name) {
        foreign::require_content(path)?;
        Ok(Box::new(ParquetFiles::open(path, captions, fields)?))
    } else if csv_list::is_list(&name) {
        foreign::require_content(path)?;
        Ok(Box::new(CsvList::open(path, captions, fields)?))
    } else {
        match foreign::of_file(path).map_err(|error| SourceError::io(path, error))? {
            Some(foreign) => Err(foreign.refuse(path)),
            None => Err(SourceError::Kind { path: path.to_owned() }),
        }
    }
}

/// Opens a range of files, such as `shards-{000..127}.tar`. Any other path that is not there is an error.
fn open_missing(
    path: &Path,
    error: io::Error,
    captions: CaptionColumn,
    fields: &FieldNames,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let Some(paths) = ranges::expand(path) else {
        return Err(match foreign::of_missing(path) {
            Some(foreign) => foreign.refuse(path),
            None => SourceError::io(path, error),
        });
    };
    let missing: Vec<PathBuf> = paths.iter().filter(|path| !path.exists()).cloned().collect();
    if !missing.is_empty() {
        return Err(SourceError::MissingFiles { path: path.to_owned(), missing, of: paths.len() });
    }
    let all = |belongs: fn(&str) -> bool| paths.iter().all(|path| belongs(&names::file_name(path)));
    if all(archive::is_archive) {
        Ok(Box::new(TarArchives::open_all(path, paths, captions, fields)?))
    } else if all(parquet::is_parquet) {
        paths.iter().try_for_each(|path| foreign::require_content(path))?;
        Ok(Box::new(ParquetFiles::open_all(path, paths, captions, fields)?))
    } else {
        Err(SourceError::Kind { path: path.to_owned() })
    }
}

fn open_folder(
    path: &Path,
    captions: CaptionColumn,
    fields: &FieldNames,
) -> Result<Box<dyn ImageSource>, SourceError> {
    if let Some(foreign) = foreign::of_folder(path) {
        return Err(foreign.refuse(path));
    }
    // Archives are checked first: a Parquet file beside archives describes them.
    let set = archive::archives_of(path)?;
    if !set.paths.is_empty() {
        return Ok(Box::new(TarArchives::open_set(path, set, captions, fields)?));
    }
    let tables = parquet::tables_of(path)?;
    if !tables.is_empty() {
        tables.iter().try_for_each(|table| foreign::require_content(table))?;
        return Ok(Box::new(ParquetFiles::open_all(path, tables, captions, fields)?));
    }
    if let Some(list) = CsvList::of_folder(path, captions, fields)? {
        return Ok(Box::new(list));
    }
    Ok(Box::new(ImageFolder::open(path, captions, fields)?))
}
