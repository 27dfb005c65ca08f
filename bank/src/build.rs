//! Builds a bank's folder from a category set and a cache.

use std::path::Path;
use std::time::Instant;

use lgd_data::ArtifactError;
use lgd_data::bank::{
    BankRecord, BankWriter, CapturedMass, CategoryRecord, Center, CenteredSide, Distribution,
    TargetShardWriter, VsbMode,
};
use lgd_data::cache::Cache;
use lgd_data::job::Job;
use lgd_data::manifest::{ContentHash, Existing, Verify};
use serde::Serialize;

use crate::categories::Categories;
use crate::center::mean_embedding;
use crate::distributions::storage;
use crate::encoder::PromptEncoder;
use crate::error::BankError;
use crate::prompts::Templates;
use crate::rows::EmbeddingRows;
use crate::targets::{PassSeconds, TargetOptions, TargetSink, Targets, build_targets};
use crate::tsb::{PromptCounts, Tsb, build_tsb};

/// Inputs, settings and output folder of a bank.
#[derive(Clone, Copy, Debug)]
pub struct BankRequest<'a> {
    /// The cached image embeddings.
    pub cache: &'a Cache,
    /// The category set.
    pub categories: &'a Categories,
    /// The prompt templates.
    pub templates: &'a Templates,
    /// Folder of the prompt cache, which banks can share.
    pub prompt_cache: &'a Path,
    /// The bank's folder.
    pub out: &'a Path,
    /// Policy for a bank that is already in the folder.
    pub existing: Existing,
    /// Accepted text encoders.
    pub text_encoder: TextEncoderRule,
    /// The embeddings from which the mean of the cache's is subtracted before similarities are computed.
    pub center: Option<CenteredSide>,
    /// How distributions are computed and stored.
    pub targets: TargetOptions,
}

/// Which text encoders may encode the category names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEncoderRule {
    /// Only the text encoder recorded in the cache; any, if the cache records none.
    SameTeacher,
    /// Any text encoder. The caller vouches that it shares the image encoder's space, as one for another language
    /// may.
    Any,
}

/// Contents of a new bank, and wall times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BankReport {
    /// Number of views.
    pub rows: usize,
    /// Views per category, in the order of the category set.
    pub counts: Vec<CategoryCount>,
    /// Names of the categories without a view.
    pub unassigned: Vec<String>,
    /// Prompt counts: needed, encoded and reused.
    pub prompts: PromptCounts,
    /// Probability mass captured by the stored text distributions.
    pub text_mass: CapturedMass,
    /// Probability mass captured by the stored visual distributions.
    pub visual_mass: CapturedMass,
    /// Wall time per stage.
    pub seconds: StageSeconds,
}

/// Number of views whose pseudo-category is this category.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CategoryCount {
    /// Name of the category.
    pub name: String,
    /// Number of views.
    pub count: u64,
}

/// Wall times of a bank's stages, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageSeconds {
    /// Encoding and averaging the prompts.
    pub prompts: f64,
    /// The two passes over the embeddings.
    #[serde(flatten)]
    pub passes: PassSeconds,
    /// Writing prototypes, hashes and manifest.
    pub finish: f64,
}

/// Builds the bank. The manifest is written last, so an interrupted or failed build never opens as a bank.
///
/// # Errors
/// [`BankError`] if the folder already holds a bank, there is only one category, the text encoder does not belong to the cache, embeddings are
/// bad, I/O fails, or the job is interrupted.
pub fn build_bank(
    request: &BankRequest<'_>,
    encoder: &mut dyn PromptEncoder,
    job: &Job,
) -> Result<BankReport, BankError> {
    let embeddings = request.cache.embeddings();
    if let [only] = request.categories.as_slice() {
        return Err(BankError::OneCategory { name: only.name().to_owned() });
    }
    // Checked before the prompts, which may take minutes to encode.
    if request.text_encoder == TextEncoderRule::SameTeacher {
        require_teacher(request.cache, encoder)?;
    }
    if encoder.dim() != embeddings.width() {
        return Err(BankError::Width { text: encoder.dim(), image: embeddings.width() });
    }
    let categories = request.categories;
    let storage = storage(categories.len(), request.targets.top_k);
    let folder = BankWriter::claim(request.out, request.existing)?;

    let started = Instant::now();
    let center =
        request.center.map(|side| Ok::<_, BankError>(Center::new(side, mean_embedding(embeddings)?)));
    let center = center.transpose()?;
    let center = center.as_ref();
    let tsb = build_tsb(categories, request.templates, encoder, request.prompt_cache, center, job)?;
    let prompts = started.elapsed().as_secs_f64();

    // An old bank is replaced only now: encoding the prompts may fail, and then the old bank must survive.
    let writer = BankWriter::create_in(folder, categories.len(), storage)?;
    let mut shards = Shards::new(&writer, embeddings.shard_rows());
    let targets = build_targets(embeddings, &tsb, center, &request.targets, request.out, &mut shards, job)?;
    let started = Instant::now();
    shards.finish()?;

    request.cache.require_unchanged(Verify::Length)?;
    let record = record(request, encoder, &tsb, center, &targets);
    let unassigned = record.unassigned.clone();
    let (shards, rows) = (embeddings.shard_rows().len(), EmbeddingRows::rows(embeddings));
    writer.finish(record, (tsb.values(), &targets.vsb), center, shards, rows)?;
    let finish = started.elapsed().as_secs_f64();
    let counts = categories.names().zip(targets.counts);
    Ok(BankReport {
        rows,
        counts: counts.map(|(name, count)| CategoryCount { name: name.to_owned(), count }).collect(),
        unassigned,
        prompts: tsb.prompts(),
        text_mass: targets.text_mass,
        visual_mass: targets.visual_mass,
        seconds: StageSeconds { prompts, passes: targets.seconds, finish },
    })
}

