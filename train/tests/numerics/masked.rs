//! Masked students: sparse backbones, their decoder, and the finished students.

use candle_core::Tensor;
use lgd_kernels::Activation;
use lgd_train::StudentSizes;
use lgd_train::engine::graph::{ConvInitial, ConvSpec, LinearKind, NormSpec};
use lgd_train::error::TrainError;
use lgd_train::student::{
    Architecture, DECODER, DecoderConfig, Extras, Head, Images, Mode, Regularization, Student, StudentConfig,
    StudentError, StudentOutput,
};

use crate::device::{Cpu, TestDevice, on_every_device};
use crate::golden::{normal, values};
use crate::layer::{Layer, TRAIN};

on_every_device!(
    hidden_pixels_change_neither_outputs_nor_gradients,
    decoders_reach_every_grid_that_fits,
    masks_and_images_that_do_not_fit_are_refused,
    what_a_student_was_not_made_for_is_missing,
    the_decoder_is_dropped_and_the_encoder_stays,
    tokens_fill_hidden_positions_and_learn_from_them,
    means_of_sparse_networks_are_over_visible_positions,
);

const DIM: usize = 12;

/// A decoder of 5-dimensional tokens.
fn decoder((rows, columns): (usize, usize), (height, width): (usize, usize)) -> DecoderConfig {
    DecoderConfig { rows, columns, dim: 5, height, width }
}

fn config(architecture: Architecture, decoder: Option<DecoderConfig>) -> StudentConfig {
    let extras = Extras { raw_pooled: true, decoder };
    let config = StudentConfig::new(architecture, Head::Projection { dim: DIM }, 3);
    StudentConfig { regularization: Regularization::NONE, extras, ..config }
}

fn student<D: TestDevice>(architecture: Architecture, decoder: Option<DecoderConfig>) -> Student {
    D::student(config(architecture, decoder))
}

/// A scalar that depends on all of `value`.
fn functional(name: &str, value: &Tensor) -> Tensor {
    let weights = Tensor::from_vec(normal(name, value.elem_count()), value.shape(), value.device()).unwrap();
    value.mul(&weights).unwrap().mean_all().unwrap()
}

/// A scalar that depends on everything that a dense student computes.
fn encoded(output: &StudentOutput) -> Tensor {
    let parts = [
        functional("pooled", &output.pooled),
        functional("embedding", output.embedding().unwrap()),
        functional("raw", output.raw_pooled().unwrap()),
    ];
    Tensor::stack(&parts, 0).unwrap().sum_all().unwrap()
}

fn norm_is_zero(tensor: &Tensor) -> bool {
    values(tensor).iter().all(|value| *value == 0.0)
}

fn hidden_pixels_change_neither_outputs_nor_gradients<D: TestDevice>() {
    let (batch, side) = (2, 64);
    let images = normal("images", batch * side * side * 3);
    let visible = [true, false, false, true, false, true, false, false];
    let mut others = images.clone();
    for (at, pixel) in others.chunks_exact_mut(3).enumerate() {
        let (image, row, column) = (at / (side * side), at / side % side, at % side);
        if !visible[(image * 2 + row / 32) * 2 + column / 32] {
            pixel.copy_from_slice(&[7.0, f32::NAN, -3.0]);
        }
    }
    for architecture in Architecture::ALL {
        let mut student = student::<D>(architecture, Some(decoder((4, 4), (side, side))));
        student.set_mask(&visible, (2, 2)).unwrap();
        let [one, other] = [&images, &others].map(|images| {
            let output = student.forward(Images::Normalized(images), (batch, side, side), TRAIN).unwrap();
            let loss = (encoded(&output) + functional("tokens", output.tokens().unwrap())).unwrap();
            student.backward(&loss, false).unwrap();
            (values(&loss), values(output.tokens().unwrap()), student.engine().gradients().unwrap())
        });
        assert_eq!(one, other, "{architecture}");
        assert!(one.2.iter().all(|v| v.is_finite()) && one.2.iter().any(|v| *v != 0.0));
    }
}

