//! The whole pipeline compared with the bare encoder on input in memory: same images, batch size and threads, in one
//! run.
//!
//! `cargo bench -p lgd-extract --bench extract_pipeline -- IMAGES TEACHER [SAMPLES] [RUNS] [BATCH] [DECODE_THREADS]`
//! prints one JSON line per view policy: {"case", "ours" = pipeline images/s, "peer" = bare encoder images/s,
//! "ratio", "unit", "runs", "hardware"}. Each number is the median over RUNS. Runs of the two alternate.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lgd_data::cache::{CacheBuilder, Partition};
use lgd_data::job::Job;
use lgd_data::manifest::Existing;
use lgd_data::source::{ImageSource, Listing, SourceError, open_source};
use lgd_data::view::Policy;
use lgd_extract::encoder::PixelBuffer;
use lgd_extract::pipeline::ViewPlan;
use lgd_extract::{EncoderOptions, ExtractOptions, Extractor, ImageEncoder, Runtime, Teacher};

/// A source limited to its first samples.
struct First {
    source: Box<dyn ImageSource>,
    listing: Listing,
}

impl ImageSource for First {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        self.source.read(index, max_bytes)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let [images, folder, ..] = arguments.as_slice() else {
        return Err("give a folder of images and a teacher".into());
    };
    let (samples, runs) = (number(2, 2048)?, number(3, 5)?);
    let (batch, decode_threads) = (number(4, 32)?, number(5, 0)?);
    let source = open_source(Path::new(images))?;
    let mut listing = source.listing().clone();
    listing.samples.truncate(samples);
    let source = First { source, listing };
    let runtime = Runtime::load(Some(&library()))?;
    let teacher = Teacher::open(Path::new(folder))?;
    let encoder_options = EncoderOptions { batch: Some(batch), ..EncoderOptions::default() };
    let mut bare = teacher.image_encoder(&runtime, &encoder_options)?;
    let options = ExtractOptions { encoder: encoder_options, decode_threads, ..ExtractOptions::default() };
    let mut extractor = Extractor::open(&teacher, &runtime, options)?;
    for policy in Policy::ALL {
        let (mut ours, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            peer.push(bare_rate(&mut bare, source.samples().len())?);
            ours.push(pipeline_rate(&mut extractor, &source, policy)?);
        }
        let (ours, peer) = (median(&mut ours), median(&mut peer));
        let line = serde_json::json!({
            "case": format!("extract {} {policy} batch {batch}", teacher.name()),
            "ours": ours, "peer": peer, "ratio": ours / peer, "unit": "images/s", "runs": runs, "hardware": hardware(),
        });
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

/// Throughput of the encoder alone, with its input in memory, in images per second.
fn bare_rate(encoder: &mut ImageEncoder, count: usize) -> Result<f64, Box<dyn Error>> {
    let mut pixels = encoder.new_batch();
    if let PixelBuffer::F32(values) = &mut pixels {
        for (index, value) in (0u16..2048).cycle().zip(values) {
            *value = f32::from(index) / 1024.0 - 1.0;
        }
    }
    let started = Instant::now();
    let batches = count.div_ceil(encoder.batch());
    for _ in 0..batches {
        encoder.encode(&pixels, encoder.batch())?;
    }
    rate(batches * encoder.batch(), started)
}

/// Throughput from files to finished shards, in images per second.
fn pipeline_rate(extractor: &mut Extractor, source: &First, policy: Policy) -> Result<f64, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let plan = ViewPlan { views: 1, center: None, policy, seed: 1, stored: None };
    let config = extractor.cache_config(source, &plan, extractor.aligned_shard_samples(1024, 1));
    let builder = CacheBuilder::open(dir.path(), config, Existing::Refuse)?;
    let started = Instant::now();
    let summary = extractor.extract(source, &builder, Partition::WHOLE, &Job::new())?;
    rate(usize::try_from(summary.views)?, started)
}

fn rate(images: usize, started: Instant) -> Result<f64, Box<dyn Error>> {
    Ok(f64::from(u32::try_from(images)?) / started.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn library() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../third_party/onnxruntime/libonnxruntime.so");
    std::env::var_os("ORT_DYLIB_PATH").map_or(default, PathBuf::from)
}

fn hardware() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown");
    format!("{model}, {} cores", std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}
