//! Flags that several commands share: the student, and how its images are read.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_train::parse::{at_least_one, fraction};

use super::extract::share;
use super::{CheckpointArgs, FieldArgs};

/// The student: a run, or an exported file.
#[derive(ClapArgs)]
pub struct ModelArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub student: StudentArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub checkpoint: CheckpointArgs,
    /// With --onnx: ONNX Runtime shared library. Default: ORT_DYLIB_PATH, then beside lgd, then Python's onnxruntime.
    #[arg(long, value_name = "FILE", requires = "onnx")]
    pub onnxruntime: Option<PathBuf>,
    /// CPU threads; 0 means all cores.
    #[arg(long, value_parser = crate::args::threads, default_value_t = 0)]
    pub threads: usize,
}

/// One of the two.
#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
pub struct StudentArgs {
    /// Run folder.
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Student in an ONNX file, in place of --run: as `lgd export` wrote it, or quantized or converted by another tool.
    #[arg(long, value_name = "FILE")]
    pub onnx: Option<PathBuf>,
}

/// The images of `lgd predict` and `lgd embed`.
#[derive(ClapArgs)]
pub struct ImagesArgs {
    /// Images: files, folders, and every other source that `lgd extract --images` takes.
    #[arg(value_name = "IMAGES", required = true)]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub fields: FieldArgs,
    /// Share of the resized side that the center crop keeps. Default: that of the training cache, which an exported file
    /// records.
    #[arg(long, value_parser = fraction)]
    pub center_fraction: Option<f32>,
    /// Images per pass of the student.
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub batch: usize,
    /// Share of rejected images above which the exit code is 1.
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub max_rejects: f64,
}
