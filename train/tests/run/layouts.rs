//! Names and shapes of `lgd export --layout` against those that the frameworks' own networks have
//! (`goldens/layouts/make.py`, `goldens/initial/make.py`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use lgd_train::export::{ExportError, Layout, named};
use lgd_train::student::{Architecture, Head, Student, StudentConfig};

type Shapes = BTreeMap<String, Vec<usize>>;

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)).unwrap()
}

fn tensors(architecture: Architecture, head: Head) -> BTreeMap<String, Tensor> {
    Student::new(StudentConfig::new(architecture, head, 1), &Device::Cpu).unwrap().tensors().unwrap()
}

fn shapes(tensors: &BTreeMap<String, Tensor>) -> Shapes {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn frameworks_find_their_own_names_and_shapes() {
    let golden: BTreeMap<String, BTreeMap<String, Shapes>> =
        serde_json::from_slice(&golden("layouts/names.json")).unwrap();
    let layouts = [
        ("torchvision-body", Layout::TorchvisionBody, Head::Projection { dim: 8 }),
        ("huggingface", Layout::Huggingface, Head::Projection { dim: 8 }),
        ("huggingface-classifier", Layout::Huggingface, Head::Classifier { classes: 10 }),
        ("mmdet", Layout::Mmdet, Head::Classifier { classes: 10 }),
        ("detectron2", Layout::Detectron2, Head::None),
    ];
    assert_eq!(golden.len(), layouts.len());
    for (name, layout, head) in layouts {
        for (architecture, expected) in &golden[name] {
            let architecture: Architecture = architecture.parse().unwrap();
            let student = tensors(architecture, head);
            let written = named(layout, architecture, &student).unwrap();
            assert_eq!(&shapes(&written), expected, "{name}: {architecture}");
            // Every tensor is one of the student's: its first numbers are.
            let content = |tensors: &BTreeMap<String, Tensor>| -> BTreeSet<Vec<u32>> {
                let bits = |tensor| values(tensor).iter().take(16).map(|value| value.to_bits()).collect();
                tensors.values().filter(|tensor| tensor.rank() > 1).map(bits).collect()
            };
            assert!(content(&written).is_subset(&content(&student)), "{name}: {architecture}");
        }
    }
}

#[test]
fn timm_finds_its_own_names_and_shapes() {
    let pairs: BTreeMap<String, Vec<(String, Vec<usize>, String)>> =
        serde_json::from_slice(&golden("initial/names.json")).unwrap();
    let known = |architecture: &Architecture| pairs.contains_key(architecture.name());
    assert_eq!(pairs.len() + 1, Architecture::ALL.len(), "timm has no mobilenet_v3_large_lgd");
    for architecture in Architecture::ALL.into_iter().filter(known) {
        let expected: Shapes =
            pairs[architecture.name()].iter().map(|(name, shape, _)| (name.clone(), shape.clone())).collect();
        let student = tensors(architecture, Head::Classifier { classes: 1000 });
        let written = named(Layout::Timm, architecture, &student).unwrap();
        assert_eq!(shapes(&written), expected, "{architecture}");
        for (timm, _, torchvision) in &pairs[architecture.name()] {
            assert_eq!(values(&written[timm]), values(&student[torchvision]), "{architecture}: {timm}");
        }
        // Without a classifier, timm's network ends in the pool. In MobileNetV3 a dense layer follows it.
        let student = tensors(architecture, Head::Projection { dim: 8 });
        let written = named(Layout::Timm, architecture, &student).unwrap();
        let is_classifier = |name: &str| name.starts_with("fc.") || name.starts_with("classifier.");
        let backbone: Shapes = expected.into_iter().filter(|(name, _)| !is_classifier(name)).collect();
        assert_eq!(shapes(&written), backbone, "{architecture}");
    }
}

#[test]
fn a_framework_without_the_network_is_refused() {
    for (layout, refused) in [
        (Layout::Huggingface, Architecture::EfficientNetB0),
        (Layout::Mmdet, Architecture::MobileNetV3Large),
        (Layout::Candle, Architecture::EfficientNetB0),
        (Layout::Detectron2, Architecture::MobileNetV2),
        (Layout::Torchvision, Architecture::MobileNetV3LargeLgd),
        (Layout::TorchvisionBody, Architecture::EfficientNetB0Lgd),
        (Layout::Timm, Architecture::MobileNetV3LargeLgd),
    ] {
        let error = named(layout, refused, &tensors(refused, Head::None)).unwrap_err();
        assert!(matches!(error, ExportError::NoLayout { .. }), "{error}");
        assert!(error.to_string().contains("it has resnet18, resnet34, resnet50"), "{error}");
    }
}
