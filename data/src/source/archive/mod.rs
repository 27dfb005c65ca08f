//! TAR archives, read in place: a single archive or a folder of archives, the layout of WebDataset shards.
//!
//! - Samples are the members with an image file name, in the order of the archives, so reading is sequential. The
//!   archives of a folder are sorted bytewise by name.
//! - The packed folder is the deepest folder that contains all images and all folders with a member of their own, as
//!   `tar` writes them. A few images above the class folders do not change it.
//! - The key is the member's path below the packed folder, so an archive of a folder has the keys and classes of that
//!   folder. In a folder of archives, the key is the archive's name and the member's full path, so adding archives does
//!   not change keys.
//! - Labels and captions are in files beside the images (see `fields`). Without labels, the class is the first folder
//!   below the packed one, as in a folder of images.
//! - Files of systems, hidden files and all other members are counted and left aside.
//! - An archive must be complete, from its first header to its end mark. Nothing else would reveal that a shard was
//!   truncated.

mod error;
mod scan;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::scan::Extent;
use super::assemble::{Assembled, Keys, assemble};
use super::fields::{Wanted, count_aside};
use super::{
    CaptionColumn, FieldNames, ImageSource, LeftAside, Listing, Sample, SourceError, clutter, foreign, names,
    splits,
};
use crate::open_files::OpenFiles;
use crate::positioned::read_exact_at;

pub use error::{ArchiveError, ArchiveProblem};

/// Maximum number of archives that are open at a time.
const OPEN_ARCHIVES: usize = 128;

/// The images of a TAR archive or of several archives.
#[derive(Debug)]
pub struct TarArchives {
    root: PathBuf,
    paths: Vec<PathBuf>,
    files: OpenFiles,
    listing: Listing,
    /// Number of the archive that holds each sample, and where.
    members: Vec<(usize, Extent)>,
}

/// Whether `name` is the file name of a TAR archive.
pub(super) fn is_archive(name: &str) -> bool {
    names::extension(name) == "tar"
}

/// Whether `name` is the file name of an archive that cannot be read in place.
fn is_compressed(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains(".tar.") || [".tgz", ".tbz", ".tbz2", ".txz", ".tzst"].iter().any(|end| name.ends_with(end))
}

/// The archives of a folder that is a set of archives.
#[derive(Debug, Default)]
pub(super) struct ArchiveSet {
    /// Paths in bytewise order. Empty for a folder that is no set of archives.
    pub paths: Vec<PathBuf>,
    /// The other contents of the folder.
    left_aside: LeftAside,
}

/// The archives of a folder that is a set of archives: it has more archives than files that may be images, and no folder
/// of images.
///
/// # Errors
/// [`SourceError`] if the folder cannot be read, an archive cannot be read in place, or the archives are of several splits.
pub(super) fn archives_of(folder: &Path) -> Result<ArchiveSet, SourceError> {
    let io = |error| SourceError::io(folder, error);
    let (mut set, mut compressed, mut others) = (ArchiveSet::default(), Vec::new(), 0);
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = names::file_name(&path);
        // A dangling link is kept. Opening it fails, so the missing file is detected.
        if let Some(kind) = clutter::kind(&name) {
            set.left_aside.add(kind, 1);
        } else if path.is_dir() {
            if names::holds_images(&path)? {
                return Ok(ArchiveSet::default());
            }
            set.left_aside.add("without images", 1);
        } else if is_archive(&name) {
            set.paths.push(path);
        } else if is_compressed(&name) {
            compressed.push(path);
        } else {
            others += usize::from(!names::is_index(&name));
            count_aside(&mut set.left_aside, &name);
        }
    }
    if set.paths.len() + compressed.len() <= others {
        return Ok(ArchiveSet::default());
    }
    set.paths.sort_unstable();
    if let Some(path) = compressed.iter().min() {
        return Err(match foreign::of_name(&names::file_name(path)) {
            Some(foreign) => foreign.refuse(path),
            None => ArchiveError::unusable(path, ArchiveProblem::Incomplete).into(),
        });
    }
    require_one_split(folder, &set.paths)?;
    Ok(set)
}

/// Fails if the names of archives mark several splits, such as `train-000.tar` and `val-000.tar`.
fn require_one_split(folder: &Path, paths: &[PathBuf]) -> Result<(), SourceError> {
    let names: Vec<String> = paths.iter().map(|path| names::file_name(path)).collect();
    let mut splits: Vec<(&str, &String)> =
        names.iter().filter_map(|name| Some((splits::split_word(name)?, name))).collect();
    splits.sort_unstable();
    splits.dedup_by_key(|(split, _)| *split);
    match splits.len() > 1 {
        true => {
            let splits = splits.into_iter().map(|(_, name)| name.clone()).collect();
            Err(SourceError::Splits { path: folder.to_owned(), splits })
        }
        false => Ok(()),
    }
}

impl TarArchives {
    /// Lists one archive.
    ///
    /// # Errors
    /// [`SourceError`] if the archive cannot be read, is damaged, holds no images, or lacks the requested captions or
    /// fields.
    pub fn open(path: &Path, captions: CaptionColumn, fields: &FieldNames) -> Result<Self, SourceError> {
        Self::list(path, vec![path.to_owned()], None, captions, fields)
    }

    /// Lists the archives `paths`, whose names are part of the keys. `root` is the path that the user gave.
    ///
    /// # Errors
    /// The errors of [`TarArchives::open`].
    pub(super) fn open_all(
        root: &Path,
        paths: Vec<PathBuf>,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, SourceError> {
        let names = names::below_shared_folder(&paths);
        Self::list(root, paths, Some(names), captions, fields)
    }

    /// Lists the archives of a folder.
    ///
    /// # Errors
    /// The errors of [`TarArchives::open`].
    pub(super) fn open_set(
        folder: &Path,
        set: ArchiveSet,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, SourceError> {
        let mut source = Self::open_all(folder, set.paths, captions, fields)?;
        source.listing.left_aside.append(&set.left_aside);
        Ok(source)
    }

    /// Lists the archives `paths`. `names` are the names of several archives in the keys.
    fn list(
        root: &Path,
        paths: Vec<PathBuf>,
        names: Option<Vec<String>>,
        captions: CaptionColumn,
        fields: &FieldNames,
    ) -> Result<Self, SourceError> {
        paths.iter().try_for_each(|path| foreign::require_content(path))?;
        let wanted = Wanted::new(captions == CaptionColumn::Read, fields);
        // All archives are scanned before the first error is returned, so the error does not depend on thread timing.
        let scans: Vec<_> = paths.par_iter().map(|path| scan::scan(path, &wanted)).collect();
        let scans = scans.into_iter().collect::<Result<Vec<_>, _>>()?;
        if scans.iter().all(|scan| scan.images.is_empty()) {
            let hint = "expected members with names of images, such as .jpg or .png";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        }
        let keys = names.as_deref().map_or(Keys::Packed, Keys::Parts);
        let Assembled { listing, places } = assemble(root, scans, &keys, &wanted)?;
        let (root, files) = (root.to_owned(), OpenFiles::new(OPEN_ARCHIVES));
        Ok(Self { root, files, paths, listing, members: places })
    }
}

impl ImageSource for TarArchives {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let Sample { key, .. } = self.listing.sample(index)?;
        let (archive, extent) = self.members[index];
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
            let what = || format!("the archive is shorter than when it was listed and ends before {key}");
            ArchiveError::io(path, if shorter { io::Error::other(what()) } else { error })
        });
        Ok(read?)
    }
}
