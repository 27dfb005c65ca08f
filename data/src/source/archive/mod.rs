//! TAR archives, which are read in place: one, or a folder of them as WebDataset has its shards.
//!
//! - Samples are the members with an image's name, in the archives' order, so that they are read one after the other. Archives of a
//!   folder are taken in bytewise order of their names.
//! - The packed folder is the deepest one that holds all images and all folders that have a member of their own, as `tar` writes them.
//! - The key is the member's path below the packed folder: an archive of a folder has the keys and the classes of that folder. In a folder
//!   of archives it is the archive's name and the member's whole path, so that it stays when archives are added.
//! - Labels are the numbers in `.cls` files beside the images where there are any, else the class is the first folder below the packed one,
//!   as in a folder of images.
//! - Captions are the texts in `.txt` files beside the images, read only where the source is opened for them. An image without one is then
//!   rejected.
//! - Beside an image is what has its name up to the first dot. Names that start with a dot are skipped.
//! - An archive must be whole, from its first header to the mark at its end: a shard that was cut would be missed by nobody.

mod scan;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::scan::{Extent, Scan, stem};
use super::{CaptionColumn, Captions, ImageSource, Rejected, Sample, SourceError, names};
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
    /// By its name, compressed or not finished.
    #[error("not an archive that can be read in place\nhint: decompress it, or finish its download")]
    Compressed,
    /// Not TAR after some members.
    #[error("damaged: {0}\nhint: copy the archive again")]
    Damaged(String),
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
    /// The file ends without the blocks of zeros that end an archive.
    #[error("its {len} bytes end without an end mark\nhint: it was cut; copy it again")]
    NoEnd {
        /// Length of the archive.
        len: u64,
    },
    /// Something stands behind the end of the archive.
    #[error(
        "there is more behind its end mark, at byte {at}\nhint: give archives as files of a folder, not one behind the other"
    )]
    Trailing {
        /// The first byte.
        at: u64,
    },
    /// Two members of one name.
    #[error("{member} is in it twice\nhint: make the archive anew, without appending to it")]
    Duplicate {
        /// The member.
        member: String,
    },
    /// A `.cls` file that holds no class number.
    #[error(
        "{member}: expected a class number from 0, got {got:?}\nhint: classes by name are folders in the archive"
    )]
    Label {
        /// The member.
        member: String,
        /// What it holds.
        got: String,
    },
}

/// Where an image lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    archive: usize,
    extent: Extent,
}

/// Listed archives.
#[derive(Debug)]
pub struct TarArchives {
    root: PathBuf,
    paths: Vec<PathBuf>,
    files: OpenFiles,
    samples: Vec<Sample>,
    places: Vec<Place>,
    class_names: Option<Vec<String>>,
    captions: Option<Captions>,
    ignores_captions: bool,
    rejected: Vec<Rejected>,
    passed_over: Option<String>,
}

/// Whether a file's name says that it is a TAR archive.
pub(super) fn is_archive(name: &str) -> bool {
    names::extension(name) == "tar"
}

/// Whether a file's name says that it is an archive that cannot be read in place.
fn is_compressed(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains(".tar.") || [".tgz", ".tbz2", ".txz", ".tzst"].iter().any(|end| name.ends_with(end))
}

/// The archives of a folder that is a set of them, none for another folder.
///
/// # Errors
/// A folder that cannot be read, or an archive that cannot be read in place.
pub(super) fn archives_of(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let archives = names::set_of(folder, |name| is_archive(name) || is_compressed(name));
    let archives = archives.map_err(|error| SourceError::io(folder, error))?;
    match archives.iter().find(|path| !is_archive(&names::file_name(path))) {
        Some(path) => Err(SourceError::Archive { path: path.clone(), problem: ArchiveProblem::Compressed }),
        None => Ok(archives),
    }
}

impl TarArchives {
    /// Lists one archive.
    ///
    /// # Errors
    /// [`SourceError`] where it cannot be read, is damaged, holds no image, or lacks the captions that are to be read.
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

    /// `root`: what the user named; `several`: whether that is a folder of archives.
    fn list(
        root: &Path,
        paths: Vec<PathBuf>,
        several: bool,
        captions: CaptionColumn,
    ) -> Result<Self, SourceError> {
        let captions = captions == CaptionColumn::Read;
        // All of them, and then the first error: which one is told must not depend on threads.
        let scans: Vec<Result<Scan, SourceError>> =
            paths.par_iter().map(|path| scan::scan(path, captions)).collect();
        let scans = scans.into_iter().collect::<Result<Vec<Scan>, _>>()?;
        if scans.iter().all(|scan| scan.images.is_empty()) {
            let hint = "samples are the members whose names end as images' do, .jpg or .png for example";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        }
        let packed = packed_folder(&scans);
        let mut listing = Listing { captions, packed, several, ..Listing::default() };
        for (archive, (path, scan)) in paths.iter().zip(scans).enumerate() {
            listing.add(archive, path, scan);
        }
        if captions && listing.texts.is_empty() {
            return Err(SourceError::NoCaptions { path: root.to_owned() });
        }
        Ok(listing.finish(root, paths))
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
        let Place { archive, extent } =
            *self.places.get(index).ok_or(SourceError::Index { index, samples })?;
        let (path, key) = (&self.paths[archive], &self.samples[index].key);
        if extent.size > max_bytes {
            return Err(SourceError::TooManyBytes { path: self.root.join(key), limit: max_bytes });
        }
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(extent.size).unwrap_or(usize::MAX)];
            read_exact_at(&*self.files.get(archive, path)?, &mut bytes, extent.offset)?;
            Ok(bytes)
        };
        read().map_err(|error| {
            let shorter = error.kind() == io::ErrorKind::UnexpectedEof;
            let what = || format!("it is shorter than when it was listed, and ends before {key} does");
            SourceError::archive_io(path, if shorter { io::Error::other(what()) } else { error })
        })
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