/// Fails if the cache records a text encoder and it is not this one.
fn require_teacher(cache: &Cache, encoder: &dyn PromptEncoder) -> Result<(), BankError> {
    match cache.manifest().config.teacher.text_encoder {
        Some(expected) if !encoder.recorded_as().contains(&expected) => {
            let got: Vec<String> = encoder.recorded_as().iter().map(ContentHash::to_string).collect();
            Err(BankError::TextEncoder { path: cache.dir().to_owned(), expected, got: got.join(" or ") })
        }
        _ => Ok(()),
    }
}

fn record(
    request: &BankRequest<'_>,
    encoder: &dyn PromptEncoder,
    tsb: &Tsb,
    center: Option<&Center>,
    targets: &Targets,
) -> BankRecord {
    let of_cache = request.cache.manifest().config.teacher.text_encoder;
    let categories = request.categories.as_slice().iter().zip(&targets.counts);
    let categories: Vec<CategoryRecord> = categories
        .map(|(category, &count)| CategoryRecord {
            name: category.name().to_owned(),
            synonyms: category.phrases().to_vec(),
            prompts: category.prompts().to_vec(),
            keys: category.keys().to_vec(),
            number: category.number(),
            count,
        })
        .collect();
    let unassigned = categories.iter().filter(|category| category.count == 0);
    BankRecord {
        cache: request.cache.hash(),
        text_encoder: encoder.hash(),
        cache_text_encoder: of_cache.filter(|recorded| encoder.recorded_as().contains(recorded)),
        bridge: encoder.bridge(),
        dim: tsb.dim(),
        unassigned: unassigned.map(|category| category.name.clone()).collect(),
        categories,
        templates: request.templates.as_slice().to_vec(),
        center: center.map(Center::record),
        teacher_temperature: request.targets.temperature.get(),
        vsb: VsbMode::Mean,
        unassigned_slots: request.targets.unassigned,
        storage: targets.storage,
        text_mass: targets.text_mass,
        visual_mass: targets.visual_mass,
    }
}

/// Splits the stream of targets into files that match the cache's shards, empty shards included.
struct Shards<'a> {
    writer: &'a BankWriter,
    rows: &'a [usize],
    /// The next shard to be opened.
    next: usize,
    /// Rows still to be written to the open shard.
    left: usize,
    open: Option<TargetShardWriter>,
}

impl<'a> Shards<'a> {
    fn new(writer: &'a BankWriter, rows: &'a [usize]) -> Self {
        Self { writer, rows, next: 0, left: 0, open: None }
    }

    /// Finishes the open shard and opens the next one.
    fn turn(&mut self) -> Result<(), ArtifactError> {
        if let Some(open) = self.open.take() {
            open.finish()?;
        }
        if let Some(&rows) = self.rows.get(self.next) {
            self.open = Some(self.writer.shard(self.next)?);
            self.left = rows;
            self.next += 1;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ArtifactError> {
        while self.open.is_some() || self.next < self.rows.len() {
            self.turn()?;
        }
        Ok(())
    }
}

impl TargetSink for Shards<'_> {
    fn push(
        &mut self,
        pseudo_category: &[i32],
        text: Distribution<'_>,
        visual: Distribution<'_>,
    ) -> Result<(), ArtifactError> {
        let total = pseudo_category.len();
        let mut start = 0;
        while start < total {
            while self.left == 0 && self.next < self.rows.len() {
                self.turn()?;
            }
            let Some(open) = &mut self.open else { break };
            let end = total.min(start + self.left);
            let part = |distribution| rows_of(distribution, total, start, end);
            open.push(&pseudo_category[start..end], part(text), part(visual))?;
            self.left -= end - start;
            start = end;
        }
        Ok(())
    }
}

/// Rows `start..end` of a block of `total` rows.
fn rows_of(distribution: Distribution<'_>, total: usize, start: usize, end: usize) -> Distribution<'_> {
    match distribution {
        Distribution::Dense(values) => {
            let width = values.len() / total;
            Distribution::Dense(&values[start * width..end * width])
        }
        Distribution::TopK { index, probability } => {
            let range = start * (index.len() / total)..end * (index.len() / total);
            Distribution::TopK { index: &index[range.clone()], probability: &probability[range] }
        }
    }
}
