//! Every student against torchvision, and against the published forms rebuilt from it, in f64 (`goldens/students.py`):
//! names, inference, the whole gradient, running statistics. Also properties of all students.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use lgd_train::error::TrainError;
use lgd_train::student::{
    Architecture, DECODER, DecoderConfig, Extras, Head, Images, Mode, Regularization, Student, StudentConfig,
};

use crate::device::{TestDevice, on_every_device, on_every_f32_device};
use crate::golden::{Golden, error, norm, normal, real, spread, values};
use crate::layer::TRAIN;

// In bf16 a random network's gradient is that of a neighboring function. `beside_cpu.rs` bounds the difference.
on_every_f32_device!(
    open_masked_resnets_equal_torchvisions,
    open_masked_mobile_students_equal_torchvisions,
    raw_features_of_resnets_equal_torchvisions,
    raw_features_of_mobile_students_equal_torchvisions,
    resnet18_equals_torchvisions,
    resnet34_equals_torchvisions,
    resnet50_equals_torchvisions,
    mobilenet_v2_equals_torchvisions,
    mobilenet_v3_large_equals_torchvisions,
    efficientnet_b0_equals_torchvisions,
    mobilenet_v3_large_lgd_equals_the_published_one,
    efficientnet_b0_lgd_equals_the_published_one,
);
on_every_device!(resnets_work, mobile_students_work, every_draw_follows_seed_and_step);

/// The architectures that are not ResNets.
const MOBILE: [Architecture; 5] = [
    Architecture::MobileNetV2,
    Architecture::MobileNetV3Large,
    Architecture::EfficientNetB0,
    Architecture::MobileNetV3LargeLgd,
    Architecture::EfficientNetB0Lgd,
];
const CLASSES: usize = 10;
const INFERRED: usize = 2;
const DAMPING: f64 = 0.25;

/// The product promises 1e-4 for each tensor, L2. PyTorch's own f32 is 0.5e-5 to 1.8e-5 off (metadata `f32_error`).
const TOLERANCE: f64 = 1e-4;

fn config(architecture: Architecture) -> StudentConfig {
    let head = Head::Classifier { classes: CLASSES };
    StudentConfig { regularization: Regularization::NONE, ..StudentConfig::new(architecture, head, 0) }
}

fn student<D: TestDevice>(architecture: Architecture) -> Student {
    D::student(config(architecture))
}

fn is_head(name: &str) -> bool {
    name.starts_with("fc.") || name.starts_with("classifier.")
}

/// Whether the layer comes after the pooled feature.
fn is_behind(name: &str) -> bool {
    is_head(name) || name.starts_with(DECODER)
}

/// `formula` of `goldens/students.py`.
fn formula(seed: u64, name: &str, shape: &[usize]) -> Tensor {
    let (bound, center) = match shape {
        _ if name.ends_with("running_mean") => (0.1, 0.0),
        _ if name.ends_with("running_var") => (0.5, 1.0),
        [_, inputs, rows, columns] => ((6.0 / real(inputs * rows * columns)).sqrt(), 0.0),
        [_, inputs] => ((3.0 / real(*inputs)).sqrt(), 0.0),
        _ if name.ends_with("bias") => (0.3, 0.0),
        _ => (0.3, 1.0),
    };
    spread(seed, name, shape, bound, center)
}

/// A fixture, its seed and its student.
struct Reference {
    golden: Golden,
    seed: u64,
    student: Student,
    failures: Vec<String>,
    worst: BTreeMap<&'static str, f64>,
}

impl Reference {
    fn open<D: TestDevice>(architecture: Architecture, extras: Extras) -> Self {
        let golden = Golden::open(&format!("student_{architecture}"));
        let seed = golden.metadata("seed").parse().unwrap();
        let config = StudentConfig { extras, ..config(architecture) };
        let mut student = D::student(config);
        let damped = golden.list("damped");
        let value = |(name, tensor): (String, Tensor)| {
            let given = format!("given.{name}");
            let mut value = match golden.has(&given) {
                true => golden.get(&given).clone(),
                false => formula(seed, &name, tensor.dims()),
            };
            if damped.contains(&name) {
                value = (value * DAMPING).unwrap();
            }
            (name, value)
        };
        let tensors = student.tensors().unwrap().into_iter().map(value).collect();
        assert!(student.load(&tensors).unwrap().is_complete());
        Self { golden, seed, student, failures: Vec::new(), worst: BTreeMap::new() }
    }

