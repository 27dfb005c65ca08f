//! Files of the real tools, with what the tools do with them (tests/processors), and files that cannot be followed.

use std::collections::BTreeMap;

use lgd_data::image::RgbImage;
use lgd_data::render::render;
use lgd_data::view::{CropRounding, ResizeMode, View};
use serde::Deserialize;

use super::*;

/// A case of tests/processors/make.py.
#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, Value>,
    size: u32,
    mean: [f32; 3],
    std: [f32; 3],
    /// Red at the left and the right, green at the top and the bottom.
    outer: [f32; 4],
}

fn read(files: &[(&str, &str)]) -> Result<Preprocessing, ExtractError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Preprocessing::read(dir.path())
}

fn hugging_face(json: &str) -> Preprocessing {
    read(&[("preprocessor_config.json", json)]).unwrap()
}

fn value<T>(found: Result<Option<Sourced<T>>, ExtractError>) -> Option<T> {
    found.unwrap().map(|found| found.value)
}

/// The image of make.py: its red channel is the column, its green channel the row, in 0..255.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
fn ramp() -> RgbImage {
    let (width, height) = (97_u32, 61_u32);
    let level = |at: u32, count: u32| (f64::from(at) * 255.0 / f64::from(count - 1)).round_ties_even() as u8;
    let pixels =
        (0..height).flat_map(|y| (0..width).flat_map(move |x| [level(x, width), level(y, height), 0]));
    RgbImage::new(width, height, pixels.collect()).unwrap()
}

#[test]
fn the_real_tools_do_with_their_files_what_is_read_from_them() {
    let image = ramp();
    let cases = [
        include_str!("../../../tests/processors/processors-4.json"),
        include_str!("../../../tests/processors/processors-5.json"),
    ];
    let cases = cases.iter().flat_map(|text| serde_json::from_str::<Vec<Case>>(text).unwrap());
    let mut count = 0;
    for Case { name, files, size, mean, std, outer } in cases {
        let files: Vec<(String, String)> =
            files.into_iter().map(|(name, json)| (name, json.to_string())).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
        let found = read(&files).unwrap();
        assert_eq!(value(found.size()), Some(size), "{name}");
        let normalization = value(found.normalization()).unwrap();
        let pairs = normalization.mean.iter().chain(&normalization.std).zip(mean.iter().chain(&std));
        for (got, expected) in pairs {
            assert!((got - expected).abs() < 2e-5, "{name}: {normalization:?}, expected {mean:?}, {std:?}");
        }
        let (center, resample) = (value(found.center()).unwrap(), value(found.resample()).unwrap());
        let shown = render(&image, &View::of_center(center), size, resample).unwrap();
        let (side, middle) = (usize::try_from(size).unwrap(), usize::try_from(size).unwrap() / 2);
        let at = |x: usize, y: usize, channel: usize| f32::from(shown.pixels()[(y * side + x) * 3 + channel]);
        let got = [at(0, middle, 0), at(side - 1, middle, 0), at(middle, 0, 1), at(middle, side - 1, 1)];
        for (got_level, expected) in got.iter().zip(outer) {
            assert!(
                (got_level - expected).abs() <= 1.5,
                "{name}: {center} shows {got:?}, expected {outer:?}"
            );
        }
        count += 1;
    }
    assert!(count > 90, "{count} cases");
}

