//! `lgd teacher`, and teachers whose folders have no teacher.toml.

use std::fs;

use crate::common::{CLASSES, Desk, root};

/// Copies a folder that a real exporter wrote.
fn exported(desk: &Desk, fixture: &str, name: &str) {
    let from = root().join("extract/tests/parity/fixtures").join(fixture).join("teacher");
    for entry in walk(&from) {
        let to = desk.path(name).join(entry.strip_prefix(&from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&entry, to).unwrap();
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// The settings without their sources.
fn values(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split("  # ").next().unwrap()).collect()
}

#[test]
fn an_exporters_folder_is_resolved_saved_and_used() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.names("names.txt", &["airplane", "bird", "cat"]);
    exported(&desk, "clip-optimum", "clip");
    let shown = desk.lgd("teacher clip").ended(0, &[]).printed(&[
        "name = \"clip\"",
        "[image]\nmodel = \"model.onnx\"  # found by its name and inputs",
        "size = 48  # preprocessor_config.json: CLIPImageProcessor",
        "resize_mode = \"shortest\"  # preprocessor_config.json: CLIPImageProcessor",
        "output = \"image_embeds\"",
        "[text]\nmodel = \"model.onnx\"",
        "context_length = 77",
        "# width of the embeddings: image 16, text 16",
    ]);
    assert!(!desk.path("clip/teacher.toml").exists());
    let extract = "extract --images images --teacher clip --with-center --out cache";
    desk.lgd(extract)
        .ended(0, &["view 0: shortest side to 48, center 48, preprocessor_config.json: CLIPImageProcessor"]);
    desk.lgd("bank --cache cache --teacher clip --categories names.txt --out banks/a").ended(0, &[]);

    desk.lgd("teacher clip --write").ended(0, &["wrote clip/teacher.toml"]);
    desk.lgd("teacher clip --write")
        .ended(2, &["clip/teacher.toml exists\nhint: give --overwrite to replace it"]);
    let again = desk.lgd("teacher clip --write --overwrite").ended(0, &[]);
    assert_eq!(values(&shown.stdout), values(&again.stdout));
    // The saved file changes nothing: the cache and its prompts belong to the same teacher.
    desk.lgd(&format!("{extract} --resume")).ended(0, &[]);
    desk.lgd("bank --cache cache --teacher clip --categories names.txt --out banks/b")
        .ended(0, &["(0 encoded, 3 reused)"]);
}

#[test]
fn a_teacher_is_measured_on_labeled_images() {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.teacher("teacher");
    desk.names("names.txt", &CLASSES);
    let ran = desk.lgd("teacher teacher --images images --categories names.txt").ended(0, &[]);
    let line = ran.stdout.lines().last().unwrap();
    assert!(
        line.contains("of n = 40 images, 10 categories; view 0: shortest side to 183, center 160, assumed"),
        "{line}"
    );
    let share: f64 = line.split(['%', ' ']).find_map(|word| word.parse().ok()).unwrap();
    assert!((30.0..=100.0).contains(&share), "{line}");
    desk.names("others.txt", &["tench", "goldfish"]);
    desk.lgd("teacher teacher --images images --categories others.txt")
        .ended(2, &["no class is in the category file; the classes are airplane", "hint: name the folders"]);
    desk.lgd("teacher teacher --images images").ended(2, &["--categories"]);
    desk.write("long.txt", format!("{{}}{}", " photo".repeat(600)));
    desk.lgd("teacher teacher --images images --categories names.txt --templates long.txt").ended(
        0,
        &[
            "note: 10 of 10 prompts are longer than the text encoder's context of",
            "\nhint: shorten the names or",
        ],
    );
}

#[test]
fn paths_that_are_no_teachers_folder_say_what_to_give() {
    let desk = Desk::new();
    let (repository, snapshot) = ("hub/models--openai--clip", "hub/models--openai--clip/snapshots/3d74ac");
    exported(&desk, "clip-optimum", snapshot);
    desk.lgd(&format!("teacher {repository}"))
        .ended(0, &[&format!("note: {repository}: its only snapshot is used, {snapshot}")])
        .printed(&["name = \"clip\""]);
    desk.lgd(&format!("teacher {snapshot}/model.onnx"))
        .ended(2, &["this is a file", &format!("hint: give its folder, {snapshot}")]);
    desk.lgd("teacher facebook/dinov2-small")
        .ended(2, &["there is no such folder", "optimum-cli export onnx --model facebook/dinov2-small"]);
    desk.write("images/a.png", b"");
    desk.write("weights/model.safetensors", b"");
    desk.write("weights/config.json", r#"{"model_type": "dinov2"}"#);
    let command = "optimum-cli export onnx --model weights --task feature-extraction weights-onnx";
    for run in ["teacher weights", "extract --images images --teacher weights --out cache"] {
        desk.lgd(run).ended(2, &["the folder has model.safetensors, weights", command]);
    }
}

#[test]
fn towers_that_do_not_fit_and_folders_without_a_model_are_refused() {
    let desk = Desk::new();
    desk.teacher("teacher");
    fs::remove_file(desk.path("teacher/teacher.toml")).unwrap();
    desk.tiny_teacher("tiny", "linear.onnx");
    fs::copy(desk.path("teacher/text.onnx"), desk.path("tiny/text.onnx")).unwrap();
    fs::copy(desk.path("teacher/tokenizer.json"), desk.path("tiny/tokenizer.json")).unwrap();
    let toml = fs::read_to_string(desk.path("tiny/teacher.toml")).unwrap();
    fs::write(desk.path("tiny/teacher.toml"), toml + "[text]\ncontext_length = 64\n").unwrap();
    desk.lgd("teacher tiny")
        .ended(2, &["the image encoder gives 4 values, the text encoder 384", "hint: export both"]);

    fs::create_dir(desk.path("empty")).unwrap();
    desk.write("images/a.png", b"");
    for command in ["teacher empty", "extract --images images --teacher empty --out cache"] {
        desk.lgd(command).ended(
            2,
            &["no teacher.toml and no model: looked for image.onnx", "hint: a teacher is a folder"],
        );
    }
    desk.write("pointer/model.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
    desk.write(
        "pointer/preprocessor_config.json",
        r#"{"size": 8, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#,
    );
    desk.lgd("teacher pointer")
        .ended(2, &["model.onnx: this is a git-lfs pointer", "hint: run `git lfs pull` in pointer"]);
}
