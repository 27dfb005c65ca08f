//! Outputs of a model for labeled images: one center crop per image.

use std::collections::{BTreeMap, HashSet};

use lgd_data::cache::{ImageStamp, Reject};
use lgd_data::job::Job;
use lgd_data::view::{CenterCrop, View};

use super::{EvalError, EvalOptions, LabeledImages};
use crate::inference::{Batch, Feed, ImageModel, InferenceOptions, Item, Matrix, OutputKind, infer};
use crate::loader::matching::match_samples;

/// A model's outputs for a set of images, one row per image.
pub(super) struct Features {
    /// Numbers of the images in their source.
    pub(super) positions: Vec<usize>,
    /// Empty if labels are not needed.
    pub(super) labels: Vec<u32>,
    /// The outputs that were kept, `[N, width]`.
    outputs: BTreeMap<OutputKind, Matrix>,
    /// The teacher's embeddings, `[N, D]`.
    pub(super) teacher: Option<Matrix>,
    pub(super) rejects: Vec<Reject>,
    /// The view shown, in words.
    pub(super) view: String,
}

impl Features {
    /// An output; `None` if the model does not have it, or it was not kept.
    pub(super) fn output(&self, kind: OutputKind) -> Option<&Matrix> {
        self.outputs.get(&kind)
    }
}

/// The images to be shown, and the view of each.
pub(super) struct ImagePlan<'a> {
    images: LabeledImages<'a>,
    items: Vec<Item>,
    /// Label of each item; empty if labels are not needed.
    labels: Vec<u32>,
    /// Cache row of each item, for the teacher's embedding.
    rows: Option<Vec<usize>>,
    rejects: Vec<Reject>,
    view: String,
}

impl<'a> ImagePlan<'a> {
    /// Plans the views without opening an image. `labels`: whether labels are needed. `center`: the crop that is shown.
    pub(super) fn new(
        images: &LabeledImages<'a>,
        labels: bool,
        center: CenterCrop,
    ) -> Result<Self, EvalError> {
        if labels {
            require_labels(images)?;
        }
        let entries = images.source.listing().rejected.iter();
        let rejects = entries.map(|entry| reject(&entry.key, entry.reason, &entry.detail)).collect();
        let (view, items, rows) = (format!("center crop {center}"), Vec::new(), None);
        let mut plan = Self { images: *images, items, labels: Vec::new(), rows, rejects, view };
        let view = View::of_center(center);
        let Some(cache) = images.cache else {
            (0..images.source.samples().len()).for_each(|position| {
                plan.push(Item { position, view, image: None }, labels);
            });
            return Ok(plan);
        };
        let views = cache.views()?;
        let positions = match_samples(cache, &views, images.source, images.images)?;
        let mut rows = Vec::new();
        for (sample, &position) in positions.iter().enumerate() {
            let image: Option<ImageStamp> = Some(views.images[sample]);
            if plan.push(Item { position, view, image }, labels) {
                rows.push(views.row(sample, 0));
            }
        }
        let cached: HashSet<usize> = positions.into_iter().collect();
        let all = images.source.samples().iter().enumerate();
        let absent = all.filter(|(position, _)| !cached.contains(position));
        let detail = format!("the cache {} does not have it", cache.dir().display());
        plan.rejects.extend(absent.map(|(_, sample)| reject(&sample.key, "not-cached", &detail)));
        plan.rows = Some(rows);
        if cache.manifest().config.center == Some(center) {
            plan.view = format!("the cache's view 0, center crop {center}");
        }
        Ok(plan)
    }

    /// Adds an image; returns whether it can be used. With `labels`, an image without a label is a reject.
    fn push(&mut self, item: Item, labels: bool) -> bool {
        let sample = &self.images.source.samples()[item.position];
        match sample.label.filter(|_| labels) {
            None if labels => {
                self.rejects.push(unlabeled(&sample.key));
                return false;
            }
            label => self.labels.extend(label),
        }
        self.items.push(item);
        true
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Runs the model on the images and keeps its outputs `kept`. Images that cannot be used are rejected.
    pub(super) fn run(
        self,
        model: &mut dyn ImageModel,
        kept: &[OutputKind],
        options: &EvalOptions,
        job: &Job,
    ) -> Result<Features, EvalError> {
        let Self { images, items, labels, rows, mut rejects, view } = self;
        let card = model.card();
        let kept: Vec<(usize, OutputKind, usize)> = (0..)
            .zip(&card.outputs)
            .filter(|(_, (kind, _))| kept.contains(kind))
            .map(|(at, &(kind, width))| (at, kind, width))
            .collect();
        let mut outputs: BTreeMap<OutputKind, Matrix> =
            kept.iter().map(|&(_, kind, width)| (kind, Matrix::new(width, Vec::new()))).collect();
        let mut used = Vec::with_capacity(items.len());
        let feed = Feed { source: images.source, items: &items };
        let EvalOptions { batch, threads, limits, resample, .. } = *options;
        let fed = InferenceOptions { batch, threads, limits, resample };
        let failed = infer(model, feed, &fed, job, &mut |batch: Batch| {
            for (at, kind, _) in &kept {
                if let Some(rows) = outputs.get_mut(kind) {
                    rows.extend(&batch.outputs[*at]);
                }
            }
            used.extend(batch.items);
            Ok::<_, EvalError>(())
        })?;
        rejects.extend(failed);
        if used.is_empty() {
            let listed = images.source.samples().len();
            return Err(EvalError::NoImages { images: images.images.to_owned(), images_listed: listed });
        }
        let teacher = images.cache.zip(rows).map(|(cache, rows)| {
            let mut values = vec![0.0; used.len() * cache.dim()];
            cache.embeddings().copy_rows(used.iter().map(|&item| rows[item]), &mut values);
            Matrix::new(cache.dim(), values)
        });
        Ok(Features {
            positions: used.iter().map(|&item| items[item].position).collect(),
            labels: used.iter().filter_map(|&item| labels.get(item).copied()).collect(),
            outputs,
            teacher,
            rejects,
            view,
        })
    }
}

fn reject(key: &str, reason: &str, detail: &str) -> Reject {
    Reject { key: key.to_owned(), reason: reason.to_owned(), detail: detail.to_owned() }
}

/// Fails if no image of the source has a label. A single image without one is a reject, like a stray file beside class
/// folders.
pub(super) fn require_labels(images: &LabeledImages<'_>) -> Result<(), EvalError> {
    let samples = images.source.samples();
    match samples.first() {
        Some(first) if samples.iter().all(|sample| sample.label.is_none()) => Err(EvalError::Unlabeled {
            images: images.images.to_owned(),
            key: first.key.clone(),
            count: samples.len(),
        }),
        _ => Ok(()),
    }
}

fn unlabeled(key: &str) -> Reject {
    reject(key, "no-label", "it is in no class folder, or has no label although other images have one")
}
