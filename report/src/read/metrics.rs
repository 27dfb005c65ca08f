//! `metrics.jsonl`: the progress of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use lgd_data::ArtifactError;
use lgd_data::error::IoContext;
use serde::Deserialize;
use serde_json::Value;

/// The steps that a line summarizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The steps since the previous line.
    Step,
    /// A whole epoch.
    Epoch,
}

/// One line.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct MetricsLine {
    /// The steps that the line summarizes.
    pub kind: Kind,
    /// Epoch, from 0.
    #[serde(default)]
    pub epoch: u32,
    /// Steps done so far over all epochs.
    #[serde(default)]
    pub step: usize,
    /// Learning rate.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Total loss.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Parts of the loss by name.
    #[serde(default)]
    pub parts: BTreeMap<String, f64>,
    /// Throughput in images per second.
    #[serde(default)]
    pub images_per_second: Option<f64>,
    /// Share of the time that steps waited for data, 0 to 1.
    #[serde(default)]
    pub data_wait: Option<f64>,
    /// Unix time in seconds.
    #[serde(default)]
    pub time: Option<f64>,
    /// Evaluation of held-out samples.
    #[serde(default)]
    holdout: Value,
}

impl MetricsLine {
    /// Number of held-out samples.
    pub(crate) fn holdout_samples(&self) -> Option<u64> {
        self.holdout["samples"].as_u64()
    }

    /// Mean cosine similarity of held-out embeddings to the teacher's.
    pub(crate) fn holdout_cosine(&self) -> Option<f64> {
        self.holdout["cosine"].as_f64()
    }

    /// Accuracy of the student's own classifier on held-out samples, 0 to 100.
    pub(crate) fn holdout_labels(&self) -> Option<f64> {
        self.holdout["labels"].as_f64()
    }

    /// kNN accuracy on held-out samples, 0 to 100.
    pub(crate) fn holdout_knn(&self) -> Option<f64> {
        self.holdout["knn"].as_f64()
    }

    /// Percentages by bank: `field` is "agreement" or "zero_shot".
    pub(crate) fn holdout_banks(&self, field: &str) -> Vec<(String, f64)> {
        let entries = self.holdout[field].as_array().into_iter().flatten();
        let entries = entries.filter_map(|entry| {
            let bank = entry["bank"].as_str().unwrap_or("bank");
            Some((bank.to_owned(), entry["percent"].as_f64()?))
        });
        entries.collect()
    }
}

/// The lines of a run, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// The lines that could be read.
    pub lines: Vec<MetricsLine>,
    /// Number of other lines.
    pub unreadable: usize,
    steps_per_epoch: usize,
}

impl Metrics {
    /// Reads the file at `path`; there are no lines if it does not exist.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] if it cannot be read.
    pub(crate) fn read(path: &Path, steps_per_epoch: usize) -> Result<Self, ArtifactError> {
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { steps_per_epoch, ..Self::default() })
            }
            read => Ok(Self::parse(&String::from_utf8_lossy(&read.during("read", path)?), steps_per_epoch)),
        }
    }

    fn parse(text: &str, steps_per_epoch: usize) -> Self {
        let written = text.lines().filter(|line| !line.trim().is_empty());
        let (mut lines, mut unreadable) = (Vec::new(), 0);
        for line in written {
            match serde_json::from_str::<MetricsLine>(line) {
                Ok(line) => lines.push(line),
                Err(_) => unreadable += 1,
            }
        }
        lines.sort_by_key(|line| line.step);
        Self { lines, unreadable, steps_per_epoch }
    }

    /// Lines of whole epochs.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = &MetricsLine> {
        self.lines.iter().filter(|line| line.kind == Kind::Epoch)
    }

    /// The latest line of an epoch, else the latest line.
    pub(crate) fn last(&self) -> Option<&MetricsLine> {
        self.epochs().last().or(self.lines.last())
    }

    /// Position of a line on the axis of epochs: epochs done.
    pub(crate) fn position(&self, line: &MetricsLine) -> f64 {
        match (line.kind, self.steps_per_epoch) {
            (Kind::Epoch, _) | (Kind::Step, 0) => f64::from(line.epoch) + 1.0,
            (Kind::Step, steps) => line.step as f64 / steps as f64,
        }
    }

    /// Values of the lines of one kind over epochs.
    pub(crate) fn series(&self, kind: Kind, value: impl Fn(&MetricsLine) -> Option<f64>) -> Vec<(f64, f64)> {
        let lines = self.lines.iter().filter(|line| line.kind == kind);
        lines.filter_map(|line| Some((self.position(line), value(line)?))).collect()
    }

    /// Seconds from the first line to the last, if lines have times.
    pub(crate) fn seconds(&self) -> Option<f64> {
        let mut times = self.lines.iter().filter_map(|line| line.time);
        let first = times.next()?;
        let last = times.next_back()?;
        (last > first).then_some(last - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_what_they_have() {
        let text = r#"{"kind":"step","epoch":0,"step":5,"lr":0.1,"loss":2.0,"parts":{"text":1.0},"new":[1]}
{"kind":"epoch","epoch":0,"step":10,"loss":1.5,"time":100.5,"holdout":{"samples":20,"cosine":0.5,"agreement":[{"bank":"ten","percent":40.0}],"knn":null}}
{"kind":"epoch","epoch":1,"step":20,"time":130.5,"holdout":"later"}
{"kind":"st"#;
        let metrics = Metrics::parse(text, 10);
        assert_eq!((metrics.lines.len(), metrics.unreadable), (3, 1));
        let line = &metrics.lines[1];
        assert_eq!(
            (line.holdout_samples(), line.holdout_cosine(), line.holdout_knn()),
            (Some(20), Some(0.5), None)
        );
        assert_eq!(line.holdout_banks("agreement"), [("ten".to_owned(), 40.0)]);
        assert!(line.holdout_banks("zero_shot").is_empty() && metrics.lines[2].holdout_cosine().is_none());
        assert_eq!(metrics.series(Kind::Step, |line| line.loss), [(0.5, 2.0)]);
        assert_eq!(metrics.series(Kind::Epoch, |line| line.loss), [(1.0, 1.5)]);
        assert_eq!(metrics.seconds(), Some(30.0));
    }
}
