//! Features, tokens and captions in the cache, tested through the command line.

use std::fs;

use crate::common::{Desk, cut, flip_a_bit, root};

const EXTRACT: &str = "extract --images list.csv --teacher teacher --views 2 --batch 4 --shard-samples 8";
const ALL: &str = "--features --captions --tokens";

/// Twenty images, a list with labels and captions, and a teacher of 8 pixels with all outputs.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    let fixtures = root().join("extract/tests/fixtures").display().to_string();
    desk.write(
        "teacher/teacher.toml",
        format!(
            "name = 'tiny'\n[image]\nmodel = '{fixtures}/outputs.onnx'\noutput = 'image_embeds'\nfeatures = 'features'\n\
             tokens = 'tokens'\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n[text]\nmodel = '{fixtures}/bert.onnx'\n\
             tokenizer = '{fixtures}/tokenizer.json'\ncontext_length = 8\noutput = 'text_embeds'\n"
        ),
    );
    write_list(&desk, "a photo of");
    desk
}

fn write_list(desk: &Desk, start: &str) {
    let mut keys: Vec<_> = fs::read_dir(desk.path("images"))
        .unwrap()
        .flat_map(|class| fs::read_dir(class.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path().strip_prefix(desk.path("")).unwrap().display().to_string())
        .collect();
    keys.sort();
    let line = |key: &String| {
        let class = key.split('/').nth(1).unwrap();
        format!("\"{start}, {class}\",{class},{key}\n")
    };
    desk.write("list.csv", format!("caption,class,path\n{}", keys.iter().map(line).collect::<String>()));
}

#[test]
fn everything_is_told_cached_shown_and_verified() {
    let desk = desk();
    let told = [
        "features (f16, 4): 40 x 8 bytes",
        "captions (f16, 4): 20 x 8 bytes = 160 B",
        "tokens (int8, 2 x 2 x 4): 40 x 24 bytes = 960 B",
        "note: tokens of 2 x 2 fit students of 64 px",
        "the disk has",
    ];
    let ran = desk.lgd(&format!("{EXTRACT} {ALL} int8 --out cache")).ended(0, &told);
    let cache = &ran.json()["cache"];
    assert_eq!((&cache["features"]["dim"], &cache["captions"]["dim"]), (&4.into(), &4.into()));
    assert_eq!((&cache["tokens"]["encoding"], &cache["tokens"]["rows"]), (&"int8".into(), &2.into()));
    assert!(cache["tokens"]["bytes"].as_u64().unwrap() > 960, "{cache}");
    desk.lgd("inspect cache").ended(0, &[]).printed(&[
        "20 of 20 listed, 0 rejected, 10 classes",
        "features    4 values (features), 320 B",
        "tokens      int8, 2 x 2 x 4",
        "tokens of 2 x 2 fit students of 64 px",
        "captions    embeddings of 4 from the text encoder",
    ]);
    let verified = desk.lgd("verify cache").ended(0, &[]).stdout;
    assert!(verified.contains("features of 4, tokens (int8, 2 x 2 x 4), 20 captions, hash"), "{verified}");
    for name in ["views-00001.parquet", "tokens-00001.parquet", "captions-00001.parquet"] {
        let path = desk.path("cache").join(name);
        let whole = fs::read(&path).unwrap();
        for (damage, word) in [(flip_a_bit as fn(&_), "BLAKE3"), (cut, "bytes")] {
            damage(&path);
            desk.lgd("verify cache").ended(3, &[name, word]);
            fs::write(&path, &whole).unwrap();
        }
    }

    let ran = desk.lgd(&format!("{EXTRACT} --tokens svd:3 --tokens-fit-views 30 --out projected"));
    let ran = ran.ended(0, &["tokens: 3 of 4 values keep 100.0% of the variance of the 30 views that the projection was fitted to"]);
    let tokens = &ran.json()["cache"]["tokens"];
    assert_eq!(
        (&tokens["dim"], &tokens["teacher_dim"], &tokens["fit_views"]),
        (&3.into(), &4.into(), &30.into())
    );
    // Standardized tokens of four values have three degrees of freedom.
    assert!(tokens["explained"].as_f64().unwrap() > 0.999, "{tokens}");
    desk.lgd("inspect projected")
        .ended(0, &[])
        .printed(&["f16, 2 x 2 x 3 of 4, 100.0% of the variance of the 30 views that"]);
    flip_a_bit(&desk.path("projected/tokens.safetensors"));
    desk.lgd("verify projected").ended(3, &["tokens.safetensors", "BLAKE3"]);
}

#[test]
fn parts_and_a_resumed_run_make_the_same_cache_and_a_changed_one_is_refused() {
    let desk = desk();
    let extract = format!("{EXTRACT} {ALL} svd:2");
    desk.lgd(&format!("{extract} --out whole")).ended(0, &[]);
    desk.lgd(&format!("{extract} --out parts --partition 1/2 --decode-threads 1")).ended(0, &[]);
    // A killed part leaves a shard without its tokens.
    fs::remove_file(desk.path("parts/tokens-00001.parquet")).unwrap();
    desk.lgd(&format!("{extract} --out parts --resume")).ended(0, &[]);
    let names: Vec<_> =
        fs::read_dir(desk.path("whole")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3 * 3 + 3);
    for name in names {
        let bytes = |dir: &str| fs::read(desk.path(dir).join(&name)).unwrap();
        assert!(bytes("whole") == bytes("parts"), "{}", name.display());
    }
    for (other, parts) in [
        (format!("{EXTRACT} {ALL} svd:3"), ["tokens.dim", "expected 2, got 3"]),
        (format!("{extract} --tokens-fit-views 9"), ["tokens.fit_views", "expected 2048, got 9"]),
        (format!("{EXTRACT} {ALL} f16"), ["tokens.dim", "hint: resume with the settings"]),
        (
            format!("{EXTRACT} --features --tokens svd:2"),
            ["captions differs", "hint: columns cannot be added to a cache"],
        ),
        (format!("{EXTRACT} --captions --tokens svd:2"), ["features", "null"]),
    ] {
        desk.lgd(&format!("{other} --out whole --resume")).ended(3, &parts);
    }
    write_list(&desk, "a dog of");
    desk.lgd(&format!("{extract} --out whole --resume")).ended(3, &["listing differs"]);
    desk.lgd(&format!("{EXTRACT} --out whole --overwrite"))
        .ended(0, &["captions in list.csv are not cached"]);
    desk.lgd(&format!("{EXTRACT} --captions --out whole --resume"))
        .ended(3, &["captions differs: expected null", "hint: columns cannot be added to a cache"]);
    let left = fs::read_dir(desk.path("whole")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("tokens")));
}

