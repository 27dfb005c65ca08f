//! Compares students on the GPU with students on the CPU. The limit is a multiple of the rounding noise.
//!
//! The difference between two correct implementations depends on the network: a rounding error flips a ReLU or shifts
//! the statistics of a small batch, and grows through fifty layers. A fixed limit is therefore either too narrow for a
//! correct engine or too wide for a wrong one. Here the noise is measured: the CPU runs the same steps several times
//! from weights that are perturbed by the rounding error of the element. Each tensor of the GPU's results may differ
//! from the CPU's by a multiple of the largest difference among those runs.

use candle_core::Device;
use lgd_cuda::Element;
use lgd_train::engine::parameters::State;
use lgd_train::error::TrainError;
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Student};

use crate::steps::{Case, Part, Results};
use crate::{on_gpu, say, single};

/// Perturbed runs per element.
const RUNS: u64 = 3;
/// Largest error of a tensor, as a multiple of the noise.
const MULTIPLE: f64 = 6.0;
/// If the noise exceeds this share of a tensor, there is nothing to compare: an unrelated tensor of the same norm is
/// off by 1.4.
const LARGEST_NOISE: f64 = 0.1;

/// Rounding of an element.
struct Rounding {
    element: Element,
    /// Largest relative error of one rounded value.
    unit: f64,
    /// Smallest noise assumed. It covers sums in a different order, which perturbed weights do not show.
    least_noise: f64,
}

const ROUNDINGS: [Rounding; 2] = [
    Rounding { element: Element::F32, unit: 1.0 / 4_194_304.0, least_noise: 2e-5 },
    Rounding { element: Element::Bf16, unit: 1.0 / 512.0, least_noise: 4e-3 },
];

/// Compares one student in both elements; returns whether both passed.
pub fn student(architecture: Architecture, masked: bool, device: &Device) -> Result<bool, TrainError> {
    let case = Case::new(architecture, masked);
    let mut here = Student::new(case.config, &Device::Cpu)?;
    let begun = here.engine().state()?;
    let reference = case.run(&mut here)?;
    let mut passed = true;
    for rounding in ROUNDINGS {
        let mut noise: Vec<f64> = Vec::new();
        for run in 0..RUNS {
            let mut perturbed = Student::new(case.config, &Device::Cpu)?;
            perturbed.engine().load_state(&perturb(&begun, rounding.unit, run))?;
            let results = case.run(&mut perturbed)?;
            let errors = errors(&here, &reference, &results);
            noise.resize(errors.len(), rounding.least_noise);
            noise.iter_mut().zip(errors).for_each(|(noise, error)| *noise = noise.max(error));
        }
        let mut there = on_gpu(case.config, rounding.element, false, device)?;
        let results = case.run(&mut there)?;
        let errors = errors(&here, &reference, &results);
        let losses = (&reference.losses[..], &results.losses[..]);
        passed &= report(&case, &rounding, &reference.parts(&here), &noise, &errors, losses);
    }
    Ok(passed)
}

/// Perturbs each weight by up to `unit` of its size.
fn perturb(begun: &State, unit: f64, run: u64) -> State {
    let mut stream = Stream::named(run, "perturbation");
    let mut near = |value: &f32| single(f64::from(*value) * (1.0 + unit * (2.0 * stream.uniform() - 1.0)));
    State { parameters: begun.parameters.iter().map(&mut near).collect(), buffers: begun.buffers.clone() }
}

/// Relative errors, tensor by tensor.
fn errors(student: &Student, want: &Results, got: &Results) -> Vec<f64> {
    let (want, got) = (want.parts(student), got.parts(student));
    want.iter().zip(&got).map(|(want, got)| distance(&want.values, &got.values)).collect()
}

/// L2 norm of the difference, relative to the norm of `want`; infinite if a value is NaN.
fn distance(want: &[f32], got: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut want.iter().zip(got).map(|(want, got)| f64::from(*want) - f64::from(*got)));
    let error = difference / norm(&mut want.iter().copied().map(f64::from)).max(1e-12);
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Prints the tensors that are off by more than the limit. Returns whether there are none.
fn report(
    case: &Case,
    rounding: &Rounding,
    parts: &[Part],
    noise: &[f64],
    errors: &[f64],
    losses: (&[f32], &[f32]),
) -> bool {
    let (mut compared, mut worst) = (0, (0.0, String::new()));
    let mut failed = Vec::new();
    for ((part, &noise), &error) in parts.iter().zip(noise).zip(errors) {
        let name = format!("{} of {}", part.what, part.tensor);
        // Even a tensor that is all noise must be finite.
        if noise > LARGEST_NOISE && error.is_finite() {
            continue;
        }
        compared += 1;
        if error / noise > MULTIPLE {
            failed.push(format!("{name}: off by {error:.1e}, noise {noise:.1e}"));
        }
        if error / noise > worst.0 {
            worst = (error / noise, name);
        }
    }
    let verdict = if failed.is_empty() { "passed" } else { "FAILED" };
    let images = if case.masked { "masked" } else { "whole" };
    say(&format!(
        "{verdict} {} {images} {:?}: {compared} of {} tensors compared, worst {:.1} times the noise ({}); losses {losses:?}",
        case.config.architecture,
        rounding.element,
        parts.len(),
        worst.0,
        worst.1
    ));
    failed.iter().take(10).for_each(|line| say(&format!("    {line}")));
    failed.is_empty()
}
