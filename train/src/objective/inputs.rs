//! Inputs of objectives besides the cache's views and embeddings. A `SPEC` declares them; all chosen objectives' are
//! checked once.

use std::fmt;
use std::path::PathBuf;

use lgd_data::ArtifactError;
use lgd_data::bank::{Bank, Center};
use lgd_data::cache::{Cache, TokenRecord};
use lgd_data::kdep::KdepBank;
use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{ObjectiveKind, Objectives};
use crate::error::{FailureKind, TrainError};
use crate::student::Architecture;

/// An input that an objective can declare in its `SPEC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A bank of names.
    Names,
    /// A KDEP bank.
    Features,
    /// The teacher's patch tokens, in the cache.
    Tokens,
    /// Captions, in the cache.
    Captions,
    /// A label for every sample, in the cache.
    Labels,
}

impl fmt::Display for Input {
    /// As `lgd objectives` lists it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Names => "a bank of names",
            Self::Features => "a KDEP bank",
            Self::Tokens => "patch tokens in the cache",
            Self::Captions => "captions in the cache",
            Self::Labels => "labels in the cache",
        })
    }
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The checked inputs of a run: those that its objectives declare are present and belong to the cache.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    cache: &'a Cache,
    bank: Option<&'a Bank>,
    kdep: Option<&'a KdepBank>,
}

impl<'a> Inputs<'a> {
    /// Checks the inputs of `objectives` by their manifests only. No column is opened.
    ///
    /// # Errors
    /// [`InputError::Unused`] if no objective reads a bank; [`InputError::Missing`] and [`InputError::NotCached`] if an
    /// objective lacks an input; [`InputError::Artifact`] if a bank was made from another cache.
    pub fn open(
        cache: &'a Cache,
        bank: Option<&'a Bank>,
        kdep: Option<&'a KdepBank>,
        objectives: &Objectives,
    ) -> Result<Self, InputError> {
        let inputs = Self { cache, bank, kdep };
        for (input, given) in [(Input::Names, bank.is_some()), (Input::Features, kdep.is_some())] {
            if given && !objectives.kinds().any(|kind| kind.spec().needs.contains(&input)) {
                return Err(InputError::Unused { input, chosen: objectives.to_string() });
            }
        }
        for spec in objectives.kinds().map(ObjectiveKind::spec) {
            spec.needs.iter().try_for_each(|&input| inputs.require(spec.name, input))?;
        }
        Ok(inputs)
    }

    fn require(&self, of: &'static str, input: Input) -> Result<(), InputError> {
        let config = &self.cache.manifest().config;
        let cached = |held: bool| {
            let cache = || self.cache.dir().to_owned();
            if held { Ok(()) } else { Err(InputError::NotCached { of, input, cache: cache() }) }
        };
        match input {
            Input::Names => {
                Ok(self.bank.ok_or(InputError::Missing { of, input })?.require_cache(self.cache)?)
            }
            Input::Features => {
                Ok(self.kdep.ok_or(InputError::Missing { of, input })?.require_cache(self.cache)?)
            }
            Input::Tokens => cached(config.tokens.is_some()),
            Input::Captions => cached(config.captions.is_some()),
            // The manifest does not record this. The loader fails on a sample without a label when it reads them.
            Input::Labels => Ok(()),
        }
    }

    /// The cache.
    pub fn cache(&self) -> &'a Cache {
        self.cache
    }

    /// The bank of names.
    ///
    /// # Errors
    /// [`InputError::Missing`] if no objective declared it.
    pub fn names(&self) -> Result<&'a Bank, InputError> {
        self.bank.ok_or(InputError::Missing { of: UNDECLARED, input: Input::Names })
    }

    /// What the bank of names subtracts from the teacher's embeddings; none without such a bank. It holds for every objective
    /// of a run: all of them see the same embeddings.
    pub fn center(&self) -> Option<&'a Center> {
        self.bank?.center()
    }

    /// The KDEP bank.
    ///
    /// # Errors
    /// [`InputError::Missing`] if no objective declared it.
    pub fn features(&self) -> Result<&'a KdepBank, InputError> {
        self.kdep.ok_or(InputError::Missing { of: UNDECLARED, input: Input::Features })
    }

    /// The record of the cache's tokens.
    ///
    /// # Errors
    /// [`InputError::NotCached`] if no objective declared them.
    pub fn tokens(&self) -> Result<&'a TokenRecord, InputError> {
        let record = self.cache.manifest().config.tokens.as_ref();
        record.ok_or_else(|| self.undeclared(Input::Tokens))
    }

    /// The error for a column that no objective declared and the cache does not hold.
    pub(crate) fn undeclared(&self, input: Input) -> InputError {
        InputError::NotCached { of: UNDECLARED, input, cache: self.cache.dir().to_owned() }
    }
}

/// The name of the objective in errors about inputs that no objective declared.
const UNDECLARED: &str = "a target";

/// Why the inputs of objectives cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InputError {
    /// A bank or cache is damaged, or belongs to something else.
    #[error(transparent)]
    Artifact(Box<ArtifactError>),
    /// An objective cannot be built from its inputs.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// An objective lacks a bank.
    #[error("{of} needs {input}")]
    Missing {
        /// The objective.
        of: &'static str,
        /// The missing input.
        input: Input,
    },
    /// The cache was extracted without a column that an objective needs.
    #[error("{}: {of} needs {}, which the cache lacks", cache.display(), column(*input))]
    NotCached {
        /// The objective.
        of: &'static str,
        /// The missing input.
        input: Input,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// No chosen objective reads a bank that was given.
    #[error("{input} is given, but the objective {chosen} reads none")]
    Unused {
        /// The input.
        input: Input,
        /// The chosen objectives.
        chosen: String,
    },
    /// A bank of names and a setting of LGD contradict each other.
    #[error("{}: the bank keeps categories without assigned views, and weights by views would leave them out", bank.display())]
    KeptPrototypes {
        /// The bank's folder.
        bank: PathBuf,
    },
    /// A KDEP bank has targets of another width than the student's pooled feature.
    #[error("{}: the targets have width {got}, expected {expected}, the width of {student}'s pooled feature", bank.display())]
    TargetWidth {
        /// The bank's folder.
        bank: PathBuf,
        /// The student.
        student: Architecture,
        /// Width of the targets.
        got: usize,
        /// Width of the student's pooled feature.
        expected: usize,
        /// Width of the teacher's features. A projection cannot make them wider.
        features: usize,
    },
    /// Captions have another width than the embeddings that they are compared with.
    #[error("{}: the caption embeddings have width {got}, expected {expected}, the width of the image embeddings\nhint: extract with the text encoder that shares the image encoder's space", cache.display())]
    CaptionWidth {
        /// The cache's folder.
        cache: PathBuf,
        /// Width of the captions.
        got: usize,
        /// Width D of the embeddings.
        expected: usize,
    },
}

impl InputError {
    /// The kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Artifact(error) => FailureKind::of_artifact(error),
            Self::Train(error) => error.kind(),
            Self::Missing { .. }
            | Self::NotCached { .. }
            | Self::Unused { .. }
            | Self::KeptPrototypes { .. } => FailureKind::Usage,
            Self::TargetWidth { .. } | Self::CaptionWidth { .. } => FailureKind::Artifact,
        }
    }
}

impl From<ArtifactError> for InputError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(Box::new(error))
    }
}

/// Words for an input that is a column of the cache.
fn column(input: Input) -> String {
    match input {
        Input::Tokens => "the teacher's patch tokens".to_owned(),
        Input::Captions => "captions".to_owned(),
        other => other.to_string(),
    }
}
