//! The error of loading, training and evaluation.

use std::path::PathBuf;

use lgd_data::ArtifactError;
use lgd_data::cache::{ImageStamp, StoredFormat};
use lgd_data::render::RenderError;
use lgd_data::source::SourceError;
use thiserror::Error;

use crate::error::TrainError;

/// Why a run cannot start, go on or be evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A cache, bank, run or checkpoint is missing, damaged or belongs to something else.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The numerical part failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A setting is out of range.
    #[error("{setting} is {value}, must be {rule}")]
    Configuration {
        /// The setting, as in `config.toml`.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
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
    /// Views must be rendered, and the images were not given.
    #[error("the images are needed: the cache {} {}, and the student takes {size} px\nhint: give --images, or make a cache with --store-views and --store-size {size}", cache.display(), stored_words(stored))]
    NeedsImages {
        /// The cache's folder.
        cache: PathBuf,
        /// Side of the student's input, pixels.
        size: u32,
        /// The views that the cache stores.
        stored: Option<StoredFormat>,
    },
    /// The loader's threads cannot be started.
    #[error("cannot start the loader's threads: {reason}")]
    Threads {
        /// The system's words.
        reason: String,
    },
    /// An image is not the one that the teacher saw.
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
    #[error(
        "{key}: {reason}\nhint: the image was readable when the cache was made; restore it and go on with --resume"
    )]
    Image {
        /// The sample's key.
        key: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// An evaluation cannot read an image, and not for the image's fault.
    #[error(
        "{source}\nhint: not the file but the storage seems to have failed: see to it, then evaluate again"
    )]
    Storage {
        /// The first image that could not be read, and why.
        source: SourceError,
    },
    /// A rendered image does not fit its place in the batch.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// Not even one batch can be filled.
    #[error("{samples} samples do not fill one batch of {batch}\nhint: take a smaller batch, or more images")]
    TooFewSamples {
        /// Samples in the cache.
        samples: usize,
        /// Samples per step.
        batch: usize,
    },
    /// The loss is NaN or infinite. On the CPU the parameters were not touched by it; on a GPU it is noticed some steps later.
    #[error(
        "the loss of step {step} (of epoch {}) is {loss} ({parts})\nhint: start anew with a lower learning rate, a longer warm-up or --clip-norm", epoch + 1
    )]
    NonFinite {
        /// Epoch, from 0.
        epoch: u32,
        /// Step over all epochs, from 0.
        step: usize,
        /// The loss.
        loss: f32,
        /// Its parts by name.
        parts: String,
    },
    /// A parameter became NaN or infinite.
    #[error(
        "{name} is no longer finite after step {step}\nhint: start anew with a lower learning rate, a longer warm-up or --clip-norm"
    )]
    Diverged {
        /// Steps done.
        step: usize,
        /// The first such parameter or buffer.
        name: String,
    },
    /// Initial weights cannot be used.
    #[error("{}: {reason}\nhint: a safetensors file with torchvision's parameter names is expected", path.display())]
    InitialWeights {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Somebody asked to stop.
    #[error("interrupted after step {step}\nhint: {} holds a checkpoint; go on with --resume", dir.display())]
    Interrupted {
        /// Steps done.
        step: usize,
        /// The run.
        dir: PathBuf,
    },
    /// Somebody asked to stop an evaluation, which keeps nothing.
    #[error("interrupted; an evaluation starts anew")]
    EvaluationInterrupted,
    /// A protocol or an objective lacks an input.
    #[error("{of} needs {input}")]
    MissingInput {
        /// The protocol or objective.
        of: &'static str,
        /// What is missing.
        input: &'static str,
    },
    /// An objective needs a column that the cache was extracted without.
    #[error("{}: {of} needs {column}, which the cache does not hold\nhint: {hint}", cache.display())]
    NotCached {
        /// The objective.
        of: &'static str,
        /// What is missing.
        column: &'static str,
        /// The cache's folder.
        cache: PathBuf,
        /// The remedy.
        hint: &'static str,
    },
    /// A bank and a setting that contradict each other.
    #[error("{}: the bank keeps the slots of categories that no view is assigned to, and --slots views counts them 0 times\nhint: train with --slots balanced, or build the bank without --keep-unassigned", bank.display())]
    KeptSlots {
        /// The bank's folder.
        bank: PathBuf,
    },
    /// An input that nothing would read.
    #[error(
        "{input} is given, and the {choice} {chosen} does not use one\nhint: leave it out, or add {user} to --{choice}"
    )]
    UnusedInput {
        /// The input.
        input: &'static str,
        /// What decides: "objective" or "protocol".
        choice: &'static str,
        /// The chosen ones.
        chosen: String,
        /// Those that use it.
        user: &'static str,
    },
    /// Something has another width than what it goes with.
    #[error("{}: {what} has width {got}, must be {expected}\nhint: {hint}", path.display())]
    Width {
        /// The cache's or the bank's folder.
        path: PathBuf,
        /// What it is.
        what: String,
        /// Its width.
        got: usize,
        /// The width that fits.
        expected: usize,
        /// The remedy.
        hint: &'static str,
    },
    /// Labels are to be learned, and hardly any number up to the largest is one.
    #[error("{}: the largest label is {largest}, but there are only {distinct} distinct labels, for which it must be below {limit}\nhint: labels are names, or numbers from 0 to C-1", cache.display())]
    SparseLabels {
        /// The cache.
        cache: PathBuf,
        /// The largest label.
        largest: u32,
        /// How many different ones there are.
        distinct: usize,
        /// The most outputs that a classifier may have for so many.
        limit: usize,
    },
    /// Labels are to be learned, and samples lack them.
    #[error("{}: {missing} of the {samples} samples have no label, the first is {key}\nhint: extract from one folder per class, or from a list with a label column", cache.display())]
    MissingLabels {
        /// The cache.
        cache: PathBuf,
        /// Key of the first sample without a label.
        key: String,
        /// How many there are.
        missing: usize,
        /// Samples in the cache.
        samples: usize,
    },
    /// An evaluation cache whose first view is an augmented one.
    #[error("{}: view 0 is an augmented view, not the center crop\nhint: extract the images with --with-center", cache.display())]
    NoCenterView {
        /// The cache.
        cache: PathBuf,
    },
    /// Training and test images would be shown at different crops, and features of the ones compared with features of the others.
    #[error("{}: the training images are shown at a center crop of {train}, the test images {} at {test}\nhint: leave --center-fraction out where one set has a cache, or extract both with the same --center-fraction", train_images.display(), test_images.display())]
    CropsDiffer {
        /// The training images.
        train_images: PathBuf,
        /// Share of their short side.
        train: f32,
        /// The test images.
        test_images: PathBuf,
        /// Share of their short side.
        test: f32,
    },
    /// Labels are needed, and there are none.
    #[error("{}: none of the {count} images has a label, the first is {key}\nhint: put the images into one folder per class, add a label column to the list, or in archives a .cls beside each image", images.display())]
    Unlabeled {
        /// The image source.
        images: PathBuf,
        /// The first key.
        key: String,
        /// How many there are.
        count: usize,
    },
    /// A source's classes are not the bank's categories.
    #[error("{}: these classes are not categories of the bank: {}\nhint: build a bank of these names, the categories are {}; or judge by other names with --protocol agreement", images.display(), classes.join(", "), categories.join(", "))]
    UnmatchedClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the classes without a category.
        classes: Vec<String>,
        /// Some of the bank's categories.
        categories: Vec<String>,
    },
    /// Test images show classes that a classifier was not trained on.
    #[error("{}: the student was not trained on these classes: {}\nhint: leave them out, or judge by --protocol knn; it tells apart {known}", images.display(), classes.join(", "))]
    UnknownClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the classes without an output.
        classes: Vec<String>,
        /// The classes that it was trained on.
        known: String,
    },
    /// Test images have classes with names, and a classifier was trained on numbers.
    #[error("{}: the classes have names ({}), and the student's classifier knows only numbers, {known}\nhint: give a list with numeric labels, or judge by --protocol knn", images.display(), classes.join(", "))]
    NamedClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the names.
        classes: Vec<String>,
        /// The range of the numbers.
        known: String,
    },
    /// Test images have numbers for labels, and a classifier was trained on classes with names.
    #[error("{}: the labels are numbers, and the student's classifier knows only names: {known}\nhint: give class folders or a list with these names, or judge by --protocol knn", images.display())]
    NumberedClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the names.
        known: String,
    },
    /// Training and test images do not have the same classes.
    #[error(
        "the training images have the classes {train}, the test images {test}\nhint: both must have the same class folders"
    )]
    ClassesDiffer {
        /// Classes of the training images.
        train: String,
        /// Classes of the test images.
        test: String,
    },
    /// Nothing usable was left.
    #[error("{}: none of the {images_listed} images could be used", images.display())]
    NoImages {
        /// The image source.
        images: PathBuf,
        /// Images listed.
        images_listed: usize,
    },
}

