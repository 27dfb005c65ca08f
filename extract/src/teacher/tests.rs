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
    assert_eq!((image.size, image.resample, image.prefix_tokens), (Some(32), Resample::Bicubic, 0));
    assert!(image.model.ends_with("image.onnx"));
    assert!(teacher.text().unwrap_err().to_string().contains("there is no [text]"));
}

#[test]
fn prefix_tokens_go_with_tokens_whatever_the_pooling() {
    let toml = format!("{MINIMAL}pooling = 'cls'\nprefix_tokens = 5\ntokens = 'patches'\nfeatures = 'f'\n");
    let teacher = open(&[(TEACHER_TOML, &toml)]).unwrap();
    let image = teacher.image().unwrap();
    assert_eq!(
        (image.prefix_tokens, image.tokens.as_deref(), image.features.as_deref()),
        (5, Some("patches"), Some("f"))
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
        (format!("{MINIMAL}token_grid = [2, 2]\n"), "token_grid only goes with tokens"),
        (format!("{MINIMAL}tokens = 't'\ntoken_grid = [2, 0]\n"), "token_grid"),
        (format!("{MINIMAL}tokens = 't'\ntoken_grid = [4]\n"), "token_grid"),
        (MINIMAL.replace("size = 32", "size = 0"), "size = 0"),
        (format!("{MINIMAL}center_fraction = 0.0\n"), "center_fraction = 0: expected above 0, at most 1"),
        (format!("{MINIMAL}center_fraction = 1.5\n"), "center_fraction = 1.5"),
        (format!("{MINIMAL}center_fraction = nan\n"), "center_fraction = NaN"),
        (MINIMAL.replace("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.0, 0.5]"), "std above 0"),
        (MINIMAL.replace("std = [0.5, 0.5, 0.5]", ""), "together"),
        ("[image]\nsize = 32\n".to_owned(), "hint: CLIP: mean"),
        ("[text]\ncontext_length = 0\n".to_owned(), "context_length"),
        ("[text]\npooling = 'gap'\n".to_owned(), "gap"),
        ("name = 'x'\n".to_owned(), "neither"),
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
    let full = format!("{MINIMAL}resample = 'bilinear'\n[text]\n");
    let files = [("preprocessor_config.json", odd), (TEACHER_TOML, full.as_str())];
    let image = open(&files).unwrap().image().unwrap();
    assert_eq!((image.size, image.resample), (Some(32), Resample::Bilinear));
    let teacher = open(&[files[0], (TEACHER_TOML, "[image]\n[text]\n")]).unwrap();
    assert!(teacher.text().is_ok());
    assert!(teacher.image().unwrap_err().to_string().contains("hint: give size in teacher.toml"));
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
    assert!(message(&[clip, open_clip, (TEACHER_TOML, MINIMAL)]).contains("hint: decide in teacher.toml"));
    assert_eq!(fraction(&[clip, open_clip, (TEACHER_TOML, &decided)]), Some(0.5));
}

#[test]
fn prompts_take_their_defaults_from_the_tokenizer() {
    let teacher = open(&[
        (TEACHER_TOML, "[text]\n"),
        ("tokenizer.json", r#"{"added_tokens": [{"id": 7, "content": "<pad>"}]}"#),
        ("tokenizer_config.json", r#"{"model_max_length": 77, "pad_token": {"content": "<pad>"}}"#),
    ]);
    let text = teacher.unwrap().text().unwrap().clone();
    assert_eq!((text.context_length, text.pad_id), (Some(77), Some(7)));

    let unlimited = ("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#);
    let text = open(&[(TEACHER_TOML, "[text]\n"), unlimited]).unwrap().text().unwrap().clone();
    assert_eq!(text.context_length, None);
}

#[test]
fn hashes_follow_content_and_settings_and_keep_to_their_own_model() {
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
    let (unchanged, other_tokenizer) = hashes();
    assert!(unchanged == with_weights && other_tokenizer != text);
    write(TEACHER_TOML, &format!("{MINIMAL}[text]\ncontext_length = 9\n"));
    assert!(hashes().1 != other_tokenizer);

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
    let model = side_files::tests::model("image.onnx.data");
    write("image.onnx", &model);
    write("image.onnx.data", b"found by its name");
    assert_eq!(hash(), of(&[&model, b"found by its name"]));

    let model = side_files::tests::model("weights/all.bin");
    write("image.onnx", &model);
    assert_eq!(hash(), of(&[&model, b"found by its name"]), "the file that it names is not there");
    std::fs::create_dir(dir.path().join("weights")).unwrap();
    write("weights/all.bin", b"named by the model");
    assert_eq!(hash(), of(&[&model, b"found by its name", b"named by the model"]));
}
