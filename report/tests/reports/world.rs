//! A small world: images in memory, a cache, a bank and a run.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use lgd_data::bank::{
    Bank, BankRecord, BankWriter, CapturedMass, CategoryRecord, Distribution, Storage, UnassignedSlots,
    VsbMode,
};
use lgd_data::cache::{Cache, CacheBuilder, CacheConfig, CachedSample, ImageStamp, Partition, Reject};
use lgd_data::manifest::{ContentHash, Existing, Verify, write_json};
use lgd_data::view::{Policy, View};
use lgd_testing::{MemorySource, cache_config};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A name that is code unless it is escaped.
pub const CODE: &str = "<script>alert('x')</script>";

/// The size of a world.
#[derive(Clone, Copy)]
pub struct Size {
    pub samples: usize,
    pub categories: usize,
    pub dim: usize,
}

pub struct World {
    pub dir: TempDir,
    pub images: MemorySource,
    pub cache: Cache,
    pub bank: Bank,
}

/// A unit vector that depends only on `seed`: near axis `seed mod 4`, with a little noise.
fn unit(seed: usize, dim: usize) -> Vec<f32> {
    let noise = |item: usize| {
        let mixed = seed.wrapping_mul(2_654_435_761).wrapping_add(item.wrapping_mul(40_503)) >> 3;
        f32::from(u16::try_from(mixed % 1024).unwrap()) / 1024.0 - 0.5
    };
    let row: Vec<f32> = (0..dim).map(|item| noise(item) + f32::from(u8::from(item == seed % 4))).collect();
    let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    row.iter().map(|value| value / norm).collect()
}

/// A binary PPM of 24 x 20 pixels.
fn picture(seed: usize) -> Vec<u8> {
    let mut bytes = b"P6\n24 20\n255\n".to_vec();
    bytes.extend((0..24 * 20 * 3).map(|at| u8::try_from((at * (seed % 7 + 1) + seed * 13) % 251).unwrap()));
    bytes
}

fn key(sample: usize) -> String {
    format!("{}/{sample:05}.ppm", if sample == 1 { CODE } else { "class" })
}

impl World {
    /// Images, a cache of view 0 and one random view, and a bank whose last name has no view.
    pub fn new(size: Size) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = MemorySource::new((0..size.samples).map(|sample| (key(sample), picture(sample % 50))));
        let cache = write_cache(&dir.path().join("cache"), size, &images);
        let bank = write_bank(&dir.path().join("bank"), size, &cache);
        Self { dir, images, cache, bank }
    }

    pub fn small() -> Self {
        Self::new(Size { samples: 60, categories: 5, dim: 16 })
    }

    /// Writes a run with `epochs` epochs of 10 steps each, of which the metrics have `lines`.
    pub fn run(&self, complete: bool, epochs: u32, lines: &str) -> PathBuf {
        let dir = self.dir.path().join("run");
        fs::create_dir_all(&dir).unwrap();
        let manifest = json!({
            "format_version": 1,
            "config": {"student": "resnet18", "size": 32, "epochs": epochs, "objective": "lgd:1", "base_lr": 0.03},
            "cache": self.cache.hash(), "bank": self.bank.hash(), "device": "cpu",
            "teacher": {"name": CODE, "image_model": ContentHash::of(b"model")},
            "samples": self.cache.manifest().samples(), "steps_per_epoch": 10, "step": 10 * epochs,
            "complete": complete, "init": null, "checkpoints": [], "files": [],
        });
        write_json(&dir.join("run.json"), &manifest).unwrap();
        fs::write(dir.join("metrics.jsonl"), lines).unwrap();
        dir
    }
}

/// The metrics of `epochs` epochs, with step lines, times and held-out figures if `holdout`.
pub fn metrics(epochs: u32, holdout: bool) -> String {
    let line = |kind: &str, epoch: u32, step: u32| {
        let loss = 3.0 / f64::from(step + 1);
        let mut line = json!({
            "kind": kind, "epoch": epoch, "step": step, "lr": 0.03, "loss": loss,
            "parts": {"text": loss / 2.0, CODE: loss}, "images_per_second": 800.0, "data_wait": 0.02,
        });
        if holdout {
            line["time"] = json!(1_700_000_000 + 5 * step);
            if kind == "epoch" {
                line["holdout"] = json!({
                    "samples": 20, "cosine": 0.5 + 0.1 * f64::from(epoch), "knn": 40.0,
                    "agreement": [{"bank": CODE, "percent": 50.0}], "zero_shot": [{"bank": "ten", "percent": 30.0}],
                });
            }
        }
        line.to_string() + "\n"
    };
    (0..epochs)
        .map(|epoch| line("step", epoch, 10 * epoch + 5) + &line("epoch", epoch, 10 * epoch + 10))
        .collect()
}

