//! Optimizers, clipping and averaging against PyTorch in f64 (`goldens/layers.py`), and their state.

use lgd_train::engine::graph::{Builder, LinearKind};
use lgd_train::engine::parameters::{State, Table};
use lgd_train::engine::{Backend, Mode};
use lgd_train::error::TrainError;
use lgd_train::optim::{OptimizerSettings, OptimizerState, Rule};
use serde_json::Value as Json;

use crate::golden::{Golden, error, normal};
use crate::layer::{Layer, shape};

/// Five steps in f32.
const TOLERANCE: f64 = 1e-6;

/// A weight `[5, 7]` and a bias `[5]`, as in the fixture.
fn table() -> Table {
    let (mut builder, x) = Builder::new(shape(&[1, 7])).unwrap();
    let y = builder.linear(x, "layer", 5, LinearKind::Dense).unwrap();
    builder.finish(vec![y]).1
}

const TENSORS: [&str; 2] = ["weight", "bias"];

/// One flat vector from the fixture's two tensors.
fn flat(table: &Table, golden: &Golden, case: &str, key: &str) -> Vec<f32> {
    let mut flat = vec![0.0; table.parameter_len()];
    for name in TENSORS {
        let (entry, _) = table.find(&format!("layer.{name}")).unwrap();
        entry.spec.write(&golden.values(&format!("{case}.{name}.{key}")), &mut flat[entry.range.indices()]);
    }
    flat
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
fn settings(case: &Json) -> OptimizerSettings {
    let real = |key: &str| case[key].as_f64().map(|value| value as f32);
    let sgd = || Rule::Sgd { momentum: real("momentum").unwrap(), nesterov: case["nesterov"] == true };
    let rule = match case["op"].as_str().unwrap() {
        "adamw" => {
            let [beta1, beta2, eps] = ["beta1", "beta2", "epsilon"].map(|key| real(key).unwrap());
            Rule::Adamw { beta1, beta2, eps }
        }
        "lars" => Rule::Lars { momentum: real("momentum").unwrap(), trust: real("trust").unwrap() },
        _ => sgd(),
    };
    let decay_all = !matches!(rule, Rule::Lars { .. });
    let weight_decay = real("weight_decay").unwrap();
    OptimizerSettings { rule, weight_decay, decay_all, clip: real("maximum"), ema: real("decay") }
}

#[test]
fn optimizers_step_as_pytorchs() {
    let golden = Golden::open("optimizers");
    let cases: Json = serde_json::from_str(golden.metadata("cases")).unwrap();
    let rates: Vec<f32> = serde_json::from_str(golden.metadata("rates")).unwrap();
    let table = table();
    let mut count = 0;
    for (case, parameters) in cases.as_object().unwrap() {
        // The rate inside the velocity: the same at a constant rate, and not what is offered here.
        if parameters["rate_outside"] == false {
            continue;
        }
        let settings = settings(parameters);
        settings.validate().unwrap();
        let mut state = State { parameters: flat(&table, &golden, case, "p0"), buffers: Vec::new() };
        let mut optimizer = OptimizerState::default();
        let check = |what: &str, got: &[f32]| {
            for name in TENSORS {
                let key = format!("{case}.{name}.{what}");
                let (entry, _) = table.find(&format!("layer.{name}")).unwrap();
                let error = error(&entry.spec.read(&got[entry.range.indices()]), &golden.values(&key));
                assert!(error < TOLERANCE, "{key}: {error:.1e}");
            }
        };
        for (step, lr) in (0..).zip(&rates) {
            let mut gradients = flat(&table, &golden, case, &format!("g{step}"));
            let update = settings.update(&table, *lr, step + 1);
            update.run(&table, &mut state, &mut gradients, &mut optimizer).unwrap();
            check(&format!("p{}", step + 1), &state.parameters);
            if let Some(average) = &optimizer.ema {
                check(&format!("a{}", step + 1), &average.parameters);
            }
        }
        let kept: &[&str] = match settings.rule {
            Rule::Adamw { .. } => &["first", "second"],
            Rule::Sgd { momentum: 0.0, .. } => &[],
            _ => &["velocity"],
        };
        kept.iter().zip(optimizer.entries()).for_each(|(what, (_, moment))| check(what, moment));
        count += 1;
    }
    assert_eq!(count, 7, "cases");
}

#[test]
fn sgd_steps_are_pytorchs() {
    let golden = Golden::open("ops");
    let (mut builder, x) = Builder::new(shape(&[1, 37])).unwrap();
    let y = builder.bias(x, "layer", 1).unwrap();
    let (_, table) = builder.finish(vec![y]);
    let padded = |key: &str| {
        let mut values = golden.values(key);
        values.resize(table.parameter_len(), 0.0);
        values
    };
    let rule = Rule::Sgd { momentum: 0.9, nesterov: false };
    let settings = OptimizerSettings { rule, weight_decay: 0.01, ..OptimizerSettings::default() };
    let mut state = State { parameters: padded("sgd.p0"), buffers: Vec::new() };
    let mut optimizer = OptimizerState::default();
    for (step, lr) in (0..).zip([0.1, 0.3, 0.05]) {
        let update = settings.update(&table, lr, step + 1);
        update.run(&table, &mut state, &mut padded(&format!("sgd.g{step}")), &mut optimizer).unwrap();
        let expected = golden.values(&format!("sgd.p{}", step + 1));
        assert!(error(&state.parameters[..37], &expected) < 1e-6, "step {step}");
    }
}

const RULES: [Rule; 4] = [
    Rule::Sgd { momentum: 0.9, nesterov: false },
    Rule::Sgd { momentum: 0.9, nesterov: true },
    Rule::Adamw { beta1: 0.9, beta2: 0.99, eps: 1e-8 },
    Rule::Lars { momentum: 0.9, trust: 0.02 },
];

fn averaged(rule: Rule) -> OptimizerSettings {
    OptimizerSettings { rule, weight_decay: 0.01, decay_all: false, clip: Some(0.5), ema: Some(0.9) }
}

/// A convolution with a normalization, so that there are buffers, trained for some steps.
fn small() -> Layer {
    use lgd_kernels::Activation;
    use lgd_train::engine::graph::{ConvSpec, NormSpec};
    Layer::new(&[4, 5, 5, 3], |b, x| {
        let y = b.conv(x, "conv", ConvSpec::dense(6, 3, 1))?;
        let y = b.batch_norm(y, "norm", NormSpec::new(Activation::Relu))?;
        let y = b.global_average_pool(y);
        Ok(vec![b.linear(y, "linear", 4, LinearKind::Dense)?])
    })
}

fn train(layer: &mut Layer, settings: &OptimizerSettings, steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        let y = layer.forward(&normal(&format!("x{step}"), 300), Mode::Train { seed: 1, step });
        layer.backward(&normal(&format!("g{step}"), y.len()));
        let update = settings.update(&layer.table, 0.1, step);
        layer.tape.backend_mut().update(&layer.table, &update).unwrap();
    }
}

