//! The bank: category prototypes and, row for row with the cache, each view's similarity distributions.
//!
//! ```text
//! banks/NAME/bank.json               manifest; written last
//! banks/NAME/bank.safetensors        tsb, vsb: f32 [C, D]; counts: i64 [C]
//! banks/NAME/targets-00000.parquet   row for row with views-00000.parquet of the cache:
//!     pseudo_category: i32
//!     dense:  text_distribution: f16 [C] · visual_distribution: f16 [C + 1], slot 0 the positive
//!     top K:  text_index: i32 [K] · text_probability: f16 [K] · visual_index: i32 [K] · visual_probability: f16 [K]
//! ```
//!
//! Wide columns are laid out for reading in place ([`crate::column`]). Top-K probabilities are those of the full
//! softmax, largest first. The manifest records the share of the mass that they capture.

mod reader;
mod writer;

use serde::{Deserialize, Serialize};

use crate::manifest::{ContentHash, FileEntry};

pub use reader::{Bank, DistributionColumn, Targets};
pub use writer::{BankWriter, Distribution, TargetShardWriter};

/// The version of the bank format that this program writes and reads.
pub const BANK_VERSION: u32 = 1;

const MANIFEST: &str = "bank.json";
const PROTOTYPES: &str = "bank.safetensors";

/// How distributions are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Storage {
    /// Every probability.
    Dense,
    /// The `k` largest with their indices.
    TopK {
        /// Entries kept per row.
        k: usize,
    },
}

/// How the visual semantics bank is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VsbMode {
    /// The mean embedding of the views of each pseudo-category (docs/methods.md section 1, LGKA).
    Mean,
}

/// Treatment, in the visual distributions, of a category that no view was assigned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnassignedSlots {
    /// Its slot has probability 0 and takes no part in the softmax.
    Masked,
    /// Its slot stays, with a zero prototype.
    Kept,
}

/// One category of a bank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryRecord {
    /// The name.
    pub name: String,
    /// Phrases for the templates: the name, unless there are complete prompts, and its synonyms.
    pub synonyms: Vec<String>,
    /// Complete prompts, used as they are.
    pub prompts: Vec<String>,
    /// Views whose pseudo-category it is.
    pub count: u64,
}

/// Share of the full softmax that the stored entries hold; 1 for dense storage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapturedMass {
    /// Mean over rows.
    pub mean: f64,
    /// Smallest over rows.
    pub min: f64,
}

/// Inputs and settings of a bank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BankRecord {
    /// Hash of the cache's manifest.
    pub cache: ContentHash,
    /// Hash of the text encoder: model, tokenizer and settings.
    pub text_encoder: ContentHash,
    /// Width D.
    pub dim: usize,
    /// The categories, in slot order.
    pub categories: Vec<CategoryRecord>,
    /// The prompt templates.
    pub templates: Vec<String>,
    /// Temperature tau_t of both distributions.
    pub teacher_temperature: f32,
    /// How the VSB was made.
    pub vsb: VsbMode,
    /// Treatment of categories without views.
    pub unassigned_slots: UnassignedSlots,
    /// Names of the categories without views.
    pub unassigned: Vec<String>,
    /// How the distributions are stored.
    pub storage: Storage,
    /// Captured mass of the text distributions.
    pub text_mass: CapturedMass,
    /// Captured mass of the visual distributions.
    pub visual_mass: CapturedMass,
}

/// `bank.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BankManifest {
    /// Version of the format, [`BANK_VERSION`].
    pub format_version: u32,
    /// Inputs and settings.
    #[serde(flatten)]
    pub record: BankRecord,
    /// Rows over all target shards.
    pub rows: usize,
    /// `bank.safetensors`.
    pub prototypes: FileEntry,
    /// The target shards, in the order of the cache's.
    pub targets: Vec<FileEntry>,
}
