//! Training steps (forward, LGD loss, backward, SGD) on random data.
//!
//! `cargo bench -p lgd-train --bench train_step -- ARCHITECTURE BATCH SIDE STEPS` prints images per second and memory.
//! `... -- serve ARCHITECTURE BATCH SIDE THREADS [cpu|cuda]` is the worker of `benches/peers/train_step`. It prints
//! "ready". For each line "steps N" on standard input it prints one line of JSON: wall-clock and CPU seconds of each
//! step, and peak memory.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use lgd_data::render::Normalization;
use lgd_train::device::TrainDevice;
use lgd_train::error::TrainError;
use lgd_train::objective::{Lgd, LgdConstants, Objective, TargetBatch, VisualBank};
use lgd_train::optim::OptimizerSettings;
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CATEGORIES: usize = 64;
const DIM: usize = 512;

/// Standard normal values.
fn random(name: &str, len: usize) -> Vec<f32> {
    let mut stream = Stream::named(0, name);
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    (0..len).map(|_| stream.normal() as f32).collect()
}

fn pixels(len: usize) -> Vec<u8> {
    let mut stream = Stream::named(0, "images");
    (0..len).map(|_| stream.next_u64().to_le_bytes()[0]).collect()
}

fn tensor(name: &str, shape: &[usize], device: &Device) -> Result<Tensor, TrainError> {
    Ok(Tensor::from_vec(random(name, shape.iter().product()), shape, device)?)
}

fn uniform_distribution(batch: usize, columns: usize, device: &Device) -> Result<Tensor, TrainError> {
    let mass = 1.0 / f32::from(u16::try_from(columns).unwrap_or(u16::MAX));
    Ok(Tensor::full(mass, (batch, columns), device)?)
}

/// A student in training, its data, and the steps done.
struct Training {
    student: Student,
    objective: Lgd,
    optimizer: OptimizerSettings,
    images: Vec<u8>,
    targets: TargetBatch,
    shape: (usize, usize, usize),
    step: u64,
}

impl Training {
    fn new(
        architecture: Architecture,
        (batch, side): (usize, usize),
        device: &Device,
    ) -> Result<Self, TrainError> {
        let config = StudentConfig::new(architecture, Head::Projection { dim: DIM }, 0);
        let vsb = tensor("vsb", &[CATEGORIES, DIM], device)?;
        let tsb = tensor("tsb", &[CATEGORIES, DIM], device)?;
        let assigned = vec![true; CATEGORIES];
        Ok(Self {
            student: Student::new(config, device)?,
            objective: Lgd::new(LgdConstants::default(), tsb, VisualBank::Mean { vsb }, &assigned)?,
            optimizer: OptimizerSettings::default(),
            images: pixels(batch * side * side * 3),
            targets: TargetBatch {
                embedding: Some(tensor("teacher", &[batch, DIM], device)?),
                text_distribution: Some(uniform_distribution(batch, CATEGORIES, device)?),
                visual_distribution: Some(uniform_distribution(batch, CATEGORIES + 1, device)?),
                ..TargetBatch::default()
            },
            shape: (batch, side, side),
            step: 0,
        })
    }

    /// Takes one step. The loss stays on the device.
    fn step(&mut self) -> Result<Tensor, TrainError> {
        let mode = Mode::Train { seed: 0, step: self.step };
        self.step += 1;
        let output = self.student.forward(
            Images::Pixels { rgb: &self.images, normalization: &Normalization::IMAGENET },
            self.shape,
            mode,
        )?;
        let loss = self.objective.loss(&output, &self.targets)?;
        self.student.backward(&loss.total, false)?;
        let update = self.optimizer.update(self.student.table(), 0.01, self.step);
        self.student.update(&update)?;
        Ok(loss.total)
    }
}

/// CPU seconds of this process so far, over all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0)).as_secs_f64()
        + u64::try_from(time.tv_sec).map_or(0.0, |seconds| Duration::from_secs(seconds).as_secs_f64())
}

/// Peak resident memory of this process, MB.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

fn threads(count: usize) -> Result<(), Box<dyn std::error::Error>> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(count).build_global()?)
}

fn serve(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [architecture, batch, side, count, device @ ..] = arguments else {
        return Err("serve ARCHITECTURE BATCH SIDE THREADS [cpu|cuda]".into());
    };
    threads(count.parse()?)?;
    let baseline = peak_mb();
    let on_cuda = device.first().is_some_and(|device| device == "cuda");
    let device = if on_cuda { TrainDevice::Cuda(0) } else { TrainDevice::Cpu }.open()?;
    let mut training = Training::new(architecture.parse()?, (batch.parse()?, side.parse()?), &device)?;
    training.step()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let steps: usize = line.strip_prefix("steps ").ok_or("expected: steps N")?.parse()?;
        let (mut seconds, mut cpu) = (Vec::new(), Vec::new());
        if on_cuda {
            // Steps are queued. Only their total can be timed without stopping the device between them.
            device.synchronize()?;
            let start = Instant::now();
            let mut loss = None;
            for _ in 0..steps {
                loss = Some(training.step()?);
            }
            device.synchronize()?;
            let each = start.elapsed().as_secs_f64() / f64::from(u32::try_from(steps)?);
            seconds = vec![each; steps];
            if let Some(loss) = loss {
                eprintln!("loss {}", loss.to_scalar::<f32>()?);
            }
        } else {
            for _ in 0..steps {
                let (start, before) = (Instant::now(), cpu_seconds());
                training.step()?;
                seconds.push(start.elapsed().as_secs_f64());
                cpu.push(cpu_seconds() - before);
            }
        }
        let report = serde_json::json!({
            "seconds": seconds,
            "cpu_seconds": cpu,
            "baseline_rss_mb": baseline,
            "peak_rss_mb": peak_mb(),
            "peak_device_mb": training.student.engine().bytes() / (1 << 20),
        });
        writeln!(out, "{report}")?;
        out.flush()?;
    }
    Ok(())
}

fn measure(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [name, batch, side, steps] = arguments else {
        return Err("ARCHITECTURE BATCH SIDE STEPS".into());
    };
    let architecture: Architecture = name.parse()?;
    let (batch, side, steps): (usize, usize, usize) = (batch.parse()?, side.parse()?, steps.parse()?);
    let mut training = Training::new(architecture, (batch, side), &Device::Cpu)?;
    training.step()?;
    let mut seconds = Vec::new();
    for _ in 0..steps {
        let start = Instant::now();
        training.step()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let images = f64::from(u32::try_from(batch)?);
    let (best, median) = (images / seconds[0], images / seconds[seconds.len() / 2]);
    let peak = peak_mb();
    eprintln!(
        "{architecture} batch {batch} side {side}: {median:.1} images/s (best step {best:.1}), peak {peak:.0} MB"
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "serve" => serve(rest),
        Some(_) => {
            if std::env::var_os("RAYON_NUM_THREADS").is_none() {
                threads(2)?;
            }
            measure(&arguments)
        }
        None => Err("ARCHITECTURE BATCH SIDE STEPS, or serve ARCHITECTURE BATCH SIDE THREADS".into()),
    }
}
