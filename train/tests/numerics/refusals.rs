//! Shapes that do not match are errors, and a NaN is not hidden.

use lgd_kernels::{Activation, ShapeError, Window};
use lgd_train::engine::graph::{Builder, ConvInitial, ConvSpec, LinearKind, NormSpec, Shape, Value};
use lgd_train::engine::{Backend, Mode};
use lgd_train::error::TrainError;

use crate::device::{Cpu, TestDevice, on_every_device};
use crate::layer::{Layer, TRAIN, shape};

on_every_device!(
    inputs_of_another_length_are_refused,
    masks_that_do_not_fit_are_refused,
    hidden_positions_are_zero_and_have_no_gradient,
    a_masked_normalization_leaves_other_readers_gradients_alone,
    a_nan_is_not_hidden,
);

/// Whether a graph over `[2, 4, 4, 6]` is refused.
fn refused(build: impl FnOnce(&mut Builder, Value) -> Result<Value, ShapeError>) -> bool {
    let (mut builder, x) = Builder::new(shape(&[2, 4, 4, 6])).unwrap();
    build(&mut builder, x).is_err()
}

fn conv(outputs: usize, side: usize, window: Window, groups: usize) -> bool {
    refused(|b, x| b.conv(x, "conv", ConvSpec { window, groups, ..ConvSpec::dense(outputs, side, 1) }))
}

const UNIT: Window = Window { stride: 1, padding: 0, dilation: 1 };

#[test]
fn zero_sizes_are_refused() {
    for zero in 0..4 {
        let mut dims = [2, 4, 4, 6];
        dims[zero] = 0;
        assert!(matches!(Builder::new(shape(&dims)), Err(ShapeError::Zero { .. })));
    }
    assert!(!conv(8, 3, UNIT, 2), "a convolution that fits");
    assert!(conv(0, 3, UNIT, 1), "no filters");
    assert!(conv(8, 0, UNIT, 1), "no taps");
    assert!(conv(8, 3, UNIT, 0), "no groups");
    assert!(conv(8, 3, Window { stride: 0, ..UNIT }, 1), "no stride");
    assert!(conv(8, 3, Window { dilation: 0, ..UNIT }, 1), "no dilation");
    assert!(refused(|b, x| b.max_pool(x, 0, UNIT)), "an empty window");
    let spec = |outputs, side, stride| {
        let window = Window { stride, padding: 0, dilation: 1 };
        ConvSpec { window, ..ConvSpec::dense(outputs, side, 1) }
    };
    assert!(!refused(|b, x| b.conv_transpose(x, "up", spec(3, 2, 2))));
    for wrong in [spec(0, 2, 2), spec(3, 0, 2), spec(3, 2, 0)] {
        assert!(refused(|b, x| b.conv_transpose(x, "up", wrong)), "{wrong:?}");
    }
    let pooled = |outputs| {
        refused(|b, x| {
            let x = b.global_average_pool(x);
            b.linear(x, "linear", outputs, LinearKind::Dense)
        })
    };
    assert!(pooled(0) && !pooled(3));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert!(conv(8, 5, UNIT, 1), "a window larger than the image");
    assert!(conv(8, 3, Window { dilation: 2, ..UNIT }, 1), "a dilated window larger than the image");
    assert!(conv(8, 3, UNIT, 4), "groups that do not divide the inputs");
    assert!(conv(8, 3, UNIT, 3), "groups that do not divide the outputs");
    assert!(refused(|b, x| b.max_pool(x, 5, UNIT)), "a pool larger than the image");
    assert!(refused(|b, x| { b.max_pool(x, 2, Window { padding: 2, ..UNIT }) }), "windows without a pixel");
    assert!(refused(|b, x| b.linear(x, "linear", 3, LinearKind::Dense)), "a dense layer on positions");
    assert!(refused(|b, x| b.l2_normalize(x)), "rows with positions");
    let up = ConvSpec { window: Window { padding: 9, ..UNIT }, ..ConvSpec::dense(3, 2, 1) };
    assert!(refused(|b, x| b.conv_transpose(x, "up", up)), "padding that leaves nothing");
    assert!(refused(|b, x| b.conv_transpose(x, "up", ConvSpec { groups: 2, window: UNIT, ..up })), "groups");
    assert!(
        refused(|b, x| {
            let other = b.conv(x, "conv", ConvSpec::dense(5, 3, 1))?;
            b.add(x, other, Activation::Identity)
        }),
        "a sum of other channels"
    );
    assert!(
        refused(|b, x| {
            // The same number of values, in another shape.
            let other = b.conv(x, "conv", ConvSpec::dense(24, 3, 2))?;
            b.add(x, other, Activation::Identity)
        }),
        "a sum of other positions"
    );
    assert!(refused(|b, x| b.scale(x, x)), "a gate with positions");
    assert!(
        refused(|b, x| {
            let pooled = b.global_average_pool(x);
            let gate = b.linear(pooled, "gate", 5, LinearKind::Pointwise(ConvInitial::FanOut))?;
            b.scale(x, gate)
        }),
        "a gate of other channels"
    );
}

