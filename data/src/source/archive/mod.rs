//! TAR archives, read in place: a single archive or a folder of archives, the layout of WebDataset shards.
//!
//! - Samples are the members with an image file name, in the order of the archives, so reading is sequential. The
//!   archives of a folder are sorted bytewise by name.
//! - The packed folder is the deepest folder that contains all images and all folders with a member of their own, as
//!   `tar` writes them.
//! - The key is the member's path below the packed folder, so an archive of a folder has the keys and classes of that
//!   folder. In a folder of archives, the key is the archive's name and the member's full path, so adding archives does
//!   not change keys.
//! - Labels are the numbers in `.cls` files beside the images, if there are any. Otherwise the class is the first
//!   folder below the packed one, as in a folder of images.
//! - Captions are the texts in `.txt` files beside the images. They are read only if the source is opened for captions.
//!   Images without a caption are then rejected.
//! - A file is beside an image if their names are equal up to the first dot. Names that start with a dot are skipped.
//! - An archive must be complete, from its first header to its end mark. Nothing else would reveal that a shard was
//!   truncated.

mod error;
mod scan;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::scan::{Extent, Scan, stem};
use super::{
    CaptionColumn, Captions, FieldNames, ImageSource, Listing, Rejected, Sample, SourceError, names,
};
use crate::open_files::OpenFiles;
use crate::positioned::read_exact_at;

pub use error::{ArchiveError, ArchiveProblem};

/// Maximum number of archives that are open at a time.
const OPEN_ARCHIVES: usize = 128;

/// An image, which is a member of one of the archives.
#[derive(Debug, Clone, Copy)]
struct Member {
    archive: usize,
    extent: Extent,
}

/// The images of a TAR archive or of a folder of archives.
#[derive(Debug)]
pub struct TarArchives {
    root: PathBuf,
    paths: Vec<PathBuf>,
    files: OpenFiles,
    listing: Listing,
    /// Member that holds each sample.
    members: Vec<Member>,
}

/// Whether `name` is the file name of a TAR archive.
pub(super) fn is_archive(name: &str) -> bool {
    names::extension(name) == "tar"
}

/// Whether `name` is the file name of an archive that cannot be read in place.
fn is_compressed(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains(".tar.") || [".tgz", ".tbz2", ".txz", ".tzst"].iter().any(|end| name.ends_with(end))
}

/// The archives of a folder that is a set of archives. Empty for any other folder.
///
/// # Errors
/// [`SourceError`] if the folder cannot be read or an archive cannot be read in place.
pub(super) fn archives_of(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let archives = names::set_of(folder, |name| is_archive(name) || is_compressed(name));
    let archives = archives.map_err(|error| SourceError::io(folder, error))?;
    match archives.iter().find(|path| !is_archive(&names::file_name(path))) {
        Some(path) => Err(ArchiveError::unusable(path, ArchiveProblem::Compressed).into()),
        None => Ok(archives),
    }
}

impl TarArchives {
    /// Lists one archive.
    ///
    /// # Errors
    /// [`SourceError`] if the archive cannot be read, is damaged, holds no images, or lacks the requested captions.
    pub fn open(path: &Path, captions: CaptionColumn, fields: &FieldNames) -> Result<Self, SourceError> {
        Self::list(path, vec![path.to_owned()], false, captions, fields)
    }

