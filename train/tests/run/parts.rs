//! Batches that are split into parts: the same objective, step by step.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use lgd_data::job::Job;
use lgd_train::objective::VisualMode;
use lgd_train::run::{MetricsKind, MetricsLine, TrainConfig};
use lgd_train::trainer::{LoopSettings, train};

use crate::artifacts::everything;
use crate::fixture::{World, config, masked, resuming};

/// Trains in the folder `name` and returns the lines of the steps.
fn steps(world: &World, config: &TrainConfig, name: &str) -> Vec<MetricsLine> {
    let settings = LoopSettings { log_steps: 1, ..resuming() };
    let inputs = world.inputs_for(config, &world.images);
    let mut lines = Vec::new();
    train(config, &settings, &inputs, &world.path(name), &Job::new(), &mut |line| lines.push(line.clone()))
        .unwrap();
    lines.retain(|line| line.kind == MetricsKind::Step);
    lines
}

/// The state of the objective in the last checkpoint of the run in the folder `name`.
fn tracked(world: &World, name: &str) -> BTreeMap<String, Vec<f64>> {
    let files = std::fs::read_dir(world.path(name).join("checkpoints")).unwrap();
    let latest = files.map(|entry| entry.unwrap().path()).max().unwrap();
    let tensors = candle_core::safetensors::load(latest, &Device::Cpu).unwrap();
    let values = |tensor: &Tensor| {
        let wide = tensor.to_dtype(candle_core::DType::F64).unwrap();
        wide.flatten_all().unwrap().to_vec1().unwrap()
    };
    let own = tensors.iter().filter(|(name, _)| name.starts_with("objective/"));
    own.map(|(name, tensor)| (name.clone(), values(tensor))).collect()
}

#[test]
fn what_objectives_track_moves_once_per_batch() {
    let world = World::holding(20, everything);
    // Four images of 16 px are too few for batch statistics, and training diverges.
    let sized = |objective: &str| TrainConfig { objective: objective.parse().unwrap(), ..masked(3) };
    let mut online = sized("lgd");
    let lgd = &mut online.objective_settings.lgd;
    (lgd.vsb, lgd.vsb_momentum) = (VisualMode::Ema, 0.5);
    let queues = [sized("seed"), sized("hgkd")].map(|mut config| {
        // Six batches of 8, so the oldest entries are overwritten.
        config.objective_settings.shared.queue = 20;
        config
    });
    for whole in queues.into_iter().chain([online]) {
        let name = whole.objective.to_string();
        let halves = TrainConfig { batch_parts: 2, ..whole.clone() };
        let lines = steps(&world, &whole, &format!("{name}-1"));
        let in_halves = steps(&world, &halves, &format!("{name}-2"));
        assert_eq!((lines.len(), in_halves.len()), (6, 6), "{name}");
        let expected = tracked(&world, &format!("{name}-1"));
        assert_eq!(expected.len(), 2, "{name}: {:?}", expected.keys());
        assert_eq!(tracked(&world, &format!("{name}-2")), expected, "{name}");
        let of_the_queue =
            |line: &MetricsLine| line.parts.get("hgkd_similarity").or(line.parts.get("seed")).copied();
        if let Some(loss) = of_the_queue(&in_halves[0]) {
            assert_eq!(loss, 0.0, "{name}: the second half does not see the first in the queue");
            assert!(of_the_queue(&in_halves[1]).unwrap() > 0.0, "{name}: the second batch sees the first");
        }
    }
}

#[test]
fn each_part_has_its_own_targets_and_its_own_mask() {
    let world = World::holding(20, everything);
    for (config, terms) in [(masked(1), ["hgkd_hidden", "hgkd_visible"]), (config(1), ["text", "visual"])] {
        // The weights do not change, so a batch in halves is two small batches, one after the other.
        let still = TrainConfig { base_lr: 1e-30, start_lr: 1e-31, ..config };
        let halves =
            steps(&world, &TrainConfig { batch_parts: 2, ..still.clone() }, &format!("{}-2", terms[0]));
        let small = steps(&world, &TrainConfig { batch: 4, ..still }, &format!("{}-1", terms[0]));
        for term in terms {
            let (first, second) = (small[0].parts[term], small[1].parts[term]);
            let (got, expected) = (halves[0].parts[term], 0.5 * (first + second));
            assert!((got - expected).abs() < 1e-6 * expected, "{term}: {got}, not {expected}");
            assert!((first - second).abs() > 1e-3 * expected, "{term}: nothing to tell the parts apart");
        }
    }
}
