//! The linear bridge from a text encoder's space to that of image embeddings (docs/methods.md section 5): names for a
//! teacher that has no language.
//!
//! ```text
//! names ─► prototypes [C, Dt] ─► center, normalize ─► S ─┐
//!                                                        ├─► M = argmin |S Mᵀ - T|² + lambda |M|²   [D, Dt]
//! images or head ─► rows [C, D] ─► center, normalize ─► T ─┘
//! ```
//!
//! Lambda is chosen on held-out categories, and the accuracy on them is reported. [`AlignedEncoder`] puts a bridge
//! behind a text encoder, so that a bank can be built with it.

mod encoder;
mod error;
mod folds;
mod head;
mod matrix;
mod ridge;
mod targets;

use std::path::Path;
use std::time::Instant;

use lgd_data::align::{Align, AlignRecord, Bridge, HeldOut, ImageSide};
use lgd_data::bank::CenteredSide;
use lgd_data::cache::Cache;
use lgd_data::job::Job;
use lgd_data::manifest::{Existing, Verify};
use serde::Serialize;

use crate::categories::Categories;
use crate::encoder::PromptEncoder;
use crate::error::BankError;
use crate::prompts::Templates;
use crate::tsb::{PromptCounts, build_tsb, rounded};

pub use encoder::AlignedEncoder;
pub use error::AlignError;
pub use head::Head;

use folds::{FOLDS, Fold};
use matrix::Matrix;
use ridge::Ridge;
use targets::Targets;

/// Fewest categories that a bridge is fitted to: two to hold out in every fold.
pub const MIN_CATEGORIES: usize = 2 * FOLDS;

/// A ridge penalty lambda: finite and above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RidgePenalty(f64);

impl RidgePenalty {
    /// Validates a penalty.
    ///
    /// # Errors
    /// [`BankError::Option`] unless the value is finite and above 0.
    pub fn new(value: f64) -> Result<Self, BankError> {
        if value.is_finite() && value > 0.0 {
            return Ok(Self(value));
        }
        Err(BankError::Option {
            what: "a ridge penalty",
            range: "finite and above 0",
            got: value.to_string(),
        })
    }

    /// The penalty.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The penalties that cross-validation compares: 0.001 to 1000, four per factor of ten. Rows have length 1, so the
    /// eigenvalues that they are added to sum to the number of categories.
    pub fn grid() -> Vec<Self> {
        (-12..=12).map(|step| Self(10f64.powf(f64::from(step) / 4.0))).collect()
    }
}

/// What stands for the categories in the space of image embeddings.
#[derive(Clone, Copy, Debug)]
pub enum ImageTargets<'a> {
    /// The mean embedding of each category's images.
    Cache {
        /// The cached image embeddings.
        cache: &'a Cache,
        /// Category of each sample of the cache, as a position in the category set; `None` if it has no label.
        categories: &'a [Option<u32>],
    },
    /// One row of a classifier per category, in the order of the category set.
    Head(&'a Head),
}

/// Inputs, settings and output folder of a bridge.
#[derive(Clone, Copy, Debug)]
pub struct AlignRequest<'a> {
    /// The category set.
    pub categories: &'a Categories,
    /// The prompt templates.
    pub templates: &'a Templates,
    /// Folder of the prompt cache, which banks can share.
    pub prompt_cache: &'a Path,
    /// The image side.
    pub images: ImageTargets<'a>,
    /// The penalty; `None` means that cross-validation chooses from [`RidgePenalty::grid`].
    pub ridge: Option<RidgePenalty>,
    /// The bridge's folder.
    pub out: &'a Path,
    /// Policy for a bridge that is already in the folder.
    pub existing: Existing,
}

/// A penalty and its result on held-out categories.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The penalty lambda.
    pub ridge: f64,
    /// Mean cosine between bridged prototypes and centered targets.
    pub cosine: f64,
}

/// Contents of a new bridge, and wall times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlignReport {
    /// Number of categories that the bridge was fitted to.
    pub categories: usize,
    /// Names of the categories without an image.
    pub left_out: Vec<String>,
    /// Labeled images; 0 for a head.
    pub images: usize,
    /// Images without a label, which are not used.
    pub unlabeled: usize,
    /// Width Dt of the text encoder.
    pub text_dim: usize,
    /// Width D of the image embeddings.
    pub dim: usize,
    /// The penalty of the bridge.
    pub ridge: f64,
    /// All penalties that were compared; one if it was given.
    pub candidates: Vec<Candidate>,
    /// Accuracy on held-out categories.
    pub held_out: HeldOut,
    /// Side that `lgd bank --center` should center, by that accuracy.
    pub center: Option<CenteredSide>,
    /// Prompt counts: needed, encoded and reused.
    pub prompts: PromptCounts,
    /// Wall time per stage.
    pub seconds: AlignSeconds,
}

/// Wall times of a bridge's stages, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct AlignSeconds {
    /// Reading the image side.
    pub images: f64,
    /// Encoding and averaging the prompts.
    pub prompts: f64,
    /// Fitting, with and without held-out categories.
    pub fit: f64,
    /// Classifying with held-out categories.
    pub held_out: f64,
}

