//! Every operation against its reference: odd sizes, both parities at stride 2, groups, batches of one, and numbers of
//! channels that no vector length divides.

mod conv;
mod maps;
mod norm;
mod optim;
mod rows;
mod transfer;

use lgd_cuda::{Activation, CudaError, Element};

use crate::lab::Lab;

const EPS: f32 = 1e-5;
/// Numbers of channels: whole vectors, odd, and more than a block takes.
const CHANNELS: [usize; 3] = [16, 5, 264];
/// Rows of a normalization: enough for several blocks, and for a single block.
const ROWS: [u32; 2] = [2 * 13 * 11, 7];

/// Runs checks of operations that exist for each element type.
fn in_each_element(checks: impl Fn(&mut Lab) -> Result<(), CudaError>) {
    for element in [Element::F32, Element::Bf16, Element::F16] {
        Lab::run(element, &checks);
    }
}

/// Runs the same checks for each number of channels as well.
fn in_each_width(checks: impl Fn(&mut Lab, usize) -> Result<(), CudaError>) {
    in_each_element(|lab| CHANNELS.into_iter().try_for_each(|channels| checks(lab, channels)));
}

/// Runs checks of operations that exist for f32 only.
fn in_f32(checks: impl Fn(&mut Lab) -> Result<(), CudaError>) {
    Lab::run(Element::F32, &checks);
}

#[test]
fn convolutions() {
    in_each_element(conv::convolutions);
}

#[test]
fn depthwise_convolutions() {
    in_each_element(conv::depthwise);
}

#[test]
fn batch_normalizations() {
    in_each_width(|lab, channels| {
        for activation in Activation::ALL {
            norm::batch_norm(lab, ROWS[0], channels, activation)?;
        }
        norm::batch_norm(lab, ROWS[1], channels, Activation::Identity)
    });
}

#[test]
fn residual_sums() {
    in_each_width(norm::residual);
}

#[test]
fn passes_over_maps() {
    in_each_width(maps::maps);
}

#[test]
fn pools() {
    in_each_width(maps::pools);
}

#[test]
fn gates() {
    in_each_width(maps::gates);
}

#[test]
fn masks() {
    in_each_element(maps::masked);
}

#[test]
fn dense_layers() {
    in_each_element(rows::dense);
}

#[test]
fn normalized_rows() {
    in_f32(rows::normalized_rows);
}

#[test]
fn cross_entropy() {
    in_f32(rows::cross_entropy);
}

#[test]
fn optimizers() {
    in_f32(optim::optimizers);
}

#[test]
fn images() {
    in_f32(transfer::images);
}

#[test]
fn uploads() {
    in_f32(transfer::uploads);
}

fn sum(a: &[f64], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + f64::from(*b)).collect()
}
