//! Flags of `lgd eval`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_data::render::Resample;
use lgd_data::source::KINDS;
use lgd_train::eval::{EvalOptions, KnnSettings, Protocol};
use lgd_train::parse::{at_least_one, bounded, fraction};

use super::{FieldArgs, ModelArgs, RecipeArgs};

/// Flags of `lgd eval`.
#[derive(ClapArgs)]
pub struct EvalArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub model: ModelArgs,
    #[arg(long, value_name = "PATH", help = images_help())]
    #[allow(missing_docs, reason = "a doc comment here would replace the help text")]
    pub images: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub fields: FieldArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub recipe: RecipeArgs,
    /// Cache of the test images, made with --with-center. Adds the teacher's figures to the student's.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Labeled training images, required by kNN and the linear probe.
    #[arg(long, value_name = "PATH")]
    pub train_images: Option<PathBuf>,
    /// Cache of the training images, made with --with-center, for the teacher's kNN.
    #[arg(long, value_name = "DIR", requires_all = ["cache", "train_images"])]
    pub train_cache: Option<PathBuf>,
    /// Bank with the category names, for zero-shot and agreement. Any bank of the same text encoder works. Default: the bank
    /// that the run was trained with; an exported file brings the names of its own.
    #[arg(long, value_name = "DIR")]
    pub bank: Option<PathBuf>,
    /// What to measure, separated by commas: zero-shot, agreement (how often the student's choice among the bank's
    /// names equals the teacher's, without labels), labels (a supervised student's own classifier), knn, linear.
    /// Default: labels if the student ends in a classifier, zero-shot if it ends in an embedding and there is a bank (the
    /// run's own only without --train-images), else knn.
    #[arg(long, value_delimiter = ',')]
    pub protocol: Vec<Protocol>,
    /// Share of the resized side that the center crop keeps. Default: that of the training cache, which run and exported
    /// file record; an older run that does not takes that of --cache, else of --train-cache, else 0.875.
    #[arg(long, value_parser = fraction)]
    pub center_fraction: Option<f32>,
    /// Filter of the resize: nearest, bilinear, bicubic or lanczos. Default: that of the training cache, which run and
    /// exported file record.
    #[arg(long, value_name = "FILTER")]
    pub resample: Option<Resample>,
    /// knn: number of nearest training images that vote.
    #[arg(long, value_name = "K", default_value_t = KnnSettings::default().neighbors, value_parser = at_least_one)]
    pub k: usize,
    /// linear: shares of the training labels, separated by commas; one probe for each.
    #[arg(long, value_delimiter = ',', default_values_t = EvalOptions::default().fractions, value_parser = label_share)]
    pub fractions: Vec<f64>,
    /// linear: first seed of the labeled subsets, the order and the initial weights.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// linear: number of probes per share, with the seeds from --seed on. Their mean and standard deviation are shown.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,
    /// Also write the five most probable names of every test image, by zero-shot, agreement or labels. The extension
    /// chooses the format: csv, json, jsonl or parquet. An existing file is replaced.
    #[arg(long, value_name = "FILE")]
    pub predictions: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A share of labels: above 0, at most 1.
fn label_share(text: &str) -> Result<f64, String> {
    bounded(text, 1e-6, 1.0)
}

/// Help of `--images`.
fn images_help() -> String {
    format!(
        "Test images: {KINDS}. They must be labeled unless the only --protocol is agreement. A label is a name in the \
         bank (ignoring case, spaces, `_` and `-`) or a number, the name's position in the bank from 0; kNN and the linear probe match the classes of --train-images"
    )
}
