//! Students, differentiable operations, objectives and the training loop.

pub mod checkpoint;
pub mod device;
pub mod engine;
pub mod error;
pub mod eval;
pub mod export;
pub mod loader;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod params;
pub mod rng;
pub mod run;
pub mod student;
mod student_sizes;
pub mod trainer;

pub use student_sizes::StudentSizes;
