//! Image models as exporters write them: both encoders in one graph, bytes, axes that are free in name only, and outputs
//! whose meaning depends on the model's family.

use lgd_data::image::RgbImage;
use lgd_data::render::{Normalization, PixelLayout};
use lgd_extract::encoder::{PixelBuffer, PixelType};
use lgd_extract::teacher::Pooling;
use lgd_extract::{EncoderOptions, ExtractError, ImageEncoder, Teacher};
use tempfile::TempDir;

use crate::common::{FIXTURES, assert_close, expected, pixels, runtime, unit};

const PREPROCESSOR: &str = r#"{"do_resize": true, "size": {"height": 8, "width": 8}, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5], "image_processor_type": "ViTImageProcessor"}"#;

/// A folder with a model of `image_models` as model.onnx, a preprocessor and other files.
fn folder(model: &str, files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{FIXTURES}/image_models/{model}.onnx"), dir.path().join("model.onnx")).unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), PREPROCESSOR).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn open_batch(
    model: &str,
    files: &[(&str, &str)],
    batch: Option<usize>,
) -> Result<ImageEncoder, ExtractError> {
    let dir = folder(model, files);
    let options = EncoderOptions { batch, ..EncoderOptions::default() };
    Teacher::open(dir.path())?.image_encoder(&runtime(), &options)
}

fn open(model: &str, files: &[(&str, &str)]) -> Result<ImageEncoder, ExtractError> {
    open_batch(model, files, Some(2))
}

/// Checks the embeddings of the reference's two images, which are those of the model `linear`.
fn check(encoder: &mut ImageEncoder) {
    let raw = expected("linear", "image_embeds");
    let len = encoder.image_len();
    let mut images = pixels(2 * len);
    if encoder.layout() == PixelLayout::Nhwc {
        let planar = images.clone();
        for (at, value) in images.iter_mut().enumerate() {
            let (image, position, channel) = (at / len, at % len / 3, at % 3);
            *value = planar[image * len + channel * (len / 3) + position];
        }
    }
    for (first, raw) in raw.chunks(4).enumerate().step_by(encoder.batch().min(2)) {
        let mut batch = encoder.new_batch();
        let rows = encoder.batch().min(2);
        batch.copy_from(0, &PixelBuffer::F32(images.clone()), first * len, rows * len);
        let embeddings = encoder.encode(&batch, rows).unwrap();
        assert_close(embeddings.row(0), &unit(raw), 1e-5);
    }
}

#[test]
fn a_graph_with_both_encoders_encodes_images() {
    for model in ["both", "both_rows"] {
        let mut encoder = open(model, &[]).unwrap();
        assert_eq!((encoder.output(), encoder.dim()), ("image_embeds", 4));
        assert!(encoder.warnings().is_empty(), "{:?}", encoder.warnings());
        check(&mut encoder);
    }
    let dir = folder("both", &[]);
    let teacher = Teacher::open(dir.path()).unwrap();
    assert_eq!(teacher.image().unwrap().model, teacher.text().unwrap().model);
}