#[test]
fn a_parameter_is_used_once() {
    assert!(refused(|b, x| {
        let y = b.conv(x, "conv", ConvSpec::dense(6, 3, 1))?;
        b.conv(y, "conv", ConvSpec::dense(6, 3, 1))
    }));
    assert!(refused(|b, x| {
        let y = b.batch_norm(x, "norm", NormSpec::new(Activation::Relu))?;
        b.bias(y, "norm", 6)
    }));
}

fn inputs_of_another_length_are_refused<D: TestDevice>() {
    let mut layer = Layer::<D>::new(&[2, 4, 4, 6], |b, x| Ok(vec![b.global_average_pool(x)]));
    assert!(layer.run(&[0.0; 191], TRAIN).is_err());
    assert!(layer.run(&[], Mode::Inference).is_err());
    assert!(layer.run(&[0.0; 192], TRAIN).is_ok());
    let state = layer.tape.backend_mut().state().unwrap();
    let mut longer = state.clone();
    longer.parameters.push(0.0);
    assert!(layer.tape.backend_mut().load_state(&longer).is_err());
    assert!(layer.tape.backend_mut().load_state(&state).is_ok());
}

fn masked<D: TestDevice>() -> Layer<D> {
    Layer::new(&[2, 4, 4, 6], |b, x| {
        let x = b.mask(x);
        let y = b.conv(x, "conv", ConvSpec::dense(3, 3, 1))?;
        let y = b.batch_norm(y, "norm", NormSpec { masked: true, ..NormSpec::new(Activation::Relu) })?;
        Ok(vec![b.mask(y)])
    })
}

fn masks_that_do_not_fit_are_refused<D: TestDevice>() {
    let x = crate::golden::normal("x", 192);
    let mut layer = masked::<D>();
    assert!(matches!(layer.run(&x, TRAIN), Err(TrainError::NoMask)));
    let mut with = |visible: &[bool], rows, columns| {
        let set = layer.set_mask(visible, rows, columns);
        set.and_then(|()| layer.run(&x, TRAIN)).is_ok()
    };
    assert!(with(&[true; 8], 2, 2));
    assert!(!with(&[true; 7], 2, 2), "a part of an image");
    assert!(!with(&[true; 12], 2, 2), "three images");
    assert!(!with(&[true; 18], 3, 3), "cells that do not divide the image");
    assert!(!with(&[], 0, 0), "no cells");
    assert!(with(&[true, false, false, false, false, false, false, true], 2, 2));
}

/// CPU's kernels only: on a GPU, `Student::set_mask` checks this.
#[test]
fn masks_that_show_nothing_are_refused() {
    let mut layer = masked::<Cpu>();
    layer.set_mask(&[false; 8], 2, 2).unwrap();
    assert!(layer.run(&crate::golden::normal("x", 192), TRAIN).is_err());
}

