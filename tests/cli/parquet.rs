//! Images in Parquet files, from extraction to evaluation.

use std::fs;

use crate::common::Desk;

/// Packs the folder `images` into two files as `datasets` does, in listing order.
const PACK: &str = "\
import json, os, pathlib, pyarrow as pa, pyarrow.parquet as pq
files = sorted(pathlib.Path('images').glob('*/*.png'), key=lambda path: str(path).encode())
names = sorted({file.parent.name for file in files})
features = {'image': {'_type': 'Image'}, 'label': {'_type': 'ClassLabel', 'names': names}}
about = {'huggingface': json.dumps({'info': {'features': features}})}
os.mkdir('hub')
for shard, part in enumerate([files[:8], files[8:]]):
    table = pa.table({
        'image': [{'bytes': file.read_bytes(), 'path': file.name} for file in part],
        'label': [names.index(file.parent.name) for file in part],
        'caption': [f'a photo of thing {number}' for number in range(len(part))],
    })
    pq.write_table(table.replace_schema_metadata(about), f'hub/train-{shard:05}-of-00002.parquet')
";

const COMPARE: &str = "\
import pyarrow.parquet as pq
folder, hub = (pq.read_table(f'{name}/views-00000.parquet') for name in ('from-folder', 'from-hub'))
assert folder.num_rows == 20 and folder['label'].equals(hub['label'])
assert folder['embedding'].equals(hub['embedding'])
assert hub['key'].to_pylist()[7:9] == ['train-00000-of-00002.parquet/7', 'train-00001-of-00002.parquet/0']
";

#[test]
fn a_data_set_of_the_hub_is_as_good_as_its_folder() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.teacher("teacher");
    desk.python(PACK).ended(0, &[]);
    let extract = "extract --teacher teacher --with-center";
    desk.lgd(&format!("{extract} --views 1 --images images --out from-folder")).ended(0, &[]);
    desk.lgd(&format!("{extract} --views 1 --images hub --out from-hub"))
        .ended(0, &["20 samples x 1 views", "note: the captions in hub are not cached without --captions"]);
    desk.python(COMPARE).ended(0, &[]);

    desk.lgd(&format!("{extract} --views 2 --images hub --out cache --captions")).ended(0, &[]);
    desk.lgd("verify cache").ended(0, &[]).printed(&["captions"]);
    let train = "train --cache cache --images hub --student mobilenet_v2 --size 32 --batch 8 --epochs 1";
    desk.lgd(&format!("{train} --objective seed,caption --out run")).ended(0, &["epoch 1/1"]);
    assert!(fs::read_to_string(desk.path("run/metrics.jsonl")).unwrap().contains("\"caption\":"));
    let evaluate = |images: &str| {
        let eval = "eval --run run --json --protocol knn --train-images";
        desk.lgd(&format!("{eval} {images} --images {images}")).ended(0, &[]).json()["knn"].clone()
    };
    assert_eq!(evaluate("hub"), evaluate("images"));
}

#[test]
fn a_damaged_file_is_named_before_anything_is_written() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    desk.python(PACK).ended(0, &[]);
    let file = desk.path("hub/train-00001-of-00002.parquet");
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    // Overwrites the header of the first page.
    damaged[4..40].fill(0xff);
    fs::write(&file, damaged).unwrap();
    let extract = "extract --teacher teacher --views 1 --images hub --out cache";
    desk.lgd(extract).ended(2, &["hub/train-00001-of-00002.parquet: damaged", "hint: copy the file again"]);
    assert!(!desk.path("cache").exists());
    fs::write(&file, whole).unwrap();
    desk.lgd(extract).ended(0, &["20 samples"]);
    desk.bash("mv hub/train-00001-of-00002.parquet hub/test.parquet").ended(0, &[]);
    desk.lgd("extract --teacher teacher --views 1 --images hub --out other").ended(
        2,
        &[
            "hub: holds files of several splits: test.parquet, train-00000-of-00002.parquet",
            "hint: give the files of one split",
        ],
    );
}
