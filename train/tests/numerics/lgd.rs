//! The LGD objective against its formula written out in f64 (docs/methods.md section 1), and its online bank.

use candle_core::{DType, Tensor, Var};
use lgd_train::error::TrainError;
use lgd_train::objective::{Lgd, LgdConstants, Objective, ObjectiveError, TargetBatch, VisualBank};
use lgd_train::student::StudentOutput;

use crate::device::{TestDevice, on_every_f32_device};
use crate::golden::values;

on_every_f32_device!(
    both_banks_give_the_written_formula,
    the_slot_of_an_unassigned_category_has_no_gradient,
    the_online_bank_starts_at_random_then_first_seen_then_average,
    missing_columns_and_wrong_sizes_are_errors,
    columns_follow_the_bank,
);

const C: usize = 5;
const DIM: usize = 6;
const B: usize = 4;

fn unit_rows<D: TestDevice>(name: &str, rows: usize) -> Tensor {
    D::tensor(&crate::golden::unit_rows(name, rows, DIM))
}

fn output(s: &Tensor) -> StudentOutput {
    StudentOutput { pooled: s.clone(), embedding: Some(s.clone()), raw_pooled: None, tokens: None }
}

fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
    let columns = tensor.dims()[1];
    values(tensor).chunks_exact(columns).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|v| (v - max).exp()).sum();
    logits.iter().map(|v| (v - max).exp() / sum).collect()
}

/// The mean cross-entropy of `softmax(teacher / 0.01)` and `softmax(student / 0.2)` over the columns in `on`.
fn entropy(teacher: &[Vec<f64>], student: &[Vec<f64>], on: &[usize]) -> f64 {
    let scaled = |row: &[f64], tau: f64| softmax(&on.iter().map(|k| row[*k] / tau).collect::<Vec<_>>());
    let row = |(t, s): (&Vec<f64>, &Vec<f64>)| {
        let (p, q) = (scaled(t, 0.01), scaled(s, 0.2));
        -p.iter().zip(&q).map(|(p, q)| p * q.ln()).sum::<f64>()
    };
    let total: f64 = teacher.iter().zip(student).map(row).sum();
    total / f64::from(u32::try_from(teacher.len()).unwrap())
}

/// Similarity of each row of `x` to `positive`, followed by its similarities to the bank.
fn visual_logits(x: &Tensor, positive: &Tensor, bank: &Tensor) -> Vec<Vec<f64>> {
    let bank = rows(bank);
    let row = |(x, t): (&Vec<f64>, &Vec<f64>)| {
        std::iter::once(dot(x, t)).chain(bank.iter().map(|v| dot(x, v))).collect()
    };
    rows(x).iter().zip(&rows(positive)).map(row).collect()
}

fn distribution<D: TestDevice>(logits: &[Vec<f64>]) -> Tensor {
    let p: Vec<f64> =
        logits.iter().flat_map(|row| softmax(&row.iter().map(|v| v / 0.01).collect::<Vec<_>>())).collect();
    let shape = (logits.len(), logits[0].len());
    Tensor::from_vec(p, shape, &D::device()).unwrap().to_dtype(DType::F32).unwrap()
}

fn text_logits(x: &Tensor, bank: &Tensor) -> Vec<Vec<f64>> {
    visual_logits(x, x, bank).into_iter().map(|row| row[1..].to_vec()).collect()
}

