//! Where the shown figures come from: hashes, versions, files; and how long the work took.

use lgd_data::manifest::FileEntry;
use maud::{Markup, html};
use serde_json::Value;

use crate::page::{Column, Section, cell, hash, properties, table};
use crate::read::{Eval, Metrics, MetricsLine};
use crate::text::{bytes, count, decimal, percent, seconds};

/// Most files in the table.
const FILES: usize = 40;

/// Hashes and other identities, in order.
#[derive(Default)]
pub(crate) struct Provenance {
    rows: Vec<(String, Markup)>,
    files: Vec<FileEntry>,
}

impl Provenance {
    /// Adds a hash, if there is one.
    pub(crate) fn hash(mut self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        self.rows.extend(value.map(|value| (name.to_owned(), hash(value))));
        self
    }

    /// Adds a text, unless it is empty.
    pub(crate) fn text(mut self, name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            self.rows.push((name.to_owned(), cell(value)));
        }
        self
    }

    /// Adds files with their lengths and hashes.
    pub(crate) fn files<'a>(mut self, files: impl IntoIterator<Item = &'a FileEntry>) -> Self {
        self.files.extend(files.into_iter().cloned());
        self
    }

    /// The section.
    pub(crate) fn section(self) -> Section {
        let total = self.files.iter().map(|file| file.bytes).sum();
        let shown = self.files.iter().take(FILES);
        let rows =
            shown.map(|file| vec![cell(&file.name), cell(bytes(file.bytes)), hash(file.blake3)]).collect();
        let columns = [Column::Words("file"), Column::Number("size"), Column::Words("BLAKE3")];
        let body = html! {
            (properties("Identities", &self.rows))
            @if !self.files.is_empty() {
                (table("Files", &columns, rows))
                p.note {
                    (count(self.files.len())) " files, " (bytes(total)) " in all"
                    @if self.files.len() > FILES { "; the first " (FILES) " are listed" }
                    "."
                }
            }
        };
        Section::new("provenance", "Provenance", body)
    }
}

/// Times of training, evaluation and of the command whose JSON is `printed`; `None` if none is known.
pub(crate) fn times(metrics: Option<&Metrics>, eval: Option<&Eval>, printed: &Value) -> Option<Section> {
    let mut rows = Vec::new();
    let mut add =
        |name: &str, value: Option<String>| rows.extend(value.map(|value| (name.to_owned(), cell(value))));
    let mean = |value: fn(&MetricsLine) -> Option<f64>| metrics.and_then(Metrics::last).and_then(value);
    add("training, first to last line of metrics", metrics.and_then(Metrics::seconds).map(seconds));
    add("training, images per second", mean(|line| line.images_per_second).map(|value| decimal(value, 1)));
    add(
        "training, waiting for data",
        mean(|line| line.data_wait).map(|share| format!("{}% of the time", percent(100.0 * share))),
    );
    add("evaluation", eval.and_then(|eval| eval.seconds).map(seconds));
    add(
        "evaluation, images per second",
        eval.and_then(|eval| eval.images_per_second).map(|value| decimal(value, 1)),
    );
    match &printed["seconds"] {
        Value::Object(stages) => {
            for (stage, value) in stages {
                add(stage, value.as_f64().map(seconds));
            }
        }
        value => add("the command", value.as_f64().map(seconds)),
    }
    add("views per second", printed["views_per_second"].as_f64().map(|value| decimal(value, 1)));
    (!rows.is_empty()).then(|| Section::new("times", "Times", properties("Times", &rows)))
}
