//! Initial weights as torchvision, timm, PyTorch and wrappers write them (`goldens/initial/make.py`), and other networks'.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lgd_train::initial::{self, WeightsFault};
use lgd_train::load_report::LoadReport;
use lgd_train::run::InitialWeightsError;
use lgd_train::student::{Architecture, Head, Student, StudentConfig};

type Tensors = BTreeMap<String, Tensor>;

fn golden(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/initial")
}

fn student(architecture: Architecture, head: Head, seed: u64) -> Student {
    Student::new(StudentConfig::new(architecture, head, seed), &Device::Cpu).unwrap()
}

fn weights(architecture: Architecture, head: Head) -> Tensors {
    student(architecture, head, 1).tensors().unwrap()
}

fn bytes(tensors: &Tensors) -> Vec<u8> {
    safetensors::serialize(tensors, None::<HashMap<String, String>>).unwrap()
}

fn renamed(tensors: &Tensors, name: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect()
}

/// Loads into a ResNet-18 with LGD's head.
fn load(tensors: &Tensors) -> Result<LoadReport, InitialWeightsError> {
    let mut student = student(Architecture::ResNet18, Head::Projection { dim: 8 }, 2);
    initial::load(&mut student, &bytes(tensors))
}

fn refusal(tensors: &Tensors) -> String {
    load(tensors).unwrap_err().to_string()
}

