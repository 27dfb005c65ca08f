//! A folder of class folders, like torchvision's `ImageFolder`.
//!
//! - The class of a file is the first folder of its path; files may be at any depth below it. Classes are the
//!   first-level folders in bytewise order of their names, including empty ones, so labels do not depend on which files
//!   are present. Folders named `0`, `1`, `2`… are the classes of these numbers.
//! - A folder without subfolders is a flat set without labels. Files beside class folders have no label.
//! - Samples are sorted bytewise by key. Every file is a sample, whatever its name. Checking the content during listing
//!   would cost a read per file, so a file that is not an image is rejected when it is decoded.
//! - Names that start with a dot are skipped.
//! - Symbolic links are followed. A folder that contains a link to itself is entered once, and the link is rejected.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{ImageSource, Listing, Rejected, Sample, SourceError, is_fault_of_file, read_sample};

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
    /// [`SourceError::Io`] if the folder cannot be read; [`SourceError::NoImages`] if it holds no files.
    pub fn open(root: &Path) -> Result<Self, SourceError> {
        let mut walk = Walk::default();
        let chain = vec![fs::canonicalize(root).map_err(|error| SourceError::io(root, error))?];
        let entries = visible_entries(root).map_err(|error| SourceError::io(root, error))?;
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for name in entries {
            if is_folder(&root.join(&name))? { folders.push(name) } else { files.push(name) }
        }
        for name in files {
            walk.visit(&root.join(&name), name, None, &chain)?;
        }
        let mut classes = Vec::new();
        for name in folders {
            match name.into_string() {
                Ok(name) => {
                    let label = u32::try_from(classes.len()).ok();
                    walk.visit(&root.join(&name), OsString::from(&name), label, &chain)?;
                    classes.push(name);
                }
                Err(name) => walk.reject(&name, "not-utf8", "the name is not UTF-8"),
            }
        }
        let Walk { mut samples, mut rejected } = walk;
        if samples.is_empty() {
            let hint = "expected FOLDER/class/image files, or image files directly in the folder";
            return Err(SourceError::NoImages { path: root.to_owned(), hint });
        }
        samples.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        rejected.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut listing = Listing { samples, rejected, ..Listing::default() };
        listing.set_classes(classes);
        Ok(Self { root: root.to_owned(), listing })
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
    samples: Vec<Sample>,
    rejected: Vec<Rejected>,
}

impl Walk {
    /// Adds the file or folder at `path` with key `key`. `chain` holds the canonical paths of the folders above it.
    fn visit(
        &mut self,
        path: &Path,
        key: OsString,
        label: Option<u32>,
        chain: &[PathBuf],
    ) -> Result<(), SourceError> {
        // `metadata` follows links, so a dangling link is an error here.
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return self.unreadable(path, &key, error),
        };
        if metadata.is_dir() {
            return self.enter(path, &key, label, chain);
        }
        if !metadata.is_file() {
            self.reject(&key, "not-a-file", "neither a file nor a folder");
            return Ok(());
        }
        match key.into_string() {
            Ok(key) => self.samples.push(Sample { key, label }),
            Err(key) => self.reject(&key, "not-utf8", "the name is not UTF-8"),
        }
        Ok(())
    }

    /// Rejects an entry that cannot be read. If the storage is at fault, the whole listing fails, because omitting a
    /// folder would drop its class.
    fn unreadable(&mut self, path: &Path, key: &OsString, error: io::Error) -> Result<(), SourceError> {
        if !is_fault_of_file(&error) {
            return Err(SourceError::io(path, error));
        }
        self.reject(key, "unreadable", &error.to_string());
        Ok(())
    }

    fn enter(
        &mut self,
        path: &Path,
        key: &OsString,
        label: Option<u32>,
        chain: &[PathBuf],
    ) -> Result<(), SourceError> {
        let canonical = match fs::canonicalize(path) {
            Ok(canonical) => canonical,
            Err(error) => return self.unreadable(path, key, error),
        };
        if chain.contains(&canonical) {
            self.reject(key, "link-cycle", "the link leads to a folder that contains it");
            return Ok(());
        }
        if chain.len() > MAX_DEPTH {
            self.reject(key, "too-deep", "folders are nested too deeply");
            return Ok(());
        }
        let names = match visible_entries(path) {
            Ok(names) => names,
            Err(error) => return self.unreadable(path, key, error),
        };
        let mut chain = chain.to_vec();
        chain.push(canonical);
        for name in names {
            let mut child = key.clone();
            child.push("/");
            child.push(&name);
            self.visit(&path.join(name), child, label, &chain)?;
        }
        Ok(())
    }

    fn reject(&mut self, key: &OsString, reason: &'static str, detail: &str) {
        let key = key.to_string_lossy().into_owned();
        self.rejected.push(Rejected { key, reason, detail: detail.to_owned() });
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

/// The names in a folder in bytewise order, without hidden names.
fn visible_entries(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
