//! The progress of a run: `metrics.jsonl`, one JSON object per line, and what is derived from it: `metrics.csv` and
//! TensorBoard's event file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lgd_data::ArtifactError;
use lgd_data::error::IoContext;
use lgd_data::manifest::{AtomicFile, FileEntry, GrowingFile, write_atomic};
use serde::{Deserialize, Serialize};

use super::events::EventFile;
use super::{METRICS, TABLE};

/// The steps that a line summarizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsKind {
    /// The steps since the previous line, or since the run was resumed if that is later.
    Step,
    /// A whole epoch.
    Epoch,
}

/// One line. Losses are means over the steps that the line summarizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricsLine {
    /// The steps that the line summarizes.
    pub kind: MetricsKind,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Steps done so far over all epochs.
    pub step: usize,
    /// When the line was written, in seconds since 1970. Runs of earlier versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// Learning rate of the latest step.
    pub lr: f64,
    /// Total loss.
    pub loss: f64,
    /// Unweighted parts of the loss by name.
    pub parts: BTreeMap<String, f64>,
    /// Throughput in images per second since the run was started or resumed.
    pub images_per_second: f64,
    /// Share of the time that the step waited for data, 0 to 1.
    pub data_wait: f64,
    /// Figures on held-out samples after the epoch, if the run has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdout: Option<HoldoutFigures>,
}

/// Figures on samples that were not trained on. Absent ones do not apply to the student or lack labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldoutFigures {
    /// Samples evaluated.
    pub samples: usize,
    /// Mean cosine of the student's and the teacher's embedding, or for KDEP of the student's feature and its target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Percent of the samples for which student and teacher choose the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<BankPercent>,
    /// Percent of the labeled samples for which the student chooses the name of the label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zero_shot: Vec<BankPercent>,
    /// Percent of the labeled samples that the student's own classifier gets right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<f64>,
    /// Percent of the labeled samples that the vote of their 20 nearest held-out neighbors gets right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn: Option<f64>,
}

/// A percentage for the names of a bank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BankPercent {
    /// The bank: its folder's name, or its path if two banks have the same name.
    pub bank: String,
    /// 0 to 100.
    pub percent: f64,
}

/// The figure by which epochs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// Mean agreement over the banks, in percent.
    Agreement,
    /// Mean cosine.
    Cosine,
    /// Percent that the student's own classifier gets right.
    Labels,
    /// Percent that the neighbors' vote gets right.
    Knn,
}

impl ScoreKind {
    /// The score in words.
    pub fn describe(self, score: f32) -> String {
        match self {
            Self::Agreement => format!("agreement {score:.1}%"),
            Self::Cosine => format!("cosine {score:.3}"),
            Self::Labels => format!("accuracy {score:.1}%"),
            Self::Knn => format!("kNN {score:.1}%"),
        }
    }
}

/// How good an epoch is. Larger is better; `tie` decides between equal scores. Both are f32, which `run.json` holds
/// exactly: a parsed f64 may differ in its last bit, and a resumed run would choose another epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HoldoutScore {
    /// The figure.
    pub kind: ScoreKind,
    /// Its value.
    pub score: f32,
    /// Decides between equal scores, which are common with few samples: the cosine, or 0.
    pub tie: f32,
}

impl HoldoutFigures {
    /// The score: agreement if there is a bank, else the cosine, the classifier's accuracy, or the neighbors'. `None`
    /// without any figure.
    pub fn score(&self) -> Option<HoldoutScore> {
        let agreement = mean(self.agreement.iter().map(|bank| bank.percent));
        let (kind, score) = None
            .or(agreement.map(|value| (ScoreKind::Agreement, value)))
            .or(self.cosine.map(|value| (ScoreKind::Cosine, value)))
            .or(self.labels.map(|value| (ScoreKind::Labels, value)))
            .or(self.knn.map(|value| (ScoreKind::Knn, value)))?;
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
        let rounded = |value: f64| value as f32;
        Some(HoldoutScore { kind, score: rounded(score), tie: rounded(self.cosine.unwrap_or(0.0)) })
    }

