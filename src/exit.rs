//! Exit codes, and the mapping from errors to them.

use std::process::ExitCode;

use lgd_bank::{AlignError, BankError};
use lgd_data::ArtifactError;
use lgd_extract::ExtractError;
use lgd_report::ReportError;
use lgd_store::StoreError;
use lgd_train::error::FailureKind;
use lgd_train::eval::EvalError;
use lgd_train::export::ExportError;
use lgd_train::predict::PredictError;
use lgd_train::run::RunError;

/// Outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Done = 0,
    /// Success, but more samples were rejected than allowed.
    Rejects = 1,
    /// Invalid usage, configuration or input.
    Usage = 2,
    /// A cache, bank, run, checkpoint or tokenizer is damaged, does not match, or cannot be read or written.
    Artifact = 3,
    /// Interrupted. The same command with `--resume` continues.
    Interrupted = 75,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The exit code of a failed command.
pub fn of_error(error: &anyhow::Error) -> Exit {
    // A model that was stopped fails wherever it runs.
    let stopped = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref().is_some_and(ExtractError::is_interrupted)
    };
    if error.chain().any(stopped) {
        return Exit::Interrupted;
    }
    error.chain().find_map(of_cause).unwrap_or(Exit::Usage)
}

/// The exit code of one cause. The stages' errors wrap an artifact's error transparently, so they are searched for
/// one too.
fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<ArtifactError>() {
        return Some(of_artifact(error));
    }
    if let Some(error) = store_error(cause) {
        return Some(of_store(error));
    }
    if let Some(ReportError::Artifact(error)) = cause.downcast_ref() {
        return Some(of_artifact(error));
    }
    match cause.downcast_ref() {
        Some(ExtractError::Artifact(error)) => return Some(of_artifact(error)),
        Some(
            ExtractError::CacheMismatch { .. }
            | ExtractError::Storage { .. }
            | ExtractError::Tokenizer { .. },
        ) => return Some(Exit::Artifact),
        _ => {}
    }
    match cause.downcast_ref() {
        Some(AlignError::Bank(error)) => return of_bank(error),
        Some(AlignError::Artifact(error)) => return Some(of_artifact(error)),
        _ => {}
    }
    if let Some(error) = cause.downcast_ref() {
        return of_bank(error);
    }
    let run = cause.downcast_ref().map(RunError::kind);
    let eval = cause.downcast_ref().map(EvalError::kind);
    let export = cause.downcast_ref().map(ExportError::kind);
    let predict = cause.downcast_ref().map(PredictError::kind);
    run.or(eval).or(export).or(predict).map(|kind| match kind {
        FailureKind::Interrupted => Exit::Interrupted,
        FailureKind::Artifact => Exit::Artifact,
        FailureKind::Usage | FailureKind::Other => Exit::Usage,
    })
}

/// The error of an object store that `cause` is, or that a read of a file returned.
fn store_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a StoreError> {
    let of_read = || cause.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref();
    cause.downcast_ref().or_else(of_read)
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Interrupted { .. } => Exit::Interrupted,
        error if error.is_usage() => Exit::Usage,
        _ => Exit::Artifact,
    }
}

fn of_bank(error: &BankError) -> Option<Exit> {
    match error {
        BankError::Interrupted => Some(Exit::Interrupted),
        BankError::Artifact(error) => Some(of_artifact(error)),
        BankError::PromptSegment { .. }
        | BankError::RowNorm { .. }
        | BankError::NoRows
        | BankError::NoFeatures { .. }
        | BankError::FeatureNotFinite { .. }
        | BankError::TextEncoder { .. }
        | BankError::Width { .. } => Some(Exit::Artifact),
        _ => None,
    }
}

fn of_artifact(error: &ArtifactError) -> Exit {
    match error {
        ArtifactError::Occupied { .. } | ArtifactError::Busy { .. } => Exit::Usage,
        _ => Exit::Artifact,
    }
}
