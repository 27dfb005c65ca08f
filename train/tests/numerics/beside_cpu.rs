//! Whole students on the GPU against the CPU's. The limit is a multiple of the rounding noise.
//!
//! The difference between two correct implementations depends on the network: a rounding error flips a ReLU or shifts
//! the statistics of a small batch, and grows through fifty layers. In PyTorch too, the gradients of these students in
//! bf16 are 0.2 to 1.3 of their norm away from those in f32. So a fixed bound is too narrow for a correct engine or too
//! wide for a wrong one. Here the noise is measured: the CPU runs the same step several times from weights that are off
//! by the rounding error of the element. Each tensor of the GPU's results may be off by a multiple of the largest error
//! among those runs. Single layers have fixed bounds (`device.rs`).

use candle_core::Tensor;
use lgd_train::engine::parameters::{Entry, State};
use lgd_train::rng::Stream;
use lgd_train::student::{
    Architecture, DecoderConfig, Extras, Head, Images, Regularization, Student, StudentConfig,
};

use crate::device::{Cpu, CudaBf16, CudaF32, Element, TestDevice};
use crate::golden::{error, normal, values};
use crate::layer::TRAIN;

/// Perturbed runs.
const RUNS: u64 = 3;
/// Largest error of a tensor, as a multiple of the noise.
const MULTIPLE: f64 = 8.0;
/// If the noise exceeds this share of a tensor, there is nothing to compare: an unrelated tensor of the same norm is
/// off by 1.4.
const LARGEST_NOISE: f64 = 0.1;

const BATCH: usize = 6;
const HEIGHT: usize = 96;
const WIDTH: usize = 64;

/// Largest relative error of one rounded value, and the noise of sums in a different order, which perturbed weights do
/// not show.
fn rounding(element: Element) -> (f64, f64) {
    match element {
        Element::F32 => (1.0 / 4_194_304.0, 2e-5),
        Element::Bf16 => (1.0 / 512.0, 4e-3),
    }
}

/// A student for LGD or, if `masked`, one that KDEP and H-GKD train on masked images.
fn config(architecture: Architecture, masked: bool) -> StudentConfig {
    let decoder =
        DecoderConfig { rows: HEIGHT / 16, columns: WIDTH / 16, dim: 12, height: HEIGHT, width: WIDTH };
    let extras = Extras { raw_pooled: masked, decoder: masked.then_some(decoder) };
    let config = StudentConfig::new(architecture, Head::Projection { dim: 24 }, 1);
    StudentConfig { extras, regularization: Regularization::NONE, ..config }
}

/// A scalar that depends on all of `value`.
fn functional(name: &str, value: &Tensor) -> Tensor {
    let weights = Tensor::from_vec(normal(name, value.elem_count()), value.shape(), value.device()).unwrap();
    (value * weights).unwrap().sum_all().unwrap()
}

/// Everything that one training step computes, tensor by tensor, because an error in one layer must not be hidden by
/// the noise of another.
fn step(student: &mut Student, images: &[f32], masked: bool) -> Vec<(String, Vec<f32>)> {
    if masked {
        // Two or four of the 3 x 2 cells of each image are visible.
        let visible: Vec<bool> =
            (0..36).map(|cell| cell % 3 == 0 || cell % 12 == 4 || cell % 12 == 5).collect();
        student.set_mask(&visible, (3, 2)).unwrap();
    }
    let output = student.forward(Images::Normalized(images), (BATCH, HEIGHT, WIDTH), TRAIN).unwrap();
    let outputs = [
        ("pooled", Some(&output.pooled)),
        ("embedding", output.embedding.as_ref()),
        ("raw feature", output.raw_pooled.as_ref()),
        ("tokens", output.tokens.as_ref()),
    ];
    let outputs: Vec<_> = outputs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let parts: Vec<Tensor> = outputs.iter().map(|(name, value)| functional(name, value)).collect();
    let mut found: Vec<_> = outputs.iter().map(|(name, value)| ((*name).to_owned(), values(value))).collect();
    student.backward(&Tensor::stack(&parts, 0).unwrap().sum_all().unwrap(), false).unwrap();
    let gradients = student.engine().gradients().unwrap();
    let State { buffers, .. } = student.engine().state().unwrap();
    let mut split = |what: &str, entries: &[Entry], flat: &[f32]| {
        let tensor = |entry: &Entry| flat[entry.range.indices()].to_vec();
        found.extend(entries.iter().map(|entry| (format!("{what} {}", entry.spec.name), tensor(entry))));
    };
    split("gradient of", student.table().parameters(), &gradients);
    split("statistics", student.table().buffers(), &buffers);
    found
}

