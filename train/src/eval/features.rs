//! Extracts features of images, with labels if a protocol needs them: one plain view per image, through the frozen
//! student.

use std::collections::HashSet;

use lgd_data::cache::{ImageStamp, Reject};
use lgd_data::image::RgbImage;
use lgd_data::job::Job;
use lgd_data::source::ImageSource;
use lgd_data::view::{CenterCrop, View};

use super::EvalError;
use super::matrix::Matrix;
use super::{EvalOptions, LabeledImages};
use crate::error::TrainError;
use crate::loader::matching::match_samples;
use crate::loader::ordered::{Ordered, ordered_map};
use crate::loader::pixels::{InputFormat, PixelError, load_view};
use crate::ops::to_host;
use crate::student::{Images, Mode, Student};

/// Batches that workers may prepare ahead.
const LOOK_AHEAD: usize = 2;

/// The student's outputs for a set of images, one row per image.
pub(super) struct Features {
    /// Empty if labels are not needed.
    pub(super) labels: Vec<u32>,
    /// Pooled features, `[N, d]`.
    pub(super) pooled: Matrix,
    /// Outputs of the head, if there is one: L2-normalized embeddings `[N, D]`, or logits `[N, classes]`.
    pub(super) head: Option<Matrix>,
    /// The teacher's embeddings, `[N, D]`.
    pub(super) teacher: Option<Matrix>,
    pub(super) rejects: Vec<Reject>,
    /// The view shown, in words.
    pub(super) view: String,
}

/// The images to be shown, and the view of each.
pub(super) struct ImagePlan<'a> {
    images: LabeledImages<'a>,
    items: Vec<Item>,
    /// Cache row of each item, for the teacher's embedding.
    rows: Option<Vec<usize>>,
    rejects: Vec<Reject>,
    view: String,
}

struct Item {
    position: usize,
    /// Absent only if labels are not needed.
    label: Option<u32>,
    view: View,
    image: Option<ImageStamp>,
}

impl ImagePlan<'_> {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }
}

/// The student and its input.
pub(super) struct Extraction<'a> {
    pub(super) student: &'a mut Student,
    pub(super) format: InputFormat,
    pub(super) options: &'a EvalOptions,
    pub(super) job: &'a Job,
}

