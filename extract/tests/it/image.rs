//! The image encoder compared with the reference evaluator, and models that cannot be used.

use half::f16;
use half::slice::HalfFloatSliceExt;
use lgd_data::render::PixelLayout;
use lgd_extract::encoder::{EmbeddingFault, PixelBuffer, PixelType};
use lgd_extract::{EncoderOptions, ExtractError, ImageEncoder};

use crate::common::{assert_close, expected, image_teacher, pixels, runtime, unit};

fn open_with(model: &str, keys: &str, options: &EncoderOptions) -> Result<ImageEncoder, ExtractError> {
    image_teacher(model, keys)?.image_encoder(&runtime(), options)
}

fn open(model: &str, keys: &str) -> Result<ImageEncoder, ExtractError> {
    open_with(model, keys, &EncoderOptions { batch: Some(2), ..EncoderOptions::default() })
}

fn input(encoder: &ImageEncoder) -> PixelBuffer {
    let values = pixels(encoder.new_batch().len());
    match encoder.pixel_type() {
        PixelType::F32 => PixelBuffer::F32(values),
        PixelType::F16 => {
            let mut half = vec![f16::ZERO; values.len()];
            half.convert_from_f32_slice(&values);
            PixelBuffer::F16(half)
        }
        PixelType::U8 => {
            PixelBuffer::U8((0..values.len()).map(|at| u8::try_from(at % 251).unwrap()).collect())
        }
    }
}

/// Checks that both of the model's embeddings are the normalized `raw` rows, with their norms.
fn check(model: &str, keys: &str, raw: &[f32], tolerance: f32) -> ImageEncoder {
    let mut encoder = open(model, keys).unwrap();
    let embeddings = encoder.encode(&input(&encoder), 2).unwrap();
    let dim = raw.len() / 2;
    assert_eq!((embeddings.rows(), embeddings.dim(), encoder.dim()), (2, dim, dim));
    for (row, raw) in raw.chunks(dim).enumerate() {
        assert_close(embeddings.row(row), &unit(raw), tolerance);
        let norm = raw.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert_close(&[embeddings.norm(row)], &[norm], tolerance);
    }
    encoder
}

#[test]
fn a_plain_encoder_agrees_with_the_reference() {
    let encoder = check("linear", "", &expected("linear", "image_embeds"), 1e-5);
    assert_eq!((encoder.size(), encoder.layout(), encoder.output()), (8, PixelLayout::Nchw, "image_embeds"));
    assert!(encoder.warnings().is_empty());
}

#[test]
fn half_precision_models_take_and_give_halves() {
    let encoder = check("half", "", &expected("half", "image_embeds"), 2e-3);
    assert_eq!(encoder.pixel_type(), PixelType::F16);
}

#[test]
fn channels_last_models_are_recognized_by_their_shape() {
    let encoder = check("nhwc", "", &expected("nhwc", "image_embeds"), 1e-5);
    assert_eq!(encoder.layout(), PixelLayout::Nhwc);
}

#[test]
fn feature_maps_are_pooled_over_positions() {
    let map = expected("map", "feature_map");
    let means: Vec<f32> = map.chunks(4).map(|plane| plane.iter().sum::<f32>() / 4.0).collect();
    check("map", "pooling = 'gap'", &means, 1e-5);

    let map = expected("map_nhwc", "feature_map");
    let means: Vec<f32> = map
        .chunks(64 * 4)
        .flat_map(|image| {
            (0..4).map(|c| image.iter().skip(c).step_by(4).sum::<f32>() / 64.0).collect::<Vec<_>>()
        })
        .collect();
    check("map_nhwc", "pooling = 'gap'", &means, 1e-5);
}

#[test]
fn tokens_are_pooled_as_stated() {
    let tokens = expected("tokens", "last_hidden_state");
    let mean = |skip: usize| -> Vec<f32> {
        tokens
            .chunks(5 * 4)
            .flat_map(|image| {
                let kept = &image[skip * 4..];
                let count = f32::from(5 - u8::try_from(skip).unwrap());
                (0..4).map(|c| kept.iter().skip(c).step_by(4).sum::<f32>() / count).collect::<Vec<_>>()
            })
            .collect()
    };
    let key = "output = 'last_hidden_state'\n";
    check("tokens", &format!("{key}pooling = 'cls'"), &expected("tokens", "pooler_output"), 1e-5);
    check("tokens", &format!("{key}pooling = 'mean'\nprefix_tokens = 1"), &mean(1), 1e-5);
    let encoder = check("tokens", &format!("{key}pooling = 'mean'"), &mean(0), 1e-5);
    assert!(encoder.warnings()[0].contains("prefix_tokens"));
}

#[test]
fn the_pooler_of_a_clip_model_comes_with_a_warning() {
    let encoder = check("tokens", "", &expected("tokens", "pooler_output"), 1e-5);
    assert!(encoder.warnings()[0].contains("before the projection"), "{:?}", encoder.warnings());
}

#[test]
fn axes_of_one_element_need_no_pooling() {
    for model in ["one_token", "one_position"] {
        check(model, "", &expected("linear", "image_embeds"), 1e-5);
    }
}

