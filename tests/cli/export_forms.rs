//! Forms of exported files: what phones take, other inputs and precisions, maps, and other frameworks' layouts.

use std::collections::BTreeMap;
use std::fs;

use candle_core::Device;
use lgd_data::image::DecodeLimits;
use lgd_data::render::{Normalization, Resample, render};
use lgd_data::view::{CenterCrop, View};
use lgd_train::export::{OnnxFormat, OnnxInput, OnnxOptions, Precision, to_onnx};
use lgd_train::initial;
use lgd_train::student::{Architecture, Head, Images, Mode};

use crate::common::{CLASSES, Desk, root};
use crate::export::{DIM, IMAGES, SIDE, TOLERANCE, error, images, noise, products, student, values};

/// Runs `student.onnx` on the numbers in `images.bin` and writes each output to a file of its name. Arguments: NumPy's
/// type and the shape of the images.
const RUN: &str = "
import numpy, onnxruntime
session = onnxruntime.InferenceSession('student.onnx')
given, = session.get_inputs()
images = numpy.fromfile('images.bin', 'DTYPE').reshape(SHAPE)
names = [output.name for output in session.get_outputs()]
for name, values in zip(names, session.run(names, {given.name: images})):
    assert values.dtype == numpy.float32, (name, values.dtype)
    values.astype('<f4').tofile(name + '.bin')
print(' '.join(names))
";

/// The outputs of `bytes` for the numbers `images`, in order of the file.
fn outputs(bytes: &[u8], images: &[u8], (dtype, shape): (&str, &str)) -> Vec<(String, Vec<f32>)> {
    let desk = Desk::new();
    desk.write("student.onnx", bytes);
    desk.write("images.bin", images);
    let ran = desk.python(&RUN.replace("DTYPE", dtype).replace("SHAPE", shape)).ended(0, &[]);
    let read = |name: &str| {
        let bytes = fs::read(desk.path(&format!("{name}.bin"))).unwrap();
        let numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (name.to_owned(), numbers)
    };
    ran.stdout.split_whitespace().map(read).collect()
}