    fn check(&mut self, what: &'static str, name: &str, error: f64) {
        let worst = self.worst.entry(what).or_default();
        *worst = worst.max(error);
        if error > TOLERANCE {
            self.failures.push(format!("{what} {name}: {error:.1e}"));
        }
    }

    /// Checks that the student has the names in the fixture, which are torchvision's: gradients, including those that
    /// vanish, and statistics.
    fn check_names(&self) {
        let named = |entries: &[lgd_train::engine::parameters::Entry]| -> BTreeSet<String> {
            entries.iter().map(|entry| entry.spec.name.clone()).collect()
        };
        let table = self.student.table();
        let mut parameters = named(table.parameters());
        let head: BTreeSet<String> = parameters.iter().filter(|name| is_head(name)).cloned().collect();
        parameters.retain(|name| !is_head(name));
        let mut theirs = self.golden.summaries("gradient.");
        theirs.extend(self.golden.list("vanishing"));
        assert_eq!(parameters, theirs, "parameters");
        assert_eq!(named(table.buffers()), self.golden.summaries("after."), "buffers");
        let layers: &[&str] = match self.student.architecture() {
            Architecture::MobileNetV2 | Architecture::EfficientNetB0 => &["classifier.1"],
            Architecture::MobileNetV3Large => &["classifier.0", "classifier.3"],
            _ => &["fc"],
        };
        let expected = layers.iter().flat_map(|layer| [format!("{layer}.weight"), format!("{layer}.bias")]);
        assert_eq!(head, expected.collect(), "the classifier");
    }

    fn images(&self) -> (Vec<f32>, (usize, usize, usize)) {
        let [batch, height, width] = ["batch", "height", "width"].map(|key| self.golden.number(key));
        (values(&spread(self.seed, "images", &[batch, height, width, 3], 2.0, 0.0)), (batch, height, width))
    }

    /// Checks that nothing failed, and that the worst errors are within their own bounds.
    fn finish(&self, bounds: &[(&str, f64)]) {
        let errors = self.worst.iter().map(|(what, worst)| format!("{what} {worst:.1e}"));
        let architecture = self.student.architecture();
        eprintln!("{architecture}: worst relative errors: {}", errors.collect::<Vec<_>>().join(", "));
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
        for (what, bound) in bounds {
            assert!(self.worst[what] < *bound, "{what}: {:.1e}", self.worst[what]);
        }
    }

    fn check_inference(&mut self) {
        let (images, (_, height, width)) = self.images();
        let first = Images::Normalized(&images[..INFERRED * height * width * 3]);
        let output = self.student.forward(first, (INFERRED, height, width), Mode::Inference).unwrap();
        for (name, tensor) in [("pooled", output.pooled), ("logits", output.embedding.unwrap())] {
            let error = error(&values(&tensor), &self.golden.values(&format!("inference.{name}")));
            self.check("inference", name, error);
        }
    }

    fn check_training(&mut self) {
        let (images, shape) = self.images();
        let output = self.student.forward(Images::Normalized(&images), shape, TRAIN).unwrap();
        let error = error(&values(&output.pooled), &self.golden.values("train.pooled"));
        self.check("training", "pooled", error);
        let upstream = spread(self.seed, "upstream", output.pooled.dims(), 1.0, 0.0);
        let upstream = upstream.to_device(output.pooled.device()).unwrap();
        let loss = output.pooled.mul(&upstream).unwrap().sum_all().unwrap();
        self.student.backward(&loss, false).unwrap();
        let gradients = self.student.gradients().unwrap();
        let vanishing = self.golden.list("vanishing");
        for (name, gradient) in &gradients {
            if is_behind(name) {
                assert!(
                    values(gradient).iter().all(|v| *v == 0.0),
                    "{name} lies behind no differentiated output"
                );
            } else if vanishing.contains(name) {
                // A later normalization cancels this shift, so its gradient is rounding noise compared with its
                // layer's.
                let weight = &gradients[&name.replace(".bias", ".weight")];
                self.check("vanishing", name, norm(&values(gradient)) / norm(&values(weight)));
            } else {
                let error = self.golden.summary_error(self.seed, &format!("gradient.{name}"), gradient);
                self.check("gradient", name, error);
            }
        }
        for (name, tensor) in self.student.encoder_tensors().unwrap() {
            if name.contains(".running_") {
                let error = self.golden.summary_error(self.seed, &format!("after.{name}"), &tensor);
                self.check("statistics", &name, error);
            }
        }
    }
}

