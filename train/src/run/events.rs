//! TensorBoard's event file: the numbers of `metrics.jsonl`, for its charts.
//!
//! ```text
//! file   = record ...                                        the first one names the version
//! record = length u64 LE | masked CRC-32C of it u32 LE | event | masked CRC-32C of the event u32 LE
//! event  = wall_time double = 1, step int64 = 2, file_version string = 3 or summary = 5
//! ```
//!
//! Framing and checksums are those of a TFRecord (tensorflow/core/lib/io/record_writer), the messages those of
//! tensorboard/compat/proto/event.proto and summary.proto.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use lgd_data::ArtifactError;
use lgd_data::error::IoContext;
use prost::Message;

use super::metrics::{MetricsKind, MetricsLine, now};

/// What TensorBoard recognizes an event file by.
const PREFIX: &str = "events.out.tfevents.";

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An open event file.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates the event file of the run in `dir` and deletes an earlier one. `time`: seconds since 1970.
    pub(super) fn create(dir: &Path, time: f64) -> Result<Self, ArtifactError> {
        for entry in fs::read_dir(dir).during("list", dir)? {
            let path = entry.during("list", dir)?.path();
            if is_event_file(&path) {
                fs::remove_file(&path).during("delete", &path)?;
            }
        }
        let path = dir.join(format!("{PREFIX}{time:010.0}.lgd"));
        let file = OpenOptions::new().create_new(true).append(true).open(&path).during("create", &path)?;
        let mut events = Self { path, file };
        let version = Some("brain.Event:2".to_owned());
        events.write(&Event { wall_time: time, step: 0, file_version: version, summary: None })?;
        Ok(events)
    }

    /// Appends the numbers of a line. Those of an epoch are tagged `epoch/NAME`, those of steps `step/NAME`, and those of
    /// held-out samples `holdout/NAME`.
    pub(super) fn push(&mut self, line: &MetricsLine) -> Result<(), ArtifactError> {
        let group = if line.kind == MetricsKind::Epoch { "epoch" } else { "step" };
        let tag = |name: String| if name.starts_with("holdout/") { name } else { format!("{group}/{name}") };
        #[expect(clippy::cast_possible_truncation, reason = "scalars of TensorBoard are f32")]
        let scalar =
            |(name, value): (String, f64)| Scalar { tag: tag(name), simple_value: Some(value as f32) };
        let value = line.scalars().into_iter().map(scalar).collect();
        self.write(&Event {
            wall_time: line.time.unwrap_or_else(now),
            step: i64::try_from(line.step).unwrap_or(i64::MAX),
            file_version: None,
            summary: Some(Summary { value }),
        })
    }

    /// Flushes the file to the disk.
    pub(super) fn sync(&self) -> Result<(), ArtifactError> {
        self.file.sync_all().during("flush", &self.path)
    }

    fn write(&mut self, event: &Event) -> Result<(), ArtifactError> {
        self.file.write_all(&record(&event.encode_to_vec())).during("write", &self.path)
    }
}

/// Whether `path` is named like an event file that this program writes.
pub(super) fn is_event_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PREFIX) && name.ends_with(".lgd")
}

/// A TFRecord of `data`.
fn record(data: &[u8]) -> Vec<u8> {
    let length = u64::try_from(data.len()).unwrap_or(u64::MAX).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The masked CRC-32C of `data`: rotated right by 15 bits plus a constant, so that a checksum of data with checksums stays
/// a good one.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that `RecordWriter` of TensorBoard 2.21 writes for an empty record and for a version event.
    #[test]
    fn records_are_framed_with_masked_checksums() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&record(&[])), "000000000000000029039807d8ea82a2");
        let version = Some("brain.Event:2".to_owned());
        let event = Event { wall_time: 1.0, step: 0, file_version: version, summary: None };
        let expected = "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a";
        assert_eq!(hex(&record(&event.encode_to_vec())), expected);
    }
}
