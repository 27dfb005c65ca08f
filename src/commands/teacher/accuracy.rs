//! The teacher's own zero-shot accuracy over the plain view: the cheapest proof that its preprocessing is right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use lgd_bank::{Categories, EncodeFailure, PromptEncoder, build_tsb};
use lgd_data::image::{DecodeLimits, RgbImage, decode};
use lgd_data::manifest::ContentHash;
use lgd_data::render::render;
use lgd_data::source::{ImageSource, open_source};
use lgd_data::view::View;
use lgd_extract::{ImageEncoder, Teacher, TextEncoder};
use lgd_train::eval::{EvalError, categories_of_labels};
use rayon::prelude::*;

use crate::args::TeacherArgs;
use crate::commands::bank::prompts;
use crate::commands::print;
use crate::progress::{JOB, Progress};
use crate::say::say;

/// Number of images whose best category is their label, of all that were judged.
#[derive(Default)]
struct Score {
    right: usize,
    judged: usize,
    unreadable: usize,
}

/// Measures and prints the accuracy.
pub fn measure(
    args: &TeacherArgs,
    images: &Path,
    categories: &Path,
    teacher: &Teacher,
    image: &mut ImageEncoder,
    text: &mut TextEncoder,
) -> anyhow::Result<()> {
    let source = open_source(images)?;
    let categories = prompts::categories(categories, &args.names)?;
    let labels = labels(source.as_ref(), &categories, images)?;
    let templates = prompts::templates(&args.names)?;
    let cached = std::env::temp_dir().join(format!("lgd-teacher-{}", std::process::id()));
    let built = build_tsb(&categories, &templates, &mut Prompts(text), &cached, None, &JOB);
    // Nothing reads this prompt cache again; one that cannot be deleted does no harm.
    let _ = std::fs::remove_dir_all(&cached);
    let built = built?;
    if built.prompts().cut > 0 {
        let cut = built.prompts();
        say(format_args!("note: {}", cut_prompts(cut.cut, cut.distinct, text.context_length())));
    }
    let settings = teacher.image()?;
    let view = View::of_center(settings.center.unwrap_or_default());
    let score = {
        let _progress = Progress::show("teacher", "images");
        judge(source.as_ref(), &labels, image, &view, built.values())?
    };
    if score.unreadable > 0 {
        say(format_args!("note: {} images cannot be read and are skipped", score.unreadable));
    }
    let share = 100.0 * score.right as f64 / score.judged.max(1) as f64;
    let origin = settings.center_source.unwrap_or_else(|| "assumed".to_owned());
    print(&format!(
        "# zero-shot accuracy: {share:.1}% of n = {} images, {} categories; view 0: {}, {origin}",
        score.judged,
        categories.len(),
        view_text(&view, image.size()),
    ))
}

/// The note for prompts that are longer than the text encoder's context, of `context` tokens.
pub(in crate::commands) fn cut_prompts(cut: usize, all: usize, context: usize) -> String {
    format!(
        "{cut} of {all} prompts are longer than the text encoder's context of {context} tokens and are cut\nhint: shorten the names \
         or the templates, or, if the model takes more tokens, set context_length in teacher.toml"
    )
}

fn view_text(view: &View, size: u32) -> String {
    match view.crop {
        lgd_data::view::Crop::Center(crop) => crop.describe(size),
        lgd_data::view::Crop::Box { .. } => String::new(),
    }
}

