//! The images that a model is tried with, and what their vectors must be.

use lgd_data::image::RgbImage;

use super::{EmbeddingFault, Embeddings};
use crate::error::ExtractError;
use crate::session::{Model, describe};

/// Two raw vectors that differ by a smaller share of their length are the same up to rounding in f32. Vectors of an untrained
/// network are not much further apart, and are no error.
const SAME: f64 = 3e-7;

/// Two different images of `side` pixels, both brighter than the mean of common normalizations: a gray ramp, and noise
/// in colors.
///
/// # Errors
/// [`ExtractError::Inference`] if an image cannot be that large.
pub(super) fn images(model: &Model, side: u32) -> Result<[RgbImage; 2], ExtractError> {
    let count = usize::try_from(side).unwrap_or(usize::MAX).saturating_pow(2);
    let bright = |value: usize| u8::try_from(96 + value % 160).unwrap_or(u8::MAX);
    let ramp = (0..count).flat_map(|at| [bright(at * 160 / count); 3]).collect();
    // A linear congruential generator; its high bits are the random ones.
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 24
    };
    let noise = (0..3 * count).map(|_| bright(usize::try_from(random()).unwrap_or(0))).collect();
    let image = |pixels| {
        RgbImage::new(side, side, pixels).map_err(|error| ExtractError::inference(model.path(), error))
    };
    Ok([image(ramp)?, image(noise)?])
}

/// Checks the raw vectors of the two images, `[2, dim]`.
///
/// # Errors
/// [`ExtractError::ModelInterface`] if both are zero or not finite, or if they are equal.
pub(super) fn require_difference(
    model: &Model,
    output: &str,
    dim: usize,
    vectors: &[f32],
) -> Result<(), ExtractError> {
    let (first, second) = vectors.split_at(dim.min(vectors.len()));
    let embeddings = Embeddings::normalize(dim, vectors.to_vec());
    let problem = match (embeddings.fault(0), embeddings.fault(1)) {
        (Some(EmbeddingFault::Zero), Some(EmbeddingFault::Zero)) => "zeros for every image",
        (Some(_), Some(_)) => "vectors that are not finite (NaN or infinite) for every image",
        (None, None) if same(first, second) => "the same vector for different images",
        _ => return Ok(()),
    };
    let got = format!("{problem} from {output} (outputs: {})", describe(model.outputs()));
    let hint = if output.contains("text") {
        "this is the text encoder's output: set [image] output in teacher.toml to the image's embedding, such as image_embeds"
    } else {
        "set [image] output in teacher.toml to the image's embedding; if this is it, export the model again, with its trained weights"
    };
    Err(model.mismatch("different vectors for different images", got, hint))
}

/// Whether two vectors are equal up to rounding.
fn same(first: &[f32], second: &[f32]) -> bool {
    let length =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let apart = length(&mut first.iter().zip(second).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    apart <= SAME * length(&mut first.iter().map(|&value| f64::from(value)))
}
