//! Figures on samples that are not trained on, after every epoch: held-out samples of the cache, or a validation set with
//! a cache of its own.
//!
//! Each sample is shown as view 0, the center view if the cache has one. The teacher's embedding of that view is in the
//! cache, so nothing but the student runs.

use std::collections::BTreeSet;
use std::path::Path;

use lgd_data::bank::{Bank, Center};
use lgd_data::cache::Cache;
use lgd_data::kdep::KdepBank;
use lgd_data::render::Normalization;

use super::{LoopSettings, TrainInputs, open_images};
use crate::error::{SettingError, TrainError};
use crate::eval::{
    CategoryKeys, EvalError, KnnSettings, categories_of_labels, classify, leave_one_out, require_teacher_of,
};
use crate::inference::{Matrix, argmax, top1};
use crate::loader::batches::TrainingImages;
use crate::loader::holdout::{Holdout, MAX_HELD_OUT, smallest};
use crate::loader::origin::Originals;
use crate::ops::to_host;
use crate::run::{BankPercent, HoldoutFigures, RunError, RunManifest, TrainConfig};
use crate::student::{Head, Images, Mode, Student, StudentOutput};

/// Images per forward pass.
const BATCH: usize = 64;
/// The view that is shown.
const VIEW: usize = 0;

/// What to measure with after every epoch.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// Banks of names besides the objective's, for agreement and zero-shot accuracy.
    pub banks: &'a [Bank],
    /// Images that are evaluated instead of held-out samples of the training cache.
    pub validation: Option<Validation<'a>>,
}

/// A validation set.
#[derive(Clone, Copy)]
pub struct Validation<'a> {
    /// Its views and the teacher's embeddings.
    pub cache: &'a Cache,
    /// Its images. Not needed if the cache stores views of the student's size.
    pub originals: Option<Originals<'a>>,
}

/// The samples to evaluate, and what the teacher and the labels say about them.
pub(super) struct HoldoutSet<'a> {
    /// The images of a validation set; `None` for samples of the training cache.
    validation: Option<TrainingImages<'a>>,
    /// Positions in the cache, ascending.
    samples: Vec<usize>,
    normalization: Normalization,
    side: usize,
    threads: usize,
    reference: Reference,
    banks: Vec<WatchedBank>,
    /// The positions in `samples` that have labels, and those labels.
    labeled: (Vec<usize>, Vec<u32>),
    /// Outputs of the student's classifier for the labels, if it has one.
    outputs: Option<Vec<u32>>,
}

/// What the student's output is compared with, one row per sample.
enum Reference {
    /// The teacher's embeddings, `[N, D]`, centered if the run's bank is.
    Embedding(Matrix),
    /// KDEP's targets, `[N, d]`.
    Feature(Matrix),
    Nothing,
}

struct WatchedBank {
    name: String,
    /// `[C, D]`.
    prototypes: Matrix,
    /// The teacher's choice for each sample.
    teacher: Vec<u32>,
    /// The category of each labeled sample, if the labels' classes are names of the bank.
    truth: Option<Vec<u32>>,
}

/// The student's outputs, one row per sample.
struct Outputs {
    pooled: Matrix,
    /// The embedding, the logits, or the raw feature.
    compared: Option<Matrix>,
}

/// The held-out samples of the training cache, ascending; empty without a holdout.
pub(super) fn held_out(
    config: &TrainConfig,
    images: &TrainingImages<'_>,
    settings: &LoopSettings,
) -> Vec<usize> {
    let Some(holdout) = config.holdout else { return Vec::new() };
    let keys = &images.views().keys;
    let (count, wanted) = (holdout.count(keys.len()), holdout.wanted(keys.len()));
    let limited = if wanted > MAX_HELD_OUT {
        format!(", not {wanted}, because more would only cost time")
    } else {
        String::new()
    };
    (settings.noted)(&format!(
        "{count} of {} samples are held out and never trained on{limited}",
        keys.len()
    ));
    holdout.choose(keys)
}

