//! TAR archives, which are read in place: one, or a folder of them as WebDataset has its shards.
//!
//! - Samples are the members with an image's name, in the archives' order, so that they are read one after the other. Archives of a
//!   folder are taken in bytewise order of their names; what else lies in that folder is passed over.
//! - The key is the member's path below the folder that all images share, with the archive's name in front where there are several: an
//!   archive of a folder has the keys of that folder.
//! - Labels are the numbers in `.cls` files beside the images where there are any, else the class is the first folder on the way, as in a
//!   folder of images.
//! - Captions are the texts in `.txt` files beside the images, read only where the source is opened for them.
//! - Beside an image is what has its name up to the first dot. Names that start with a dot are skipped.

mod scan;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rayon::prelude::*;

use self::scan::{Scan, stem};
use super::{CaptionColumn, Captions, ImageSource, Rejected, Sample, SourceError};
use crate::open_files::OpenFiles;
use crate::positioned::read_exact_at;

/// Archives that are open at a time.
const OPEN_ARCHIVES: usize = 128;

/// What can be wrong with a TAR archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveProblem {
    /// Not TAR.
    #[error(
        "not a TAR archive: {0}\nhint: archives are read in place; if this one is compressed, decompress it"
    )]
    Syntax(String),
    /// The file ends before a member.
    #[error("{member} should end at byte {end}, the archive has {len}\nhint: it was cut; copy it again")]
    Cut {
        /// The member.
        member: String,
        /// Where it should end.
        end: u64,
        /// Length of the archive.
        len: u64,
    },
    /// Two members of one name.
    #[error("{member} is in it twice\nhint: make the archive anew, without appending to it")]
    Duplicate {
        /// The member.
        member: String,
    },
    /// A `.cls` file that holds no class number.
    #[error("{member}: expected a class number from 0, got {got:?}")]
    Label {
        /// The member.
        member: String,
        /// What it holds.
        got: String,
    },
    /// An image without a label among others with one.
    #[error("{member} has no .cls beside it, but other images have one\nhint: label every image or none")]
    NoLabel {
        /// The member.
        member: String,
    },
    /// An image without a caption among others with one.
    #[error("{member} has no caption: no .txt stands beside it, or an empty one\nhint: caption every image")]
    NoCaption {
        /// The member.
        member: String,
    },
    /// A caption is not UTF-8.
    #[error("the caption of {member} is not UTF-8")]
    CaptionEncoding {
        /// The member.
        member: String,
    },
}

/// Where an image lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    archive: usize,
    offset: u64,
    size: u64,
}

/// Listed archives.
#[derive(Debug)]
pub struct TarArchives {
    paths: Vec<PathBuf>,
    files: OpenFiles,
    samples: Vec<Sample>,
    places: Vec<Place>,
    class_names: Option<Vec<String>>,
    captions: Option<Captions>,
    ignores_captions: bool,
    rejected: Vec<Rejected>,
}

/// Whether a file's name says that it is a TAR archive.
pub(super) fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
}

/// The archives of a folder that is a set of them: it holds some, and neither folders nor images.
pub(super) fn archives_of(folder: &Path) -> Result<Option<Vec<PathBuf>>, SourceError> {
    let io = |error| SourceError::io(folder, error);
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        // Whether a link leads anywhere is found out when it is opened: what is missing must not go unnoticed.
        if path.is_dir() || scan::is_image(&path.to_string_lossy()) {
            return Ok(None);
        }
        if is_archive(&path) {
            archives.push(path);
        }
    }
    archives.sort_unstable();
    Ok(Some(archives).filter(|archives| !archives.is_empty()))
}

impl TarArchives {
    /// Lists one archive.
    ///
    /// # Errors
    /// [`SourceError`] where it cannot be read, is damaged, holds no image, or lacks labels or captions that others have.
    pub fn open(path: &Path, captions: CaptionColumn) -> Result<Self, SourceError> {
        Self::list(path, vec![path.to_owned()], false, captions)
    }

    /// Lists the archives `paths` of a folder.
    ///
    /// # Errors
    /// As [`TarArchives::open`].
    pub(super) fn open_all(
        folder: &Path,
        paths: Vec<PathBuf>,
        captions: CaptionColumn,
    ) -> Result<Self, SourceError> {
        Self::list(folder, paths, true, captions)
    }

