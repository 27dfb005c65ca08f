//! `hint:` lines that name flags and commands, for errors and notes of the library crates, which do not know the command
//! line. A hint from here takes the place of the one in the library's message, which gives the remedy in words.

use std::error::Error;

use lgd_bank::{AlignError, BankError};
use lgd_data::ArtifactError;
use lgd_data::error::Remedy;
use lgd_data::source::{ListError, Note, RowProblem, SourceError};
use lgd_extract::ExtractError;
use lgd_train::error::TrainError;
use lgd_train::eval::{EvalError, EvalInput, Protocol};
use lgd_train::export::ExportError;
use lgd_train::loader::LoaderError;
use lgd_train::objective::{Input, InputError, ObjectiveError, ObjectiveKind};
use lgd_train::run::RunError;

/// The hint for an error; `None` if there is none beyond that in its message.
pub fn of_error(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(of_cause)
}

/// An error's message, followed by its hint if there is one.
pub fn hinted(error: &(dyn Error + 'static)) -> String {
    with_hint(&error.to_string(), of_cause(error))
}

/// A message with `hint` in the place of its own hint; unchanged if there is none.
pub fn with_hint(message: &str, hint: Option<String>) -> String {
    let Some(hint) = hint else { return message.to_owned() };
    let message = message.split("\nhint: ").next().unwrap_or_default();
    format!("{message}\nhint: {hint}")
}

/// The text of a note about a source, and the flag that changes the assumption, if there is one.
pub fn of_note(note: &Note) -> String {
    match note.field {
        Some(field) => format!("{} (choose with --{field}-field)", note.text),
        None => note.text.clone(),
    }
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref() {
        return of_run(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return of_eval(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return of_source(error);
    }
    if let Some(error) = artifact_in(cause) {
        return of_artifact(error);
    }
    match cause.downcast_ref() {
        Some(ExportError::Run(error)) => return of_run(error),
        Some(ExportError::NoEmbedding) => return Some("export this one without --bank".to_owned()),
        _ => {}
    }
    match cause.downcast_ref() {
        Some(ObjectiveError::Unknown { .. }) => Some("`lgd objectives` describes them".to_owned()),
        _ => None,
    }
}

fn of_source(error: &SourceError) -> Option<String> {
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
fn artifact_in<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a ArtifactError> {
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

fn of_artifact(error: &ArtifactError) -> Option<String> {
    let ArtifactError::Occupied { remedy, .. } = error else { return None };
    let hint = match remedy {
        Remedy::Resume => "give --resume to continue it, --overwrite to replace it, or another folder",
        Remedy::Overwrite => "give --overwrite to replace it, or another folder",
        Remedy::Other(_) => return None,
    };
    Some(hint.to_owned())
}

fn of_run(error: &RunError) -> Option<String> {
    let hint = match error {
        RunError::Artifact(error) => return of_artifact(error),
        RunError::Input(error) => return of_input(error),
        RunError::Loader(LoaderError::NeedsImages { size, .. }) => {
            return Some(format!(
                "give --images, or make a cache with --store-views and --store-size {size}"
            ));
        }
        RunError::Interrupted { dir, .. } => {
            return Some(format!("{} holds a checkpoint; continue it with --resume", dir.display()));
        }
        RunError::Loader(LoaderError::Image { .. }) => {
            "the image was readable when the cache was made; restore it and continue it with --resume"
        }
        RunError::NonFinite { .. } | RunError::Diverged { .. } => {
            "start anew with a lower learning rate, a longer warm-up or --clip-norm"
        }
        RunError::Train(error) if error.is_out_of_memory() => {
            "compute each batch in parts, as with --batch-parts 2, or give a smaller --batch"
        }
        RunError::Train(TrainError::GradientNorm { .. }) => {
            "start anew with a lower learning rate, a longer warm-up or a smaller --clip-norm"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn of_input(error: &InputError) -> Option<String> {
    let hint = match error {
        InputError::Unused { input, .. } => {
            let reads = |kind: &ObjectiveKind| kind.spec().needs.contains(input);
            let users: Vec<&str> =
                ObjectiveKind::ALL.iter().filter(|kind| reads(kind)).map(|kind| kind.spec().name).collect();
            return Some(format!("leave it out, or add {} to --objective", users.join(" or ")));
        }
        InputError::Missing { input: Input::Names, .. } => "give the folder that `lgd bank` made with --bank",
        InputError::Missing { input: Input::Features, .. } => {
            "give the folder that `lgd bank --target kdep` made with --bank"
        }
        InputError::NotCached { input: Input::Tokens, .. } => "extract again with --tokens",
        InputError::NotCached { input: Input::Captions, .. } => {
            "extract again with --captions, from a list that has them"
        }
        InputError::KeptPrototypes { .. } => {
            "--slots views does not fit: train with --slots balanced, or build the bank without --keep-unassigned"
        }
        InputError::TargetWidth { features, expected, .. } if features < expected => {
            "a projection cannot widen the teacher's features: train a student with a narrower pooled feature"
        }
        InputError::TargetWidth { .. } => {
            "build the KDEP bank with that width as its --dim, or train another student"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn of_eval(error: &EvalError) -> Option<String> {
    let hint = match error {
        EvalError::Run(error) => return of_run(error),
        EvalError::UnusedInput { input, .. } => {
            let reads = |protocol: &Protocol| match input {
                EvalInput::TrainImages => protocol.reads_train(),
                _ => protocol.reads_bank(),
            };
            let users: Vec<&str> = Protocol::ALL
                .iter()
                .filter(|protocol| reads(protocol))
                .map(|protocol| protocol.name())
                .collect();
            return Some(format!("leave it out, or add {} to --protocol", users.join(" or ")));
        }
        EvalError::UnmatchedClasses { categories, .. } => {
            return Some(format!(
                "build a bank of these names, the categories are {}; or judge by other names with --protocol agreement",
                categories.join(", ")
            ));
        }
        EvalError::OutsidePositions { .. } => {
            "count labels from 0 in the order of the names, or give a list path,label with these names"
        }
        EvalError::UntrainedClasses { .. } => "add them to --train-images, or leave them out of --images",
        EvalError::UnknownClasses { known, .. } => {
            return Some(format!("leave them out, or judge by --protocol knn; it tells apart {known}"));
        }
        EvalError::MissingInput { input, .. } => match input {
            EvalInput::Embedding => {
                "judge this one by --protocol knn,linear, or labels where it has a classifier"
            }
            EvalInput::Classifier => {
                "train with --objective supervised, or judge by zero-shot, knn or linear"
            }
            EvalInput::Bank => "give --bank",
            EvalInput::TeacherEmbeddings => "give --cache",
            EvalInput::TrainImages => "give --train-images",
        },
        EvalError::NoCenterView { .. } => "extract the images with --with-center",
        EvalError::CropsDiffer { .. } => {
            "leave --center-fraction out where one set has a cache, or extract both with the same --center-fraction"
        }
        EvalError::NamedClasses { .. } => "give a list with numeric labels, or judge by --protocol knn",
        EvalError::NumberedClasses { .. } => {
            "give class folders or a list with these names, or judge by --protocol knn"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use clap::CommandFactory;
    use lgd_data::source::{FieldKind, ParquetProblem, ParquetSourceError};
    use lgd_data::view::CenterCrop;

    use super::*;
    use crate::args::Args;

    fn errors() -> Vec<anyhow::Error> {
        let path = || "runs/a".into();
        let inputs = [Input::Names, Input::Features].map(|input| InputError::Missing { of: "lgd", input });
        let cached = [Input::Tokens, Input::Captions].map(|input| InputError::NotCached {
            of: "hgkd",
            input,
            cache: path(),
        });
        let unused = InputError::Unused { input: Input::Names, chosen: "seed:1".to_owned() };
        let inputs =
            inputs.into_iter().chain(cached).chain([unused, InputError::KeptPrototypes { bank: path() }]);
        let runs = [
            RunError::Loader(LoaderError::NeedsImages { cache: path(), size: 32, stored: None }),
            RunError::Interrupted { step: 3, dir: path() },
            RunError::Diverged { step: 3, name: "fc.weight".to_owned() },
            RunError::Train(TrainError::GradientNorm { step: 3, norm: f64::NAN }),
            RunError::Train(TrainError::OutOfMemory { device: "cuda:0".to_owned(), bytes: 1 << 30 }),
        ];
        let evals = [
            EvalInput::Embedding,
            EvalInput::Classifier,
            EvalInput::Bank,
            EvalInput::TeacherEmbeddings,
            EvalInput::TrainImages,
        ]
        .map(|input| EvalError::MissingInput { protocol: Protocol::ZeroShot, input });
        let more = [
            EvalError::UnusedInput { input: EvalInput::TrainImages, chosen: "zero-shot".to_owned() },
            EvalError::NoCenterView { cache: path() },
            EvalError::CropsDiffer {
                train_images: path(),
                train: CenterCrop::shortest(0.5),
                test_images: path(),
                test: CenterCrop::default(),
            },
            EvalError::UnmatchedClasses { images: path(), classes: vec![], categories: vec![] },
            EvalError::OutsidePositions { images: path(), classes: vec![], categories: 2, from_one: true },
            EvalError::UntrainedClasses { images: path(), train_images: path(), classes: vec![] },
            EvalError::UnknownClasses { images: path(), classes: vec![], known: String::new() },
            EvalError::NamedClasses { images: path(), classes: vec![], known: String::new() },
            EvalError::NumberedClasses { images: path(), known: String::new() },
        ];
        let runs = inputs.map(RunError::Input).chain(runs).map(anyhow::Error::from);
        let evals = evals.into_iter().chain(more).map(anyhow::Error::from);
        let occupied = [Remedy::Resume, Remedy::Overwrite].map(|remedy| {
            anyhow::Error::from(ArtifactError::Occupied { path: path(), what: "a cache".to_owned(), remedy })
        });
        runs.chain(evals).chain([ExportError::NoEmbedding.into()]).chain(occupied).chain(sources()).collect()
    }

    /// Errors of sources that a field resolves.
    fn sources() -> Vec<anyhow::Error> {
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
        let errors = several.into_iter().chain::<[SourceError; 4]>(rows).chain::<[SourceError; 2]>(tables);
        errors.map(|error| anyhow::Error::from(error).context("cannot list the images")).collect()
    }

    /// Fails if a text names a flag that no command has.
    fn require_flags(text: &str) {
        let command = Args::command();
        let flags: BTreeSet<&str> = command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .filter_map(clap::Arg::get_long)
            .collect();
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
        for flag in words.filter_map(|word| word.strip_prefix("--")) {
            assert!(flags.contains(flag), "{text}");
        }
    }

    #[test]
    fn hints_name_flags_that_exist() {
        for error in errors() {
            let hint = of_error(&error).unwrap_or_else(|| panic!("no hint for: {error}"));
            let message = with_hint(&format!("{error:#}"), Some(hint.clone()));
            assert_eq!(message.matches("hint: ").count(), 1, "{message}");
            require_flags(&hint);
        }
    }

    #[test]
    fn notes_name_the_flag_of_their_field() {
        for field in [FieldKind::Image, FieldKind::Label, FieldKind::Caption] {
            let note = of_note(&Note { text: "several".to_owned(), field: Some(field) });
            assert_eq!(note, format!("several (choose with --{field}-field)"));
            require_flags(&note);
        }
        assert_eq!(of_note(&Note::from("columns are separated by tabs")), "columns are separated by tabs");
    }

    #[test]
    fn a_hint_takes_the_place_of_the_librarys() {
        let inner = ArtifactError::Occupied {
            path: "banks/a".into(),
            what: "a bank".to_owned(),
            remedy: Remedy::Overwrite,
        };
        assert_eq!(
            hinted(&AlignError::Bank(BankError::Artifact(inner))),
            "banks/a already holds a bank\nhint: give --overwrite to replace it, or another folder"
        );
    }

    #[test]
    fn an_input_that_nothing_reads_is_hinted_with_its_readers() {
        let unused = EvalError::UnusedInput { input: EvalInput::Bank, chosen: "knn".to_owned() };
        assert_eq!(of_eval(&unused).unwrap(), "leave it out, or add zero-shot or agreement to --protocol");
        let unused = InputError::Unused { input: Input::Features, chosen: "lgd:1".to_owned() };
        assert_eq!(of_input(&unused).unwrap(), "leave it out, or add kdep to --objective");
    }
}
