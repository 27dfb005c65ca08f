//! H-GKD: the loss alone, and a whole masked student with it, against PyTorch in f64 (`goldens/hgkd.py`).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use lgd_data::projection::{MomentSums, Projection};
use lgd_train::error::TrainError;
use lgd_train::objective::{
    BatchMask, Hgkd, HgkdSettings, Objective, ObjectiveError, ObjectiveKind, TargetBatch, TeacherQueue,
    WantedOutputs,
};
use lgd_train::student::{
    Architecture, DecoderConfig, Extras, Head, Images, StudentConfig, StudentError, StudentOutput,
};

use crate::device::{TestDevice, on_every_f32_device};
use crate::golden::{Golden, error, normal, real, spread, values};
use crate::layer::TRAIN;

on_every_f32_device!(
    the_loss_and_its_gradients_equal_pytorchs,
    a_masked_students_whole_gradient_equals_pytorchs,
    features_are_compared_by_whether_their_cell_is_hidden,
    the_loss_of_projected_tokens_is_that_of_whole_ones_as_far_as_they_go,
    correlations_need_two_entries_and_do_not_break_where_nothing_varies,
    what_does_not_fit_the_objective_is_refused,
    the_queue_takes_the_batch_and_survives_a_checkpoint,
);

/// The product promises 1e-4 for each tensor, L2. PyTorch's own f32 is at most 2e-5 off (metadata `f32_error`).
const TOLERANCE: f64 = 1e-4;

const BATCH: usize = 4;
const SIZE: (usize, usize) = (64, 96);
const CELLS: (usize, usize) = (2, 3);
const GRID: (usize, usize) = (8, 12);
const TOKEN_DIM: usize = 16;
const DIM: usize = 24;

/// `formula` of `goldens/hgkd.py`.
fn formula(seed: u64, name: &str, shape: &[usize]) -> Tensor {
    let (bound, center) = match shape {
        _ if name.ends_with("running_mean") => (0.1, 0.0),
        _ if name.ends_with("running_var") => (0.5, 1.0),
        [out, _, rows, columns] => ((6.0 / real(out * rows * columns)).sqrt(), 0.0),
        [_, inputs] => (1.0 / real(*inputs).sqrt(), 0.0),
        _ if name.ends_with("bias") || name.ends_with("token") => (0.3, 0.0),
        _ => (0.3, 1.0),
    };
    spread(seed, name, shape, bound, center)
}

fn seed(golden: &Golden) -> u64 {
    golden.metadata("seed").parse().unwrap()
}

fn weight(golden: &Golden, name: &str) -> f32 {
    golden.metadata(name).parse().unwrap()
}

fn mask(golden: &Golden) -> BatchMask {
    let visible = golden.values("mask").iter().map(|shown| *shown > 0.0).collect();
    BatchMask::new(visible, CELLS).unwrap()
}

/// The objective with the fixture's queue.
fn objective(golden: &Golden) -> Hgkd {
    let entries = golden.get("queue");
    let (filled, dim) = entries.dims2().unwrap();
    let mut queue = TeacherQueue::new(2 * filled, dim, entries.device()).unwrap();
    queue.push(&(0..u32::try_from(filled).unwrap()).collect::<Vec<_>>(), entries).unwrap();
    let settings = HgkdSettings {
        beta: weight(golden, "beta"),
        lambda_sim: weight(golden, "lambda"),
        ..HgkdSettings::default()
    };
    Hgkd::new(settings, queue, TOKEN_DIM).unwrap()
}

fn targets(golden: &Golden) -> TargetBatch {
    let shape = [BATCH, GRID.0, GRID.1, TOKEN_DIM];
    TargetBatch {
        embedding: Some(golden.get("t").clone()),
        tokens: Some(
            spread(seed(golden), "tokens", &shape, 1.5, 0.0).to_device(golden.get("t").device()).unwrap(),
        ),
        rows: Some(vec![7, 8, 9, 10]),
        mask: Some(mask(golden)),
        ..TargetBatch::default()
    }
}