/// Fails for settings that contradict each other or have no effect.
pub(super) fn check(config: &TrainConfig, watch: &Watch<'_>) -> Result<(), SettingError> {
    let evaluated = config.holdout.is_some() || watch.validation.is_some();
    let text = |holdout: Option<Holdout>| holdout.map_or(String::new(), |holdout| holdout.to_string());
    let patience = config.patience.map_or(String::new(), |epochs| epochs.to_string());
    SettingError::first([
        (
            "holdout",
            text(config.holdout),
            config.holdout.is_none() || watch.validation.is_none(),
            "absent if there is a validation set",
        ),
        (
            "patience",
            patience,
            config.patience.is_none() || evaluated,
            "absent if nothing is held out, because nothing is measured",
        ),
    ])
}

impl<'a> HoldoutSet<'a> {
    /// Opens the samples to evaluate; `None` if there are none. `held_out`: samples of the training cache, whose images
    /// are `images`. Notes assumptions through `settings`.
    ///
    /// # Errors
    /// [`RunError::Artifact`] if a bank or the validation cache is another teacher's; [`RunError::NothingToMeasure`];
    /// errors of opening images.
    pub(super) fn open(
        config: &TrainConfig,
        settings: &LoopSettings,
        inputs: &TrainInputs<'a>,
        (images, held_out): (&TrainingImages<'_>, Vec<usize>),
        manifest: &RunManifest,
        dir: &Path,
    ) -> Result<Option<Self>, RunError> {
        let (cache, validation, samples) = match inputs.watch.validation {
            None if held_out.is_empty() => return Ok(None),
            None => (inputs.cache, None, held_out),
            Some(Validation { cache, originals }) => {
                require_teacher_of(manifest, dir, cache)?;
                let opened = open_images(config, settings, cache, originals)?;
                let samples = smallest(&opened.views().keys, MAX_HELD_OUT);
                if samples.len() < opened.samples() {
                    (settings.noted)(&format!(
                        "{} of the {} samples of {} are evaluated after every epoch",
                        samples.len(),
                        opened.samples(),
                        cache.dir().display()
                    ));
                }
                (cache, Some(opened), samples)
            }
        };
        let views = validation.as_ref().unwrap_or(images).views();
        let rows: Vec<usize> = samples.iter().map(|&sample| views.row(sample, VIEW)).collect();
        let kdep = inputs.kdep.filter(|_| validation.is_none());
        let reference =
            Reference::open(manifest.head(), cache, inputs.bank.and_then(Bank::center), kdep, &rows)?;
        let label = |(at, &sample): (usize, &usize)| Some((at, views.labels[sample]?));
        let labeled: (Vec<usize>, Vec<u32>) = samples.iter().enumerate().filter_map(label).unzip();
        let mut set = Self {
            validation,
            samples,
            normalization: cache.manifest().config.teacher.normalization,
            side: usize::try_from(config.size).unwrap_or(usize::MAX),
            threads: settings.threads,
            reference,
            banks: Vec::new(),
            labeled,
            outputs: None,
        };
        set.outputs = set.classifier_outputs(manifest, cache, settings);
        let own = inputs.bank.into_iter().chain(inputs.watch.banks);
        set.open_banks(own.collect(), manifest, cache, settings)?;
        set.require_figures(cache)?;
        Ok(Some(set))
    }

    /// Number of samples that are evaluated.
    pub(super) fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Adds the banks, if the student has an embedding to compare with them.
    fn open_banks(
        &mut self,
        banks: Vec<&Bank>,
        manifest: &RunManifest,
        cache: &Cache,
        settings: &LoopSettings,
    ) -> Result<(), RunError> {
        for bank in &banks {
            let Reference::Embedding(teacher) = &self.reference else {
                let shown = bank.dir().display();
                (settings.noted)(&format!(
                    "{shown} is not used: the student has no embedding to compare with names"
                ));
                continue;
            };
            manifest.require_space_of(bank)?;
            let prototypes = Matrix::new(bank.dim(), bank.tsb().to_vec());
            let teacher = classify(teacher, &prototypes)?;
            let categories = &bank.manifest().record.categories;
            let truth = self.truth(bank.dir(), cache, categories.iter().map(Into::into), settings);
            self.banks.push(WatchedBank { name: name_of(bank, &banks), prototypes, teacher, truth });
        }
        Ok(())
    }

    /// The number of each labeled sample's class among `names`, which `of` names in messages. `None` with a note if the
    /// classes are not among them, and without one if there are no labels.
    fn truth<'b>(
        &self,
        of: &Path,
        cache: &Cache,
        names: impl IntoIterator<Item = CategoryKeys<'b>>,
        settings: &LoopSettings,
    ) -> Option<Vec<u32>> {
        let labels: BTreeSet<u32> = self.labeled.1.iter().copied().collect();
        if labels.is_empty() {
            return None;
        }
        let classes = cache.manifest().config.class_names.as_deref();
        let note = |text: String| (settings.noted)(&text);
        match categories_of_labels(&labels, classes, cache.dir(), names) {
            Ok(map) => {
                map.note.iter().for_each(|text| note(format!("{}: {text}", of.display())));
                Some(map.classes(&self.labeled.1))
            }
            Err(
                EvalError::UnmatchedClasses { classes, .. } | EvalError::OutsidePositions { classes, .. },
            ) => {
                note(format!(
                    "{}: no accuracy is measured on held-out samples, whose labels have other classes: {}",
                    of.display(),
                    classes.first().map_or("", String::as_str)
                ));
                None
            }
            Err(_) => None,
        }
    }

