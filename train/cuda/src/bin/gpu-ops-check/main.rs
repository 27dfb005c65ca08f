//! Checks every operation of `lgd-cuda` on the GPU at hand against plain f64 loops, and measures the ones that matter.
//!
//! ```text
//! gpu-ops-check check     all operations, in f32, f16 and bf16
//! gpu-ops-check time      ResNet-18's layers at batch 256, 224 px, bf16, and the memory-bound passes
//! gpu-ops-check           both
//! ```
//!
//! Exit code: 0 all passed, 1 a check failed, 2 an error, 3 no GPU. A program and not a test: without a GPU it fails instead of
//! being skipped. CI runs it on a GPU made of software (tests/software-gpu), scripts/gpu-check on a real one.

mod checks;
mod lab;
mod reference;
mod timings;

use std::io::Write;
use std::process::ExitCode;

use cudarc::driver::CudaContext;
use lab::Lab;
use lgd_cuda::{CudaError, Element, Gpu, Tuning};

const FAILED: u8 = 1;
const ERROR: u8 = 2;
const NO_GPU: u8 = 3;

fn main() -> ExitCode {
    let mode = std::env::args().nth(1);
    match run(mode.as_deref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("gpu-ops-check: error: {error}");
            if CudaContext::device_count().is_ok_and(|count| count > 0) {
                ExitCode::from(ERROR)
            } else {
                ExitCode::from(NO_GPU)
            }
        }
    }
}

fn run(mode: Option<&str>) -> Result<bool, CudaError> {
    // Measuring candidates takes longer than the checks: only timings do it.
    let mut gpu = Gpu::first(Tuning { measure: false, ..Tuning::default() })?;
    say(&format!("device: {}", gpu.stream().context().name()?));
    let mut passed = true;
    if mode != Some("time") {
        for element in [Element::F32, Element::Bf16, Element::F16] {
            let mut lab = Lab::new(gpu, element);
            checks::all(&mut lab)?;
            passed &= lab.report();
            gpu = lab.into_gpu();
        }
        let mut lab = Lab::new(gpu, Element::F32);
        checks::plain(&mut lab)?;
        passed &= lab.report();
        drop(lab);
    }
    if mode != Some("check") {
        timings::all(&mut Gpu::first(Tuning::default())?)?;
    }
    Ok(passed)
}

/// A line of the report. A reader that has gone away is no concern of the checks.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