#[test]
fn a_short_batch_gives_the_same_bytes_as_a_full_one() {
    let mut encoder = open("linear", "").unwrap();
    let mut pixels = input(&encoder);
    let full = encoder.encode(&pixels, 2).unwrap();
    pixels.clear_from(encoder.image_len());
    let short = encoder.encode(&pixels, 1).unwrap();
    assert_eq!((short.rows(), short.row(0)), (1, full.row(0)));
}

#[test]
fn bad_embeddings_are_found_row_by_row() {
    for (model, fault) in [("nan", EmbeddingFault::NotFinite), ("zero", EmbeddingFault::Zero)] {
        let mut encoder = open(model, "").unwrap();
        let half = encoder.image_len();
        let values = (0..2 * half).map(|i| if i < half { -1.0 } else { 1.0 }).collect();
        let embeddings = encoder.encode(&PixelBuffer::F32(values), 2).unwrap();
        assert_eq!((embeddings.fault(0), embeddings.fault(1)), (Some(fault), None));
    }
}

#[test]
fn the_batch_comes_from_the_model_where_it_is_fixed() {
    let default = EncoderOptions::default();
    assert_eq!(open_with("fixed_batch", "", &default).unwrap().batch(), 2);
    assert_eq!(open_with("linear", "", &default).unwrap().batch(), lgd_extract::encoder::CPU_BATCH);
}

#[test]
fn unusable_models_name_the_file_what_was_expected_and_what_is_there() {
    for (model, keys, parts) in [
        ("linear", "input = 'image'", ["input 'image'", "pixel_values: f32[?, 3, 8, 8]"]),
        ("linear", "output = 'features'", ["output 'features'", "image_embeds: f32[?, 4]"]),
        ("linear", "size = 16", ["16 x 16 px", "hint: set size = 8"]),
        ("linear", "layout = 'nhwc'", ["layout Nhwc", "f32[?, 3, 8, 8]"]),
        ("linear", "pooling = 'mean'", ["pooling = \"mean\"", "image_embeds: f32[?, 4]"]),
        ("free_size", "", ["fixed input size", "hint: set size"]),
        ("vague_outputs", "", ["a: f32[?, 3]", "b: f32[?, 3]"]),
        ("tokens", "output = 'last_hidden_state'", ["[N, D]", "hint: set pooling = \"cls\", or \"mean\""]),
        ("map", "", ["[N, D]", "pooling = \"gap\""]),
        (
            "tokens",
            "output = 'last_hidden_state'\npooling = 'mean'\nprefix_tokens = 5",
            ["prefix_tokens = 5", "[2, 5, 4]"],
        ),
        ("two_inputs", "", ["one input", "b: f32[?]"]),
        ("two_inputs", "input = 'a'", ["one input", "export the image encoder"]),
        ("integers_out", "", ["f32 or f16", "i64"]),
        ("rank_three", "", ["four axes", "f32[?, 3, 64]"]),
        ("four_channels", "", ["three channels", "f32[?, 4, 8, 8]"]),
        ("same", "", ["the same vector for different images from image_embeds", "hint: set [image] output"]),
        ("all_zero", "", ["zeros for every image", "hint: set [image] output"]),
        ("all_nan", "", ["not finite", "hint: set [image] output"]),
        ("linear", "prefix_tokens = 9", ["prefix_tokens = 9", "hint: remove prefix_tokens"]),
        ("absent", "", ["[image] model: there is no file", "hint: correct model in teacher.toml"]),
    ] {
        let text = open(model, keys).map(|_| ()).unwrap_err().to_string();
        for part in [&format!("{model}.onnx"), parts[0], parts[1]] {
            assert!(text.contains(part), "{model} {keys}: '{part}' is not in: {text}");
        }
    }
    let four = EncoderOptions { batch: Some(4), ..EncoderOptions::default() };
    let text = open_with("fixed_batch", "", &four).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("batches of 4") && text.contains("hint: use batch 2"), "{text}");
}

#[test]
fn a_file_that_is_no_model_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let model = std::fs::read(format!("{}/conv.onnx", crate::common::FIXTURES)).unwrap();
    let keys = "[image]\nsize = 8\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n";
    for bytes in [b"junk".as_slice(), &model[..model.len() / 2], b""] {
        std::fs::write(dir.path().join("image.onnx"), bytes).unwrap();
        std::fs::write(dir.path().join("teacher.toml"), keys).unwrap();
        let teacher = lgd_extract::Teacher::open(dir.path()).unwrap();
        let error = teacher.image_encoder(&runtime(), &EncoderOptions::default()).map(|_| ()).unwrap_err();
        assert!(matches!(error, ExtractError::ModelLoad { .. }), "{error}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_is_never_replaced_by_the_processor() {
    for device in ["cuda:0", "tensorrt:0"] {
        let options = EncoderOptions { device: device.parse().unwrap(), ..EncoderOptions::default() };
        let error = open_with("linear", "", &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, ExtractError::DeviceNotBuilt { .. }), "{error}");
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_gpu_that_is_absent_is_never_replaced_by_the_processor() {
    // The tests' library is the CPU build, which has no CUDA provider.
    let options = EncoderOptions { device: "cuda:0".parse().unwrap(), ..EncoderOptions::default() };
    let error = open_with("linear", "", &options).map(|_| ()).unwrap_err();
    assert!(matches!(error, ExtractError::DeviceUnavailable { .. }), "{error}");
}
