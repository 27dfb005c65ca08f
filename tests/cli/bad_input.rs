//! Input that cannot be used: each case is a clear error or a counted reject, with the documented exit code.

use std::fs;

use crate::common::{CLASSES, Desk, third_party};

const EXTRACT: &str = "extract --images images --teacher teacher --out cache";

#[test]
fn a_library_in_the_working_folder_is_not_loaded() {
    let desk = Desk::new();
    let planted = ["third_party/onnxruntime/libonnxruntime.so", "libonnxruntime.so"];
    planted.iter().for_each(|name| drop(desk.write(name, "not a library")));
    let capi = "lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.24.1";
    desk.write(capi, "not a library");
    let mut command = desk.command();
    command.arg("teacher").arg(third_party("teacher"));
    for name in ["ORT_DYLIB_PATH", "CONDA_PREFIX"] {
        command.env_remove(name);
    }
    for environment in ["", "."] {
        let output = command.env("VIRTUAL_ENV", environment).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("ONNX Runtime was not found: looked for "), "{text}");
        assert!(!text.contains(&desk.path("").display().to_string()), "{text}");
        assert_eq!(output.status.code(), Some(2), "{text}");
    }
}

#[test]
fn bad_images_are_rejected_once_and_counted() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let good =
        fs::read(fs::read_dir(desk.path("images/cat")).unwrap().next().unwrap().unwrap().path()).unwrap();
    desk.write("images/cat/a-cut.png", &good[..good.len() / 2]);
    desk.write("images/cat/b-empty.png", b"");
    desk.write("images/cat/c-text.png", b"this is no image at all, whatever it is called");
    desk.write("images/cat/d-bomb.pgm", b"P5 60000 60000 255\n");
    desk.write("images/cat/e-really-a-png.jpeg", &good);
    let ran = desk.lgd(EXTRACT).ended(1, &["4 of 25 samples were rejected"]);
    assert_eq!(ran.json()["cache"]["samples"], 21, "a wrong name is no reason to reject an image");
    let rejects = fs::read_to_string(desk.path("cache/rejects.jsonl")).unwrap();
    for (line, key) in rejects.lines().zip(["a-cut.png", "b-empty.png", "c-text.png", "d-bomb.pgm"]) {
        assert!(line.contains(key), "{line}");
    }
    desk.lgd(&format!("{EXTRACT} --overwrite --max-rejects 0.5")).ended(0, &[]);
}

#[test]
fn other_formats_are_named_and_transparency_is_counted() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let mut logo = image::RgbaImage::from_pixel(32, 32, image::Rgba([0, 0, 0, 255]));
    logo.save(desk.path("images/cat/a-opaque.png")).unwrap();
    logo.put_pixel(3, 4, image::Rgba([0, 0, 0, 254]));
    logo.save(desk.path("images/cat/b-transparent.png")).unwrap();
    desk.write("images/cat/c.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    desk.write("images/cat/d.jpg", b"<!DOCTYPE html><title>404</title>");
    desk.lgd(EXTRACT)
        .ended(1, &["note: 1 of 24 images have transparent pixels", "2 of 24 samples were rejected"]);
    let rejects = fs::read_to_string(desk.path("cache/rejects.jsonl")).unwrap();
    let named = [("unsupported", "a HEIC image"), ("unknown-format", "a web page")];
    for (line, (reason, name)) in rejects.lines().zip(named) {
        assert!(line.contains(reason) && line.contains(name), "{line}");
    }
}

#[test]
fn a_source_without_images_and_lists_that_disagree_are_errors() {
    let desk = Desk::new();
    desk.tiny_teacher("teacher", "linear.onnx");
    fs::create_dir_all(desk.path("images/cat")).unwrap();
    desk.lgd(EXTRACT).ended(2, &["hint:"]);
    desk.write("list.csv", "path,label\na.png,3\nb.png\n");
    desk.lgd("extract --images list.csv --teacher teacher --out cache").ended(2, &["list.csv", "3"]);
    desk.write("list.csv", "a.png,3\na.png,4\n");
    desk.lgd("extract --images list.csv --teacher teacher --out cache").ended(2, &["a.png"]);
    desk.lgd("extract --images nowhere --teacher teacher --out cache").ended(2, &["nowhere"]);
}