fn check<D: TestDevice>(architecture: Architecture) {
    let mut reference = Reference::open::<D>(architecture, Extras::default());
    reference.check_names();
    reference.check_inference();
    reference.check_training();
    // Tighter than promised if nothing amplifies rounding.
    reference.finish(&[("inference", 5e-6), ("training", 1e-5), ("statistics", 5e-6), ("gradient", 3e-5)]);
}

/// A masked student that sees everything equals torchvision's network too: in training, its features, statistics and
/// whole gradient.
fn check_open<D: TestDevice>(architecture: Architecture) {
    let golden = Golden::open(&format!("student_{architecture}"));
    let [batch, height, width] = ["batch", "height", "width"].map(|key| golden.number(key));
    let cells = (height / 32, width / 32);
    let decoder = DecoderConfig { rows: 2 * cells.0, columns: 2 * cells.1, dim: 3, height, width };
    let extras = Extras { raw_pooled: true, decoder: Some(decoder) };
    let mut reference = Reference::open::<D>(architecture, extras);
    reference.student.set_mask(&vec![true; batch * cells.0 * cells.1], cells).unwrap();
    reference.check_training();
    reference.finish(&[("training", 1e-5), ("statistics", 5e-6), ("gradient", 3e-5)]);

    // Its parameters have the positions of the dense network's. The decoder's come after them.
    let dense = student::<D>(architecture);
    let (parameters, buffers) = (dense.table().parameters(), dense.table().buffers());
    let table = reference.student.table();
    assert_eq!(parameters, &table.parameters()[..parameters.len()], "{architecture}");
    assert_eq!(buffers, &table.buffers()[..buffers.len()], "{architecture}");
    assert!(table.parameters()[parameters.len()..].iter().all(|entry| entry.spec.name.starts_with(DECODER)));
}

fn open_masked_resnets_equal_torchvisions<D: TestDevice>() {
    [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50]
        .into_iter()
        .for_each(check_open::<D>);
}

fn open_masked_mobile_students_equal_torchvisions<D: TestDevice>() {
    MOBILE.into_iter().for_each(check_open::<D>);
}

/// The feature before the last activation, and its gradient in the layers where that is special: the first, the last,
/// and those after it.
fn check_raw<D: TestDevice>(architecture: Architecture) {
    let extras = Extras { raw_pooled: true, decoder: None };
    let mut reference = Reference::open::<D>(architecture, extras);
    let golden = Golden::open("raw_pooled");
    let (images, shape) = reference.images();
    let Reference { seed, student, .. } = &mut reference;
    let output = student.forward(Images::Normalized(&images), shape, TRAIN).unwrap();
    let raw = output.raw_pooled().unwrap();
    let upstream = D::tensor(&spread(*seed, "upstream", raw.dims(), 1.0, 0.0));
    student.backward(&raw.mul(&upstream).unwrap().sum_all().unwrap(), false).unwrap();
    let gradients = student.gradients().unwrap();
    // The fixture's names start with the network's name, but those of its random numbers do not.
    let golden = golden.part(&format!("{architecture}."));
    let mut worst = golden.summary_error(*seed, "raw", raw);
    let kept = golden.summaries("gradient.");
    assert_eq!(kept.len(), 4, "{architecture}");
    for name in kept {
        let gradient = &gradients[&name];
        worst = worst.max(golden.summary_error(*seed, &format!("gradient.{name}"), gradient));
    }
    eprintln!("{architecture}: worst relative error of the raw feature {worst:.1e}");
    assert!(worst < 3e-5, "{architecture}: {worst:.1e}");

    // Apart from this output, the network is the same as without it.
    let mut plain = Reference::open::<D>(architecture, Extras::default());
    let theirs = plain.student.forward(Images::Normalized(&images), shape, TRAIN).unwrap();
    assert_eq!(values(&output.pooled), values(&theirs.pooled), "{architecture}");
    assert_eq!(student.table(), plain.student.table(), "{architecture}");
    let inferred = [student, &mut plain.student].map(|student| {
        let output = student.forward(Images::Normalized(&images), shape, Mode::Inference).unwrap();
        (values(&output.pooled), output.raw_pooled.as_ref().map(values))
    });
    let [(pooled, Some(raw)), (theirs, None)] = &inferred else {
        panic!("{architecture}: not as configured")
    };
    assert!(pooled == theirs && raw.len() == pooled.len() && raw != pooled, "{architecture}");
}

fn raw_features_of_resnets_equal_torchvisions<D: TestDevice>() {
    [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50]
        .into_iter()
        .for_each(check_raw::<D>);
}

