//! Students, differentiable operations, objectives and the training loop.
//!
//! ```text
//! engine ◄── student ◄── objective ◄── loader ◄── run ◄── trainer, eval, export
//! ```
//!
//! An arrow points to what is used; nothing points the other way.

pub mod checkpoint;
pub mod device;
pub mod engine;
pub mod error;
pub mod eval;
pub mod export;
pub mod load_report;
pub mod loader;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod parse;
pub mod rng;
pub mod run;
pub mod student;
mod student_sizes;
pub mod trainer;

pub use student_sizes::StudentSizes;
