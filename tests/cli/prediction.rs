//! `lgd predict`, `lgd embed`, and evaluations of exported files.

use std::fs;

use serde_json::Value;

use crate::common::{CLASSES, Desk};

const TRAIN: &str =
    "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8 --epochs 2 --out run";

/// Images, a bank, a hardly trained run, and its exported file, whose bank may be gone.
fn desk() -> Desk {
    let desk = Desk::cache_and_bank();
    desk.lgd(&format!("{TRAIN} --bank banks/ten")).ended(0, &[]);
    desk.lgd("export --run run --bank banks/ten --out student.onnx").ended(0, &[]);
    desk
}

/// The rows of JSON lines: path, and name and probability of every candidate.
fn rows(text: &str) -> Vec<(String, Vec<(String, f64)>)> {
    let candidate =
        |one: &Value| (one["name"].as_str().unwrap().to_owned(), one["probability"].as_f64().unwrap());
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let path = row["path"].as_str().unwrap().to_owned();
            (path, row["predictions"].as_array().unwrap().iter().map(candidate).collect())
        })
        .collect()
}

#[test]
fn a_run_and_its_exported_file_predict_alike_and_as_eval_does() {
    let desk = desk();
    let predict = "predict images --format json --top-k 10";
    let of_run = rows(&desk.lgd(&format!("{predict} --run run")).ended(0, &[]).stdout);
    assert_eq!(of_run.len(), 40);
    for (path, candidates) in &of_run {
        assert!(path.starts_with("images/") && desk.path(path).is_file(), "{path}");
        assert!((candidates.iter().map(|(_, probability)| probability).sum::<f64>() - 1.0).abs() < 1e-4);
    }
    // The exported file brings the names; with the bank, its embedding is used.
    for line in ["--onnx student.onnx", "--onnx student.onnx --bank banks/ten", "--run run --bank banks/ten"]
    {
        let other = rows(&desk.lgd(&format!("{predict} {line}")).ended(0, &[]).stdout);
        assert_eq!(other.len(), of_run.len());
        for ((path, expected), (of, got)) in of_run.iter().zip(&other) {
            assert_eq!(path, of);
            for (name, probability) in expected {
                let (_, theirs) = got.iter().find(|(other, _)| other == name).unwrap();
                assert!((probability - theirs).abs() < 1e-4, "{line}: {path}: {name} {probability} {theirs}");
            }
        }
    }

    let eval = "eval --images images --json --protocol zero-shot --predictions new/eval.jsonl";
    let report = desk.lgd(&format!("{eval} --run run --bank banks/ten")).ended(0, &[]).json();
    assert_eq!((&report["schema"], &report["onnx"]), (&2.into(), &Value::Null));
    let evaluated = rows(&fs::read_to_string(desk.path("new/eval.jsonl")).unwrap());
    for ((path, mine), (key, theirs)) in of_run.iter().zip(&evaluated) {
        assert_eq!(path, &format!("images/{key}"));
        assert_eq!((&mine[0].0, theirs.len()), (&theirs[0].0, 5));
    }
    let file = desk.lgd(&format!("{eval} --onnx student.onnx")).ended(0, &[]).json();
    assert_eq!(file["zero_shot"]["student"], report["zero_shot"]["student"]);
    assert!(file["run"].is_null() && file["onnx"].is_string(), "{file}");
}

