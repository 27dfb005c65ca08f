//! Training that watches itself: held-out figures, best weights, TensorBoard and a table.

use std::fs;

use serde_json::Value;

use crate::common::Desk;

const TRAIN: &str = "train --cache cache --images images --student mobilenet_v2 --size 32 --batch 8";

/// The epochs' lines of `metrics.jsonl`.
fn epochs(desk: &Desk, run: &str) -> Vec<Value> {
    let text = fs::read_to_string(desk.path(run).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "epoch").collect()
}

#[test]
fn held_out_samples_show_whether_a_run_learns_and_which_weights_are_best() {
    let desk = Desk::cache_and_bank();
    desk.names("other.txt", &["animal", "vehicle"]);
    desk.lgd("bank --cache cache --teacher teacher --categories other.txt --out banks/two").ended(0, &[]);
    let held_out = "--holdout 25% --val-bank banks/two --epochs 3";
    let ran = desk.lgd(&format!("{TRAIN} --objective lgd --bank banks/ten {held_out} --out run"));
    let told =
        ["note: 10 of 40 samples are held out", "  cos ", "  agree ", "best: epoch ", "evaluating held-out"];
    // A bank of other names than the labels' has no accuracy.
    let ran = ran.ended(0, &told).ended(0, &["banks/two: no accuracy is measured", "airplane"]);
    let report = ran.json();
    assert_eq!(
        (&report["samples"], &report["held_out"], &report["steps"]),
        (&40.into(), &10.into(), &9.into())
    );
    let before = epochs(&desk, "run");
    assert_eq!(before.len(), 3);
    for line in &before {
        assert!(line["time"].as_f64().unwrap() > 1.6e9, "{line}");
        let figures = &line["holdout"];
        assert_eq!(figures["samples"], 10);
        assert!(figures["cosine"].is_number() && figures["knn"].is_number(), "{figures}");
        let banks = |figure: &str| -> Vec<String> {
            let list = figures[figure].as_array().unwrap();
            assert!(list.iter().all(|bank| (0.0..=100.0).contains(&bank["percent"].as_f64().unwrap())));
            list.iter().map(|bank| bank["bank"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(banks("agreement"), ["ten", "two"]);
        assert_eq!(banks("zero_shot"), ["ten"]);
    }
    desk.lgd("verify run").ended(0, &[]);
    desk.lgd("inspect run").printed(&["held out", "25% of the samples", "best ", "run/best.safetensors"]);
    assert_eq!(fs::read_dir(desk.path("run/checkpoints")).unwrap().count(), 0);

    let best = report["best"]["epoch"].as_u64().unwrap() + 1;
    let eval = "eval --run run --images images --bank banks/ten --json";
    let note = format!("note: weights of epoch {best} of 3, the best by held-out agreement");
    let measured = desk.lgd(eval).ended(0, &[&note, "--checkpoint last"]).json();
    assert_eq!(measured["epochs"], best);
    let measured = desk.lgd(&format!("{eval} --checkpoint last"));
    assert_eq!(measured.ended(0, &["note: weights of epoch 3 of 3, the last; the best"]).json()["epochs"], 3);
    for (checkpoint, file) in [("best", "best.onnx"), ("last", "last.onnx")] {
        desk.lgd(&format!("export --run run --checkpoint {checkpoint} --out {file}"))
            .ended(0, &["note: weights"]);
    }
    let files = ["best.onnx", "last.onnx"].map(|file| fs::read(desk.path(file)).unwrap());
    assert_eq!(files[0] == files[1], best == 3);

    desk.lgd(&format!("{TRAIN} --objective seed --epochs 1 --out plain")).ended(0, &[]);
    desk.lgd("eval --run plain --images images --train-images images --checkpoint best")
        .ended(2, &["the run kept no best weights", "hint: leave --checkpoint out"]);
}

#[test]
fn a_validation_set_has_images_and_a_cache_of_its_own() {
    let desk = Desk::cache_and_bank();
    desk.images("val", 4, 2);
    desk.lgd("extract --images val --teacher teacher --with-center --out val-cache").ended(0, &[]);
    let train = format!("{TRAIN} --bank banks/ten --val-images val --val-cache val-cache --patience 1");
    let ran =
        desk.lgd(&format!("{train} --epochs 30 --out run")).ended(0, &["stopped after epoch", "best: epoch"]);
    let epochs = epochs(&desk, "run");
    assert_eq!(ran.json()["stopped_after"], epochs.len());
    assert!(epochs.len() < 30 && epochs.iter().all(|line| line["holdout"]["samples"] == 20));
    desk.lgd("inspect run").printed(&["epochs without a better held-out score", "validation"]);
    desk.lgd(&format!("{train} --epochs 30 --holdout 5% --out no")).ended(2, &["--holdout", "--val-cache"]);
    desk.lgd(&format!("{TRAIN} --bank banks/ten --patience 2 --out no"))
        .ended(2, &["--patience is a setting of --holdout or --val-cache", "hint:"]);
    desk.lgd(&format!("{TRAIN} --bank banks/ten --val-images val --out no")).ended(2, &["--val-cache"]);
    desk.lgd(&format!("{TRAIN} --bank banks/ten --val-cache val-cache --out no"))
        .ended(2, &["the images are needed", "val-cache"]);
    for share in ["0", "100%", "two"] {
        desk.lgd(&format!("{TRAIN} --bank banks/ten --holdout {share} --out no")).ended(2, &["such as 2%"]);
    }
    desk.tiny_teacher("tiny", "linear.onnx");
    desk.lgd("extract --images val --teacher tiny --out tiny-cache").ended(0, &[]);
    desk.lgd(&format!("{TRAIN} --bank banks/ten --val-images val --val-cache tiny-cache --out no"))
        .ended(3, &["the image model of the evaluation cache differs"]);
}

/// TensorBoard reads every number of `metrics.jsonl` from the event file, and Python's csv from the table.
#[test]
fn tensorboard_and_csv_have_the_numbers_of_the_metrics() {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.lgd("extract --images images --teacher teacher --with-center --out cache").ended(0, &[]);
    let train = format!("{TRAIN} --objective seed --holdout 10 --epochs 20 --out run");
    desk.lgd(&train).ended(0, &[]);
    let read = "\
import csv, json, math
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

lines = [json.loads(line) for line in open('run/metrics.jsonl')]
events = EventAccumulator('run', size_guidance={'scalars': 0})
events.Reload()
seen = 0
def expect(tag, name, chosen, value):
    global seen
    got = [(event.step, event.value, event.wall_time) for event in events.Scalars(tag)]
    assert [(step, time) for step, _, time in got] == [(line['step'], line['time']) for line in chosen], (tag, got)
    assert all(math.isclose(a, value(b), rel_tol=1e-6) for (_, a, _), b in zip(got, chosen)), (tag, got)
    rows = [row for row in table if row['kind'] == chosen[0]['kind']]
    assert [float(row[name]) for row in rows] == [value(line) for line in chosen], (name, rows)
    seen += 1
table = list(csv.DictReader(open('run/metrics.csv')))
assert [int(row['step']) for row in table] == [line['step'] for line in lines]
for kind in ('epoch', 'step'):
    chosen = [line for line in lines if line['kind'] == kind]
    for name in ('loss', 'lr', 'images_per_second', 'data_wait'):
        expect(f'{kind}/{name}', name, chosen, lambda line: line[name])
    expect(f'{kind}/loss/seed', 'loss/seed', chosen, lambda line: line['parts']['seed'])
chosen = [line for line in lines if line['kind'] == 'epoch']
for name in ('cosine', 'knn'):
    expect(f'holdout/{name}', f'holdout/{name}', chosen, lambda line: line['holdout'][name])
assert seen == len(events.Tags()['scalars']) == 12, events.Tags()
print('equal')
";
    desk.python(read).ended(0, &[]).printed(&["equal"]);
    desk.lgd(&train.replace("--epochs 20", "--epochs 2 --overwrite")).ended(0, &[]);
    let files = fs::read_dir(desk.path("run")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(files.filter(|name| name.to_string_lossy().starts_with("events.")).count(), 1);
}
