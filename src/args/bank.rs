//! Flags of `lgd bank`.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory, ValueEnum};
use lgd_bank::TopK;
use lgd_data::bank::CenteredSide;
use lgd_data::manifest::Existing;
use lgd_train::parse::{at_least_one, temperature};
use lgd_train::student::Architecture;

use super::{Args, JsonArgs, PromptArgs, RecipeArgs, RuntimeArgs};

/// Flags of `lgd bank`.
#[derive(ClapArgs)]
pub struct BankArgs {
    /// Cache folder.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// Source of the targets: names (the default; requires --categories and --teacher) or kdep (the cached features;
    /// requires --dim).
    #[arg(long, value_enum, requires_if("kdep", "dim"))]
    pub target: Option<TargetArg>,
    /// Category names: .txt (one per line), .csv (name, then synonyms, or columns under titles), .json (an object from
    /// names to lists of synonyms), .jsonl or .yaml; also lists that other tools write, such as ImageNet's class index.
    #[arg(long, value_name = "FILE", conflicts_with = "dim",
        required_unless_present_any = ["target", "dim"], required_if_eq("target", "names"))]
    pub categories: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub prompts: PromptArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub recipe: RecipeArgs,
    /// Subtract the mean of the cache's embeddings before similarities are computed: from the embeddings of images, of
    /// texts, or both. Runs that train on the bank do the same. Default: nothing is subtracted.
    #[arg(long, value_enum, value_name = "SIDE", conflicts_with = "dim")]
    pub center: Option<CenterArg>,
    /// Temperature of the teacher's distributions. CLIP's logit scale of 100 corresponds to 0.01.
    #[arg(long, default_value_t = 0.01, value_parser = temperature, conflicts_with = "dim")]
    pub tau_t: f32,
    /// Entries stored per distribution if there are more than 256 categories, 6 bytes each: a number, or all, 2 bytes per
    /// category.
    #[arg(long, value_name = "K", default_value_t = TopK::default(), conflicts_with = "dim")]
    pub top_k: TopK,
    /// Keep categories without views in the visual distributions. Default: they are masked.
    #[arg(long, conflicts_with = "dim")]
    pub keep_unassigned: bool,
    /// Teacher folder with the text encoder.
    #[arg(long, value_name = "DIR", conflicts_with = "dim",
        required_unless_present_any = ["target", "dim"], required_if_eq("target", "names"))]
    pub teacher: Option<PathBuf>,
    /// Accept a text encoder other than the one that the cache records. It must share the embedding space.
    #[arg(long, conflicts_with = "dim")]
    pub other_text_encoder: bool,
    /// Bridge of `lgd align` from this text encoder to the space of the cache's embeddings, for a teacher without
    /// language.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dim", "other_text_encoder"])]
    pub align: Option<PathBuf>,
    #[arg(long, value_name = "D", requires = "target", value_parser = at_least_one, help = dim_help(),
        conflicts_with_all = PromptArgs::IDS)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub dim: Option<usize>,
    /// With --target kdep: temperature T of power temperature scaling, sign(y) |y / T|^(1/n).
    #[arg(long, value_name = "T", default_value_t = 0.1, requires = "dim")]
    pub pts_temperature: f32,
    /// With --target kdep: power n of power temperature scaling.
    #[arg(long, value_name = "N", default_value_t = 3.0, requires = "dim")]
    pub pts_power: f32,
    /// With --target kdep: number of rows to fit the projection to, spread evenly over the images and their views.
    /// Default: all rows.
    #[arg(long, value_name = "ROWS", requires = "dim", value_parser = at_least_one)]
    pub fit_rows: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub runtime: RuntimeArgs,
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the bank in the output folder.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub report: JsonArgs,
}

/// Source of the targets of `lgd bank`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetArg {
    /// Category names.
    Names,
    /// The teacher's features.
    Kdep,
}

/// Command-line names of [`CenteredSide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CenterArg {
    /// Image embeddings.
    Image,
    /// Embeddings of prompts and captions.
    Text,
    /// Both.
    Both,
}

impl CenterArg {
    /// The side as the library names it.
    pub fn side(self) -> CenteredSide {
        match self {
            Self::Image => CenteredSide::Image,
            Self::Text => CenteredSide::Text,
            Self::Both => CenteredSide::Both,
        }
    }
}

/// A target with the inputs that it requires.
pub enum BankTarget<'a> {
    /// Category names, encoded by a teacher.
    Names {
        /// Category file.
        categories: &'a Path,
        /// Teacher folder.
        teacher: &'a Path,
    },
    /// The teacher's features, projected.
    Kdep {
        /// Width of the targets.
        dim: usize,
    },
}

impl BankArgs {
    /// The target as one value.
    ///
    /// # Errors
    /// `--dim` without `--target kdep`, the only invalid combination that the parser accepts.
    pub fn target(&self) -> Result<BankTarget<'_>, clap::Error> {
        match (self.target, self.dim, &self.categories, &self.teacher) {
            (Some(TargetArg::Kdep), Some(dim), ..) => Ok(BankTarget::Kdep { dim }),
            (_, None, Some(categories), Some(teacher)) => Ok(BankTarget::Names { categories, teacher }),
            _ => {
                let message =
                    "--dim belongs to --target kdep; --target names needs --categories and --teacher";
                Err(Args::command().error(ErrorKind::ArgumentConflict, message))
            }
        }
    }

    /// Policy for a bank that is already in the output folder.
    pub fn existing(&self) -> Existing {
        if self.overwrite { Existing::Overwrite } else { Existing::Refuse }
    }
}

/// Help of `--dim`: lists the width of every student's pooled feature.
fn dim_help() -> String {
    let mut widths: Vec<(usize, Vec<&str>)> = Vec::new();
    for student in Architecture::ALL {
        let width = student.feature_dim();
        match widths.iter_mut().find(|(known, _)| *known == width) {
            Some((_, names)) => names.push(student.name()),
            None => widths.push((width, vec![student.name()])),
        }
    }
    let list = widths.iter().map(|(width, names)| format!("{}: {width}", names.join(", ")));
    let list = list.collect::<Vec<_>>().join("; ");
    format!(
        "With --target kdep: width of the targets, that of the student's pooled feature. {list}. At most the width of the cached features"
    )
}
