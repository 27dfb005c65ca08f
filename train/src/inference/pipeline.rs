//! Feeds images to a model: reads, decodes and renders on threads, runs whole batches in order, and rejects images that
//! cannot be used.

use lgd_data::cache::{ImageStamp, Reject};
use lgd_data::image::{DecodeLimits, RgbImage};
use lgd_data::job::Job;
use lgd_data::render::{Normalization, Resample};
use lgd_data::source::ImageSource;
use lgd_data::view::View;

use super::{ImageModel, InferenceError};
use crate::loader::ordered::{Ordered, ordered_map};
use crate::loader::pixels::{InputFormat, PixelError, load_view};

/// Batches that workers may prepare ahead.
const LOOK_AHEAD: usize = 2;

/// An image to be shown to a model.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Its number in the source.
    pub position: usize,
    /// The view to be shown.
    pub view: View,
    /// The image that a teacher saw; `None` skips the comparison.
    pub image: Option<ImageStamp>,
}

/// Images of a source, in the order in which they are shown.
#[derive(Clone, Copy)]
pub struct Feed<'a> {
    /// The images.
    pub source: &'a dyn ImageSource,
    /// Those to be shown.
    pub items: &'a [Item],
}

/// How images are fed.
#[derive(Clone, Copy, Debug)]
pub struct InferenceOptions {
    /// Images per call of the model.
    pub batch: usize,
    /// Threads that decode and render.
    pub threads: usize,
    /// Limits of decoding an image.
    pub limits: DecodeLimits,
    /// Filter of the resize in place of the model's.
    pub resample: Option<Resample>,
}

/// The outputs of a batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Numbers of the images among the items of the feed.
    pub items: Vec<usize>,
    /// Values of each of the model's outputs, in the order of its card, `[items, width]`.
    pub outputs: Vec<Vec<f32>>,
}

/// Runs `model` on the images of `feed`, and passes the outputs to `accept`, batch by batch, in the order of the items.
/// Returns the rejects: images that cannot be read, decoded or rendered, and those for which the model's outputs are
/// not finite. `job` counts images and may interrupt.
///
/// # Errors
/// [`InferenceError`], or any error of `accept`.
pub fn infer<E: From<InferenceError>>(
    model: &mut dyn ImageModel,
    feed: Feed<'_>,
    options: &InferenceOptions,
    job: &Job,
    accept: &mut dyn FnMut(Batch) -> Result<(), E>,
) -> Result<Vec<Reject>, E> {
    let card = model.card();
    // Only side and filter are used here: the model normalizes.
    let resample = options.resample.unwrap_or(card.resample);
    let format = InputFormat { size: card.size, resample, normalization: Normalization::CLIP };
    let batch = options.batch.max(1);
    let load = |ticket: usize| {
        let item = &feed.items[ticket];
        load_view(feed.source, item.position, &item.view, item.image, &format, &options.limits)
    };
    let mut run = Running { model, feed, job, rejects: Vec::new(), accept };
    ordered_map(feed.items.len(), options.threads, LOOK_AHEAD * batch, load, |results| {
        run.consume(results, batch)
    })?;
    Ok(run.rejects)
}

/// A run in progress.
struct Running<'a, E> {
    model: &'a mut dyn ImageModel,
    feed: Feed<'a>,
    job: &'a Job,
    rejects: Vec<Reject>,
    accept: &'a mut dyn FnMut(Batch) -> Result<(), E>,
}

impl<E: From<InferenceError>> Running<'_, E> {
    fn consume(
        &mut self,
        results: &mut Ordered<'_, Result<RgbImage, PixelError>>,
        batch: usize,
    ) -> Result<(), E> {
        let (mut items, mut images) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
        for (item, result) in results.enumerate() {
            if self.job.interrupted() {
                return Err(InferenceError::Interrupted.into());
            }
            match result {
                Ok(image) => {
                    items.push(item);
                    images.push(image);
                }
                // A failing storage also loses good images, and a figure without them would describe another set.
                Err(PixelError::Source(source)) if source.is_storage_failure() => {
                    return Err(InferenceError::Storage { source: source.into() }.into());
                }
                // Unlike in training, nothing else depends on this image: it is counted, and the work continues.
                Err(error) => self.reject(item, error.reason(), error.to_string()),
            }
            self.job.advance(1);
            if images.len() == batch {
                self.forward(&mut items, &mut images)?;
            }
        }
        self.forward(&mut items, &mut images)
    }

    fn forward(&mut self, items: &mut Vec<usize>, images: &mut Vec<RgbImage>) -> Result<(), E> {
        if images.is_empty() {
            return Ok(());
        }
        let path = self.model.card().path.clone();
        let failed = |source| InferenceError::Model { path, source };
        let outputs = self.model.infer(images).map_err(failed)?;
        images.clear();
        let batch = self.finite(Batch { items: std::mem::take(items), outputs });
        if batch.items.is_empty() { Ok(()) } else { (self.accept)(batch) }
    }

    /// Rejects the images for which an output is not finite, and removes their rows.
    fn finite(&mut self, batch: Batch) -> Batch {
        let count = batch.items.len();
        let rows = |values: &[f32], row: usize| {
            let width = values.len() / count;
            row * width..(row + 1) * width
        };
        let finite = |row: usize| {
            batch.outputs.iter().all(|values| values[rows(values, row)].iter().all(|value| value.is_finite()))
        };
        let kept: Vec<usize> = (0..count).filter(|row| finite(*row)).collect();
        if kept.len() == count {
            return batch;
        }
        for row in (0..count).filter(|row| !kept.contains(row)) {
            let detail = "the model gives NaN or infinite values for this image".to_owned();
            self.reject(batch.items[row], "nan-output", detail);
        }
        let keep =
            |values: &Vec<f32>| kept.iter().flat_map(|&row| values[rows(values, row)].to_vec()).collect();
        Batch {
            items: kept.iter().map(|&row| batch.items[row]).collect(),
            outputs: batch.outputs.iter().map(keep).collect(),
        }
    }

    fn reject(&mut self, item: usize, reason: &str, detail: String) {
        let key = self.feed.source.samples()[self.feed.items[item].position].key.clone();
        self.rejects.push(Reject { key, reason: reason.to_owned(), detail });
        self.job.reject(1);
    }
}
