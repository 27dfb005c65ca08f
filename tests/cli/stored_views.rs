//! Views stored in the cache: training opens no image and gives the same bits.

use std::fs;

use crate::common::{CLASSES, Desk, cut, flip_a_bit};

const EXTRACT: &str = "extract --images images --teacher teacher --views 2 --with-center";
const BANK: &str = "bank --teacher teacher --categories names.txt";
const TRAIN: &str = "train --student mobilenet_v2 --size 32 --batch 16 --epochs 2";

/// Images, teacher and names.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.teacher("teacher");
    desk.names("names.txt", &CLASSES);
    desk
}

fn student(desk: &Desk, run: &str) -> Vec<u8> {
    fs::read(desk.path(run).join("student.safetensors")).unwrap()
}

#[test]
fn raw_stored_views_train_the_same_student_without_images() {
    let desk = desk();
    desk.lgd(&format!("{EXTRACT} --out plain")).ended(0, &[]);
    let told = "stored views (raw, 32 px): 80 x 3072 bytes = 245.76 kB";
    let ran =
        desk.lgd(&format!("{EXTRACT} --store-views raw --store-size 32 --out stored")).ended(0, &[told]);
    let stored = &ran.json()["cache"]["stored_views"];
    assert_eq!((&stored["encoding"], &stored["size"]), (&"raw".into(), &32.into()));
    assert!(stored["bytes"].as_u64().unwrap() > 245_760, "{stored}");
    desk.lgd(&format!("{BANK} --cache plain --out banks/plain")).ended(0, &[]);
    desk.lgd(&format!("{BANK} --cache stored --out banks/stored")).ended(0, &[]);

    desk.lgd(&format!("{TRAIN} --cache plain --bank banks/plain --images images --out runs/plain"))
        .ended(0, &["rendered from the images"]);
    desk.lgd(&format!(
        "{TRAIN} --cache stored --bank banks/stored --images images --ignore-stored-views --out runs/ignored"
    ))
    .ended(0, &["rendered from the images", "not used"]);
    fs::rename(desk.path("images"), desk.path("gone")).unwrap();
    desk.lgd(&format!("{TRAIN} --cache plain --bank banks/plain --out runs/x"))
        .ended(2, &["the images are needed", "stores no views", "hint: give --images"]);
    desk.lgd(&format!("{TRAIN} --cache stored --bank banks/stored --out runs/stored"))
        .ended(0, &["views are read from the cache (raw, 32 px), no image is opened"]);
    let expected = student(&desk, "runs/plain");
    assert!(expected == student(&desk, "runs/stored"), "stored views change the student");
    assert!(expected == student(&desk, "runs/ignored"));

    desk.lgd(&format!("{TRAIN} --size 48 --cache stored --bank banks/stored --out runs/y"))
        .ended(2, &["cannot be used multiple times"]);
    let other = TRAIN.replace("32", "48");
    desk.lgd(&format!("{other} --cache stored --bank banks/stored --out runs/y"))
        .ended(2, &["stores views (raw, 32 px)", "takes 48 px", "--store-size 48"]);
    desk.lgd("inspect stored").ended(0, &[]).printed(&["stored views  raw, 32 px, "]);
    assert!(desk.lgd("verify stored").ended(0, &[]).stdout.contains("views stored (raw, 32 px)"));
}

#[test]
fn jpeg_stored_views_are_estimated_recorded_and_trained_from() {
    let desk = desk();
    let jpeg = format!("{EXTRACT} --store-views jpeg --store-size 32 --store-quality 85 --out cache");
    let ran = desk.lgd(&jpeg).ended(0, &["stored views (JPEG of quality 85, 32 px): 80 x about"]);
    let stored = &ran.json()["cache"]["stored_views"];
    assert!(stored["bytes_per_view"].as_f64().unwrap() < 3072.0, "{stored}");
    desk.lgd(&format!("{BANK} --cache cache --out banks/ten")).ended(0, &[]);
    desk.lgd(&format!("{TRAIN} --cache cache --bank banks/ten --out runs/a"))
        .ended(0, &["JPEG of quality 85"]);
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(desk.path("runs/a/run.json")).unwrap()).unwrap();
    assert_eq!(run["stored_views"]["quality"], 85, "a lossy input is on record");
    desk.lgd(&format!("{jpeg} --resume")).ended(0, &[]);
    desk.lgd(&format!("{} --resume", jpeg.replace("85", "90"))).ended(3, &["quality", "85", "90"]);
    desk.lgd(&format!("{EXTRACT} --out cache --resume")).ended(3, &["stored_views", "null"]);
    desk.lgd(&format!("{EXTRACT} --out cache --store-size 64 --overwrite")).ended(2, &["--store-views"]);
}

