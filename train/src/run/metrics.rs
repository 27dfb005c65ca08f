//! `metrics.jsonl`: the progress of a run, one JSON object per line.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lgd_data::ArtifactError;
use lgd_data::error::IoContext;
use lgd_data::manifest::write_atomic;
use serde::{Deserialize, Serialize};

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
}

/// The losses of the first and of the last of `epochs` epochs in the metrics file at `path`; `None` for an epoch that is not in it.
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

/// The open metrics file.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: fs::File,
}

impl MetricsFile {
    /// Opens `path` and keeps the lines of an earlier call up to step `done`. Later steps will be repeated.
    pub(crate) fn open(path: &Path, done: usize) -> Result<Self, ArtifactError> {
        let text = read_lines(path)?;
        let mut kept = String::new();
        for line in text.split_inclusive('\n') {
            // A process that is killed while it writes leaves an incomplete last line.
            if serde_json::from_str::<MetricsLine>(line).is_ok_and(|line| line.step <= done) {
                kept.push_str(line);
            }
        }
        write_atomic(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).during("open", path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a line.
    pub(crate) fn push(&mut self, line: &MetricsLine) -> Result<(), ArtifactError> {
        let mut text = serde_json::to_string(line).map_err(|error| ArtifactError::json(&self.path, error))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).during("write", &self.path)
    }

    /// Flushes the file to the disk.
    pub(crate) fn sync(&self) -> Result<(), ArtifactError> {
        self.file.sync_all().during("flush", &self.path)
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
            lr: 0.1,
            loss: 2.5,
            parts: BTreeMap::from([("text".to_owned(), 1.0)]),
            images_per_second: 10.0,
            data_wait: 0.25,
        }
    }

    #[test]
    fn an_epoch_that_the_file_lacks_has_no_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        assert_eq!(epoch_losses(&path, 3).unwrap(), (None, None));
        let mut file = MetricsFile::open(&path, 0).unwrap();
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
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).unwrap();
        for step in [10, 20, 30] {
            file.push(&line(step)).unwrap();
        }
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"kind\":\"st").unwrap();
        let mut file = MetricsFile::open(&path, 20).unwrap();
        file.push(&line(25)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<usize> =
            text.lines().map(|line| serde_json::from_str::<MetricsLine>(line).unwrap().step).collect();
        assert_eq!(steps, [10, 20, 25]);
    }
}