fn decoders_reach_every_grid_that_fits<D: TestDevice>() {
    let cases = [
        (Architecture::ResNet18, (2, 2), (64, 64)),
        (Architecture::ResNet18, (1, 2), (32, 64)),
        (Architecture::ResNet18, (4, 4), (64, 64)),
        (Architecture::ResNet34, (8, 16), (32, 64)),
        (Architecture::MobileNetV2, (16, 32), (32, 64)),
        (Architecture::MobileNetV3Large, (2, 4), (32, 64)),
        (Architecture::EfficientNetB0, (8, 8), (64, 64)),
    ];
    for (architecture, grid, size) in cases {
        let mut student = student::<D>(architecture, Some(decoder(grid, size)));
        let cells = (Student::mask_cells(size.0), Student::mask_cells(size.1));
        let per = cells.0 * cells.1;
        // Every other cell of three images is hidden.
        let visible: Vec<bool> = (0..3 * per).map(|cell| cell % 2 == 0).collect();
        student.set_mask(&visible, cells).unwrap();
        let images = normal("images", 3 * size.0 * size.1 * 3);
        let output = student.forward(Images::Normalized(&images), (3, size.0, size.1), TRAIN).unwrap();
        let tokens = output.tokens().unwrap();
        assert_eq!(tokens.dims(), [3, grid.0, grid.1, 5], "{architecture}");
        student.backward(&functional("tokens", tokens), false).unwrap();
        for (name, gradient) in student.gradients().unwrap() {
            assert_eq!(norm_is_zero(&gradient), name.starts_with("head."), "{architecture} {grid:?}: {name}");
        }
    }
}

#[test]
fn the_sizes_that_are_told_of_a_grid_are_those_that_students_take() {
    for grid in [2, 5, 7, 16, 32, 48] {
        let told = StudentSizes { rows: grid, columns: grid };
        let words = told.to_string();
        for side in (64..=48 * 32).step_by(32) {
            let makes = |architecture| match config(architecture, Some(decoder((grid, grid), (side, side))))
                .validate()
            {
                Ok(()) => true,
                Err(TrainError::Student(StudentError::TokenGrid { .. })) => false,
                Err(error) => panic!("{grid} x {grid} of {side} px: {error}"),
            };
            let some = told.sides().contains(&u32::try_from(side).unwrap());
            let resnets = some && !words.contains(&format!(" {side} (not ResNets)"));
            let found = (makes(Architecture::MobileNetV2), makes(Architecture::ResNet18));
            assert_eq!(found, (some, resnets), "{side} px: {words}");
        }
    }
}

fn refusal(architecture: Architecture, decoder: DecoderConfig) -> String {
    config(architecture, Some(decoder)).validate().unwrap_err().to_string()
}

#[test]
fn sizes_and_grids_that_do_not_fit_are_refused() {
    let error = refusal(Architecture::ResNet18, decoder((7, 7), (224, 200)));
    assert!(error.contains("224 x 200") && error.contains("multiples of 32"), "{error}");
    let error = refusal(Architecture::ResNet18, decoder((1, 1), (32, 32)));
    assert!(error.contains("32 x 32") && error.contains("hint: the smallest square is 64 x 64"), "{error}");
    assert!(refusal(Architecture::ResNet18, decoder((1, 1), (0, 32))).contains("height"));
    let error = refusal(Architecture::ResNet18, decoder((16, 16), (224, 224)));
    assert!(error.contains("16 x 16") && error.contains("7 x 7, 14 x 14, 28 x 28, 56 x 56;"), "{error}");
    assert!(error.contains("tokens of 16 x 16 fit students of 64, 128, 256 or 512 px"), "{error}");
    let error = refusal(Architecture::MobileNetV2, decoder((3, 3), (64, 96)));
    assert!(error.contains("2 x 3, 4 x 6, 8 x 12, 16 x 24, 32 x 48;"), "{error}");
    assert!(refusal(Architecture::ResNet18, decoder((7, 14), (224, 224))).contains("14 x 14"), "rows alone");
    assert!(
        refusal(Architecture::ResNet18, DecoderConfig { dim: 0, ..decoder((7, 7), (224, 224)) }).len() > 1
    );
}

fn masks_and_images_that_do_not_fit_are_refused<D: TestDevice>() {
    let mut student = student::<D>(Architecture::ResNet18, Some(decoder((2, 2), (64, 64))));
    let images = normal("images", 2 * 64 * 64 * 3);
    let images = Images::Normalized(&images);
    assert!(matches!(student.forward(images, (2, 64, 64), TRAIN), Err(TrainError::NoMask)));
    assert!(
        student.set_mask(&[true, true, true, false, false, false, false, false], (2, 2)).is_err(),
        "blind"
    );
    assert!(student.set_mask(&[true; 7], (2, 2)).is_err(), "a part of an image");
    student.set_mask(&[true; 12], (2, 2)).unwrap();
    assert!(student.forward(images, (2, 64, 64), TRAIN).is_err(), "three images");
    student.set_mask(&[true; 18], (3, 3)).unwrap();
    assert!(student.forward(images, (2, 64, 64), TRAIN).is_err(), "cells that do not divide the maps");
    student.set_mask(&[true; 8], (2, 2)).unwrap();
    assert!(student.forward(images, (2, 64, 64), TRAIN).is_ok());
    let error = student.forward(images, (2, 32, 128), TRAIN).unwrap_err().to_string();
    assert!(error.contains("[64, 64]") && error.contains("[32, 128]"), "{error}");
    assert!(student.forward(images, (2, 32, 128), Mode::Inference).is_ok(), "inference is dense");
}

