//! Files, folders and other sources of images, given one after the other, as one source.

use std::io;
use std::path::{Path, PathBuf};

use lgd_data::ordinary;
use lgd_data::source::{
    CaptionColumn, FieldNames, ImageSource, Listing, Rejected, Sample, SourceError, open_with,
};

/// Images from several arguments, in their order. The key of an image is the path of its argument, followed by the key in
/// that source for all but single files. Class names and labels are left out.
pub struct ImageArguments {
    listing: Listing,
    parts: Vec<Part>,
}

/// The images of one argument.
struct Part {
    /// Number of its first sample.
    first: usize,
    images: Images,
}

enum Images {
    File(PathBuf),
    Source(Box<dyn ImageSource>),
}

impl ImageArguments {
    /// Opens all `paths`: image files, and sources of images as [`open_with`] takes them, with the fields `fields`. A file
    /// that is no list, archive or table is an image, whatever its name. The keys begin with what `named` returns for a path.
    ///
    /// # Errors
    /// The errors of [`open_with`], for the first argument that is not there or cannot be listed.
    pub fn open(
        paths: &[PathBuf],
        fields: &FieldNames,
        named: impl Fn(&Path) -> PathBuf,
    ) -> Result<Self, SourceError> {
        let mut all = Self { listing: Listing::default(), parts: Vec::new() };
        for path in paths {
            match open_with(path, CaptionColumn::Ignore, fields) {
                Ok(source) => all.add_source(&named(path), source),
                // The name says nothing, so the content decides when the image is decoded.
                Err(error) if error.is_one_image() && path.is_file() => all.add_file(path, &named(path)),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn add_file(&mut self, path: &Path, name: &Path) {
        let first = self.listing.samples.len();
        self.listing.samples.push(Sample { key: name.display().to_string(), label: None });
        self.parts.push(Part { first, images: Images::File(path.to_owned()) });
    }

    fn add_source(&mut self, name: &Path, source: Box<dyn ImageSource>) {
        let key = |key: &str| name.join(key).display().to_string();
        let first = self.listing.samples.len();
        let listing = source.listing();
        let samples = listing.samples.iter().map(|sample| Sample { key: key(&sample.key), label: None });
        let rejected =
            listing.rejected.iter().map(|entry| Rejected { key: key(&entry.key), ..entry.clone() });
        self.listing.samples.extend(samples);
        self.listing.rejected.extend(rejected);
        self.parts.push(Part { first, images: Images::Source(source) });
    }

    /// The arguments that are sources, by the numbers of the paths that were given, for notes about their listings.
    pub fn sources(&self) -> impl Iterator<Item = (usize, &dyn ImageSource)> {
        self.parts.iter().enumerate().filter_map(|(number, part)| match &part.images {
            Images::Source(source) => Some((number, source.as_ref())),
            Images::File(_) => None,
        })
    }
}

impl ImageSource for ImageArguments {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        self.listing.sample(index)?;
        let part = self.parts.partition_point(|part| part.first <= index).checked_sub(1);
        match part.map(|part| &self.parts[part]) {
            Some(Part { first, images: Images::Source(source) }) => source.read(index - first, max_bytes),
            Some(Part { images: Images::File(path), .. }) => read_file(path, max_bytes),
            None => Err(SourceError::Index { index, samples: self.listing.samples.len() }),
        }
    }
}

/// The content of a file of at most `max_bytes` bytes.
fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
    ordinary::read(path, max_bytes).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => SourceError::TooManyBytes { path: path.to_owned(), limit: max_bytes },
        _ => SourceError::Io { path: path.to_owned(), source: error },
    })
}