/// A file in f32, converted by ONNX Runtime's tools.
fn in_half(single: &[u8]) -> Vec<u8> {
    let desk = Desk::new();
    desk.write("single.onnx", single);
    let convert = "
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
onnx.save(convert_float_to_float16(onnx.load('single.onnx'), keep_io_types=True), 'half.onnx')
";
    desk.python(convert).ended(0, &[]);
    fs::read(desk.path("half.onnx")).unwrap()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Lines of ONNX Runtime's checker that count partitions: how many, nodes that run there, and all nodes.
fn partitions(report: &str) -> Vec<(usize, usize, usize)> {
    let line = |line: &str| {
        let (count, rest) = line.split_once(" partitions with a total of ")?;
        let (supported, all) = rest.split_once(" nodes")?.0.split_once('/')?;
        let count = count.rsplit(|letter: char| !letter.is_ascii_digit()).next()?;
        Some((count.parse().ok()?, supported.parse().ok()?, all.parse().ok()?))
    };
    report.lines().filter_map(line).collect()
}

#[test]
fn phones_run_every_student_in_one_partition() {
    let mut noise = noise(7);
    let prototypes: Vec<f32> = (0..5 * DIM).map(|_| noise()).collect();
    let desk = Desk::new();
    let check = "
import runpy, sys
sys.argv = ['check', 'student.onnx']
runpy.run_module('onnxruntime.tools.check_onnx_model_mobile_usability', run_name='__main__')
";
    for architecture in Architecture::ALL {
        // The input's form does not depend on the architecture.
        let inputs: &[OnnxInput] = match architecture {
            Architecture::MobileNetV2 => &[OnnxInput::F32Nchw, OnnxInput::U8Nhwc],
            _ => &[OnnxInput::F32Nchw],
        };
        for &input in inputs {
            let format = OnnxFormat { batch: Some(1), input, ..OnnxFormat::default() };
            let prototypes = Some((&prototypes[..], DIM));
            let options =
                OnnxOptions { format, prototypes, ..OnnxOptions::new(SIDE, Normalization::IMAGENET) };
            let mut student = student(architecture, Head::Projection { dim: DIM });
            desk.write("student.onnx", to_onnx(&mut student, &options).unwrap().bytes);
            let ran = desk.python(check).ended(0, &[]);
            let report = ran.stdout + &ran.stderr;
            let found = partitions(&report);
            // NNAPI, and both kinds of models of CoreML.
            assert!(found.len() >= 3, "{report}");
            for (count, supported, all) in found {
                assert_eq!((count, supported), (1, all), "{architecture} {input:?}:\n{report}");
            }
        }
    }
}

#[test]
fn probabilities_are_a_softmax_at_the_temperature() {
    let normalization = Normalization::IMAGENET;
    let (_, nchw) = images(SIDE, &normalization);
    let mut noise = noise(7);
    let prototypes: Vec<f32> = (0..5 * DIM).map(|_| noise()).collect();
    for (head, logits, temperature) in
        [(Head::Projection { dim: DIM }, "scores", 0.2), (Head::Classifier { classes: 5 }, "logits", 1.0)]
    {
        let prototypes = (logits == "scores").then_some((&prototypes[..], DIM));
        let options = OnnxOptions { prototypes, temperature, ..OnnxOptions::new(SIDE, normalization) };
        let onnx = to_onnx(&mut student(Architecture::MobileNetV2, head), &options).unwrap();
        let shape = format!("({IMAGES}, 3, {SIDE}, {SIDE})");
        let found: BTreeMap<_, _> =
            outputs(&onnx.bytes, &bytes(&nchw), ("<f4", &shape)).into_iter().collect();
        let expected: Vec<f32> = found[logits]
            .chunks(5)
            .flat_map(|row| {
                let powers: Vec<f32> = row.iter().map(|value| (value / temperature).exp()).collect();
                let sum: f32 = powers.iter().sum();
                powers.into_iter().map(move |power| power / sum)
            })
            .collect();
        assert!(error(&found["probabilities"], &expected) < 1e-5, "{found:?}");
    }
}

#[test]
fn forms_compute_the_same() {
    let normalization = Normalization::CLIP;
    let pixels: Vec<u8> =
        (0..IMAGES * SIDE * SIDE * 3).map(|at| u8::try_from(at * at % 251).unwrap()).collect();
    let normalized: Vec<f32> = pixels
        .iter()
        .enumerate()
        .map(|(at, pixel)| {
            (f32::from(*pixel) / 255.0 - normalization.mean[at % 3]) / normalization.std[at % 3]
        })
        .collect();
    let mut nchw = Vec::new();
    for image in pixels.chunks(SIDE * SIDE * 3) {
        nchw.extend((0..3).flat_map(|channel| {
            image.iter().skip(channel).step_by(3).map(|pixel| f32::from(*pixel) / 255.0)
        }));
    }
    let f32s = (bytes(&nchw), "<f4", format!("({IMAGES}, 3, {SIDE}, {SIDE})"));
    let u8s = (pixels, "u1", format!("({IMAGES}, {SIDE}, {SIDE}, 3)"));
    for architecture in [Architecture::ResNet18, Architecture::MobileNetV3Large, Architecture::EfficientNetB0]
    {
        let mut student = student(architecture, Head::Projection { dim: DIM });
        let here =
            student.forward(Images::Normalized(&normalized), (IMAGES, SIDE, SIDE), Mode::Inference).unwrap();
        let embedding = values(here.embedding().unwrap());
        for (input, precision) in [(OnnxInput::U8Nhwc, Precision::F32), (OnnxInput::F32Nchw, Precision::F16)]
        {
            let format = OnnxFormat { input, precision, maps: true, ..OnnxFormat::default() };
            let options = OnnxOptions {
                format,
                prototypes: Some((&embedding[..], DIM)),
                ..OnnxOptions::new(SIDE, normalization)
            };
            let onnx = to_onnx(&mut student, &options).unwrap();
            let single = OnnxFormat { precision: Precision::F32, ..format };
            let single = to_onnx(&mut student, &OnnxOptions { format: single, ..options }).unwrap();
            let (images, dtype, shape) = if input == OnnxInput::U8Nhwc { &u8s } else { &f32s };
            let found = outputs(&onnx.bytes, images, (dtype, shape));
            let names: Vec<&str> = found.iter().map(|(name, _)| &name[..]).collect();
            let declared: Vec<&str> = onnx.outputs.iter().map(|port| &port.name[..]).collect();
            assert_eq!(names, declared);
            assert_eq!(
                names,
                ["embedding", "feature", "map_04", "map_08", "map_16", "map_32", "probabilities", "scores"]
            );
            let found: BTreeMap<_, _> = found.into_iter().collect();
            let feature = values(&here.pooled);
            // Half precision is as exact as what ONNX Runtime's own converter makes of the file in f32.
            let peer: Option<BTreeMap<_, _>> = (precision == Precision::F16)
                .then(|| outputs(&in_half(&single.bytes), images, (dtype, shape)).into_iter().collect());
            for (name, expected) in [
                ("feature", &feature),
                ("embedding", &embedding),
                ("scores", &products(&embedding, &embedding, DIM)),
            ] {
                let tolerance = peer.as_ref().map_or(TOLERANCE, |peer| 1.5 * error(&peer[name], expected));
                let error = error(&found[name], expected);
                assert!(error < tolerance, "{architecture} {format:?}: {name} is off by {error:.1e}");
            }
            // The feature is the mean of the last map.
            let positions = found["map_32"].chunks((SIDE / 32) * (SIDE / 32));
            let means: Vec<f32> = positions.map(|map| map.iter().sum::<f32>() / 4.0).collect();
            assert!(error(&means, &found["feature"]) < 1e-3, "{architecture}");
            for (name, stride) in [("map_04", 4), ("map_08", 8), ("map_16", 16)] {
                assert_eq!(found[name].len() % (IMAGES * (SIDE / stride) * (SIDE / stride)), 0, "{name}");
            }
        }
    }
}

#[test]
fn a_file_in_half_precision_is_half_as_large() {
    let mut student = student(Architecture::MobileNetV2, Head::None);
    let [single, half] = [Precision::F32, Precision::F16].map(|precision| {
        let format = OnnxFormat { precision, ..OnnxFormat::default() };
        let options = OnnxOptions { format, ..OnnxOptions::new(SIDE, Normalization::IMAGENET) };
        to_onnx(&mut student, &options).unwrap().bytes
    });
    assert!(half.len() * 10 < single.len() * 6, "{} of {} bytes", half.len(), single.len());
}

/// The function `prepare` of docs/export.md with the metadata that it reads, and pixels of three images as it prepares them.
const PREPARE: &str = "
import numpy
from PIL import Image, ImageOps
crop, size, resample = {'fraction': 0.875}, 56, Image.Resampling.BICUBIC
PREPARE
noise = numpy.random.default_rng(0)
wide = Image.fromarray(noise.integers(0, 256, (90, 131, 3), numpy.uint8))
turned = Image.Exif()
turned[0x0112] = 6
wide.save('a.png')
wide.transpose(Image.Transpose.ROTATE_90).crop((0, 0, 90, 117)).save('b.png')
wide.save('c.png', exif=turned)
for name in 'abc':
    prepare(name + '.png').tofile(name + '.bin')
";

#[test]
fn the_pages_preprocessing_is_that_of_eval() {
    let page = fs::read_to_string(root().join("docs/export.md")).unwrap();
    let start = page.find("def prepare(path):").unwrap();
    let function = &page[start..start + page[start..].find("\n\n").unwrap()];
    let desk = Desk::new();
    desk.python(&PREPARE.replace("PREPARE", function)).ended(0, &[]);
    for name in ["a", "b", "c"] {
        let file = fs::read(desk.path(&format!("{name}.png"))).unwrap();
        let image = lgd_data::image::decode(&file, &DecodeLimits::default()).unwrap();
        let view = View::of_center(CenterCrop::shortest(0.875));
        let here = render(&image, &view, 56, Resample::Bicubic).unwrap();
        let there = fs::read(desk.path(&format!("{name}.bin"))).unwrap();
        assert_eq!(there.len(), here.pixels().len());
        let apart = there.iter().zip(here.pixels()).map(|(one, other)| one.abs_diff(*other)).max();
        // What data/src/render/resize.rs promises.
        assert!(apart <= Some(1), "{name}: {apart:?} levels apart");
    }
}

const TRAIN: &str =
    "train --cache cache --images images --student STUDENT --size 32 --batch 8 --epochs 0 --out";

#[test]
fn a_run_is_written_for_other_frameworks() {
    let desk = Desk::cache_and_bank();
    let train = |student: &str| TRAIN.replace("STUDENT", student);
    desk.lgd(&format!("{} run --bank banks/ten", train("resnet18"))).ended(0, &[]);
    let student = fs::read(desk.path("run/student.safetensors")).unwrap();
    let length = usize::try_from(u64::from_le_bytes(*student.first_chunk().unwrap())).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&student[8..8 + length]).unwrap();
    let metadata = &header["__metadata__"];
    assert_eq!(metadata["lgd.architecture"], "resnet18");
    assert_eq!(metadata["lgd.size"], "32");
    assert_eq!(metadata["lgd.mean"], "[0.485,0.456,0.406]");
    assert_eq!(metadata["lgd.crop"], r#"{"fraction":0.875,"resize":"shortest","rounding":"half-even"}"#);

    let (own, _) = initial::read(&student).unwrap();
    for layout in ["torchvision", "torchvision-body", "candle", "mmdet"] {
        let out = format!("out/{layout}.pth");
        let report = desk
            .lgd(&format!("export --run run --layout {layout} --format pth --out {out}"))
            .ended(0, &[])
            .json();
        let (tensors, notes) = initial::read(&fs::read(desk.path(&out)).unwrap()).unwrap();
        assert_eq!(report["tensors"], tensors.len());
        assert!(notes.is_empty(), "{notes:?}");
        for (name, tensor) in &tensors {
            assert_eq!(values(tensor), values(&own[name]), "{layout}: {name}");
        }
        let heads = own.len() - tensors.len();
        assert_eq!(heads, if layout == "torchvision" { 0 } else { 4 }, "{report}");
    }

    let report = desk.lgd("export --run run --layout timm --out out/timm").ended(0, &[]).json();
    assert_eq!(report["files"], serde_json::json!(["model.safetensors", "config.json"]));
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(desk.path("out/timm/config.json")).unwrap()).unwrap();
    assert_eq!(config["architecture"], "resnet18");
    assert_eq!(config["pretrained_cfg"]["input_size"], serde_json::json!([3, 32, 32]));
    assert_eq!(config["pretrained_cfg"]["crop_pct"], serde_json::json!(0.875));
    desk.lgd("export --run run --layout timm --out out/timm")
        .ended(2, &["out/timm already holds something", "hint: give --overwrite"]);
    desk.lgd("export --run run --layout timm --out out/timm --overwrite --format pth").ended(0, &[]);
    assert!(desk.path("out/timm/pytorch_model.bin").exists());
    assert!(!desk.path("out/timm/model.safetensors").exists(), "older weights");
    desk.lgd("export --run run --layout timm --out run/run.json").ended(2, &["already holds a file"]);

    let report = desk.lgd("export --run run --layout detectron2 --out out/d2.pth").ended(0, &[]).json();
    let settings = report["settings"].to_string();
    for part in
        ["out/d2.pth?matching_heuristics=True", "PIXEL_MEAN: [123.675, 116.280, 103.530]", "RGB", "DEPTH: 18"]
    {
        assert!(settings.contains(part), "{settings}");
    }
    desk.lgd("export --run run --layout detectron2 --format safetensors --out out/d2.safetensors")
        .ended(2, &["detectron2 does not read safetensors files", "hint: give --format pth"]);
    desk.lgd("export --run run --layout timm --bank banks/ten --out out/other").ended(2, &["--bank"]);

    desk.lgd(&format!("{} mobile --bank banks/ten", train("mobilenet_v3_large"))).ended(0, &[]);
    desk.lgd("export --run mobile --layout huggingface --out out/hf").ended(
        2,
        &[
            "huggingface does not have mobilenet_v3_large",
            "it has resnet18, resnet34, resnet50, mobilenet_v2",
            "hint: export it with --layout timm",
        ],
    );
    desk.lgd("export --run mobile --layout timm --out out/mobile").ended(0, &[]);
    desk.lgd("export --run mobile --size 48 --input u8-nhwc --maps --f16 --batch 2 --out out/forms.onnx")
        .ended(0, &[])
        .printed(&["\"dtype\": \"u8\"", "48", "map_32"]);

    desk.lgd(&format!("{} labels --objective supervised", train("mobilenet_v2"))).ended(0, &[]);
    desk.lgd("export --run labels --layout huggingface --out out/hf").ended(0, &[]);
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(desk.path("out/hf/config.json")).unwrap()).unwrap();
    assert_eq!(config["id2label"]["9"], CLASSES[9]);
    assert!(desk.path("out/hf/preprocessor_config.json").exists());
    assert_eq!(student_head(&desk), ["classifier.bias", "classifier.weight"]);
}

/// Names in the file of a classifier for transformers that do not belong to its backbone.
fn student_head(desk: &Desk) -> Vec<String> {
    let bytes = fs::read(desk.path("out/hf/model.safetensors")).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    let mut names: Vec<String> =
        tensors.into_keys().filter(|name| !name.starts_with("mobilenet_v2.")).collect();
    names.sort();
    names
}