fn what_a_student_was_not_made_for_is_missing<D: TestDevice>() {
    let images = normal("images", 32 * 32 * 3 * 2);
    let plain = StudentConfig::new(Architecture::ResNet18, Head::None, 3);
    let mut student = D::student(plain);
    assert_eq!(student.embedding_dim(), None);
    let output = student.forward(Images::Normalized(&images), (2, 32, 32), TRAIN).unwrap();
    let missing = [
        (output.embedding().unwrap_err(), "embedding"),
        (output.raw_pooled().unwrap_err(), "raw_pooled"),
        (output.tokens().unwrap_err(), "tokens"),
    ];
    assert!(missing.iter().all(|(error, name)| error.to_string().contains(name)));
    assert!(student.tensors().unwrap().keys().all(|name| !name.starts_with("head.")));
    student.backward(&functional("pooled", &output.pooled), false).unwrap();
}

fn the_decoder_is_dropped_and_the_encoder_stays<D: TestDevice>() {
    let decoder = decoder((4, 4), (64, 64));
    for architecture in [Architecture::ResNet18, Architecture::EfficientNetB0] {
        let mut masked = student::<D>(architecture, Some(decoder));
        masked.set_mask(&[true, false, false, true, true, true, false, true], (2, 2)).unwrap();
        let images = normal("images", 2 * 64 * 64 * 3);
        let images = Images::Normalized(&images);
        // Running statistics change, including those of the decoder.
        masked.forward(images, (2, 64, 64), TRAIN).unwrap();
        let all = masked.tensors().unwrap();
        assert!(all.keys().any(|name| name.starts_with(DECODER) && name.ends_with("token")));
        assert!(all.keys().any(|name| name.starts_with(DECODER) && name.ends_with("running_mean")));
        let kept = masked.encoder_tensors().unwrap();
        let mut plain = student::<D>(architecture, None);
        let report = plain.load_safetensors(&masked.to_safetensors(&Default::default()).unwrap()).unwrap();
        assert!(report.is_complete() && report.unused.is_empty(), "{architecture}: {report}");
        assert_eq!(kept.keys().collect::<Vec<_>>(), plain.tensors().unwrap().keys().collect::<Vec<_>>());
        let [one, other] = [&mut masked, &mut plain].map(|student| {
            let output = student.forward(images, (2, 64, 64), Mode::Inference).unwrap();
            assert!(output.tokens.is_none());
            [values(&output.pooled), values(output.embedding().unwrap())]
        });
        assert_eq!(one, other, "{architecture}");
        let mut again = student::<D>(architecture, Some(decoder));
        assert!(again.load(&all).unwrap().is_complete(), "a checkpoint restores the decoder");
    }
}

/// CPU only: a GPU does not use our threads.
#[test]
fn bits_of_masked_students_do_not_depend_on_the_number_of_threads() {
    let images = normal("images", 3 * 64 * 64 * 3);
    let visible = [true, false, false, true, true, true, false, true, false, false, false, true];
    let mut student = student::<Cpu>(Architecture::MobileNetV3Large, Some(decoder((8, 8), (64, 64))));
    student.set_mask(&visible, (2, 2)).unwrap();
    let mut run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let output = student.forward(Images::Normalized(&images), (3, 64, 64), TRAIN).unwrap();
            let loss = (encoded(&output) + functional("tokens", output.tokens().unwrap())).unwrap();
            student.backward(&loss, false).unwrap();
            student.engine().gradients().unwrap()
        })
    };
    let one = run(1);
    assert!([2, 3, 5].into_iter().all(|threads| one == run(threads)));
}

/// Two images of 2 x 2 cells, with one to three cells visible in each.
fn with_mask<D: TestDevice>(mut layer: Layer<D>) -> Layer<D> {
    layer.set_mask(&[true, false, true, true, false, false, false, true], 2, 2).unwrap();
    layer
}