fn hidden_positions_are_zero_and_have_no_gradient<D: TestDevice>() {
    let mut layer = masked::<D>();
    let visible = [true, false, false, true, false, false, true, false];
    layer.set_mask(&visible, 2, 2).unwrap();
    let x = crate::golden::normal("x", 192);
    let y = layer.forward(&x, TRAIN);
    layer.backward(&crate::golden::normal("g", y.len()));
    let dx = layer.dx();
    let seen = |values: &[f32], channels: usize| {
        let pixels = values.chunks_exact(channels).enumerate();
        let hidden = pixels.filter(|(at, _)| !visible[at / 16 * 4 + at % 16 / 8 * 2 + at % 4 / 2]);
        hidden.flat_map(|(_, pixel)| pixel.to_vec()).any(|v| v != 0.0)
    };
    assert!(!seen(&y, 3) && !seen(&dx, 6));
    assert!(dx.iter().any(|v| *v != 0.0));
}

fn a_masked_normalization_leaves_other_readers_gradients_alone<D: TestDevice>() {
    let mut layer = Layer::<D>::new(&[2, 4, 4, 6], |b, x| {
        let masked = b.mask(x);
        let y = b.conv(masked, "conv", ConvSpec::dense(3, 3, 1))?;
        let norm = b.batch_norm(y, "norm", NormSpec { masked: true, ..NormSpec::new(Activation::Silu) })?;
        let norm = b.mask(norm);
        let z = b.add(norm, y, Activation::Identity)?;
        Ok(vec![b.bias(z, "bias", 1)?])
    });
    let visible = [true, false, false, true, false, false, true, false];
    layer.set_mask(&visible, 2, 2).unwrap();
    let x = crate::golden::normal("x", 192);
    let error = layer.gradient_error(&x, &[crate::golden::normal("g", 96)], 1e-2);
    assert!(error < D::tolerance(5e-3), "{error:.1e}");
}

fn a_nan_is_not_hidden<D: TestDevice>() {
    type Build = fn(&mut Builder, Value) -> Result<Value, ShapeError>;
    let layers: [(&str, Build); 12] = [
        ("conv", |b, x| b.conv(x, "conv", ConvSpec::dense(4, 3, 1))),
        ("depthwise", |b, x| b.conv(x, "conv", ConvSpec::depthwise(6, 3, 1))),
        ("norm", |b, x| b.batch_norm(x, "norm", NormSpec::new(Activation::Relu6))),
        ("pool", |b, x| b.max_pool(x, 2, Window { stride: 2, ..UNIT })),
        ("average", |b, x| Ok(b.global_average_pool(x))),
        ("add", |b, x| b.add(x, x, Activation::Relu)),
        ("relu", |b, x| Ok(b.activate(x, Activation::Relu))),
        ("relu6", |b, x| Ok(b.activate(x, Activation::Relu6))),
        ("hardswish", |b, x| Ok(b.activate(x, Activation::HardSwish))),
        ("hardsigmoid", |b, x| Ok(b.activate(x, Activation::HardSigmoid))),
        ("silu", |b, x| Ok(b.activate(x, Activation::Silu))),
        ("rows", |b, x| {
            let x = b.global_average_pool(x);
            let x = b.linear(x, "linear", 3, LinearKind::Dense)?;
            b.l2_normalize(x)
        }),
    ];
    for (name, build) in layers {
        let mut layer = Layer::<D>::new(&[1, 4, 4, 6], |b, x| Ok(vec![build(b, x)?]));
        let x = vec![f32::NAN; layer.images_len()];
        assert!(layer.forward(&x, TRAIN).iter().all(|v| v.is_nan()), "{name}");
    }
}

#[test]
fn shapes_count_their_values() {
    let shape = Shape { batch: 2, height: 3, width: 4, channels: 5 };
    assert_eq!((shape.len(), shape.rows(), shape.pixels(), shape.is_empty()), (120, 24, 12, false));
}
