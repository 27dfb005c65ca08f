//! One training step of each student with the LGD loss against PyTorch and torchvision in f64: loss, every gradient, every
//! parameter and running statistic afterwards; and inference. The weights follow a formula that `goldens/make_goldens.py` repeats.

use std::collections::{BTreeMap, BTreeSet};

use crate::golden::{Golden, error, values};
use candle_core::{Device, Tensor};
use lgd_train::objective::{Lgd, LgdSettings, Objective, TargetBatch, VisualBank};
use lgd_train::ops::{self, Activation};
use lgd_train::optim::{Sgd, SgdSettings};
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Mode, Student};

/// The bound the product promises: relative error of each tensor, L2.
const TOLERANCE: f64 = 1e-4;

const BATCH: usize = 5;
const HEIGHT: usize = 48;
const WIDTH: usize = 32;
const CATEGORIES: usize = 12;
const DIM: usize = 48;
const UNASSIGNED: [usize; 2] = [3, 7];
const STEP: u64 = 7;

fn spread(seed: u64, name: &str, shape: &[usize], bound: f64, centre: f64) -> Tensor {
    let mut stream = Stream::named(seed, name);
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|_| centre + (2.0 * stream.uniform() - 1.0) * bound).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    tensor.to_dtype(candle_core::DType::F32).unwrap()
}

fn real(value: usize) -> f64 {
    f64::from(u32::try_from(value).unwrap())
}

fn formula(seed: u64, name: &str, shape: &[usize]) -> Tensor {
    let (bound, centre) = match shape {
        _ if name.ends_with("running_mean") => (0.1, 0.0),
        _ if name.ends_with("running_var") => (0.5, 1.0),
        [out, _, rows, columns] => ((6.0 / real(out * rows * columns)).sqrt(), 0.0),
        [_, inputs] => (1.0 / real(*inputs).sqrt(), 0.0),
        _ if name.ends_with("bias") => (0.3, 0.0),
        _ => (0.3, 1.0),
    };
    spread(seed, name, shape, bound, centre)
}

fn student(architecture: Architecture, seed: u64) -> Student {
    let student = Student::new(architecture, DIM, 0, &Device::Cpu).unwrap();
    let tensors = student.params().tensors();
    let tensors: BTreeMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| (name.clone(), formula(seed, name, tensor.dims()))).collect();
    assert!(student.params().load(&tensors).unwrap().is_complete());
    student
}

