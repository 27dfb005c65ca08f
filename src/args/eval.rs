//! `lgd eval`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_train::eval::Protocol;
use lgd_train::parse::fraction;

/// `lgd eval`.
#[derive(ClapArgs)]
pub struct EvalArgs {
    /// The run folder.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Test images, labeled unless --protocol is agreement alone: a folder (class = first-level folder), TAR archives, Parquet files or a CSV list.
    /// Labels are the bank's names (case, blanks, `_` and `-` do not matter) or numbers, the names' positions in the bank.
    #[arg(long, value_name = "PATH")]
    pub images: PathBuf,
    /// A cache of the test images, made with --with-center; puts the teacher's figures beside the student's.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Labeled training images, which kNN and the linear probe need.
    #[arg(long, value_name = "PATH")]
    pub train_images: Option<PathBuf>,
    /// A cache of the training images, made with --with-center; for the teacher's kNN.
    #[arg(long, value_name = "DIR", requires_all = ["cache", "train_images"])]
    pub train_cache: Option<PathBuf>,
    /// The bank with the category names, for zero-shot and agreement; any bank of the same text encoder.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// What to measure: zero-shot, agreement (same choice among the bank's names as the teacher's, without labels), labels (a
    /// supervised student's own classifier), knn, linear; several with commas. Default: labels where the student ends in a classifier,
    /// zero-shot where it ends in an embedding and --bank is given, else knn.
    #[arg(long, value_delimiter = ',')]
    pub protocol: Vec<Protocol>,
    /// Share of the short side that the center crop keeps, of images without a cache; a cache has its own. Default: that of the other
    /// images' cache, else 0.875.
    #[arg(long, value_parser = fraction)]
    pub center_fraction: Option<f32>,
    /// Seed of the labeled subsets.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// CPU threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}
