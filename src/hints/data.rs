//! Hints for errors of sources and of artifacts on disk.

use std::error::Error;

use lgd_bank::{AlignError, BankError};
use lgd_data::ArtifactError;
use lgd_data::error::Remedy;
use lgd_data::source::{ListError, RowProblem, SourceError};
use lgd_extract::ExtractError;

pub(super) fn of_source(error: &SourceError) -> Option<String> {
    let field = error.field()?;
    Some(match error {
        SourceError::List(ListError { problem: RowProblem::Header { .. }, .. }) => format!(
            "call the columns path[,label], or name the column of images with --{field}-field; if this row is an image, \
             put the line path[,label] above it"
        ),
        SourceError::List(ListError { problem: RowProblem::Other { other, .. }, .. }) => {
            format!("if it holds the {field}s, add --{field}-field '{other}'; otherwise remove it")
        }
        _ => format!("choose one with --{field}-field"),
    })
}

/// The artifact's error that `cause` is or wraps transparently.
pub(super) fn artifact_in<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a ArtifactError> {
    if let Some(error) = cause.downcast_ref() {
        return Some(error);
    }
    if let Some(ExtractError::Artifact(error)) = cause.downcast_ref() {
        return Some(error);
    }
    if let Some(BankError::Artifact(error)) = cause.downcast_ref() {
        return Some(error);
    }
    match cause.downcast_ref() {
        Some(AlignError::Artifact(error) | AlignError::Bank(BankError::Artifact(error))) => Some(error),
        _ => None,
    }
}

pub(super) fn of_artifact(error: &ArtifactError) -> Option<String> {
    let ArtifactError::Occupied { remedy, .. } = error else { return None };
    let hint = match remedy {
        Remedy::Resume => "give --resume to continue it, --overwrite to replace it, or another folder",
        Remedy::Overwrite => "give --overwrite to replace it, or another folder",
        Remedy::Other(_) => return None,
    };
    Some(hint.to_owned())
}

/// Errors that have a hint here.
#[cfg(test)]
pub(super) fn examples() -> Vec<anyhow::Error> {
    use std::path::PathBuf;

    use lgd_data::source::{FieldKind, ParquetProblem, ParquetSourceError};

    let path = || PathBuf::from("list.csv");
    let kinds = [FieldKind::Image, FieldKind::Label, FieldKind::Caption];
    let text = || "photo".to_owned();
    let several = kinds.map(|kind| SourceError::SeveralFields {
        path: path(),
        kind,
        key: text(),
        got: vec!["jpg".to_owned(), "png".to_owned()],
    });
    let rows = [
        RowProblem::Header { got: text() },
        RowProblem::NoImages { got: text() },
        RowProblem::Other { got: text(), other: "species".to_owned() },
        RowProblem::Ambiguous { got: text(), kind: FieldKind::Label },
    ];
    let rows = rows.map(|problem| ListError { path: path(), line: 1, problem }.into());
    let tables = [
        ParquetProblem::Ambiguous { got: text(), kind: FieldKind::Image },
        ParquetProblem::NotText { row: 0, column: text(), kind: FieldKind::Caption },
    ];
    let tables = tables.map(|problem| ParquetSourceError::Unusable { path: path(), problem }.into());
    let sources = several.into_iter().chain::<[SourceError; 4]>(rows).chain::<[SourceError; 2]>(tables);
    let sources = sources.map(|error| anyhow::Error::from(error).context("cannot list the images"));
    let occupied = [Remedy::Resume, Remedy::Overwrite].map(|remedy| {
        anyhow::Error::from(ArtifactError::Occupied { path: path(), what: "a cache".to_owned(), remedy })
    });
    sources.chain(occupied).collect()
}
