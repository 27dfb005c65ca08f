//! Every layer and all of its gradients against PyTorch in f64 (`goldens/layers.py`, `goldens/make_goldens.py`).

use lgd_kernels::conv::{self, Conv};
use lgd_kernels::{Activation, Operand, ShapeError, Sliding, Window, Workspace};
use lgd_train::engine::Mode;
use lgd_train::engine::graph::{Builder, ConvInitial, ConvSpec, LinearKind, NormSpec, Value};
use serde_json::Value as Json;

use crate::device::{Element, TestDevice, on_every_device};
use crate::golden::{Golden, error, real};
use crate::layer::{Layer, TRAIN};

on_every_device!(
    layers_and_gradients_equal_pytorchs,
    gradients_equal_central_differences,
    running_statistics_move_as_pytorchs,
    early_running_statistics_are_plain_means,
);

/// f32 sums of a few hundred terms.
const TOLERANCE: f64 = 3e-6;
/// A normalized value is read as `x * scale + shift`. If the mean is 200 deviations from 0, the summands are 200 times
/// the value, and so is their rounding error.
const FAR: (&str, f64) = ("norm_far_mean.y", 1.2e-5);
/// On a GPU, the gradient of the scale reads the value in this form, too.
const FAR_ON_GPU: &str = "norm_far_mean.dw0";

/// Fixtures with layers, and the number of their cases that run as graphs here.
const FIXTURES: [(&str, usize); 7] = [
    ("layers_conv", 16),
    ("layers_depthwise", 7),
    ("layers_transpose", 4),
    ("layers_norm", 28),
    ("layers_other", 14),
    ("layers_masked", 7),
    ("ops", 62),
];

/// Operations that are not layers. `ops.rs` tests them.
const NO_LAYERS: [&str; 3] = ["similarity", "entropy", "entropy_top"];
/// Filters in graphs are square. The CPU's kernel is tested separately.
const NOT_SQUARE: &str = "conv1x3";
/// Cases that graphs cannot express: output padding, which no student needs, and filters that are not square.
const WITHOUT: [&str; 2] = ["transpose3_s2_even", NOT_SQUARE];

/// A case of a fixture.
struct Case<'a> {
    golden: &'a Golden,
    name: &'a str,
    parameters: &'a Json,
}