fn output(embedding: &Tensor, tokens: &Tensor) -> StudentOutput {
    let (embedding, tokens) = (Some(embedding.clone()), Some(tokens.clone()));
    StudentOutput {
        pooled: Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap(),
        embedding,
        raw_pooled: None,
        tokens,
    }
}

fn the_loss_and_its_gradients_equal_pytorchs<D: TestDevice>() {
    let golden = Golden::on::<D>("hgkd");
    let [embedding, tokens] = ["embedding", "output"].map(|name| Var::from_tensor(golden.get(name)).unwrap());
    let loss = objective(&golden).loss(&output(&embedding, &tokens), &targets(&golden)).unwrap();
    let names = ["hgkd_hidden", "hgkd_visible", "hgkd_similarity"];
    for ((name, part), (expected, theirs)) in
        loss.parts.iter().zip(names.iter().zip(["hidden", "visible", "similarity"]))
    {
        assert_eq!(name, expected);
        let error = error(&values(part), &golden.values(theirs));
        assert!(error < D::tolerance(1e-5), "{name}: {error:.1e}");
    }
    // The fixture's loss also has KDEP's term, which depends on neither tokens nor embedding.
    let raw = weight(&golden, "kdep") * golden.values("raw")[0];
    assert!(error(&[values(&loss.total)[0] + raw], &golden.values("loss")) < D::tolerance(1e-5));
    let gradients = loss.total.backward().unwrap();
    for (name, variable) in [("d_embedding", &embedding), ("d_output", &tokens)] {
        let error = error(&values(gradients.get(variable).unwrap()), &golden.values(name));
        assert!(error < D::tolerance(1e-5), "{name}: {error:.1e}");
    }
}

fn a_masked_students_whole_gradient_equals_pytorchs<D: TestDevice>() {
    let golden = Golden::on::<D>("hgkd");
    let seed = seed(&golden);
    let decoder =
        DecoderConfig { rows: GRID.0, columns: GRID.1, dim: TOKEN_DIM, height: SIZE.0, width: SIZE.1 };
    let extras = Extras { raw_pooled: true, decoder: Some(decoder) };
    let config = StudentConfig::new(Architecture::ResNet18, Head::Projection { dim: DIM }, 0);
    let mut student = D::student(StudentConfig { extras, ..config });
    let tensors = student.tensors().unwrap();
    let tensors: BTreeMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| (name.clone(), formula(seed, name, tensor.dims()))).collect();
    assert!(student.load(&tensors).unwrap().is_complete());
    student.set_mask(mask(&golden).visible(), CELLS).unwrap();
    let images = values(&spread(seed, "images", &[BATCH, SIZE.0, SIZE.1, 3], 2.0, 0.0));
    let output = student.forward(Images::Normalized(&images), (BATCH, SIZE.0, SIZE.1), TRAIN).unwrap();
    let raw = output.raw_pooled().unwrap();
    let feature = D::tensor(&spread(seed, "feature", raw.dims(), 2.0, 0.0));
    let kdep = (raw - feature).unwrap().sqr().unwrap().mean_all().unwrap();
    let loss = objective(&golden).loss(&output, &targets(&golden)).unwrap();
    let total = (loss.total + (&kdep * f64::from(weight(&golden, "kdep"))).unwrap()).unwrap();
    let mut found = vec![
        ("loss".to_owned(), error(&values(&total), &golden.values("loss"))),
        ("raw".to_owned(), error(&values(&kdep), &golden.values("raw"))),
        ("embedding".to_owned(), error(&values(output.embedding().unwrap()), &golden.values("embedding"))),
        ("output".to_owned(), error(&values(output.tokens().unwrap()), &golden.values("output"))),
        ("pooled".to_owned(), golden.summary_error(seed, "pooled", &output.pooled)),
        ("raw_pooled".to_owned(), golden.summary_error(seed, "raw_pooled", raw)),
    ];
    student.backward(&total, false).unwrap();
    let gradients = student.gradients().unwrap();
    let vanishing = golden.list("vanishing");
    let kept = gradients.iter().filter(|(name, _)| !vanishing.contains(*name));
    let kept: Vec<_> = kept.map(|(name, gradient)| (format!("gradient.{name}"), gradient)).collect();
    assert_eq!(
        kept.iter()
            .map(|(name, _)| name["gradient.".len()..].to_owned())
            .collect::<std::collections::BTreeSet<_>>(),
        golden.summaries("gradient.")
    );
    found.extend(kept.into_iter().map(|(name, g)| (name.clone(), golden.summary_error(seed, &name, g))));
    let after = student.tensors().unwrap();
    let statistics = after.iter().filter(|(name, _)| name.contains("running"));
    let statistics = statistics.map(|(name, value)| (format!("after.{name}"), value));
    found.extend(statistics.map(|(name, v)| (name.clone(), golden.summary_error(seed, &name, v))));
    let worst = found.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    eprintln!("worst of {}: {} {:.1e}", found.len(), worst.0, worst.1);
    let failures: Vec<String> = found
        .iter()
        .filter(|(_, error)| *error > D::tolerance(TOLERANCE))
        .map(|(name, error)| format!("{name}: {error:.1e}"))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Random unit vectors `[rows, dim]` on the device.
