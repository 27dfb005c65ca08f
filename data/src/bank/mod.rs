//! The bank: category prototypes and, row for row with the cache, the similarity distributions of each view.
//!
//! ```text
//! banks/NAME/bank.json               manifest; written last
//! banks/NAME/bank.safetensors        tsb, vsb: f32 [C, D]; counts: i64 [C]; center: f32 [D] if the bank is centered
//! banks/NAME/targets-00000.parquet   row for row with views-00000.parquet of the cache:
//!     pseudo_category: i32
//!     dense:  text_distribution: f16 [C] · visual_distribution: f16 [C + 1], slot 0 the positive
//!     top K:  text_index: i32 [K] · text_probability: f16 [K] · visual_index: i32 [K] · visual_probability: f16 [K]
//! ```
//!
//! Wide columns are laid out for reading in place ([`crate::column`]). Top-K probabilities come from the full softmax
//! and are sorted, largest first. The manifest records the share of the probability mass that they capture.

mod center;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};

use crate::manifest::{ContentHash, FileEntry};

pub use center::{Center, CenterRecord, CenteredSide};
pub use reader::{Bank, DistributionColumn, Targets};
pub use writer::{BankWriter, Distribution, TargetShardWriter};

/// Bank format version that this program writes and reads.
pub const BANK_VERSION: u32 = 1;

const MANIFEST: &str = "bank.json";
const PROTOTYPES: &str = "bank.safetensors";

/// Storage format of the distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Storage {
    /// Stores every probability.
    Dense,
    /// Stores the `k` largest probabilities with their indices.
    TopK {
        /// Number of stored entries per row.
        k: usize,
    },
}

/// How the visual semantics bank (VSB) is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VsbMode {
    /// The mean embedding of the views of each pseudo-category (docs/methods.md section 1, LGKA).
    Mean,
}

/// How the visual distributions treat a category that no view was assigned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnassignedSlots {
    /// Its slot has probability 0 and is left out of the softmax.
    Masked,
    /// Its slot is kept, with a zero prototype.
    Kept,
}

/// One category of a bank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryRecord {
    /// Category name.
    pub name: String,
    /// Phrases to insert into the templates: the synonyms, and the name unless the category has complete prompts.
    pub synonyms: Vec<String>,
    /// Complete prompts, used without a template.
    pub prompts: Vec<String>,
    /// Identifiers that the category file gives beside the name, such as `n01440764`. Classes may be named by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Number that the category file gives the category, from 0 or 1; none if the file has no numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Number of views with this pseudo-category.
    pub count: u64,
}

/// Share of the full softmax that the stored entries capture; 1 for dense storage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapturedMass {
    /// Mean over all rows.
    pub mean: f64,
    /// Minimum over all rows.
    pub min: f64,
}

/// Inputs and settings of a bank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BankRecord {
    /// Hash of the cache's manifest.
    pub cache: ContentHash,
    /// Hash of the text encoder: model, tokenizer and resolved settings.
    pub text_encoder: ContentHash,
    /// Hash under which the cache records the same text encoder, if it does. Banks of before have none: their
    /// `text_encoder` was that of the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_text_encoder: Option<ContentHash>,
    /// Hash of the manifest of the bridge behind the text encoder; none without a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<ContentHash>,
    /// Embedding width D.
    pub dim: usize,
    /// Categories, in slot order.
    pub categories: Vec<CategoryRecord>,
    /// Prompt templates.
    pub templates: Vec<String>,
    /// How embeddings were centered before similarities were computed; none if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center: Option<CenterRecord>,
    /// Temperature tau_t of the text and visual distributions.
    pub teacher_temperature: f32,
    /// How the VSB was computed.
    pub vsb: VsbMode,
    /// How the visual distributions treat categories without views.
    pub unassigned_slots: UnassignedSlots,
    /// Names of the categories without views.
    pub unassigned: Vec<String>,
    /// Storage format of the distributions.
    pub storage: Storage,
    /// Mass that the text distributions capture.
    pub text_mass: CapturedMass,
    /// Mass that the visual distributions capture.
    pub visual_mass: CapturedMass,
}

/// Contents of `bank.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BankManifest {
    /// Format version, [`BANK_VERSION`].
    pub format_version: u32,
    /// Inputs and settings.
    #[serde(flatten)]
    pub record: BankRecord,
    /// Rows in all target shards.
    pub rows: usize,
    /// Entry of `bank.safetensors`.
    pub prototypes: FileEntry,
    /// Target shards, in the order of the cache's shards.
    pub targets: Vec<FileEntry>,
}