    /// The classifier's output for each labeled sample, if the student has a classifier.
    fn classifier_outputs(
        &self,
        manifest: &RunManifest,
        cache: &Cache,
        settings: &LoopSettings,
    ) -> Option<Vec<u32>> {
        let classes = manifest.classes.as_ref()?;
        match (&self.validation, &classes.names) {
            (Some(_), Some(names)) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.truth(cache.dir(), cache, names.iter().map(Into::into), settings)
            }
            _ => Some(self.labeled.1.clone()).filter(|labels| !labels.is_empty()),
        }
    }

    fn require_figures(&self, cache: &Cache) -> Result<(), RunError> {
        let compared = !matches!(self.reference, Reference::Nothing);
        if compared || self.outputs.is_some() || self.labeled.1.len() > 1 {
            return Ok(());
        }
        let reason = "the student has no embedding or target to compare, and the samples have no labels";
        Err(RunError::NothingToMeasure { cache: cache.dir().to_owned(), reason })
    }

    /// The figures of `student`. `images`: those of the training cache.
    pub(super) fn evaluate(
        &self,
        student: &mut Student,
        images: &TrainingImages<'_>,
    ) -> Result<HoldoutFigures, RunError> {
        let outputs = self.run(student, self.validation.as_ref().unwrap_or(images))?;
        let (positions, labels) = &self.labeled;
        let mut figures = HoldoutFigures { samples: self.samples.len(), ..HoldoutFigures::default() };
        if let (Some(compared), Reference::Embedding(expected) | Reference::Feature(expected)) =
            (&outputs.compared, &self.reference)
        {
            figures.cosine = Some(mean_cosine(compared, expected));
        }
        if let (Some(logits), Some(truth)) = (&outputs.compared, &self.outputs) {
            let predicted: Vec<u32> = positions.iter().map(|&at| argmax(logits.row(at))).collect();
            figures.labels = Some(top1(&predicted, truth));
        }
        if let (Some(embedding), Reference::Embedding(_)) = (&outputs.compared, &self.reference) {
            for WatchedBank { name, prototypes, teacher, truth } in &self.banks {
                let chosen = classify(embedding, prototypes)?;
                let percent = |percent| BankPercent { bank: name.clone(), percent };
                figures.agreement.push(percent(top1(&chosen, teacher)));
                if let Some(truth) = truth {
                    let chosen: Vec<u32> = positions.iter().map(|&at| chosen[at]).collect();
                    figures.zero_shot.push(percent(top1(&chosen, truth)));
                }
            }
        }
        if labels.len() > 1 {
            let rows = positions.iter().flat_map(|&at| outputs.pooled.row(at)).copied();
            let pooled = Matrix::new(outputs.pooled.width(), rows.collect());
            let predicted = leave_one_out((&pooled, labels), KnnSettings::default())?;
            figures.knn = Some(top1(&predicted, labels));
        }
        Ok(figures)
    }

    /// Runs the student on all samples.
    fn run(&self, student: &mut Student, images: &TrainingImages<'_>) -> Result<Outputs, RunError> {
        let width = student.architecture().feature_dim();
        let mut pooled = Vec::with_capacity(self.samples.len() * width);
        let mut compared = Vec::new();
        images.visit(&self.samples, VIEW, (BATCH, self.threads), |samples, rgb| {
            let shown = Images::Pixels { rgb, normalization: &self.normalization };
            let output = student.forward(shown, (samples.len(), self.side, self.side), Mode::Inference)?;
            pooled.extend(to_host(&output.pooled)?);
            if let Some(tensor) = self.compared(&output) {
                compared.extend(to_host(tensor)?);
            }
            Ok::<_, RunError>(())
        })?;
        let per_sample = compared.len() / self.samples.len().max(1);
        let compared = (per_sample > 0).then(|| Matrix::new(per_sample, compared));
        Ok(Outputs { pooled: Matrix::new(width, pooled), compared })
    }

    /// The output that is compared with the reference or the labels.
    fn compared<'b>(&self, output: &'b StudentOutput) -> Option<&'b candle_core::Tensor> {
        match self.reference {
            Reference::Feature(_) => output.raw_pooled.as_ref(),
            _ => output.embedding.as_ref(),
        }
    }
}

