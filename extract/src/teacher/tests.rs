use lgd_data::render::Resample;
use lgd_data::view::{CenterCrop, CropRounding, ResizeMode};

use super::onnx::tests::{Takes, model, model_that_takes};
use super::*;

const MINIMAL: &str = "[image]\nsize = 32\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n";

fn open(files: &[(&str, &str)]) -> Result<Teacher, ExtractError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Teacher::open(dir.path())
}

/// The error of opening the teacher or resolving its image settings.
fn message(files: &[(&str, &str)]) -> String {
    open(files).and_then(|teacher| teacher.image().map(drop)).unwrap_err().to_string()
}

#[test]
fn a_minimal_teacher_opens_without_any_model_file() {
    let teacher = open(&[(TEACHER_TOML, &format!("name = 'tiny'\n{MINIMAL}"))]).unwrap();
    let image = teacher.image().unwrap();
    assert_eq!(teacher.name(), "tiny");
    assert_eq!((image.size, image.resample, image.prefix_tokens), (Some(32), Resample::Bicubic, None));
    assert!(image.model.ends_with("image.onnx"));
    assert!(
        teacher
            .text()
            .unwrap_err()
            .to_string()
            .contains("teacher.toml has no [text], and there is no text model")
    );
}

#[test]
fn prefix_tokens_go_with_tokens_whatever_the_pooling() {
    let toml = format!("{MINIMAL}pooling = 'cls'\nprefix_tokens = 5\ntokens = 'patches'\nfeatures = 'f'\n");
    let teacher = open(&[(TEACHER_TOML, &toml)]).unwrap();
    let image = teacher.image().unwrap();
    assert_eq!(
        (image.prefix_tokens, image.tokens.as_deref(), image.features.as_deref()),
        (Some(5), Some("patches"), Some("f"))
    );
}

#[test]
fn an_absent_description_says_what_a_teacher_is() {
    let text = message(&[]);
    assert!(text.contains("teacher.toml") && text.contains("hint: a teacher is a folder"), "{text}");
}

