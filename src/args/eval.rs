//! Flags of `lgd eval`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_data::source::KINDS;
use lgd_train::eval::Protocol;
use lgd_train::parse::fraction;

use super::{CheckpointArgs, FieldArgs};

/// Flags of `lgd eval`.
#[derive(ClapArgs)]
pub struct EvalArgs {
    /// Run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub checkpoint: CheckpointArgs,
    #[arg(long, value_name = "PATH", help = images_help())]
    #[allow(missing_docs, reason = "a doc comment here would replace the help text")]
    pub images: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub fields: FieldArgs,
    /// Cache of the test images, made with --with-center. Adds the teacher's figures to the student's.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Labeled training images, required by kNN and the linear probe.
    #[arg(long, value_name = "PATH")]
    pub train_images: Option<PathBuf>,
    /// Cache of the training images, made with --with-center, for the teacher's kNN.
    #[arg(long, value_name = "DIR", requires_all = ["cache", "train_images"])]
    pub train_cache: Option<PathBuf>,
    /// Bank with the category names, for zero-shot and agreement. Any bank of the same text encoder works.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// What to measure, separated by commas: zero-shot, agreement (how often the student's choice among the bank's
    /// names equals the teacher's, without labels), labels (a supervised student's own classifier), knn, linear.
    /// Default: labels if the student ends in a classifier, zero-shot if it ends in an embedding and --bank is given,
    /// else knn.
    #[arg(long, value_delimiter = ',')]
    pub protocol: Vec<Protocol>,
    /// Share of the resized side that the center crop keeps, for images without a cache; a cache records its own crop.
    /// Default: that of the other images' cache, else of the cache that the run was trained from, else 0.875. The resize
    /// comes from the same cache.
    #[arg(long, value_parser = fraction)]
    pub center_fraction: Option<f32>,
    /// Seed of the labeled subsets.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// CPU threads; 0 means all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Help of `--images`.
fn images_help() -> String {
    format!(
        "Test images: {KINDS}. They must be labeled unless the only --protocol is agreement. A label is a name in the \
         bank (ignoring case, spaces, `_` and `-`) or a number, the name's position in the bank from 0; kNN and the linear probe match the classes of --train-images"
    )
}