#[test]
fn one_image_prints_one_line_and_tables_read_back() {
    let desk = desk();
    let image = fs::read_dir(desk.path("images/dog")).unwrap().next().unwrap().unwrap().file_name();
    let image = format!("images/dog/{}", image.display());
    let ran = desk.lgd(&format!("predict --run run {image} --format text --top-k 2")).ended(0, &[]);
    let words: Vec<&str> = ran.stdout.trim_end().split(": ").collect();
    assert_eq!((ran.stdout.lines().count(), words[0]), (1, &*image), "{}", ran.stdout);
    assert!(words[1].ends_with('%') && words[1].split(", ").count() == 2, "{}", ran.stdout);
    // Without a terminal, the default is CSV.
    let csv = desk.lgd(&format!("predict --run run {image} --top-k 1")).ended(0, &[]).stdout;
    assert!(csv.starts_with(&format!("path,name,probability\n{image},")), "{csv}");

    desk.lgd("predict --run run images --out new/all.parquet --top-k 3").ended(0, &[]);
    desk.lgd("predict --run run images --out new/all.csv --top-k 3").ended(0, &[]);
    desk.lgd("predict --run run images --out new/all.csv")
        .ended(2, &["already holds something", "hint: give --overwrite"]);
    desk.lgd("predict --run run images --out new/all.txt").ended(2, &["names no format", "hint:"]);
    desk.lgd("predict --run run images --format parquet").ended(2, &["hint: name a file with --out"]);
    desk.lgd("eval --run run --images images --bank banks/ten --predictions new/eval.parquet").ended(0, &[]);
    let check = "
import csv, pyarrow.parquet as pq
table = pq.read_table('new/all.parquet').to_pylist()
rows = list(csv.DictReader(open('new/all.csv')))
assert len(table) == len(rows) == 40, (len(table), len(rows))
for one, other in zip(table, rows):
    assert list(one) == list(other) == ['path', 'name', 'probability', 'name_2', 'probability_2', 'name_3', 'probability_3']
    assert one['path'] == other['path'] and one['name_3'] == other['name_3']
    assert abs(one['probability'] - float(other['probability'])) < 1e-6
evaluated = pq.read_table('new/eval.parquet').to_pylist()
assert [row['name'] for row in evaluated] == [row['name'] for row in table]
assert all(row['label'] == row['path'].split('/')[0] for row in evaluated)
";
    desk.python(check).ended(0, &[]);
}

#[test]
fn vectors_are_read_by_their_tools() {
    let desk = desk();
    for line in [
        "embed --run run images --out new/features.npy",
        "embed --run run images --out new/features.safetensors",
        "embed --run run images --what embedding --out new/embedding.parquet",
        "embed --onnx student.onnx images --out onnx/features.npy",
        "embed --onnx student.onnx images --what embedding --out onnx/embedding.parquet",
    ] {
        desk.lgd(line).ended(0, &["embed: 40 x"]);
    }
    let check = "
import json, numpy as np, pyarrow.parquet as pq
from safetensors import safe_open
features = np.load('new/features.npy')
assert features.shape == (40, 1280) and features.dtype == np.float32
keys = open('new/features.keys.txt').read().splitlines()
assert len(keys) == 40 and keys[0].startswith('images/airplane/')
with safe_open('new/features.safetensors', 'np') as file:
    assert (file.get_tensor('feature') == features).all() and json.loads(file.metadata()['keys']) == keys
table = pq.read_table('new/embedding.parquet')
embedding = np.array(table['embedding'].to_pylist())
assert table['path'].to_pylist() == keys
assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
far = lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)
assert far(np.load('onnx/features.npy'), features) < 1e-4
assert far(np.array(pq.read_table('onnx/embedding.parquet')['embedding'].to_pylist()), embedding) < 1e-4
";
    desk.python(check).ended(0, &[]);
    desk.lgd("embed --run run images --out new/features.csv").ended(2, &["names no format", "hint:"]);
}

#[test]
fn rejects_are_named_and_change_the_exit_code() {
    let desk = desk();
    desk.write("images/cat/broken.png", "not a picture");
    let named = ["rejected (unknown-format): images/cat/broken.png", "note: 1 of 41 images were rejected"];
    desk.lgd("predict --run run images").ended(1, &named);
    desk.lgd("predict --run run images --max-rejects 0.5").ended(0, &named);
    desk.lgd("embed --run run images --out features.npy").ended(1, &named);
    let none = "not one of the 1 images can be used";
    desk.lgd("predict --run run images/cat/broken.png").ended(2, &[named[0], none]);
    desk.lgd("predict --run run absent.png").ended(2, &["absent.png"]);
    desk.lgd("predict images").ended(2, &["--run <DIR>", "--onnx <FILE>"]);
    desk.lgd("predict --run run --onnx student.onnx images").ended(2, &["cannot be used with"]);

    fs::rename(desk.path("banks/ten"), desk.path("banks/moved")).unwrap();
    desk.lgd("predict --run run images/dog")
        .ended(3, &["banks/ten is missing", "hint: give the bank's folder"]);
    desk.lgd("predict --run run images/dog --bank banks/moved").ended(0, &[]);
    desk.lgd("predict --onnx student.onnx images/dog").ended(0, &[]);
}

