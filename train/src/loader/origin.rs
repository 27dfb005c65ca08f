//! The source of a view's pixels: the images, or the cache's stored views.

use std::fmt;
use std::path::Path;

use lgd_data::cache::{Cache, CacheConfig, StoredFormat};
use lgd_data::source::ImageSource;
use serde::{Deserialize, Serialize};

use super::LoaderError;

/// Whether to use the views that a cache stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredUse {
    /// Use them if they have the student's size.
    #[default]
    Fitting,
    /// Never use them: render every view from its image.
    Ignored,
}

/// The images that a cache was extracted from.
#[derive(Clone, Copy)]
pub struct Originals<'a> {
    /// The images.
    pub source: &'a dyn ImageSource,
    /// Their path, for messages.
    pub path: &'a Path,
}

/// The source of a run's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewOrigin {
    /// Views are rendered from the images. The cache may store views of another size.
    Rendered {
        /// The stored format that the run does not use, if there is one.
        unused: Option<StoredFormat>,
    },
    /// Views are read from the cache, and no image is opened.
    Stored(StoredFormat),
}

impl ViewOrigin {
    /// The source for a student of `size` pixels.
    pub fn of(config: &CacheConfig, size: u32, stored_use: StoredUse) -> Self {
        match config.stored_views {
            Some(format) if format.size == size && stored_use == StoredUse::Fitting => Self::Stored(format),
            unused => Self::Rendered { unused },
        }
    }

    /// The stored views' format, if they are used.
    pub fn stored(self) -> Option<StoredFormat> {
        match self {
            Self::Stored(format) => Some(format),
            Self::Rendered { .. } => None,
        }
    }
}

impl fmt::Display for ViewOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(format) => write!(f, "views are read from the cache ({format}), no image is opened"),
            Self::Rendered { unused: None } => write!(f, "views are rendered from the images"),
            Self::Rendered { unused: Some(format) } => {
                write!(
                    f,
                    "views are rendered from the images; those that the cache stores ({format}) are not used"
                )
            }
        }
    }
}

/// Returns the images, or the error that says why they are needed.
pub(super) fn require_originals<'a>(
    cache: &Cache,
    size: u32,
    originals: Option<Originals<'a>>,
) -> Result<Originals<'a>, LoaderError> {
    let stored = cache.manifest().config.stored_views;
    originals.ok_or_else(|| LoaderError::NeedsImages { cache: cache.dir().to_owned(), size, stored })
}
