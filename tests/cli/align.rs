//! Bridges: names for a teacher that has no language, from labeled images or from a classifier.

use std::fs;

use crate::common::{CLASSES, Desk, third_party};

/// Images of ten classes, an image encoder without language (`eyes`), a text encoder without eyes (`words`), the names
/// of the classes, and a cache.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.tiny_teacher("eyes", "linear.onnx");
    for file in ["text.onnx", "tokenizer.json"] {
        let content = fs::read(third_party("teacher").join(file)).unwrap();
        desk.write(&format!("words/{file}"), content);
    }
    desk.write("words/teacher.toml", WORDS);
    desk.names("names.txt", &CLASSES);
    desk.lgd("extract --images images --teacher eyes --views 2 --with-center --out cache").ended(0, &[]);
    desk
}

const WORDS: &str = "[text]\nmodel = \"text.onnx\"\noutput = \"text_embeds\"\ntokenizer = \"tokenizer.json\"\ncontext_length = 64\n";

const ALIGN: &str = "align --teacher words --categories names.txt";

#[test]
fn names_reach_a_teacher_without_language() {
    let desk = desk();
    let bank = "bank --cache cache --teacher words --categories names.txt";
    desk.lgd(&format!("{bank} --out banks/none"))
        .ended(3, &["the text encoder returns 384 values", "`lgd align`", "--align"]);
    let told = [
        "align: 10 categories, 384 to 4 values, ridge ",
        "on held-out classes: 40 images, mean cosine",
        "by chance              50.0% among those held out together,  10.0% among all",
        "use it: lgd bank --cache cache --teacher words --align bridges/a",
    ];
    let report = desk.lgd(&format!("{ALIGN} --cache cache --out bridges/a")).ended(0, &told).json();
    assert_eq!((&report["categories"], &report["images"]), (&10.into(), &40.into()));
    assert_eq!(report["candidates"].as_array().unwrap().len(), 25);
    desk.lgd("verify bridges/a").ended(0, &[]).printed(&["intact; a bridge of 384 to 4 values"]);
    let shown =
        ["fitted to", "10 categories, 40 labeled images of the cache", "cross-validation", "by chance"];
    desk.lgd("inspect bridges/a").ended(0, &[]).printed(&shown);
    desk.lgd(&format!("{ALIGN} --cache cache --out bridges/a"))
        .ended(2, &["already holds a bridge", "--overwrite"]);

    desk.lgd(&format!("{bank} --align bridges/a --center image --out banks/ten"))
        .ended(0, &["10 categories x 80 views"]);
    desk.lgd("inspect banks/ten").ended(0, &[]).printed(&["bridge", "of images"]);
    let train =
        "train --cache cache --images images --bank banks/ten --student resnet18 --size 32 --batch 16";
    desk.lgd(&format!("{train} --epochs 1 --lr 0.01 --out run")).ended(0, &[]);
    let eval = "eval --run run --images images --cache cache --bank banks/ten --protocol zero-shot --json";
    assert!(desk.lgd(eval).ended(0, &[]).json()["zero_shot"]["teacher"].is_number());

    // Other names through the same bridge serve the student; another bridge is another text encoder.
    desk.names("other.txt", &["airliner", "jeep", "sparrow"]);
    let other = "bank --cache cache --teacher words --categories other.txt --center image";
    desk.lgd(&format!("{other} --align bridges/a --out banks/other")).ended(0, &[]);
    desk.lgd("export --run run --bank banks/other --out student.onnx").ended(0, &[]);
    desk.lgd(&format!("{ALIGN} --cache cache --ridge 50 --out bridges/b"))
        .ended(0, &["ridge 50.000 (given)"]);
    desk.lgd(&format!("{other} --align bridges/b --out banks/apart")).ended(0, &[]);
    desk.lgd("export --run run --bank banks/apart --out apart.onnx").ended(3, &["text encoder"]);
}