#[test]
fn a_damaged_projection_of_an_unfinished_cache_is_found_and_fitted_again() {
    let desk = desk();
    let extract = format!("{EXTRACT} {ALL} svd:2");
    desk.lgd(&format!("{extract} --out whole")).ended(0, &[]);
    desk.lgd(&format!("{extract} --out out --partition 0/2")).ended(0, &[]);
    let path = desk.path("out/tokens.safetensors");
    let sound = fs::read(&path).unwrap();
    desk.lgd("verify out").ended(75, &[]).printed(&["intact"]);
    for at in (0..sound.len()).step_by(13) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, damaged).unwrap();
        desk.lgd("verify out").ended(3, &["error: out/tokens.safetensors", "hint: this makes"]);
    }
    desk.lgd(&format!("{extract} --out out --resume"))
        .ended(0, &["note: damaged, and made again: out/tokens.safetensors"]);
    for name in ["cache.json", "tokens.safetensors", "tokens-00000.parquet", "tokens-00001.parquet"] {
        let bytes = |dir: &str| fs::read(desk.path(dir).join(name)).unwrap();
        assert!(bytes("whole") == bytes("out"), "{name}");
    }
}

#[test]
fn parts_that_start_together_make_the_same_bytes() {
    let desk = desk();
    let extract = format!("{EXTRACT} {ALL} svd:2");
    desk.lgd(&format!("{extract} --out whole")).ended(0, &[]);
    for round in 0..3 {
        let out = format!("parts{round}");
        let start = |part| format!("lgd {extract} --out {out} --partition {part}/3 >/dev/null & p{part}=$!;");
        let wait = |part| format!("wait $p{part} || exit;");
        let line: Vec<_> = (0..3).map(start).chain((0..3).map(wait)).collect();
        desk.bash(&line.join(" ")).ended(0, &[]);
        let bytes = |dir: &str, name: &str| fs::read(desk.path(dir).join(name)).unwrap();
        for name in ["cache.json", "tokens.safetensors", "tokens-00002.parquet"] {
            assert!(bytes("whole", name) == bytes(&out, name), "round {round}: {name}");
        }
    }
}