#[test]
fn models_that_do_not_fit_are_errors_that_say_what_they_have() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    for (model, part) in
        [("two_inputs.onnx", "input"), ("integers_out.onnx", "ids"), ("rank_three.onnx", "pixel_values")]
    {
        desk.tiny_teacher("teacher", model);
        desk.lgd(EXTRACT).ended(2, &["image.onnx", part]);
    }
    desk.write("teacher/image.onnx", "no model");
    desk.lgd(EXTRACT).ended(2, &["image.onnx"]);
    fs::remove_file(desk.path("teacher/image.onnx")).unwrap();
    desk.lgd(EXTRACT).ended(2, &["image.onnx"]);
}

#[test]
fn useless_embeddings_are_rejects() {
    // On dark images, one model returns NaN and the other zeros.
    for (model, reason) in [("nan.onnx", "nan-embedding"), ("zero.onnx", "zero-embedding")] {
        let desk = Desk::new();
        desk.images("images", 0, 2);
        desk.tiny_teacher("teacher", model);
        let ran = desk.lgd(EXTRACT).ended(1, &["of 20 samples were rejected"]);
        let rejects = fs::read_to_string(desk.path("cache/rejects.jsonl")).unwrap();
        assert!(rejects.lines().all(|line| line.contains(reason)), "{rejects}");
        let cache = &ran.json()["cache"];
        assert_eq!(cache["rejected"], rejects.lines().count());
        assert_eq!(cache["samples"], 20 - rejects.lines().count());
    }
}

#[test]
fn a_source_of_nothing_usable_is_an_error() {
    let desk = Desk::new();
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.write("images/cat/notes.jpg", "no image");
    desk.lgd(EXTRACT)
        .ended(2, &["none of the 1 samples can be used; the first is cat/notes.jpg: ", "rejects.jsonl"]);
}

#[test]
fn a_text_encoder_of_another_teacher_or_width_is_refused() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.tiny_teacher("tiny", "linear.onnx");
    desk.lgd("extract --images images --teacher tiny --out cache").ended(0, &[]);
    desk.names("names.txt", &CLASSES);
    let teacher = third_party("teacher");
    let bank =
        format!("bank --cache cache --categories names.txt --out bank --teacher {}", teacher.display());
    desk.lgd(&bank).ended(3, &["4", "1280"]);

    let desk = Desk::cache_and_bank();
    // Another text encoder of the same width: the same model behind another bridge.
    let settings = fs::read_to_string(desk.path("teacher/teacher.toml")).unwrap();
    desk.write("teacher/teacher.toml", settings.replace("align = \"bridge\"", ""));
    desk.lgd("align --teacher teacher --categories names.txt --cache cache --out teacher/another")
        .ended(0, &[]);
    desk.write("teacher/teacher.toml", settings.replace("align = \"bridge\"", "align = \"another\""));
    let other = "bank --cache cache --teacher teacher --categories names.txt --out banks/other";
    desk.lgd(other).ended(3, &["text encoder", "hint:"]);
    desk.lgd(&format!("{other} --other-text-encoder")).ended(0, &[]);
}

#[test]
fn names_that_cannot_be_used_are_errors_with_their_line() {
    let desk = Desk::cache_and_bank();
    let bank = "bank --cache cache --teacher teacher --out banks/x --categories";
    desk.write("twice.txt", "cat\ndog\n cat \n");
    desk.lgd(&format!("{bank} twice.txt")).ended(2, &["twice.txt", "3", "cat"]);
    // Verbatim, they are two names with the same tokens.
    desk.lgd(&format!("{bank} twice.txt --verbatim"))
        .ended(2, &["\"cat\" and \" cat \"", "become the same", "hint: reword one of them"]);
    desk.write("blank.csv", "name\ncat\n\"\"\n");
    desk.lgd(&format!("{bank} blank.csv --overwrite")).ended(2, &["blank.csv", "3"]);
    desk.write("bad.json", "{\"cat\": [}");
    desk.lgd(&format!("{bank} bad.json --overwrite")).ended(2, &["bad.json"]);
    desk.lgd(&format!("{bank} absent.txt --overwrite")).ended(2, &["absent.txt"]);
    desk.write("numbers.txt", "0\n1\n");
    desk.lgd(&format!("{bank} numbers.txt --overwrite")).ended(2, &["numbers.txt:1", "number", "--verbatim"]);
    desk.write("index.json", "{\"0\": [\"n02123045\", \"cat\"], \"1\": [\"n02084071\", \"dog\"]}");
    let note =
        "note: index.json: an ImageNet class index, names from the second field; numbered from 0; 2 names";
    desk.lgd(&format!("{bank} index.json --overwrite")).ended(0, &[note]);
}

