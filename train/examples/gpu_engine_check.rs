//! Checks the engine on the GPU at hand against the CPU's, students as a whole, and measures training steps.
//!
//! ```text
//! gpu_engine_check check                              outputs and gradients of every student, whole and masked, f32 and bf16
//! gpu_engine_check time ARCHITECTURE BATCH SIDE STEPS images per second of forward, backward and SGD, bf16, from pixels
//! ```
//!
//! Exit code: 0 all passed, 1 a check failed, 2 an error, 3 no GPU.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use lgd_cuda::{Element, Tuning};
use lgd_data::render::Normalization;
use lgd_train::engine::{CudaBackend, Engine, Tape};
use lgd_train::error::TrainError;
use lgd_train::optim::{OptimizerSettings, OptimizerState};
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, DecoderConfig, Extras, Head, Images, Mode, Student, StudentConfig};

const FAILED: u8 = 1;
const ERROR: u8 = 2;
const NO_GPU: u8 = 3;
const DIM: usize = 512;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = match CudaBackend::open(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("gpu_engine_check: no GPU: {error}");
            return ExitCode::from(NO_GPU);
        }
    };
    match run(&arguments, &device) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("gpu_engine_check: error: {error}");
            ExitCode::from(ERROR)
        }
    }
}

fn run(arguments: &[String], device: &Device) -> Result<bool, Box<dyn std::error::Error>> {
    match arguments {
        [mode, architecture, batch, side, steps] if mode == "time" => {
            time(architecture.parse()?, (batch.parse()?, side.parse()?), steps.parse()?, device)?;
            Ok(true)
        }
        [mode] if mode == "check" => {
            let mut passed = true;
            for architecture in Architecture::ALL {
                for (element, masked) in [
                    (Element::F32, false),
                    (Element::Bf16, false),
                    (Element::F32, true),
                    (Element::Bf16, true),
                ] {
                    passed &= compare(architecture, element, masked, device)?;
                }
            }
            Ok(passed)
        }
        _ => Err("check, or time ARCHITECTURE BATCH SIDE STEPS".into()),
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A student on the GPU.
fn student(
    config: StudentConfig,
    element: Element,
    measure: bool,
    device: &Device,
) -> Result<Student, TrainError> {
    let tuning = Tuning { measure, tf32: false };
    Student::with_engine(config, |state| {
        let engine: Box<dyn Engine> =
            Box::new(Tape::new(CudaBackend::new(device.clone(), state, element, tuning)?));
        Ok(engine)
    })
}

fn random(name: &str, len: usize) -> Vec<f32> {
    let mut stream = Stream::named(0, name);
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    (0..len).map(|_| stream.normal() as f32).collect()
}

fn pixels(len: usize) -> Vec<u8> {
    let mut stream = Stream::named(0, "pixels");
    (0..len).map(|_| stream.next_u64().to_le_bytes()[0]).collect()
}

/// One number that depends on all that a student makes.
fn loss(
    student: &mut Student,
    images: Images<'_>,
    shape: (usize, usize, usize),
    mode: Mode,
) -> Result<Tensor, TrainError> {
    let output = student.forward(images, shape, mode)?;
    let weighted = |name: &str, value: &Tensor| {
        let weights = Tensor::from_vec(random(name, value.elem_count()), value.shape(), value.device())?;
        (value * weights)?.sum_all()
    };
    let mut sum = (weighted("pooled", &output.pooled)? + weighted("embedding", output.embedding()?)?)?;
    for (name, value) in [("raw", &output.raw_pooled), ("tokens", &output.tokens)] {
        if let Some(value) = value {
            sum = (sum + weighted(name, value)?)?;
        }
    }
    Ok(sum)
}

/// A student as LGD has it, or one that KDEP and H-GKD train on masked images.
fn config(
    architecture: Architecture,
    masked: bool,
    (_, height, width): (usize, usize, usize),
) -> StudentConfig {
    let decoder = DecoderConfig { rows: height / 16, columns: width / 16, dim: 48, height, width };
    let extras = Extras { raw_pooled: masked, decoder: masked.then_some(decoder) };
    StudentConfig { extras, ..StudentConfig::new(architecture, Head::Projection { dim: DIM }, 1) }
}

/// Runs two steps on both devices and compares the losses, the gradients of the first, and the parameters after the second.
fn compare(
    architecture: Architecture,
    element: Element,
    masked: bool,
    device: &Device,
) -> Result<bool, TrainError> {
    let shape = if masked { (6, 96, 64) } else { (6, 96, 80) };
    let config = config(architecture, masked, shape);
    let rgb = pixels(shape.0 * shape.1 * shape.2 * 3);
    let images = Images::Pixels { rgb: &rgb, normalization: &Normalization::IMAGENET };
    let mut here = Student::new(config, &Device::Cpu)?;
    let mut there = student(config, element, false, device)?;
    if masked {
        // Of the 3 x 2 cells of each image two or four.
        let visible: Vec<bool> =
            (0..36).map(|cell| cell % 3 == 0 || cell % 12 == 4 || cell % 12 == 5).collect();
        for student in [&mut here, &mut there] {
            student.set_mask(&visible, (3, 2))?;
        }
    }
    let optimizer = OptimizerSettings { clip: Some(5.0), ema: Some(0.9), ..OptimizerSettings::default() };
    let begun = here.engine().state()?.parameters;
    let mut losses = Vec::new();
    let mut first = None;
    for step in 0..2 {
        let mut pair = Vec::new();
        for student in [&mut here, &mut there] {
            let loss = loss(student, images, shape, Mode::Train { seed: 3, step })?;
            student.backward(&loss, false)?;
            pair.push(loss.to_scalar::<f32>()?);
        }
        if first.is_none() {
            first = Some((here.engine().gradients()?, there.engine().gradients()?));
        }
        for student in [&mut here, &mut there] {
            let update = optimizer.update(student.table(), 0.01, step + 1);
            student.update(&update)?;
        }
        losses.push(pair);
    }
    let (gradient, other) = first.ok_or(TrainError::NothingRan)?;
    let states = (here.engine().state()?, there.engine().state()?);
    let average =
        |state: OptimizerState| Ok::<_, TrainError>(state.ema.ok_or(TrainError::NothingRan)?.parameters);
    let averages = (average(here.engine().optimizer_state()?)?, average(there.engine().optimizer_state()?)?);
    let inference = [&mut here, &mut there].map(|student| {
        let output = student.forward(images, shape, Mode::Inference)?;
        Ok::<_, TrainError>(output.embedding()?.flatten_all()?.to_vec1::<f32>()?)
    });
    let [embedding, other_embedding] = inference;
    let errors = [
        ("gradient", distance(&gradient, &other)),
        ("update", distance(&moved(&begun, &states.0.parameters), &moved(&begun, &states.1.parameters))),
        ("average", distance(&moved(&begun, &averages.0), &moved(&begun, &averages.1))),
        ("running statistics", distance(&states.0.buffers, &states.1.buffers)),
        ("embedding", distance(&embedding?, &other_embedding?)),
    ];
    // In bf16 the gradient of a fresh network is that of a neighboring function: only its direction can be asked for.
    // What did not move at all would be off by 1.
    let limits: [f64; 5] =
        if element == Element::F32 { [2e-3, 5e-3, 5e-3, 1e-4, 2e-3] } else { [0.35, 0.5, 0.5, 0.02, 0.15] };
    let passed = errors.iter().zip(limits).all(|((_, error), limit)| *error <= limit);
    let words: Vec<String> = errors.iter().map(|(name, error)| format!("{name} {error:.1e}")).collect();
    let verdict = if passed { "passed" } else { "FAILED" };
    let images = if masked { "masked" } else { "whole" };
    say(&format!(
        "{verdict} {architecture} {images} {element:?}: relative errors: {}; losses {losses:?}",
        words.join(", ")
    ));
    Ok(passed)
}

/// What steps changed.
fn moved(begun: &[f32], ended: &[f32]) -> Vec<f32> {
    ended.iter().zip(begun).map(|(ended, begun)| ended - begun).collect()
}

/// L2 norm of the difference over that of the first.
fn distance(want: &[f32], got: &[f32]) -> f64 {
    let square =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = square(&mut want.iter().zip(got).map(|(want, got)| f64::from(*want) - f64::from(*got)));
    difference / square(&mut want.iter().copied().map(f64::from)).max(1e-30)
}

fn time(
    architecture: Architecture,
    (batch, side): (usize, usize),
    steps: u32,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = StudentConfig::new(architecture, Head::Projection { dim: DIM }, 1);
    let mut student = student(config, Element::Bf16, true, device)?;
    let rgb = pixels(batch * side * side * 3);
    let images = Images::Pixels { rgb: &rgb, normalization: &Normalization::IMAGENET };
    let weights = Tensor::from_vec(random("embedding", batch * DIM), (batch, DIM), device)?;
    let optimizer = OptimizerSettings::default();
    let mut number = 0;
    let mut parts = [0.0_f64; 3];
    let mut step = |student: &mut Student, apart: bool| -> Result<Tensor, Box<dyn std::error::Error>> {
        let mark = |start: Instant| -> Result<f64, Box<dyn std::error::Error>> {
            if apart {
                device.synchronize()?;
            }
            Ok(start.elapsed().as_secs_f64() * 1e3)
        };
        let start = Instant::now();
        let output = student.forward(images, (batch, side, side), Mode::Train { seed: 3, step: number })?;
        let loss = (output.embedding()? * &weights)?.sum_all()?;
        let forward = mark(start)?;
        student.backward(&loss, false)?;
        let backward = mark(start)?;
        number += 1;
        student.update(&optimizer.update(student.table(), 0.01, number))?;
        parts = [forward, backward - forward, mark(start)? - backward];
        Ok(loss)
    };
    let started = Instant::now();
    step(&mut student, false)?;
    device.synchronize()?;
    let first = started.elapsed().as_secs_f64();
    for _ in 0..4 {
        step(&mut student, false)?;
    }
    device.synchronize()?;
    let started = Instant::now();
    let mut last = None;
    for _ in 0..steps {
        last = Some(step(&mut student, false)?);
    }
    let issued = started.elapsed().as_secs_f64() * 1e3 / f64::from(steps);
    device.synchronize()?;
    let each = started.elapsed().as_secs_f64() * 1e3 / f64::from(steps);
    step(&mut student, true)?;
    let images = f64::from(u32::try_from(batch)?);
    let loss = last.map_or(Ok(f32::NAN), |loss| loss.to_scalar::<f32>())?;
    say(&format!(
        "{architecture} batch {batch} side {side} bf16: {each:.2} ms a step = {:.0} images/s (issued in {issued:.2} ms); alone: forward with upload {:.2}, backward {:.2}, update {:.2} ms; first step {first:.1} s; {} MB of buffers; loss {loss}",
        images / each * 1e3,
        parts[0],
        parts[1],
        parts[2],
        student.engine().bytes() >> 20,
    ));
    Ok(())
}
