//! Initial values, loading with a report, and the round trip through safetensors.

use std::collections::{BTreeMap, HashMap};

use crate::golden::values;
use candle_core::{DType, Device, Tensor};
use lgd_train::student::{Architecture, Student};

fn student(architecture: Architecture, seed: u64) -> Student {
    Student::new(architecture, 16, seed, &Device::Cpu).unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "a tensor's length")]
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    (mean, (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt())
}

#[test]
fn initial_values_are_torchvisions() {
    for architecture in Architecture::ALL {
        let student = student(architecture, 4);
        for (name, var) in student.params().parameters() {
            let values = values(var);
            let (mean, deviation) = moments(&values);
            match var.dims() {
                [out, _, rows, columns] if values.len() > 2000 => {
                    let expected = (2.0 / f64::from(u32::try_from(out * rows * columns).unwrap())).sqrt();
                    assert!((deviation / expected - 1.0).abs() < 0.08, "{name}: {deviation} {expected}");
                    assert!(mean.abs() < 0.1 * expected, "{name}: mean {mean}");
                }
                [_, inputs] => {
                    let bound = 1.0 / f64::from(u32::try_from(*inputs).unwrap()).sqrt();
                    assert!((deviation / (bound / 3.0_f64.sqrt()) - 1.0).abs() < 0.05, "{name}: {deviation}");
                    assert!(values.iter().all(|v| f64::from(v.abs()) <= bound * 1.000_001), "{name}");
                }
                [_] if !name.starts_with("head.") => {
                    let expected = if name.ends_with(".weight") { 1.0 } else { 0.0 };
                    assert!(values.iter().all(|v| *v == expected), "{name}");
                }
                _ => {}
            }
        }
        for (name, var) in student.params().buffers() {
            let expected = if name.ends_with("running_var") { 1.0 } else { 0.0 };
            assert!(values(var).iter().all(|v| *v == expected), "{name}");
        }
    }
}

#[test]
fn parameter_counts_are_torchvisions() {
    // torchvision's totals without the classifier, plus the head's.
    let head = |d: usize| d * d + d + d * 16 + 16;
    let resnet = student(Architecture::ResNet18, 0).params().parameter_count();
    assert_eq!(resnet, 11_689_512 - (512 * 1000 + 1000) + head(512));
    let mobilenet = student(Architecture::MobileNetV2, 0).params().parameter_count();
    assert_eq!(mobilenet, 3_504_872 - (1280 * 1000 + 1000) + head(1280));
}

#[test]
fn names_are_sorted_and_buffers_apart() {
    let student = student(Architecture::ResNet18, 0);
    let names: Vec<&str> = student.params().parameters().map(|(name, _)| name).collect();
    assert!(names.is_sorted());
    assert!(names.contains(&"layer2.0.downsample.0.weight"));
    assert!(names.iter().all(|name| !name.contains("running")));
    assert!(student.params().buffers().all(|(name, _)| name.contains("running")));
}

#[test]
fn safetensors_bring_back_every_bit() {
    let (from, to) = (student(Architecture::MobileNetV2, 1), student(Architecture::MobileNetV2, 2));
    let metadata = HashMap::from([("made_by".to_owned(), "a test".to_owned())]);
    let bytes = from.params().to_safetensors(metadata).unwrap();
    let report = to.params().load_safetensors(&bytes).unwrap();
    assert!(report.is_complete() && report.unused.is_empty(), "{report}");
    let all = |student: &Student| -> Vec<(String, Vec<f32>)> {
        student.params().tensors().iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect()
    };
    assert_eq!(all(&from), all(&to));
    assert!(to.params().load_safetensors(&bytes[..bytes.len() / 2]).is_err(), "a truncated file");
    assert!(to.params().load_safetensors(b"not a file").is_err());
}

#[test]
fn a_report_names_what_did_not_fit() {
    let student = student(Architecture::ResNet18, 3);
    let stem = student.params().tensors()["conv1.weight"].clone();
    let half = Tensor::full(0.5_f64, 64, &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
    let file = BTreeMap::from([
        ("bn1.weight".to_owned(), half),
        ("bn1.num_batches_tracked".to_owned(), Tensor::full(7_i64, (), &Device::Cpu).unwrap()),
        ("fc.weight".to_owned(), Tensor::zeros((10, 512), DType::F32, &Device::Cpu).unwrap()),
        ("conv1.weight".to_owned(), Tensor::zeros((64, 3, 3, 3), DType::F32, &Device::Cpu).unwrap()),
    ]);
    let report = student.params().load(&file).unwrap();
    assert_eq!(report.applied, ["bn1.weight"]);
    assert_eq!(report.unused, ["fc.weight"]);
    assert_eq!(report.mismatched.len(), 1);
    assert_eq!(report.mismatched[0].got, [64, 3, 3, 3]);
    assert!(report.missing.contains(&"layer4.1.conv2.weight".to_owned()));
    assert!(!report.is_complete());
    let text = report.to_string();
    assert!(text.contains("conv1.weight: expected [64, 3, 7, 7], the file has [64, 3, 3, 3]"), "{text}");
    let now = student.params().tensors();
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

#[test]
fn images_of_another_shape_are_refused() {
    let student = student(Architecture::ResNet18, 0);
    for shape in [vec![1, 3, 32, 32], vec![32, 32, 3], vec![0, 32, 32, 3]] {
        let images = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(student.forward(&images, lgd_train::student::Mode::Inference).is_err());
    }
    assert!(Student::new(Architecture::ResNet18, 0, 0, &Device::Cpu).is_err());
}
