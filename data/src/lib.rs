//! Views, on-disk formats and memory-mapped columns: everything that passes between the stages of `lgd`.
//!
//! - [`source`], [`image`], [`view`], [`render`]: from a path to the pixels that teacher and student both see;
//! - [`manifest`], [`mod@column`], [`cache`], [`bank`], [`kdep`]: the folders on disk;
//! - [`projection`]: principal axes, fitted on streamed rows; [`spread`]: some views that stand for all;
//! - [`job`]: progress and interruption of a running stage.

pub mod bank;
pub mod cache;
pub mod column;
pub mod error;
pub mod image;
pub mod job;
pub mod kdep;
pub mod manifest;
mod mapped;
mod open_files;
mod positioned;
pub mod projection;
pub mod render;
pub mod source;
pub mod spread;
mod table;
mod target_files;
pub mod view;

pub use error::ArtifactError;
