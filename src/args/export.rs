//! `lgd export`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_train::parse::at_least_one;

/// `lgd export`.
#[derive(ClapArgs)]
pub struct ExportArgs {
    /// The run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// The ONNX file to write. Its input `images` is [batch, 3, S, S], RGB from 0 to 1, S as in training; the teacher's normalization is inside.
    /// Outputs: `feature`, and `embedding`, or `logits` where the student learned labels.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Any bank of the run's text encoder: adds the output `scores`, each image's cosines with its names, which are in the metadata.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// Images per run of the file, where that must be fixed, as runtimes on phones want it; default: any number.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
    /// Replace the file.
    #[arg(long)]
    pub overwrite: bool,
}
