//! `lgd bank`.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory, ValueEnum};
use lgd_data::manifest::Existing;
use lgd_train::parse::{at_least_one, temperature};
use lgd_train::student::Architecture;

use super::{Args, RuntimeArgs};

/// `lgd bank`.
#[derive(ClapArgs)]
pub struct BankArgs {
    /// The cache.
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// What to make targets of: names (the default; needs --categories and --teacher) or kdep (the cached features; needs --dim).
    #[arg(long, value_enum, requires_if("kdep", "dim"))]
    pub target: Option<TargetArg>,
    /// Category names: .txt (one per line), .csv (name, then synonyms) or .json (an object from names to lists of synonyms).
    #[arg(long, value_name = "FILE", conflicts_with = "dim",
        required_unless_present_any = ["target", "dim"], required_if_eq("target", "names"))]
    pub categories: Option<PathBuf>,
    /// A prompt template with {} for the name; may be repeated. Default: "a photo of a {}."
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["templates", "dim"])]
    pub template: Vec<String>,
    /// A file of prompt templates, one per line.
    #[arg(long, value_name = "FILE", conflicts_with = "dim")]
    pub templates: Option<PathBuf>,
    /// Keep names as they stand instead of trimming and turning underscores into blanks.
    #[arg(long, conflicts_with = "dim")]
    pub verbatim: bool,
    /// The lists of a JSON file are complete prompts, not synonyms.
    #[arg(long, conflicts_with = "dim")]
    pub json_prompts: bool,
    /// Temperature of the teacher's distributions; CLIP's logit scale of 100 is 0.01 here.
    #[arg(long, default_value_t = 0.01, value_parser = temperature, conflicts_with = "dim")]
    pub tau_t: f32,
    /// Entries kept per distribution where there are more than 256 categories.
    #[arg(long, default_value_t = 64, value_parser = at_least_one, conflicts_with = "dim")]
    pub top_k: usize,
    /// Let categories without a view keep their slot in the visual distributions.
    #[arg(long, conflicts_with = "dim")]
    pub keep_unassigned: bool,
    /// Teacher folder with the text encoder.
    #[arg(long, value_name = "DIR", conflicts_with = "dim",
        required_unless_present_any = ["target", "dim"], required_if_eq("target", "names"))]
    pub teacher: Option<PathBuf>,
    /// Accept a text encoder other than the one the cache's teacher came with; it must share its embedding space.
    #[arg(long, conflicts_with = "dim")]
    pub other_text_encoder: bool,
    /// Where prompt embeddings are kept; default: prompts/ beside the output folder.
    #[arg(long, value_name = "DIR", conflicts_with = "dim")]
    pub prompts: Option<PathBuf>,
    #[arg(long, value_name = "D", requires = "target", value_parser = at_least_one, help = dim_help())]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub dim: Option<usize>,
    /// With --target kdep: temperature T of power temperature scaling, sign(y) |y / T|^(1/n).
    #[arg(long, value_name = "T", default_value_t = 0.1, requires = "dim")]
    pub pts_temperature: f32,
    /// With --target kdep: its power n.
    #[arg(long, value_name = "N", default_value_t = 3.0, requires = "dim")]
    pub pts_power: f32,
    /// With --target kdep: fit the projection on so many rows, spread evenly over the images and their views; default: all.
    #[arg(long, value_name = "ROWS", requires = "dim", value_parser = at_least_one)]
    pub fit_rows: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub runtime: RuntimeArgs,
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the bank that the folder holds.
    #[arg(long)]
    pub overwrite: bool,
}

/// What `lgd bank` makes targets of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetArg {
    /// Category names.
    Names,
    /// The teacher's features.
    Kdep,
}

/// A target with what only it needs.
pub enum BankTarget<'a> {
    /// Category names, encoded by a teacher.
    Names {
        /// The file.
        categories: &'a Path,
        /// The folder.
        teacher: &'a Path,
    },
    /// The teacher's features, projected.
    Kdep {
        /// Width.
        dim: usize,
    },
}

impl BankArgs {
    /// The target as one value.
    ///
    /// # Errors
    /// `--dim` where the target is not kdep, the one mixture that the parser lets through.
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

    /// What to do with a bank that is there.
    pub fn existing(&self) -> Existing {
        if self.overwrite { Existing::Overwrite } else { Existing::Refuse }
    }
}

/// Help of `--dim`: the width of every student's pooled feature.
fn dim_help() -> String {
    let mut widths: Vec<(usize, Vec<&str>)> = Vec::new();
    for student in Architecture::ALL {
        let width = student.feature_dim();
        match widths.iter_mut().find(|(known, _)| *known == width) {
            Some((_, names)) => names.push(student.name()),
            None => widths.push((width, vec![student.name()])),
        }
    }
    let list = widths.iter().map(|(width, names)| format!("{}: {width}", names.join(" and ")));
    let list = list.collect::<Vec<_>>().join("; ");
    format!(
        "With --target kdep: width of the targets, that of the student's pooled feature. {list}. At most the width of the cached features"
    )
}
