//! Images per second of a whole training step (forward, LGD loss, backward, SGD) on random data.
//!
//! `cargo bench -p lgd-train --bench train_step -- [resnet18|mobilenet_v2] [batch] [side] [steps]`; without arguments a
//! table of usual cases. Two threads, unless RAYON_NUM_THREADS says otherwise.

use std::time::Instant;

use candle_core::{Device, Tensor};
use lgd_train::error::TrainError;
use lgd_train::objective::{Lgd, LgdSettings, Objective, TargetBatch, VisualBank};
use lgd_train::optim::{Sgd, SgdSettings};
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Mode, Student};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CATEGORIES: usize = 64;
const DIM: usize = 512;

fn random(name: &str, shape: &[usize]) -> Result<Tensor, TrainError> {
    let mut stream = Stream::named(0, name);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
    Ok(tensor.to_dtype(candle_core::DType::F32)?)
}

fn uniform_distribution(batch: usize, columns: usize) -> Result<Tensor, TrainError> {
    let mass = 1.0 / f32::from(u16::try_from(columns).unwrap_or(u16::MAX));
    Ok(Tensor::full(mass, (batch, columns), &Device::Cpu)?)
}

/// Seconds of each of `steps` steps, after two that are not counted.
fn measure(
    architecture: Architecture,
    batch: usize,
    side: usize,
    steps: usize,
) -> Result<Vec<f64>, TrainError> {
    let student = Student::new(architecture, DIM, 0, &Device::Cpu)?;
    let vsb = random("vsb", &[CATEGORIES, DIM])?;
    let tsb = random("tsb", &[CATEGORIES, DIM])?;
    let assigned = vec![true; CATEGORIES];
    let objective = Lgd::new(LgdSettings::default(), tsb, VisualBank::Mean { vsb }, &assigned)?;
    let mut sgd = Sgd::new(SgdSettings::default(), student.params())?;
    let images = random("images", &[batch, side, side, 3])?;
    let targets = TargetBatch {
        embedding: Some(random("teacher", &[batch, DIM])?),
        text_distribution: Some(uniform_distribution(batch, CATEGORIES)?),
        visual_distribution: Some(uniform_distribution(batch, CATEGORIES + 1)?),
        pseudo_category: None,
    };
    let mut seconds = Vec::new();
    for (step, _) in (0u64..).zip(0..steps + 2) {
        let start = Instant::now();
        let output = student.forward(&images, Mode::Train { seed: 0, step })?;
        let loss = objective.loss(&output, &targets)?;
        let forward = start.elapsed().as_secs_f64();
        let grads = loss.total.backward()?;
        let backward = start.elapsed().as_secs_f64();
        sgd.step(student.params(), &grads, 0.01)?;
        let total = start.elapsed().as_secs_f64();
        if step >= 2 {
            seconds.push(total);
        } else if step == 1 {
            eprintln!(
                "forward {forward:.3} s, backward {:.3} s, sgd {:.3} s",
                backward - forward,
                total - backward
            );
        }
    }
    Ok(seconds)
}

fn report(architecture: Architecture, batch: usize, side: usize, steps: usize) -> Result<(), TrainError> {
    let mut seconds = measure(architecture, batch, side, steps)?;
    seconds.sort_by(f64::total_cmp);
    let images = f64::from(u32::try_from(batch).unwrap_or(u32::MAX));
    let (best, median) = (images / seconds[0], images / seconds[seconds.len() / 2]);
    eprintln!("{architecture} batch {batch} side {side}: {median:.1} images/s (best step {best:.1})");
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        rayon::ThreadPoolBuilder::new().num_threads(2).build_global()?;
    }
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [name, batch, side, steps] = &arguments[..] {
        report(name.parse()?, batch.parse()?, side.parse()?, steps.parse()?)?;
        return Ok(());
    }
    for side in [32, 64] {
        report(Architecture::ResNet18, 32, side, 5)?;
        report(Architecture::MobileNetV2, 32, side, 5)?;
    }
    Ok(())
}
