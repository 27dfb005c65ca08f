//! Flags of `lgd export`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_train::export::{Layout, OnnxInput, WeightsFormat};
use lgd_train::parse::at_least_one;

use super::{CheckpointArgs, JsonArgs};

/// Flags of `lgd export`.
#[derive(ClapArgs)]
pub struct ExportArgs {
    /// Run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// ONNX file to write, or the file or folder of --layout. The ONNX model includes the teacher's normalization. Its
    /// outputs are `feature` and, depending on the objectives, `embedding` or `logits` (for labels).
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Bank of the run's text encoder. Adds the outputs `scores`, each image's cosine with each name, and
    /// `probabilities`, and stores the names in the metadata.
    #[arg(long, value_name = "DIR", conflicts_with = "layout")]
    pub bank: Option<PathBuf>,
    /// Fixed number of images per run of the model, as some mobile runtimes require. Default: any number.
    #[arg(long, value_name = "IMAGES", value_parser = at_least_one, conflicts_with = "layout")]
    pub batch: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub checkpoint: CheckpointArgs,
    /// Side of the model's square input, pixels. Default: that of training.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(16..=4096), conflicts_with = "layout")]
    pub size: Option<u32>,
    /// Type and layout of the model's input `images`.
    #[arg(long, value_enum, default_value_t, conflicts_with = "layout")]
    pub input: OnnxInput,
    /// Add the feature maps at strides 4, 8, 16 and 32 as outputs `map_04` to `map_32`, [batch, C, H, W].
    #[arg(long, conflicts_with = "layout")]
    pub maps: bool,
    /// Store weights and compute in f16, which halves the file. Inputs and outputs stay f32 (or u8).
    #[arg(long, conflicts_with = "layout")]
    pub f16: bool,
    /// Write the weights for another framework instead of an ONNX file.
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    /// Format of the weights. Default: safetensors; pth for mmdet and detectron2.
    #[arg(long, value_enum, requires = "layout")]
    pub format: Option<WeightsFormat>,
    /// Replace existing files.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub report: JsonArgs,
}