#[test]
fn an_output_of_the_image_model_is_no_text_embedding() {
    let toml = ("teacher.toml", "[text]\noutput = 'image_embeds'\ncontext_length = 8\n");
    let dir = folder("both", &[toml]);
    std::fs::copy(format!("{FIXTURES}/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let encoder = Teacher::open(dir.path()).unwrap().text_encoder(&runtime(), &EncoderOptions::default());
    let text = encoder.map(drop).unwrap_err().to_string();
    assert!(text.contains("the same vector for") && text.contains("from image_embeds"), "{text}");
}

#[test]
fn a_batch_that_is_free_in_name_only_is_found() {
    let mut encoder = open_batch("inner_batch", &[], None).unwrap();
    assert_eq!(encoder.batch(), 1);
    let warning = &encoder.warnings()[0];
    assert!(warning.contains("32 images fail inside the model, 1 do not"), "{warning}");
    check(&mut encoder);
    let text = open("inner_batch", &[]).map(drop).unwrap_err().to_string();
    assert!(text.contains("batches of 2") && text.contains("hint: use batch 1"), "{text}");
}

#[test]
fn a_layout_that_nothing_says_is_found() {
    let mut encoder = open("open_layout", &[]).unwrap();
    assert_eq!(encoder.layout(), PixelLayout::Nhwc);
    assert!(encoder.warnings()[0].contains("the model runs with Nhwc"), "{:?}", encoder.warnings());
    check(&mut encoder);
}

#[test]
fn bytes_are_passed_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{FIXTURES}/bytes_in.onnx"), dir.path().join("image.onnx")).unwrap();
    let options = EncoderOptions { batch: Some(1), ..EncoderOptions::default() };
    let mut encoder = Teacher::open(dir.path()).unwrap().image_encoder(&runtime(), &options).unwrap();
    assert_eq!(encoder.pixel_type(), PixelType::U8);
    // One color: the mean of a channel is its value.
    let image = RgbImage::new(8, 8, [10, 20, 200].repeat(64)).unwrap();
    let mut batch = encoder.new_batch();
    batch.normalize(0, &image, &Normalization::CLIP, encoder.layout(), &mut Vec::new()).unwrap();
    let PixelBuffer::U8(bytes) = &batch else { panic!("bytes") };
    assert_eq!((bytes[0], bytes[64], bytes[128]), (10, 20, 200));
    let embeddings = encoder.encode(&batch, 1).unwrap();
    assert!(embeddings.norm(0) > 10.0, "not divided by 255: {}", embeddings.norm(0));
}

#[test]
fn half_floats_of_the_other_kind_are_refused_with_the_way_out() {
    let text = open("halves_in", &[]).map(drop).unwrap_err().to_string();
    assert!(text.contains("bf16") && text.contains("hint:") && text.contains("f32 or f16"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(text.lines().count() <= 3 && !last.is_empty(), "{text}");
}

#[test]
fn the_family_decides_what_an_output_is() {
    let config = |family: &str| format!(r#"{{"model_type": "{family}"}}"#);
    let open = |model: &str, family: &str| {
        let config = config(family);
        open(model, &[("config.json", &config)]).unwrap()
    };
    for (model, family, output, pooling) in [
        ("hidden", "vit", "last_hidden_state", Pooling::Cls),
        ("hidden", "dinov2", "last_hidden_state", Pooling::Cls),
        ("hidden", "ijepa", "last_hidden_state", Pooling::Mean),
        ("pooled", "vit", "last_hidden_state", Pooling::Cls),
        ("pooled", "dinov2", "pooler_output", Pooling::None),
        ("pooled", "dinov3_vit", "pooler_output", Pooling::None),
        ("pooled", "siglip_vision_model", "pooler_output", Pooling::None),
        ("pooled", "siglip2", "pooler_output", Pooling::None),
    ] {
        let encoder = open(model, family);
        assert_eq!((encoder.output(), encoder.pooling()), (output, pooling), "{model} {family}");
        assert!(encoder.warnings().is_empty(), "{model} {family}: {:?}", encoder.warnings());
        let source = encoder.resolved().iter().find(|setting| setting.key == "pooling").unwrap().from.clone();
        assert!(source.contains(if pooling == Pooling::None { "[N, D]" } else { "config.json" }), "{source}");
    }
    let clip = open("pooled", "clip_vision_model");
    assert!(clip.warnings()[0].contains("before the projection"), "{:?}", clip.warnings());
}

#[test]
fn clips_pooler_is_refused_beside_a_text_model() {
    let dir = folder("pooled", &[("config.json", r#"{"model_type": "clip"}"#)]);
    std::fs::copy(format!("{FIXTURES}/clip_text.onnx"), dir.path().join("text_model.onnx")).unwrap();
    let open = || Teacher::open(dir.path())?.image_encoder(&runtime(), &EncoderOptions::default());
    let text = open().map(drop).unwrap_err().to_string();
    assert!(
        text.contains("image_embeds") && text.contains("hint: pooler_output comes before the projection"),
        "{text}"
    );
    std::fs::write(dir.path().join("teacher.toml"), "[image]\noutput = 'pooler_output'\n").unwrap();
    assert!(open().unwrap().warnings()[0].contains("cannot be compared with text"));
}

#[test]
fn class_scores_come_with_a_warning() {
    for (model, config, part) in [
        ("logits", r#"{"model_type": "vit"}"#, "logits are class scores"),
        (
            "output",
            r#"{"architecture": "resnet18", "num_classes": 4}"#,
            "output0 has 4 values, as many as the classifier",
        ),
        (
            "output",
            r#"{"model_type": "resnet", "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}"#,
            "class scores",
        ),
        ("probabilities", "{}", "output0 is the result of Softmax: class probabilities"),
        ("probabilities", r#"{"num_classes": 4}"#, "class probabilities"),
    ] {
        let encoder = open(model, &[("config.json", config)]).unwrap();
        let warning = &encoder.warnings()[0];
        assert!(warning.contains(part) && warning.contains("num_classes=0"), "{warning}");
        assert_eq!(encoder.warnings().len(), 1, "{:?}", encoder.warnings());
    }
    assert!(open("output", &[("config.json", r#"{"num_classes": 0}"#)]).unwrap().warnings().is_empty());
}

#[test]
fn every_setting_has_a_source() {
    let encoder = open(
        "hidden",
        &[
            ("config.json", r#"{"model_type": "vit"}"#),
            ("teacher.toml", "[image]\nstd = [0.25, 0.25, 0.25]\nmean = [0.5, 0.5, 0.5]\n"),
        ],
    );
    let encoder = encoder.unwrap();
    let found: Vec<(&str, String, &str)> = encoder
        .resolved()
        .iter()
        .map(|setting| (setting.key, setting.value.to_string(), setting.from.as_str()))
        .collect();
    let file = "preprocessor_config.json: ViTImageProcessor";
    for (key, value, from) in [
        ("model", "\"model.onnx\"", "found by its name and inputs"),
        ("size", "8", file),
        ("std", "[0.25, 0.25, 0.25]", "teacher.toml"),
        ("resample", "\"bilinear\"", file),
        ("resize_mode", "\"squash\"", file),
        ("resize", "8", file),
        ("layout", "\"nchw\"", "the model"),
        ("output", "\"last_hidden_state\"", "the only output"),
        ("pooling", "\"cls\"", "config.json: vit"),
    ] {
        assert!(
            found.contains(&(key, value.to_owned(), from)),
            "{key} = {value} ({from}) is not in {found:?}"
        );
    }
}

#[test]
fn missing_weights_and_pointers_are_named_before_onnx_runtime_is_asked() {
    let dir = folder("output", &[]);
    let model = dir.path().join("model.onnx");
    std::fs::write(&model, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    let open = || Teacher::open(dir.path())?.image_encoder(&runtime(), &EncoderOptions::default());
    let text = open().map(drop).unwrap_err().to_string();
    assert!(text.contains("git-lfs pointer") && text.contains("hint: run `git lfs pull` in"), "{text}");
    std::fs::write(&model, b"\x08\x09\x3a").unwrap();
    let text = open().map(drop).unwrap_err().to_string();
    assert!(text.contains("hint: the file is not a whole ONNX model") && text.lines().count() == 3, "{text}");
}