/// Relative error of a tensor of which the fixture keeps all values or a summary.
///
/// A projection of the difference onto a vector uniform within 1 has the expected square `|difference|² / 3`.
fn summary_error(golden: &Golden, seed: u64, name: &str, got: &Tensor) -> f64 {
    let got = values(got);
    if golden.has(&format!("{name}.full")) {
        return error(&got, &golden.values(&format!("{name}.full")));
    }
    let norm = f64::from(golden.values(&format!("{name}.norm"))[0]);
    let own: f64 = got.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    let mut stream = Stream::named(seed, &format!("{name}.sample"));
    let expected = golden.values(&format!("{name}.sample"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
    let picked: Vec<f32> =
        expected.iter().map(|_| got[(stream.uniform() * real(got.len())) as usize]).collect();
    let projections = golden.values(&format!("{name}.projections"));
    let mut squares = 0.0;
    for (i, expected) in projections.iter().enumerate() {
        let mut stream = Stream::named(seed, &format!("{name}.direction{i}"));
        let projected: f64 = got.iter().map(|v| f64::from(*v) * (2.0 * stream.uniform() - 1.0)).sum();
        squares += (projected - f64::from(*expected)).powi(2);
    }
    let projected = (3.0 * squares / real(projections.len())).sqrt() / norm;
    error(&picked, &expected).max((own - norm).abs() / norm).max(projected)
}

fn objective(golden: &Golden) -> Lgd {
    let settings = LgdSettings { alpha: 0.4, ..LgdSettings::default() };
    let assigned: Vec<bool> = (0..CATEGORIES).map(|c| !UNASSIGNED.contains(&c)).collect();
    let visual = VisualBank::Mean { vsb: golden.get("vsb").clone() };
    Lgd::new(settings, golden.get("tsb").clone(), visual, &assigned).unwrap()
}

fn targets(golden: &Golden) -> TargetBatch {
    TargetBatch {
        embedding: Some(golden.get("t").clone()),
        text_distribution: Some(golden.get("text_distribution").clone()),
        visual_distribution: Some(golden.get("visual_distribution").clone()),
        pseudo_category: None,
    }
}

fn check_step(architecture: Architecture) {
    let golden = Golden::open(architecture.name());
    let seed: u64 = golden.metadata("seed").parse().unwrap();
    let student = student(architecture, seed);
    let images = spread(seed, "images", &[BATCH, HEIGHT, WIDTH, 3], 2.0, 0.0);
    let output = student.forward(&images, Mode::Train { seed, step: STEP }).unwrap();
    let loss = objective(&golden).loss(&output, &targets(&golden)).unwrap();
    let mut failures = Vec::new();
    let mut worst = 0.0_f64;
    let mut check = |name: String, error: f64| {
        worst = worst.max(error);
        if error > TOLERANCE {
            failures.push(format!("{name}: {error:.1e}"));
        }
    };
    check("loss".into(), error(&[loss.total.to_scalar().unwrap()], &golden.values("loss")));
    assert_eq!([loss.parts[0].0, loss.parts[1].0], ["text", "visual"]);
    for (name, part) in &loss.parts {
        check((*name).into(), error(&[*part], &golden.values(name)));
    }
    check("embedding".into(), error(&values(&output.embedding), &golden.values("embedding")));
    let grads = loss.total.backward().unwrap();
    let vars: BTreeMap<&str, _> = student.params().parameters().collect();
    let norm =
        |name: &str| error(&values(grads.get(vars[name]).unwrap()), &[0.0].repeat(vars[name].elem_count()));
    let vanishing: Vec<String> = serde_json::from_str(golden.metadata("vanishing")).unwrap();
    for (&name, &var) in &vars {
        let gradient = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        if vanishing.iter().any(|vanishing| vanishing == name) {
            // A shift that a later normalisation takes away: rounding noise beside its layer's scale.
            check(format!("vanishing {name}"), norm(name) / norm(&name.replace(".bias", ".weight")));
            continue;
        }
        let name = format!("gradient.{name}");
        check(name.clone(), summary_error(&golden, seed, &name, gradient));
    }
    let mut sgd = Sgd::new(SgdSettings::default(), student.params()).unwrap();
    sgd.step(student.params(), &grads, 0.05).unwrap();
    for (name, tensor) in student.params().tensors() {
        let name = format!("after.{name}");
        check(name.clone(), summary_error(&golden, seed, &name, &tensor));
    }
    let ours: BTreeSet<String> = student.params().tensors().into_keys().collect();
    let parts = [".full", ".norm", ".sample", ".projections"];
    let stem = |name: &str| parts.iter().find_map(|part| name.strip_suffix(part)).map(str::to_owned);
    let theirs = golden.names().filter_map(|name| name.strip_prefix("after.").and_then(stem)).collect();
    assert_eq!(ours, theirs, "names are torchvision's");
    eprintln!("{architecture}: worst relative error {worst:.1e}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check_inference(architecture: Architecture, classifier: &str) {
    let golden = Golden::open(architecture.name());
    let seed: u64 = golden.metadata("seed").parse().unwrap();
    let student = student(architecture, seed);
    let before = student.params().tensors().into_iter().map(|(n, t)| (n, values(&t))).collect::<Vec<_>>();
    let images = spread(seed, "images", &[BATCH, HEIGHT, WIDTH, 3], 2.0, 0.0);
    let output = student.forward(&images, Mode::Inference).unwrap();
    assert!(error(&values(&output.embedding), &golden.values("inference.embedding")) < 1e-5);
    let weight = formula(seed, &format!("{classifier}.weight"), &[10, architecture.feature_dim()]);
    let bias = formula(seed, &format!("{classifier}.bias"), &[10]);
    let logits = ops::linear(&output.pooled, &weight, &bias, Activation::Identity).unwrap();
    assert!(error(&values(&logits), &golden.values("inference.logits")) < 1e-5);
    assert!(!output.embedding.track_op(), "inference must keep no graph");
    let after = student.params().tensors().into_iter().map(|(n, t)| (n, values(&t))).collect::<Vec<_>>();
    assert_eq!(before, after, "inference must change nothing");
}

#[test]
fn resnet18_step_equals_pytorchs() {
    check_step(Architecture::ResNet18);
}

#[test]
fn mobilenet_v2_step_equals_pytorchs() {
    check_step(Architecture::MobileNetV2);
}

#[test]
fn resnet18_inference_equals_torchvisions() {
    check_inference(Architecture::ResNet18, "fc");
}

#[test]
fn mobilenet_v2_inference_equals_torchvisions() {
    check_inference(Architecture::MobileNetV2, "classifier.1");
}
