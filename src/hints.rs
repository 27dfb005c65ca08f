//! `hint:` lines that name flags and commands, for errors of the library crates, which do not know the command line.

mod bank;
mod data;
mod extract;

use std::error::Error;

use lgd_bank::CategoryError;
use lgd_data::source::Note;
use lgd_train::error::TrainError;
use lgd_train::eval::{EvalError, EvalInput, Protocol};
use lgd_train::export::ExportError;
use lgd_train::inference::OutputKind;
use lgd_train::loader::LoaderError;
use lgd_train::objective::{Input, InputError, ObjectiveError, ObjectiveKind};
use lgd_train::predict::PredictError;
use lgd_train::run::RunError;

/// The hint for an error; `None` if there is none beyond that in its message.
pub fn of_error(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(of_cause)
}

/// The causes of an error on one line, outermost first, then the hint. Skips a cause that an outer message already contains.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string().trim_end().to_owned()) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    with_hint(&text, of_error(error))
}

/// An error's message, followed by its hint if there is one.
pub fn hinted(error: &(dyn Error + 'static)) -> String {
    with_hint(&error.to_string(), of_cause(error))
}

/// A message with a hint. A hint that begins with "or" continues the message's own hint, any other takes its place.
pub fn with_hint(message: &str, hint: Option<String>) -> String {
    match (hint, message.split_once("\nhint: ")) {
        (None, _) => message.to_owned(),
        (Some(hint), Some(_)) if hint.starts_with("or ") => format!("{message}; {hint}"),
        (Some(hint), own) => format!("{}\nhint: {hint}", own.map_or(message, |(text, _)| text)),
    }
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
        return of_predict(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return data::of_source(error);
    }
    if let Some(error) = data::artifact_in(cause) {
        return data::of_artifact(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return extract::of_extract(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return bank::of_bank(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return bank::of_align(error);
    }
    if let Some(CategoryError::Entry { problem, .. } | CategoryError::Listed { problem, .. }) =
        cause.downcast_ref()
    {
        return bank::of_problem(problem);
    }
    match cause.downcast_ref() {
        Some(ExportError::Run(error)) => return of_run(error),
        Some(ExportError::NoEmbedding) => return Some("export this one without --bank".to_owned()),
        Some(ExportError::NoLayout { .. }) => {
            return Some("export it with --layout timm, which transformers reads too, or torchvision: they have every student".to_owned());
        }
        Some(ExportError::NoFormat { .. }) => return Some("give --format pth".to_owned()),
        _ => {}
    }
    match cause.downcast_ref() {
        Some(ObjectiveError::Unknown { .. }) => Some("`lgd objectives` describes them".to_owned()),
        _ => None,
    }
}

fn of_run(error: &RunError) -> Option<String> {
    let hint = match error {
        RunError::Artifact(error) => return data::of_artifact(error),
        RunError::Input(error) => return of_input(error),
        RunError::Loader(LoaderError::NeedsImages { size, .. }) => {
            return Some(format!(
                "give --images, or make a cache with --store-views and --store-size {size}"
            ));
        }
        RunError::Interrupted { dir, .. } => {
            return Some(format!("{} holds a checkpoint; continue with --resume", dir.display()));
        }
        RunError::DamagedCheckpoint { earlier: Some(earlier), .. } => {
            return Some(format!("delete this file to continue from {}", earlier.display()));
        }
        RunError::DamagedCheckpoint { earlier: None, .. } | RunError::NoCheckpoint { .. } => {
            "start anew with --overwrite"
        }
        RunError::Occupied { .. } => {
            "give --resume to continue, --overwrite to start anew, or another folder"
        }
        RunError::Differs { .. } => {
            "resume with the inputs and settings that the run was begun with, or give --overwrite or another folder"
        }
        RunError::Unfinished { .. } => "the run is not finished; continue with `lgd train --resume`",
        RunError::NoBest { .. } => "leave --checkpoint out, or train with --holdout",
        RunError::Centering { .. } => {
            "make the bank from the run's own cache, with --center as in the run's own bank"
        }
        RunError::NothingToMeasure { .. } => "leave out --holdout or --val-cache, or extract labeled images",
        RunError::Loader(LoaderError::Image { .. }) => {
            "the image was readable when the cache was made; restore it and continue with --resume"
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
        PredictError::Run(error) => return of_run(error),
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
    use std::fs;
    use std::path::Path;

    use clap::CommandFactory;
    use lgd_bank::{AlignError, BankError};
    use lgd_data::ArtifactError;
    use lgd_data::error::Remedy;
    use lgd_data::source::FieldKind;
    use lgd_train::export::{Layout, WeightsFormat};
    use lgd_train::student::Architecture;

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
            RunError::Occupied { dir: path(), what: "a run" },
            RunError::Differs {
                path: path(),
                what: "the hash of the cache".to_owned(),
                expected: String::new(),
                got: String::new(),
            },
            RunError::NoCheckpoint { path: path() },
            RunError::DamagedCheckpoint { path: path(), reason: String::new(), earlier: None },
            RunError::DamagedCheckpoint { path: path(), reason: String::new(), earlier: Some(path()) },
            RunError::Unfinished { path: path() },
            RunError::NoBest { dir: path() },
            RunError::Centering { bank: path(), expected: String::new(), got: String::new() },
            RunError::NothingToMeasure { cache: path(), reason: "" },
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
        let layout = Layout::Detectron2;
        let exports = [
            ExportError::NoEmbedding,
            ExportError::NoLayout {
                layout,
                architecture: Architecture::MobileNetV2,
                reason: "it has none",
                known: vec![],
            },
            ExportError::NoFormat { layout, format: WeightsFormat::Safetensors },
        ];
        let libraries = [data::examples(), extract::examples(), bank::examples()].into_iter().flatten();
        runs.chain(evals).chain(predicts).chain(exports.map(anyhow::Error::from)).chain(libraries).collect()
    }

    /// The flags of all commands, without dashes.
    fn flags() -> BTreeSet<String> {
        let command = Args::command();
        let arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
        arguments.filter_map(clap::Arg::get_long).map(str::to_owned).collect()
    }

    /// Fails if a text names a flag, a command or a script that does not exist. Commands of cargo and pip in backticks have
    /// flags of their own.
    fn require_real(text: &str) {
        let foreign = |part: &&str| part.starts_with("cargo ") || part.starts_with("pip ");
        let own: String = text.split('`').filter(|part| !foreign(part)).collect();
        let words = own.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
        let known = flags();
        for flag in words.filter_map(|word| word.strip_prefix("--")) {
            assert!(known.contains(flag), "{text}");
        }
        for called in text.split("`lgd ").skip(1).filter_map(|rest| rest.split([' ', '`']).next()) {
            assert!(Args::command().find_subcommand(called).is_some(), "{text}");
        }
        let script = text.split('`').find(|part| part.starts_with("scripts/"));
        if let Some(path) = script.and_then(|command| command.split(' ').next()) {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_file(), "{text}");
        }
    }

    #[test]
    fn hints_name_flags_commands_and_scripts_that_exist() {
        for error in errors() {
            let hint = of_error(&error).unwrap_or_else(|| panic!("no hint for: {error}"));
            let message = message(&error);
            assert_eq!(message.matches("hint: ").count(), 1, "{message}");
            require_real(&hint);
        }
    }

    #[test]
    fn the_libraries_name_no_flag_of_this_program() {
        let known: BTreeSet<String> = flags().into_iter().map(|flag| format!("--{flag}")).collect();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folders = ["data/src", "bank/src", "extract/src"].map(|folder| root.join(folder)).to_vec();
        let mut read = 0;
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                read += 1;
                let text = fs::read_to_string(&path).unwrap();
                let is_text = |line: &&str| !line.trim_start().starts_with("//") && !line.contains("optimum");
                for line in text.lines().filter(is_text) {
                    let mut words = line.split([' ', '"', '\'', '`', ',', ';', ')', '=']);
                    assert_eq!(words.find(|word| known.contains(*word)), None, "{}: {line}", path.display());
                }
            }
        }
        assert!(read > 100, "{read} files");
    }

    #[test]
    fn notes_name_the_flag_of_their_field() {
        for field in [FieldKind::Image, FieldKind::Label, FieldKind::Caption] {
            let note = of_note(&Note { text: "several".to_owned(), field: Some(field) });
            assert_eq!(note, format!("several (choose with --{field}-field)"));
            require_real(&note);
        }
        assert_eq!(of_note(&Note::from("columns are separated by tabs")), "columns are separated by tabs");
    }

    #[test]
    fn a_hint_takes_the_place_of_the_librarys_or_continues_it() {
        let inner = ArtifactError::Occupied {
            path: "banks/a".into(),
            what: "a bank".to_owned(),
            remedy: Remedy::Overwrite,
        };
        assert_eq!(
            hinted(&AlignError::Bank(BankError::Artifact(inner))),
            "banks/a already holds a bank\nhint: give --overwrite to replace it, or another folder"
        );
        let or = || Some("or b".to_owned());
        assert_eq!(with_hint("x\nhint: a", or()), "x\nhint: a; or b");
        assert_eq!(with_hint("x", or()), "x\nhint: or b");
    }

    #[test]
    fn an_input_that_nothing_reads_is_hinted_with_its_readers() {
        let unused = EvalError::UnusedInput { input: EvalInput::Bank, chosen: "knn".to_owned() };
        assert_eq!(of_eval(&unused).unwrap(), "leave it out, or add zero-shot or agreement to --protocol");
        let unused = InputError::Unused { input: Input::Features, chosen: "lgd:1".to_owned() };
        assert_eq!(of_input(&unused).unwrap(), "leave it out, or add kdep to --objective");
    }
}
