//! Throughput of the loader alone: views rendered from the images against views that the cache stores.
//!
//! `cargo bench -p lgd-train --bench loader -- photo|cifar SIZE [POLICY] [SECONDS] [THREADS,THREADS...]` prints one
//! JSON line per kind of view and number of threads: wall-clock images per second, processor time per image (which
//! other work on the machine hardly changes), bytes per view on disk and, for JPEG views, the peak signal-to-noise
//! ratio. `photo`: 500 x 375 JPEGs, shifted and encoded again from one photograph; `cifar`: 32 x 32 PNGs
//! (`scripts/setup cifar10`). Files are in the page cache.
//!
//! `... -- train ARCHITECTURE SIZE BATCH SAMPLES DEVICE` trains from a cache of stored raw views (SEED, which needs no
//! bank; checkpoints included) and prints one line: images per second of the second epoch, and the share of it that
//! waited for data. For comparison, the line has the throughput of the same steps on a batch in memory (`train_step`)
//! and of the loader alone. The slower of the two is the limit.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lgd_data::cache::{
    Cache, CacheBuilder, CacheConfig, CachedSample, Encoding, ImageStamp, Partition, SampleRows,
    StoredFormat, TeacherRecord,
};
use lgd_data::image::{DecodeLimits, RgbImage, decode, encode_jpeg};
use lgd_data::job::Job;
use lgd_data::manifest::{Existing, Verify};
use lgd_data::render::{Normalization, Resample, render};
use lgd_data::source::{ImageSource, listing_hash, open_source};
use lgd_data::view::Policy;
use lgd_testing::{cache_config, teacher_record};
use lgd_train::device::TrainDevice;
use lgd_train::loader::LoaderError;
use lgd_train::loader::batches::{StreamPlan, TrainingImages};
use lgd_train::loader::origin::{Originals, StoredUse};
use lgd_train::loader::pixels::InputFormat;
use lgd_train::objective::{ObjectiveKind, Objectives};
use lgd_train::run::{MetricsKind, TrainConfig};
use lgd_train::trainer::{LoopSettings, TrainInputs, Watch, train};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SAMPLES: usize = 512;
const BATCH: usize = 64;
const DIM: usize = 8;
const JPEG_QUALITY: u8 = 90;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The case that one line measures.
struct Case<'a> {
    kind: &'a str,
    policy: Policy,
    size: u32,
    stored: Option<StoredFormat>,
    seconds: f64,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, rest @ ..] = &arguments[..]
        && mode == "train"
    {
        return train_from_cache(rest);
    }
    let [kind, size, rest @ ..] = &arguments[..] else {
        return Err("give photo or cifar, and a size".into());
    };
    let policy = rest.first().map_or(Ok(Policy::MocoV2), |name| name.parse())?;
    let seconds = rest.get(1).map_or(Ok(2.0), |text| text.parse())?;
    let threads = rest.get(2).map_or("1,2", String::as_str).split(',').map(str::parse);
    let threads: Vec<usize> = threads.collect::<Result<_, _>>()?;
    let size = size.parse()?;
    let dir = tempfile::tempdir()?;
    let images = dir.path().join("images");
    match kind.as_str() {
        "photo" => write_photos(&images, SAMPLES)?,
        "cifar" => copy_cifar(&images)?,
        _ => return Err(format!("expected photo or cifar, got {kind:?}").into()),
    }
    let source = open_source(&images)?;
    let formats = [None, Some(Encoding::Jpeg { quality: JPEG_QUALITY }), Some(Encoding::Raw)]
        .map(|encoding| encoding.map(|encoding| StoredFormat { size, encoding }));
    for (number, stored) in formats.into_iter().enumerate() {
        let folder = dir.path().join(format!("cache-{number}"));
        let cache = write_cache(&folder, source.as_ref(), policy, stored)?;
        let case = Case { kind, policy, size, stored, seconds };
        for &threads in &threads {
            report(&case, &cache, Originals { source: source.as_ref(), path: &images }, threads)?;
        }
    }
    Ok(())
}