fn unit_rows<D: TestDevice>(name: &str, rows: usize, dim: usize) -> Tensor {
    D::tensor(&crate::golden::unit_rows(name, rows, dim))
}

/// The objective over a queue of the given embeddings, for tokens of three values.
fn over(settings: HgkdSettings, entries: &Tensor) -> Hgkd {
    let (count, dim) = entries.dims2().unwrap();
    let mut queue = TeacherQueue::new(count.max(1), dim, entries.device()).unwrap();
    let rows: Vec<u32> = (0..u32::try_from(count).unwrap()).collect();
    queue.push(&rows, entries).unwrap();
    Hgkd::new(settings, queue, 3).unwrap()
}

/// Two images of 1 x 2 cells with one cell hidden each, 2 x 4 tokens of three values, and embeddings of six.
fn small<D: TestDevice>() -> (Tensor, Tensor, TargetBatch) {
    let tokens = |name: &str| Tensor::from_vec(normal(name, 48), (2, 2, 4, 3), &D::device()).unwrap();
    let targets = TargetBatch {
        embedding: Some(unit_rows::<D>("t", 2, 6)),
        tokens: Some(tokens("y")),
        rows: Some(vec![3, 4]),
        mask: Some(BatchMask::new(vec![true, false, false, true], (1, 2)).unwrap()),
        ..TargetBatch::default()
    };
    (unit_rows::<D>("s", 2, 6), tokens("x"), targets)
}

fn parts(objective: &Hgkd, output: &StudentOutput, targets: &TargetBatch) -> [f32; 4] {
    let loss = objective.loss(output, targets).unwrap();
    let part = |at: usize| values(&loss.parts[at].1)[0];
    [values(&loss.total)[0], part(0), part(1), part(2)]
}

fn features_are_compared_by_whether_their_cell_is_hidden<D: TestDevice>() {
    let (s, x, targets) = small::<D>();
    let settings = HgkdSettings { beta: 0.25, lambda_sim: 0.0, ..HgkdSettings::default() };
    let objective = over(settings, &unit_rows::<D>("queue", 5, 6));
    let [total, hidden, visible, _] = parts(&objective, &output(&s, &x), &targets);
    let (x, y) = (values(&x), values(targets.tokens.as_ref().unwrap()));
    let mut sums = [0.0_f64; 2];
    for at in 0..48 {
        // Columns 0 and 1 of the first image and 2 and 3 of the second are visible.
        let (image, column) = (at / 24, at / 3 % 4);
        sums[usize::from((column < 2) == (image == 0))] += f64::from(x[at] - y[at]).powi(2) / 24.0;
    }
    assert!((f64::from(hidden) - sums[0]).abs() < 1e-5 && (f64::from(visible) - sums[1]).abs() < 1e-5);
    assert!((f64::from(total) - sums[0] - 0.25 * sums[1]).abs() < 1e-5);
    let (s, x, mut open) = small::<D>();
    open.mask = Some(BatchMask::new(vec![true; 4], (1, 2)).unwrap());
    assert_eq!(parts(&objective, &output(&s, &x), &open)[1], 0.0, "nothing is hidden");
}

