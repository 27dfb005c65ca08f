//! Why batches cannot be loaded.

use std::path::PathBuf;

use lgd_data::ArtifactError;
use lgd_data::cache::{ImageStamp, StoredFormat};
use rayon::ThreadPoolBuildError;
use thiserror::Error;

use super::pixels::PixelError;
use crate::error::{FailureKind, TrainError};
use crate::objective::InputError;

/// Why batches cannot be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// A cache or bank is damaged, or belongs to something else.
    #[error(transparent)]
    Artifact(Box<ArtifactError>),
    /// A target cannot be converted to a tensor.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A target column has no input.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The source lacks a sample that the cache has.
    #[error("{} of the cached samples are not among the images, the first is {key}: cache {}, images {}\nhint: give the images that the cache was extracted from, or extract again", missing, cache.display(), images.display())]
    MissingSample {
        /// First key that is missing.
        key: String,
        /// The cache's folder.
        cache: PathBuf,
        /// The image source.
        images: PathBuf,
        /// How many are missing.
        missing: usize,
    },
    /// Views must be rendered, but no images were given.
    #[error("the images are needed: the cache {} {}, and the student takes {size} px", cache.display(), stored_words(stored))]
    NeedsImages {
        /// The cache's folder.
        cache: PathBuf,
        /// Side of the student's input, pixels.
        size: u32,
        /// The views that the cache stores.
        stored: Option<StoredFormat>,
    },
    /// The loader's threads cannot be started.
    #[error("cannot start the loader's threads: {source}")]
    Threads {
        /// The system's error.
        source: ThreadPoolBuildError,
    },
    /// An image differs from the one that the teacher saw.
    #[error("{key}: the image changed since extraction: the cache has {} x {} pixels with content {:016x}, the image {} x {} with {:016x}\nhint: restore the image, or extract again", expected.width, expected.height, expected.content, got.width, got.height, got.content)]
    ImageChanged {
        /// The sample's key.
        key: String,
        /// The image in the cache.
        expected: ImageStamp,
        /// The image now.
        got: ImageStamp,
    },
    /// An image that was readable at extraction no longer is.
    #[error("{key}: {source}")]
    Image {
        /// The sample's key.
        key: String,
        /// Why it cannot be used.
        source: Box<PixelError>,
    },
    /// Not even one batch can be filled.
    #[error("{samples} samples do not fill one batch of {batch}\nhint: take a smaller batch, or more images")]
    TooFewSamples {
        /// Samples in the cache.
        samples: usize,
        /// Samples per step.
        batch: usize,
    },
    /// Labels are to be learned, but most numbers up to the largest label are not labels.
    #[error("{}: the largest label is {largest}, but there are only {distinct} distinct labels, for which it must be below {limit}\nhint: labels are names, or numbers from 0 to C-1", cache.display())]
    SparseLabels {
        /// The cache.
        cache: PathBuf,
        /// The largest label.
        largest: u32,
        /// Distinct labels.
        distinct: usize,
        /// The largest number of outputs that a classifier may have for these labels.
        limit: usize,
    },
    /// Labels are to be learned, but all are the same.
    #[error("{}: all samples are of one class, so there is nothing to learn from the labels\nhint: label the images with two classes or more", cache.display())]
    OneClass {
        /// The cache.
        cache: PathBuf,
    },
    /// Labels are to be learned, but some samples have none.
    #[error("{}: {missing} of the {samples} samples have no label, the first is {key}\nhint: label every image, in class folders or in the label column of a list; leave out images without a label, such as those labeled -1", cache.display())]
    MissingLabels {
        /// The cache.
        cache: PathBuf,
        /// Key of the first sample without a label.
        key: String,
        /// Samples without a label.
        missing: usize,
        /// Samples in the cache.
        samples: usize,
    },
}

impl LoaderError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Artifact(error) => FailureKind::of_artifact(error),
            Self::Train(error) => error.kind(),
            Self::Input(error) => error.kind(),
            Self::NeedsImages { .. }
            | Self::TooFewSamples { .. }
            | Self::SparseLabels { .. }
            | Self::OneClass { .. }
            | Self::MissingLabels { .. } => FailureKind::Usage,
            Self::MissingSample { .. } | Self::ImageChanged { .. } | Self::Image { .. } => {
                FailureKind::Artifact
            }
            Self::Threads { .. } => FailureKind::Other,
        }
    }
}

impl From<ArtifactError> for LoaderError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(Box::new(error))
    }
}

fn stored_words(stored: &Option<StoredFormat>) -> String {
    stored.map_or("stores no views".to_owned(), |format| format!("stores views ({format})"))
}