/// Fits the bridge and writes its folder. The manifest is written last, so an interrupted or failed run never opens as
/// a bridge.
///
/// # Errors
/// [`AlignError`] if the folder already holds a bridge, there are too few categories, names and rows of a head differ
/// in number, embeddings are bad, I/O fails, or the job is interrupted.
pub fn build_align(
    request: &AlignRequest<'_>,
    encoder: &mut dyn PromptEncoder,
    job: &Job,
) -> Result<AlignReport, AlignError> {
    let folder = Align::claim(request.out, request.existing)?;
    let categories = request.categories;
    let mut seconds = AlignSeconds::default();
    let started = Instant::now();
    let targets = Targets::of(request.images, categories.len(), job)?;
    seconds.images = started.elapsed().as_secs_f64();
    if targets.kept.len() < MIN_CATEGORIES {
        return Err(AlignError::FewCategories { got: targets.kept.len() });
    }

    let started = Instant::now();
    let tsb = build_tsb(categories, request.templates, encoder, request.prompt_cache, None, job)?;
    seconds.prompts = started.elapsed().as_secs_f64();
    let names: Vec<&str> = categories.names().collect();
    let pairs = Pairs {
        source: Matrix::from_f32(tsb.values(), tsb.dim()).select(&targets.kept),
        target: targets.rows,
        names: targets.kept.iter().map(|&category| names[category]).collect(),
    };

    let started = Instant::now();
    let folds = Fold::all(&pairs)?;
    let penalties = request.ridge.map_or_else(RidgePenalty::grid, |ridge| vec![ridge]);
    let candidates: Vec<Candidate> = penalties.iter().map(|&ridge| folds::score(&folds, ridge)).collect();
    let best = best(&candidates);
    let bridge = pairs.bridge(best.ridge)?;
    seconds.fit = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let held_out = match request.images {
        ImageTargets::Cache { cache, .. } => {
            let held_out = folds::classify_images(&folds, cache.embeddings(), &targets.images, best, job)?;
            cache.require_unchanged(Verify::Length)?;
            held_out
        }
        ImageTargets::Head(_) => folds::classify_names(&folds, &pairs, best)?,
    };
    seconds.held_out = started.elapsed().as_secs_f64();
    let record = AlignRecord {
        text_encoder: encoder.hash(),
        text_dim: bridge.text_dim(),
        dim: bridge.dim(),
        images: image_side(request.images, targets.images.rows.len()),
        categories: pairs.names.len(),
        templates: request.templates.as_slice().to_vec(),
        ridge: best.ridge,
        cross_validated: request.ridge.is_none(),
        held_out,
    };
    Align::write(&folder, record, &bridge)?;
    Ok(AlignReport {
        categories: pairs.names.len(),
        left_out: (0..names.len())
            .filter(|category| targets.kept.binary_search(category).is_err())
            .map(|category| names[category].to_owned())
            .collect(),
        images: targets.images.rows.len(),
        unlabeled: targets.unlabeled,
        text_dim: bridge.text_dim(),
        dim: bridge.dim(),
        ridge: best.ridge,
        candidates,
        held_out,
        center: recommended(&held_out),
        prompts: tsb.prompts(),
        seconds,
    })
}

/// The candidate of the largest cosine; of equal ones, that of the largest penalty.
fn best(candidates: &[Candidate]) -> Candidate {
    let none = Candidate { ridge: 0.0, cosine: f64::NEG_INFINITY };
    candidates.iter().fold(none, |best, &next| if next.cosine >= best.cosine { next } else { best })
}

/// Images are centered if held-out categories are then better told apart, or equally well and better among all. Names
/// that no bridge was fitted to compete with each other first: among all, those that it was fitted to win too often.
fn recommended(held_out: &HeldOut) -> Option<CenteredSide> {
    let [plain, centered] =
        [held_out.plain, held_out.centered].map(|accuracy| (accuracy.among_held_out, accuracy.among_all));
    (centered > plain).then_some(CenteredSide::Image)
}

fn image_side(images: ImageTargets<'_>, count: usize) -> ImageSide {
    match images {
        ImageTargets::Cache { cache, .. } => ImageSide::Cache {
            cache: cache.hash(),
            teacher: Box::new(cache.manifest().config.teacher.clone()),
            images: count,
        },
        ImageTargets::Head(head) => ImageSide::Head { file: head.hash(), tensor: head.tensor().to_owned() },
    }
}

/// A text prototype and an image target per category.
struct Pairs<'a> {
    /// Unit text prototypes, `[C, Dt]`.
    source: Matrix,
    /// Image targets as they are, `[C, D]`.
    target: Matrix,
    /// Names of the categories.
    names: Vec<&'a str>,
}

impl Pairs<'_> {
    /// The bridge from all categories.
    fn bridge(&self, ridge: f64) -> Result<Bridge, AlignError> {
        let mean = self.source.mean();
        let source = self.centered(&self.source, &mean, "the text prototype")?;
        let target = self.centered(&self.target, &self.target.mean(), "the image target")?;
        let fitted = Ridge::fit(&source, &target)?;
        let f32s = |values: &[f64]| values.iter().copied().map(rounded).collect();
        let matrix = f32s(fitted.matrix(ridge).values());
        Bridge::new(f32s(&mean), matrix).ok_or(AlignError::NotConverged { width: source.width() })
    }

    /// Rows of all categories less `mean`, scaled to length 1.
    fn centered(&self, rows: &Matrix, mean: &[f64], what: &'static str) -> Result<Matrix, AlignError> {
        let equal = |row: usize| AlignError::EqualsMean { what, category: self.names[row].to_owned() };
        rows.centered_units(mean).map_err(equal)
    }
}
