//! Checks the engine on this machine's GPU against the CPU's, with whole students, and measures training steps.
//!
//! ```text
//! gpu_engine_check check [ARCHITECTURE...]            outputs and gradients of students, whole and masked, f32 and bf16
//! gpu_engine_check time ARCHITECTURE BATCH SIDE STEPS images per second of forward, backward and SGD, bf16, from pixels
//! ```
//!
//! Exit code: 0 all passed, 1 a check failed, 2 an error, 3 no GPU.

mod compare;
mod steps;
mod timing;

use std::io::Write;
use std::process::ExitCode;

use candle_core::Device;
use lgd_cuda::{Element, Tuning};
use lgd_train::engine::{CudaBackend, Engine, Tape};
use lgd_train::error::TrainError;
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Student, StudentConfig};

const FAILED: u8 = 1;
const ERROR: u8 = 2;
const NO_GPU: u8 = 3;
/// Dimensions of every student's embedding.
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
            let images = (batch.parse()?, side.parse()?);
            timing::time(architecture.parse()?, images, steps.parse()?, device)?;
            Ok(true)
        }
        [mode, names @ ..] if mode == "check" => {
            let named: Vec<Architecture> = names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
            let all = if named.is_empty() { Architecture::ALL.to_vec() } else { named };
            let mut passed = true;
            for architecture in all {
                for masked in [false, true] {
                    passed &= compare::student(architecture, masked, device)?;
                }
            }
            Ok(passed)
        }
        _ => Err("check [ARCHITECTURE...], or time ARCHITECTURE BATCH SIDE STEPS".into()),
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A student on the GPU.
fn on_gpu(
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

/// Standard normal values, the same for the same name.
fn random(name: &str, len: usize) -> Vec<f32> {
    let mut stream = Stream::named(0, name);
    (0..len).map(|_| single(stream.normal())).collect()
}

/// Random RGB bytes.
fn pixels(len: usize) -> Vec<u8> {
    let mut stream = Stream::named(0, "pixels");
    (0..len).map(|_| stream.next_u64().to_le_bytes()[0]).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn single(value: f64) -> f32 {
    value as f32
}
