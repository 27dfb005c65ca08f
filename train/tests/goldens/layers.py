"""Writes what the engine's layers and optimizers must compute, from PyTorch in f64: layers_*.safetensors, optimizers.safetensors.

    python layers.py [layers] [optimizers]

needs torch, numpy and safetensors; without arguments both are written. All tensors are f32; inputs are rounded to f32 first.

layers_conv, layers_depthwise, layers_transpose, layers_norm, layers_masked, layers_other
-----------------------------------------------------------------------------------------
Metadata "cases" is a JSON object: the name of a case to its parameters, of which "op" says what it is. Tensors of a case:

    NAME.x        input, NHWC where it has four axes        NAME.dx     its gradient
    NAME.y        output, NHWC                              NAME.g      the output's gradient, as given
    NAME.w0, .w1, ...  weights, in the order below          NAME.dw0, .dw1, ...  their gradients

op                   parameters                              weights (convolutions OIHW); other tensors
conv                 stride, padding, dilation, groups       kernel [out, in / groups, kh, kw]
depthwise            stride, padding, dilation               kernel [channels, 1, kh, kw]
conv_transpose       stride, padding, output_padding         kernel [in, out, kh, kw], bias [out]
norm                 activation, mode, epsilon, momentum     gamma, beta; y = activation(norm(x)). NAME.mean and NAME.variance are
                     (mode: train or eval)                   the running statistics before; with mode train also NAME.mean_after
                                                             and NAME.variance_after (variance unbiased)
squeeze_excitation   activation, gate (an activation)        w0 [S, C, 1, 1], w1 [S], w2 [C, S, 1, 1], w3 [C]:
                                                             y = x gate(w2 activation(w0 mean(x) + w1) + w3)
pool                 side, stride, padding                   none; a tie goes to the first in row-major order, padding never wins
entropy_top          columns                                 none. x [B, columns] logits, y [1] the loss, no g (1). NAME.index
                                                             [B, K] whole numbers, NAME.probability [B, K] with sums up to 1,
                                                             NAME.active [columns] 1 or 0: columns left out of the softmax, no index
                                                             points there. loss = -1/B sum_b sum_k p[b,k] log_softmax(x)[b,index[b,k]]
masked_conv_norm     stride, padding, groups, activation,    kernel, gamma, beta. NAME.mask [B, rows, columns], 1 where visible; at a
                     epsilon, momentum                       height H every cell covers H / rows pixels. With m the mask at the input's
                                                             and n at the output's size, y = n activation(norm(conv(m x))), the mean
                                                             and variance over positions where n is 1. mean, variance, mean_after,
                                                             variance_after as in norm (unbiased by the visible count)

Activations: identity, relu, relu6, hardswish, silu, hardsigmoid, sigmoid.

optimizers
----------
Five steps of each, on a weight [5, 7] and a bias [5]: metadata "cases" gives the settings of each, "rates" the learning rate per
step (a JSON list, common to all).

    NAME.weight.p0 ... p5, NAME.bias.p0 ... p5      before the first step and after each
    NAME.weight.g0 ... g4, NAME.bias.g0 ... g4      gradients, as given
    NAME.weight.STATE, NAME.bias.STATE              the state after the last step: velocity, or first and second (moments)

op       settings
sgd      momentum, weight_decay, nesterov: torch.optim.SGD, v = m v + (g + d p), p -= lr v
adamw    beta1, beta2, epsilon, weight_decay: torch.optim.AdamW
lars     momentum, weight_decay, trust, epsilon; You, Gitman and Ginsburg 2017, algorithm 1:
         local = trust |p| / (|g| + d |p| + epsilon), v = m v + lr local (g + d p), p -= v.
         "rate_outside": true is the form of most libraries, v = m v + local (g + d p), p -= lr v; the two are the same at a
         constant rate. The bias is not adapted and does not decay: local = 1, d = 0.
clip     maximum, before an SGD with momentum 0.9: torch.nn.utils.clip_grad_norm_ over weight and bias together;
         "NAME.total0" ... are the norms before clipping. Some steps are clipped, some not.
ema      decay, beside an SGD with momentum 0.9: NAME.weight.a0 = p0, a_k = d a_(k-1) + (1 - d) p_k
         with d = min(decay, (1 + k) / (10 + k)): tf.train.ExponentialMovingAverage with num_updates
"""

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from make_goldens import HERE, Cases, f32, nhwc
from safetensors.numpy import save_file

