//! Flags of `lgd export`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_train::parse::at_least_one;

use super::{CheckpointArgs, ReportArgs};

/// Flags of `lgd export`.
#[derive(ClapArgs)]
pub struct ExportArgs {
    /// Run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// ONNX file to write. Its input `images` is [batch, 3, S, S], RGB from 0 to 1, with S as in training; the model
    /// includes the teacher's normalization. Its outputs are `feature` and, depending on the objectives, `embedding`
    /// or `logits` (for labels).
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Bank of the run's text encoder. Adds the output `scores`, each image's cosine with each name, and stores the
    /// names in the metadata.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// Fixed number of images per run of the model, as some mobile runtimes require. Default: any number.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub checkpoint: CheckpointArgs,
    /// Replace an existing file.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub report: ReportArgs,
}
