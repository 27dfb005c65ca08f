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
use lgd_train::engine::parameters::State;
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
    Ok((weighted("pooled", &output.pooled)? + weighted("embedding", &output.embedding)?)?)
}

/// What two steps gave: losses, gradients of the first, parameters, running statistics, and the embedding in inference.
struct Outcome {
    losses: Vec<f32>,
    gradient: Vec<f32>,
    state: State,
    embedding: Vec<f32>,
}

fn two_steps(
    student: &mut Student,
    images: Images<'_>,
    shape: (usize, usize, usize),
) -> Result<Outcome, TrainError> {
    let optimiser = OptimiserSettings { clip: Some(5.0), ema: Some(0.9), ..OptimiserSettings::default() };
    let (mut losses, mut gradient) = (Vec::new(), Vec::new());
    for step in 0..2 {
        let loss = loss(student, images, shape, Mode::Train { seed: 3, step })?;
        student.backward(&loss, false)?;
        losses.push(loss.to_scalar::<f32>()?);
        if step == 0 {
            gradient = student.engine().gradients()?;
        }
        let update = optimiser.update(student.table(), 0.01, step + 1);
        student.update(&update)?;
    }
    let output = student.forward(images, shape, Mode::Inference)?;
    let embedding = output.embedding.flatten_all()?.to_vec1()?;
    Ok(Outcome { losses, gradient, state: student.engine().state()?, embedding })
}

/// Compares two steps on both devices. How far apart they may be follows from the network itself: from what rounding its
/// parameters once does to the same steps on the CPU. (Where an activation has a kink, a value that changes sign changes the
/// gradient by a jump, so that a fixed tolerance would have to be loose.)
fn compare(architecture: Architecture, element: Element, device: &Device) -> Result<bool, TrainError> {
    let config = StudentConfig::new(architecture, Head::Projection { dim: DIM }, 1);
    let shape = (6, 96, 80);
    let rgb = pixels(shape.0 * shape.1 * shape.2 * 3);
    let images = Images::Pixels { rgb: &rgb, normalization: &Normalization::IMAGENET };
    let want = two_steps(&mut Student::new(config, &Device::Cpu)?, images, shape)?;
    let got = two_steps(&mut student(config, element, false, device)?, images, shape)?;
    let mut near = Student::new(config, &Device::Cpu)?;
    let mut state = near.engine().state()?;
    let size = if element == Element::F32 { 1e-6 } else { 4e-3 };
    let noise = random("noise", state.parameters.len());
    state.parameters.iter_mut().zip(noise).for_each(|(value, noise)| *value *= 1.0 + size * noise);
    near.engine().load_state(&state)?;
    let near = two_steps(&mut near, images, shape)?;
    let mut passed = true;
    let mut words = Vec::new();
    for (name, of) in PARTS {
        let (error, sensitivity) = (distance(of(&want), of(&got)), distance(of(&want), of(&near)));
        passed &= error <= TIMES * sensitivity + 1e-6;
        words.push(format!("{name} {error:.1e} ({sensitivity:.1e})"));
    }
    let verdict = if passed { "passed" } else { "FAILED" };
    let losses = [want.losses, got.losses];
    say(&format!(
        "{verdict} {architecture} {element:?}: errors (sensitivity): {}; losses {losses:?}",
        words.join(", ")
    ));
    Ok(passed)
}

/// An error may be this many times what rounding the parameters does: activations and gradients are rounded as well.
const TIMES: f64 = 4.0;

type Part = (&'static str, fn(&Outcome) -> &[f32]);
const PARTS: [Part; 4] = [
    ("gradient", |outcome| &outcome.gradient),
    ("parameters", |outcome| &outcome.state.parameters),
    ("running statistics", |outcome| &outcome.state.buffers),
    ("embedding", |outcome| &outcome.embedding),
];

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
        let loss = (&output.embedding * &weights)?.sum_all()?;
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
