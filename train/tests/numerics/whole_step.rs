//! One training step of two students with the LGD loss against PyTorch and torchvision in f64: loss, every gradient,
//! and every parameter and running statistic after the step; also inference. `goldens/make_goldens.py` repeats the
//! formula of the weights.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use lgd_train::objective::{Lgd, LgdConstants, Objective, TargetBatch, VisualBank};
use lgd_train::optim::OptimizerSettings;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

use crate::device::{TestDevice, on_every_f32_device};
use crate::golden::{Golden, error, norm, real, spread, values};

on_every_f32_device!(
    resnet18_step_equals_pytorchs,
    mobilenet_v2_step_equals_pytorchs,
    resnet18_inference_equals_torchvisions,
    mobilenet_v2_inference_equals_torchvisions,
);

/// The bound that the product promises: relative error of each tensor, L2.
const TOLERANCE: f64 = 1e-4;

const BATCH: usize = 5;
const HEIGHT: usize = 48;
const WIDTH: usize = 32;
const CATEGORIES: usize = 12;
const DIM: usize = 48;
const CLASSES: usize = 10;
const UNASSIGNED: [usize; 2] = [3, 7];
const STEP: u64 = 7;

fn formula(seed: u64, name: &str, shape: &[usize]) -> Tensor {
    let (bound, center) = match shape {
        _ if name.ends_with("running_mean") => (0.1, 0.0),
        _ if name.ends_with("running_var") => (0.5, 1.0),
        [out, _, rows, columns] => ((6.0 / real(out * rows * columns)).sqrt(), 0.0),
        [_, inputs] => (1.0 / real(*inputs).sqrt(), 0.0),
        _ if name.ends_with("bias") => (0.3, 0.0),
        _ => (0.3, 1.0),
    };
    spread(seed, name, shape, bound, center)
}

fn student<D: TestDevice>(architecture: Architecture, head: Head, seed: u64) -> Student {
    let mut student = D::student(StudentConfig::new(architecture, head, 0));
    let tensors = student.tensors().unwrap();
    let tensors: BTreeMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| (name.clone(), formula(seed, name, tensor.dims()))).collect();
    assert!(student.load(&tensors).unwrap().is_complete());
    student
}

fn images(seed: u64) -> Vec<f32> {
    values(&spread(seed, "images", &[BATCH, HEIGHT, WIDTH, 3], 2.0, 0.0))
}

fn objective(golden: &Golden) -> Lgd {
    let settings = LgdConstants { alpha: 0.4, ..LgdConstants::default() };
    let assigned: Vec<bool> = (0..CATEGORIES).map(|c| !UNASSIGNED.contains(&c)).collect();
    let visual = VisualBank::Mean { vsb: golden.get("vsb").clone() };
    Lgd::new(settings, golden.get("tsb").clone(), visual, &assigned).unwrap()
}

fn targets(golden: &Golden) -> TargetBatch {
    TargetBatch {
        embedding: Some(golden.get("t").clone()),
        text_distribution: Some(golden.get("text_distribution").clone()),
        visual_distribution: Some(golden.get("visual_distribution").clone()),
        ..TargetBatch::default()
    }
}

fn check_step<D: TestDevice>(architecture: Architecture) {
    let golden = Golden::on::<D>(architecture.name());
    let seed: u64 = golden.metadata("seed").parse().unwrap();
    let mut student = student::<D>(architecture, Head::Projection { dim: DIM }, seed);
    let images = images(seed);
    let mode = Mode::Train { seed, step: STEP };
    let output = student.forward(Images::Normalized(&images), (BATCH, HEIGHT, WIDTH), mode).unwrap();
    let loss = objective(&golden).loss(&output, &targets(&golden)).unwrap();
    let mut failures = Vec::new();
    let mut worst = 0.0_f64;
    let mut check = |name: String, error: f64| {
        worst = worst.max(error);
        if error > TOLERANCE {
            failures.push(format!("{name}: {error:.1e}"));
        }
    };
    check("loss".into(), error(&values(&loss.total), &golden.values("loss")));
    assert_eq!([loss.parts[0].0, loss.parts[1].0], ["text", "visual"]);
    for (name, part) in &loss.parts {
        check((*name).into(), error(&values(part), &golden.values(name)));
    }
    check("embedding".into(), error(&values(output.embedding().unwrap()), &golden.values("embedding")));
    student.backward(&loss.total, false).unwrap();
    let gradients = student.gradients().unwrap();
    let vanishing = golden.list("vanishing");
    for (name, gradient) in &gradients {
        if vanishing.contains(name) {
            // A later normalization cancels this shift, so its gradient is rounding noise compared with its layer's.
            let weight = &gradients[&name.replace(".bias", ".weight")];
            check(format!("vanishing {name}"), norm(&values(gradient)) / norm(&values(weight)));
            continue;
        }
        let name = format!("gradient.{name}");
        check(name.clone(), golden.summary_error(seed, &name, gradient));
    }
    let update = OptimizerSettings::default().update(student.table(), 0.05, 1);
    student.update(&update).unwrap();
    let after = student.tensors().unwrap();
    for (name, tensor) in &after {
        let name = format!("after.{name}");
        check(name.clone(), golden.summary_error(seed, &name, tensor));
    }
    let ours: BTreeSet<String> = after.into_keys().collect();
    assert_eq!(ours, golden.summaries("after."), "names are torchvision's");
    eprintln!("{architecture}: worst relative error of a step {worst:.1e}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check_inference<D: TestDevice>(architecture: Architecture) {
    let golden = Golden::on::<D>(architecture.name());
    let seed: u64 = golden.metadata("seed").parse().unwrap();
    let images = images(seed);
    let heads = [
        (Head::Projection { dim: DIM }, "inference.embedding"),
        (Head::Classifier { classes: CLASSES }, "inference.logits"),
    ];
    for (head, expected) in heads {
        let mut student = student::<D>(architecture, head, seed);
        let output =
            student.forward(Images::Normalized(&images), (BATCH, HEIGHT, WIDTH), Mode::Inference).unwrap();
        let error = error(&values(output.embedding().unwrap()), &golden.values(expected));
        assert!(error < D::tolerance(1e-5), "{architecture} {expected}: {error:.1e}");
    }
}

fn resnet18_step_equals_pytorchs<D: TestDevice>() {
    check_step::<D>(Architecture::ResNet18);
}

fn mobilenet_v2_step_equals_pytorchs<D: TestDevice>() {
    check_step::<D>(Architecture::MobileNetV2);
}

fn resnet18_inference_equals_torchvisions<D: TestDevice>() {
    check_inference::<D>(Architecture::ResNet18);
}

fn mobilenet_v2_inference_equals_torchvisions<D: TestDevice>() {
    check_inference::<D>(Architecture::MobileNetV2);
}