/// What kind of failure an error is; the command line turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The caller asked for something impossible.
    Usage,
    /// An artifact or the images are damaged, or do not belong together.
    Artifact,
    /// Stopped on request, resumable.
    Interrupted,
    /// Anything else.
    Other,
}

impl RunError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            // A folder in the way is a matter of flags, not of a damaged artifact.
            Self::Artifact(ArtifactError::Occupied { .. })
            | Self::Configuration { .. }
            | Self::TooFewSamples { .. }
            | Self::NeedsImages { .. }
            | Self::NonFinite { .. }
            | Self::Diverged { .. }
            | Self::MissingInput { .. }
            | Self::NotCached { .. }
            | Self::KeptSlots { .. }
            | Self::UnusedInput { .. }
            | Self::SparseLabels { .. }
            | Self::MissingLabels { .. }
            | Self::NoCenterView { .. }
            | Self::CropsDiffer { .. }
            | Self::Unlabeled { .. }
            | Self::UnknownClasses { .. }
            | Self::NamedClasses { .. }
            | Self::NumberedClasses { .. }
            | Self::UnmatchedClasses { .. }
            | Self::ClassesDiffer { .. }
            | Self::Train(
                TrainError::GradientNorm { .. }
                | TrainError::MaskedSize { .. }
                | TrainError::TokenGrid { .. },
            ) => FailureKind::Usage,
            Self::Artifact(_)
            | Self::MissingSample { .. }
            | Self::ImageChanged { .. }
            | Self::Image { .. }
            | Self::Storage { .. }
            | Self::InitialWeights { .. }
            | Self::Width { .. }
            | Self::NoImages { .. } => FailureKind::Artifact,
            Self::Interrupted { .. } | Self::EvaluationInterrupted => FailureKind::Interrupted,
            Self::Train(_) | Self::Render(_) | Self::Threads { .. } => FailureKind::Other,
        }
    }
}

impl From<candle_core::Error> for RunError {
    fn from(error: candle_core::Error) -> Self {
        Self::Train(error.into())
    }
}

fn stored_words(stored: &Option<StoredFormat>) -> String {
    stored.map_or("stores no views".to_owned(), |format| format!("stores views ({format})"))
}
