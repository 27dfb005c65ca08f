//! Images in TAR archives, from extraction to evaluation.

use std::fs;

use crate::common::Desk;

const TRAIN: &str =
    "train --cache from-tar --student mobilenet_v2 --size 32 --batch 8 --epochs 1 --objective seed";

#[test]
fn an_archive_of_a_folder_is_as_good_as_the_folder() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.bash("tar --sort=name -cf images.tar images").ended(0, &[]);
    let extract = "extract --teacher teacher --views 2 --with-center";
    desk.lgd(&format!("{extract} --images images --out from-folder")).ended(0, &[]);
    desk.lgd(&format!("{extract} --images images.tar --out from-tar")).ended(0, &["20 samples x 2 views"]);
    let manifest = |cache: &str| desk.lgd(&format!("inspect {cache} --json")).ended(0, &[]).json();
    assert_eq!(manifest("from-folder"), manifest("from-tar"), "the same bytes from the same images");

    for images in ["images", "images.tar"] {
        desk.lgd(&format!("{TRAIN} --images {images} --out runs/{images}")).ended(0, &["epoch 1/1"]);
    }
    let weights = |run: &str| fs::read(desk.path(&format!("runs/{run}/student.safetensors"))).unwrap();
    assert_eq!(weights("images"), weights("images.tar"));
    let eval = "eval --run runs/images --json --protocol knn --images images.tar --train-images images.tar";
    let report = desk.lgd(eval).ended(0, &[]).json();
    assert!(report["knn"]["student"].is_number(), "{report}");
}

#[test]
fn shards_bring_their_captions() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.teacher("teacher");
    let pack = "mkdir -p flat shards; n=0; for file in images/*/*.png; do n=$((n+1)); cp $file flat/$n.png; \
                echo \"a photo of thing $n\" > flat/$n.txt; echo $((n % 3)) > flat/$n.cls; done; \
                tar -C flat -cf shards/0.tar $(cd flat; ls | head -30); tar -C flat -cf shards/1.tar $(cd flat; ls | tail -n +31)";
    desk.bash(pack).ended(0, &[]);
    let extract = "extract --teacher teacher --images shards --out";
    desk.lgd(&format!("{extract} plain"))
        .ended(0, &["note: the captions in shards are not cached without --captions"]);
    desk.lgd(&format!("{extract} cache --captions")).ended(0, &["20 samples"]);
    desk.lgd("verify cache").ended(0, &[]).printed(&["captions"]);
    desk.lgd("train --cache cache --images shards --student mobilenet_v2 --size 32 --batch 8 --epochs 1 --objective caption --out run")
        .ended(0, &["epoch 1/1"]);
    assert!(fs::read_to_string(desk.path("run/metrics.jsonl")).unwrap().contains("\"caption\":"));
}