fn both_banks_give_the_written_formula<D: TestDevice>() {
    let (s, t, tsb) = (unit_rows::<D>("s", B), unit_rows::<D>("t", B), unit_rows::<D>("tsb", C));
    let assigned = [true, false, true, true, true];
    let online = VisualBank::Ema { momentum: 0.5, seed: 3 };
    let ema = Lgd::new(LgdConstants::default(), tsb.clone(), online, &assigned).unwrap();
    let vsb = D::tensor(&ema.state().unwrap()["visual_bank.rows"]);
    let fixed = VisualBank::Mean { vsb: vsb.clone() };
    let mean = Lgd::new(LgdConstants::default(), tsb.clone(), fixed, &assigned).unwrap();
    let targets = TargetBatch {
        embedding: Some(t.clone()),
        text_distribution: Some(distribution::<D>(&text_logits(&t, &tsb))),
        // Over all categories: the objective leaves out the masked one and normalizes again.
        visual_distribution: Some(distribution::<D>(&visual_logits(&t, &t, &vsb))),
        pseudo_category: Some(vec![0, 2, 2, 4]),
        ..TargetBatch::default()
    };
    let text = entropy(&text_logits(&t, &tsb), &text_logits(&s, &tsb), &[0, 1, 2, 3, 4]);
    let visual = entropy(&visual_logits(&t, &t, &vsb), &visual_logits(&s, &t, &vsb), &[0, 1, 3, 4, 5]);
    for objective in [&mean, &ema] {
        let loss = objective.loss(&output(&s), &targets).unwrap();
        let part = |at: usize| f64::from(values(&loss.parts[at].1)[0]);
        assert!((part(0) - text).abs() < 1e-5 * text, "text {:?} {text}", loss.parts);
        assert!((part(1) - visual).abs() < 1e-5 * visual, "visual {:?} {visual}", loss.parts);
        let total = f64::from(loss.total.to_scalar::<f32>().unwrap());
        assert!((total - 0.5 * (text + visual)).abs() < 1e-5 * total);
    }
}

fn the_slot_of_an_unassigned_category_has_no_gradient<D: TestDevice>() {
    let (s, t, tsb) = (
        Var::from_tensor(&unit_rows::<D>("s", B)).unwrap(),
        unit_rows::<D>("t", B),
        unit_rows::<D>("tsb", C),
    );
    let settings = LgdConstants { alpha: 1.0, ..LgdConstants::default() };
    let gradient = |vsb: &Tensor| {
        let bank = VisualBank::Mean { vsb: vsb.clone() };
        let lgd = Lgd::new(settings, tsb.clone(), bank, &[true, true, true, false, true]).unwrap();
        let targets = TargetBatch {
            embedding: Some(t.clone()),
            text_distribution: Some(distribution::<D>(&text_logits(&t, &tsb))),
            visual_distribution: Some(Tensor::full(1.0_f32 / 6.0, (B, C + 1), &D::device()).unwrap()),
            ..TargetBatch::default()
        };
        let loss = lgd.loss(&output(&s), &targets).unwrap();
        values(loss.total.backward().unwrap().get(&s).unwrap())
    };
    let vsb = unit_rows::<D>("vsb", C);
    let other =
        Tensor::cat(&[vsb.narrow(0, 0, 3).unwrap(), unit_rows::<D>("x", 1), vsb.narrow(0, 4, 1).unwrap()], 0);
    assert_eq!(gradient(&vsb), gradient(&other.unwrap()));
}

fn the_online_bank_starts_at_random_then_first_seen_then_average<D: TestDevice>() {
    let tsb = unit_rows::<D>("tsb", C);
    let bank = VisualBank::Ema { momentum: 0.75, seed: 9 };
    let mut lgd = Lgd::new(LgdConstants::default(), tsb, bank, &[true; C]).unwrap();
    let bank_rows = |lgd: &Lgd| rows(&lgd.state().unwrap()["visual_bank.rows"]);
    let start = bank_rows(&lgd);
    for row in &start {
        assert!((dot(row, row) - 1.0).abs() < 1e-6, "rows start as unit vectors");
    }
    assert_ne!(start[0], start[1]);
    let step = |lgd: &mut Lgd, name: &str| {
        let t = unit_rows::<D>(name, B);
        let pseudo_category = Some(vec![1, 3, 1, 1]);
        lgd.after_step(&TargetBatch { embedding: Some(t.clone()), pseudo_category, ..Default::default() })
            .unwrap();
        let t = rows(&t);
        let mean: Vec<f64> = (0..DIM).map(|j| (t[0][j] + t[2][j] + t[3][j]) / 3.0).collect();
        (mean, t[1].clone())
    };
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    let (one, three) = step(&mut lgd, "first");
    let seen = bank_rows(&lgd);
    assert!(close(&seen[1], &one) && close(&seen[3], &three), "first seen: the batch's mean, not normalized");
    assert_eq!([&seen[0], &seen[2], &seen[4]], [&start[0], &start[2], &start[4]], "absent rows stay");
    let saved = lgd.state().unwrap();
    let (next, _) = step(&mut lgd, "second");
    let expected: Vec<f64> = one.iter().zip(&next).map(|(old, new)| 0.75 * old + 0.25 * new).collect();
    assert!(close(&bank_rows(&lgd)[1], &expected), "then the moving average");

    let again = VisualBank::Ema { momentum: 0.75, seed: 1 };
    let mut resumed = Lgd::new(LgdConstants::default(), unit_rows::<D>("tsb", C), again, &[true; C]).unwrap();
    let nothing = &mut |_: &[usize]| unreachable!("its state is complete");
    resumed.restore(&saved, nothing).unwrap();
    step(&mut resumed, "second");
    assert_eq!(bank_rows(&resumed), bank_rows(&lgd), "a resumed bank goes on as if nothing had happened");
    assert!(matches!(resumed.restore(&Default::default(), nothing), Err(TrainError::MissingState { .. })));
}

