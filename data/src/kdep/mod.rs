//! The KDEP bank: for each cache row, the target of the student's pooled feature (docs/methods.md section 2).
//!
//! ```text
//! banks/NAME/kdep.json               manifest; written last
//! banks/NAME/kdep.safetensors        the projection: mean f32 [F], components f32 [d, F], variances f64 [d], total f64 [1]
//! banks/NAME/targets-00000.parquet   row for row with views-00000.parquet of the cache:
//!     kdep_target: f16 [d]           sign(y) |y / T|^(1/n) of the projected feature y
//! ```
//!
//! The targets are laid out for reading in place ([`crate::column`]).

mod reader;
mod writer;

use serde::{Deserialize, Serialize};

use crate::manifest::{ContentHash, FileEntry};

pub use reader::KdepBank;
pub use writer::{KdepShardWriter, KdepWriter};

/// KDEP bank format version that this program writes and reads.
pub const KDEP_VERSION: u32 = 1;

const MANIFEST: &str = "kdep.json";
const PROJECTION: &str = "kdep.safetensors";
const COLUMN: &str = "kdep_target";

/// Magnitudes of the targets before they are rounded to f16. They show the mean squared error that a student starts
/// from, and how much dimensions differ after power temperature scaling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetScale {
    /// Root mean square of all values.
    pub rms: f64,
    /// Largest magnitude.
    pub largest: f64,
    /// Root mean square of the dimension in which it is largest.
    pub strongest_dim_rms: f64,
    /// Root mean square of the dimension in which it is smallest.
    pub weakest_dim_rms: f64,
}

/// Inputs and settings of a KDEP bank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KdepRecord {
    /// Hash of the cache's manifest.
    pub cache: ContentHash,
    /// Name of the teacher output that the cache stores as features.
    pub output: String,
    /// Feature width F.
    pub features: usize,
    /// Target width d, the width of the student's pooled feature.
    pub dim: usize,
    /// Temperature T of power temperature scaling.
    pub pts_temperature: f32,
    /// Power n of power temperature scaling.
    pub pts_power: f32,
    /// Number of rows that the projection was fitted to.
    pub fitted_rows: usize,
    /// Share of the variance of all features about the projection's mean that the projection keeps.
    pub explained_variance: f64,
    /// Number of target dimensions with nonzero variance.
    pub rank: usize,
    /// Magnitudes of the targets.
    pub scale: TargetScale,
}

/// Contents of `kdep.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KdepManifest {
    /// Format version, [`KDEP_VERSION`].
    pub format_version: u32,
    /// Inputs and settings.
    #[serde(flatten)]
    pub record: KdepRecord,
    /// Rows in all target shards.
    pub rows: usize,
    /// Entry of `kdep.safetensors`.
    pub projection: FileEntry,
    /// Target shards, in the order of the cache's shards.
    pub targets: Vec<FileEntry>,
}