#[test]
fn a_bridge_in_the_teachers_folder_needs_no_flag() {
    let desk = desk();
    desk.lgd(&format!("{ALIGN} --cache cache --out words/bridge")).ended(0, &[]);
    let bank = "bank --cache cache --categories names.txt";
    desk.lgd(&format!("{bank} --teacher words --align words/bridge --out banks/flag")).ended(0, &[]);
    let toml = WORDS.replacen("[text]", "[image]\nmodel = \"IMAGE\"\n[text]\nalign = \"bridge\"", 1);
    let image = fs::read_to_string(desk.path("eyes/teacher.toml")).unwrap();
    let toml = toml.replacen("[image]\nmodel = \"IMAGE\"\n", &image, 1);
    desk.write("words/teacher.toml", toml);
    fs::copy(desk.path("eyes/image.onnx"), desk.path("words/image.onnx")).unwrap();
    desk.lgd("teacher words")
        .ended(0, &[])
        .printed(&["align = \"bridge\"  # teacher.toml", "width of the embeddings: image 4, text 4"]);
    desk.lgd(&format!("{bank} --teacher words --out banks/folder")).ended(0, &[]);
    let read = |bank: &str, file: &str| fs::read(desk.path(bank).join(file)).unwrap();
    assert_eq!(read("banks/flag", "bank.safetensors"), read("banks/folder", "bank.safetensors"));

    // A cache made with this folder records text encoder and bridge as one.
    desk.lgd("extract --images images --teacher words --views 2 --out joint").ended(0, &[]);
    desk.lgd("bank --cache joint --categories names.txt --teacher words --out banks/joint").ended(0, &[]);
    desk.write(
        "words/teacher.toml",
        fs::read_to_string(desk.path("words/teacher.toml")).unwrap().replace("= 64", "= 32"),
    );
    desk.lgd("bank --cache joint --categories names.txt --teacher words --out banks/shorter").ended(
        3,
        &["align.json: the text encoder differs", "hint: use the teacher that the bridge was fitted with"],
    );
}

#[test]
fn a_classifier_stands_for_images() {
    let desk = desk();
    desk.python(
        "import numpy as np; from safetensors.numpy import save_file\n\
         rows = np.random.default_rng(0).standard_normal((10, 4), np.float32)\n\
         save_file({'fc.weight': rows, 'fc.bias': rows[:, 0].copy()}, 'head.safetensors')",
    )
    .ended(0, &[]);
    let told =
        ["head: fc.weight of head.safetensors, 10 rows of 4", "10 names and their rows", "rows centered"];
    desk.lgd(&format!("{ALIGN} --head head.safetensors --out bridge")).ended(0, &told);
    let bank = "bank --cache cache --teacher words --categories names.txt --align bridge";
    desk.lgd(&format!("{bank} --out banks/ten")).ended(0, &["only its width can be compared"]);
    desk.lgd(&format!("{bank} --other-text-encoder --out banks/x")).ended(2, &["cannot be used with"]);

    desk.names("nine.txt", &CLASSES[..9]);
    let nine = "align --teacher words --categories nine.txt --head head.safetensors --out nine";
    desk.lgd(nine).ended(2, &["each of the 9 names", "fc.weight [10, 4]", "--head-tensor"]);
    desk.lgd(&format!("{nine} --head-tensor fc.weight")).ended(2, &["10 rows, but 9 names"]);
    desk.lgd(&format!("{ALIGN} --out x")).ended(2, &["--cache", "--head"]);
    desk.lgd(&format!("{ALIGN} --cache cache --head head.safetensors --out x"))
        .ended(2, &["cannot be used with"]);
    desk.lgd(&format!("{ALIGN} --head head.safetensors --ridge 0 --out x")).ended(2, &["above 0, got 0"]);
    assert!(!desk.path("x").exists() && !desk.path("nine/align.json").exists());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let desk = desk();
    desk.lgd(&format!("{ALIGN} --cache cache --out bridge")).ended(0, &[]);
    let bank = "bank --cache cache --categories names.txt --out banks/ten";
    desk.write("words/teacher.toml", WORDS.replace("64", "16"));
    desk.lgd(&format!("{bank} --teacher words --align bridge"))
        .ended(3, &["align.json: the text encoder differs", "or fit a bridge with this one"]);
    desk.write("words/teacher.toml", WORDS);
    desk.lgd(&format!("{bank} --teacher words --align cache")).ended(3, &["the folder holds a cache"]);
    desk.tiny_teacher("others", "linear.onnx");
    let rename = "import onnx; model = onnx.load('others/image.onnx'); model.doc_string = 'other'; onnx.save(model, 'others/image.onnx')";
    desk.python(rename).ended(0, &[]);
    desk.lgd("extract --images images --teacher others --out other").ended(0, &[]);
    desk.lgd("bank --cache other --categories names.txt --out b --teacher words --align bridge")
        .ended(3, &["the image model differs"]);

    desk.names("few.txt", &CLASSES[..8]);
    desk.lgd("align --teacher words --categories few.txt --cache cache --out few")
        .ended(2, &["are not in few.txt: ship, truck"]);
    fs::create_dir(desk.path("flat")).unwrap();
    for entry in fs::read_dir(desk.path("images/cat")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, desk.path("flat").join(path.file_name().unwrap())).unwrap();
    }
    desk.lgd("extract --images flat --teacher eyes --out unlabeled").ended(0, &[]);
    desk.lgd(&format!("{ALIGN} --cache unlabeled --out x")).ended(2, &["the cache has no labels", "--head"]);
}
