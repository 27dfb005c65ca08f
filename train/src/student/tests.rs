//! Tests of masked backbones, map by map.

use std::sync::Arc;

use candle_core::Tensor;

use super::Architecture;
use super::architecture::LastMap;
use crate::engine::graph::{Builder, Shape};
use crate::engine::{Backend, CpuBackend, Images, Mode, Program, Tape};
use crate::rng::Stream;

const TRAIN: Mode = Mode::Train { seed: 1, step: 1 };
/// Two images of 1 x 4 cells.
const SHAPE: Shape = Shape { batch: 2, height: 32, width: 128, channels: 3 };
const CELLS: (usize, usize) = (1, 4);
/// The outer cells are visible, the inner ones hidden.
const OUTER: [bool; 8] = [true, false, false, true, true, false, false, true];

/// A sparse backbone. Its outputs are its maps, the last map before its activation, and the pooled feature.
struct Backbone {
    tape: Tape<CpuBackend>,
    program: Arc<Program>,
}

impl Backbone {
    fn new(architecture: Architecture, visible: &[bool]) -> Self {
        let (mut builder, images) = Builder::new(SHAPE).unwrap();
        let images = builder.sparse(images);
        let features = (architecture.backbone().features)(&mut builder, images, LastMap::Split, 0.0).unwrap();
        let pooled = builder.global_average_pool(features.maps[features.maps.len() - 1]);
        let outputs = features.maps.into_iter().chain(features.raw).chain([pooled]).collect();
        let (graph, table) = builder.finish(outputs);
        let mut backend = CpuBackend::new(table.initial(1));
        backend.set_mask(visible, CELLS.0, CELLS.1).unwrap();
        let program = Arc::new(Program::new(graph, &backend));
        Self { tape: Tape::new(backend), program }
    }

    fn run(&mut self, images: &[f32], mode: Mode) -> Vec<Tensor> {
        self.tape.forward(&self.program, Images::Normalized(images), mode).unwrap();
        (0..self.program.graph().outputs().len()).map(|at| self.tape.output(at).unwrap()).collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn images() -> Vec<f32> {
    let mut stream = Stream::named(5, "images");
    (0..SHAPE.len()).map(|_| stream.normal() as f32).collect()
}

/// `images` with other pixels in the given columns of cells.
fn changed(images: &[f32], columns: &[usize]) -> Vec<f32> {
    let mut images = images.to_vec();
    let pixels = images.chunks_exact_mut(3).enumerate();
    pixels.filter(|(at, _)| columns.contains(&(at % 128 / 32))).for_each(|(_, pixel)| {
        pixel.iter_mut().for_each(|value| *value = 1.5 - 2.0 * *value);
    });
    images
}

/// The values of a map in the given columns of cells, as bits.
fn bits(map: &Tensor, columns: &[usize]) -> Vec<u32> {
    let (_, _, width, channels) = map.dims4().unwrap();
    let values: Vec<f32> = map.flatten_all().unwrap().to_vec1().unwrap();
    let pixels = values.chunks_exact(channels).enumerate();
    let inside = pixels.filter(|(at, _)| columns.contains(&(at % width * CELLS.1 / width)));
    inside.flat_map(|(_, pixel)| pixel).map(|value| value.to_bits()).collect()
}

#[test]
fn nothing_depends_on_hidden_pixels() {
    let images = images();
    let mut others = changed(&images, &[1, 2]);
    // A NaN in a hidden cell must not matter either.
    others[3 * 64] = f32::NAN;
    for architecture in Architecture::ALL {
        let mut backbone = Backbone::new(architecture, &OUTER);
        let (maps, same) = (backbone.run(&images, TRAIN), backbone.run(&others, TRAIN));
        let seen = backbone.run(&changed(&images, &[0]), TRAIN);
        let pooled = |maps: &[Tensor]| maps[maps.len() - 1].to_vec2::<f32>().unwrap();
        assert_eq!(pooled(&maps), pooled(&same), "{architecture}");
        assert_ne!(pooled(&maps), pooled(&seen), "{architecture}");
        for (at, (map, same)) in maps.iter().zip(&same).enumerate().take(maps.len() - 1) {
            assert_eq!(bits(map, &[0, 3]), bits(same, &[0, 3]), "{architecture}, map {at}");
            assert!(bits(map, &[0, 3]).iter().any(|bits| f32::from_bits(*bits) != 0.0));
            let hidden = bits(map, &[1, 2]).into_iter().chain(bits(same, &[1, 2]));
            assert!(hidden.map(f32::from_bits).all(|value| value == 0.0), "{architecture}, map {at}");
        }
    }
}

/// A backbone that is masked only at some layers carries values through hidden cells. With running statistics and no
/// squeeze-and-excitation, nothing else connects cells that far apart.
#[test]
fn visible_cells_do_not_hear_each_other_through_hidden_ones() {
    use Architecture::{MobileNetV2, ResNet18, ResNet34, ResNet50};
    let images = images();
    let others = changed(&images, &[0]);
    for architecture in [ResNet18, ResNet34, ResNet50, MobileNetV2] {
        let mut backbone = Backbone::new(architecture, &OUTER);
        let (maps, moved) = (backbone.run(&images, Mode::Inference), backbone.run(&others, Mode::Inference));
        for (at, (map, moved)) in maps.iter().zip(&moved).enumerate().take(maps.len() - 1) {
            assert_eq!(bits(map, &[3]), bits(moved, &[3]), "{architecture}, map {at}");
            assert_ne!(bits(map, &[0]), bits(moved, &[0]), "{architecture}, map {at}");
        }
        let mut open = Backbone::new(architecture, &[true; 8]);
        let (maps, moved) = (open.run(&images, Mode::Inference), open.run(&others, Mode::Inference));
        let last = maps.len() - 2;
        assert_ne!(bits(&maps[last], &[3]), bits(&moved[last], &[3]), "{architecture} hears what is open");
    }
}

/// Strides from 2 or 4 to 32, and torchvision's channels there.
fn maps(architecture: Architecture) -> (usize, &'static [usize]) {
    match architecture {
        Architecture::ResNet18 | Architecture::ResNet34 => (4, &[64, 128, 256, 512]),
        Architecture::ResNet50 => (4, &[256, 512, 1024, 2048]),
        Architecture::MobileNetV2 => (2, &[16, 24, 32, 96, 1280]),
        Architecture::MobileNetV3Large | Architecture::MobileNetV3LargeLgd => (2, &[16, 24, 40, 112, 960]),
        Architecture::EfficientNetB0 | Architecture::EfficientNetB0Lgd => (2, &[16, 24, 40, 112, 1280]),
    }
}

#[test]
fn maps_have_torchvisions_strides_and_channels() {
    let shape = Shape { batch: 2, height: 64, width: 32, channels: 3 };
    for architecture in Architecture::ALL {
        let (mut builder, images) = Builder::new(shape).unwrap();
        let features =
            (architecture.backbone().features)(&mut builder, images, LastMap::Activated, 0.0).unwrap();
        let (first, channels) = maps(architecture);
        let strides = std::iter::successors(Some(first), |stride| Some(2 * stride));
        let map = |(stride, &channels): (usize, &usize)| Shape {
            height: 64 / stride,
            width: 32 / stride,
            channels,
            ..shape
        };
        let expected: Vec<Shape> = strides.zip(channels).map(map).collect();
        let shapes: Vec<Shape> = features.maps.iter().map(|map| builder.shape(*map)).collect();
        assert_eq!(shapes, expected, "{architecture}");
    }
}