impl Case<'_> {
    fn op(&self) -> &str {
        self.parameters["op"].as_str().unwrap()
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn has(&self, key: &str) -> bool {
        self.golden.has(&self.key(key))
    }

    fn values(&self, key: &str) -> Vec<f32> {
        self.golden.values(&self.key(key))
    }

    fn dims(&self, key: &str) -> &[usize] {
        self.golden.get(&self.key(key)).dims()
    }

    fn number(&self, key: &str, default: usize) -> usize {
        self.parameters.get(key).map_or(default, |value| usize::try_from(value.as_u64().unwrap()).unwrap())
    }

    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the intent")]
    fn real(&self, key: &str, default: f32) -> f32 {
        self.parameters.get(key).map_or(default, |value| value.as_f64().unwrap() as f32)
    }

    fn window(&self) -> Window {
        let dilation = self.number("dilation", 1);
        Window { stride: self.number("stride", 1), padding: self.number("padding", 0), dilation }
    }

    fn activation(&self, key: &str) -> Activation {
        match self.parameters[key].as_str().unwrap() {
            "identity" => Activation::Identity,
            "relu" => Activation::Relu,
            "relu6" => Activation::Relu6,
            "hardswish" => Activation::HardSwish,
            "hardsigmoid" => Activation::HardSigmoid,
            "silu" => Activation::Silu,
            "sigmoid" => Activation::Sigmoid,
            other => panic!("unknown activation {other}"),
        }
    }

    fn norm(&self) -> NormSpec {
        let spec = NormSpec::new(self.activation("activation"));
        NormSpec {
            eps: self.real("epsilon", spec.eps),
            momentum: self.real("momentum", spec.momentum),
            ..spec
        }
    }

    fn conv(&self, builder: &mut Builder, x: Value, groups: usize) -> Result<Value, ShapeError> {
        let dims = self.dims("w0");
        let spec = ConvSpec { window: self.window(), groups, ..ConvSpec::dense(dims[0], dims[2], 1) };
        builder.conv(x, "conv", spec)
    }

    /// Builds the graph of the case. Its parameters are created in the order of the fixture's weights.
    fn build(&self, builder: &mut Builder, x: Value) -> Result<Value, ShapeError> {
        let channels = builder.shape(x).channels;
        match self.op() {
            "conv" => self.conv(builder, x, self.number("groups", 1)),
            "depthwise" => self.conv(builder, x, channels),
            "conv_transpose" => {
                let dims = self.dims("w0");
                let spec = ConvSpec { window: self.window(), ..ConvSpec::dense(dims[1], dims[2], 1) };
                let y = builder.conv_transpose(x, "up", spec)?;
                builder.bias(y, "up", channels)
            }
            "norm" => builder.batch_norm(x, "norm", self.norm()),
            "masked_conv_norm" => {
                let x = builder.mask(x);
                let y = self.conv(builder, x, self.number("groups", 1))?;
                let y = builder.batch_norm(y, "norm", NormSpec { masked: true, ..self.norm() })?;
                Ok(builder.mask(y))
            }
            "squeeze_excitation" => {
                let pooled = builder.global_average_pool(x);
                let squeezed = builder.linear(
                    pooled,
                    "fc1",
                    self.dims("w0")[0],
                    LinearKind::Pointwise(ConvInitial::FanOut),
                )?;
                let squeezed = builder.activate(squeezed, self.activation("activation"));
                let gate =
                    builder.linear(squeezed, "fc2", channels, LinearKind::Pointwise(ConvInitial::FanOut))?;
                let gate = builder.activate(gate, self.activation("gate"));
                builder.scale(x, gate)
            }
            "pool" => builder.max_pool(x, self.number("side", 0), self.window()),
            "average" => Ok(builder.global_average_pool(x)),
            "normalize" => builder.l2_normalize(x),
            "linear" => {
                let y = builder.linear(x, "linear", self.dims("w0")[0], LinearKind::Dense)?;
                Ok(builder.activate(y, self.activation("activation")))
            }
            // A graph has one input. The other summand, zero in the fixture, is a convolution of the input with zero.
            "add" => {
                let zero = builder.conv(x, "zero", ConvSpec::dense(channels, 1, 1))?;
                builder.add(x, zero, self.activation("activation"))
            }
            other => panic!("unknown op {other}"),
        }
    }

    /// The graph with the fixture's weights, statistics and mask.
    fn layer<D: TestDevice>(&self) -> Layer<D> {
        let mut layer = Layer::<D>::new(self.dims("x"), |builder, x| Ok(vec![self.build(builder, x)?]));
        for (i, name) in layer.names().iter().enumerate() {
            if self.op() == "add" {
                let len = layer.get(name).len();
                layer.set(name, &vec![0.0; len]);
            } else {
                assert_eq!(
                    layer.table.parameters()[i].spec.shape,
                    self.dims(&format!("w{i}")),
                    "{}",
                    self.name
                );
                layer.set(name, &self.values(&format!("w{i}")));
            }
        }
        if self.op() != "add" {
            assert!(!self.has(&format!("w{}", layer.names().len())), "{}: a weight is left", self.name);
        }
        if self.has("mean") {
            layer.set("norm.running_mean", &self.values("mean"));
            layer.set("norm.running_var", &self.values("variance"));
        }
        if self.has("mask") {
            let visible: Vec<bool> = self.values("mask").iter().map(|v| *v > 0.0).collect();
            let [_, rows, columns] = *self.dims("mask") else { panic!("{}: a mask's shape", self.name) };
            layer.set_mask(&visible, rows, columns).unwrap();
        }
        layer
    }

    fn is_inference(&self) -> bool {
        self.parameters.get("mode").is_some_and(|mode| mode == "eval")
    }

    /// Name and relative error of every result that both the fixture and the graph have. In bf16 the results are those
    /// of a neighboring input, which may lie beyond a kink or tie in a pool. There the reference is the CPU's result
    /// for the same rounded input, and the CPU equals PyTorch in f32.
    fn errors<D: TestDevice>(&self) -> Vec<(String, f64)> {
        let mut layer = self.layer::<D>();
        if D::ELEMENT == Element::Bf16 {
            let mode = if self.is_inference() { Mode::Inference } else { TRAIN };
            let error = layer.error_beside_cpu(&self.values("x"), &[self.values("g")], mode);
            return vec![(self.name.to_owned(), error)];
        }
        if self.is_inference() {
            let y = layer.forward(&self.values("x"), Mode::Inference);
            assert_eq!(layer.get("norm.running_mean"), self.values("mean"), "inference moves nothing");
            return self.compare(vec![("y".to_owned(), y)]);
        }
        let mut found = vec![("y".to_owned(), layer.forward(&self.values("x"), TRAIN))];
        layer.backward(&self.values("g"));
        found.push(("dx".to_owned(), layer.dx()));
        if self.op() != "add" {
            let names = layer.names();
            found.extend(names.iter().enumerate().map(|(i, name)| (format!("dw{i}"), layer.gradient(name))));
        }
        if self.has("mean_after") {
            found.push(("mean_after".to_owned(), layer.get("norm.running_mean")));
            found.push(("variance_after".to_owned(), layer.get("norm.running_var")));
        }
        self.compare(found)
    }

    fn compare(&self, found: Vec<(String, Vec<f32>)>) -> Vec<(String, f64)> {
        let compared = |(what, got): (String, Vec<f32>)| {
            let error = error(&got, &self.values(&what));
            (self.key(&what), error)
        };
        found.into_iter().map(compared).collect()
    }

    /// Errors of the convolution's kernel itself, for filters that are not square.
    fn kernel_errors(&self) -> Vec<(String, f64)> {
        let (&[batch, height, width, channels], &[outputs, _, rows, columns]) =
            (self.dims("x"), self.dims("w0"))
        else {
            panic!("{}: a convolution's shapes", self.name)
        };
        let sliding = Sliding::new((batch, height, width, channels), (rows, columns), self.window()).unwrap();
        let conv = Conv::new(sliding, outputs, 1).unwrap();
        // To OIHW and back, with one index for the taps.
        let taps = rows * columns;
        let file = |memory: usize| {
            let (filter, tap, channel) =
                (memory / (taps * channels), memory / channels % taps, memory % channels);
            (filter * channels + channel) * taps + tap
        };
        let (x, g, given) = (self.values("x"), self.values("g"), self.values("w0"));
        let weights: Vec<f32> = (0..given.len()).map(|at| given[file(at)]).collect();
        let workspace = &mut Workspace::new();
        let (mut y, mut dx, mut dw) = (vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; given.len()]);
        conv::forward(&conv, Operand::plain(&x), &weights, &mut y, None, workspace).unwrap();
        conv::backward_data(&conv, &g, &weights, &mut dx, false, workspace).unwrap();
        conv::backward_weight(&conv, Operand::plain(&x), &g, &mut dw, false, workspace).unwrap();
        let mut in_file = vec![0.0; dw.len()];
        dw.iter().enumerate().for_each(|(at, value)| in_file[file(at)] = *value);
        self.compare(vec![("y".to_owned(), y), ("dx".to_owned(), dx), ("dw0".to_owned(), in_file)])
    }
}