    /// `root`: what the user named; `several`: whether keys begin with the archive's name.
    fn list(
        root: &Path,
        paths: Vec<PathBuf>,
        several: bool,
        captions: CaptionColumn,
    ) -> Result<Self, SourceError> {
        let read_captions = captions == CaptionColumn::Read;
        let scans: Vec<Scan> =
            paths.par_iter().map(|path| scan::scan(path, read_captions)).collect::<Result<_, _>>()?;
        let shared = shared_folder(scans.iter().flat_map(|scan| &scan.images).map(|image| &*image.name));
        let labelled =
            scans.iter().flat_map(|scan| scan.beside.values()).any(|beside| beside.label.is_some());
        let mut listing = Listing { labelled, captions: read_captions, ..Listing::default() };
        for (archive, (path, scan)) in paths.iter().zip(scans).enumerate() {
            let prefix = match path.file_name() {
                Some(name) if several => format!("{}/", name.to_string_lossy()),
                _ => String::new(),
            };
            listing
                .add(archive, &prefix, shared, scan)
                .map_err(|problem| SourceError::Archive { path: path.clone(), problem })?;
        }
        if listing.samples.is_empty() {
            let hint = "samples are the members whose names end as images' do, .jpg or .png";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        }
        if read_captions && !listing.captioned {
            return Err(SourceError::NoCaptions { path: root.to_owned() });
        }
        Ok(listing.finish(paths))
    }
}

impl ImageSource for TarArchives {
    fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let samples = self.samples.len();
        let place = self.places.get(index).ok_or(SourceError::Index { index, samples })?;
        let path = &self.paths[place.archive];
        if place.size > max_bytes {
            let path = path.join(&self.samples[index].key);
            return Err(SourceError::TooManyBytes { path, limit: max_bytes });
        }
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(place.size).unwrap_or(usize::MAX)];
            read_exact_at(&*self.files.get(place.archive, path)?, &mut bytes, place.offset)?;
            Ok(bytes)
        };
        read().map_err(|error| SourceError::archive_io(path, error))
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
}

/// Samples as they are found.
#[derive(Default)]
struct Listing {
    /// Whether labels are those of `.cls` files.
    labelled: bool,
    /// Whether captions are read.
    captions: bool,
    /// Whether there was one.
    captioned: bool,
    samples: Vec<Sample>,
    places: Vec<Place>,
    /// The class folder of each sample.
    folders: Vec<Option<String>>,
    texts: Vec<String>,
    rejected: Vec<Rejected>,
}

impl Listing {
    /// Adds what was found in archive number `archive`. `shared`: bytes of a name that all images share.
    fn add(
        &mut self,
        archive: usize,
        prefix: &str,
        shared: usize,
        mut scan: Scan,
    ) -> Result<(), ArchiveProblem> {
        for image in scan.images {
            let beside = scan.beside.get_mut(stem(&image.name));
            let (label, caption) =
                beside.map_or((None, None), |beside| (beside.label, beside.caption.as_deref()));
            if self.labelled && label.is_none() {
                return Err(ArchiveProblem::NoLabel { member: image.name });
            }
            self.captioned |= caption.is_some();
            if self.captions {
                let member = || image.name.clone();
                let text = std::str::from_utf8(caption.unwrap_or_default())
                    .map_err(|_| ArchiveProblem::CaptionEncoding { member: member() })?;
                match text.trim() {
                    "" => return Err(ArchiveProblem::NoCaption { member: member() }),
                    text => self.texts.push(text.to_owned()),
                }
            }
            let name = &image.name[shared..];
            let folder = name.split_once('/').map(|(folder, _)| folder.to_owned());
            self.folders.push(folder);
            self.samples.push(Sample { key: format!("{prefix}{name}"), label });
            self.places.push(Place { archive, offset: image.offset, size: image.size });
        }
        let rejected = scan.rejected.into_iter();
        self.rejected
            .extend(rejected.map(|reject| Rejected { key: format!("{prefix}{}", reject.key), ..reject }));
        Ok(())
    }

    fn finish(mut self, paths: Vec<PathBuf>) -> TarArchives {
        let classes: BTreeSet<&String> = self.folders.iter().flatten().collect();
        let class_names = (!self.labelled && !classes.is_empty())
            .then(|| classes.into_iter().cloned().collect::<Vec<String>>());
        if let Some(names) = &class_names {
            let numbers: HashMap<&String, u32> = names.iter().zip(0..).collect();
            for (sample, folder) in self.samples.iter_mut().zip(&self.folders) {
                sample.label = folder.as_ref().and_then(|folder| numbers.get(folder)).copied();
            }
        }
        TarArchives {
            files: OpenFiles::new(OPEN_ARCHIVES),
            paths,
            samples: self.samples,
            places: self.places,
            class_names,
            captions: self.captions.then_some(Captions::Texts(self.texts)),
            ignores_captions: self.captioned && !self.captions,
            rejected: self.rejected,
        }
    }
}

/// Length of the folders, with the slash behind them, on the way to every one of `names`.
fn shared_folder<'a>(mut names: impl Iterator<Item = &'a str>) -> usize {
    let folder = |name: &str| name.rfind('/').map_or(0, |slash| slash + 1);
    let Some(first) = names.next() else { return 0 };
    names.fold(folder(first), |shared, name| {
        let same = first[..shared].bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        folder(&first[..same])
    })
}