#[test]
fn what_cannot_be_cached_is_refused_before_the_start() {
    let desk = desk();
    desk.lgd(&format!("{EXTRACT} --tokens f16 --features --tokens-limit 1.5kB --out x"))
        .ended(2, &["need 1.60 kB, more than --tokens-limit 1.50 kB allows", "hint: give --tokens int8"]);
    assert!(!desk.path("x").exists());
    desk.lgd(&format!("{EXTRACT} --tokens f16 --features --tokens-limit 1600 --out x")).ended(0, &[]);
    for (flags, parts) in [
        ("--tokens svd:5", ["tokens of at least 5 values", "2 x 2 tokens of 4"]),
        ("--tokens f32", ["expected f16, int8 or svd:DIM", "f32"]),
        ("--tokens-limit lots", ["expected bytes such as 500MB", "lots"]),
        ("--tokens-fit-views 9", ["--tokens", "required"]),
        ("--tokens f16 --tokens-fit-views 9", ["--tokens-fit-views", "--tokens svd:DIM"]),
    ] {
        desk.lgd(&format!("{EXTRACT} {flags} --out y")).ended(2, &parts);
    }
    let folder = EXTRACT.replace("list.csv", "images");
    desk.lgd(&format!("{folder} --captions --out y"))
        .ended(2, &["has no captions", "hint: give a .csv list"]);
    desk.tiny_teacher("teacher", "linear.onnx");
    for (flag, key) in [("--features", "features"), ("--tokens int8", "tokens")] {
        let hint = format!("hint: set [image] {key} in teacher.toml");
        desk.lgd(&format!("{EXTRACT} {flag} --out y")).ended(2, &["image_embeds", &hint]);
    }
    desk.lgd(&format!("{EXTRACT} --captions --out y")).ended(2, &["teacher.toml has no [text]"]);
    assert!(!desk.path("y").exists());
}

#[test]
fn captions_of_another_width_than_the_embeddings_are_refused_before_the_start() {
    let desk = desk();
    let keys: Vec<String> = fs::read_to_string(desk.path("list.csv"))
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().unwrap().to_owned())
        .collect();
    let ready = |numbers: &str| {
        let rows = keys.iter().map(|key| format!("{key},\"{numbers}\"\n"));
        desk.write("ready.csv", format!("path,caption_embedding\n{}", rows.collect::<String>()));
    };
    let extract = EXTRACT.replace("list.csv", "ready.csv");
    ready("[1, 2, 3]");
    desk.lgd(&format!("{extract} --captions --out x")).ended(
        2,
        &[
            "ready.csv, line 2: expected a caption_embedding of 4 numbers",
            "got 3",
            "hint: embed the captions with",
        ],
    );
    ready("[1, 2, 3, 4]");
    desk.lgd(&format!("{extract} --captions --out y")).ended(0, &["captions (f16, 4)"]);
    // An image encoder with 24 values and a text encoder with 4.
    let toml = fs::read_to_string(desk.path("teacher/teacher.toml")).unwrap();
    desk.write("teacher/teacher.toml", toml.replace("outputs.onnx", "grid.onnx"));
    desk.lgd(&format!("{EXTRACT} --captions --out x"))
        .ended(2, &["the text encoder gives 4 values, the image encoder 24", "hint:"]);
    assert!(!desk.path("x").exists());
}

#[test]
fn tokens_that_fit_no_student_or_not_the_stored_views_are_told_before_the_start() {
    let desk = desk();
    let stored = format!("{EXTRACT} --tokens f16 --store-views raw --store-size");
    desk.lgd(&format!("{stored} 32 --out a")).ended(
        0,
        &["warning: tokens of 2 x 2 fit students of 64 px, the views are stored at 32 px", "hint:"],
    );
    let ran = desk.lgd(&format!("{stored} 64 --out b")).ended(0, &["note: tokens of 2 x 2 fit"]);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    let toml = fs::read_to_string(desk.path("teacher/teacher.toml")).unwrap();
    let flat = "tokens = 'last_hidden_state'\nprefix_tokens = 1\ntoken_grid = [1, 4]";
    desk.write("teacher/teacher.toml", toml.replace("tokens = 'tokens'", flat));
    let told = ["warning: tokens of 1 x 4 fit no student", "hint: give the teacher another input size"];
    desk.lgd(&format!("{stored} 64 --out c")).ended(0, &told);
    desk.lgd("inspect c").ended(0, &[]).printed(&["tokens of 1 x 4 fit no student"]);
}