#[test]
fn a_processor_of_transformers_5_is_nested() {
    let nested = r#"{"processor_class": "CLIPProcessor", "image_processor": {"image_processor_type": "CLIPImageProcessorFast",
        "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 3}}"#;
    let found = read(&[("processor_config.json", nested)]).unwrap();
    let center = found.center().unwrap().unwrap();
    assert_eq!(center.source, "processor_config.json: CLIPImageProcessorFast");
    assert_eq!(center.value, CenterCrop::of_lengths(32, 40, ResizeMode::Shortest, CropRounding::Floor));
    assert_eq!(value(found.normalization()), Some(Normalization::CLIP), "the class's own");
    let older = read(&[("processor_config.json", r#"{"processor_class": "CLIPProcessor"}"#)]).unwrap();
    assert!(older.size().unwrap().is_none());
}

#[test]
fn a_file_without_a_class_takes_that_of_the_model_type_or_says_what_it_assumed() {
    let plain = ("preprocessor_config.json", r#"{"size": 40, "crop_size": 32, "do_center_crop": true}"#);
    let center = |files: &[(&str, &str)]| read(files).unwrap().center().unwrap().unwrap();
    let vit = center(&[plain, ("config.json", r#"{"model_type": "deit"}"#)]);
    assert_eq!(
        (vit.value.resize, vit.source.as_str()),
        (ResizeMode::Squash, "preprocessor_config.json: DeiTImageProcessor")
    );
    let unknown = center(&[plain]);
    assert_eq!(unknown.value.resize, ResizeMode::Shortest);
    assert!(unknown.source.contains("assumed: no class is named"), "{}", unknown.source);
    let foreign = center(&[(
        "preprocessor_config.json",
        r#"{"image_processor_type": "FooImageProcessor", "size": {"height": 32, "width": 32}}"#,
    )]);
    assert!(foreign.source.contains("FooImageProcessor; assumed: an unknown class"), "{}", foreign.source);
    let wrapped = r#"{"image_processor_type": "JinaCLIPImageProcessor", "size": 32, "resize_mode": "squash", "interpolation": "bicubic"}"#;
    let wrapped = center(&[("preprocessor_config.json", wrapped)]);
    assert_eq!(wrapped.value, CenterCrop::of_lengths(1, 1, ResizeMode::Squash, CropRounding::HalfEven));
}

#[test]
fn geometry_that_cannot_be_followed_is_refused_by_name() {
    let size = r#""size": {"height": 32, "width": 32}"#;
    for (json, part) in [
        (
            format!(r#"{{"image_processor_type": "Siglip2ImageProcessorFast", {size}}}"#),
            "Siglip2ImageProcessorFast resizes to a number of patches",
        ),
        (
            format!(r#"{{"image_processor_type": "PerceiverImageProcessor", {size}}}"#),
            "crops before it resizes",
        ),
        (format!(r#"{{"do_pad": true, {size}}}"#), "do_pad = true"),
        (format!(r#"{{"do_image_splitting": true, {size}}}"#), "do_image_splitting"),
        (format!(r#"{{"crop_to_patches": true, {size}}}"#), "cuts an image into tiles"),
        (format!(r#"{{"size_divisor": 32, {size}}}"#), "size_divisor = 32"),
        (format!(r#"{{"keep_aspect_ratio": true, {size}}}"#), "keeps the aspect ratio"),
        (format!(r#"{{"ensure_multiple_of": 14, {size}}}"#), "ensure_multiple_of = 14 changes the size 32"),
        (r#"{"size": {"longest_edge": 32}}"#.to_owned(), "longest_edge"),
        (
            r#"{"size": {"shortest_edge": 32, "longest_edge": 64}, "crop_size": 32}"#.to_owned(),
            "shortest_edge alone",
        ),
        (r#"{"size": {"max_height": 32, "max_width": 32}}"#.to_owned(), "max_height"),
        (r#"{"size": {"height": 32, "width": 48}}"#.to_owned(), "equal height and width"),
        (r#"{"size": {"shortest_edge": 32}}"#.to_owned(), "without a crop keeps the aspect ratio"),
        (
            r#"{"do_resize": false, "do_center_crop": true, "crop_size": 32}"#.to_owned(),
            "do_center_crop without do_resize",
        ),
        (
            r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"height": 32, "width": 32}}"#
                .to_owned(),
            "takes shortest_edge only",
        ),
        (
            r#"{"image_processor_type": "ConvNextImageProcessor", "size": 32, "crop_pct": 1.5}"#.to_owned(),
            "crop_pct = 1.5",
        ),
        (
            r#"{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}"#.to_owned(),
            "crop_size is not here",
        ),
        (
            r#"{"image_processor_type": "CLIPImageProcessor"}"#.to_owned(),
            "the defaults of CLIPImageProcessor may not be this model's",
        ),
    ] {
        let text = hugging_face(&json).center().unwrap_err().to_string();
        assert!(
            text.contains(part) && text.contains("hint: set in teacher.toml what to do instead"),
            "{json}: {text}"
        );
    }
    let timm = |settings: &str| {
        let json = format!(
            r#"{{"architecture": "resnet18", "pretrained_cfg": {{"input_size": [3, 32, 32], {settings}}}}}"#
        );
        read(&[("config.json", &json)]).unwrap()
    };
    assert!(
        timm(r#""crop_mode": "border""#).center().unwrap_err().to_string().contains("crop_mode 'border'")
    );
    assert!(timm(r#""interpolation": "hamming""#).resample().unwrap_err().to_string().contains("hamming"));
    let open_clip = r#"{"preprocess_cfg": {"resize_mode": "longest", "fill_color": 127}}"#;
    let found = read(&[("open_clip_config.json", open_clip)]).unwrap();
    assert!(found.center().unwrap_err().to_string().contains("fill_color = 127"));
}

#[test]
fn steps_that_are_turned_off_do_not_count() {
    let null = r#"{"do_resize": true, "size": {"height": 224, "width": 224}, "resample": 2, "do_center_crop": null,
        "crop_size": null, "do_pad": null, "pad_size": null, "image_mean": null, "image_std": null}"#;
    let found = hugging_face(null);
    assert_eq!((value(found.size()), value(found.normalization())), (Some(224), None));
    assert_eq!(value(found.center()).unwrap().resize, ResizeMode::Squash);

    let radio = hugging_face(
        r#"{"do_resize": false, "size": 224, "do_normalize": false, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "do_center_crop": false, "crop_size": 512}"#,
    );
    assert_eq!(value(radio.size()), None);
    let center = radio.center().unwrap().unwrap();
    assert_eq!(center.value, CenterCrop::default());
    assert!(center.source.contains("assumed 0.875: do_resize = false"), "{}", center.source);
    assert_eq!(value(radio.normalization()), Some(Normalization { mean: [0.0; 3], std: [1.0; 3] }));

    let bytes = hugging_face(
        r#"{"do_rescale": false, "image_mean": [127.5, 127.5, 127.5], "image_std": [255.0, 255.0, 255.0]}"#,
    );
    assert_eq!(value(bytes.normalization()), Some(Normalization { mean: [0.5; 3], std: [1.0; 3] }));
}

#[test]
fn pillow_codes_are_not_in_order_of_quality() {
    use Resample::{Bicubic, Bilinear, Lanczos, Nearest};
    for (code, filter) in [(0, Nearest), (1, Lanczos), (2, Bilinear), (3, Bicubic)] {
        assert_eq!(value(hugging_face(&format!("{{\"resample\": {code}}}")).resample()), Some(filter));
    }
    assert!(hugging_face("{\"resample\": 5}").resample().is_err());
}

#[test]
fn resampling_filters_are_read_by_every_name_that_tools_write() {
    use Resample::{Bicubic, Bilinear, Lanczos, Nearest};
    for (name, filter) in [
        ("\"bicubic\"", Bicubic),
        ("\"BICUBIC\"", Bicubic),
        ("\"PIL.Image.BICUBIC\"", Bicubic),
        ("\"Resampling.BILINEAR\"", Bilinear),
        ("\"InterpolationMode.NEAREST_EXACT\"", Nearest),
        ("\"nearest-exact\"", Nearest),
        ("\"PIL.Image.Resampling.LANCZOS\"", Lanczos),
        ("\"3\"", Bicubic),
        ("3.0", Bicubic),
    ] {
        let found = hugging_face(&format!("{{\"resample\": {name}}}"));
        assert_eq!(value(found.resample()), Some(filter), "{name}");
    }
    for name in ["\"box\"", "\"PIL.Image.HAMMING\"", "4", "[3]"] {
        let text = hugging_face(&format!("{{\"resample\": {name}}}")).resample().unwrap_err().to_string();
        assert!(text.contains(name.trim_matches('"')) && text.contains("hint: set resample in"), "{text}");
    }
}

#[test]
fn values_of_bytes_are_refused_unless_the_file_leaves_pixels_in_bytes() {
    let imagenet = r#""image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]"#;
    let text = hugging_face(&format!("{{{imagenet}}}")).normalization().unwrap_err().to_string();
    for part in [
        "preprocessor_config.json",
        "rescale_factor = 0.00392",
        "hint: if they are of bytes",
        "set mean = [0.485, 0.456, 0.406] and std = [0.229, 0.224, 0.225] in teacher.toml",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    for scaling in [r#""do_rescale": false"#, r#""rescale_factor": 1.0"#] {
        let found = value(hugging_face(&format!("{{{scaling}, {imagenet}}}")).normalization()).unwrap();
        let expected = Normalization::IMAGENET;
        let pairs = found.mean.iter().chain(&found.std).zip(expected.mean.iter().chain(&expected.std));
        assert!(pairs.into_iter().all(|(got, expected)| (got - expected).abs() < 1e-6), "{found:?}");
    }
    let timm = r#"{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375]}}"#;
    let open_clip = r#"{"preprocess_cfg": {"mean": [122, 116, 104], "std": [68, 66, 70]}}"#;
    for (name, json, scaling) in
        [("config.json", timm, "timm scales"), ("open_clip_config.json", open_clip, "open_clip scales")]
    {
        let text = read(&[(name, json)]).unwrap().normalization().unwrap_err().to_string();
        assert!(text.contains(name) && text.contains(scaling), "{text}");
    }
}

#[test]
fn files_that_disagree_are_named_and_a_rounding_is_no_disagreement() {
    let clip = (
        "preprocessor_config.json",
        r#"{"image_processor_type": "CLIPImageProcessor", "crop_size": 224, "size": {"shortest_edge": 224}}"#,
    );
    let open_clip = |size: u32, mode: &str| {
        format!(
            r#"{{"model_cfg": {{"vision_cfg": {{"image_size": {size}}}}}, "preprocess_cfg": {{"resize_mode": "{mode}"}}}}"#
        )
    };
    let both = |other: &str| read(&[clip, ("open_clip_config.json", other)]).unwrap();
    let text = both(&open_clip(240, "shortest")).size().unwrap_err().to_string();
    for part in [
        "open_clip_config.json",
        "240",
        "preprocessor_config.json",
        "224",
        "hint: decide in teacher.toml: set size",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let agreed = both(&open_clip(224, "shortest")).center().unwrap().unwrap();
    assert_eq!(
        (agreed.value.rounding, agreed.source.as_str()),
        (CropRounding::Floor, "preprocessor_config.json: CLIPImageProcessor")
    );
    assert!(both(&open_clip(224, "squash")).center().is_err());
}

#[test]
fn odd_values_are_refused_when_they_are_asked_for_and_broken_files_at_once() {
    let hint = |error: ExtractError| error.to_string().lines().last().unwrap().to_owned();
    for size in [r#"{"height": 224, "width": 336}"#, r#"{"longest_edge": 224}"#, "[224]", "\"224\""] {
        let found = hugging_face(&format!("{{\"size\": {size}}}"));
        assert_eq!(hint(found.size().unwrap_err()), "hint: set size in teacher.toml", "{size}");
        assert!(found.resample().unwrap().is_none() && found.normalization().unwrap().is_none());
    }
    let found = hugging_face(r#"{"image_mean": [0.5, 0.5], "image_std": [1, 1, 1], "resample": 4}"#);
    assert_eq!(hint(found.normalization().unwrap_err()), "hint: set mean and std in teacher.toml");
    assert_eq!(hint(found.resample().unwrap_err()), "hint: set resample in teacher.toml");
    assert!(read(&[("preprocessor_config.json", "{")]).is_err());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n";
    let text = read(&[("preprocessor_config.json", pointer)]).unwrap_err().to_string();
    assert!(text.contains("a git-lfs pointer") && text.contains("hint: run `git lfs pull`"), "{text}");
}

#[test]
fn a_model_of_bgr_is_refused() {
    for (json, refused) in [
        (r#"{"do_flip_channel_order": true}"#, true),
        (r#"{"do_flip_channel_order": false}"#, false),
        (r#"{"image_processor_type": "MobileViTImageProcessor"}"#, true),
        ("{}", false),
    ] {
        assert_eq!(hugging_face(json).require_rgb().is_err(), refused, "{json}");
    }
    assert!(Preprocessing::default().require_rgb().is_ok());
}
