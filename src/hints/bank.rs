//! Hints for errors of banks, bridges and category files.

use lgd_bank::categories::Problem;
use lgd_bank::{AlignError, BankError};

pub(super) fn of_bank(error: &BankError) -> Option<String> {
    let hint = match error {
        BankError::TextEncoder { .. } => {
            "use the teacher folder that the cache was extracted with, or give --other-text-encoder if both share one space"
        }
        BankError::Width { .. } => {
            "use a teacher whose texts and images share one space; for a teacher without language, fit a bridge with \
             `lgd align` and give it with --align"
        }
        BankError::EqualsMean { .. } => {
            "leave out --center; if all embeddings are alike, the teacher is damaged or collapsed"
        }
        BankError::NoFeatures { .. } => "extract it again with `lgd extract --features`",
        BankError::TargetOverflow { .. } => "give a larger --pts-temperature or --pts-power",
        _ => return None,
    };
    Some(hint.to_owned())
}

pub(super) fn of_align(error: &AlignError) -> Option<String> {
    let hint = match error {
        AlignError::Bank(error) => return of_bank(error),
        AlignError::HeadChoice { matrices, .. } if matrices.is_empty() => {
            "save the weight of the last layer, [classes, width]"
        }
        AlignError::HeadChoice { wanted: Some(_), .. } => "give the name of one of them with --head-tensor",
        AlignError::HeadChoice { .. } => {
            "give its name with --head-tensor, and one name per row, in the order of the rows"
        }
        AlignError::HeadType { .. } => "give the name of the last layer's weight with --head-tensor",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Goes on where the library's hint ends.
pub(super) fn of_problem(problem: &Problem) -> Option<String> {
    let hint = match problem {
        Problem::Sentence { .. } => "or read all lists of the file as prompts with --json-prompts",
        problem if problem.is_name_verbatim() => "or take names exactly as written with --verbatim",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Errors that have a hint here.
#[cfg(test)]
pub(super) fn examples() -> Vec<anyhow::Error> {
    use lgd_data::manifest::ContentHash;

    let path = || "cache".into();
    let stages = [
        BankError::TextEncoder { path: path(), expected: ContentHash::of(b""), got: String::new() },
        BankError::Width { text: 2, image: 3 },
        BankError::EqualsMean { what: String::new() },
        BankError::NoFeatures { path: path() },
        BankError::TargetOverflow { row: 0, value: 1e6 },
    ];
    let choice = |wanted: Option<&str>, matrices: &[&str]| AlignError::HeadChoice {
        path: path(),
        wanted: wanted.map(str::to_owned),
        rows: 2,
        matrices: matrices.iter().map(|&name| name.to_owned()).collect(),
    };
    let heads = [
        choice(None, &[]),
        choice(None, &["a", "b"]),
        choice(Some("fc"), &["a"]),
        AlignError::HeadType { path: path(), tensor: "fc".to_owned(), got: "I64 [2, 3]".to_owned() },
        AlignError::Bank(BankError::Width { text: 2, image: 3 }),
    ];
    let stages = stages.into_iter().map(anyhow::Error::from);
    stages.chain(heads.into_iter().map(anyhow::Error::from)).chain(tests::names_with_alternatives()).collect()
}

#[cfg(test)]
mod tests {
    use lgd_bank::CategoryError;

    use super::*;
    use crate::hints::hinted;

    /// Errors whose own hint continues with a flag.
    pub(super) fn names_with_alternatives() -> Vec<anyhow::Error> {
        let text = || "0".to_owned();
        let problems = [
            Problem::Sentence { name: text(), text: text() },
            Problem::NotAName { text: text(), what: "a number", hint: "write the name", verbatim: true },
            Problem::Duplicate { name: text(), first: 0, verbatim: true },
            Problem::NearDuplicate { name: text(), other: text(), first: 0 },
            Problem::RepeatedNumber { number: 0, first: 1, in_names: true },
            Problem::Gap { first: 0, last: 2, missing: 1, in_names: true },
            Problem::Unnumbered { text: text(), in_names: true },
        ];
        let entry = |problem| CategoryError::Entry { path: "names.txt".into(), line: 1, problem };
        problems.into_iter().map(|problem| entry(problem).into()).collect()
    }

    #[test]
    fn a_hint_continues_with_a_flag_where_one_helps() {
        for error in names_with_alternatives() {
            let shown = hinted(error.as_ref());
            assert_eq!(shown.matches("hint: ").count(), 1, "{shown}");
            assert!(shown.contains("; or ") && shown.contains("--"), "{shown}");
        }
        let problem = Problem::Gap { first: 0, last: 2, missing: 1, in_names: false };
        let error = CategoryError::Entry { path: "names.json".into(), line: 1, problem };
        assert!(!hinted(&error).contains("--"), "verbatim names keep the numbers of an object: {error}");
    }
}