fn missing_columns_and_wrong_sizes_are_errors<D: TestDevice>() {
    let (s, tsb) = (unit_rows::<D>("s", B), unit_rows::<D>("tsb", C));
    let mean = || VisualBank::Mean { vsb: unit_rows::<D>("vsb", C) };
    let lgd = Lgd::new(LgdConstants::default(), tsb.clone(), mean(), &[true; C]).unwrap();
    let missing = lgd.loss(&output(&s), &TargetBatch::default());
    assert!(matches!(
        missing,
        Err(TrainError::Objective(ObjectiveError::MissingColumn { column: "text_distribution" }))
    ));
    let uniform = |columns| Some(Tensor::full(0.1_f32, (B, columns), &D::device()).unwrap());
    let targets = |text, visual| TargetBatch {
        embedding: Some(unit_rows::<D>("t", B)),
        text_distribution: uniform(text),
        visual_distribution: uniform(visual),
        ..TargetBatch::default()
    };
    assert!(lgd.loss(&output(&s), &targets(C, C + 1)).is_ok());
    assert!(matches!(lgd.loss(&output(&s), &targets(C + 1, C + 1)), Err(TrainError::Dimensions { .. })));
    assert!(matches!(lgd.loss(&output(&s), &targets(C, C)), Err(TrainError::Dimensions { .. })));
    assert!(Lgd::new(LgdConstants::default(), tsb.clone(), mean(), &[true; 3]).is_err());
    let narrow = VisualBank::Mean { vsb: unit_rows::<D>("vsb", C - 1) };
    assert!(Lgd::new(LgdConstants::default(), tsb.clone(), narrow, &[true; C]).is_err());
    for settings in [
        LgdConstants { alpha: 1.5, ..LgdConstants::default() },
        LgdConstants { student_temperature: 0.0, ..LgdConstants::default() },
        LgdConstants { teacher_temperature: f32::NAN, ..LgdConstants::default() },
    ] {
        assert!(matches!(
            Lgd::new(settings, tsb.clone(), mean(), &[true; C]),
            Err(TrainError::Setting { .. })
        ));
    }
    let wild = VisualBank::Ema { momentum: 2.0, seed: 0 };
    assert!(Lgd::new(LgdConstants::default(), tsb.clone(), wild, &[true; C]).is_err());
    let mut ema =
        Lgd::new(LgdConstants::default(), tsb, VisualBank::Ema { momentum: 0.9, seed: 0 }, &[true; C])
            .unwrap();
    let outside = TargetBatch { pseudo_category: Some(vec![0, 1, 2, 9]), ..targets(C, C + 1) };
    assert!(ema.after_step(&outside).is_err(), "a category beyond the bank");
}

fn columns_follow_the_bank<D: TestDevice>() {
    let bank = |visual| {
        Lgd::new(LgdConstants::default(), unit_rows::<D>("tsb", C), visual, &[true; C]).unwrap().columns()
    };
    let mean = bank(VisualBank::Mean { vsb: unit_rows::<D>("vsb", C) });
    assert!(mean.embedding && mean.text_distribution && mean.visual_distribution && !mean.pseudo_category);
    let ema = bank(VisualBank::Ema { momentum: 0.9, seed: 0 });
    assert!(ema.embedding && ema.text_distribution && !ema.visual_distribution && ema.pseudo_category);
}
