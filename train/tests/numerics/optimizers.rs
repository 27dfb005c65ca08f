//! Optimizers, clipping and averaging against PyTorch in f64 (`goldens/layers.py`), and their state.

use lgd_kernels::{Activation, ShapeError};
use lgd_train::engine::graph::{Builder, ConvSpec, LinearKind, NormSpec, Value};
use lgd_train::engine::parameters::{State, Table};
use lgd_train::engine::{Backend, Mode};
use lgd_train::error::TrainError;
use lgd_train::optim::{OptimizerSettings, OptimizerState, Rule};
use serde_json::Value as Json;

use crate::device::{Cpu, TestDevice, on_every_device, on_every_f32_device};
use crate::golden::{Golden, error, normal, values};
use crate::layer::{Layer, TRAIN, shape};

// Optimizers compute in f32 on every device.
on_every_f32_device!(
    optimizers_step_as_pytorchs,
    sgd_steps_are_pytorchs,
    gradients_without_a_finite_norm_are_noticed,
    an_update_for_something_else_is_refused,
);
on_every_device!(
    saved_state_goes_on_as_if_nothing_had_happened,
    layers_read_the_parameters_that_an_update_left,
);

/// Tolerance for five steps in f32.
const TOLERANCE: f64 = 1e-6;

const INPUTS: usize = 7;
const OUTPUTS: usize = 5;

/// A weight `[5, 7]` and a bias `[5]`, as in the fixture.
fn dense(builder: &mut Builder, x: Value) -> Result<Vec<Value>, ShapeError> {
    Ok(vec![builder.linear(x, "layer", OUTPUTS, LinearKind::Dense)?])
}

fn table() -> Table {
    let (mut builder, x) = Builder::new(shape(&[1, INPUTS])).unwrap();
    let outputs = dense(&mut builder, x).unwrap();
    builder.finish(outputs).1
}

const TENSORS: [&str; 2] = ["weight", "bias"];

