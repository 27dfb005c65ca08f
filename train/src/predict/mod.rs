//! Prediction: names with probabilities for any images, and their features or embeddings as files.
//!
//! - [`Classifier`]: which names a model tells apart, and the probability of each for an image;
//! - [`ImageArguments`]: files, folders and other sources as one source;
//! - [`PredictionWriter`], [`write_vectors`]: results as CSV, JSON lines and Parquet, vectors as NumPy, Parquet and
//!   safetensors.

mod arguments;
mod classifier;
mod error;
mod table;
mod vectors;

use lgd_data::cache::Reject;
use lgd_data::job::Job;
use lgd_data::source::ImageSource;
use lgd_data::view::{CenterCrop, View};

pub use arguments::ImageArguments;
pub use classifier::{Candidate, Categories, Classifier, ScoreRow};
pub use error::PredictError;
pub use table::{PredictionRow, PredictionWriter, TableFormat};
pub use vectors::{VectorFormat, write_vectors};

use crate::inference::{Batch, Feed, ImageModel, InferenceOptions, Item, Matrix, OutputKind, infer};

/// The most probable names of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction<'a> {
    /// Key of the image in its source.
    pub key: &'a str,
    /// The candidates, the most probable first.
    pub top: Vec<Candidate>,
}

/// The center crop that images are shown with: the model's, else the default, with another `fraction` if one is given;
/// and a note if it is assumed.
pub fn center_crop(model: &dyn ImageModel, fraction: Option<f32>) -> (CenterCrop, Option<String>) {
    let known = model.card().center;
    let crop = known.unwrap_or_default();
    let crop = CenterCrop { fraction: fraction.unwrap_or(crop.fraction), ..crop };
    let note = || format!("the center crop was not recorded; assumed {crop}");
    (crop, (known.is_none() && fraction.is_none()).then(note))
}

/// Predicts the `top_k` most probable names of every image of `source`, shown with the crop `center`, and passes them to
/// `accept` in the order of the source. Returns the rejects.
///
/// # Errors
/// [`PredictError`] if the storage or the model fails or the job is interrupted, or any error of `accept`.
pub fn predict(
    model: &mut dyn ImageModel,
    classifier: &Classifier,
    (source, center): (&dyn ImageSource, CenterCrop),
    top_k: usize,
    options: &InferenceOptions,
    job: &Job,
    accept: &mut dyn FnMut(Prediction<'_>) -> Result<(), PredictError>,
) -> Result<Vec<Reject>, PredictError> {
    let samples = source.samples();
    let output = position(model, classifier.output())?;
    run(model, source, center, options, job, &mut |mut batch: Batch| {
        let values = Matrix::new(classifier.input_width(), batch.outputs.swap_remove(output));
        let mut items = batch.items.iter();
        let mut outcome = Ok(());
        classifier.for_each_row(&values, |row| {
            if let (Ok(()), Some(&item)) = (&outcome, items.next()) {
                outcome = accept(Prediction { key: &samples[item].key, top: row.top(top_k) });
            }
        })?;
        outcome
    })
}

/// Computes an output of every image of `source`, shown with the crop `center`. Returns the numbers of the images in the
/// source, their rows, and the rejects.
///
/// # Errors
/// [`PredictError`] if the model does not have the output, the storage or the model fails, or the job is interrupted.
pub fn embed(
    model: &mut dyn ImageModel,
    kind: OutputKind,
    (source, center): (&dyn ImageSource, CenterCrop),
    options: &InferenceOptions,
    job: &Job,
) -> Result<(Vec<usize>, Matrix, Vec<Reject>), PredictError> {
    let output = position(model, kind)?;
    let mut numbers = Vec::new();
    let mut rows = Matrix::new(model.card().width(kind).unwrap_or(1), Vec::new());
    let rejects = run(model, source, center, options, job, &mut |batch: Batch| {
        rows.extend(&batch.outputs[output]);
        numbers.extend(batch.items);
        Ok(())
    })?;
    Ok((numbers, rows, rejects))
}

/// Runs the model on all images of a source. Entries that the source could not list are rejects too.
fn run(
    model: &mut dyn ImageModel,
    source: &dyn ImageSource,
    center: CenterCrop,
    options: &InferenceOptions,
    job: &Job,
    accept: &mut dyn FnMut(Batch) -> Result<(), PredictError>,
) -> Result<Vec<Reject>, PredictError> {
    let view = View::of_center(center);
    let items: Vec<Item> =
        (0..source.samples().len()).map(|position| Item { position, view, image: None }).collect();
    job.begin(u64::try_from(items.len()).unwrap_or(u64::MAX));
    let listed = source.listing().rejected.iter();
    let mut rejects: Vec<Reject> = listed
        .map(|entry| Reject {
            key: entry.key.clone(),
            reason: entry.reason.to_owned(),
            detail: entry.detail.clone(),
        })
        .collect();
    rejects.extend(infer(model, Feed { source, items: &items }, options, job, accept)?);
    Ok(rejects)
}

/// Position of an output among those of the model.
fn position(model: &dyn ImageModel, kind: OutputKind) -> Result<usize, PredictError> {
    let card = model.card();
    card.outputs.iter().position(|(output, _)| *output == kind).ok_or_else(|| PredictError::NoOutput {
        path: card.path.clone(),
        kind,
        outputs: card.outputs_in_words(),
    })
}