impl Reference {
    /// Reads what a student with `head` is compared with, for the cache rows `rows`.
    fn open(
        head: Head,
        cache: &Cache,
        center: Option<&Center>,
        kdep: Option<&KdepBank>,
        rows: &[usize],
    ) -> Result<Self, RunError> {
        let read = |column: &lgd_data::column::MappedColumn<f32>| {
            let mut values = vec![0.0; rows.len() * column.width()];
            column.copy_rows(rows.iter().copied(), &mut values);
            values
        };
        match (head, kdep) {
            (Head::Projection { dim }, _) => {
                let mut values = read(cache.embeddings());
                if let Some(center) = center {
                    center.images(&mut values).map_err(|_| TrainError::EqualsMean)?;
                }
                Ok(Self::Embedding(Matrix::new(dim, values)))
            }
            (Head::None, Some(bank)) => Ok(Self::Feature(Matrix::new(bank.dim(), read(&bank.targets()?)))),
            _ => Ok(Self::Nothing),
        }
    }
}

/// The name of a bank's folder, or its path if another of `all` has the same name.
fn name_of(bank: &Bank, all: &[&Bank]) -> String {
    let name = |bank: &Bank| bank.dir().file_name().map(|name| name.to_string_lossy().into_owned());
    let path = || bank.dir().display().to_string();
    let same = all.iter().filter(|other| name(other) == name(bank)).count();
    name(bank).filter(|_| same == 1).unwrap_or_else(path)
}

/// The mean over rows of the cosine of `a` and `b`, `[N, d]` each. The cosine with a zero row is 0.
#[expect(clippy::cast_precision_loss, reason = "row counts are far below 2^53")]
fn mean_cosine(a: &Matrix, b: &Matrix) -> f64 {
    let product =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let cosine = |(x, y): (&[f32], &[f32])| {
        let norms = (product(x, x) * product(y, y)).sqrt();
        if norms > 0.0 { product(x, y) / norms } else { 0.0 }
    };
    a.iter().zip(b.iter()).map(cosine).sum::<f64>() / a.rows().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_is_a_mean_over_rows_of_any_length() {
        let a = Matrix::new(2, vec![3.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        let b = Matrix::new(2, vec![0.5, 0.0, 1.0, -1.0, 1.0, 0.0]);
        assert!((mean_cosine(&a, &b) - 1.0 / 3.0).abs() < 1e-12);
    }
}