#[test]
fn saved_state_goes_on_as_if_nothing_had_happened() {
    for rule in RULES {
        let settings = averaged(rule);
        let mut whole = small();
        train(&mut whole, &settings, 1..=5);
        let mut first = small();
        train(&mut first, &settings, 1..=3);
        let state = first.tape.backend_mut().state().unwrap();
        let optimizer = first.tape.backend_mut().optimizer_state().unwrap();
        let names: Vec<&str> = optimizer.entries().iter().map(|(name, _)| *name).collect();
        let moments: &[&str] =
            if matches!(rule, Rule::Adamw { .. }) { &["exp_avg", "exp_avg_sq"] } else { &["momentum"] };
        assert_eq!(names, [moments, &["average", "average_buffers"]].concat());
        for (name, vector) in optimizer.entries() {
            let over_buffers = name == "average_buffers";
            let len = if over_buffers { first.table.buffer_len() } else { first.table.parameter_len() };
            assert_eq!(vector.len(), len, "{name}");
            assert!(vector.iter().any(|v| *v != 0.0), "{name}");
        }
        let mut second = small();
        train(&mut second, &settings, 1..=1);
        second.tape.backend_mut().load_state(&state).unwrap();
        second.tape.backend_mut().load_optimizer_state(&optimizer).unwrap();
        train(&mut second, &settings, 4..=5);
        let bits = |layer: &mut Layer| {
            let state = layer.tape.backend_mut().state().unwrap();
            let optimizer = layer.tape.backend_mut().optimizer_state().unwrap();
            let vectors = optimizer.entries().into_iter().flat_map(|(_, vector)| vector.clone());
            let all = [state.parameters, state.buffers].concat().into_iter().chain(vectors);
            all.map(f32::to_bits).collect::<Vec<u32>>()
        };
        assert_eq!(bits(&mut whole), bits(&mut second), "{rule:?}");
    }
}