    /// Every figure with its name, such as `agreement/animals`.
    fn named(&self) -> Vec<(String, f64)> {
        let single = [("cosine", self.cosine), ("labels", self.labels), ("knn", self.knn)];
        let single = single.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let banks = [("agreement", &self.agreement), ("zero_shot", &self.zero_shot)];
        let banks = banks.into_iter().flat_map(|(name, banks)| {
            banks.iter().map(move |bank| (format!("{name}/{}", bank.bank), bank.percent))
        });
        single.chain(banks).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a run has few banks")]
fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

impl MetricsLine {
    /// Every number of the line with its name, such as `loss`, `loss/text` or `holdout/cosine`.
    pub(super) fn scalars(&self) -> Vec<(String, f64)> {
        let fixed = [("lr", self.lr), ("loss", self.loss)];
        let speed = [("images_per_second", self.images_per_second), ("data_wait", self.data_wait)];
        let owned = |(name, value): (&str, f64)| (name.to_owned(), value);
        let parts = self.parts.iter().map(|(name, value)| (format!("loss/{name}"), *value));
        let holdout = self.holdout.iter().flat_map(HoldoutFigures::named);
        let holdout = holdout.map(|(name, value)| (format!("holdout/{name}"), value));
        let all = fixed.into_iter().map(owned).chain(parts).chain(speed.into_iter().map(owned));
        all.chain(holdout).collect()
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Items per second; 0 if no time has passed.
#[expect(clippy::cast_precision_loss, reason = "throughput needs no more than 53 bits")]
pub(crate) fn per_second(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// The losses of the first epoch and of the last one in the metrics file at `path`, which ended `epochs` epochs; `None`
/// for an epoch that is not in it.
pub(crate) fn epoch_losses(path: &Path, epochs: u32) -> Result<(Option<f64>, Option<f64>), ArtifactError> {
    let text = read_lines(path)?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<MetricsLine>(line).ok());
    let lines: Vec<MetricsLine> = lines.filter(|line| line.kind == MetricsKind::Epoch).collect();
    let of = |epoch: u32| lines.iter().find(|line| line.epoch == epoch).map(|line| line.loss);
    Ok((of(0), epochs.checked_sub(1).and_then(of)))
}

/// The text of a metrics file; empty if the file does not exist.
fn read_lines(path: &Path) -> Result<String, ArtifactError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.during("read", path),
    }
}

/// The open metrics file, and the files that are derived from it.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: GrowingFile,
    table: PathBuf,
    events: EventFile,
    /// All lines, for the table.
    lines: Vec<MetricsLine>,
}

impl MetricsFile {
    /// Opens the metrics of the run in `dir` and keeps the lines of an earlier call up to step `done`. Later steps will
    /// be repeated. The derived files are made anew.
    pub(crate) fn open(dir: &Path, done: usize) -> Result<Self, ArtifactError> {
        let path = dir.join(METRICS);
        let (mut kept, mut lines) = (String::new(), Vec::new());
        for text in read_lines(&path)?.split_inclusive('\n') {
            // A process that is killed while it writes leaves an incomplete last line.
            let line = serde_json::from_str::<MetricsLine>(text).ok().filter(|line| line.step <= done);
            if let Some(line) = line {
                kept.push_str(text);
                lines.push(line);
            }
        }
        let mut file = AtomicFile::create(&path)?;
        file.write_all(kept.as_bytes()).during("write", &path)?;
        let file = file.commit_growing()?;
        let mut events = EventFile::create(dir, now())?;
        for line in &lines {
            events.push(line)?;
        }
        let metrics = Self { path, file, table: dir.join(TABLE), events, lines };
        metrics.write_table()?;
        Ok(metrics)
    }

    /// Appends a line and flushes it to the disk. The table is written anew after an epoch.
    pub(crate) fn push(&mut self, line: &MetricsLine) -> Result<(), ArtifactError> {
        let mut text = serde_json::to_string(line).map_err(|error| ArtifactError::json(&self.path, error))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).during("write", &self.path)?;
        // A checkpoint may follow. After a loss of power it must not be of steps whose lines are lost.
        self.file.sync()?;
        self.events.push(line)?;
        self.lines.push(line.clone());
        if line.kind == MetricsKind::Epoch { self.write_table() } else { Ok(()) }
    }

    /// Flushes the files to the disk. Returns the manifest entry of `metrics.jsonl`.
    pub(crate) fn sync(&self) -> Result<FileEntry, ArtifactError> {
        self.write_table()?;
        self.events.sync()?;
        self.file.sync()
    }

