//! The same seed gives the same bits on the CPU, whatever the number of threads. A GPU does not use our threads;
//! `students.rs` checks that a pass there repeats bit for bit.

use candle_core::{DType, Device, Tensor};
use lgd_train::objective::{Lgd, LgdConstants, Objective, TargetBatch, VisualBank};
use lgd_train::optim::{OptimizerSettings, OptimizerState};
use lgd_train::student::{Architecture, Head, Images, Mode, Student, StudentConfig};

use crate::golden::{normal, unit_rows, values};

const BATCH: usize = 5;
const DIM: usize = 24;
const CATEGORIES: usize = 7;

/// Parameters, buffers, optimizer and bank after two steps on `threads` threads, as bits. `student` starts from
/// `start`.
fn train(student: &mut Student, start: &lgd_train::engine::parameters::State, threads: usize) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        student.engine().load_state(start).unwrap();
        student.engine().load_optimizer_state(&OptimizerState::default()).unwrap();
        let visual = VisualBank::Ema { momentum: 0.9, seed: 5 };
        let tsb = unit_rows("tsb", CATEGORIES, DIM);
        let mut objective = Lgd::new(LgdConstants::default(), tsb, visual, &[true; CATEGORIES]).unwrap();
        let settings = OptimizerSettings { clip: Some(1.0), ema: Some(0.9), ..OptimizerSettings::default() };
        let images = normal("images", BATCH * 40 * 33 * 3);
        let share = 1.0 / crate::golden::real(CATEGORIES);
        let uniform = Tensor::full(share, (BATCH, CATEGORIES), &Device::Cpu).unwrap();
        let targets = TargetBatch {
            embedding: Some(unit_rows("t", BATCH, DIM)),
            text_distribution: Some(uniform.to_dtype(DType::F32).unwrap()),
            pseudo_category: Some(vec![0, 1, 2, 6, 1]),
            ..TargetBatch::default()
        };
        for step in 1..3 {
            let mode = Mode::Train { seed: 5, step };
            let output = student.forward(Images::Normalized(&images), (BATCH, 40, 33), mode).unwrap();
            let loss = objective.loss(&output, &targets).unwrap();
            student.backward(&loss.total, false).unwrap();
            let update = settings.update(student.table(), 0.05, step);
            student.update(&update).unwrap();
            objective.after_step(&targets).unwrap();
        }
        let state = student.engine().state().unwrap();
        let optimizer = student.engine().optimizer_state().unwrap();
        let moments = optimizer.entries().into_iter().map(|(_, vector)| vector.clone()).collect();
        let bank = objective.state().unwrap();
        let all = [vec![state.parameters, state.buffers], moments, bank.values().map(values).collect()];
        all.concat().concat().into_iter().map(f32::to_bits).collect()
    })
}

fn check(architecture: Architecture) {
    let config = StudentConfig::new(architecture, Head::Projection { dim: DIM }, 5);
    let mut student = Student::new(config, &Device::Cpu).unwrap();
    let start = student.engine().state().unwrap();
    let one = train(&mut student, &start, 1);
    assert!(one.iter().all(|bits| f32::from_bits(*bits).is_finite()), "{architecture} diverges");
    for threads in [2, 3, 5] {
        assert!(one == train(&mut student, &start, threads), "{architecture} differs with {threads} threads");
    }
}

#[test]
fn bits_of_resnets_do_not_depend_on_the_number_of_threads() {
    [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50].into_iter().for_each(check);
}

#[test]
fn bits_of_mobile_students_do_not_depend_on_the_number_of_threads() {
    [Architecture::MobileNetV2, Architecture::MobileNetV3Large, Architecture::EfficientNetB0]
        .into_iter()
        .for_each(check);
}
