//! Every operation against its reference: odd sizes, both parities at stride 2, groups, batches of one, channels that no vector
//! divides.

mod conv;
mod maps;
mod norm;
mod optim;
mod rows;
mod transfer;

use lgd_cuda::{Activation, CudaError};

use crate::lab::Lab;

const EPS: f32 = 1e-5;
/// Rows of a normalization that several blocks share, and of one that a single block takes.
const ROWS: [u32; 2] = [2 * 13 * 11, 7];

/// Operations that exist for each element.
pub fn all(lab: &mut Lab) -> Result<(), CudaError> {
    conv::convolutions(lab)?;
    conv::depthwise(lab)?;
    for channels in [16, 5, 264] {
        for activation in Activation::ALL {
            norm::batch_norm(lab, ROWS[0], channels, activation)?;
        }
        norm::batch_norm(lab, ROWS[1], channels, Activation::Identity)?;
        norm::residual(lab, channels)?;
        maps::maps(lab, channels)?;
        maps::pools(lab, channels)?;
        maps::gates(lab, channels)?;
    }
    maps::masked(lab)?;
    rows::dense(lab)
}

/// Operations on f32 alone.
pub fn plain(lab: &mut Lab) -> Result<(), CudaError> {
    rows::normalized_rows(lab)?;
    rows::cross_entropy(lab)?;
    optim::optimizers(lab)?;
    transfer::images(lab)?;
    transfer::uploads(lab)
}

fn sum(a: &[f64], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + f64::from(*b)).collect()
}