    /// Writes `metrics.csv`: one row per line, one column per number that any line has.
    fn write_table(&self) -> Result<(), ArtifactError> {
        let rows: Vec<BTreeMap<String, f64>> =
            self.lines.iter().map(|line| line.scalars().into_iter().collect()).collect();
        let names: BTreeSet<&String> = rows.iter().flat_map(BTreeMap::keys).collect();
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let mut table = csv::Writer::from_writer(Vec::new());
        let fault = |error: csv::Error| ArtifactError::invalid(&self.table, error.to_string());
        let heading = ["kind", "epoch", "step", "time"].into_iter();
        table.write_record(heading.chain(names.iter().map(|name| name.as_str()))).map_err(fault)?;
        for (line, row) in self.lines.iter().zip(&rows) {
            let kind = if line.kind == MetricsKind::Epoch { "epoch" } else { "step" };
            let fixed = [kind.to_owned(), line.epoch.to_string(), line.step.to_string(), number(line.time)];
            let values = names.iter().map(|name| number(row.get(*name).copied()));
            table.write_record(fixed.into_iter().chain(values)).map_err(fault)?;
        }
        let bytes = table.into_inner().map_err(|error| fault(error.into_error().into()))?;
        write_atomic(&self.table, &bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize) -> MetricsLine {
        MetricsLine {
            kind: MetricsKind::Step,
            epoch: 0,
            step,
            time: Some(1e9),
            lr: 0.1,
            loss: 2.5,
            parts: BTreeMap::from([("text".to_owned(), 1.0)]),
            images_per_second: 10.0,
            data_wait: 0.25,
            holdout: None,
        }
    }

    fn figures() -> HoldoutFigures {
        let bank = |bank: &str, percent| BankPercent { bank: bank.to_owned(), percent };
        HoldoutFigures {
            samples: 12,
            cosine: Some(0.5),
            agreement: vec![bank("a", 40.0), bank("b", 60.0)],
            knn: Some(70.0),
            ..HoldoutFigures::default()
        }
    }

    #[test]
    fn an_epoch_that_the_file_lacks_has_no_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS);
        assert_eq!(epoch_losses(&path, 3).unwrap(), (None, None));
        let mut file = MetricsFile::open(dir.path(), 0).unwrap();
        file.push(&line(1)).unwrap();
        for epoch in [1, 2] {
            let loss = f64::from(epoch);
            file.push(&MetricsLine { kind: MetricsKind::Epoch, epoch, loss, ..line(20) }).unwrap();
        }
        assert_eq!(epoch_losses(&path, 3).unwrap(), (None, Some(2.0)));
        assert_eq!(epoch_losses(&path, 4).unwrap(), (None, None));
        file.push(&MetricsLine { kind: MetricsKind::Epoch, ..line(30) }).unwrap();
        assert_eq!(epoch_losses(&path, 2).unwrap(), (Some(2.5), Some(1.0)));
        assert_eq!(epoch_losses(&path, 0).unwrap(), (Some(2.5), None));
    }

    #[test]
    fn reopening_drops_what_will_be_done_again_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS);
        let mut file = MetricsFile::open(dir.path(), 0).unwrap();
        for step in [10, 20, 30] {
            file.push(&line(step)).unwrap();
        }
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"kind\":\"st").unwrap();
        let mut file = MetricsFile::open(dir.path(), 20).unwrap();
        file.push(&line(25)).unwrap();
        file.sync().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<usize> =
            text.lines().map(|line| serde_json::from_str::<MetricsLine>(line).unwrap().step).collect();
        assert_eq!(steps, [10, 20, 25]);
        let events = fs::read_dir(dir.path()).unwrap().filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("events.out.tfevents.")
        });
        assert_eq!(events.count(), 1, "the event file of the earlier call is replaced");
    }

    #[test]
    fn the_table_has_a_column_for_every_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(dir.path(), 0).unwrap();
        file.push(&line(1)).unwrap();
        file.push(&MetricsLine { kind: MetricsKind::Epoch, holdout: Some(figures()), ..line(2) }).unwrap();
        let text = fs::read_to_string(dir.path().join(TABLE)).unwrap();
        let expected = "\
kind,epoch,step,time,data_wait,holdout/agreement/a,holdout/agreement/b,holdout/cosine,holdout/knn,images_per_second,loss,loss/text,lr
step,0,1,1000000000,0.25,,,,,10,2.5,1,0.1
epoch,0,2,1000000000,0.25,40,60,0.5,70,10,2.5,1,0.1
";
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_of_earlier_versions_are_read_and_absent_figures_are_not_written() {
        let old = r#"{"kind":"step","epoch":0,"step":50,"lr":0.1,"loss":2.5,"parts":{"text":1.0},"images_per_second":10.0,"data_wait":0.25}"#;
        assert_eq!(serde_json::from_str::<MetricsLine>(old).unwrap(), MetricsLine { time: None, ..line(50) });
        let text = serde_json::to_string(&figures()).unwrap();
        let expected = r#"{"samples":12,"cosine":0.5,"agreement":[{"bank":"a","percent":40.0},{"bank":"b","percent":60.0}],"knn":70.0}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn epochs_are_compared_by_the_first_figure_that_there_is() {
        let score = |figures: HoldoutFigures| figures.score();
        let of = |kind, score, tie| Some(HoldoutScore { kind, score, tie });
        assert_eq!(score(figures()), of(ScoreKind::Agreement, 50.0, 0.5));
        let figures = HoldoutFigures { agreement: Vec::new(), ..figures() };
        assert_eq!(score(figures.clone()), of(ScoreKind::Cosine, 0.5, 0.5));
        let figures = HoldoutFigures { cosine: None, labels: Some(30.0), ..figures };
        assert_eq!(score(figures.clone()), of(ScoreKind::Labels, 30.0, 0.0));
        let figures = HoldoutFigures { labels: None, ..figures };
        assert_eq!(score(figures.clone()), of(ScoreKind::Knn, 70.0, 0.0));
        assert_eq!(score(HoldoutFigures { knn: None, ..figures }), None);
    }
}