/// Perturbs each weight by up to `unit` of its size.
#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn perturb(state: &State, unit: f64, run: u64) -> State {
    let mut stream = Stream::named(run, "perturbation");
    let mut near = |value: &f32| (f64::from(*value) * (1.0 + unit * (2.0 * stream.uniform() - 1.0))) as f32;
    State { parameters: state.parameters.iter().map(&mut near).collect(), buffers: state.buffers.clone() }
}

fn check<D: TestDevice>(architecture: Architecture, masked: bool) {
    let (unit, least_noise) = rounding(D::ELEMENT);
    let (config, images) = (config(architecture, masked), normal("images", BATCH * HEIGHT * WIDTH * 3));
    let mut exact = Cpu::student(config);
    let begun = exact.engine().state().unwrap();
    let expected = step(&mut exact, &images, masked);
    let errors = |got: &[(String, Vec<f32>)]| -> Vec<f64> {
        expected.iter().zip(got).map(|((_, expected), (_, got))| error(got, expected)).collect()
    };
    let mut noise = vec![least_noise; expected.len()];
    for run in 0..RUNS {
        let mut perturbed = Cpu::student(config);
        perturbed.engine().load_state(&perturb(&begun, unit, run)).unwrap();
        let errors = errors(&step(&mut perturbed, &images, masked));
        noise.iter_mut().zip(errors).for_each(|(noise, error)| *noise = noise.max(error));
    }
    let errors = errors(&step(&mut D::student(config), &images, masked));
    let mut failures = Vec::new();
    let (mut compared, mut worst) = (0, (0.0, ""));
    for (((name, _), error), noise) in expected.iter().zip(errors).zip(noise) {
        // Even a tensor that is all noise must be finite.
        if noise > LARGEST_NOISE && error.is_finite() {
            continue;
        }
        compared += 1;
        if error / noise > worst.0 {
            worst = (error / noise, &name[..]);
        }
        if error > MULTIPLE * noise {
            failures.push(format!("{name}: {error:.1e}, noise {noise:.1e}"));
        }
    }
    eprintln!(
        "{architecture}, masked {masked}, {:?}: {compared} of {} compared, worst {:.1} times the noise: {}",
        D::ELEMENT,
        expected.len(),
        worst.0,
        worst.1
    );
    assert!(failures.is_empty(), "{architecture}, masked {masked}:\n{}", failures.join("\n"));
    assert!(compared > expected.len() / 8, "{architecture}, masked {masked}: next to nothing was compared");
}

const RESNETS: [Architecture; 3] = [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50];
const MOBILE: [Architecture; 3] =
    [Architecture::MobileNetV2, Architecture::MobileNetV3Large, Architecture::EfficientNetB0];
/// Together these have every kind of block, and the decoder is the same for all students. `masked.rs` runs them all.
const MASKED: [Architecture; 3] =
    [Architecture::ResNet18, Architecture::MobileNetV3Large, Architecture::EfficientNetB0];

#[test]
fn resnets_in_f32() {
    RESNETS.into_iter().for_each(|architecture| check::<CudaF32>(architecture, false));
}

#[test]
fn resnets_in_bf16() {
    RESNETS.into_iter().for_each(|architecture| check::<CudaBf16>(architecture, false));
}

#[test]
fn mobile_students_in_f32() {
    MOBILE.into_iter().for_each(|architecture| check::<CudaF32>(architecture, false));
}

#[test]
fn mobile_students_in_bf16() {
    MOBILE.into_iter().for_each(|architecture| check::<CudaBf16>(architecture, false));
}

#[test]
fn masked_students_in_f32() {
    MASKED.into_iter().for_each(|architecture| check::<CudaF32>(architecture, true));
}

#[test]
fn masked_students_in_bf16() {
    MASKED.into_iter().for_each(|architecture| check::<CudaBf16>(architecture, true));
}