/// Projects `tokens` `[2, 2, 4, 3]` to `[2, 2, 4, d]`.
fn projected(projection: &Projection, tokens: &Tensor) -> Tensor {
    let mut out = vec![0.0; 16 * projection.dim()];
    projection.apply(&values(tokens), &mut out);
    Tensor::from_vec(out, (2, 2, 4, projection.dim()), tokens.device()).unwrap()
}

fn the_loss_of_projected_tokens_is_that_of_whole_ones_as_far_as_they_go<D: TestDevice>() {
    let (s, x, targets) = small::<D>();
    let y = targets.tokens.clone().unwrap();
    let mut sums = MomentSums::new(3);
    sums.add(&values(&y));
    let whole = Projection::fit(&sums, 3).unwrap();
    let objective = over(
        HgkdSettings { beta: 0.25, lambda_sim: 0.0, ..HgkdSettings::default() },
        &unit_rows::<D>("queue", 5, 6),
    );
    let losses = |tokens: &Tensor, x: &Tensor| {
        let targets = TargetBatch { tokens: Some(tokens.clone()), ..targets.clone() };
        parts(&objective, &output(&s, x), &targets)
    };
    let close = |a: f32, b: f32| (a - b).abs() < 1e-5 * b;
    let plain = losses(&y, &x);
    let rotated = losses(&projected(&whole, &y), &projected(&whole, &x));
    assert!(plain.iter().zip(&rotated).take(3).all(|(a, b)| close(*a, *b)), "{plain:?} {rotated:?}");

    // With two axes, only the errors along the third are left out. The sum is smaller, and D still divides it.
    let two = Projection::fit(&sums, 2).unwrap();
    let cut = losses(&projected(&two, &y), &projected(&two, &x));
    let errors = (projected(&whole, &x) - projected(&whole, &y)).unwrap().sqr().unwrap();
    let third = values(&errors.narrow(3, 2, 1).unwrap());
    let hidden = (0..16).filter(|at| (at % 4 < 2) != (at / 8 == 0)).map(|at| third[at]).sum::<f32>() / 24.0;
    assert!(close(cut[1], plain[1] - hidden) && cut[1] < plain[1], "{cut:?} {plain:?} {hidden}");
}

fn correlations_need_two_entries_and_do_not_break_where_nothing_varies<D: TestDevice>() {
    let (s, x, targets) = small::<D>();
    let similarity = |queue: &Tensor, s: &Tensor| {
        let s = Var::from_tensor(s).unwrap();
        let loss = over(HgkdSettings::default(), queue).loss(&output(&s, &x), &targets).unwrap();
        let gradients = loss.total.backward().unwrap();
        (values(&loss.parts[2].1)[0], gradients.get(&s).map(values))
    };
    let queue = unit_rows::<D>("queue", 5, 6);
    for filled in [0, 1] {
        assert_eq!(similarity(&queue.narrow(0, 0, filled).unwrap(), &s), (0.0, None), "{filled} entries");
    }
    let t = targets.embedding.clone().unwrap();
    let (same, gradient) = similarity(&queue, &t);
    assert!(
        same.abs() < 1e-5 && gradient.unwrap().iter().all(|v| v.abs() < 1e-3),
        "the teacher's own embedding"
    );
    let (opposite, _) = similarity(&queue, &t.neg().unwrap());
    assert!((opposite - 2.0).abs() < 1e-5, "its opposite");
    let constant = queue.narrow(0, 0, 1).unwrap().broadcast_as((4, 6)).unwrap().contiguous().unwrap();
    let (alike, gradient) = similarity(&constant, &s);
    assert!(
        (alike - 1.0).abs() < 1e-3 && gradient.unwrap().iter().all(|v| v.is_finite()),
        "entries all alike"
    );
}

