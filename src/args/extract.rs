//! Flags of `lgd extract`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use lgd_data::render::Resample;
use lgd_data::source::KINDS;
use lgd_data::view::Policy;
use lgd_train::parse::{at_least_one, bounded, fraction};

use super::{FieldArgs, JsonArgs, OutputArgs, PartitionArg, RecipeArgs, RuntimeArgs};

/// Flags of `lgd extract`.
#[derive(ClapArgs)]
pub struct ExtractArgs {
    #[arg(long, value_name = "PATH", help = format!("Images: {KINDS}"))]
    #[allow(missing_docs, reason = "a doc comment here would replace the help text")]
    pub images: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub fields: FieldArgs,
    /// Field of the captions: a column, the ending of the files beside the images, or a key of their `.json`. Required
    /// only if there are several.
    #[arg(long, value_name = "NAME", requires = "captions")]
    pub caption_field: Option<String>,
    /// Teacher folder, as an exporter wrote it or with teacher.toml.
    #[arg(long, value_name = "DIR")]
    pub teacher: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub recipe: RecipeArgs,
    /// Views per image, K.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub views: u16,
    /// Make view 0 the plain center crop.
    #[arg(long)]
    pub with_center: bool,
    /// Share of the resized side that the center crop keeps; the resize is the teacher's. Default: the value in the
    /// teacher's files, else 0.875 (torchvision's 224 of 256; CLIP's is 1).
    #[arg(long, value_parser = fraction, requires = "with_center")]
    pub center_fraction: Option<f32>,
    /// Filter of every resize, for the teacher and the students: nearest, bilinear, bicubic or lanczos. Default: the
    /// teacher's.
    #[arg(long, value_name = "FILTER")]
    pub resample: Option<Resample>,
    /// Policy of the other views: moco-v2 (crop, color, gray, blur, flip), crop-flip or kdep (crop from 0.08, flip,
    /// slight color, PCA lighting).
    #[arg(long, default_value = "moco-v2")]
    pub policy: Policy,
    /// Seed of the views.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also store every view's pixels in the cache, so that training opens no images: raw (the rendered pixels, bit
    /// for bit) or jpeg (1/6 to 1/16 of the size, slightly different pixels). The size is printed before extraction
    /// starts.
    #[arg(long, value_name = "ENCODING")]
    pub store_views: Option<StoreViews>,
    /// Side of the stored views in pixels. Use the --size of the later training.
    #[arg(long, value_name = "PX", default_value_t = 224, requires = "store_views",
        value_parser = clap::value_parser!(u32).range(16..=4096))]
    pub store_size: u32,
    /// Quality of --store-views jpeg, 1 to 100.
    #[arg(long, value_name = "Q", default_value_t = 90, requires = "store_views",
        value_parser = clap::value_parser!(u8).range(1..=100))]
    pub store_quality: u8,
    /// Also cache the teacher's pooled feature before its last activation (`features` in teacher.toml), which KDEP
    /// trains on.
    #[arg(long)]
    pub features: bool,
    /// Also cache the teacher's patch tokens (`tokens` in teacher.toml), which H-GKD trains on: f16, int8 (half the
    /// size) or svd:DIM (projected to DIM values per token). The size is printed before extraction starts.
    #[arg(long, value_name = "STORAGE")]
    pub tokens: Option<StoreTokens>,
    /// With --tokens svd:DIM: number of views to fit the projection to, an evenly spaced sample of all views
    /// [default: 2048].
    #[arg(long, value_name = "N", requires = "tokens", value_parser = at_least_one)]
    pub tokens_fit_views: Option<usize>,
    /// Maximum size of tokens and features, for example 500MB, 50GB or 2TB.
    #[arg(long, value_name = "BYTES", default_value = "100GB", value_parser = bytes)]
    pub tokens_limit: u64,
    /// Also cache a text embedding of every image's caption. Captions come from a CSV list with a column caption
    /// (text, embedded by the teacher's text encoder) or caption_embedding (JSON arrays of numbers), from the `.txt`
    /// beside every image in TAR archives, or from such a column of Parquet files (also text; embeddings as lists).
    #[arg(long)]
    pub captions: bool,
    /// Images per encoder batch. Default: the model's fixed batch, else 32 on the CPU and 256 on a GPU.
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
    /// Samples per shard. An interrupted run keeps complete shards only.
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
    pub shard_samples: usize,
    /// Threads that decode and render; 0 means all cores.
    #[arg(long, default_value_t = 0, value_parser = crate::args::threads)]
    pub decode_threads: usize,
    /// Process only part I of N of the shards, I from 0 to N - 1. All parts share the output folder. `auto` takes both from
    /// the variables of Slurm, Kubernetes (as auto/N), AWS Batch, torchrun or mpirun.
    #[arg(long, value_name = "I/N")]
    pub partition: Option<PartitionArg>,
    /// Share of rejected samples above which the exit code is 1.
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub max_rejects: f64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub runtime: RuntimeArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub report: JsonArgs,
}

/// Storage format of `--store-views`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreViews {
    /// Raw pixels.
    Raw,
    /// JPEG.
    Jpeg,
}

/// Storage format of `--tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTokens {
    /// f16.
    F16,
    /// i8, with one scale per token.
    Int8,
    /// Projected to this many values per token, in f16.
    Svd(usize),
}

impl std::str::FromStr for StoreTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("svd:").map(at_least_one)) {
            ("f16", _) => Ok(Self::F16),
            ("int8", _) => Ok(Self::Int8),
            (_, Some(dim)) => dim.map(Self::Svd),
            _ => Err(format!("expected f16, int8 or svd:DIM, got {text:?}")),
        }
    }
}

/// A share: 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    bounded(text, 0.0, 1.0)
}

/// Parses a number of bytes with a decimal unit: 800, 20kB, 1.5GB.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 5] = [("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("tb", 1e12), ("b", 1.0)];
    let lower = text.to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((&lower, 1.0));
    match number.trim().parse::<f64>() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and a limit past u64 is none"
        )]
        Ok(number) if number >= 0.0 && number.is_finite() => Ok((number * factor).round() as u64),
        _ => Err(format!("expected bytes such as 500MB or 50GB, got {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_decimal_units() {
        for (text, expected) in [
            ("0", 0),
            ("800", 800),
            ("12B", 12),
            ("1.5 kB", 1_500),
            ("50GB", 50_000_000_000),
            ("2tb", 2_000_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GB", "-1GB", "nanGB", "infB", "5GiB", "1,5GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_are_kept_in_three_ways() {
        assert_eq!(
            ["f16", "int8", "svd:128"].map(str::parse),
            [Ok(StoreTokens::F16), Ok(StoreTokens::Int8), Ok(StoreTokens::Svd(128))]
        );
        for text in ["", "f32", "svd", "svd:", "svd:0", "svd:x", "SVD:8"] {
            assert!(text.parse::<StoreTokens>().is_err(), "{text}");
        }
    }
}
