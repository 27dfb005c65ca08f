//! Images, views, and the artifact folders that pass between the stages of `lgd`: caches, banks and their memory-mapped
//! columns.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lgd_data::cache::Cache;
//! use lgd_data::manifest::Verify;
//!
//! let cache = Cache::open(Path::new("cache"), Verify::Length)?;
//! let mut embedding = vec![0.0; cache.dim()];
//! cache.embeddings().copy_row(0, &mut embedding);
//! println!("view 0 of {}: {embedding:?}", cache.views()?.keys[0]);
//! # Ok::<(), lgd_data::ArtifactError>(())
//! ```
//!
//! - [`source`], [`image`], [`view`], [`render`]: from a path to the pixels that the teacher and the student both see;
//! - [`manifest`], [`mod@column`], [`cache`], [`bank`], [`kdep`], [`align`]: artifact folders on disk;
//! - [`projection`]: principal axes, fitted on streamed rows; [`strided`]: evenly spaced samples of the views;
//! - [`job`]: progress and interruption of a running stage.
//!
//! The crate needs Unix, and is tested on Linux. Windows lacks two things that it needs: flushing a folder to disk, and
//! advice on memory maps.
//!
//! A source lists images in any supported layout and reads them one by one:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lgd_data::image::{DecodeLimits, decode};
//! use lgd_data::source::open_source;
//!
//! let source = open_source(Path::new("images"))?;
//! let limits = DecodeLimits::default();
//! let image = decode(&source.read(0, limits.max_bytes)?, &limits)?;
//! println!("{}: {} x {}", source.samples()[0].key, image.width(), image.height());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod align;
pub mod bank;
pub mod budget;
pub mod cache;
pub mod column;
pub mod contained;
pub mod error;
pub mod image;
pub mod job;
pub mod kdep;
mod lost_pages;
pub mod manifest;
mod mapped;
mod open_files;
pub mod ordinary;
mod parquet_file;
mod positioned;
pub mod projection;
pub mod quotes;
pub mod render;
pub mod source;
pub mod strided;
mod table;
mod target_files;
mod tensors;
pub mod view;

pub use error::ArtifactError;
pub use lost_pages::exit_on_lost_pages;