fn same(one: &Tensor, other: &Tensor) -> bool {
    let values = |tensor: &Tensor| {
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    one.dims() == other.dims() && values(one) == values(other)
}

#[test]
fn values_that_no_training_has_are_named() {
    let whole = weights(Architecture::ResNet18, Head::Projection { dim: 8 });
    let with = |name: &str, change: fn(&Tensor) -> candle_core::Result<Tensor>| {
        let mut tensors = whole.clone();
        let changed = change(&tensors[name]).unwrap();
        tensors.insert(name.to_owned(), changed);
        refusal(&tensors)
    };
    let error = with("bn1.running_var", |tensor| tensor.affine(-1.0, 0.0));
    assert!(error.starts_with("bn1.running_var holds negative variances\nhint: "), "{error}");
    let error = with("layer1.0.conv1.weight", |tensor| tensor.affine(f64::NAN, 0.0));
    assert!(error.starts_with("layer1.0.conv1.weight holds values that are not finite"), "{error}");
    let error = with("layer1.0.conv1.weight", |tensor| tensor.to_dtype(DType::I64));
    assert!(error.starts_with("layer1.0.conv1.weight holds values of I64, expected f16"), "{error}");
}

#[test]
fn every_student_takes_timms_names() {
    let pairs: BTreeMap<String, Vec<(String, Vec<usize>, String)>> =
        serde_json::from_slice(&golden("names.json")).unwrap();
    let known = |architecture: &Architecture| pairs.contains_key(architecture.name());
    assert_eq!(pairs.len() + 1, Architecture::ALL.len(), "timm has no mobilenet_v3_large_lgd");
    for architecture in Architecture::ALL.into_iter().filter(known) {
        let head = Head::Classifier { classes: 1000 };
        let expected = weights(architecture, head);
        let pairs = &pairs[architecture.name()];
        assert_eq!(pairs.len(), expected.len(), "{architecture}");
        let timm: Tensors = pairs
            .iter()
            .map(|(timm, shape, torchvision)| {
                (timm.clone(), expected[torchvision].reshape(&shape[..]).unwrap())
            })
            .collect();
        let mut student = student(architecture, head, 2);
        let report = initial::load(&mut student, &bytes(&timm)).unwrap();
        assert!(report.is_complete() && report.unused.is_empty(), "{architecture}: {report}");
        assert_eq!(report.notes.is_empty(), architecture.name().starts_with("resnet"), "{report}");
        let loaded = student.tensors().unwrap();
        for (name, tensor) in &expected {
            assert!(same(tensor, &loaded[name]), "{architecture}: {name}");
        }
    }
}

#[test]
fn a_head_may_be_left_out_or_new() {
    let tensors = weights(Architecture::ResNet18, Head::Classifier { classes: 5 });
    let report = load(&tensors).unwrap();
    assert_eq!(report.unused, ["fc.bias", "fc.weight"]);
    assert_eq!(
        report.to_string(),
        "loaded 100 of 104 tensors; unused: fc.bias, fc.weight; not in the file: head.0.weight, head.0.bias, head.2.weight, \
         head.2.bias"
    );
    let mut other = student(Architecture::ResNet18, Head::Classifier { classes: 7 }, 2);
    let report = initial::load(&mut other, &bytes(&tensors)).unwrap();
    assert_eq!(report.mismatched.len(), 2);
    assert!(
        report.to_string().contains("of another shape: fc.weight: expected [7, 512], got [5, 512]"),
        "{report}"
    );
}

#[test]
fn prefixes_of_wrappers_are_taken_off_and_told() {
    let tensors = weights(Architecture::ResNet18, Head::None);
    for prefix in
        ["module.", "model.", "backbone.", "student.", "_orig_mod.", "module.backbone.", "module.encoder_q."]
    {
        let mut wrapped = renamed(&tensors, |name| format!("{prefix}{name}"));
        wrapped.insert("module.queue".to_owned(), tensors["bn1.weight"].clone());
        let report = load(&wrapped).unwrap();
        assert_eq!(report.applied.len(), tensors.len());
        assert!(report.to_string().contains(&format!("(prefix {prefix:?} removed)")), "{report}");
        assert!(report.to_string().contains("queue"), "{report}");
    }
    let few: Tensors =
        tensors.iter().take(4).map(|(name, tensor)| (format!("module.{name}"), tensor.clone())).collect();
    let error = refusal(&few);
    assert!(error.contains("prefix \"module.\"") && error.contains("lacks 96 of the 100"), "{error}");
}

#[test]
fn a_wrapper_of_any_name_is_taken_off_if_the_student_is_in_one_place() {
    let tensors = weights(Architecture::ResNet18, Head::None);
    for prefix in ["1.", "backbone.body.", "my_detector.features."] {
        let report = load(&renamed(&tensors, |name| format!("{prefix}{name}"))).unwrap();
        assert_eq!(report.applied.len(), tensors.len());
        assert!(report.to_string().contains(&format!("(prefix {prefix:?} removed)")), "{report}");
    }
    let mut twice = renamed(&tensors, |name| format!("left.{name}"));
    twice.extend(renamed(&tensors, |name| format!("right.{name}")));
    let error = refusal(&twice);
    assert!(error.contains("lacks 100 of the 100") && error.contains("it has left."), "{error}");
}

#[test]
fn another_depth_or_width_is_refused() {
    let small = weights(Architecture::ResNet18, Head::Classifier { classes: 5 });
    let large = weights(Architecture::ResNet34, Head::None);
    let error = refusal(&large);
    assert!(
        error.contains("tensors in the backbone that the student lacks")
            && error.contains("they fit resnet34"),
        "{error}"
    );
    let mut deeper = student(Architecture::ResNet34, Head::None, 2);
    let error = initial::load(&mut deeper, &bytes(&small)).unwrap_err().to_string();
    assert!(error.contains("lacks 80 of the 180") && error.contains("they fit resnet18"), "{error}");
    let error = refusal(&weights(Architecture::ResNet50, Head::None));
    assert!(error.contains("they fit resnet50"), "{error}");
    let error = refusal(&weights(Architecture::MobileNetV2, Head::None));
    assert!(error.contains("they fit mobilenet_v2"), "{error}");
    // A stem for small images.
    let mut stem = small.clone();
    stem.insert("conv1.weight".to_owned(), Tensor::zeros((64, 3, 3, 3), DType::F32, &Device::Cpu).unwrap());
    let error = refusal(&stem);
    assert!(error.contains("conv1.weight has shape [64, 3, 3, 3], expected [64, 3, 7, 7]"), "{error}");
    // Attention between the same convolutions.
    let mut more = small.clone();
    more.insert("layer1.0.se.fc.weight".to_owned(), small["bn1.weight"].clone());
    assert!(refusal(&more).contains("layer1.0.se.fc.weight"));
    let mut parameters = small.clone();
    parameters.retain(|name, _| !name.contains("running"));
    assert!(refusal(&parameters).contains("running_mean"));
    let mut diverged = small;
    diverged.insert("bn1.bias".to_owned(), Tensor::full(f32::NAN, 64, &Device::Cpu).unwrap());
    assert!(refusal(&diverged).contains("bn1.bias holds values that are not finite"));
}

#[test]
fn a_deeper_network_with_timms_names_is_refused() {
    let wanted = weights(Architecture::EfficientNetB0, Head::None);
    let pairs: BTreeMap<String, Vec<(String, Vec<usize>, String)>> =
        serde_json::from_slice(&golden("names.json")).unwrap();
    let mut timm: Tensors = pairs["efficientnet_b0"]
        .iter()
        .filter_map(|(timm, _, name)| Some((timm.clone(), wanted.get(name)?.clone())))
        .collect();
    let mut target = student(Architecture::EfficientNetB0, Head::None, 2);
    assert!(initial::load(&mut target, &bytes(&timm)).unwrap().unused.is_empty());
    timm.insert("blocks.0.1.bn1.weight".to_owned(), timm["blocks.0.0.bn1.weight"].clone());
    let error = initial::load(&mut target, &bytes(&timm)).unwrap_err().to_string();
    assert!(error.contains("blocks.0.1.bn1.weight"), "{error}");
}

#[test]
fn files_of_torch_save_hold_the_tensors_that_were_saved() {
    let expected =
        candle_core::safetensors::load_buffer(&golden("tensors.safetensors"), &Device::Cpu).unwrap();
    for (file, note) in [
        ("plain.pth", None),
        ("dictionary.pt", None),
        ("legacy.pth", None),
        ("checkpoint.pth", Some("the entry state_dict")),
        ("deeper.pth", Some("the entry model.state_dict")),
        ("ema.pth", Some("the entry model, not model_ema")),
    ] {
        let (tensors, notes) = initial::read(&golden(file)).unwrap();
        assert_eq!(notes.first().map(String::as_str), note, "{file}");
        assert_eq!(tensors.len(), expected.len(), "{file}");
        for (name, tensor) in &expected {
            assert!(same(tensor, &tensors[name]), "{file}: {name}");
        }
    }
}

#[test]
fn what_is_no_state_dictionary_is_refused_by_name_and_never_run() {
    for (file, words) in [
        ("refused-two.pth", ["student, teacher", "torch.save"]),
        ("refused-empty.pth", ["no tensors", "epoch"]),
        ("refused-module.pth", ["torch.nn.modules.linear.Linear", "state_dict()"]),
        ("refused-code.pth", ["posix.system", "runs no code"]),
        ("refused-quantized.pth", ["weight", "_rebuild_qtensor"]),
        ("refused-script.pt", ["TorchScript", "state_dict()"]),
        ("refused-cut.pth", ["cannot read the weights", "safetensors"]),
    ] {
        let error = initial::read(&golden(file)).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{file}: {error}");
        }
        assert!(error.contains("hint:"), "{error}");
    }
    assert!(!Path::new("CODE_RAN").exists() && !folder().join("CODE_RAN").exists());
    for content in [&b"version https://git-lfs.github.com/spec/v1"[..], b"<html>", b"no tensors here", b""] {
        assert!(matches!(initial::read(content), Err(WeightsFault::Kind { .. })));
    }
}

#[test]
fn damaged_files_are_errors_at_every_byte() {
    for file in ["plain.pth", "legacy.pth", "dictionary.pt"] {
        let whole = golden(file);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            // The checksums of an archive find it, or it is told apart; either way nothing panics.
            let _ = initial::read(&flipped);
            assert!(initial::read(&whole[..at]).is_err(), "{file} cut at {at}");
        }
    }
}
