//! `lgd report`, and the reports that `train` and `eval` write.

use std::fs;

use crate::common::Desk;

const TRAIN: &str = "train --cache cache --images images --bank banks/ten --student mobilenet_v2 --size 32 --batch 16 --epochs 1";

#[test]
fn training_and_evaluation_write_the_report_of_their_run_and_find_its_inputs_again() {
    let desk = Desk::cache_and_bank();
    let train = format!("{TRAIN} --lr 0.01 --out run");
    desk.lgd(&train).ended(0, &["report: run/report.html"]);
    let read = || fs::read_to_string(desk.path("run/report.html")).unwrap();
    let page = read();
    for part in ["Loss</title>", "Most disputed images", "data:image/jpeg;base64,", "airplane"] {
        assert!(page.contains(part), "{part:?} is missing");
    }
    assert!(!page.contains("Top-1 by protocol"));

    let eval = "eval --run run --images images --cache cache --bank banks/ten";
    desk.lgd(eval).ended(0, &["report: run/report.html"]);
    let page = read();
    assert!(page.contains("Top-1 by protocol") && page.contains("data:image/jpeg;base64,"), "{page}");
    desk.lgd("verify run").ended(0, &[]);
    desk.lgd("report run --out again.html").ended(0, &[]).printed(&["again.html"]);
    assert_eq!(
        page,
        fs::read_to_string(desk.path("again.html")).unwrap(),
        "the same input makes the same bytes"
    );

    // What was kept may be gone or another by now.
    fs::rename(desk.path("images"), desk.path("moved")).unwrap();
    fs::remove_dir_all(desk.path("banks/ten")).unwrap();
    desk.lgd("report run").ended(0, &[]);
    let page = read();
    assert!(
        page.contains("The bank of the training, ")
            && page.contains("The source of images of the training, "),
        "{page}"
    );
    desk.lgd("report run --images moved").ended(0, &[]);
    assert!(read().contains("data:image/jpeg;base64,"));
}

#[test]
fn the_report_of_another_state_leaves_the_evaluation_out() {
    let desk = Desk::cache_and_bank();
    desk.lgd(&format!("{TRAIN} --out run")).ended(0, &[]);
    desk.lgd("eval --run run --images images --bank banks/ten").ended(0, &[]);
    desk.lgd(&format!("{TRAIN} --seed 5 --overwrite --out run")).ended(0, &["report: run/report.html"]);
    let page = fs::read_to_string(desk.path("run/report.html")).unwrap();
    assert!(page.contains("an earlier state of this run") && !page.contains("Top-1 by protocol"), "{page}");
}

#[test]
fn a_report_that_cannot_be_written_is_a_warning() {
    let desk = Desk::cache_and_bank();
    // A folder has the name of the report, so the file cannot take it.
    fs::create_dir_all(desk.path("run/report.html/x")).unwrap();
    desk.lgd(&format!("{TRAIN} --overwrite --out run"))
        .ended(0, &["warning: the report of run was not written"]);
    desk.lgd("verify run").ended(0, &[]);
    desk.lgd("report run").ended(3, &["report.html"]);
}

#[test]
fn caches_and_banks_have_reports_and_other_folders_do_not() {
    let desk = Desk::new();
    desk.images("images", 0, 3);
    desk.write("images/cat/broken.png", b"\x89PNG\r\n\x1a\nnothing");
    desk.tiny_teacher("teacher", "linear.onnx");
    let extract = "extract --images images --teacher teacher --views 2 --with-center --max-rejects 1";
    let printed = desk.lgd(&format!("{extract} --out cache")).ended(0, &[]);
    desk.write("extract.json", printed.stdout);
    desk.lgd("report cache --images images --timings extract.json")
        .ended(0, &[])
        .printed(&["cache/report.html"]);
    let page = fs::read_to_string(desk.path("cache/report.html")).unwrap();
    for part in
        ["Rejected images by reason", "broken.png", "Outliers", "data:image/jpeg;base64,", "views per second"]
    {
        assert!(page.contains(part), "{part:?} is missing");
    }
    desk.lgd("verify cache").ended(0, &[]);
    desk.bash("sed -i s/tiny/tine/ cache/cache.json").ended(0, &[]);
    desk.lgd("report cache").ended(3, &["cache.json"]);
    desk.bash("sed -i s/tine/tiny/ cache/cache.json").ended(0, &[]);
    desk.lgd("report cache --eval extract.json").ended(2, &["--eval is not read", "hint:"]);
    desk.lgd("report cache --images nowhere").ended(2, &["cannot list the images in nowhere"]);
    desk.lgd("report images").ended(2, &["no run, cache or bank", "hint:"]);
}

#[test]
fn a_kdep_bank_has_no_report() {
    let desk = Desk::cache_of_everything();
    desk.lgd("bank --target kdep --cache cache --dim 2 --out kdep").ended(0, &[]);
    desk.lgd("report kdep").ended(2, &["has no report", "hint: `lgd inspect`"]);
}
