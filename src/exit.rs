//! Exit codes, and which error leads to which.

use std::process::ExitCode;

use lgd_data::ArtefactError;
use lgd_extract::ExtractError;
use lgd_train::run::{FailureKind, RunError};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Done, but more samples were rejected than allowed.
    Rejects = 1,
    /// Wrong usage or configuration, or input that cannot be used.
    Usage = 2,
    /// A cache, bank, run or checkpoint that is bad or does not belong.
    Artefact = 3,
    /// Interrupted; the same command with `--resume` goes on.
    Interrupted = 75,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The exit code of a failed command.
pub fn of_error(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if cause.downcast_ref().is_some_and(ExtractError::is_interrupted) {
            return Exit::Interrupted;
        }
        if let Some(error) = cause.downcast_ref::<RunError>() {
            return match error.kind() {
                FailureKind::Interrupted => Exit::Interrupted,
                FailureKind::Artefact => Exit::Artefact,
                FailureKind::Usage | FailureKind::Other => Exit::Usage,
            };
        }
        match cause.downcast_ref() {
            Some(ArtefactError::Occupied { .. }) => return Exit::Usage,
            Some(_) => return Exit::Artefact,
            None => {}
        }
    }
    Exit::Usage
}