#[test]
fn an_update_for_something_else_is_refused() {
    let other = table();
    for rule in RULES {
        let settings = averaged(rule);
        let mut layer = small();
        train(&mut layer, &settings, 1..=1);
        let foreign = settings.update(&other, 0.1, 2);
        let table = layer.table.clone();
        let backend = layer.tape.backend_mut();
        assert!(matches!(backend.update(&table, &foreign), Err(TrainError::Shape(_))), "another student");
        let own = settings.update(&table, 0.1, 2);
        let optimizer = backend.optimizer_state().unwrap();
        let shorter = optimizer.try_map(|vector| Ok::<_, TrainError>(vector[1..].to_vec())).unwrap();
        backend.load_optimizer_state(&shorter).unwrap();
        assert!(matches!(backend.update(&table, &own), Err(TrainError::Shape(_))), "another length");
        let adam = matches!(rule, Rule::Adamw { .. });
        let another = if adam { RULES[0] } else { Rule::Adamw { beta1: 0.9, beta2: 0.9, eps: 1e-8 } };
        let zeros = |_| Ok::<_, TrainError>(vec![0.0; table.parameter_len()]);
        let foreign = OptimizerState { rule: Some(another.state(zeros).unwrap()), ..optimizer.clone() };
        backend.load_optimizer_state(&foreign).unwrap();
        assert!(matches!(backend.update(&table, &own), Err(TrainError::Shape(_))), "another rule");
        backend.load_optimizer_state(&optimizer).unwrap();
        assert!(backend.update(&table, &own).is_ok());
    }
}

#[test]
fn gradients_without_a_finite_norm_are_not_clipped() {
    let table = table();
    for rule in RULES {
        for bad in [f32::NAN, f32::INFINITY] {
            let before = State { parameters: normal("p", table.parameter_len()), buffers: Vec::new() };
            let (mut state, mut optimizer) = (before.clone(), OptimizerState::default());
            let mut gradients = normal("g", table.parameter_len());
            gradients[4] = bad;
            let update = averaged(rule).update(&table, 0.1, 3);
            let error = update.run(&table, &mut state, &mut gradients, &mut optimizer).unwrap_err();
            assert!(matches!(error, TrainError::GradientNorm { step: 2, .. }), "{rule:?}: {error}");
            assert!(error.to_string().contains("of step 2 is"), "{error}");
            assert_eq!(state.parameters, before.parameters, "{rule:?}");
        }
    }
}

#[test]
fn biases_and_normalizations_decay_only_where_asked() {
    let layer = small();
    for decay_all in [false, true] {
        let settings = OptimizerSettings { weight_decay: 0.1, decay_all, ..OptimizerSettings::default() };
        let update = settings.update(&layer.table, 0.1, 1);
        for (group, name) in update.groups.iter().zip(layer.names()) {
            let weight = ["conv.weight", "linear.weight"].contains(&&name[..]);
            assert_eq!(group.weight_decay, if weight || decay_all { 0.1 } else { 0.0 }, "{name}");
            assert_eq!(group.adapted, weight, "{name}");
        }
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let fine = OptimizerSettings::default();
    assert!(fine.validate().is_ok());
    let rules = [
        Rule::Sgd { momentum: 1.0, nesterov: false },
        Rule::Sgd { momentum: 0.0, nesterov: true },
        Rule::Adamw { beta1: -0.1, beta2: 0.9, eps: 1e-8 },
        Rule::Adamw { beta1: 0.9, beta2: f32::NAN, eps: 1e-8 },
        Rule::Adamw { beta1: 0.9, beta2: 0.9, eps: 0.0 },
        Rule::Lars { momentum: 0.9, trust: 0.0 },
    ];
    let wrong = rules.map(|rule| OptimizerSettings { rule, ..fine });
    let others = [
        OptimizerSettings { weight_decay: -1.0, ..fine },
        OptimizerSettings { clip: Some(0.0), ..fine },
        OptimizerSettings { ema: Some(1.0), ..fine },
    ];
    for settings in wrong.iter().chain(&others) {
        assert!(matches!(settings.validate(), Err(TrainError::Setting { .. })), "{settings:?}");
    }
}