/// Trains for two epochs and prints the throughput of the second.
fn train_from_cache(arguments: &[String]) -> Outcome<()> {
    let [architecture, size, batch, samples, device] = arguments else {
        return Err("train ARCHITECTURE SIZE BATCH SAMPLES DEVICE".into());
    };
    let (size, batch): (u32, usize) = (size.parse()?, batch.parse()?);
    let device: TrainDevice = device.parse()?;
    let dir = tempfile::tempdir()?;
    let images = dir.path().join("images");
    write_photos(&images, samples.parse()?)?;
    let source = open_source(&images)?;
    let stored = StoredFormat { size, encoding: Encoding::Raw };
    let cache = write_cache(&dir.path().join("cache"), source.as_ref(), Policy::MocoV2, Some(stored))?;
    let config = TrainConfig {
        objective: Objectives::only(ObjectiveKind::Seed),
        ..TrainConfig::new(architecture.parse()?, size, 2, batch, 0)
    };
    let settings = LoopSettings { device: device.open()?, ..LoopSettings::default() };
    let inputs =
        TrainInputs { cache: &cache, bank: None, kdep: None, originals: None, watch: Watch::default() };
    let mut last = None;
    train(&config, &settings, &inputs, &dir.path().join("run"), &Job::new(), &mut |line| {
        if line.kind == MetricsKind::Epoch {
            last = Some(line.clone());
        }
    })?;
    let last = last.ok_or("no epoch was finished: give at least as many samples as a batch has")?;
    let format = InputFormat { size, resample: Resample::Bilinear, normalization: Normalization::IMAGENET };
    let limits = DecodeLimits::default();
    let images = TrainingImages::open(&cache, None, format, StoredUse::Fitting, limits)?;
    let (loader, _) = measure(&images, settings.threads, 2.0)?;
    let line = serde_json::json!({
        "case": format!("training from the cache, {architecture}, {size} px, batch {batch}, {device}"),
        "ours": last.images_per_second, "unit": "images/s", "data_wait": last.data_wait,
        "loader_alone": loader, "threads": settings.threads, "hardware": hardware(), "load": load(),
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Writes one photograph for every sample, each shifted differently.
fn write_photos(dir: &Path, samples: usize) -> Outcome<()> {
    fs::create_dir_all(dir)?;
    let photo =
        decode(include_bytes!("../../data/tests/goldens/photo-500x375.jpg"), &DecodeLimits::default())?;
    for sample in 0..samples {
        let mut pixels = photo.pixels().to_vec();
        pixels.rotate_left((sample * 3 * 501) % photo.pixels().len());
        let shifted = RgbImage::new(photo.width(), photo.height(), pixels)?;
        fs::write(dir.join(format!("{sample:06}.jpg")), encode_jpeg(&shifted, JPEG_QUALITY)?)?;
    }
    Ok(())
}

fn copy_cifar(dir: &Path) -> Outcome<()> {
    fs::create_dir_all(dir)?;
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../third_party/cifar10/train");
    let classes = fs::read_dir(&from)?.collect::<Result<Vec<_>, _>>()?;
    for class in classes {
        let mut files: Vec<PathBuf> = fs::read_dir(class.path())?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        for file in files.iter().take(SAMPLES / 10 + 1) {
            let name =
                format!("{}-{}", class.file_name().display(), file.file_name().unwrap_or_default().display());
            fs::copy(file, dir.join(name))?;
        }
    }
    Ok(())
}

/// Writes a cache of one drawn view per image. Its embeddings are meaningless.
fn write_cache(
    dir: &Path,
    source: &dyn ImageSource,
    policy: Policy,
    stored_views: Option<StoredFormat>,
) -> Outcome<Cache> {
    let teacher = TeacherRecord {
        size: 224,
        normalization: Normalization::IMAGENET,
        resample: Resample::Bilinear,
        ..teacher_record()
    };
    let config = CacheConfig {
        teacher,
        listing: listing_hash(source.samples()),
        views: 1,
        center: None,
        policy,
        seed: 0,
        batch: BATCH,
        shard_samples: 128,
        stored_views,
        ..cache_config(DIM, source.samples().len())
    };
    let builder = CacheBuilder::open(dir, config, Existing::Refuse)?;
    for shard in builder.missing_shards(Partition::WHOLE)? {
        let mut writer = builder.shard_writer(shard)?;
        for sample in builder.sample_range(shard) {
            let bytes = source.read(sample, u64::MAX)?;
            let image = decode(&bytes, &DecodeLimits::default())?;
            let key = &source.samples()[sample].key;
            let view = policy.draw(0, key, 0, image.width(), image.height());
            let mut stored = Vec::new();
            if let Some(format) = stored_views {
                stored.push(format.encode(render(&image, &view, format.size, Resample::Bilinear)?)?);
            }
            let stamp = ImageStamp::new(&bytes, image.width(), image.height());
            let cached = CachedSample { key, label: None, image: stamp };
            let rows = SampleRows {
                views: &[view],
                norms: &[1.0],
                embeddings: &[0.5; DIM],
                stored: &stored,
                ..SampleRows::default()
            };
            writer.push_rows(&cached, &rows)?;
        }
        writer.finish()?;
    }
    builder.finalize(&[])?;
    Ok(Cache::open(dir, Verify::Full)?)
}

/// Measures and prints one line.
fn report(case: &Case<'_>, cache: &Cache, originals: Originals<'_>, threads: usize) -> Outcome<()> {
    let Case { kind, policy, size, stored, seconds } = *case;
    let format = InputFormat {
        size,
        resample: Resample::Bilinear,
        normalization: cache.manifest().config.teacher.normalization,
    };
    let open = |stored_use| {
        TrainingImages::open(cache, Some(originals), format, stored_use, DecodeLimits::default())
    };
    let images = open(StoredUse::Fitting)?;
    let (rate, cpu) = measure(&images, threads, seconds)?;
    let rows = u32::try_from(cache.rows())?;
    let bytes = match stored {
        Some(_) => u32::try_from(cache.manifest().bytes().1)?,
        None => (0..cache.rows())
            .map(|at| originals.source.read(at, u64::MAX).map_or(0, |b| b.len()))
            .sum::<usize>()
            .try_into()?,
    };
    let psnr = match stored.map(|format| format.encoding) {
        Some(Encoding::Jpeg { .. }) => {
            Some(psnr(&first_batch(&images)?, &first_batch(&open(StoredUse::Ignored)?)?))
        }
        _ => None,
    };
    let views = stored.map_or("rendered from the images".to_owned(), |format| format!("stored, {format}"));
    let line = serde_json::json!({
        "case": format!("loader, {kind}, {size} px, {policy}: {views}"),
        "ours": rate, "peer": null, "ratio": null, "unit": "images/s", "threads": threads,
        "cpu_us_per_image": cpu, "bytes_per_view": f64::from(bytes) / f64::from(rows), "psnr_db": psnr,
        "hardware": hardware(), "load": load(),
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Images per second, and microseconds of processor time per image, over `seconds`.
fn measure(images: &TrainingImages<'_>, threads: usize, seconds: f64) -> Outcome<(f64, f64)> {
    let plan = StreamPlan { batch: BATCH, epochs: u32::MAX, seed: 1, done: 0 };
    let measured = images.stream(plan, threads, |batches| {
        for _ in 0..4 {
            batches.next_batch()?;
        }
        let (start, cpu, mut count) = (Instant::now(), processor_time(), 0_u32);
        while start.elapsed() < Duration::from_secs_f64(seconds) {
            count += batches.next_batch()?.map_or(0, |batch| u32::try_from(batch.rows.len()).unwrap_or(0));
        }
        let (wall, cpu) = (start.elapsed().as_secs_f64(), processor_time() - cpu);
        Ok::<_, LoaderError>((f64::from(count) / wall, cpu * 1e6 / f64::from(count)))
    });
    Ok(measured?)
}

fn first_batch(images: &TrainingImages<'_>) -> Outcome<Vec<u8>> {
    let plan = StreamPlan { batch: BATCH, epochs: 1, seed: 1, done: 0 };
    let batch = images.stream(plan, 2, |batches| batches.next_batch())?;
    Ok(batch.map_or(Vec::new(), |batch| batch.images.to_vec()))
}

/// Peak signal-to-noise ratio over all pixels of a batch, decibels.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0_f64.powi(2) * f64::from(u32::try_from(a.len()).unwrap_or(1)) / squares).log10()
}

/// Seconds that all threads of this process have computed; 0 if the system does not report them.
fn processor_time() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    // User and system time, in hundredths of a second.
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn hardware() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores", model.unwrap_or("unknown"))
}
