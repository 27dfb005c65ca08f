//! Times training steps.

use std::time::Instant;

use candle_core::{Device, Tensor};
use lgd_cuda::Element;
use lgd_data::render::Normalization;
use lgd_train::optim::OptimizerSettings;
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

use crate::{DIM, on_gpu, pixels, random, say};

/// Prints images per second over `steps` steps, and the time of each part of one step alone.
pub fn time(
    architecture: Architecture,
    (batch, side): (usize, usize),
    steps: u32,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = StudentConfig::new(architecture, Head::Projection { dim: DIM }, 1);
    let mut student = on_gpu(config, Element::Bf16, true, device)?;
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