#[test]
fn damaged_stored_views_are_found_and_banks_do_not_need_them() {
    let desk = desk();
    for encoding in ["raw", "jpeg"] {
        desk.lgd(&format!("{EXTRACT} --store-views {encoding} --store-size 32 --out cache --overwrite"))
            .ended(0, &[]);
        let bank = format!("{BANK} --cache cache --out banks/ten --overwrite");
        let train = format!("{TRAIN} --cache cache --bank banks/ten --out runs/a --overwrite");
        desk.lgd(&bank).ended(0, &[]);
        let path = desk.path("cache/pixels-00000.parquet");
        let whole = fs::read(&path).unwrap();
        flip_a_bit(&path);
        desk.lgd("verify cache").ended(3, &["pixels-00000.parquet", "BLAKE3"]);
        desk.lgd(&train).ended(3, &["pixels-00000.parquet", "is damaged", "hint:"]);
        desk.lgd(&bank).ended(0, &[]);
        fs::write(&path, &whole).unwrap();
        cut(&path);
        for command in ["verify cache", &train] {
            desk.lgd(command).ended(3, &["pixels-00000.parquet", "bytes"]);
        }
        fs::remove_file(&path).unwrap();
        let hint = "hint: only training without the images needs them";
        for command in ["verify cache", &train] {
            desk.lgd(command).ended(3, &["pixels-00000.parquet is missing: the cache's stored views", hint]);
        }
        let extract = format!("{EXTRACT} --store-views {encoding} --store-size 32 --out cache --resume");
        desk.lgd(&extract).ended(0, &["made again: cache/pixels-00000.parquet is missing"]);
        assert!(fs::read(&path).unwrap() == whole, "made again, it has the same bytes");
        fs::remove_file(&path).unwrap();
        desk.lgd(&bank).ended(0, &[]);
        desk.lgd(&format!("{train} --images images --ignore-stored-views")).ended(0, &[]);
        fs::write(&path, &whole).unwrap();
        desk.lgd(&train).ended(0, &[]);
    }
}

#[test]
fn parts_and_a_resumed_run_store_the_same_views() {
    let desk = Desk::new();
    desk.images("images", 0, 5);
    desk.tiny_teacher("teacher", "linear.onnx");
    for encoding in ["raw", "jpeg"] {
        let extract = format!(
            "extract --images images --teacher teacher --views 2 --batch 4 --shard-samples 16 --store-views {encoding} \
             --store-size 24"
        );
        let (whole, parts) = (format!("{encoding}-whole"), format!("{encoding}-parts"));
        desk.lgd(&format!("{extract} --out {whole}")).ended(0, &[]);
        desk.lgd(&format!("{extract} --out {parts} --partition 1/2 --decode-threads 1")).ended(0, &[]);
        // A killed part leaves a shard without its stored views.
        fs::remove_file(desk.path(&parts).join("pixels-00001.parquet")).unwrap();
        desk.lgd(&format!("{extract} --out {parts} --resume")).ended(0, &[]);
        let names: Vec<_> =
            fs::read_dir(desk.path(&whole)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4 + 4 + 2);
        for name in names {
            let bytes = |dir: &str| fs::read(desk.path(dir).join(&name)).unwrap();
            assert!(bytes(&whole) == bytes(&parts), "{}", name.display());
        }
    }
}

#[test]
fn stored_views_open_in_other_programs() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let extract = "extract --images images --teacher teacher --views 2 --store-size 32 --store-views";
    for encoding in ["raw", "jpeg"] {
        desk.lgd(&format!("{extract} {encoding} --out {encoding}")).ended(0, &[]);
    }
    let script = "\
import pyarrow.parquet as pq, polars as pl, duckdb, numpy as np, io
raw, jpeg = 'raw/pixels-00000.parquet', 'jpeg/pixels-00000.parquet'
column = pq.read_table(raw)['pixels']
assert column.type.byte_width == 32 * 32 * 3 and len(column) == 40, column.type
table = pq.read_table(jpeg)
assert table['jpeg'][7].as_py()[:2] == b'\\xff\\xd8' and len(table['jpeg'][7].as_py()) == table['length'][7].as_py()
assert pl.read_parquet(raw).height == 40 and pl.read_parquet(jpeg).height == 40
assert duckdb.sql(f\"select count(*), max(octet_length(jpeg)) = max(length) from '{jpeg}'\").fetchall() == [(40, True)]
";
    desk.python(script).ended(0, &[]);
}