/// Runs the layer of [`dense`] on a batch for which the gradients of weight and bias are the given ones. Row `i` of the
/// batch is the unit vector `i`, and its output gradient is column `i` of the weight's gradient. The output gradient of
/// a last row of zeros corrects the sum, which is the bias's gradient.
fn differentiate<D: TestDevice>(layer: &mut Layer<D>, weight: &[f32], bias: &[f32]) {
    let mut x = vec![0.0; (INPUTS + 1) * INPUTS];
    let mut g = vec![0.0; (INPUTS + 1) * OUTPUTS];
    (0..INPUTS).for_each(|row| x[row * INPUTS + row] = 1.0);
    for (output, columns) in weight.chunks_exact(INPUTS).enumerate() {
        (0..INPUTS).for_each(|row| g[row * OUTPUTS + output] = columns[row]);
        g[INPUTS * OUTPUTS + output] = bias[output] - columns.iter().sum::<f32>();
    }
    layer.run(&x, TRAIN).unwrap();
    layer.backward(&g);
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

fn optimizers_step_as_pytorchs<D: TestDevice>() {
    let golden = Golden::open("optimizers");
    let cases: Json = serde_json::from_str(golden.metadata("cases")).unwrap();
    let rates: Vec<f32> = serde_json::from_str(golden.metadata("rates")).unwrap();
    let mut count = 0;
    for (case, parameters) in cases.as_object().unwrap() {
        // With the learning rate inside the velocity. At a constant rate the result is the same, and we do not offer
        // it.
        if parameters["rate_outside"] == false {
            continue;
        }
        let settings = settings(parameters);
        settings.validate().unwrap();
        let given = |name: &str, what: &str| golden.values(&format!("{case}.{name}.{what}"));
        let mut layer = Layer::<D>::new(&[INPUTS + 1, INPUTS], dense);
        TENSORS.iter().for_each(|name| layer.set(&format!("layer.{name}"), &given(name, "p0")));
        let table = layer.table.clone();
        let check = |what: &str, got: &[f32]| {
            for name in TENSORS {
                let (entry, _) = table.find(&format!("layer.{name}")).unwrap();
                let error = error(&entry.spec.read(&got[entry.range.indices()]), &given(name, what));
                assert!(error < D::tolerance(TOLERANCE), "{case}.{name}.{what}: {error:.1e}");
            }
        };
        for (step, lr) in (0..).zip(&rates) {
            let [weight, bias] = TENSORS.map(|name| given(name, &format!("g{step}")));
            differentiate(&mut layer, &weight, &bias);
            let backend = layer.tape.backend_mut();
            backend.update(&table, &settings.update(&table, *lr, step + 1)).unwrap();
            check(&format!("p{}", step + 1), &backend.state().unwrap().parameters);
            if let Some(average) = &backend.optimizer_state().unwrap().ema {
                check(&format!("a{}", step + 1), &average.parameters);
            }
        }
        let kept: &[&str] = match settings.rule {
            Rule::Adamw { .. } => &["first", "second"],
            Rule::Sgd { momentum: 0.0, .. } => &[],
            _ => &["velocity"],
        };
        let optimizer = layer.tape.backend_mut().optimizer_state().unwrap();
        kept.iter().zip(optimizer.entries()).for_each(|(what, (_, moment))| check(what, moment));
        count += 1;
    }
    assert_eq!(count, 7, "cases");
}

fn sgd_steps_are_pytorchs<D: TestDevice>() {
    let golden = Golden::open("ops");
    let mut layer = Layer::<D>::new(&[1, 37], |b, x| Ok(vec![b.bias(x, "layer", 1)?]));
    let rule = Rule::Sgd { momentum: 0.9, nesterov: false };
    let settings = OptimizerSettings { rule, weight_decay: 0.01, ..OptimizerSettings::default() };
    layer.set("layer.bias", &golden.values("sgd.p0"));
    for (step, lr) in (0..).zip([0.1, 0.3, 0.05]) {
        layer.run(&[0.0; 37], TRAIN).unwrap();
        layer.backward(&golden.values(&format!("sgd.g{step}")));
        let update = settings.update(&layer.table, lr, step + 1);
        layer.tape.backend_mut().update(&layer.table, &update).unwrap();
        let expected = golden.values(&format!("sgd.p{}", step + 1));
        assert!(error(&layer.get("layer.bias"), &expected) < D::tolerance(1e-6), "step {step}");
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

/// A convolution with a normalization, so that there are buffers, trained for a few steps.
fn small<D: TestDevice>() -> Layer<D> {
    Layer::new(&[4, 5, 5, 3], |b, x| {
        let y = b.conv(x, "conv", ConvSpec::dense(6, 3, 1))?;
        let y = b.batch_norm(y, "norm", NormSpec::new(Activation::Relu))?;
        let y = b.global_average_pool(y);
        Ok(vec![b.linear(y, "linear", 4, LinearKind::Dense)?])
    })
}

fn train<D: TestDevice>(
    layer: &mut Layer<D>,
    settings: &OptimizerSettings,
    steps: std::ops::RangeInclusive<u64>,
) {
    for step in steps {
        let y = layer.forward(&normal(&format!("x{step}"), 300), Mode::Train { seed: 1, step });
        layer.backward(&normal(&format!("g{step}"), y.len()));
        let update = settings.update(&layer.table, 0.1, step);
        layer.tape.backend_mut().update(&layer.table, &update).unwrap();
    }
}

fn saved_state_goes_on_as_if_nothing_had_happened<D: TestDevice>() {
    for rule in RULES {
        let settings = averaged(rule);
        let mut whole = small::<D>();
        train(&mut whole, &settings, 1..=5);
        let mut first = small::<D>();
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
        let mut second = small::<D>();
        train(&mut second, &settings, 1..=1);
        second.tape.backend_mut().load_state(&state).unwrap();
        second.tape.backend_mut().load_optimizer_state(&optimizer).unwrap();
        train(&mut second, &settings, 4..=5);
        let bits = |layer: &mut Layer<D>| {
            let state = layer.tape.backend_mut().state().unwrap();
            let optimizer = layer.tape.backend_mut().optimizer_state().unwrap();
            let vectors = optimizer.entries().into_iter().flat_map(|(_, vector)| vector.clone());
            let all = [state.parameters, state.buffers].concat().into_iter().chain(vectors);
            all.map(f32::to_bits).collect::<Vec<u32>>()
        };
        assert_eq!(bits(&mut whole), bits(&mut second), "{rule:?}");
    }
}

fn an_update_for_something_else_is_refused<D: TestDevice>() {
    let other = table();
    for rule in RULES {
        let settings = averaged(rule);
        let mut layer = small::<D>();
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

/// If layers have another element than the parameters, they read a copy of them.
fn layers_read_the_parameters_that_an_update_left<D: TestDevice>() {
    for rule in RULES {
        let mut trained = small::<D>();
        train(&mut trained, &averaged(rule), 1..=2);
        let mut loaded = small::<D>();
        let x = normal("x", 300);
        let before = loaded.forward(&x, Mode::Inference);
        loaded.tape.backend_mut().load_state(&trained.tape.backend_mut().state().unwrap()).unwrap();
        let after = loaded.forward(&x, Mode::Inference);
        assert_eq!(trained.forward(&x, Mode::Inference), after, "{rule:?}");
        assert!(error(&after, &before) > 0.01, "{rule:?} moved next to nothing");
    }
}

/// The update detects it, or else the reader of the norm that the device reports.
fn gradients_without_a_finite_norm_are_noticed<D: TestDevice>() {
    for rule in RULES {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut layer = Layer::<D>::new(&[INPUTS + 1, INPUTS], dense);
            let update = averaged(rule).update(&layer.table, 0.1, 3);
            differentiate(&mut layer, &normal("g", INPUTS * OUTPUTS), &[0.0, bad, 0.0, 0.0, 0.0]);
            let backend = layer.tape.backend_mut();
            let noticed = match backend.update(&layer.table, &update) {
                Err(error) => matches!(error, TrainError::GradientNorm { step: 2, .. }),
                Ok(()) => {
                    values(&backend.unchecked_norm().unwrap().unwrap()).iter().all(|norm| !norm.is_finite())
                }
            };
            assert!(noticed, "{rule:?}: {bad}");
        }
    }
}

/// On the CPU, such gradients change nothing.
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
    let layer = small::<Cpu>();
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