#[test]
fn a_missing_library_says_how_to_get_it() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.tiny_teacher("teacher", "linear.onnx");
    let mut command = desk.command();
    let output =
        command.args(EXTRACT.split(' ')).env("ORT_DYLIB_PATH", "/nonexistent/lib.so").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("hint:") && text.contains("scripts/setup"), "{text}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_not_the_processor() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd(&format!("{EXTRACT} --device cuda:0")).ended(2, &["cuda"]);
    assert!(!desk.path("cache/cache.json").exists());
}

#[test]
fn training_refuses_images_that_are_not_the_cached_ones() {
    let desk = Desk::cache_and_bank();
    let train =
        "train --cache cache --images images --bank banks/ten --size 32 --batch 16 --epochs 1 --out runs/x";
    let victim = fs::read_dir(desk.path("images/cat")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&victim).unwrap();
    // The same name, first with an image of another size, then with another image of the same size.
    fs::write(&victim, b"P5 2 2 255\n0000").unwrap();
    desk.lgd(train).ended(3, &["changed since extraction", "hint:"]);
    let dog = fs::read_dir(desk.path("images/dog")).unwrap().next().unwrap().unwrap().path();
    fs::copy(dog, &victim).unwrap();
    desk.lgd(&format!("{train} --overwrite")).ended(3, &["changed since extraction", "hint:"]);
    fs::remove_file(&victim).unwrap();
    let key = format!("cat/{}", victim.file_name().unwrap().to_str().unwrap());
    desk.lgd(&format!("{train} --overwrite")).ended(3, &[&key]);
    fs::write(&victim, bytes).unwrap();
    desk.lgd(&format!("{train} --overwrite")).ended(0, &[]);
}

#[test]
fn mistakes_that_would_spoil_results_in_silence_are_refused() {
    let desk = Desk::cache_and_bank();
    let bank = "bank --cache cache --teacher teacher --categories names.txt --out banks/x";
    desk.lgd(&format!("{bank} --tau-t 100")).ended(2, &["logit scale"]);
    let toml = fs::read_to_string(desk.path("teacher/teacher.toml")).unwrap();
    desk.write("teacher/teacher.toml", toml.replace("0.485, 0.456, 0.406", "123.6, 116.2, 103.5"));
    desk.lgd("extract --images images --teacher teacher --out y").ended(2, &["teacher.toml", "divide"]);
    desk.write("teacher/teacher.toml", toml);
    desk.lgd("extract --images images --teacher teacher --out images/cache")
        .ended(2, &["the output folder is in the folder of images"]);

    desk.lgd(
        "train --cache cache --images images --bank banks/ten --size 32 --batch 16 --epochs 0 --out runs/a",
    )
    .ended(0, &[]);
    desk.lgd("extract --images images --teacher teacher --out drawn").ended(0, &[]);
    desk.lgd("eval --run runs/a --images images --cache drawn --bank banks/ten")
        .ended(2, &["evaluated by zero-shot;", "--with-center"]);
    let init = "train --cache cache --images images --bank banks/ten --size 32 --batch 16 --epochs 1 --out runs/b \
                --student mobilenet_v2 --init runs/a/student.safetensors";
    desk.lgd(init).ended(3, &["student.safetensors", "of the", "mobilenet_v2"]);
    for (command, kind) in [
        ("bank --cache cache --teacher teacher --categories names.txt --out runs/a --overwrite", "a run"),
        (
            "train --cache cache --images images --bank banks/ten --size 32 --batch 16 --epochs 0 --out cache --overwrite",
            "a cache",
        ),
    ] {
        desk.lgd(command).ended(2, &[kind, "another folder"]);
    }
}

#[test]
fn a_stray_file_beside_class_folders_is_a_reject_everywhere() {
    let desk = Desk::cache_and_bank();
    desk.write("images/broken.jpg", "about these images");
    desk.write("images/README.txt", "about these images");
    desk.lgd("extract --images images --teacher teacher --with-center --out again --max-rejects 0.1")
        .ended(0, &["1 of 41", "left aside: 1 .txt"]);
    desk.lgd(
        "train --cache cache --images images --bank banks/ten --size 32 --batch 16 --epochs 0 --out runs/a",
    )
    .ended(0, &[]);
    desk.lgd("eval --run runs/a --images images --bank banks/ten").ended(0, &[]);
}