/// Calls `f` for every case of a fixture.
fn for_all_cases(fixture: &str, mut f: impl FnMut(&Case<'_>)) {
    let golden = Golden::open(fixture);
    let cases: Json = serde_json::from_str(golden.metadata("cases")).unwrap();
    for (name, parameters) in cases.as_object().unwrap() {
        f(&Case { golden: &golden, name, parameters });
    }
}

/// Calls `f` for every case of a fixture that is a layer. Returns the number of cases.
fn for_cases(fixture: &str, mut f: impl FnMut(&Case<'_>)) -> usize {
    let mut count = 0;
    for_all_cases(fixture, |case| {
        if !NO_LAYERS.contains(&case.op()) && !WITHOUT.contains(&case.name) {
            f(case);
            count += 1;
        }
    });
    count
}

fn layers_and_gradients_equal_pytorchs<D: TestDevice>() {
    let mut failures = Vec::new();
    for (fixture, expected) in FIXTURES {
        let mut worst = (String::new(), 0.0);
        let count = for_cases(fixture, |case| {
            for (what, error) in case.errors::<D>() {
                let far = what == FAR.0 || (what == FAR_ON_GPU && !D::device().is_cpu());
                let allowed = D::tolerance(if far { FAR.1 } else { TOLERANCE });
                if error > allowed {
                    failures.push(format!("{what}: {error:.1e}"));
                }
                if error > worst.1 {
                    worst = (what, error);
                }
            }
        });
        eprintln!("{fixture}: {count} cases, worst {:.1e} ({})", worst.1, worst.0);
        assert_eq!(count, expected, "cases of {fixture}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The CPU's kernel accepts filters that are not square. Graphs have none.
#[test]
fn filters_that_are_not_square_equal_pytorchs() {
    let mut count = 0;
    for (fixture, _) in FIXTURES {
        for_all_cases(fixture, |case| {
            if case.name == NOT_SQUARE {
                for (what, error) in case.kernel_errors() {
                    assert!(error < TOLERANCE, "{what}: {error:.1e}");
                }
                count += 1;
            }
        });
    }
    assert_eq!(count, 1, "cases");
}

/// The CPU's instruction set is chosen once per process, so each set gets its own process.
#[test]
fn every_instruction_set_gives_pytorchs_gradients() {
    for set in ["avx2", "portable"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "layers::layers_and_gradients_equal_pytorchs::cpu"])
            .args(["layers::filters_that_are_not_square_equal_pytorchs"])
            .args(["channels::any_number_of_channels_gives_the_sums_written_out::cpu"])
            .args(["tape::normalizations_are_the_same_written_out_and_read_on_the_way::cpu"])
            .args(["ops::objectives_equal_pytorchs::cpu"])
            .env("LGD_SIMD", set)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{set}: {text}");
        assert!(text.contains("5 passed"), "{set} ran something else: {text}");
    }
}

/// Central differences of `Σ y . g`, which depend on neither PyTorch nor the analytic gradient. In bf16 they are too
/// coarse, and the reference is the CPU's gradient.
fn gradients_equal_central_differences<D: TestDevice>() {
    let smooth = [
        ("ops", "conv3_s2_7x8"),
        ("ops", "depthwise3_s2_8x7"),
        ("ops", "norm_identity"),
        ("ops", "linear_identity"),
        ("ops", "average"),
        ("layers_conv", "conv3_groups2_s2_odd"),
        ("layers_transpose", "transpose4_s2"),
        ("layers_norm", "norm_silu_train_5"),
        ("layers_other", "squeeze_efficientnet"),
        ("layers_masked", "masked1"),
    ];
    for (fixture, name) in smooth {
        let mut found = false;
        for_cases(fixture, |case| {
            if case.name == name {
                let error = case.layer::<D>().gradient_error(&case.values("x"), &[case.values("g")], 1e-2);
                assert!(error < D::tolerance(2e-3), "{name}: {error:.1e}");
                found = true;
            }
        });
        assert!(found, "no case {name}");
    }
}

fn running_statistics_move_as_pytorchs<D: TestDevice>() {
    let golden = Golden::open("ops");
    let x = golden.get("running.x");
    let mut layer = Layer::<D>::new(x.dims(), |builder, x| {
        Ok(vec![builder.batch_norm(x, "norm", NormSpec::new(Activation::Identity))?])
    });
    layer.set("norm.running_mean", &golden.values("running.mean_before"));
    layer.set("norm.running_var", &golden.values("running.variance_before"));
    layer.forward(&golden.values("running.x"), TRAIN);
    assert!(error(&layer.get("norm.running_mean"), &golden.values("running.mean")) < D::tolerance(1e-6));
    assert!(error(&layer.get("norm.running_var"), &golden.values("running.variance")) < D::tolerance(1e-6));
}

/// PyTorch's cumulative average, then its moving one.
fn early_running_statistics_are_plain_means<D: TestDevice>() {
    let golden = Golden::open("running");
    let momentum: f32 = golden.metadata("momentum").parse().unwrap();
    let mut layer = Layer::<D>::new(golden.get("x0").dims(), |builder, x| {
        let spec = NormSpec { momentum, ..NormSpec::new(Activation::Identity) };
        Ok(vec![builder.batch_norm(x, "norm", spec)?])
    });
    let steps = (0..).take_while(|step| golden.has(&format!("x{step}"))).count();
    assert!(real(steps) > 1.0 / f64::from(momentum), "the moving average is reached");
    for step in 0..steps {
        let mode = Mode::Train { seed: 1, step: u64::try_from(step).unwrap() };
        layer.forward(&golden.values(&format!("x{step}")), mode);
        for (ours, theirs) in [("norm.running_mean", "mean"), ("norm.running_var", "variance")] {
            let error = error(&layer.get(ours), &golden.values(&format!("{theirs}{step}")));
            assert!(error < D::tolerance(1e-6), "{theirs} after batch {step}: {error:.1e}");
        }
    }
}