fn raw_features_of_mobile_students_equal_torchvisions<D: TestDevice>() {
    MOBILE.into_iter().for_each(check_raw::<D>);
}

fn resnet18_equals_torchvisions<D: TestDevice>() {
    check::<D>(Architecture::ResNet18);
}

fn resnet34_equals_torchvisions<D: TestDevice>() {
    check::<D>(Architecture::ResNet34);
}

fn resnet50_equals_torchvisions<D: TestDevice>() {
    check::<D>(Architecture::ResNet50);
}

fn mobilenet_v2_equals_torchvisions<D: TestDevice>() {
    check::<D>(Architecture::MobileNetV2);
}

fn mobilenet_v3_large_equals_torchvisions<D: TestDevice>() {
    check::<D>(Architecture::MobileNetV3Large);
}

fn efficientnet_b0_equals_torchvisions<D: TestDevice>() {
    check::<D>(Architecture::EfficientNetB0);
}

fn mobilenet_v3_large_lgd_equals_the_published_one<D: TestDevice>() {
    check::<D>(Architecture::MobileNetV3LargeLgd);
}

fn efficientnet_b0_lgd_equals_the_published_one<D: TestDevice>() {
    check::<D>(Architecture::EfficientNetB0Lgd);
}

/// Properties of every architecture, checked on one student each: creating one takes longer than running it.
fn check_workings<D: TestDevice>(architecture: Architecture) {
    let mut student = student::<D>(architecture);
    let shape = (2, 64, 32);
    let images = normal("images", 2 * 64 * 32 * 3);
    let images = Images::Normalized(&images);
    let before = student.tensors().unwrap();

    let output = student.forward(images, shape, Mode::Inference).unwrap();
    assert_eq!(output.pooled.dims(), [2, architecture.feature_dim()]);
    assert!(!output.embedding().unwrap().track_op() && !output.pooled.track_op(), "inference keeps no graph");
    let same = |a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>| {
        a.iter().zip(b).all(|((n, a), (m, b))| n == m && values(a) == values(b))
    };
    assert!(same(&before, &student.tensors().unwrap()), "inference changes nothing");
    let inference = student.engine().bytes();

    let loss = |student: &mut Student| {
        let output = student.forward(images, shape, TRAIN).unwrap();
        output.embedding().unwrap().sqr().unwrap().sum_all().unwrap()
    };
    let mut bytes = Vec::new();
    let mut gradients = Vec::new();
    for _ in 0..3 {
        let loss = loss(&mut student);
        student.backward(&loss, false).unwrap();
        gradients.push(student.engine().gradients().unwrap());
        bytes.push(student.engine().bytes());
    }
    assert!(bytes[1] == bytes[2], "{architecture}: {bytes:?}");
    assert!(inference < bytes[2], "{architecture}: {inference} {bytes:?}");
    assert!(gradients[0] == gradients[2], "a pass leaves nothing behind");
    let again = loss(&mut student);
    student.backward(&again, true).unwrap();
    let doubled: Vec<f32> = gradients[2].iter().map(|v| 2.0 * v).collect();
    let error = error(&student.engine().gradients().unwrap(), &doubled);
    assert!(error < D::tolerance(1e-6), "{architecture}: accumulated {error:.1e}");
    assert!(matches!(student.backward(&again, false), Err(TrainError::NothingRan)));
}

fn resnets_work<D: TestDevice>() {
    [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50]
        .into_iter()
        .for_each(check_workings::<D>);
}

fn mobile_students_work<D: TestDevice>() {
    MOBILE.into_iter().for_each(check_workings::<D>);
}

fn every_draw_follows_seed_and_step<D: TestDevice>() {
    let (images, shape) = (normal("images", 4 * 32 * 32 * 3), (4, 32, 32));
    let head = Head::Projection { dim: 24 };
    for architecture in [Architecture::MobileNetV2, Architecture::EfficientNetB0] {
        let run = |init, mode| {
            let config = StudentConfig::new(architecture, head, init);
            let mut student = D::student(config);
            values(student.forward(Images::Normalized(&images), shape, mode).unwrap().embedding().unwrap())
        };
        let train = |seed, step| run(1, Mode::Train { seed, step });
        assert_eq!(train(1, 1), train(1, 1));
        assert_ne!(train(1, 1), train(1, 2), "dropout follows the step");
        assert_ne!(train(1, 1), train(2, 1), "dropout follows the seed");
        assert_ne!(run(1, Mode::Inference), run(2, Mode::Inference), "the weights follow the seed");
    }
}