#[test]
fn files_of_other_tools_are_read_or_refused() {
    let desk = desk();
    desk.lgd("export --run run --bank banks/ten --batch 1 --out one.onnx").ended(0, &[]);
    // As converters leave files: without metadata; with half of the outputs under other names; in f16.
    let convert = "
import onnx
from onnx import helper, numpy_helper, TensorProto
model = onnx.load('student.onnx')
del model.metadata_props[:]
onnx.save(model, 'bare.onnx')
for node in model.graph.node:
    node.output[:] = ['other_' + name if name in ('feature', 'embedding', 'scores', 'probabilities') else name for name in node.output]
for output in model.graph.output:
    output.name = 'other_' + output.name
onnx.save(model, 'renamed.onnx')
half = onnx.load('student.onnx')
for tensor in [one for one in half.graph.initializer if one.data_type == TensorProto.FLOAT]:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype('float16'), tensor.name))
for value in [*half.graph.input, *half.graph.output]:
    value.type.tensor_type.elem_type = TensorProto.FLOAT16
onnx.save(half, 'half.onnx')
";
    desk.python(convert).ended(0, &[]);
    let predict = "predict images/dog images/cat --format json --top-k 10 --onnx";
    let expected = rows(&desk.lgd(&format!("{predict} student.onnx")).ended(0, &[]).stdout);
    let one = rows(&desk.lgd(&format!("{predict} one.onnx")).ended(0, &[]).stdout);
    let half = rows(&desk.lgd(&format!("{predict} half.onnx")).ended(0, &[]).stdout);
    for (other, tolerance) in [(&one, 1e-4), (&half, 2e-2)] {
        for ((path, mine), (of, theirs)) in expected.iter().zip(other) {
            assert_eq!(path, of);
            for (name, probability) in mine {
                let (_, other) = theirs.iter().find(|(other, _)| other == name).unwrap();
                assert!((probability - other).abs() < tolerance, "{path}: {name} {probability} {other}");
            }
        }
        assert_eq!(other.len(), 8);
    }
    let bare = desk.lgd(&format!("{predict} bare.onnx"));
    let bare = bare.ended(
        0,
        &["assumed bicubic", "center crop was not recorded; assumed 0.875", "the file has no names"],
    );
    assert!(rows(&bare.stdout)[0].1.iter().all(|(name, _)| name.parse::<usize>().is_ok()), "{}", bare.stdout);
    desk.lgd(&format!("{predict} bare.onnx --bank banks/ten")).ended(0, &[]).printed(&["dog"]);
    let refused =
        ["renamed.onnx: expected one of the outputs feature", "other_scores", "hint: rename the outputs"];
    desk.lgd(&format!("{predict} renamed.onnx")).ended(2, &refused);
    desk.write("text.onnx", "not a model");
    desk.lgd(&format!("{predict} text.onnx")).ended(2, &["text.onnx: ONNX Runtime cannot load the model"]);
    desk.lgd(&format!("{predict} absent.onnx")).ended(2, &["cannot read absent.onnx"]);
    let eval = "eval --images images --protocol zero-shot --onnx";
    desk.lgd(&format!("{eval} bare.onnx")).ended(2, &["not categories", "hint:"]);
    desk.lgd(&format!("{eval} half.onnx")).ended(0, &[]).printed(&["95% interval", "10 categories"]);
}

#[test]
fn a_classifier_predicts_its_classes() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd("extract --images images --teacher teacher --out cache").ended(0, &[]);
    desk.lgd(&format!("{TRAIN} --objective supervised")).ended(0, &[]);
    desk.lgd("export --run run --out student.onnx").ended(0, &[]);
    for student in ["--run run", "--onnx student.onnx"] {
        let found = rows(
            &desk.lgd(&format!("predict {student} images --format json --top-k 99")).ended(0, &[]).stdout,
        );
        assert_eq!(found.len(), 20);
        for (_, candidates) in &found {
            let mut names: Vec<&str> = candidates.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, CLASSES);
        }
        let report = desk
            .lgd(&format!("eval {student} --images images --json --predictions own.csv"))
            .ended(0, &[])
            .json();
        assert_eq!(
            report["labels"]["per_class"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|class| class["images"] == 2)
                .count(),
            10
        );
        let text = fs::read_to_string(desk.path("own.csv")).unwrap();
        assert_eq!((text.lines().count(), &text[..11]), (21, "path,label,"));
    }
    desk.lgd("predict --run run images --bank cache").ended(3, &["bank.json is missing"]);
    desk.lgd("eval --run run --images images --protocol knn --train-images images --predictions own.csv")
        .ended(2, &["--predictions needs names", "hint: add zero-shot"]);
}
