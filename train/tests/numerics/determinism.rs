//! The same seed gives the same bits, whatever the number of threads.

use crate::golden::values;
use candle_core::{DType, Device, Tensor};
use lgd_train::objective::{Lgd, LgdSettings, Objective, TargetBatch, VisualBank};
use lgd_train::ops;
use lgd_train::optim::{Sgd, SgdSettings};
use lgd_train::rng::Stream;
use lgd_train::student::{Architecture, Mode, Student};

fn random(name: &str, shape: &[usize]) -> Tensor {
    let mut stream = Stream::named(11, name);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

/// Parameters, buffers, velocities and bank after two steps, as bits.
fn train(architecture: Architecture, threads: usize) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let student = Student::new(architecture, 24, 5, &Device::Cpu).unwrap();
        let tsb = ops::l2_normalize(&random("tsb", &[7, 24])).unwrap();
        let visual = VisualBank::Ema { momentum: 0.9, seed: 5 };
        let mut objective = Lgd::new(LgdSettings::default(), tsb, visual, &[true; 7]).unwrap();
        let mut sgd = Sgd::new(SgdSettings::default(), student.params()).unwrap();
        let images = random("images", &[9, 40, 33, 3]);
        let targets = TargetBatch {
            embedding: Some(ops::l2_normalize(&random("t", &[9, 24])).unwrap()),
            text_distribution: Some(Tensor::full(1.0_f32 / 7.0, (9, 7), &Device::Cpu).unwrap()),
            visual_distribution: None,
            pseudo_category: Some(vec![0, 1, 2, 3, 4, 5, 6, 0, 1]),
        };
        for step in 0..2 {
            let output = student.forward(&images, Mode::Train { seed: 5, step }).unwrap();
            let loss = objective.loss(&output, &targets).unwrap();
            sgd.step(student.params(), &loss.total.backward().unwrap(), 0.05).unwrap();
            objective.after_step(&targets).unwrap();
        }
        let all = [student.params().tensors(), sgd.state(), objective.state().unwrap()];
        let tensors = all.iter().flat_map(|tensors| tensors.values());
        tensors.flat_map(|tensor| values(tensor).into_iter().map(f32::to_bits)).collect()
    })
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for architecture in Architecture::ALL {
        let one = train(architecture, 1);
        for threads in [2, 3, 5] {
            assert!(one == train(architecture, threads), "{architecture} differs with {threads} threads");
        }
    }
}

#[test]
fn another_seed_or_step_gives_other_numbers() {
    let images = random("images", &[2, 32, 32, 3]);
    let run = |init, mode| {
        let student = Student::new(Architecture::MobileNetV2, 24, init, &Device::Cpu).unwrap();
        values(&student.forward(&images, mode).unwrap().embedding)
    };
    let train = |seed, step| run(1, Mode::Train { seed, step });
    assert_eq!(train(1, 1), train(1, 1));
    assert_ne!(train(1, 1), train(1, 2), "the dropout mask follows the step");
    assert_ne!(train(1, 1), train(2, 1), "the dropout mask follows the seed");
    assert_ne!(run(1, Mode::Inference), run(2, Mode::Inference), "the weights follow the seed");
}
