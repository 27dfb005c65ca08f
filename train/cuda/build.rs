//! Compiles each of the kernels (`kernels/*.cu`) to a fat binary: machine code for one GPU, and PTX that a driver
//! compiles for others.
//!
//! Needs nvcc, found through NVCC, below CUDA_HOME, or on the PATH; `scripts/cuda-toolkit` fetches one.
//! CUDA_COMPUTE_CAP selects the GPU. Default: 90 (Hopper).

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The oldest GPU that the PTX runs on: Ampere, the first with bf16.
const OLDEST: &str = "80";
const KERNELS: [&str; 5] = ["batch_norm", "depthwise", "elementwise", "optimizer", "rows"];

fn main() -> ExitCode {
    for variable in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=kernels");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { return ExitCode::FAILURE };
    let nvcc = nvcc();
    let compiled = std::thread::scope(|scope| {
        let all: Vec<_> = KERNELS.iter().map(|name| scope.spawn(|| compile(&nvcc, name, &out))).collect();
        all.into_iter().all(|one| one.join().unwrap_or(false))
    });
    if compiled { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let below = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin").join("nvcc"));
    below.filter(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into())
}

fn compile(nvcc: &Path, name: &str, out: &Path) -> bool {
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "90".to_owned());
    let result = Command::new(nvcc)
        .args(["-fatbin", "-O3", "-std=c++17", "--compress-mode=size"])
        .arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"))
        .arg(format!("-gencode=arch=compute_{OLDEST},code=compute_{OLDEST}"))
        .arg(format!("kernels/{name}.cu"))
        .arg("-o")
        .arg(out.join(name).with_extension("fatbin"))
        .output();
    match result {
        Ok(done) if done.status.success() => true,
        Ok(done) => {
            eprintln!("kernels/{name}.cu: {}", String::from_utf8_lossy(&done.stderr));
            false
        }
        Err(error) => {
            eprintln!("`{}` cannot be run: {error}", nvcc.display());
            eprintln!("hint: `. \"$(scripts/cuda-toolkit)\"` fetches CUDA's compiler and names it");
            false
        }
    }
}
