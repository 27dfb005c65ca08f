//! Students, the engine that trains them on the CPU and on GPUs, objectives, the training loop, evaluation and export.
//!
//! ```
//! use candle_core::Device;
//! use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};
//!
//! let config = StudentConfig::new(Architecture::ResNet18, Head::Projection { dim: 16 }, 0);
//! let mut student = Student::new(config, &Device::Cpu)?;
//! let pixels = vec![0.5; 2 * 32 * 32 * 3];
//! let output = student.forward(Images::Normalized(&pixels), (2, 32, 32), Mode::Inference)?;
//! assert_eq!(output.pooled.dims(), [2, 512]);
//! assert_eq!(output.embedding()?.dims(), [2, 16]);
//! # Ok::<(), lgd_train::error::TrainError>(())
//! ```
//!
//! `lgd train` runs [`trainer::train`]. The examples of the workspace's root package show a custom training loop, a
//! custom [`Objective`](objective::Objective), and a student that runs in plain Candle.
//!
//! ```text
//! engine ◄── student ◄── objective ◄── loader ◄── run ◄── export, inference ◄── predict ◄── eval ◄── trainer
//! ```
//!
//! An arrow points from a module to the module it uses. No module uses one to its right.

pub mod checkpoint;
pub mod device;
pub mod engine;
pub mod error;
pub mod eval;
pub mod export;
pub mod inference;
pub mod initial;
pub mod load_report;
pub mod loader;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod parse;
pub mod predict;
pub mod rng;
pub mod run;
pub mod safetensors_file;
pub mod student;
mod student_sizes;
pub mod trainer;

pub use student_sizes::StudentSizes;
