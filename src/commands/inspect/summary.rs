//! Summaries of artifacts: lines with a label and a text.

use std::path::Path;

use indicatif::{DecimalBytes, HumanCount};
use lgd_data::align::{Accuracy, AlignManifest, ImageSide};
use lgd_data::bank::{BankManifest, BankRecord, CategoryRecord, CenteredSide, Storage};
use lgd_data::cache::{Cache, CacheConfig, CacheManifest, TeacherRecord};
use lgd_data::kdep::{KdepManifest, KdepRecord};
use lgd_data::manifest::ContentHash;
use lgd_train::StudentSizes;
use lgd_train::loader::holdout::Holdout;
use lgd_train::run::RunManifest;
use lgd_train::student::Head;

use crate::commands::kept_variance;

/// Maximum number of names in a line.
const SHOWN: usize = 10;

/// Lines with a label and a text.
pub struct Summary(Vec<(&'static str, String)>);

impl Summary {
    /// Summary of a cache.
    pub fn of_cache(cache: &Cache) -> Self {
        let (manifest, hash) = (cache.manifest(), cache.hash());
        let CacheConfig { teacher, samples, class_names, seed, .. } = &manifest.config;
        let classes =
            class_names.as_ref().map_or(String::new(), |names| format!(", {} classes", names.len()));
        let images = format!(
            "{} of {} listed, {} rejected{classes}",
            count(manifest.samples()),
            count(*samples),
            count(manifest.rejected)
        );
        let mut lines = vec![
            ("cache", hash.to_string()),
            ("teacher", teacher_line(teacher)),
            ("images", images),
            ("views", format!("{}, seed {seed}", views(&manifest.config))),
            ("embeddings", embeddings(manifest)),
        ];
        lines.extend(optional(manifest));
        Self(lines)
    }

    /// Summary of a bank of names.
    pub fn of_bank(manifest: &BankManifest, hash: ContentHash) -> Self {
        let BankRecord { cache, dim, categories, templates, teacher_temperature, .. } = &manifest.record;
        let names: Vec<&str> = categories.iter().map(|category| category.name.as_str()).collect();
        let mut lines = vec![
            ("bank of names", hash.to_string()),
            ("of the cache", cache.to_string()),
            ("categories", format!("{}: {}", count(names.len()), shown(&names))),
            ("templates", shown(&templates.iter().map(String::as_str).collect::<Vec<_>>())),
            ("temperature", format!("tau_t {teacher_temperature}")),
            (
                "targets",
                format!(
                    "{} rows, {}; prototypes of width {dim}",
                    count(manifest.rows),
                    storage(&manifest.record)
                ),
            ),
        ];
        lines.extend(manifest.record.bridge.map(|hash| ("bridge", hash.to_string())));
        lines.extend(manifest.record.center.map(|center| {
            let of = match center.side {
                CenteredSide::Image => "images",
                CenteredSide::Text => "texts",
                CenteredSide::Both => "images and texts",
            };
            ("centered", format!("the cache's mean is subtracted from the embeddings of {of}"))
        }));
        lines.extend(view_counts(categories).map(|text| ("views", text)));
        let unassigned: Vec<&str> = manifest.record.unassigned.iter().map(String::as_str).collect();
        if !unassigned.is_empty() {
            lines.push(("without views", format!("{}: {}", count(unassigned.len()), shown(&unassigned))));
        }
        Self(lines)
    }

    /// Summary of a KDEP bank.
    pub fn of_kdep(manifest: &KdepManifest, hash: ContentHash) -> Self {
        let KdepRecord { cache, output, features, dim, explained_variance, fitted_rows, .. } =
            &manifest.record;
        let KdepRecord { pts_temperature, pts_power, scale, rank, .. } = &manifest.record;
        let kept = 100.0 * explained_variance;
        Self(vec![
            ("KDEP bank", hash.to_string()),
            ("of the cache", cache.to_string()),
            (
                "projection",
                format!(
                    "features of {features} ({output}) to {dim}, {kept:.1}% of their variance kept, {rank} dimensions vary"
                ),
            ),
            ("fitted on", format!("{} rows", count(*fitted_rows))),
            (
                "scaling",
                format!(
                    "temperature {pts_temperature}, power {pts_power}; root of the mean square {:.2}",
                    scale.rms
                ),
            ),
            ("targets", format!("{} rows", count(manifest.rows))),
        ])
    }

    /// Summary of a bridge.
    pub fn of_align(manifest: &AlignManifest, hash: ContentHash) -> Self {
        let record = &manifest.record;
        let images = match &record.images {
            ImageSide::Cache { cache, teacher, images } => {
                format!("{} labeled images of the cache {cache}, teacher {}", count(*images), teacher.name)
            }
            ImageSide::Head { tensor, .. } => format!("the rows of a classifier, {tensor}"),
        };
        let how = if record.cross_validated { "cross-validation" } else { "given" };
        let percent = |accuracy: Accuracy| {
            let [held, all] = [accuracy.among_held_out, accuracy.among_all].map(|share| 100.0 * share);
            format!("{held:.1}% among those held out together, {all:.1}% among all")
        };
        let held_out = &record.held_out;
        Self(vec![
            ("bridge", hash.to_string()),
            (
                "widths",
                format!("text embeddings of {} to image embeddings of {}", record.text_dim, record.dim),
            ),
            ("text encoder", record.text_encoder.to_string()),
            ("fitted to", format!("{} categories, {images}", count(record.categories))),
            ("templates", shown(&record.templates.iter().map(String::as_str).collect::<Vec<_>>())),
            ("ridge", format!("{:.3}, {how}", record.ridge)),
            ("held-out classes", percent(held_out.plain)),
            ("centered", percent(held_out.centered)),
            ("by chance", percent(held_out.chance)),
        ])
    }

    /// Summary of a run, finished or not.
    pub fn of_run(dir: &Path, manifest: &RunManifest, hash: ContentHash) -> Self {
        let RunManifest { config, cache, bank, kdep_bank, teacher, dim, samples, device, step, .. } =
            manifest;
        let steps = manifest.steps_per_epoch * config.epochs as usize;
        let state = match (manifest.complete, manifest.stopped_after) {
            (true, None) => "finished".to_owned(),
            (true, Some(epochs)) => format!("stopped after {epochs} epochs without a better held-out score"),
            (false, _) => "not finished; continue with `lgd train --resume`".to_owned(),
        };
        let head = match manifest.head() {
            Head::Classifier { classes } => format!("a classifier of {classes}"),
            Head::Projection { .. } => format!("embeddings of {dim}"),
            Head::None => "the pooled feature".to_owned(),
        };
        let input = format!("{} px, RGB in 0..1, {}", config.size, normalization(teacher));
        let mut lines = vec![
            ("run", hash.to_string()),
            ("state", format!("step {} of {}, {state}", count(*step), count(steps))),
            ("objective", config.objective.to_string()),
            ("student", format!("{}, {head}", config.student)),
            ("input", input),
            ("teacher", teacher.name.clone()),
            (
                "length",
                format!(
                    "{} epochs of {} steps of {} images, {} in the cache",
                    config.epochs,
                    manifest.steps_per_epoch,
                    config.batch,
                    count(*samples)
                ),
            ),
            ("learning rate", format!("{}, seed {}, on {device}", config.base_lr, config.seed)),
            ("of the cache", cache.to_string()),
        ];
        lines.extend(bank.map(|hash| ("bank of names", hash.to_string())));
        lines.extend(kdep_bank.map(|hash| ("KDEP bank", hash.to_string())));
        lines.extend(config.holdout.map(|holdout| {
            (
                "held out",
                match holdout {
                    Holdout::Percent(percent) => format!("{percent}% of the samples"),
                    Holdout::Samples(samples) => format!("{} samples", count(samples)),
                },
            )
        }));
        lines.extend(manifest.validation.map(|hash| ("validation", hash.to_string())));
        lines.extend(manifest.best.as_ref().map(|best| {
            let (score, weights) = (best.score.describe(best.value), dir.join(&best.weights.name));
            ("best", format!("epoch {}, {score}; {}", best.epoch + 1, weights.display()))
        }));
        let files = manifest.files.iter().filter(|file| file.name.ends_with(".safetensors"));
        lines.extend(files.map(|file| {
            ("weights", format!("{}, {}", dir.join(&file.name).display(), DecimalBytes(file.bytes)))
        }));
        Self(lines)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.0.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        for (index, (label, text)) in self.0.iter().enumerate() {
            let end = if index > 0 { "\n" } else { "" };
            write!(f, "{end}{label:<width$}  {text}")?;
        }
        Ok(())
    }
}

fn teacher_line(teacher: &TeacherRecord) -> String {
    let text = if teacher.text_encoder.is_some() { "with" } else { "without" };
    let TeacherRecord { name, size, output, .. } = teacher;
    format!("{name}, {size} px, output {output}, {}, {text} a text encoder", normalization(teacher))
}

fn normalization(teacher: &TeacherRecord) -> String {
    let of = teacher.normalization;
    format!("mean {:?}, std {:?}, {}", of.mean, of.std, teacher.resample)
}

fn views(config: &CacheConfig) -> String {
    let CacheConfig { views, policy, center, .. } = config;
    match center {
        Some(crop) if *views == 1 => format!("1 per image, the center crop ({crop})"),
        Some(crop) => format!("{views} per image: the center crop ({crop}), then {policy}"),
        None => format!("{views} per image, {policy}"),
    }
}

fn embeddings(manifest: &CacheManifest) -> String {
    let (rows, dim, shards) = (count(manifest.rows), manifest.config.dim, manifest.shards.len());
    format!(
        "{rows} of {dim} in {shards} shards, {} with views and features",
        DecimalBytes(manifest.bytes().0)
    )
}

/// Lines for the cache's optional columns.
fn optional(manifest: &CacheManifest) -> Vec<(&'static str, String)> {
    let config = &manifest.config;
    let mut lines = Vec::new();
    if let Some(format) = config.stored_views {
        lines.push(("stored views", format!("{format}, {}", DecimalBytes(manifest.bytes().1))));
    }
    if let Some(record) = &config.features {
        let bytes = DecimalBytes(2 * (manifest.rows * record.dim) as u64);
        lines.push(("features", format!("{} values ({}), {bytes}", record.dim, record.output)));
    }
    if let Some(record) = &config.tokens {
        let kept = kept_variance(manifest).map(|kept| format!(", {kept}")).unwrap_or_default();
        lines.push(("tokens", format!("{record}{kept}, {}", DecimalBytes(manifest.token_bytes()))));
        lines.push(("", StudentSizes::of(record).to_string()));
    }
    if let Some(record) = &config.captions {
        let from = if record.text_encoder.is_some() { "the text encoder" } else { "the list" };
        let bytes = DecimalBytes(manifest.caption_bytes());
        lines.push(("captions", format!("embeddings of {} from {from}, {bytes}", record.dim)));
    }
    lines
}

fn storage(record: &BankRecord) -> String {
    match record.storage {
        Storage::Dense => "every probability kept".to_owned(),
        Storage::TopK { k } => {
            let [text, visual] = [record.text_mass.mean, record.visual_mass.mean].map(|mass| 100.0 * mass);
            format!("the {k} largest kept, which hold {text:.1}% (text) and {visual:.1}% (visual)")
        }
    }
}

/// The categories with the fewest and the most views; `None` if there are no categories.
fn view_counts(categories: &[CategoryRecord]) -> Option<String> {
    let few = categories.iter().min_by_key(|category| category.count)?;
    let many = categories.iter().max_by_key(|category| category.count)?;
    let told = |category: &CategoryRecord| format!("{} ({})", HumanCount(category.count), category.name);
    Some(format!("{} to {} per category", told(few), told(many)))
}

fn shown(names: &[&str]) -> String {
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names[..names.len().min(SHOWN)].join(", ") + more
}

fn count(number: usize) -> HumanCount {
    HumanCount(number as u64)
}
