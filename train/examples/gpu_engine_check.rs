//! Checks the engine on the GPU at hand against the CPU's, students as a whole, and measures training steps.
//!
//! ```text
//! gpu_engine_check check                              outputs and gradients of every student, f32 and bf16
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
use lgd_train::optim::OptimiserSettings;
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

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
                for element in [Element::F32, Element::Bf16] {
                    passed &= compare(architecture, element, device)?;
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

/// One number of pooled feature and embedding that depends on all of both.
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
    Ok((weighted("pooled", &output.pooled)? + weighted("embedding", output.embedding()?)?)?)
}

/// Runs two steps on both devices and compares the losses, the gradients of the first, and the parameters after the second.
fn compare(architecture: Architecture, element: Element, device: &Device) -> Result<bool, TrainError> {
    let config = StudentConfig::new(architecture, Head::Projection { dim: DIM }, 1);
    let shape = (6, 96, 80);
    let rgb = pixels(shape.0 * shape.1 * shape.2 * 3);
    let images = Images::Pixels { rgb: &rgb, normalization: &Normalization::IMAGENET };
    let mut here = Student::new(config, &Device::Cpu)?;
    let mut there = student(config, element, false, device)?;
    let optimiser = OptimiserSettings { clip: Some(5.0), ema: Some(0.9), ..OptimiserSettings::default() };
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
            let update = optimiser.update(student.table(), 0.01, step + 1);
            student.update(&update)?;
        }
        losses.push(pair);
    }
    let (gradient, other) = first.ok_or(TrainError::NothingRan)?;
    let states = (here.engine().state()?, there.engine().state()?);
    let inference = [&mut here, &mut there].map(|student| {
        let output = student.forward(images, shape, Mode::Inference)?;
        Ok::<_, TrainError>(output.embedding()?.flatten_all()?.to_vec1::<f32>()?)
    });
    let [embedding, other_embedding] = inference;
    let errors = [
        ("gradient", distance(&gradient, &other)),
        ("parameters", distance(&states.0.parameters, &states.1.parameters)),
        ("running statistics", distance(&states.0.buffers, &states.1.buffers)),
        ("embedding", distance(&embedding?, &other_embedding?)),
    ];
    // In bf16 the gradient of a fresh network is that of a neighbouring function: only its direction can be asked for.
    let limits: [f64; 4] =
        if element == Element::F32 { [2e-3, 1e-4, 1e-4, 2e-3] } else { [0.35, 0.02, 0.02, 0.15] };
    let passed = errors.iter().zip(limits).all(|((_, error), limit)| *error <= limit);
    let words: Vec<String> = errors.iter().map(|(name, error)| format!("{name} {error:.1e}")).collect();
    let verdict = if passed { "passed" } else { "FAILED" };
    say(&format!(
        "{verdict} {architecture} {element:?}: relative errors: {}; losses {losses:?}",
        words.join(", ")
    ));
    Ok(passed)
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
    let optimiser = OptimiserSettings::default();
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
        student.update(&optimiser.update(student.table(), 0.01, number))?;
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
