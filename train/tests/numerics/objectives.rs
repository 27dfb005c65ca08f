//! Loss, terms and gradients of every objective against PyTorch in f64 (`goldens/objectives.py`).

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor, Var};
use lgd_train::error::TrainError;
use lgd_train::objective::{
    BatchMask, Caption, Combined, Compress, Kdep, Lgd, LgdConstants, Objective, ObjectiveError,
    ObjectiveKind, Objectives, Seed, SeedConstants, Supervised, TargetBatch, TargetColumns, TeacherQueue,
    VisualBank,
};
use lgd_train::student::{StudentError, StudentOutput};

use crate::device::{TestDevice, on_every_f32_device};
use crate::golden::{Golden, error, values};

on_every_f32_device!(
    losses_and_gradients_are_pytorchs,
    no_two_objectives_have_a_term_of_the_same_name,
    what_is_missing_is_named,
    targets_of_another_shape_are_refused,
    settings_out_of_range_are_refused,
    a_combination_wants_the_columns_of_its_parts,
    a_combination_keeps_its_parts_states_apart,
    specifications_name_the_outputs_that_losses_read,
);

/// Relative error, L2.
const TOLERANCE: f64 = 2e-6;
const TAU_T: f32 = 0.05;
/// Cache rows of the batch.
const ROWS: std::ops::Range<u32> = 100..106;
/// Rows in the queue.
const ENTRIES: [u32; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
/// Rows in the queue of the cases `_own`: entries 0 and 5 are those of rows 0 and 3 of the batch.
const OWN: [u32; 9] = [100, 1, 2, 3, 4, 103, 6, 7, 8];

fn whole(golden: &Golden, name: &str) -> Vec<u32> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
    golden.values(name).iter().map(|value| *value as u32).collect()
}

fn targets(golden: &Golden) -> TargetBatch {
    let tensor = |name: &str| Some(golden.get(name).clone());
    TargetBatch {
        embedding: tensor("t"),
        text_distribution: tensor("p_text"),
        visual_distribution: tensor("p_visual"),
        kdep: tensor("kdep"),
        caption: tensor("caption"),
        label: Some(whole(golden, "label")),
        rows: Some(ROWS.collect()),
        ..TargetBatch::default()
    }
}

fn lgd(golden: &Golden, online: bool, by_views: bool) -> Box<dyn Objective> {
    let counts: Vec<u64> = whole(golden, "counts").into_iter().map(u64::from).collect();
    let assigned: Vec<bool> = counts.iter().map(|count| *count > 0).collect();
    let settings = LgdConstants { alpha: 0.3, teacher_temperature: TAU_T, ..LgdConstants::default() };
    let (tsb, vsb) = (golden.get("tsb").clone(), golden.get("vsb").clone());
    let bank = match online {
        false => VisualBank::Mean { vsb: vsb.clone() },
        true => VisualBank::Ema { momentum: 0.9, seed: 0 },
    };
    let mut lgd = Lgd::new(settings, tsb, bank, &assigned).unwrap();
    let seen = Tensor::ones(counts.len(), candle_core::DType::F32, &Device::Cpu).unwrap();
    let rows = BTreeMap::from([("visual_bank.rows".to_owned(), vsb), ("visual_bank.seen".to_owned(), seen)]);
    lgd.restore(&rows, &mut |_| unreachable!("its state is complete")).unwrap();
    Box::new(if by_views { lgd.counting_views(&counts).unwrap() } else { lgd })
}

/// The first embeddings of the golden's queue, as those of these cache rows.
fn queue(golden: &Golden, rows: &[u32]) -> TeacherQueue {
    let queue = golden.get("queue");
    let mut memory = TeacherQueue::new(queue.dims()[0], queue.dims()[1], queue.device()).unwrap();
    memory.push(rows, &queue.narrow(0, 0, rows.len()).unwrap()).unwrap();
    memory
}

fn seed(golden: &Golden, rows: &[u32]) -> Box<dyn Objective> {
    let settings = SeedConstants { teacher_temperature: TAU_T, ..SeedConstants::default() };
    Box::new(Seed::new(settings, queue(golden, rows)).unwrap())
}

fn compress(golden: &Golden, rows: &[u32]) -> Box<dyn Objective> {
    Box::new(Compress::new(0.04, queue(golden, rows)).unwrap())
}

fn combined(golden: &Golden) -> Box<dyn Objective> {
    let parts: [(_, _, Box<dyn Objective>); 3] = [
        ("lgd", 1.5, lgd(golden, false, false)),
        ("seed", 0.25, seed(golden, &ENTRIES)),
        ("kdep", 3.0, Box::new(Kdep)),
    ];
    Box::new(Combined::new(parts).unwrap())
}

