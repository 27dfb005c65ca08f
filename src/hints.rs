//! `hint:` lines that name flags and commands, for errors of the library crates, which do not know the command line.

use std::error::Error;

use lgd_data::source::SourceError;
use lgd_train::error::TrainError;
use lgd_train::eval::{EvalError, EvalInput, Protocol};
use lgd_train::export::ExportError;
use lgd_train::inference::OutputKind;
use lgd_train::loader::LoaderError;
use lgd_train::objective::{Input, InputError, ObjectiveError, ObjectiveKind};
use lgd_train::predict::PredictError;
use lgd_train::run::RunError;

/// The hint for an error; `None` if there is none or the message already has one.
pub fn of_error(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(of_cause)
}

/// An error's message, followed by its hint if there is one.
pub fn hinted(error: &(dyn Error + 'static)) -> String {
    match of_cause(error) {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
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
        return of_predict(error);
    }
    if let Some(SourceError::SeveralFields { kind, .. } | SourceError::NoField { kind, .. }) =
        cause.downcast_ref()
    {
        return Some(format!("name the field with --{kind}-field"));
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

fn of_run(error: &RunError) -> Option<String> {
    let hint = match error {
        RunError::Input(error) => return of_input(error),
        RunError::Loader(LoaderError::NeedsImages { size, .. }) => {
            return Some(format!(
                "give --images, or make a cache with --store-views and --store-size {size}"
            ));
        }
        RunError::Interrupted { dir, .. } => {
            return Some(format!("{} holds a checkpoint; go on with --resume", dir.display()));
        }
        RunError::Loader(LoaderError::Image { .. }) => {
            "the image was readable when the cache was made; restore it and go on with --resume"
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
        EvalError::Predict(error) => return of_predict(error),
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
                "build a bank of these names, the categories are {}; or evaluate other names with --protocol agreement",
                categories.join(", ")
            ));
        }
        EvalError::OutsidePositions { .. } => {
            "count labels from 0 in the order of the names, or give a list path,label with these names"
        }
        EvalError::UntrainedClasses { .. } => "add them to --train-images, or leave them out of --images",
        EvalError::UnknownClasses { known, .. } => {
            return Some(format!(
                "leave them out, or evaluate by --protocol knn; the student tells apart {known}"
            ));
        }
        EvalError::MissingInput { input, .. } => match input {
            EvalInput::Feature => "export it again: `lgd export` writes the output feature",
            EvalInput::Embedding => {
                "evaluate it by --protocol knn,linear, or by labels if it has a classifier"
            }
            EvalInput::Classifier => {
                "train with --objective supervised, or evaluate by zero-shot, knn or linear"
            }
            EvalInput::Bank => "give --bank",
            EvalInput::TeacherEmbeddings => "give --cache",
            EvalInput::TrainImages => "give --train-images",
        },
        EvalError::NoCenterView { .. } => "extract the images with --with-center",
        EvalError::NamedClasses { .. } => "give a list with numeric labels, or evaluate by --protocol knn",
        EvalError::NumberedClasses { .. } => {
            "give class folders or a list with these names, or evaluate by --protocol knn"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn of_predict(error: &PredictError) -> Option<String> {
    let hint = match error {
        PredictError::NoBank { .. } => "give the folder that `lgd bank` made with --bank",
        PredictError::UnusedBank { .. } => "leave --bank out; the student chooses among its own classes",
        PredictError::NoNames { .. } => "`lgd embed` writes its features",
        PredictError::NoOutput { kind: OutputKind::Embedding, .. } => "write its features: --what features",
        PredictError::NoOutput { .. } => "write another output with --what",
        PredictError::BankWidth { .. } => "give a bank made with the text encoder of the student's teacher",
        PredictError::NameCount { .. } => "export the student again, and keep the metadata when converting",
        PredictError::KeyLine { .. } => "rename the file, or end the name of --out in .parquet",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::args::Args;
    use clap::CommandFactory;

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
            EvalInput::Feature,
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
            EvalError::UnmatchedClasses { images: path(), classes: vec![], categories: vec![] },
            EvalError::OutsidePositions { images: path(), classes: vec![], categories: 2, from_one: true },
            EvalError::UntrainedClasses { images: path(), train_images: path(), classes: vec![] },
            EvalError::UnknownClasses { images: path(), classes: vec![], known: String::new() },
            EvalError::NamedClasses { images: path(), classes: vec![], known: String::new() },
            EvalError::NumberedClasses { images: path(), known: String::new() },
        ];
        let outputs = || "feature [8]".to_owned();
        let predicts = [
            PredictError::NoBank { path: path() },
            PredictError::UnusedBank { path: path(), outputs: outputs() },
            PredictError::NoNames { path: path(), outputs: outputs() },
            PredictError::NoOutput { path: path(), kind: OutputKind::Embedding, outputs: outputs() },
            PredictError::NoOutput { path: path(), kind: OutputKind::Feature, outputs: outputs() },
            PredictError::BankWidth { bank: path(), expected: 8, got: 4 },
            PredictError::NameCount { path: path(), kind: OutputKind::Scores, expected: 8, got: 4 },
            PredictError::KeyLine { key: "a\nb".to_owned() },
        ]
        .map(anyhow::Error::from);
        let runs = inputs.map(RunError::Input).chain(runs).map(anyhow::Error::from);
        let evals = evals.into_iter().chain(more).map(anyhow::Error::from);
        runs.chain(evals).chain(predicts).chain([ExportError::NoEmbedding.into()]).collect()
    }

    #[test]
    fn hints_name_flags_that_exist() {
        let command = Args::command();
        let flags: BTreeSet<&str> = command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .filter_map(clap::Arg::get_long)
            .collect();
        for error in errors() {
            let hint = of_error(&error).unwrap_or_else(|| panic!("no hint for: {error}"));
            assert!(!error.to_string().contains("hint:"), "two hints: {error}");
            let words = hint.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
            for flag in words.filter_map(|word| word.strip_prefix("--")) {
                assert!(flags.contains(flag), "{hint}");
            }
        }
    }

    #[test]
    fn an_input_that_nothing_reads_is_hinted_with_its_readers() {
        let unused = EvalError::UnusedInput { input: EvalInput::Bank, chosen: "knn".to_owned() };
        assert_eq!(of_eval(&unused).unwrap(), "leave it out, or add zero-shot or agreement to --protocol");
        let unused = InputError::Unused { input: Input::Features, chosen: "lgd:1".to_owned() };
        assert_eq!(of_input(&unused).unwrap(), "leave it out, or add kdep to --objective");
    }
}
