//! Splits of a data set, such as training and test images, by the names of files and folders and by the values of columns.

use super::{Note, names};

/// Words that mark the splits of a data set, by the rules of Hugging Face's `datasets`.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Names of columns that mark the split of each row. Case, blanks, `_` and `-` do not matter.
const COLUMNS: [&str; 18] = [
    "split",
    "splits",
    "splitname",
    "datasplit",
    "datasetsplit",
    "subset",
    "partition",
    "set",
    "usage",
    "phase",
    "fold",
    "folds",
    "istrain",
    "istraining",
    "istrainingimage",
    "isval",
    "isvalid",
    "istest",
];

/// Words for numbered folders that are parts of a data set.
const PARTS: [&str; 6] = ["fold", "split", "subset", "partition", "shard", "chunk"];

/// Most values of a column that may be splits.
const MOST: usize = 64;

/// The split that the words of a name mark, if they do: the last one.
pub(super) fn split_word(name: &str) -> Option<&'static str> {
    let words = name.split(|letter: char| !letter.is_ascii_alphabetic()).map(str::to_ascii_lowercase);
    let split = |word: String| SPLITS.into_iter().find(|(_, words)| words.contains(&&*word));
    words.filter_map(split).next_back().map(|(split, _)| split)
}

/// Whether a folder is called as a numbered part of a data set is: `fold1`, `shard-003`.
pub(super) fn is_part(folder: &str) -> bool {
    let word = folder.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let plain = word.trim_end_matches(['-', '_', ' ']).to_ascii_lowercase();
    word.len() < folder.len() && PARTS.contains(&&*plain)
}

/// Whether a column is called as the splits of rows are.
pub(super) fn is_split_column(name: &str) -> bool {
    names::is_one_of(name.as_bytes(), &COLUMNS)
}

/// The values of a column that may mark the split of each row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SplitColumn {
    name: String,
    /// Distinct values as written, in order of their first rows; words for the same split are one value. At most one more
    /// than [`MOST`].
    values: Vec<String>,
}

impl SplitColumn {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), values: Vec::new() }
    }

    /// Name of the column.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds a value.
    ///
    /// # Errors
    /// An earlier value, if one of the two marks a split that the other one does not.
    pub(super) fn add(&mut self, value: &str) -> Result<(), String> {
        let (value, split) = (value.trim(), split_word(value));
        let same = |known: &String| known == value || (split.is_some() && split_word(known) == split);
        if self.values.len() > MOST || self.values.iter().any(same) {
            return Ok(());
        }
        let conflict = self.values.iter().find(|known| split.is_some() || split_word(known).is_some());
        let conflict = conflict.cloned().map_or(Ok(()), Err);
        self.values.push(value.to_owned());
        conflict
    }

    /// Notes that rows with several values are taken together. A column with many values holds something else.
    pub(super) fn note(&self) -> Option<Note> {
        let shown =
            self.values.iter().take(3).map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
        let more = if self.values.len() > 3 { ", ..." } else { "" };
        (2..=MOST).contains(&self.values.len()).then(|| {
            format!(
                "rows with {} values in column {} ({shown}{more}) are taken together; if the values are splits, keep the rows of one",
                self.values.len(),
                self.name
            )
            .into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_parts_are_told_from_classes() {
        for part in ["fold1", "Fold_02", "shard-003", "split 1", "chunk0"] {
            assert!(is_part(part), "{part}");
        }
        for class in ["fold", "1", "part1", "folder1", "fold1a", "split-bamboo"] {
            assert!(!is_part(class), "{class}");
        }
    }

    #[test]
    fn values_of_several_splits_are_a_conflict_and_others_a_note() {
        let added = |values: &[&str]| {
            let mut column = SplitColumn::new("set");
            let outcome = values.iter().try_for_each(|value| column.add(value));
            (outcome.err(), column.note().is_some())
        };
        assert_eq!(added(&["train", "training", " train"]), (None, false));
        assert_eq!(added(&["train", "train", "val"]).0.as_deref(), Some("train"));
        assert_eq!(added(&["Training", "PublicTest"]).0.as_deref(), Some("Training"));
        assert_eq!(added(&["extra", "test"]).0.as_deref(), Some("extra"));
        assert_eq!(added(&["0", "1", "0"]), (None, true));
        let many: Vec<String> = (0..100).map(|value| value.to_string()).collect();
        assert_eq!(added(&many.iter().map(String::as_str).collect::<Vec<_>>()), (None, false));
    }
}