/// Every case of the fixture.
fn cases(golden: &Golden) -> Vec<(&'static str, Box<dyn Objective>)> {
    vec![
        ("lgd_balanced", lgd(golden, false, false)),
        ("lgd_views", lgd(golden, false, true)),
        ("lgd_balanced_online", lgd(golden, true, false)),
        ("lgd_views_online", lgd(golden, true, true)),
        ("seed", seed(golden, &ENTRIES)),
        ("seed_partly_filled", seed(golden, &ENTRIES[..4])),
        ("seed_empty", seed(golden, &[])),
        ("seed_own", seed(golden, &OWN)),
        ("compress_own", compress(golden, &OWN)),
        ("compress", compress(golden, &ENTRIES)),
        ("compress_partly_filled", compress(golden, &ENTRIES[..4])),
        ("compress_empty", compress(golden, &[])),
        ("kdep", Box::new(Kdep)),
        ("caption", Box::new(Caption::new(0.07).unwrap())),
        ("supervised", Box::new(Supervised)),
        ("combined", combined(golden)),
    ]
}

/// A student's output in training, with the variables for its embedding (or logits) and its raw feature.
fn student(golden: &Golden, case: &str) -> (StudentOutput, [Var; 2]) {
    let head = if case == "supervised" { "logits" } else { "s" };
    let variables = [head, "raw"].map(|name| Var::from_tensor(golden.get(name)).unwrap());
    let [embedding, raw] = variables.each_ref().map(|variable| variable.as_tensor().clone());
    let pooled = golden.get("raw").clone();
    (StudentOutput { pooled, embedding: Some(embedding), raw_pooled: Some(raw), tokens: None }, variables)
}

fn losses_and_gradients_are_pytorchs<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    let mut failures = Vec::new();
    for (case, objective) in cases(&golden) {
        let (output, variables) = student(&golden, case);
        let loss = objective.loss(&output, &targets(&golden)).unwrap();
        let mut check = |name: &str, got: &Tensor| {
            let error = error(&values(got), &golden.values(&format!("{case}.{name}")));
            if error.is_nan() || error > D::tolerance(TOLERANCE) {
                failures.push(format!("{case}.{name}: {error:.1e}"));
            }
        };
        check("loss", &loss.total);
        for (name, part) in &loss.parts {
            check(&format!("parts.{name}"), part);
            assert!(!part.track_op(), "{case}: {name} keeps the graph");
        }
        let expected = golden.names().filter(|name| name.starts_with(&format!("{case}.parts."))).count();
        assert_eq!(loss.parts.len(), expected, "{case}");
        let gradients = loss.total.backward().unwrap();
        for (name, variable) in ["ds", "draw"].into_iter().zip(&variables) {
            let gradient = gradients.get(variable);
            assert_eq!(gradient.is_some(), golden.has(&format!("{case}.{name}")), "{case}.{name}");
            if let Some(gradient) = gradient {
                check(name, gradient);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let fixture: BTreeSet<&str> = golden.names().filter_map(|name| name.strip_suffix(".loss")).collect();
    assert_eq!(fixture, cases(&golden).iter().map(|(case, _)| *case).collect());
}

fn no_two_objectives_have_a_term_of_the_same_name<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    let mut owner = BTreeMap::new();
    let covered = ["lgd_balanced", "seed", "compress", "kdep", "caption", "supervised"];
    // H-GKD needs a mask and tokens. `hgkd.rs` checks its terms, whose names all start with `hgkd`.
    assert_eq!(covered.len() + 1, ObjectiveKind::ALL.len(), "an objective is missing here");
    for (case, objective) in cases(&golden).iter().filter(|(case, _)| covered.contains(case)) {
        let (output, _) = student(&golden, case);
        for (name, _) in objective.loss(&output, &targets(&golden)).unwrap().parts {
            assert_eq!(owner.insert(name, case), None, "{name}");
            assert!(!name.starts_with("hgkd_"), "{name}");
        }
    }
}

fn what_is_missing_is_named<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    for (case, objective) in cases(&golden) {
        let (output, _) = student(&golden, case);
        let error = objective.loss(&output, &TargetBatch::default()).unwrap_err();
        assert!(
            matches!(error, TrainError::Objective(ObjectiveError::MissingColumn { .. })),
            "{case}: {error}"
        );
        let bare = StudentOutput { embedding: None, raw_pooled: None, ..output };
        let error = objective.loss(&bare, &targets(&golden)).unwrap_err();
        assert!(matches!(error, TrainError::Student(StudentError::MissingOutput { .. })), "{case}: {error}");
    }
}