#[test]
fn unknown_keys_and_wrong_values_name_the_file() {
    for (toml, part) in [
        (format!("{MINIMAL}color = 1\n"), "color"),
        (format!("{MINIMAL}resample = 'cubic'\n"), "resample"),
        (format!("{MINIMAL}pooling = 'max'\n"), "pooling"),
        (format!("{MINIMAL}normalize = false\n"), "normalize"),
        (format!("{MINIMAL}pooling = 'cls'\nprefix_tokens = 5\n"), "prefix_tokens"),
        (format!("{MINIMAL}token_grid = [2, 2]\n"), "token_grid has no effect without tokens"),
        (format!("{MINIMAL}tokens = 't'\ntoken_grid = [2, 0]\n"), "token_grid"),
        (format!("{MINIMAL}tokens = 't'\ntoken_grid = [4]\n"), "token_grid"),
        (MINIMAL.replace("size = 32", "size = 0"), "size = 0"),
        (format!("{MINIMAL}center_fraction = 0.0\n"), "center_fraction = 0: expected above 0, at most 1"),
        (format!("{MINIMAL}center_fraction = 1.5\n"), "center_fraction = 1.5"),
        (format!("{MINIMAL}center_fraction = nan\n"), "center_fraction = NaN"),
        (MINIMAL.replace("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.0, 0.5]"), "std above 0"),
        (MINIMAL.replace("std = [0.5, 0.5, 0.5]", ""), "mean is set without std"),
        (
            MINIMAL.replace("mean = [0.5, 0.5, 0.5]", "mean = [123.7, 116.3, 103.5]"),
            "divide values of bytes by 255",
        ),
        ("[image]\nsize = 32\n".to_owned(), "CLIP: mean"),
        ("[text]\npooling = 'gap'\n".to_owned(), "gap"),
        (format!("{MINIMAL}center_fraction = 0.9\nresize = 36\n"), "expected one of them"),
        (format!("{MINIMAL}resize = 0\n"), "resize: expected 1 to 4096 pixels"),
        (format!("{MINIMAL}resize_mode = 'crop'\n"), "resize_mode"),
        (
            MINIMAL.replace("size = 32", "resize = 36"),
            "resize is set, but the size of the input is not known",
        ),
        ("[image\n".to_owned(), "TOML parse error"),
    ] {
        let text = message(&[(TEACHER_TOML, &toml)]);
        assert!(text.contains(TEACHER_TOML) && text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn teacher_toml_decides_over_files_that_disagree() {
    let files = [
        ("preprocessor_config.json", r#"{"size": 224}"#),
        ("open_clip_config.json", r#"{"model_cfg": {"vision_cfg": {"image_size": 240}}}"#),
        (TEACHER_TOML, MINIMAL),
    ];
    assert_eq!(open(&files).unwrap().image().unwrap().size, Some(32));
    let undecided = MINIMAL.replace("size = 32\n", "");
    let text = message(&[files[0], files[1], (TEACHER_TOML, &undecided)]);
    assert!(text.contains("240") && text.contains("224"), "{text}");
}

#[test]
fn odd_defaults_do_not_matter_where_teacher_toml_decides_or_no_image_is_encoded() {
    let odd = r#"{"size": {"longest_edge": 224}, "resample": 4, "image_mean": "mean", "image_std": 1}"#;
    let full = format!("{MINIMAL}resample = 'bilinear'\nresize_mode = 'squash'\n[text]\n");
    let files = [("preprocessor_config.json", odd), (TEACHER_TOML, full.as_str())];
    let image = open(&files).unwrap().image().unwrap();
    assert_eq!((image.size, image.resample), (Some(32), Resample::Bilinear));
    let teacher = open(&[files[0], (TEACHER_TOML, "[image]\n[text]\nmodel = 'text.onnx'\n")]).unwrap();
    assert!(teacher.text().is_ok());
    assert!(teacher.image().unwrap_err().to_string().contains("hint: set size in teacher.toml"));
    let undecided = (TEACHER_TOML, full.replace("resize_mode = 'squash'\n", ""));
    let text = message(&[files[0], (undecided.0, undecided.1.as_str())]);
    assert!(text.contains("longest_edge") && text.contains("resize_mode = \"shortest\""), "{text}");
    let bgr = ("preprocessor_config.json", r#"{"do_flip_channel_order": true}"#);
    assert!(message(&[bgr, (TEACHER_TOML, MINIMAL)]).contains("takes BGR\nhint: export"));
}

#[test]
fn the_center_crops_share_comes_from_teacher_toml_or_the_files_beside_it() {
    let clip = ("preprocessor_config.json", r#"{"crop_size": 224, "size": {"shortest_edge": 256}}"#);
    let fraction =
        |files: &[(&str, &str)]| open(files).unwrap().image().unwrap().center.map(|crop| crop.fraction);
    let decided = format!("{MINIMAL}center_fraction = 0.5\n");
    assert_eq!(fraction(&[(TEACHER_TOML, MINIMAL)]), None);
    assert_eq!(fraction(&[clip, (TEACHER_TOML, MINIMAL)]), Some(0.875));
    assert_eq!(fraction(&[clip, (TEACHER_TOML, &decided)]), Some(0.5));
    let open_clip = ("open_clip_config.json", r#"{"preprocess_cfg": {}}"#);
    assert!(
        message(&[clip, open_clip, (TEACHER_TOML, MINIMAL)])
            .contains("hint: decide in teacher.toml: set resize_mode and resize")
    );
    assert_eq!(fraction(&[clip, open_clip, (TEACHER_TOML, &decided)]), Some(0.5));
}

#[test]
fn what_teacher_toml_leaves_open_of_the_geometry_is_as_in_the_files() {
    let clip = ("preprocessor_config.json", r#"{"crop_size": 32, "size": {"shortest_edge": 40}}"#);
    let naflex =
        ("preprocessor_config.json", r#"{"image_processor_type": "Siglip2ImageProcessor", "size": 32}"#);
    let center = |file, keys: &str| {
        let toml = format!("{MINIMAL}{keys}\n");
        open(&[file, (TEACHER_TOML, &toml)]).unwrap().image().unwrap().center.unwrap()
    };
    let crop = |resized, resize, offset| CenterCrop::of_lengths(32, resized, resize, offset);
    use CropRounding::{Floor, HalfEven};
    use ResizeMode::{Longest, Shortest, Squash};
    for (file, keys, expected) in [
        (clip, "", crop(40, Shortest, Floor)),
        (clip, "resize_mode = 'squash'", crop(40, Squash, Floor)),
        (clip, "resize = 36", crop(36, Shortest, Floor)),
        (clip, "resize_mode = 'longest'\nresize = 32", crop(32, Longest, Floor)),
        (clip, "center_fraction = 0.5", crop(64, Shortest, Floor)),
        (naflex, "resize_mode = 'squash'", crop(32, Squash, HalfEven)),
        (naflex, "resize = 36", crop(36, Shortest, HalfEven)),
    ] {
        assert_eq!(center(file, keys), expected, "{keys}");
    }
    let text = message(&[naflex, (TEACHER_TOML, MINIMAL)]);
    assert!(text.contains("Siglip2ImageProcessor resizes to a number of patches"), "{text}");
}

#[test]
fn a_folder_without_teacher_toml_is_a_teacher_if_it_has_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("model.onnx", &model_that_takes(Takes::Both));
    write("model_quantized.onnx", &model_that_takes(Takes::Both));
    write("config.json", br#"{"model_type": "clip", "vision_config": {"model_type": "clip_vision_model"}}"#);
    let teacher = Teacher::open(dir.path()).unwrap();
    assert_eq!(teacher.unused_models(), [PathBuf::from("model_quantized.onnx")]);
    let text = teacher.image().unwrap_err().to_string();
    assert!(text.contains("mean and std are not known") && text.contains("CLIP: mean"), "{text}");
    write(
        "preprocessor_config.json",
        br#"{"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32}"#,
    );
    let image = Teacher::open(dir.path()).unwrap().image().unwrap();
    assert_eq!(
        (image.size, image.known.family.as_deref(), image.known.beside_text),
        (Some(32), Some("clip"), true)
    );
    assert_eq!(image.center_source.as_deref(), Some("preprocessor_config.json: CLIPImageProcessor"));
    let keys: Vec<&str> = image.resolved.iter().map(|setting| setting.key).collect();
    assert_eq!(keys, ["model", "size", "mean", "std", "resample"]);

    std::fs::remove_file(dir.path().join("model.onnx")).unwrap();
    let text = Teacher::open(dir.path()).unwrap_err().to_string();
    assert!(text.contains("no teacher.toml and no model") && text.contains("model_quantized.onnx"), "{text}");
    write(TEACHER_TOML, b"[text]\n");
    let text = Teacher::open(dir.path()).unwrap().image().unwrap_err().to_string();
    assert!(
        text.contains("there is no image model: looked for") && text.contains("model_quantized.onnx"),
        "{text}"
    );
}

#[test]
fn a_text_section_without_a_text_model_says_what_was_looked_for() {
    let toml = format!("{MINIMAL}[text]\n");
    let error = open(&[(TEACHER_TOML, &toml)]).unwrap().text_hash().unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ExtractError::NoModel { encoder: "text", .. }), "{text}");
    assert!(text.contains("names no model, and there is no text model: looked for text.onnx"), "{text}");
}

#[test]
fn a_model_that_teacher_toml_names_and_is_not_there_is_named_with_those_that_are() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("image.onnx", &model_that_takes(Takes::Pixels));
    write("text_model.onnx", &model_that_takes(Takes::Tokens));
    for (section, part) in
        [("text", "[text] model: there is no file"), ("image", "[image] model: there is no file")]
    {
        write(TEACHER_TOML, format!("{MINIMAL}[{section}]\nmodel = 'absent.onnx'\n").as_bytes());
        if section == "image" {
            write(TEACHER_TOML, format!("{MINIMAL}model = 'absent.onnx'\n").as_bytes());
        }
        let teacher = Teacher::open(dir.path()).unwrap();
        let error = if section == "text" { teacher.text_hash() } else { teacher.image_hash() };
        let text = error.unwrap_err().to_string();
        for expected in
            [part, "absent.onnx", "the folder has image.onnx, text_model.onnx", "hint: correct model in"]
        {
            assert!(text.contains(expected), "{expected} is not in: {text}");
        }
    }
}

#[test]
fn a_folder_of_weights_alone_says_how_to_export_them() {
    for (weights, hint) in [
        ("model.safetensors", "hint: export them: optimum-cli export onnx --model"),
        ("pytorch_model.bin", "hint: export them: optimum-cli export onnx --model"),
        ("open_clip_pytorch_model.bin", "hint: export them to ONNX with open_clip.create_model"),
    ] {
        let text = message(&[(weights, ""), ("config.json", r#"{"model_type": "siglip"}"#)]);
        assert!(text.contains(weights) && text.contains("were not exported to ONNX"), "{text}");
        assert!(text.contains(hint), "{text}");
    }
}

#[test]
fn a_repository_in_the_hubs_cache_is_opened_at_its_only_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("models--facebook--dinov2-small");
    let snapshot = repository.join("snapshots/ed25f3");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join("model.onnx"), model_that_takes(Takes::Pixels)).unwrap();
    let teacher = Teacher::open(&repository).unwrap();
    assert_eq!((teacher.name(), teacher.dir()), ("dinov2-small", snapshot.as_path()));
    assert!(teacher.notes()[0].contains("snapshots/ed25f3"), "{:?}", teacher.notes());
    let text = Teacher::open(&snapshot.join("model.onnx")).unwrap_err().to_string();
    assert!(text.contains("this is a file") && text.contains("hint: give its folder"), "{text}");
}

#[test]
fn models_in_a_subfolder_alone_point_to_the_files_above() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("onnx");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("model.onnx"), model_that_takes(Takes::Pixels)).unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), "{}").unwrap();
    let text = Teacher::open(&below).unwrap().image().unwrap_err().to_string();
    assert!(
        text.contains("hint: give the folder above") && text.contains("preprocessor_config.json"),
        "{text}"
    );
}

#[test]
fn a_model_of_color_clusters_is_refused_by_its_name() {
    for files in [
        vec![(
            "preprocessor_config.json",
            r#"{"image_processor_type": "ImageGPTImageProcessor", "size": 32}"#,
        )],
        vec![("preprocessor_config.json", r#"{"clusters": [[0, 0, 0]]}"#)],
        vec![
            ("preprocessor_config.json", r#"{"size": 32}"#),
            ("config.json", r#"{"model_type": "imagegpt"}"#),
        ],
    ] {
        for takes in [Takes::Pixels, Takes::Tokens] {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in &files {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            std::fs::write(dir.path().join("model.onnx"), model_that_takes(takes)).unwrap();
            let error = Teacher::open(dir.path()).and_then(|teacher| teacher.image());
            let text = error.unwrap_err().to_string();
            assert!(
                text.contains("ImageGPT") && text.contains("replaces colors by numbers of clusters"),
                "{text}"
            );
            assert!(text.contains("\nhint: use another teacher"), "{text}");
        }
    }
}

#[test]
fn a_file_that_keeps_pixels_in_bytes_is_followed_with_a_note() {
    let normalization = |mean: f32, std: f32| {
        let json = format!(
            r#"{{"image_processor_type": "ViTImageProcessor", "size": 32, "do_rescale": false,
                "image_mean": [{mean}, {mean}, {mean}], "image_std": [{std}, {std}, {std}]}}"#
        );
        let image = open(&[("preprocessor_config.json", &json), (TEACHER_TOML, "[image]\n")])
            .unwrap()
            .image()
            .unwrap();
        (image.normalization.std[0] * 255.0, image.notes)
    };
    let (std, notes) = normalization(0.5, 0.5);
    assert!((std - 0.5).abs() < 1e-6, "{std}");
    assert!(
        notes[0].contains("the model gets values up to 509\nhint: if it takes pixels in 0..1"),
        "{notes:?}"
    );
    for (mean, std) in [(127.5, 127.5), (123.68, 1.0), (0.0, 255.0)] {
        assert!(normalization(mean, std).1.is_empty(), "{mean}, {std}");
    }
}

#[test]
fn a_model_of_bytes_needs_no_normalization() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("image.onnx", &model_that_takes(Takes::Bytes));
    let image = Teacher::open(dir.path()).unwrap().image().unwrap();
    assert!(image.notes.is_empty() && image.normalization.mean == [0.0; 3]);
    write(TEACHER_TOML, MINIMAL.as_bytes());
    let image = Teacher::open(dir.path()).unwrap().image().unwrap();
    assert!(
        image.notes[0].contains("takes bytes (u8), 0..255, so mean and std have no effect"),
        "{:?}",
        image.notes
    );
}

#[test]
fn hashes_follow_content_and_keep_to_their_own_model() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let hashes = || {
        let teacher = Teacher::open(dir.path()).unwrap();
        (teacher.image_hash().unwrap(), teacher.text_hash().unwrap())
    };
    write(TEACHER_TOML, &format!("{MINIMAL}[text]\ncontext_length = 8\n"));
    for (name, text) in [("image.onnx", "image"), ("text.onnx", "text"), ("tokenizer.json", "{}")] {
        write(name, text);
    }
    let (image, text) = hashes();

    write("image.onnx.data", "weights");
    let (with_weights, unchanged) = hashes();
    assert!(with_weights != image && unchanged == text);
    write("tokenizer.json", "{ }");
    write(TEACHER_TOML, &format!("{MINIMAL}[text]\ncontext_length = 9\n"));
    assert_eq!(hashes(), (with_weights, text), "how prompts are fed is no matter of the space");
    write("text.onnx", "another");
    assert!(hashes().1 != text);

    std::fs::remove_file(dir.path().join("image.onnx")).unwrap();
    let teacher = Teacher::open(dir.path()).unwrap();
    assert!(teacher.text_hash().is_ok() && teacher.image_hash().is_err());
}

#[test]
fn weights_count_wherever_the_model_names_them_and_hashes_of_before_stay() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let hash = || Teacher::open(dir.path()).unwrap().image_hash().unwrap();
    let of = |files: &[&[u8]]| {
        let mut hasher = blake3::Hasher::new();
        for bytes in files {
            hasher.update(ContentHash::of(bytes).as_bytes());
        }
        ContentHash::from(hasher.finalize())
    };
    write(TEACHER_TOML, MINIMAL.as_bytes());
    let model_file = model("image.onnx.data");
    write("image.onnx", &model_file);
    write("image.onnx.data", b"found by its name");
    assert_eq!(hash(), of(&[&model_file, b"found by its name"]));

    let model_file = model("weights/all.bin");
    write("image.onnx", &model_file);
    assert_eq!(hash(), of(&[&model_file, b"found by its name"]), "the file that it names is not there");
    std::fs::create_dir(dir.path().join("weights")).unwrap();
    write("weights/all.bin", b"named by the model");
    assert_eq!(hash(), of(&[&model_file, b"found by its name", b"named by the model"]));
}

#[test]
fn caches_of_before_know_the_text_encoder_by_its_spelled_settings() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let former = || Teacher::open(dir.path()).unwrap().former_text_hash().unwrap();
    write("text.onnx", "text");
    write(TEACHER_TOML, "[text]\noutput = 'text_embeds'\npooling = 'mean'\npadding = 'fixed'\n");
    assert_eq!(former(), None, "there was no tokenizer");
    write("tokenizer.json", r#"{"added_tokens": [{"id": 7, "content": "<pad>"}]}"#);
    write("tokenizer_config.json", r#"{"model_max_length": 77, "pad_token": {"content": "<pad>"}}"#);
    // As version 0.1 computed it.
    let mut hasher = blake3::Hasher::new();
    hasher.update(ContentHash::of(b"text").as_bytes());
    hasher.update(ContentHash::of_file(&dir.path().join("tokenizer.json")).unwrap().as_bytes());
    hasher.update(
        b"context_length=Some(77) padding=Some(Fixed) pad_id=Some(7) input=None output=Some(\"text_embeds\") pooling=Some(Mean)",
    );
    assert_eq!(former(), Some(hasher.finalize().into()));
}