ACTIVATIONS = {
    "identity": lambda y: y,
    "relu": torch.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
}
# Values are kept this far from the kinks of an activation, so that f32 is on the same side as f64.
CLEARANCE = 1e-4
KINKS = {"relu": [0.0], "relu6": [0.0, 6.0], "hardswish": [-3.0, 3.0], "hardsigmoid": [-3.0, 3.0]}
EPSILON, MOMENTUM = 1e-5, 0.1


def clear(values, activation):
    """Whether no value is near a kink."""
    return all(((values - kink).abs().min() > CLEARANCE) for kink in KINKS.get(activation, []))


def rounded(tensor):
    return tensor.to(torch.float32).double()


class Layers(Cases):
    """Cases with further tensors beside those of `Cases.add`."""

    def beside(self, name, **tensors):
        self.tensors |= {f"{name}.{key}": f32(nhwc(value)) for key, value in tensors.items()}


def convolutions(cases):
    r = torch.randn
    for name, b, h, w, i, o, kh, kw, s, p, d, groups in [
        ("conv3_groups2", 2, 8, 7, 8, 6, 3, 3, 1, 1, 1, 2),
        ("conv3_groups4", 1, 7, 8, 8, 12, 3, 3, 1, 1, 1, 4),
        ("conv3_groups4_s2_even", 1, 8, 10, 16, 8, 3, 3, 2, 1, 1, 4),
        ("conv3_groups2_s2_odd", 2, 9, 7, 6, 10, 3, 3, 2, 1, 1, 2),
        ("conv1_groups2", 1, 5, 6, 34, 18, 1, 1, 1, 0, 1, 2),
        ("conv3_groups2_dilated", 1, 9, 10, 8, 4, 3, 3, 1, 2, 2, 2),
        ("conv3_groups8", 1, 5, 5, 32, 32, 3, 3, 1, 1, 1, 8),
        ("conv3_dilated2", 1, 9, 12, 5, 7, 3, 3, 1, 2, 2, 1),
        ("conv3_dilated2_s2_even", 2, 10, 12, 5, 7, 3, 3, 2, 2, 2, 1),
        ("conv3_dilated2_s2_odd", 2, 11, 9, 5, 7, 3, 3, 2, 2, 2, 1),
        ("conv3_s2_even", 2, 8, 10, 12, 9, 3, 3, 2, 1, 1, 1),
        ("conv3_s2_odd", 2, 9, 7, 9, 16, 3, 3, 2, 1, 1, 1),
        ("conv3_s1_wide", 1, 6, 8, 9, 33, 3, 3, 1, 1, 1, 1),
        ("conv7_s2_stem_even", 1, 20, 22, 3, 8, 7, 7, 2, 3, 1, 1),
        ("conv1_s2_even", 2, 8, 10, 12, 9, 1, 1, 2, 0, 1, 1),
        ("conv1_s2_odd", 2, 9, 7, 12, 9, 1, 1, 2, 0, 1, 1),
    ]:
        conv = lambda x, k, s=s, p=p, d=d, n=groups: F.conv2d(x, k, stride=s, padding=p, dilation=d, groups=n)
        parameters = dict(op="conv", stride=s, padding=p, dilation=d, groups=groups)
        cases.add(name, conv, r(b, i, h, w), [r(o, i // groups, kh, kw)], **parameters)


def depthwise(cases):
    r = torch.randn
    for name, b, h, w, c, k, s, p, d in [
        ("depthwise5_s2_even", 2, 8, 10, 9, 5, 2, 2, 1),
        ("depthwise5_s2_odd", 1, 11, 9, 17, 5, 2, 2, 1),
        ("depthwise5_s2_small", 2, 4, 4, 16, 5, 2, 2, 1),
        ("depthwise5", 1, 9, 12, 17, 5, 1, 2, 1),
        ("depthwise5_tiny", 2, 2, 2, 33, 5, 1, 2, 1),
        ("depthwise5_dilated", 1, 9, 11, 6, 5, 1, 4, 2),
        ("depthwise7", 1, 9, 8, 6, 7, 1, 3, 1),
    ]:
        conv = lambda x, k, s=s, p=p, d=d, c=c: F.conv2d(x, k, stride=s, padding=p, dilation=d, groups=c)
        parameters = dict(op="depthwise", stride=s, padding=p, dilation=d)
        cases.add(name, conv, r(b, c, h, w), [r(c, 1, k, k)], **parameters)


def transposed(cases):
    r = torch.randn
    for name, b, h, w, i, o, k, s, p, extra in [
        ("transpose2_s2", 2, 5, 4, 6, 9, 2, 2, 0, 0),
        ("transpose3_s2", 2, 4, 5, 6, 9, 3, 2, 1, 0),
        ("transpose3_s2_even", 2, 4, 5, 6, 9, 3, 2, 1, 1),
        ("transpose4_s2", 1, 5, 4, 17, 8, 4, 2, 1, 0),
        ("transpose4_s2_7x7", 1, 7, 7, 5, 6, 4, 2, 1, 0),
    ]:
        conv = lambda x, k, bias, s=s, p=p, e=extra: F.conv_transpose2d(x, k, bias, stride=s, padding=p, output_padding=e)
        parameters = dict(op="conv_transpose", stride=s, padding=p, output_padding=extra)
        cases.add(name, conv, r(b, i, h, w), [r(i, o, k, k), r(o)], **parameters)


def norms(cases):
    """Batch normalization followed by an activation, with the batch's statistics and with constant ones."""
    r = torch.randn
    for activation, act in ACTIVATIONS.items():
        for mode in ["train", "eval"]:
            for shape in [(4, 5, 3, 5), (3, 33, 2, 1)]:
                c = shape[1]
                mean, variance = rounded(r(c)), rounded(torch.rand(c) + 0.5)
                norm = lambda x, a, b: F.batch_norm(
                    x, mean.clone(), variance.clone(), a, b, mode == "train", MOMENTUM, EPSILON
                )
                while True:
                    x, weights = rounded(r(shape) * 2 + 1), [rounded(2 * r(c)), rounded(2 * r(c))]
                    if clear(norm(x, *weights), activation):
                        break
                name = f"norm_{activation}_{mode}_{c}"
                parameters = dict(op="norm", activation=activation, mode=mode, epsilon=EPSILON, momentum=MOMENTUM)
                cases.add(name, lambda x, a, b: act(norm(x, a, b)), x, weights, **parameters)
                cases.beside(name, mean=mean, variance=variance)
                if mode == "train":
                    F.batch_norm(x, mean, variance, None, None, True, MOMENTUM, EPSILON)
                    cases.beside(name, mean_after=mean, variance_after=variance)


def others(cases):
    r = torch.randn
    for name, first, gate, b, h, w, c, s in [
        ("squeeze_mobilenet", "relu", "hardsigmoid", 2, 5, 4, 24, 8),
        ("squeeze_efficientnet", "silu", "sigmoid", 2, 4, 5, 33, 5),
    ]:

        def excite(x, w0, b0, w1, b1, first=first, gate=gate):
            squeezed = ACTIVATIONS[first](F.conv2d(x.mean((2, 3), keepdim=True), w0, b0))
            return x * ACTIVATIONS[gate](F.conv2d(squeezed, w1, b1))

        weights = [r(s, c, 1, 1) / c**0.5, r(s), r(c, s, 1, 1), 2 * r(c)]
        cases.add(name, excite, r(b, c, h, w) + 0.5, weights, op="squeeze_excitation", activation=first, gate=gate)
    for name, b, h, w, c in [("even", 2, 8, 10, 5), ("odd", 2, 9, 7, 5), ("mixed", 1, 7, 8, 17), ("small", 2, 2, 1, 5)]:
        pool = lambda x: F.max_pool2d(x, 3, 2, 1)
        parameters = dict(op="pool", side=3, stride=2, padding=1)
        cases.add(f"pool_{name}", pool, r(b, c, h, w), **parameters)
        # All below the zeros that a careless padding would put in; and values that tie.
        cases.add(f"pool_{name}_negative", pool, -1 - r(b, c, h, w).abs(), **parameters)
        cases.add(f"pool_{name}_ties", pool, torch.randint(-2, 1, (b, c, h, w)), **parameters)
    for name, rows, columns, k, off in [
        ("entropy_top", 6, 40, 7, []),
        ("entropy_top_masked", 5, 33, 8, [0, 4, 31]),
        ("entropy_top_one", 3, 9, 1, []),
        ("entropy_top_all", 4, 12, 12, []),
    ]:
        z = rounded(4 * r(rows, columns)).requires_grad_()
        on = torch.tensor([c not in off for c in range(columns)])
        teacher = torch.softmax((5 * r(rows, columns)).masked_fill(~on, -torch.inf), -1)
        probability, index = teacher.topk(k)
        probability = rounded(probability)
        loss = -(probability * F.log_softmax(z.masked_fill(~on, -torch.inf), -1).gather(1, index)).sum(-1).mean()
        loss.backward()
        cases.beside(name, x=z, y=loss.reshape(1), dx=z.grad, index=index, probability=probability, active=on)
        cases.parameters[name] = dict(op="entropy_top", columns=columns)


def masked(cases):
    r = torch.randn
    for name, b, side, cells, i, o, k, s, groups, activation in [
        ("masked3", 2, 8, 2, 5, 7, 3, 1, 1, "relu"),
        ("masked3_s2", 3, 8, 2, 5, 7, 3, 2, 1, "relu6"),
        ("masked1", 2, 6, 3, 9, 5, 1, 1, 1, "identity"),
        ("masked1_s2", 2, 8, 4, 9, 5, 1, 2, 1, "identity"),
        ("masked7_s2", 2, 16, 4, 3, 6, 7, 2, 1, "relu"),
        ("masked_depthwise3", 2, 8, 4, 9, 9, 3, 1, 9, "relu6"),
        ("masked_depthwise5_s2", 2, 8, 4, 9, 9, 5, 2, 9, "hardswish"),
    ]:
        while True:
            mask = (torch.rand(b, 1, cells, cells) < 0.45).double()
            mean, variance = rounded(r(o)), rounded(torch.rand(o) + 0.5)
            x = rounded(r(b, i, side, side) + 0.3)
            weights = [rounded(r(o, i // groups, k, k)), rounded(r(o)), rounded(r(o))]
            running = {}

            def norm(x, kernel, gamma, beta):
                expand = lambda size: mask.repeat_interleave(size // cells, 2).repeat_interleave(size // cells, 3)
                y = F.conv2d(x * expand(side), kernel, stride=s, padding=k // 2, groups=groups)
                visible = expand(y.shape[2])
                count = visible.sum()
                average = (y * visible).sum((0, 2, 3)) / count
                centered = (y - average[:, None, None]) * visible
                spread = centered.square().sum((0, 2, 3)) / count
                running["mean_after"] = (1 - MOMENTUM) * mean + MOMENTUM * average
                running["variance_after"] = (1 - MOMENTUM) * variance + MOMENTUM * spread * count / (count - 1)
                scaled = (y - average[:, None, None]) / (spread + EPSILON).sqrt()[:, None, None]
                return scaled * gamma[:, None, None] + beta[:, None, None], visible

            def layer(*inputs):
                y, visible = norm(*inputs)
                return ACTIVATIONS[activation](y) * visible

            if mask.sum() >= 2 and 0 < mask[0].sum() < cells**2 and clear(norm(x, *weights)[0], activation):
                break
        parameters = dict(
            op="masked_conv_norm", stride=s, padding=k // 2, groups=groups, activation=activation, epsilon=EPSILON,
            momentum=MOMENTUM,
        )  # fmt: skip
        cases.add(name, layer, x, weights, **parameters)
        cases.beside(name, mask=mask[:, 0], mean=mean, variance=variance, **running)


def write_layers():
    for seed, (name, family) in enumerate(FAMILIES.items()):
        torch.manual_seed(100 + seed)
        cases = Layers()
        family(cases)
        write(f"layers_{name}", cases.tensors, cases=cases.parameters)


FAMILIES = {
    "conv": convolutions,
    "depthwise": depthwise,
    "transpose": transposed,
    "norm": norms,
    "masked": masked,
    "other": others,
}


# ---- optimizers ----------------------------------------------------------------------------------------------------------------

RATES = [0.1, 0.3, 0.05, 0.2, 0.01]
OPTIMIZERS = {
    "sgd_plain": dict(op="sgd", momentum=0.0, weight_decay=0.0, nesterov=False),
    "sgd_momentum": dict(op="sgd", momentum=0.9, weight_decay=0.01, nesterov=False),
    "sgd_nesterov": dict(op="sgd", momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": dict(op="adamw", beta1=0.9, beta2=0.98, epsilon=1e-6, weight_decay=0.05),
    "lars": dict(op="lars", momentum=0.9, weight_decay=0.01, trust=0.02, epsilon=1e-8, rate_outside=False),
    "lars_rate_outside": dict(op="lars", momentum=0.9, weight_decay=0.01, trust=0.02, epsilon=1e-8, rate_outside=True),
    "clip": dict(op="clip", maximum=6.0, momentum=0.9, weight_decay=0.01, nesterov=False),
    "ema": dict(op="ema", decay=0.8, momentum=0.9, weight_decay=0.01, nesterov=False),
}


class Lars:
    """The reference formula with PyTorch's operations; weights with one axis are neither adapted nor decayed."""

    def __init__(self, parameters, settings):
        self.parameters, self.settings = parameters, settings
        self.state = {p: {"momentum_buffer": torch.zeros_like(p)} for p in parameters}
        self.param_groups = [{"lr": 0.0}]

    @torch.no_grad()
    def step(self):
        s, lr = self.settings, self.param_groups[0]["lr"]
        for p in self.parameters:
            decay, local = 0.0, 1.0
            if p.dim() > 1:
                decay = s["weight_decay"]
                local = s["trust"] * p.norm() / (p.grad.norm() + decay * p.norm() + s["epsilon"])
            inside, outside = (1.0, lr) if s["rate_outside"] else (lr, 1.0)
            velocity = self.state[p]["momentum_buffer"]
            velocity.mul_(s["momentum"]).add_(inside * local * (p.grad + decay * p))
            p.sub_(outside * velocity)


def optimizer(parameters, settings):
    if settings["op"] == "lars":
        return Lars(parameters, settings)
    if settings["op"] == "adamw":
        betas = (settings["beta1"], settings["beta2"])
        return torch.optim.AdamW(parameters, betas=betas, eps=settings["epsilon"], weight_decay=settings["weight_decay"])
    names = ("momentum", "weight_decay", "nesterov")
    return torch.optim.SGD(parameters, **{name: settings[name] for name in names})


def trajectory(name, settings):
    shapes = {"weight": (5, 7), "bias": (5,)}
    parameters = {key: rounded(torch.randn(shape)).requires_grad_() for key, shape in shapes.items()}
    stepper = optimizer(list(parameters.values()), settings)
    averages = {key: p.detach().clone() for key, p in parameters.items()}
    stored = {f"{key}.p0": p.detach().clone() for key, p in parameters.items()}
    if settings["op"] == "ema":
        stored |= {f"{key}.a0": value.clone() for key, value in averages.items()}
    totals = []
    for step, rate in enumerate(RATES):
        stepper.param_groups[0]["lr"] = rate
        for key, p in parameters.items():
            p.grad = rounded(torch.randn(p.shape))
            stored[f"{key}.g{step}"] = p.grad.clone()
        if settings["op"] == "clip":
            totals.append(torch.nn.utils.clip_grad_norm_(parameters.values(), settings["maximum"]))
            stored[f"total{step}"] = totals[-1].reshape(1)
        stepper.step()
        for key, p in parameters.items():
            stored[f"{key}.p{step + 1}"] = p.detach().clone()
            if settings["op"] == "ema":
                decay = min(settings["decay"], (2 + step) / (11 + step))
                averages[key] = decay * averages[key] + (1 - decay) * p.detach()
                stored[f"{key}.a{step + 1}"] = averages[key].clone()
    if totals:
        assert min(totals) < settings["maximum"] < max(totals), totals
    states = {"momentum_buffer": "velocity", "exp_avg": "first", "exp_avg_sq": "second"}
    for key, p in parameters.items():
        for theirs, ours in states.items():
            if stepper.state[p].get(theirs) is not None:
                stored[f"{key}.{ours}"] = stepper.state[p][theirs]
    return {f"{name}.{key}": f32(value) for key, value in stored.items()}


def write_optimizers():
    torch.manual_seed(3)
    tensors = {}
    for name, settings in OPTIMIZERS.items():
        tensors |= trajectory(name, settings)
    write("optimizers", tensors, cases=OPTIMIZERS, rates=RATES)


def write(name, tensors, **metadata):
    path = HERE / f"{name}.safetensors"
    save_file(tensors, path, metadata={key: json.dumps(value) for key, value in metadata.items()})
    path.chmod(0o644)
    assert all(np.isfinite(value).all() for value in tensors.values())
    print(f"{path.name}: {len(metadata['cases'])} cases, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    writers = {"layers": write_layers, "optimizers": write_optimizers}
    for wanted in sys.argv[1:] or writers:
        writers[wanted]()