fn targets_of_another_shape_are_refused<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    let full = targets(&golden);
    let fewer = full.narrow(0, 5).unwrap();
    for (case, objective) in cases(&golden) {
        let (output, _) = student(&golden, case);
        let error = objective.loss(&output, &fewer).unwrap_err();
        assert!(matches!(error, TrainError::Dimensions { .. }), "{case}: {error}");
    }
    let (output, _) = student(&golden, "supervised");
    let foreign = TargetBatch { label: Some(vec![0, 1, 2, 5, 0, 0]), ..full };
    let error = Supervised.loss(&output, &foreign).unwrap_err();
    assert!(
        matches!(error, TrainError::Objective(ObjectiveError::Label { label: 5, classes: 5 })),
        "{error}"
    );
}

fn settings_out_of_range_are_refused<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    assert!(Caption::new(0.0).is_err() && Caption::new(f32::NAN).is_err());
    let compress = |temperature| Compress::new(temperature, TeacherQueue::new(3, 4, &D::device()).unwrap());
    assert!(compress(0.0).is_err() && compress(f32::NAN).is_err() && compress(0.04).is_ok());
    let queue = || TeacherQueue::new(3, 4, &D::device()).unwrap();
    let wrong = |teacher_temperature, student_temperature| {
        Seed::new(SeedConstants { teacher_temperature, student_temperature }, queue()).is_err()
    };
    assert!(wrong(0.0, 0.2) && wrong(0.01, -1.0) && !wrong(0.01, 0.2));
    let sum = |parts: Vec<(&'static str, f32)>| {
        let parts =
            parts.into_iter().map(|(name, weight)| (name, weight, Box::new(Kdep) as Box<dyn Objective>));
        Combined::new(parts).is_err()
    };
    assert!(sum(vec![]) && sum(vec![("kdep", 0.0)]) && sum(vec![("kdep", 1.0), ("kdep", 1.0)]));
    assert!(!sum(vec![("kdep", 1.0)]));
    let (tsb, vsb) = (golden.get("tsb").clone(), golden.get("vsb").clone());
    let plain = Lgd::new(LgdConstants::default(), tsb, VisualBank::Mean { vsb }, &[true; 7]).unwrap();
    assert!(plain.counting_views(&[1; 6]).is_err());
}

fn a_combination_wants_the_columns_of_its_parts<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    let expected = TargetColumns {
        embedding: true,
        text_distribution: true,
        visual_distribution: true,
        kdep: true,
        rows: true,
        ..TargetColumns::default()
    };
    assert_eq!(combined(&golden).columns(), expected);
}

fn a_combination_keeps_its_parts_states_apart<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    let parts = || -> [(_, _, Box<dyn Objective>); 3] {
        [
            ("lgd", 1.0, lgd(&golden, true, false)),
            ("seed", 1.0, seed(&golden, &ENTRIES[..4])),
            ("b", 1.0, seed(&golden, &ENTRIES)),
        ]
    };
    let objective = Combined::new(parts()).unwrap();
    let state = objective.state().unwrap();
    let names: Vec<&str> = state.keys().map(String::as_str).collect();
    let expected = [
        "b.queue.next",
        "b.queue.rows",
        "lgd.visual_bank.rows",
        "lgd.visual_bank.seen",
        "seed.queue.next",
        "seed.queue.rows",
    ];
    assert_eq!(names, expected);
    let mut other = Combined::new(parts()).unwrap();
    let targets =
        TargetBatch { rows: Some(vec![0; 6]), pseudo_category: Some(vec![1; 6]), ..targets(&golden) };
    other.after_step(&targets).unwrap();
    assert_ne!(
        values(&other.state().unwrap()["lgd.visual_bank.rows"]),
        values(&state["lgd.visual_bank.rows"])
    );
    let mut asked = Vec::new();
    let read = &mut |rows: &[usize]| {
        asked.push(rows.to_vec());
        let rows: Vec<u32> = rows.iter().map(|row| u32::try_from(*row).unwrap()).collect();
        let index = Tensor::from_slice(&rows, rows.len(), &D::device())?;
        Ok(golden.get("queue").index_select(&index, 0)?)
    };
    other.restore(&state, read).unwrap();
    assert_eq!(asked, [vec![0, 1, 2, 3], (0..9).collect()]);
    let (output, _) = student(&golden, "combined");
    let loss = |objective: &Combined| values(&objective.loss(&output, &targets).unwrap().total);
    assert_eq!(loss(&other), loss(&objective), "to the last bit");
}