#[test]
fn a_copy_without_files_that_nobody_needs_serves_everybody_else() {
    let desk = desk();
    desk.lgd(&format!("{EXTRACT} {ALL} svd:2 --out cache")).ended(0, &[]);
    // The tiny tokenizer knows two names; all others are one to it.
    desk.names("names.txt", &["cat", "dog"]);
    let whole_captions = fs::read(desk.path("cache/captions-00000.parquet")).unwrap();
    for name in ["tokens-00001.parquet", "tokens.safetensors", "captions-00000.parquet"] {
        fs::remove_file(desk.path("cache").join(name)).unwrap();
    }
    desk.lgd("bank --cache cache --teacher teacher --categories names.txt --out bank").ended(0, &[]);
    let train = "train --cache cache --images list.csv --size 64 --batch 8 --epochs 0 --student mobilenet_v2 --out run";
    desk.lgd(&format!("{train} --objective seed")).ended(0, &[]);
    let (tokens, captions) = ("only the objective hgkd needs them", "only the objective caption needs them");
    for (objective, parts) in
        [("hgkd", ["the cache's tokens", tokens]), ("caption", ["captions-00000", captions])]
    {
        desk.lgd(&format!("{train} --overwrite --objective {objective}")).ended(3, &parts);
    }
    desk.lgd("inspect cache").ended(0, &["warning:", tokens, captions]).printed(&["2 x 2 x 2 of 4"]);
    let told = desk.lgd("inspect cache --json").ended(0, &[]);
    assert_eq!(told.json()["config"]["tokens"]["dim"], 2);
    // Columns that exist are still checked, and each missing column is reported once.
    let both =
        ["error: ", "is missing: the cache's tokens", "\nerror: ", "captions-00000.parquet is missing"];
    desk.lgd("verify cache").ended(3, &both);
    let captions = desk.path("cache/captions-00000.parquet");
    fs::write(&captions, whole_captions).unwrap();
    flip_a_bit(&captions);
    desk.lgd("verify cache")
        .ended(3, &["is missing: the cache's tokens", "captions-00000.parquet", "BLAKE3"]);
    desk.lgd(&format!("{EXTRACT} {ALL} svd:2 --out cache --resume")).ended(0, &[]);
    desk.lgd("verify cache").ended(0, &[]);
}

#[test]
fn they_open_in_other_programs() {
    let desk = desk();
    desk.lgd(&format!("{EXTRACT} {ALL} f16 --out half")).ended(0, &[]);
    desk.lgd(&format!("{EXTRACT} {ALL} int8 --out bytes")).ended(0, &[]);
    let script = "\
import pyarrow.parquet as pq, polars as pl, duckdb, numpy as np
half, small = pq.read_table('half/tokens-00000.parquet'), pq.read_table('bytes/tokens-00000.parquet')
tokens = np.stack([np.frombuffer(row.as_py(), '<f2') for row in half['tokens']]).reshape(16, 4, 4).astype(np.float32)
assert np.abs(tokens.mean(-1)).max() < 1e-2, tokens.mean(-1)
steps = np.stack([np.frombuffer(row.as_py(), 'i1') for row in small['tokens']]).reshape(16, 4, 4)
scale = np.stack([np.array(row.as_py(), np.float32) for row in small['scale']])
assert scale.shape == (16, 4) and np.abs(steps * scale[..., None] - tokens).max() < 1.01 * scale.max(), scale
caption = np.stack(pq.read_table('half/captions-00000.parquet')['caption'].to_numpy(zero_copy_only=False)).astype(np.float32)
assert caption.shape == (8, 4) and np.abs(np.linalg.norm(caption, axis=1) - 1).max() < 1e-3, caption
assert pl.read_parquet('bytes/tokens-00000.parquet').height == 16
assert pl.read_parquet('half/views-00000.parquet')['features'][0].len() == 4
assert duckdb.sql(\"select count(*), max(octet_length(tokens)) from 'bytes/tokens-00000.parquet'\").fetchall() == [(16, 16)]
";
    desk.python(script).ended(0, &[]);
}
