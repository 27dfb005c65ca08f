//! A folder of class folders, like torchvision's `ImageFolder`.
//!
//! - The class of a file is the first folder of its path; files may be at any depth below it. Classes are the
//!   first-level folders in bytewise order of their names, including empty ones, so labels do not depend on which files
//!   are present. Folders named `0`, `1`, `2`… are the classes of these numbers.
//! - A folder without subfolders is a flat set without labels. Files beside class folders have no label.
//! - Samples are sorted bytewise by key. Every file is a sample, unless its name is that of another kind of file. Checking
//!   the content during listing would cost a read per file, so a file that is not an image is rejected when it is decoded.
//! - Labels and captions in files beside the images are read as in archives (see `fields`). With class folders,
//!   descriptions (`.json`) are opened only if captions or a field are asked for.
//! - Files of systems, hidden files and files of other kinds are counted and left aside. A first-level folder that holds
//!   such files and no images is no class.
//! - Symbolic links are followed. A folder that contains a link to itself is entered once, and the link is rejected.
//! - A folder that cannot be listed ends the listing: how many images it holds is unknown. So does an entry that may be such
//!   a folder, because it cannot be examined and is not named like an image. A single file that cannot be read is rejected.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::assemble::{Assembled, Keys, Part, assemble};
use super::fields::{Added, Wanted};
use super::{
    CaptionColumn, FieldNames, ImageSource, Listing, Rejected, SourceError, archive, clutter, foreign,
    is_fault_of_file, names, read_sample,
};
use crate::ordinary;

/// Maximum depth below the root.
const MAX_DEPTH: usize = 64;

/// The images of a folder.
#[derive(Debug)]
pub struct ImageFolder {
    root: PathBuf,
    listing: Listing,
}

impl ImageFolder {
    /// Lists the files below `root`.
    ///
    /// # Errors
    /// [`SourceError::Io`] if the folder cannot be read; [`SourceError::Unlisted`] if one below cannot;
    /// [`SourceError::NoImages`] if it holds no files that may be images,
    /// or [`SourceError::Foreign`] if it holds files of another format; [`SourceError::NoCaptions`] and
    /// [`SourceError::NoField`] if it lacks what is asked for.
    pub fn open(root: &Path, captions: CaptionColumn, fields: &FieldNames) -> Result<Self, SourceError> {
        let wanted = Wanted::new(captions == CaptionColumn::Read, fields);
        let mut walk = Walk { wanted, ..Walk::default() };
        let chain = vec![fs::canonicalize(root).map_err(|error| SourceError::io(root, error))?];
        let entries = walk.visible_entries(root).map_err(|error| SourceError::io(root, error))?;
        walk.part.folders.insert(String::new());
        for name in entries {
            let path = root.join(&name);
            if is_folder(&path)? {
                // Each file in a folder whose name is not UTF-8 is rejected below.
                walk.part.folders.extend(name.to_str().map(|name| format!("{name}/")));
            }
            walk.visit(&path, name, &chain)?;
        }
        walk.finish(root)
    }
}

impl ImageSource for ImageFolder {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        read_sample(&self.root, &self.listing, index, max_bytes)
    }
}

/// The files found so far.
#[derive(Default)]
struct Walk {
    wanted: Wanted,
    part: Part<()>,
    /// Names of the files beside images.
    beside: Vec<String>,
    /// The first archive, and the first file of another format.
    archive: Option<PathBuf>,
    foreign: Option<(PathBuf, foreign::Foreign)>,
}