/// Samples as they are found.
#[derive(Default)]
struct Listing {
    /// Whether captions are read.
    captions: bool,
    /// Length of the packed folder's name.
    packed: usize,
    /// Whether keys begin with the archive's name.
    several: bool,
    /// Whether there are labels and captions beside images.
    labeled: bool,
    captioned: bool,
    samples: Vec<Sample>,
    places: Vec<Place>,
    /// Folders right below the packed one.
    classes: BTreeSet<String>,
    texts: Vec<String>,
    rejected: Vec<Rejected>,
    unknown: Option<(usize, String)>,
}

impl Listing {
    /// Adds what was found in archive number `archive`, the one at `path`.
    fn add(&mut self, archive: usize, path: &Path, scan: Scan) {
        let (packed, several) = (self.packed, self.several);
        let archive_name = names::file_name(path);
        let key = |name: &str| match several {
            true => format!("{archive_name}/{name}"),
            false => name.get(packed..).unwrap_or(name).to_owned(),
        };
        for (name, extent) in scan.images {
            let beside = scan.beside.get(stem(&name));
            let (label, text) =
                beside.map_or((None, None), |beside| (beside.label, beside.caption.as_deref()));
            let (key, class) = (key(&name), name[packed..].split_once('/'));
            self.captioned |= text.is_some();
            if self.captions {
                match scan::caption(text) {
                    Ok(text) => self.texts.push(text.to_owned()),
                    Err(detail) => {
                        self.rejected.push(Rejected { key, reason: "no-caption", detail: detail.to_owned() });
                        continue;
                    }
                }
            }
            self.labeled |= label.is_some();
            if let Some((class, _)) = class.filter(|(class, _)| !self.classes.contains(*class)) {
                self.classes.insert(class.to_owned());
            }
            self.samples.push(Sample { key, label });
            self.places.push(Place { archive, extent });
        }
        let below = scan.folders.iter().filter_map(|folder| folder.get(packed..)?.split_once('/'));
        self.classes.extend(below.map(|(class, _)| class.to_owned()));
        let rejected = scan.rejected.into_iter();
        self.rejected.extend(rejected.map(|reject| Rejected { key: key(&reject.key), ..reject }));
        if let Some((count, first)) = scan.unknown {
            self.unknown.get_or_insert_with(|| (0, key(&first))).0 += count;
        }
    }

    fn finish(mut self, root: &Path, paths: Vec<PathBuf>) -> TarArchives {
        let mut class_names = None;
        if !self.labeled {
            let names: Vec<String> = self.classes.into_iter().collect();
            let numbers: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
            for (sample, place) in self.samples.iter_mut().zip(&self.places) {
                let archive = paths[place.archive].file_name().filter(|_| self.several);
                let above = archive.map_or(0, |name| name.to_string_lossy().len() + 1 + self.packed);
                let class = sample.key.get(above..).and_then(|name| name.split_once('/'));
                sample.label = class.and_then(|(class, _)| numbers.get(class).copied());
            }
            class_names = Some(names).filter(|names| !names.is_empty());
        }
        let passed_over = self.unknown.map(|(count, first)| {
            format!(
                "{count} members are neither images nor labels or captions beside them; the first is {first}"
            )
        });
        TarArchives {
            root: root.to_owned(),
            files: OpenFiles::new(OPEN_ARCHIVES),
            paths,
            samples: self.samples,
            places: self.places,
            class_names,
            captions: self.captions.then_some(Captions::Texts(self.texts)),
            ignores_captions: self.captioned && !self.captions,
            rejected: self.rejected,
            passed_over,
        }
    }
}

/// Length of the name, with the slash behind it, of the deepest folder that holds all images and all folders with a member of their own.
fn packed_folder(scans: &[Scan]) -> usize {
    let images = scans.iter().flat_map(|scan| &scan.images).map(|(name, _)| name);
    let mut names = images.chain(scans.iter().flat_map(|scan| &scan.folders));
    let Some(first) = names.next() else { return 0 };
    let folder = |name: &[u8]| name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let first = first.as_bytes();
    names.fold(folder(first), |shared, name| {
        let same = first[..shared].iter().zip(name.as_bytes()).take_while(|(a, b)| a == b).count();
        folder(&first[..same])
    })
}