/// The category of every sample, matched as `lgd eval` matches them. Classes without a category are left out.
fn labels(
    source: &dyn ImageSource,
    categories: &Categories,
    images: &Path,
) -> anyhow::Result<Vec<Option<usize>>> {
    let labels: BTreeSet<u32> = source.samples().iter().filter_map(|sample| sample.label).collect();
    if labels.is_empty() {
        bail!(
            "{}: expected labeled images, got none with a label\nhint: give a folder whose subfolders are named after the categories",
            images.display()
        );
    }
    let (names, classes): (Vec<&str>, _) = (categories.names().collect(), source.class_names());
    let matched = |labels: &BTreeSet<u32>| categories_of_labels(labels, classes, images, &names);
    let mut of_label = BTreeMap::new();
    match matched(&labels) {
        Ok(map) => {
            map.note.iter().for_each(|note| say(format_args!("note: {note}")));
            of_label.extend(labels.iter().copied().zip(map.classes(&Vec::from_iter(labels.iter().copied()))));
        }
        Err(EvalError::UnmatchedClasses { .. }) => {
            let mut unknown = Vec::new();
            for label in labels {
                match matched(&[label].into()).map(|map| map.classes(&[label])).as_deref() {
                    Ok([category]) => drop(of_label.insert(label, *category)),
                    _ => unknown.push(class_word(classes, label)),
                }
            }
            let unknown = unknown.join(", ");
            if of_label.is_empty() {
                bail!(
                    "{}: no class is in the category file; the classes are {unknown}\nhint: name the folders after the categories",
                    images.display()
                );
            }
            say(format_args!("note: classes that are not in the category file are skipped: {unknown}"));
        }
        Err(error) => return Err(error.into()),
    }
    let category = |label: Option<u32>| usize::try_from(*of_label.get(&label?)?).ok();
    Ok(source.samples().iter().map(|sample| category(sample.label)).collect())
}

/// The class of a label: its name, or the number itself.
fn class_word(classes: Option<&[String]>, label: u32) -> String {
    let name = classes.and_then(|classes| classes.get(usize::try_from(label).ok()?));
    name.cloned().unwrap_or_else(|| label.to_string())
}

/// Compares every labeled image with the prototypes, `[C, D]`, rows of norm 1.
fn judge(
    source: &dyn ImageSource,
    labels: &[Option<usize>],
    encoder: &mut ImageEncoder,
    view: &View,
    prototypes: &[f32],
) -> anyhow::Result<Score> {
    let labeled: Vec<(usize, usize)> =
        labels.iter().enumerate().filter_map(|(sample, label)| Some((sample, (*label)?))).collect();
    let dim = encoder.dim();
    let (size, resample) = (encoder.size(), encoder.resample());
    let mut score = Score::default();
    JOB.begin(u64::try_from(labeled.len()).unwrap_or(u64::MAX));
    for batch in labeled.chunks(encoder.batch()) {
        if JOB.interrupted() {
            bail!("interrupted");
        }
        let shown: Vec<Option<(RgbImage, usize)>> = batch
            .par_iter()
            .map(|(sample, label)| {
                let limits = DecodeLimits::default();
                let image = decode(&source.read(*sample, limits.max_bytes).ok()?, &limits).ok()?;
                Some((render(&image, view, size, resample).ok()?, *label))
            })
            .collect();
        score.unreadable += shown.iter().filter(|shown| shown.is_none()).count();
        let shown: Vec<(RgbImage, usize)> = shown.into_iter().flatten().collect();
        let (mut pixels, mut scratch) = (encoder.new_batch(), Vec::new());
        for (row, (image, _)) in shown.iter().enumerate() {
            let start = row * encoder.image_len();
            pixels
                .normalize(start, image, encoder.normalization(), encoder.layout(), &mut scratch)
                .context("cannot normalize an image")?;
        }
        let embeddings = encoder.encode(&pixels, shown.len())?;
        for (row, (_, label)) in shown.iter().enumerate() {
            let vector = embeddings.row(row);
            let likeness =
                |prototype: &[f32]| -> f32 { prototype.iter().zip(vector).map(|(a, b)| a * b).sum() };
            let scores = prototypes.chunks_exact(dim).map(likeness).enumerate();
            let best = scores.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(category, _)| category);
            score.right += usize::from(best == Some(*label));
            score.judged += 1;
        }
        JOB.advance(u64::try_from(batch.len()).unwrap_or(0));
    }
    Ok(score)
}

/// Adapts the text encoder to the bank's interface.
struct Prompts<'a>(&'a mut TextEncoder);

impl PromptEncoder for Prompts<'_> {
    fn hash(&self) -> ContentHash {
        self.0.hash()
    }

    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn encode(&mut self, prompts: &[String]) -> Result<Vec<f32>, EncodeFailure> {
        Ok(self.0.encode(prompts)?)
    }

    fn count_cut(&self, prompts: &[String]) -> Result<usize, EncodeFailure> {
        Ok(self.0.count_cut(prompts)?)
    }

    fn tokens(&self, prompts: &[String]) -> Result<Vec<Vec<u32>>, EncodeFailure> {
        Ok(self.0.token_ids(prompts)?)
    }
}