fn what_does_not_fit_the_objective_is_refused<D: TestDevice>() {
    let (s, x, targets) = small::<D>();
    let objective = over(HgkdSettings::default(), &unit_rows::<D>("queue", 5, 6));
    let refused = |change: fn(&mut TargetBatch)| {
        let mut changed = targets.clone();
        change(&mut changed);
        objective.loss(&output(&s, &x), &changed).unwrap_err()
    };
    let missing = |error| matches!(error, TrainError::Objective(ObjectiveError::MissingColumn { .. }));
    assert!(missing(refused(|targets| targets.tokens = None)));
    assert!(missing(refused(|targets| targets.mask = None)));
    assert!(missing(refused(|targets| targets.embedding = None)));
    refused(|targets| targets.mask = Some(targets.mask.as_ref().unwrap().narrow(0, 1).unwrap()));
    refused(|targets| targets.mask = Some(BatchMask::new(vec![true; 6], (1, 3)).unwrap()));
    refused(|targets| {
        targets.tokens = Some(Tensor::zeros((2, 2, 4, 4), candle_core::DType::F32, &D::device()).unwrap())
    });
    refused(|targets| targets.embedding = Some(unit_rows::<D>("t", 2, 5)));
    let WantedOutputs { embedding, raw_pooled, tokens } = ObjectiveKind::Hgkd.spec().outputs;
    assert!(embedding && tokens && !raw_pooled);
    let full = output(&s, &x);
    for (lacking, name) in [
        (StudentOutput { tokens: None, ..full.clone() }, "tokens"),
        (StudentOutput { embedding: None, ..full }, "embedding"),
    ] {
        let error = objective.loss(&lacking, &targets).unwrap_err();
        assert!(
            matches!(error, TrainError::Student(StudentError::MissingOutput { output }) if output == name),
            "{error}"
        );
    }
    let default = HgkdSettings::default();
    for settings in [HgkdSettings { beta: -1.0, ..default }, HgkdSettings { lambda_sim: f32::NAN, ..default }]
    {
        assert!(Hgkd::new(settings, TeacherQueue::new(2, 6, &D::device()).unwrap(), 3).is_err());
    }
    let queue = TeacherQueue::new(2, 6, &D::device()).unwrap();
    assert!(Hgkd::new(HgkdSettings::default(), queue, 0).is_err(), "tokens without values");
    let columns = objective.columns();
    assert!(
        columns.embedding && columns.tokens && columns.rows && !columns.kdep && !columns.text_distribution
    );
}

fn the_queue_takes_the_batch_and_survives_a_checkpoint<D: TestDevice>() {
    let (s, x, targets) = small::<D>();
    let queue = || TeacherQueue::new(3, 6, &D::device()).unwrap();
    let new = || Hgkd::new(HgkdSettings::default(), queue(), 3).unwrap();
    let mut objective = new();
    let teacher = unit_rows::<D>("all", 9, 6);
    let batch = |first: u32| TargetBatch {
        embedding: Some(teacher.narrow(0, first.try_into().unwrap(), 2).unwrap()),
        rows: Some(vec![first, first + 1]),
        ..targets.clone()
    };
    assert_eq!(parts(&objective, &output(&s, &x), &targets)[3], 0.0, "nothing is known yet");
    objective.after_step(&batch(0)).unwrap();
    objective.after_step(&batch(5)).unwrap();
    let before = parts(&objective, &output(&s, &x), &targets);
    assert!(before[3] > 0.0);
    let mut restored = new();
    let mut asked = Vec::new();
    let read = &mut |rows: &[usize]| {
        asked.extend(rows.to_vec());
        let rows: Vec<u32> = rows.iter().map(|row| u32::try_from(*row).unwrap()).collect();
        let rows = Tensor::from_vec(rows.clone(), rows.len(), &D::device())?;
        Ok(teacher.index_select(&rows, 0)?)
    };
    restored.restore(&objective.state().unwrap(), read).unwrap();
    asked.sort_unstable();
    assert_eq!(asked, [1, 5, 6], "the oldest made room");
    assert_eq!(parts(&restored, &output(&s, &x), &targets), before);
}