/// An evaluation with figures per class.
pub fn eval(categories: usize) -> Value {
    let name = |class: usize| if class == 0 { CODE.to_owned() } else { format!("name {class}") };
    let per_class = (0..categories).map(
        |class| json!({"name": name(class), "images": 10, "right": 4, "accuracy": 40.0, "teacher": 60.5}),
    );
    let pairs = (0..categories)
        .flat_map(|class| [json!([class, class, 4]), json!([class, (class + 1) % categories, 6])]);
    json!({
        "notes": [CODE], "test": {"path": "test", "images": 50, "rejects": [], "view": "center crop"},
        "zero_shot": {
            "categories": categories, "student": 40.0, "teacher": 60.5, "agreement": 55.0,
            "per_class": per_class.collect::<Vec<_>>(),
            "confusion": pairs.collect::<Vec<_>>(), "top5": 71.5, "interval": [35.0, 45.0],
        },
        "linear": [{"fraction": 0.1, "student": 33.3}], "seconds": 2.5, "images_per_second": 900.0,
    })
}

fn write_cache(dir: &Path, size: Size, images: &MemorySource) -> Cache {
    let config = CacheConfig {
        shard_samples: size.samples.div_ceil(2),
        class_names: Some(vec![CODE.to_owned(), "second".to_owned()]),
        ..cache_config(size.dim, size.samples)
    };
    let builder = CacheBuilder::open(dir, config, Existing::Refuse).unwrap();
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        let mut writer = builder.shard_writer(shard).unwrap();
        for sample in builder.sample_range(shard) {
            let key = key(sample);
            if sample == 3 {
                writer.reject(Reject { key, reason: "corrupt".to_owned(), detail: CODE.to_owned() });
                continue;
            }
            let image = ImageStamp::new(&images.bytes[sample], 24, 20);
            let record = CachedSample { key: &key, label: u32::try_from(sample % 2).ok(), image };
            let views = [View::center(), Policy::MocoV2.draw(7, &key, 1, 24, 20)];
            let embeddings = [unit(sample, size.dim), unit(sample + 1, size.dim)].concat();
            writer.push(&record, &views, &[1.0, 1.0], &embeddings).unwrap();
        }
        writer.finish().unwrap();
    }
    builder.finalize(&[]).unwrap().unwrap();
    Cache::open(dir, Verify::Length).unwrap()
}

fn write_bank(dir: &Path, size: Size, cache: &Cache) -> Bank {
    let used = size.categories - 1;
    let writer = BankWriter::create(dir, size.categories, Storage::TopK { k: 2 }, Existing::Refuse).unwrap();
    let mut counts = vec![0_u64; size.categories];
    let mut row = 0;
    for (shard, entry) in cache.manifest().shards.iter().enumerate() {
        let mut targets = writer.shard(shard).unwrap();
        let names: Vec<usize> = (row..row + entry.rows).map(|row| row / 2 % used).collect();
        names.iter().for_each(|&name| counts[name] += 1);
        let pseudo: Vec<i32> = names.iter().map(|&name| i32::try_from(name).unwrap()).collect();
        let index: Vec<i32> = names
            .iter()
            .flat_map(|&name| [name, (name + 1) % used])
            .map(|name| i32::try_from(name).unwrap())
            .collect();
        let lead = |row: usize| 0.5 + f32::from(u8::try_from(row % 40).unwrap()) / 100.0;
        let probability: Vec<f16> =
            (row..row + entry.rows).flat_map(|row| [lead(row), 1.0 - lead(row)]).map(f16::from_f32).collect();
        let top = Distribution::TopK { index: &index, probability: &probability };
        targets.push(&pseudo, top, top).unwrap();
        targets.finish().unwrap();
        row += entry.rows;
    }
    let name = |at: usize| if at == 0 { CODE.to_owned() } else { format!("name {at}") };
    let categories = counts.iter().enumerate().map(|(at, &count)| CategoryRecord {
        name: name(at),
        synonyms: vec![],
        prompts: vec![],
        keys: vec![],
        number: None,
        count,
    });
    let record = BankRecord {
        cache: cache.hash(),
        text_encoder: ContentHash::of(b"text"),
        cache_text_encoder: None,
        bridge: None,
        dim: size.dim,
        categories: categories.collect(),
        templates: vec!["a photo of a {}.".to_owned()],
        center: None,
        teacher_temperature: 0.04,
        vsb: VsbMode::Mean,
        unassigned_slots: UnassignedSlots::Masked,
        unassigned: vec![name(used)],
        storage: Storage::TopK { k: 2 },
        text_mass: CapturedMass { mean: 1.0, min: 1.0 },
        visual_mass: CapturedMass { mean: 1.0, min: 1.0 },
    };
    let text: Vec<f32> = (0..size.categories).flat_map(|at| unit(at, size.dim)).collect();
    let mut visual: Vec<f32> = (0..size.categories).flat_map(|at| unit(at + 7, size.dim)).collect();
    visual[used * size.dim..].fill(0.0);
    writer.finish(record, (&text, &visual), None, cache.manifest().shards.len(), cache.rows()).unwrap();
    Bank::open(dir, Verify::Length).unwrap()
}