fn tokens_fill_hidden_positions_and_learn_from_them<D: TestDevice>() {
    let smooth = NormSpec { masked: true, ..NormSpec::new(Activation::Silu) };
    // Filling of the images themselves, of a normalization, and of a value that has other readers.
    let mut plain = with_mask(Layer::<D>::new(&[2, 4, 4, 6], |b, x| Ok(vec![b.fill_masked(x, "token")?])));
    let token = D::rounded(&normal("token", 6));
    plain.set("token", &token);
    let x = D::rounded(&normal("x", 192));
    let y = plain.forward(&x, TRAIN);
    let g = D::rounded(&normal("g", 192));
    plain.backward(&g);
    let dx = plain.dx();
    let mut sums = [0.0_f64; 6];
    for at in 0..192 {
        let (image, row, column) = (at / 96, at / 24 % 4, at / 6 % 4);
        let visible =
            [true, false, true, true, false, false, false, true][image * 4 + row / 2 * 2 + column / 2];
        assert_eq!(y[at], if visible { x[at] } else { token[at % 6] });
        assert_eq!(dx[at], if visible { g[at] } else { 0.0 });
        sums[at % 6] += if visible { 0.0 } else { f64::from(g[at]) };
    }
    let gradient = plain.gradient("token");
    assert!(gradient.iter().zip(sums).all(|(got, sum)| (f64::from(*got) - sum).abs() < 1e-5));
    let mut decoded = with_mask(Layer::<D>::new(&[2, 4, 4, 6], |b, x| {
        let map = b.sparse(x);
        let map = b.conv(map, "conv", ConvSpec::dense(5, 3, 1))?;
        let map = b.batch_norm(map, "bn", NormSpec::new(Activation::Silu))?;
        b.dense();
        let norm = b.batch_norm(map, "norm", smooth)?;
        let filled = b.fill_masked(norm, "token")?;
        let y = b.conv(filled, "next", ConvSpec::dense(4, 3, 1))?;
        let other = b.conv(map, "other", ConvSpec::dense(4, 1, 1))?;
        Ok(vec![b.add(y, other, Activation::Identity)?, filled])
    }));
    let upstream = [normal("g", 128), normal("h", 160)];
    let error = decoded.gradient_error(&x, &upstream, 1e-2);
    assert!(error < D::tolerance(5e-3), "{error:.1e}");
}

fn means_of_sparse_networks_are_over_visible_positions<D: TestDevice>() {
    let mut mean = with_mask(Layer::<D>::new(&[2, 4, 4, 6], |b, x| {
        let x = b.sparse(x);
        Ok(vec![b.global_average_pool(x)])
    }));
    let x = D::rounded(&normal("x", 192));
    let y = mean.forward(&x, TRAIN);
    for (at, got) in y.iter().enumerate() {
        let (image, channel) = (at / 6, at % 6);
        let cells: &[usize] = if image == 0 { &[0, 2, 3] } else { &[3] };
        let pixels = (0..16).filter(|pixel| cells.contains(&(pixel / 8 * 2 + pixel % 4 / 2)));
        let seen: Vec<f64> = pixels.map(|pixel| f64::from(x[(image * 16 + pixel) * 6 + channel])).collect();
        let expected = seen.iter().sum::<f64>() / crate::golden::real(seen.len());
        assert!((f64::from(*got) - expected).abs() < 1e-6, "{at}: {got} {expected}");
    }
    let squeezed = |sparse: bool| {
        with_mask(Layer::<D>::new(&[2, 4, 4, 6], |b, x| {
            let x = if sparse { b.sparse(x) } else { x };
            let pooled = b.global_average_pool(x);
            let gate = b.linear(pooled, "gate", 6, LinearKind::Pointwise(ConvInitial::FanOut))?;
            let gate = b.activate(gate, Activation::Sigmoid);
            let y = b.scale(x, gate)?;
            Ok(vec![b.global_average_pool(y), y])
        }))
    };
    let error = squeezed(true).gradient_error(&x, &[normal("g", 12), normal("h", 192)], 1e-2);
    assert!(error < D::tolerance(5e-3), "{error:.1e}");
    let mut open = squeezed(true);
    open.set_mask(&[true; 8], 2, 2).unwrap();
    let mut dense = squeezed(false);
    for name in ["gate.weight", "gate.bias"] {
        let value = dense.get(name);
        open.set(name, &value);
    }
    assert_eq!(open.forward(&x, TRAIN), dense.forward(&x, TRAIN), "a dense mean, to the bit");
    open.backward(&normal("g", 12));
    dense.backward(&normal("g", 12));
    assert_eq!((open.dx(), open.gradients()), (dense.dx(), dense.gradients()));
}
