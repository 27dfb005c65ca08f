//! Names, initial values and counts of parameters, and their round trip through safetensors.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use lgd_train::error::TrainError;
use lgd_train::optim::OptimizerSettings;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

use crate::device::{Cpu, TestDevice, on_every_device};
use crate::golden::{normal, real, values};

on_every_device!(
    safetensors_bring_back_every_bit,
    a_report_names_what_did_not_fit,
    images_and_updates_that_do_not_fit_are_refused,
);

fn with_head<D: TestDevice>(architecture: Architecture, head: Head, seed: u64) -> Student {
    D::student(StudentConfig::new(architecture, head, seed))
}

fn student<D: TestDevice>(architecture: Architecture, seed: u64) -> Student {
    with_head::<D>(architecture, Head::Projection { dim: 16 }, seed)
}

fn moments(values: &[f32]) -> (f64, f64) {
    let n = real(values.len());
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    (mean, (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// Checks that values are uniform within `bound` of 0.
fn assert_uniform(name: &str, values: &[f32], bound: f64) {
    let (_, deviation) = moments(values);
    // Four times the standard deviation of a sample's standard deviation.
    let slack = 4.0 * 0.45 / real(values.len()).sqrt();
    assert!((deviation / (bound / 3.0_f64.sqrt()) - 1.0).abs() < slack, "{name}: {deviation} within {bound}");
    assert!(values.iter().all(|v| f64::from(v.abs()) <= bound * 1.000_001), "{name}");
}

fn assert_normal(name: &str, values: &[f32], expected: f64) {
    let (mean, deviation) = moments(values);
    let root = real(values.len()).sqrt();
    assert!((deviation / expected - 1.0).abs() < 4.0 * 0.71 / root, "{name}: {deviation} {expected}");
    assert!(mean.abs() < 5.0 * expected / root, "{name}: mean {mean}");
}

/// Checks torchvision's initial values: `torchvision/models/*.py` and the defaults of `torch.nn`.
fn check_initial(architecture: Architecture, name: &str, tensor: &Tensor) {
    let values = values(tensor);
    let all = |expected: f32| assert!(values.iter().all(|v| *v == expected), "{name}");
    let resnet = architecture.name().starts_with("resnet");
    let pytorchs = architecture == Architecture::EfficientNetB0Lgd;
    match tensor.dims() {
        // PyTorch's defaults. Biases of one layer are too few to estimate their deviation.
        [_, inputs, rows, columns] if pytorchs => {
            assert_uniform(name, &values, 1.0 / real(inputs * rows * columns).sqrt());
        }
        [_, inputs] if pytorchs => assert_uniform(name, &values, 1.0 / real(*inputs).sqrt()),
        [_] if pytorchs && (name.contains(".fc") || name == "fc.bias") => {
            assert!(values.iter().any(|value| *value != 0.0), "{name}");
        }
        [_, _, 1, 1] if architecture == Architecture::MobileNetV3LargeLgd && name.contains(".fc") => {
            assert_normal(name, &values, 0.01);
        }
        [out, _, rows, columns] => assert_normal(name, &values, (2.0 / real(out * rows * columns)).sqrt()),
        [_, inputs] if resnet || name.starts_with("head.") => {
            assert_uniform(name, &values, 1.0 / real(*inputs).sqrt());
        }
        [outputs, _] if architecture == Architecture::EfficientNetB0 => {
            assert_uniform(name, &values, 1.0 / real(*outputs).sqrt());
        }
        [_, _] => assert_normal(name, &values, 0.01),
        _ if resnet && name == "fc.bias" || name.starts_with("head.") => {
            assert_uniform(name, &values, 1.0 / real(architecture.feature_dim()).sqrt());
        }
        _ if name.ends_with("running_var") => all(1.0),
        _ if name.ends_with("running_mean") || name.ends_with("bias") => all(0.0),
        _ => all(1.0),
    }
}

#[test]
fn initial_values_and_counts_are_torchvisions() {
    // Those of the published forms are of `goldens/students.py`: the same layers.
    let counts = [11_689_512, 21_797_672, 25_557_032, 3_504_872, 5_483_032, 5_288_548, 5_483_032, 5_288_548];
    assert_eq!(counts.len(), Architecture::ALL.len());
    for (architecture, count) in Architecture::ALL.into_iter().zip(counts) {
        let mut student = with_head::<Cpu>(architecture, Head::Classifier { classes: 1000 }, 4);
        assert_eq!(student.table().parameter_count(), count, "{architecture}");
        for (name, tensor) in student.tensors().unwrap() {
            check_initial(architecture, &name, &tensor);
        }
    }
}

#[test]
fn the_projection_starts_as_pytorchs_layers() {
    let mut student = student::<Cpu>(Architecture::ResNet18, 4);
    let head = 512 * 512 + 512 + 512 * 16 + 16;
    assert_eq!(student.table().parameter_count(), 11_689_512 - (512 * 1000 + 1000) + head);
    for (name, tensor) in student.tensors().unwrap() {
        // Too few biases to estimate their deviation.
        if name.starts_with("head.") && name != "head.2.bias" {
            check_initial(Architecture::ResNet18, &name, &tensor);
        }
    }
    let other = with_head::<Cpu>(Architecture::ResNet18, Head::Projection { dim: 16 }, 5).tensors().unwrap();
    assert_ne!(values(&other["conv1.weight"]), values(&student.tensors().unwrap()["conv1.weight"]));
}

/// LGD's code initializes every dense layer of MobileNets so, and then puts the first layer of the projection before the last.
#[test]
fn the_projection_of_mobilenets_ends_as_lgds() {
    use Architecture::{MobileNetV2, MobileNetV3Large, MobileNetV3LargeLgd};
    for architecture in [MobileNetV2, MobileNetV3Large, MobileNetV3LargeLgd] {
        let tensors = student::<Cpu>(architecture, 4).tensors().unwrap();
        let bound = 1.0 / real(architecture.feature_dim()).sqrt();
        assert_uniform("head.0.weight", &values(&tensors["head.0.weight"]), bound);
        assert_normal("head.2.weight", &values(&tensors["head.2.weight"]), 0.01);
        assert!(values(&tensors["head.2.bias"]).iter().all(|value| *value == 0.0), "{architecture}");
    }
}

#[test]
fn buffers_lie_apart_from_parameters() {
    let student = student::<Cpu>(Architecture::ResNet18, 0);
    let table = student.table();
    let names: Vec<&str> = table.parameters().iter().map(|entry| &entry.spec.name[..]).collect();
    assert!(names.contains(&"layer2.0.downsample.0.weight"));
    assert!(names.iter().all(|name| !name.contains("running")));
    assert!(table.buffers().iter().all(|entry| entry.spec.name.contains("running")));
    for entries in [table.parameters(), table.buffers()] {
        let ranges = entries.windows(2).map(|pair| (pair[0].range, pair[1].range));
        assert!(ranges.into_iter().all(|(a, b)| a.start + a.len <= b.start), "tensors do not overlap");
    }
}

fn all(student: &mut Student) -> Vec<(String, Vec<f32>)> {
    student.tensors().unwrap().iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect()
}

fn safetensors_bring_back_every_bit<D: TestDevice>() {
    for architecture in [Architecture::MobileNetV2, Architecture::MobileNetV3Large] {
        let (mut from, mut to) = (student::<D>(architecture, 1), student::<D>(architecture, 2));
        let metadata = BTreeMap::from([("made_by".to_owned(), "a test".to_owned())]);
        let bytes = from.to_safetensors(&metadata).unwrap();
        let report = to.load_safetensors(&bytes).unwrap();
        assert!(report.is_complete() && report.unused.is_empty(), "{report}");
        assert_eq!(all(&mut from), all(&mut to));
        let images = normal("images", 2 * 32 * 32 * 3);
        let run = |student: &mut Student| {
            let output = student.forward(Images::Normalized(&images), (2, 32, 32), Mode::Inference);
            values(output.unwrap().embedding().unwrap())
        };
        assert_eq!(run(&mut from), run(&mut to), "and what it computes");
        assert!(to.load_safetensors(&bytes[..bytes.len() / 2]).is_err(), "a truncated file");
        assert!(to.load_safetensors(b"not a file").is_err());
    }
}

fn a_report_names_what_did_not_fit<D: TestDevice>() {
    let mut student = student::<D>(Architecture::ResNet18, 3);
    let stem = student.tensors().unwrap()["conv1.weight"].clone();
    let half = Tensor::full(0.5_f64, 64, &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
    let file = BTreeMap::from([
        ("bn1.weight".to_owned(), half),
        ("bn1.num_batches_tracked".to_owned(), Tensor::full(7_i64, (), &Device::Cpu).unwrap()),
        ("fc.weight".to_owned(), Tensor::zeros((10, 512), DType::F32, &Device::Cpu).unwrap()),
        ("conv1.weight".to_owned(), Tensor::zeros((64, 3, 3, 3), DType::F32, &Device::Cpu).unwrap()),
    ]);
    let report = student.load(&file).unwrap();
    assert_eq!(report.applied, ["bn1.weight"]);
    assert_eq!(report.unused, ["fc.weight"]);
    assert_eq!(report.mismatched.len(), 1);
    assert_eq!(report.mismatched[0].got, [64, 3, 3, 3]);
    assert!(report.missing.contains(&"layer4.1.conv2.weight".to_owned()));
    assert!(!report.is_complete());
    let text = report.to_string();
    assert!(text.contains("conv1.weight: expected [64, 3, 7, 7], got [64, 3, 3, 3]"), "{text}");
    let now = student.tensors().unwrap();
    assert_eq!(values(&now["conv1.weight"]), values(&stem), "what does not fit stays as it was");
    assert!(values(&now["bn1.weight"]).iter().all(|v| *v == 0.5));
}

#[test]
fn architectures_have_names() {
    for architecture in Architecture::ALL {
        assert_eq!(architecture.to_string().parse::<Architecture>().unwrap(), architecture);
        assert_eq!(serde_json::to_string(&architecture).unwrap(), format!("\"{architecture}\""));
    }
    assert!("vgg16".parse::<Architecture>().unwrap_err().to_string().contains("hint: students are"));
}

fn images_and_updates_that_do_not_fit_are_refused<D: TestDevice>() {
    let mut student = student::<D>(Architecture::ResNet18, 0);
    let images = vec![0.0; 32 * 32 * 3];
    let modes = [Mode::Inference, Mode::Train { seed: 0, step: 0 }];
    for mode in modes {
        for shape in [(0, 32, 32), (1, 0, 32), (1, 32, 31), (2, 32, 32), (3, 32, 32)] {
            assert!(student.forward(Images::Normalized(&images), shape, mode).is_err(), "{shape:?}");
        }
        assert!(student.forward(Images::Normalized(&[]), (0, 32, 32), mode).is_err());
    }
    assert!(student.forward(Images::Normalized(&images), (1, 32, 32), Mode::Inference).is_ok());
    let loss = Tensor::zeros((), DType::F32, &D::device()).unwrap();
    assert!(matches!(student.backward(&loss, false), Err(TrainError::NothingRan)));
    let wider = with_head::<D>(Architecture::ResNet18, Head::Projection { dim: 17 }, 0);
    let update = OptimizerSettings::default().update(wider.table(), 0.1, 1);
    assert!(student.update(&update).is_err(), "made for another student");
    for head in [Head::Projection { dim: 0 }, Head::Classifier { classes: 0 }] {
        let config = StudentConfig::new(Architecture::ResNet18, head, 0);
        assert!(Student::new(config, &D::device()).is_err());
    }
}
