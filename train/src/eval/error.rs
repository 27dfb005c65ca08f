//! Why a student cannot be evaluated.

use std::fmt;
use std::path::PathBuf;

use lgd_data::ArtifactError;
use thiserror::Error;

use super::Protocol;
use crate::error::{FailureKind, TrainError};
use crate::inference::InferenceError;
use crate::loader::LoaderError;
use crate::predict::PredictError;
use crate::run::RunError;

/// Why a student cannot be evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The run, its student, a cache or a bank cannot be used.
    #[error(transparent)]
    Run(Box<RunError>),
    /// The student cannot be run on the images.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The student's outputs do not fit its names or the bank.
    #[error(transparent)]
    Predict(Box<PredictError>),
    /// A protocol lacks an input.
    #[error("{protocol} needs {input}")]
    MissingInput {
        /// The protocol.
        protocol: Protocol,
        /// The missing input.
        input: EvalInput,
    },
    /// No chosen protocol reads an input that was given.
    #[error("{input} is given, and the protocol {chosen} does not use one")]
    UnusedInput {
        /// The input.
        input: EvalInput,
        /// The chosen protocols.
        chosen: String,
    },
    /// View 0 of an evaluation cache is an augmented view.
    #[error("{}: view 0 is an augmented view, not the center crop", cache.display())]
    NoCenterView {
        /// The cache.
        cache: PathBuf,
    },
    /// Labels are needed, but no image has one.
    #[error("{}: none of the {count} images has a label, the first is {key}\nhint: put the images into one folder per class, add a label column to the list, or in archives a .cls beside each image", images.display())]
    Unlabeled {
        /// The image source.
        images: PathBuf,
        /// The first key.
        key: String,
        /// Images listed.
        count: usize,
    },
    /// A source's classes are not the bank's categories.
    #[error("{}: these classes are not categories of the bank: {}", images.display(), classes.join(", "))]
    UnmatchedClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the classes without a category.
        classes: Vec<String>,
        /// Some of the bank's categories.
        categories: Vec<String>,
    },
    /// Labels are numbers, but not positions among the bank's categories.
    #[error("{}: labels are positions among the {categories} names, 0 to {}, and these are not: {}{}", images.display(), categories.saturating_sub(1), classes.join(", "), if *from_one { "; they seem to be counted from 1" } else { "" })]
    OutsidePositions {
        /// The image source.
        images: PathBuf,
        /// Some of the labels that are no position.
        classes: Vec<String>,
        /// Number of the bank's categories.
        categories: usize,
        /// Whether the labels are 1 to the number of categories.
        from_one: bool,
    },
    /// Test images have classes that the classifier was not trained on.
    #[error("{}: the student was not trained on these classes: {}", images.display(), classes.join(", "))]
    UnknownClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the classes without an output.
        classes: Vec<String>,
        /// The classes that the classifier was trained on.
        known: String,
    },
    /// Test images have class names, but the classifier was trained on numbers.
    #[error("{}: the classes have names ({}), and the student's classifier knows only numbers, {known}", images.display(), classes.join(", "))]
    NamedClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the names.
        classes: Vec<String>,
        /// The range of the numbers.
        known: String,
    },
    /// Test images have numbers as labels, but the classifier was trained on class names.
    #[error("{}: the labels are numbers, and the student's classifier knows only names: {known}", images.display())]
    NumberedClasses {
        /// The image source.
        images: PathBuf,
        /// Some of the names.
        known: String,
    },
    /// The training images lack classes of the test images.
    #[error("{}: the training images in {} do not have these classes: {}", images.display(), train_images.display(), classes.join(", "))]
    UntrainedClasses {
        /// The test images.
        images: PathBuf,
        /// The training images.
        train_images: PathBuf,
        /// Some of the classes that only the test images have.
        classes: Vec<String>,
    },
    /// Training images have class names and test images numbers, or the other way round.
    #[error(
        "the classes of the training images are {train}, those of the test images {test}\nhint: label both with names, or both with numbers"
    )]
    ClassesDiffer {
        /// Classes of the training images.
        train: String,
        /// Classes of the test images.
        test: String,
    },
    /// No image could be used.
    #[error("{}: none of the {images_listed} images could be used", images.display())]
    NoImages {
        /// The image source.
        images: PathBuf,
        /// Images listed.
        images_listed: usize,
    },
}

/// An input that a protocol reads in addition to the test images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalInput {
    /// A student that gives its pooled feature.
    Feature,
    /// A student with a projection to the teacher's space.
    Embedding,
    /// A student with a classifier.
    Classifier,
    /// A bank of names.
    Bank,
    /// A cache of the test images.
    TeacherEmbeddings,
    /// Training images.
    TrainImages,
}

impl fmt::Display for EvalInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Feature => "a student that gives its feature",
            Self::Embedding => "a student that ends in an embedding",
            Self::Classifier => "a student that ends in a classifier",
            Self::Bank => "a bank of names",
            Self::TeacherEmbeddings => "the teacher's embeddings of the images",
            Self::TrainImages => "a set of labeled training images",
        })
    }
}

impl EvalError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Run(error) => error.kind(),
            Self::Inference(error) => error.kind(),
            Self::Predict(error) => error.kind(),
            Self::NoImages { .. } => FailureKind::Artifact,
            _ => FailureKind::Usage,
        }
    }
}

impl From<RunError> for EvalError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl From<ArtifactError> for EvalError {
    fn from(error: ArtifactError) -> Self {
        RunError::from(error).into()
    }
}

impl From<TrainError> for EvalError {
    fn from(error: TrainError) -> Self {
        RunError::from(error).into()
    }
}

/// Artifact errors, numerical errors and those of inference keep their own variants, wherever they occur.
impl From<PredictError> for EvalError {
    fn from(error: PredictError) -> Self {
        match error {
            PredictError::Artifact(error) => error.into(),
            PredictError::Train(error) => error.into(),
            PredictError::Inference(error) => Self::Inference(error),
            error => Self::Predict(Box::new(error)),
        }
    }
}

impl From<LoaderError> for EvalError {
    fn from(error: LoaderError) -> Self {
        RunError::from(error).into()
    }
}
