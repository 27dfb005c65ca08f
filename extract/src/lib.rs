//! Teachers, which run in ONNX Runtime, and the pipeline that fills a cache with their embeddings.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lgd_data::cache::{CacheBuilder, Partition};
//! use lgd_data::job::Job;
//! use lgd_data::manifest::Existing;
//! use lgd_data::source::open_source;
//! use lgd_data::view::{CenterCrop, Policy};
//! use lgd_extract::pipeline::ViewPlan;
//! use lgd_extract::{ExtractOptions, Extractor, Runtime, Teacher};
//!
//! let source = open_source(Path::new("images"))?;
//! let (teacher, runtime) = (Teacher::open(Path::new("teacher"))?, Runtime::load(None)?);
//! let mut extractor = Extractor::open(&teacher, &runtime, ExtractOptions::default())?;
//! let views = ViewPlan {
//!     views: 2,
//!     center: Some(CenterCrop::default()),
//!     policy: Policy::MocoV2,
//!     seed: 0,
//!     stored: None,
//! };
//! let config = extractor.cache_config(&*source, &views, extractor.aligned_shard_samples(10_000, 2));
//! let builder = CacheBuilder::open(Path::new("cache"), config, Existing::Refuse)?;
//! let summary = extractor.extract(&*source, &builder, Partition::WHOLE, &Job::new())?;
//! builder.finalize(&[])?;
//! println!("{} samples, {} rejected", summary.samples, summary.rejected);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`runtime`], [`device`]: the ONNX Runtime library, and the devices that models run on;
//! - [`teacher`]: a folder with an image model, a text model, a tokenizer and their settings;
//! - [`encoder`]: maps images or prompts to unit vectors, and runs exported students;
//! - [`pipeline`]: reads, decodes, renders, encodes and writes, with these stages overlapped through bounded queues.

pub mod device;
pub mod encoder;
pub mod error;
mod lfs;
pub mod pipeline;
pub mod runtime;
mod session;
pub mod stop;
pub mod teacher;

pub use device::ExecutionDevice;
pub use encoder::{EncoderOptions, ImageEncoder, OnnxStudent, TextEncoder};
pub use error::ExtractError;
pub use pipeline::{ExtractOptions, ExtractSummary, Extractor};
pub use runtime::Runtime;
pub use teacher::Teacher;