    /// Lists the archives `paths` of a folder.
    ///
    /// # Errors
    /// The errors of [`TarArchives::open`].
    pub(super) fn open_all(
        folder: &Path,
        paths: Vec<PathBuf>,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, SourceError> {
        Self::list(folder, paths, true, captions, fields)
    }

    /// Lists the archives `paths`. `root` is the path that the user gave; `several` is whether it is a folder of
    /// archives.
    fn list(
        root: &Path,
        paths: Vec<PathBuf>,
        several: bool,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, SourceError> {
        let captions = captions == CaptionColumn::Read;
        // All archives are scanned before the first error is returned, so the error does not depend on thread timing.
        let scans: Vec<Result<Scan, ArchiveError>> =
            paths.par_iter().map(|path| scan::scan(path, captions)).collect();
        let scans = scans.into_iter().collect::<Result<Vec<Scan>, _>>()?;
        if scans.iter().all(|scan| scan.images.is_empty()) {
            let hint = "samples are the members whose names end as images' do, .jpg or .png for example";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        }
        let packed = packed_folder(&scans);
        let mut found = Found { captions, packed, several, ..Found::default() };
        for (archive, (path, scan)) in paths.iter().zip(scans).enumerate() {
            found.add(archive, path, scan);
        }
        if captions && found.texts.is_empty() {
            return Err(SourceError::NoCaptions { path: root.to_owned() });
        }
        Ok(found.finish(root, paths, fields))
    }
}

impl ImageSource for TarArchives {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let Sample { key, .. } = self.listing.sample(index)?;
        let Member { archive, extent } = self.members[index];
        let path = &self.paths[archive];
        if extent.size > max_bytes {
            return Err(SourceError::TooManyBytes { path: self.root.join(key), limit: max_bytes });
        }
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(extent.size).unwrap_or(usize::MAX)];
            read_exact_at(&*self.files.get(archive, path)?, &mut bytes, extent.offset)?;
            Ok(bytes)
        };
        let read = read().map_err(|error| {
            let shorter = error.kind() == io::ErrorKind::UnexpectedEof;
            let what = || format!("it is shorter than when it was listed, and ends before {key} does");
            ArchiveError::io(path, if shorter { io::Error::other(what()) } else { error })
        });
        Ok(read?)
    }
}

/// The contents of the archives scanned so far.
#[derive(Default)]
struct Found {
    /// Whether captions are read.
    captions: bool,
    /// Length of the packed folder's path.
    packed: usize,
    /// Whether keys begin with the archive's name.
    several: bool,
    /// Whether there are labels or captions beside images.
    labeled: bool,
    captioned: bool,
    samples: Vec<Sample>,
    members: Vec<Member>,
    /// Folders directly below the packed folder.
    classes: BTreeSet<String>,
    texts: Vec<String>,
    rejected: Vec<Rejected>,
    unknown: Option<(usize, String)>,
}

impl Found {
    /// Adds the contents of archive number `archive`, which is at `path`.
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
            self.members.push(Member { archive, extent });
        }
        let below = scan.folders.iter().filter_map(|folder| folder.get(packed..)?.split_once('/'));
        self.classes.extend(below.map(|(class, _)| class.to_owned()));
        let rejected = scan.rejected.into_iter();
        self.rejected.extend(rejected.map(|reject| Rejected { key: key(&reject.key), ..reject }));
        if let Some((count, first)) = scan.unknown {
            self.unknown.get_or_insert_with(|| (0, key(&first))).0 += count;
        }
    }

    fn finish(mut self, root: &Path, paths: Vec<PathBuf>, fields: &FieldNames) -> TarArchives {
        let mut classes = Vec::new();
        if !self.labeled {
            let names: Vec<String> = self.classes.into_iter().collect();
            let numbers: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
            for (sample, member) in self.samples.iter_mut().zip(&self.members) {
                let archive = paths[member.archive].file_name().filter(|_| self.several);
                let above = archive.map_or(0, |name| name.to_string_lossy().len() + 1 + self.packed);
                let class = sample.key.get(above..).and_then(|name| name.split_once('/'));
                sample.label = class.and_then(|(class, _)| numbers.get(class).copied());
            }
            classes = names;
        }
        let passed_over = self.unknown.map(|(count, first)| {
            format!(
                "{count} members are neither images nor labels or captions beside them; the first is {first}"
            )
        });
        let mut listing = Listing {
            samples: self.samples,
            rejected: self.rejected,
            captions: self.captions.then_some(Captions::Texts(self.texts)),
            ignores_captions: self.captioned && !self.captions,
            notes: passed_over.into_iter().collect(),
            fields: fields.clone(),
            ..Listing::default()
        };
        listing.set_classes(classes);
        let (root, files) = (root.to_owned(), OpenFiles::new(OPEN_ARCHIVES));
        TarArchives { root, files, paths, listing, members: self.members }
    }
}

/// Length of the path, including its trailing slash, of the deepest folder that contains all images and all folders
/// with a member of their own.
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
