//! Banks of category names: text and visual prototypes, and the similarity distributions of every view over them,
//! which a student learns from (docs/methods.md section 1).
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lgd_bank::{
//!     BankRequest, Categories, NameForm, PromptEncoder, TargetOptions, Templates, TextEncoderRule, build_bank,
//! };
//! use lgd_data::cache::Cache;
//! use lgd_data::job::Job;
//! use lgd_data::manifest::{Existing, Verify};
//!
//! /// `encoder` runs the teacher's text encoder, an `lgd_extract::TextEncoder`.
//! fn make_bank(encoder: &mut dyn PromptEncoder) -> Result<(), Box<dyn std::error::Error>> {
//!     let request = BankRequest {
//!         cache: &Cache::open(Path::new("cache"), Verify::Length)?,
//!         categories: &Categories::from_names(["cat", "fire truck"], NameForm::Normalized)?,
//!         templates: &Templates::default(),
//!         prompt_cache: Path::new("prompts"),
//!         out: Path::new("banks/pets"),
//!         existing: Existing::Refuse,
//!         text_encoder: TextEncoderRule::SameTeacher,
//!         center: None,
//!         targets: TargetOptions::default(),
//!     };
//!     let report = build_bank(&request, encoder, &Job::new())?;
//!     println!("{} views, {:?}", report.rows, report.counts);
//!     Ok(())
//! }
//! ```
//!
//! - [`categories`], [`prompts`]: read category and template files and make prompts;
//! - [`tsb`]: computes text prototypes from prompts, with a [`PromptEncoder`] and a prompt cache on disk;
//! - [`targets`], [`vsb`]: compute visual prototypes and the distributions of every row from cached image embeddings,
//!   in two passes;
//! - [`build`]: runs all of these and writes a bank's folder;
//! - [`mod@align`]: fits a linear bridge from any text encoder to an image encoder's space, for teachers without language;
//! - [`kdep`]: computes KDEP's targets (docs/methods.md section 2) from cached features; they form a bank of another
//!   kind.
//!
//! No image or image encoder is ever opened: a new category set costs two matrix products over the cache.

pub mod align;
pub mod build;
pub mod categories;
mod center;
mod distinct;
mod distributions;
mod encoder;
mod error;
pub mod kdep;
mod kernel;
mod options;
mod prompt_cache;
pub mod prompts;
mod rows;
mod spill;
pub mod targets;
mod text_file;
mod top_k;
pub mod tsb;
pub mod vsb;

pub use align::{
    AlignError, AlignReport, AlignRequest, AlignedEncoder, Head, ImageTargets, RidgePenalty, build_align,
};
pub use build::{BankReport, BankRequest, TextEncoderRule, build_bank};
pub use categories::{Categories, CategoryError, JsonEntries, NameForm, ReadOptions};
pub use encoder::PromptEncoder;
pub use error::{BankError, EncodeFailure, SegmentFault};
pub use kdep::{KdepReport, KdepRequest, build_kdep};
pub use options::{PowerTemperature, Temperature, TopK};
pub use prompts::{TemplateError, Templates};
pub use rows::EmbeddingRows;
pub use targets::{PassSeconds, TargetOptions, TargetSink, build_targets};
pub use text_file::{TextFault, TextFileError};
pub use tsb::{PromptCounts, Tsb, build_tsb};
pub use vsb::VsbPartial;