impl Walk {
    /// Adds the file or folder at `path` with key `key`. `chain` holds the canonical paths of the folders above it.
    fn visit(&mut self, path: &Path, key: OsString, chain: &[PathBuf]) -> Result<(), SourceError> {
        // `metadata` follows links, so a dangling link is an error here.
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return self.unexamined(path, &key, error),
        };
        if metadata.is_dir() {
            return self.enter(path, &key, chain);
        }
        if !metadata.is_file() {
            self.reject(&key, "not-a-file", "neither a file nor a folder");
            return Ok(());
        }
        match key.into_string() {
            Ok(key) => self.add(path, key),
            Err(key) => self.reject(&key, "not-utf8", "the name is not UTF-8"),
        }
        Ok(())
    }

    /// Adds a file by its name.
    fn add(&mut self, path: &Path, key: String) {
        let name = names::file_name(path);
        if let Some(folder) = key.strip_suffix("_stats.json") {
            self.part.shards.insert(folder.to_owned());
        }
        if names::is_image(&name) {
            self.part.images.push((key, ()));
        } else if self.wanted.bytes(&key).is_some() {
            self.beside.push(key);
        } else if names::is_index(&name) {
            self.part.leave_aside(&key);
        } else if archive::is_archive(&name) {
            self.archive.get_or_insert_with(|| path.to_owned());
            self.part.leave_aside(&key);
        } else if let Some(foreign) = foreign::of_name(&name) {
            self.foreign.get_or_insert_with(|| (path.to_owned(), foreign));
            self.part.leave_aside(&key);
        } else {
            self.part.images.push((key, ()));
        }
    }

    /// Reads the files beside images and assembles the listing.
    fn finish(mut self, root: &Path) -> Result<ImageFolder, SourceError> {
        if self.part.images.is_empty() {
            return Err(self.no_images(root));
        }
        self.part.images.sort_unstable();
        self.part.rejected.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let classes = self.part.folders.iter().filter(|folder| !folder.is_empty());
        let classes =
            classes.filter(|folder| !self.part.shards.contains(folder.trim_end_matches('/'))).count();
        let describes = classes == 0 || self.wanted.captions || self.wanted.fields.label.is_some();
        for key in std::mem::take(&mut self.beside) {
            if !describes && self.wanted.is_description(&key) {
                self.part.leave_aside(&key);
                continue;
            }
            let path = root.join(&key);
            let read = || -> io::Result<Vec<u8>> {
                let mut content = Vec::new();
                match self.wanted.bytes(&key) {
                    Some(bytes) if bytes > 0 => {
                        ordinary::open(&path)?.take(bytes as u64 + 1).read_to_end(&mut content)?
                    }
                    _ => 0,
                };
                Ok(content)
            };
            let content = read().map_err(|error| SourceError::io(&path, error))?;
            match self.part.beside.add(&key, &content, &self.wanted) {
                Ok(Added::New) => {}
                Ok(Added::Again | Added::Aside) => self.part.leave_aside(&key),
                Err(fault) => return Err(SourceError::Label { path, fault }),
            }
        }
        let Assembled { listing, .. } = assemble(root, vec![self.part], &Keys::Packed, &self.wanted)?;
        Ok(ImageFolder { root: root.to_owned(), listing })
    }

    /// The error for a folder without images: what it holds instead.
    fn no_images(self, root: &Path) -> SourceError {
        if let Some(first) = self.archive {
            return SourceError::ArchivesAmong { path: root.to_owned(), first };
        }
        if let Some((path, foreign)) = self.foreign {
            return foreign.refuse(&path);
        }
        let hint = "expected FOLDER/class/image files, or image files directly in the folder";
        SourceError::NoImages { path: root.to_owned(), hint }
    }

    /// Rejects an entry that cannot be examined, such as a dangling link, if it is named like an image. The listing fails
    /// if the storage is at fault, or if the entry may be a folder, the images of which would be lost.
    fn unexamined(&mut self, path: &Path, key: &OsString, error: io::Error) -> Result<(), SourceError> {
        if !is_fault_of_file(&error) {
            return Err(SourceError::io(path, error));
        }
        // Without the right to search a folder, none of its entries can be examined.
        if error.kind() == io::ErrorKind::PermissionDenied {
            let folder = path.parent().filter(|_| !path.is_symlink()).unwrap_or(path);
            return Err(SourceError::Unlisted { path: folder.to_owned(), source: error });
        }
        if !names::is_image(&names::file_name(path)) {
            return Err(SourceError::Unlisted { path: path.to_owned(), source: error });
        }
        self.reject(key, "unreadable", &error.to_string());
        Ok(())
    }

    fn enter(&mut self, path: &Path, key: &OsString, chain: &[PathBuf]) -> Result<(), SourceError> {
        let unlisted = |source| SourceError::Unlisted { path: path.to_owned(), source };
        let canonical = fs::canonicalize(path).map_err(unlisted)?;
        if chain.contains(&canonical) {
            self.reject(key, "link-cycle", "a link to a folder that contains it");
            return Ok(());
        }
        if chain.len() > MAX_DEPTH {
            return Err(unlisted(io::Error::other(format!("it is more than {MAX_DEPTH} folders deep"))));
        }
        let names = self.visible_entries(path).map_err(unlisted)?;
        let mut chain = chain.to_vec();
        chain.push(canonical);
        for name in names {
            let mut child = key.clone();
            child.push("/");
            child.push(&name);
            self.visit(&path.join(name), child, &chain)?;
        }
        Ok(())
    }

    /// The names in a folder in bytewise order, without those of hidden and system files, which are counted.
    fn visible_entries(&mut self, folder: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            match clutter::kind(&name.to_string_lossy()) {
                Some(kind) => self.part.left_aside.add(kind, 1),
                None => names.push(name),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn reject(&mut self, key: &OsString, reason: &'static str, detail: &str) {
        let key = key.to_string_lossy().into_owned();
        self.part.rejected.push(Rejected { key, reason, detail: detail.to_owned() });
    }
}

/// Whether `path` is a folder. Follows links.
fn is_folder(path: &Path) -> Result<bool, SourceError> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if is_fault_of_file(&error) => Ok(false),
        Err(error) => Err(SourceError::io(path, error)),
    }
}
