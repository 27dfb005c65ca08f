//! Dropout and stochastic depth: frequency, scale, and the keys of their random draws.

use lgd_train::engine::Mode;
use lgd_train::engine::graph::{Builder, Value};

use crate::device::{Cpu, TestDevice, on_every_device};
use crate::golden::real;
use crate::layer::Layer;

on_every_device!(
    dropout_keeps_the_mean_and_its_gradient_is_its_mask,
    stochastic_depth_drops_whole_images,
    draws_depend_on_seed_step_and_stream_alone,
    inference_and_a_rate_of_zero_drop_nothing,
);

const RATE: f32 = 0.3;

/// The value of a kept 1.
fn kept<D: TestDevice>() -> f32 {
    D::rounded(&[1.0 / (1.0 - RATE)])[0]
}

fn layer<D: TestDevice>(stream: u64, dims: &[usize], per_image: bool) -> Layer<D> {
    Layer::new(dims, |builder: &mut Builder, x: Value| {
        Ok(vec![match per_image {
            true => builder.drop_images(x, stream, RATE),
            false => builder.dropout(x, stream, RATE),
        }])
    })
}

fn step(seed: u64, step: u64) -> Mode {
    Mode::Train { seed, step }
}

fn dropout_keeps_the_mean_and_its_gradient_is_its_mask<D: TestDevice>() {
    let mut layer = layer::<D>(17, &[64, 500], false);
    let ones = vec![1.0; 64 * 500];
    let y = layer.forward(&ones, step(1, 1));
    assert!(y.iter().all(|v| *v == 0.0 || *v == kept::<D>()));
    let mean = y.iter().map(|v| f64::from(*v)).sum::<f64>() / real(y.len());
    // Four standard deviations of the mean of 32,000 draws.
    assert!((mean - 1.0).abs() < 0.015, "mean {mean}");
    layer.backward(&ones);
    assert_eq!(D::rounded(&layer.dx()), y, "the draw of the forward pass");
    let images: Vec<f32> = y.chunks_exact(500).map(|row| row.iter().sum()).collect();
    assert!(images.windows(2).any(|pair| pair[0] != pair[1]), "images have draws of their own");
}

fn stochastic_depth_drops_whole_images<D: TestDevice>() {
    let mut layer = layer::<D>(17, &[2000, 2, 2, 3], true);
    let ones = vec![1.0; 2000 * 12];
    let y = layer.forward(&ones, step(1, 1));
    assert!(y.chunks_exact(12).all(|image| image.iter().all(|v| *v == image[0])));
    let kept = y.chunks_exact(12).filter(|image| image[0] == kept::<D>()).count();
    assert!((real(kept) / 2000.0 - 0.7).abs() < 0.04, "{kept} of 2000 kept");
    layer.backward(&ones);
    assert_eq!(D::rounded(&layer.dx()), y);
}

fn draws_depend_on_seed_step_and_stream_alone<D: TestDevice>() {
    let ones = vec![1.0; 8 * 50];
    let draw = |stream, mode| layer::<D>(stream, &[8, 50], false).forward(&ones, mode);
    let first = draw(17, step(1, 1));
    assert_eq!(first, draw(17, step(1, 1)));
    let on_cpu = layer::<Cpu>(17, &[8, 50], false).forward(&ones, step(1, 1));
    assert_eq!(first, D::rounded(&on_cpu), "the device draws nothing of its own");
    assert_ne!(first, draw(17, step(1, 2)), "the step");
    assert_ne!(first, draw(17, step(2, 1)), "the seed");
    assert_ne!(first, draw(18, step(1, 1)), "the stream");
}

fn inference_and_a_rate_of_zero_drop_nothing<D: TestDevice>() {
    let x = D::rounded(&crate::golden::normal("x", 8 * 50));
    assert_eq!(layer::<D>(17, &[8, 50], false).forward(&x, Mode::Inference), x);
    assert_eq!(layer::<D>(17, &[8, 50], true).forward(&x, Mode::Inference), x);
    let mut none = Layer::<D>::new(&[8, 50], |builder, x| Ok(vec![builder.dropout(x, 17, 0.0)]));
    assert_eq!(none.forward(&x, step(1, 1)), x);
}