impl Extraction<'_> {
    /// Plans the views without opening an image. `labels`: whether labels are needed. `center`: the crop
    /// that is shown; if there is a cache, the cache's.
    pub(super) fn plan<'a>(
        &self,
        images: &LabeledImages<'a>,
        labels: bool,
        center: CenterCrop,
    ) -> Result<ImagePlan<'a>, EvalError> {
        if labels {
            require_labels(images)?;
        }
        let samples = images.source.samples();
        let entries = images.source.listing().rejected.iter();
        let mut rejects: Vec<Reject> =
            entries.map(|entry| reject(&entry.key, entry.reason, &entry.detail)).collect();
        let Some(cache) = images.cache else {
            let view = View::of_center(center);
            let mut items = Vec::with_capacity(samples.len());
            for (position, sample) in samples.iter().enumerate() {
                if labels && sample.label.is_none() {
                    rejects.push(unlabeled(&sample.key));
                } else {
                    items.push(Item { position, label: sample.label.filter(|_| labels), view, image: None });
                }
            }
            let view = format!("center crop {center}");
            return Ok(ImagePlan { images: *images, items, rows: None, rejects, view });
        };
        let views = cache.views()?;
        let positions = match_samples(cache, &views, images.source, images.images)?;
        let (mut items, mut rows) = (Vec::new(), Vec::new());
        for (sample, &position) in positions.iter().enumerate() {
            let (view, image) = (*views.view(sample, 0), Some(views.images[sample]));
            let label = samples[position].label.filter(|_| labels);
            if labels && label.is_none() {
                rejects.push(unlabeled(&samples[position].key));
            } else {
                items.push(Item { position, label, view, image });
                rows.push(views.row(sample, 0));
            }
        }
        let cached: HashSet<usize> = positions.into_iter().collect();
        let all = images.source.samples().iter().enumerate();
        let absent = all.filter(|(position, _)| !cached.contains(position));
        let detail = format!("the cache {} does not have it", cache.dir().display());
        rejects.extend(absent.map(|(_, sample)| reject(&sample.key, "not-cached", &detail)));
        let view = format!("the cache's view 0, center crop {center}");
        Ok(ImagePlan { images: *images, items, rows: Some(rows), rejects, view })
    }

    /// Runs the student on the images. Images that cannot be used are rejected.
    pub(super) fn run(&mut self, plan: ImagePlan<'_>) -> Result<Features, EvalError> {
        let ImagePlan { images, items, rows, rejects, view } = plan;
        let width = self.student.architecture().feature_dim();
        let mut features = Features {
            labels: Vec::with_capacity(items.len()),
            pooled: Matrix::new(width, Vec::new()),
            head: self.student.embedding_dim().map(|width| Matrix::new(width, Vec::new())),
            teacher: None,
            rejects,
            view,
        };
        let (format, options) = (self.format, self.options);
        let load = |ticket: usize| {
            let item = &items[ticket];
            load_view(images.source, item.position, &item.view, item.image, &format, &options.limits)
        };
        let window = LOOK_AHEAD * self.options.batch.max(1);
        let used = ordered_map(items.len(), options.threads, window, load, |results| {
            self.consume(results, &items, images.source, &mut features)
        })?;
        if used.is_empty() {
            let listed = images.source.samples().len();
            return Err(EvalError::NoImages { images: images.images.to_owned(), images_listed: listed });
        }
        if let Some((cache, rows)) = images.cache.zip(rows) {
            let mut values = vec![0.0; used.len() * cache.dim()];
            cache.embeddings().copy_rows(used.iter().map(|&item| rows[item]), &mut values);
            features.teacher = Some(Matrix::new(cache.dim(), values));
        }
        Ok(features)
    }

    /// Returns the items that were accepted, in order.
    fn consume(
        &mut self,
        results: &mut Ordered<'_, Result<RgbImage, PixelError>>,
        items: &[Item],
        source: &dyn ImageSource,
        features: &mut Features,
    ) -> Result<Vec<usize>, EvalError> {
        let mut used = Vec::with_capacity(items.len());
        let mut batch = Vec::with_capacity(self.options.batch);
        for (index, result) in results.enumerate() {
            if self.job.interrupted() {
                return Err(EvalError::Interrupted);
            }
            match result {
                Ok(image) => {
                    batch.push(image);
                    used.push(index);
                    features.labels.extend(items[index].label);
                }
                // A failing storage also loses good images, and a figure without them would describe another set.
                Err(PixelError::Source(error)) if error.is_storage_failure() => {
                    return Err(EvalError::Storage { source: error });
                }
                // Unlike in training, nothing else depends on this image: it is counted, and the evaluation continues.
                Err(error) => {
                    let key = &source.samples()[items[index].position].key;
                    features.rejects.push(reject(key, error.reason(), &error.to_string()));
                    self.job.reject(1);
                }
            }
            self.job.advance(1);
            if batch.len() == self.options.batch.max(1) {
                self.forward(&mut batch, features)?;
            }
        }
        self.forward(&mut batch, features)?;
        Ok(used)
    }

    fn forward(&mut self, batch: &mut Vec<RgbImage>, features: &mut Features) -> Result<(), EvalError> {
        if batch.is_empty() {
            return Ok(());
        }
        let pixels = self.format.normalize(batch).map_err(TrainError::from)?;
        let side = usize::try_from(self.format.size).unwrap_or(usize::MAX);
        let shape = (batch.len(), side, side);
        batch.clear();
        let output = self.student.forward(Images::Normalized(&pixels), shape, Mode::Inference)?;
        let host = |tensor| to_host(tensor).map_err(TrainError::from);
        features.pooled.extend(&host(&output.pooled)?);
        if let Some(head) = &mut features.head {
            head.extend(&host(output.embedding().map_err(TrainError::from)?)?);
        }
        Ok(())
    }
}

fn reject(key: &str, reason: &str, detail: &str) -> Reject {
    Reject { key: key.to_owned(), reason: reason.to_owned(), detail: detail.to_owned() }
}

/// Fails if no image of the source has a label. A single image without one is a reject, like a stray file beside class
/// folders.
fn require_labels(images: &LabeledImages<'_>) -> Result<(), EvalError> {
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
    reject(key, "no-label", "it stands in no class folder, or without a label where others have one")
}