#[test]
fn parts_of_a_batch_have_their_own_targets() {
    let rows = |first: f32| Tensor::new(&[[first], [first + 1.0], [first + 2.0]], &Device::Cpu).unwrap();
    let tokens = Tensor::arange(0.0_f32, 12.0, &Device::Cpu).unwrap().reshape((3, 2, 1, 2)).unwrap();
    let visible = vec![true, false, false, false, true, true];
    let batch = TargetBatch {
        embedding: Some(rows(0.0)),
        kdep: Some(rows(10.0)),
        caption: Some(rows(20.0)),
        tokens: Some(tokens),
        label: Some(vec![5, 6, 7]),
        rows: Some(vec![8, 9, 10]),
        mask: Some(BatchMask::new(visible, (1, 2)).unwrap()),
        ..TargetBatch::default()
    };
    let part = batch.narrow(1, 2).unwrap();
    let got = |tensor: &Option<Tensor>| values(tensor.as_ref().unwrap());
    assert_eq!(got(&part.embedding), [1.0, 2.0]);
    assert_eq!(got(&part.kdep), [11.0, 12.0]);
    assert_eq!(got(&part.caption), [21.0, 22.0]);
    assert_eq!(got(&part.tokens), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!((part.label, part.rows), (Some(vec![6, 7]), Some(vec![9, 10])));
    assert_eq!(part.mask.unwrap().visible(), [false, false, true, true]);
    assert!(part.text_distribution.is_none() && part.pseudo_category.is_none());
}

#[test]
fn a_part_past_the_end_is_an_error_whatever_the_column() {
    let tensor = || Some(Tensor::zeros((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap());
    let columns = [
        TargetBatch { embedding: tensor(), ..TargetBatch::default() },
        TargetBatch { label: Some(vec![5, 6, 7]), ..TargetBatch::default() },
        TargetBatch { rows: Some(vec![5, 6, 7]), ..TargetBatch::default() },
        TargetBatch { pseudo_category: Some(vec![5, 6, 7]), ..TargetBatch::default() },
        TargetBatch { mask: Some(BatchMask::new(vec![true; 6], (1, 2)).unwrap()), ..TargetBatch::default() },
    ];
    for column in columns {
        assert!(column.narrow(1, 2).is_ok());
        for (start, len) in [(2, 2), (4, 0), (0, 4), (usize::MAX, 2)] {
            let error = column.narrow(start, len).unwrap_err();
            assert!(
                matches!(error, TrainError::Objective(ObjectiveError::MissingRows { rows: 3, .. })),
                "{column:?}: {error}"
            );
        }
    }
}

fn specifications_name_the_outputs_that_losses_read<D: TestDevice>() {
    let golden = Golden::on::<D>("objectives");
    for (case, objective) in cases(&golden) {
        // `hgkd.rs` checks H-GKD's.
        let wanted = match case.parse::<ObjectiveKind>() {
            Ok(kind) => kind.spec().outputs,
            Err(_) if case == "combined" => "lgd,seed,kdep".parse::<Objectives>().unwrap().outputs(),
            Err(_) => case.split('_').next().unwrap().parse::<ObjectiveKind>().unwrap().spec().outputs,
        };
        let (full, _) = student(&golden, case);
        let bare = StudentOutput { embedding: None, raw_pooled: None, tokens: None, ..full.clone() };
        let enough = StudentOutput {
            embedding: full.embedding.clone().filter(|_| wanted.embedding),
            raw_pooled: full.raw_pooled.clone().filter(|_| wanted.raw_pooled),
            ..bare
        };
        assert!(objective.loss(&enough, &targets(&golden)).is_ok(), "{case}: more is read than {wanted:?}");
        assert!(!wanted.tokens, "{case}");
        let lacking = [
            (wanted.embedding, StudentOutput { embedding: None, ..enough.clone() }),
            (wanted.raw_pooled, StudentOutput { raw_pooled: None, ..enough.clone() }),
        ];
        for (_, output) in lacking.into_iter().filter(|(wanted, _)| *wanted) {
            let error = objective.loss(&output, &targets(&golden)).unwrap_err();
            assert!(
                matches!(error, TrainError::Student(StudentError::MissingOutput { .. })),
                "{case}: {error}"
            );
        }
    }
}
