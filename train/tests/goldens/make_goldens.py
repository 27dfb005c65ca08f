"""Writes the reference values that the tests of `lgd-train` compare with, from PyTorch and torchvision in f64.

    python make_goldens.py [ops] [running] [resnet18[=SEED]] [mobilenet_v2[=SEED]]

needs torch, torchvision, numpy and safetensors; without arguments everything is written. Without SEED, a network's seed is chosen by
PyTorch's own rounding, which depends on the machine: the fixtures hold resnet18=40 and mobilenet_v2=6. Activations are stored NHWC, weights OIHW.
Whole networks take their weights from a formula (`Stream`, below) that the tests repeat, so that no weights are stored; of every
gradient the fixture keeps all values if they are few, else a sample and projections onto random vectors.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
MASK = (1 << 64) - 1
INCREMENT = 0x9E3779B97F4A7C15


# ---- the generator of train/src/rng.rs -----------------------------------------------------------------------------------------


def mix(value):
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def mix_array(value):
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class Stream:
    def __init__(self, key):
        self.state = 0
        for word in key:
            self.state = mix(((self.state + INCREMENT) & MASK) ^ mix((word + INCREMENT) & MASK))

    @staticmethod
    def named(seed, name):
        digest = 0xCBF29CE484222325
        for byte in name.encode():
            digest = ((digest ^ byte) * 0x100000001B3) & MASK
        return Stream([seed, digest])

    def uniform(self, count):
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(INCREMENT) + np.uint64(self.state)
        self.state = (self.state + count * INCREMENT) & MASK
        return (mix_array(steps) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def spread(seed, name, shape, bound, center=0.0):
    """Uniform within `bound` of `center`, rounded to f32."""
    values = center + (2.0 * Stream.named(seed, name).uniform(int(np.prod(shape))) - 1.0) * bound
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


# ---- single operations ---------------------------------------------------------------------------------------------------------


def nhwc(t):
    return t.permute(0, 2, 3, 1) if t.dim() == 4 else t


def f32(t):
    return np.ascontiguousarray(t.detach().to(torch.float32).numpy())


class Cases:
    def __init__(self):
        self.tensors, self.parameters = {}, {}

    def add(self, name, function, x, weights=(), **parameters):
        """`function(x, *weights)` and its gradients for a random output gradient; `x` is NCHW where it has four axes."""
        x = x.to(torch.float32).double().requires_grad_()
        weights = [w.to(torch.float32).double().requires_grad_() for w in weights]
        y = function(x, *weights)
        g = torch.randn(y.shape).to(torch.float32).double()
        y.backward(g)
        stored = {"x": nhwc(x), "g": nhwc(g), "y": nhwc(y), "dx": nhwc(x.grad)}
        for i, w in enumerate(weights):
            stored |= {f"w{i}": w, f"dw{i}": w.grad}
        self.tensors |= {f"{name}.{key}": f32(value) for key, value in stored.items()}
        self.parameters[name] = parameters


def conv_cases(cases):
    r = torch.randn
    #    name              b  h  w  in out kh kw s p d
    for name, b, h, w, i, o, kh, kw, s, p, d in [
        ("conv3", 2, 8, 8, 4, 6, 3, 3, 1, 1, 1),
        ("conv3_7x8", 2, 7, 8, 4, 6, 3, 3, 1, 1, 1),
        ("conv3_s2_8x8", 2, 8, 8, 4, 6, 3, 3, 2, 1, 1),
        ("conv3_s2_7x7", 2, 7, 7, 4, 6, 3, 3, 2, 1, 1),
        ("conv3_s2_7x8", 2, 7, 8, 4, 6, 3, 3, 2, 1, 1),
        ("conv3_s2_8x7", 2, 8, 7, 4, 6, 3, 3, 2, 1, 1),
        ("conv7_s2_stem", 2, 21, 18, 3, 8, 7, 7, 2, 3, 1),
        ("conv1", 2, 5, 6, 17, 33, 1, 1, 1, 0, 1),
        ("conv1_s2_even", 2, 8, 8, 4, 6, 1, 1, 2, 0, 1),
        ("conv1_s2_odd", 2, 7, 5, 4, 6, 1, 1, 2, 0, 1),
        ("conv1x3", 2, 8, 8, 4, 6, 1, 3, 1, 0, 1),
        ("conv3_dilated", 2, 9, 8, 4, 6, 3, 3, 1, 2, 2),
        ("conv3_s2_dilated", 2, 9, 10, 4, 6, 3, 3, 2, 2, 2),
        ("conv3_s2_dilated3", 2, 11, 10, 4, 6, 3, 3, 2, 3, 3),
        ("conv3_s3", 2, 11, 13, 4, 6, 3, 3, 3, 1, 1),
        ("conv2_s3_gaps", 2, 11, 10, 4, 6, 2, 2, 3, 0, 1),
        ("conv4_patches", 2, 16, 12, 3, 8, 4, 4, 4, 0, 1),
        ("conv3_wide_padding", 2, 4, 5, 3, 5, 3, 3, 1, 4, 1),
        ("conv3_one_pixel", 1, 1, 1, 5, 7, 3, 3, 1, 1, 1),
        ("conv3_batch1", 1, 6, 9, 16, 40, 3, 3, 1, 1, 1),
        ("conv3_deep", 2, 4, 4, 40, 34, 3, 3, 1, 1, 1),
        ("conv3_many_pixels", 2, 36, 34, 3, 5, 3, 3, 1, 1, 1),
        ("conv5_s2_p0", 2, 12, 9, 3, 4, 5, 5, 2, 0, 1),
    ]:
        conv = lambda x, k, s=s, p=p, d=d: F.conv2d(x, k, stride=s, padding=p, dilation=d)
        parameters = dict(op="conv", stride=s, padding=p, dilation=d)
        cases.add(name, conv, r(b, i, h, w), [r(o, i, kh, kw)], **parameters)
    for name, b, h, w, c, k, s, p, d in [
        ("depthwise3", 2, 8, 8, 6, 3, 1, 1, 1),
        ("depthwise3_wide", 2, 5, 7, 75, 3, 1, 1, 1),
        ("depthwise3_s2_8x8", 2, 8, 8, 19, 3, 2, 1, 1),
        ("depthwise3_s2_7x8", 2, 7, 8, 19, 3, 2, 1, 1),
        ("depthwise3_s2_8x7", 2, 8, 7, 19, 3, 2, 1, 1),
        ("depthwise3_s2_7x7", 2, 7, 7, 19, 3, 2, 1, 1),
        ("depthwise5_s2", 2, 9, 10, 6, 5, 2, 2, 1),
        ("depthwise3_dilated", 1, 9, 8, 6, 3, 1, 2, 2),
        ("depthwise3_batch1", 1, 1, 1, 33, 3, 1, 1, 1),
        ("depthwise3_many_rows", 3, 50, 4, 16, 3, 1, 1, 1),
    ]:
        conv = lambda x, k, s=s, p=p, d=d, c=c: F.conv2d(x, k, stride=s, padding=p, dilation=d, groups=c)
        parameters = dict(op="depthwise", stride=s, padding=p, dilation=d)
        cases.add(name, conv, r(b, c, h, w), [r(c, 1, k, k)], **parameters)


ACTIVATIONS = {"identity": lambda y: y, "relu": torch.relu, "relu6": F.relu6}


def other_cases(cases):
    r = torch.randn
    for activation, act in ACTIVATIONS.items():
        norm = lambda x, a, b, act=act: act(F.batch_norm(x, None, None, a, b, True, 0.1, 1e-5))
        weights = [3 * r(5), r(5) + 1]
        cases.add(f"norm_{activation}", norm, r(4, 5, 6, 7) * 2 + 1, weights, op="norm", activation=activation)
        cases.add(f"norm_rows_{activation}", norm, r(9, 37), [3 * r(37), r(37)], op="norm", activation=activation)
        # Values on the kinks 0 and 6, where PyTorch's gradient is 0.
        ties = torch.randint(-2, 9, (3, 4, 5, 6))
        add = lambda x, b, act=act: act(x + b)
        cases.add(f"add_{activation}", add, ties, [torch.zeros(3, 4, 5, 6)], op="add", activation=activation)
        cases.tensors[f"add_{activation}.w0"] = f32(torch.zeros(3, 5, 6, 4))
        cases.tensors[f"add_{activation}.dw0"] = cases.tensors[f"add_{activation}.dx"]
        dense = lambda x, w, b, act=act: act(F.linear(x, w, b))
        cases.add(f"linear_{activation}", dense, 2 * r(7, 19), [r(35, 19), r(35)], op="linear", activation=activation)
    # A large mean and a small spread: where a one-pass variance loses its digits.
    norm = lambda x, a, b: F.batch_norm(x, None, None, a, b, True, 0.1, 1e-5)
    cases.add("norm_far_mean", norm, r(40, 3, 5, 5) * 0.1 + 20, [r(3), r(3)], op="norm", activation="identity")
    for name, b, h, w, c, k, s, p in [
        ("pool3_s2_p1_8x8", 2, 8, 8, 5, 3, 2, 1),
        ("pool3_s2_p1_7x9", 2, 7, 9, 18, 3, 2, 1),
        ("pool3_s2_p1_7x8", 1, 7, 8, 5, 3, 2, 1),
        ("pool3_s2_one_pixel", 2, 1, 1, 5, 3, 2, 1),
        ("pool2", 2, 8, 6, 5, 2, 2, 0),
        ("pool2_odd", 2, 7, 7, 5, 2, 2, 0),
        ("pool3_s1_p1", 2, 6, 5, 5, 3, 1, 1),
    ]:
        pool = lambda x, k=k, s=s, p=p: F.max_pool2d(x, k, s, p)
        cases.add(name, pool, r(b, c, h, w), op="pool", side=k, stride=s, padding=p)
        cases.add(f"{name}_ties", pool, torch.randint(0, 3, (b, c, h, w)), op="pool", side=k, stride=s, padding=p)
    cases.add("average", lambda x: x.mean((2, 3)), r(3, 6, 5, 7), op="average")
    rows = r(6, 13)
    rows[2] *= 1e-3
    cases.add("normalize", lambda x: F.normalize(x, dim=-1), rows, op="normalize")
    cases.add("normalize_zero", lambda x: F.normalize(x, dim=-1), torch.zeros(2, 4), op="normalize")
    cases.add("similarity", lambda x, w: x @ w.T, r(5, 40), [r(70, 40)], op="similarity")


def cross_entropy_cases(cases):
    """Targets that sum to one and that do not; all columns, or some left out on both sides."""
    for name, scale, columns, off in [("entropy", 3.0, 11, []), ("entropy_masked", 30.0, 9, [2, 8])]:
        z = (torch.randn(5, columns) * scale).to(torch.float32).double().requires_grad_()
        p = torch.softmax(torch.randn(5, columns) * 2, -1).double()
        p[1] *= 0.5
        p = p.to(torch.float32).double()
        on = torch.tensor([k not in off for k in range(columns)])
        loss = -(p[:, on] * F.log_softmax(z[:, on], -1)).sum(-1).mean()
        loss.backward()
        stored = dict(x=z, w0=p, y=loss.reshape(1), dx=z.grad, active=on.double())
        cases.tensors |= {f"{name}.{key}": f32(value) for key, value in stored.items()}
        cases.parameters[name] = dict(op="entropy")


def running_and_sgd(cases):
    x = torch.randn(4, 5, 6, 7).to(torch.float32).double() * 2 + 1
    mean, variance = torch.randn(5).double(), torch.rand(5).double() + 0.5
    stored = {"running.x": nhwc(x), "running.mean_before": mean, "running.variance_before": variance}
    cases.tensors |= {key: f32(value) for key, value in stored.items()}
    F.batch_norm(x, mean, variance, None, None, True, 0.1, 1e-5)
    cases.tensors |= {"running.mean": f32(mean), "running.variance": f32(variance)}
    p = torch.randn(37).to(torch.float32).double().requires_grad_()
    cases.tensors["sgd.p0"] = f32(p)
    sgd = torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01)
    for step, lr in enumerate([0.1, 0.3, 0.05]):
        sgd.param_groups[0]["lr"] = lr
        p.grad = torch.randn(37).to(torch.float32).double()
        cases.tensors[f"sgd.g{step}"] = f32(p.grad)
        sgd.step()
        cases.tensors[f"sgd.p{step + 1}"] = f32(p)


def write_ops():
    torch.manual_seed(1)
    cases = Cases()
    conv_cases(cases)
    other_cases(cases)
    cross_entropy_cases(cases)
    running_and_sgd(cases)
    save_file(cases.tensors, HERE / "ops.safetensors", metadata={"cases": json.dumps(cases.parameters)})


RUNNING_STEPS, RUNNING_MOMENTUM = 14, 0.1


def write_running():
    """Running statistics after each of several batches: their plain mean (PyTorch's momentum=None) as long as it forgets faster than
    the momentum, then PyTorch's momentum."""
    torch.manual_seed(2)
    norm = torch.nn.BatchNorm2d(3, momentum=None).double()
    tensors = {}
    for step in range(RUNNING_STEPS):
        if (step + 1) * RUNNING_MOMENTUM > 1:
            norm.momentum = RUNNING_MOMENTUM
        x = (torch.randn(2, 3, 2, 3) * (1 + step / 4) + step).to(torch.float32).double()
        norm(x)
        stored = {f"x{step}": nhwc(x), f"mean{step}": norm.running_mean, f"variance{step}": norm.running_var}
        tensors |= {key: f32(value) for key, value in stored.items()}
    save_file(tensors, HERE / "running.safetensors", metadata={"momentum": str(RUNNING_MOMENTUM)})


# ---- whole networks: one training step with LGD --------------------------------------------------------------------------------

BATCH, HEIGHT, WIDTH = 5, 48, 32
CATEGORIES, DIM = 12, 48
UNASSIGNED = [3, 7]
ALPHA, TAU_T, TAU_S = 0.4, 0.01, 0.2
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-4
DROPOUT, DROPOUT_STREAM, STEP = 0.2, 0x64726F706F757400, 7


class WithHead(torch.nn.Module):
    """torchvision's network with the published projection head: Linear, ReLU, Linear, L2."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.net = getattr(torchvision.models, name)(num_classes=10)
        width = 512 if name == "resnet18" else 1280
        self.head = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, DIM)
        )

    def classifier(self):
        return self.net.fc if self.name == "resnet18" else self.net.classifier[1]

    def pooled(self, x):
        if self.name == "mobilenet_v2":
            return self.net.features(x).mean((2, 3))
        n = self.net
        x = n.maxpool(n.relu(n.bn1(n.conv1(x))))
        return n.layer4(n.layer3(n.layer2(n.layer1(x)))).mean((2, 3))

    def forward(self, x, mask=None):
        pooled = self.pooled(x)
        return F.normalize(self.head(pooled if mask is None else pooled * mask), dim=-1), pooled

    def named(self):
        """Tensors by the student's names: torchvision's, and `head.`; the classifier apart."""
        for prefix, module in [("", self.net), ("head.", self.head)]:
            for name, tensor in module.state_dict(keep_vars=True).items():
                if not name.endswith("num_batches_tracked"):
                    yield prefix + name, tensor


def formula(seed, name, shape):
    """The value of every tensor; repeated in the tests."""
    if name.endswith("running_mean"):
        return spread(seed, name, shape, 0.1)
    if name.endswith("running_var"):
        return spread(seed, name, shape, 0.5, 1.0)
    if len(shape) == 4:
        return spread(seed, name, shape, (6.0 / (shape[0] * shape[2] * shape[3])) ** 0.5)
    if len(shape) == 2:
        return spread(seed, name, shape, 1.0 / shape[1] ** 0.5)
    return spread(seed, name, shape, 0.3, 0.0 if name.endswith("bias") else 1.0)


def build(name, seed, dtype):
    model = WithHead(name).to(dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # The first batches are averaged; this is batch STEP, from 0.
            module.momentum = max(module.momentum, 1 / (STEP + 1))
    with torch.no_grad():
        for key, tensor in model.named():
            tensor.copy_(formula(seed, key, tuple(tensor.shape)).to(dtype))
    return model


def banks(seed, dtype):
    """Teacher embeddings near some categories, text bank, visual bank; rounded to f32."""
    unit = lambda name, rows: F.normalize(spread(seed, name, (rows, DIM), 1.0).double(), dim=-1)
    tsb, noise = unit("tsb", CATEGORIES), unit("noise", BATCH)
    t = F.normalize(tsb[torch.arange(BATCH) * 2 % CATEGORIES] + 1.2 * noise, dim=-1)
    vsb = 0.6 * tsb + 0.5 * unit("vsb", CATEGORIES)
    return [value.to(torch.float32).to(dtype) for value in (t, tsb, vsb)]


def dropout_mask(seed, width, dtype):
    draws = Stream([seed, DROPOUT_STREAM, STEP]).uniform(BATCH * width).reshape(BATCH, width)
    keep = torch.tensor(1.0 / (1.0 - DROPOUT), dtype=torch.float32).to(dtype)
    return torch.from_numpy(draws >= DROPOUT).to(dtype) * keep


def lgd(s, t, tsb, vsb):
    """The published loss; categories without views are left out of the visual softmax of teacher and student."""
    p_text = torch.softmax(t @ tsb.T / TAU_T, -1)
    text = -(p_text * F.log_softmax(s @ tsb.T / TAU_S, -1)).sum(-1).mean()
    on = [0] + [c + 1 for c in range(CATEGORIES) if c not in UNASSIGNED]
    teacher = torch.cat([torch.ones_like(t[:, :1]), t @ vsb.T], 1)
    student = torch.cat([(s * t).sum(-1, keepdim=True), s @ vsb.T], 1)
    p_visual = torch.softmax(teacher[:, on] / TAU_T, -1)
    visual = -(p_visual * F.log_softmax(student[:, on] / TAU_S, -1)).sum(-1).mean()
    stored = dict(text_distribution=p_text, visual_distribution=torch.softmax(teacher / TAU_T, -1))
    return ALPHA * visual + (1 - ALPHA) * text, text, visual, stored


def watch_kinks(model, margins):
    """Appends, per activation, how near any input comes to a kink: there f32 and f64 may differ by a whole gradient."""

    def hook(module, inputs, _):
        x = inputs[0].detach()
        near = x.abs().min()
        if isinstance(module, torch.nn.ReLU6):
            near = torch.minimum(near, (x - 6).abs().min())
        margins.append(near.item())

    for module in model.modules():
        if isinstance(module, (torch.nn.ReLU, torch.nn.ReLU6)):
            module.inplace = False
            module.register_forward_hook(hook)


def train_step(name, seed, dtype):
    model = build(name, seed, dtype).train()
    x = spread(seed, "images", (BATCH, HEIGHT, WIDTH, 3), 2.0).to(dtype).permute(0, 3, 1, 2)
    t, tsb, vsb = banks(seed, dtype)
    mask = dropout_mask(seed, 1280, dtype) if name == "mobilenet_v2" else None
    s, _ = model(x, mask)
    loss, text, visual, stored = lgd(s, t, tsb, vsb)
    loss.backward()
    stored |= dict(loss=loss.reshape(1), text=text.reshape(1), visual=visual.reshape(1), embedding=s)
    stored |= dict(t=t, tsb=tsb, vsb=vsb)
    return model, x, stored


def learned(model):
    skip = {id(p) for p in model.classifier().parameters()}
    return {name: p for name, p in model.named() if p.requires_grad and id(p) not in skip}


def summary(seed, name, tensor, full=256, directions=8, picks=256):
    """All values if few; else the norm, a sample, and projections onto vectors uniform within 1."""
    values = tensor.detach().double().flatten().numpy()
    if len(values) <= full:
        return {f"{name}.full": values.astype(np.float32)}
    picked = (Stream.named(seed, f"{name}.sample").uniform(picks) * len(values)).astype(np.int64)
    projected = [
        float(values @ (2.0 * Stream.named(seed, f"{name}.direction{i}").uniform(len(values)) - 1.0))
        for i in range(directions)
    ]
    return {
        f"{name}.norm": np.array([np.linalg.norm(values)], np.float32),
        f"{name}.sample": values[picked].astype(np.float32),
        f"{name}.projections": np.array(projected, np.float32),
    }


def gradient_errors(name, seed):
    """PyTorch's own f32 against f64, per tensor, and the gradients that vanish: shifts that a later normalization takes away."""
    model, x, stored = train_step(name, seed, torch.float64)
    single, _, _ = train_step(name, seed, torch.float32)
    exact = {key: p.grad for key, p in learned(model).items()}
    vanishing = [key for key, gradient in exact.items() if gradient.norm() < 1e-12]
    rounded = {key: p.grad.double() for key, p in learned(single).items() if key not in vanishing}
    errors = {key: ((value - exact[key]).norm() / exact[key].norm()).item() for key, value in rounded.items()}
    return errors, vanishing, (model, x, stored)


def choose_seed(name, tries=60, finalists=8):
    """Away from ties: of the seeds whose activations stay farthest from their kinks, the one where rounding matters least."""
    margins = []
    for seed in range(tries):
        near = []
        with torch.no_grad():
            model = build(name, seed, torch.float64).train()
            watch_kinks(model, near)
            model(spread(seed, "images", (BATCH, HEIGHT, WIDTH, 3), 2.0).double().permute(0, 3, 1, 2))
        margins.append((min(near), seed))
    finalists = sorted(margins, reverse=True)[:finalists]
    return min((max(gradient_errors(name, seed)[0].values()), margin, seed) for margin, seed in finalists)


def write_network(name, seed=None):
    if seed is None:
        _, margin, seed = choose_seed(name)
        print(f"{name}: nearest kink {margin:.1e}")
    errors, vanishing, (model, x, stored) = gradient_errors(name, seed)
    gradients = {key: p.grad.clone() for key, p in learned(model).items()}
    print(f"{name}: seed {seed}, {len(vanishing)} gradients vanish,")
    print(f"    PyTorch's own f32 against f64: worst gradient error {max(errors.values()):.1e}")
    fixture = {key: f32(value) for key, value in stored.items()}
    for key, gradient in gradients.items():
        if key in vanishing:
            continue
        fixture |= summary(seed, f"gradient.{key}", gradient)
    for key, tensor in model.named():
        if "running" in key:
            fixture |= summary(seed, f"after.{key}", tensor)
    torch.optim.SGD(learned(model).values(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY).step()
    for key, p in learned(model).items():
        fixture |= summary(seed, f"after.{key}", p)
    fresh = build(name, seed, torch.float64).eval()
    with torch.no_grad():
        embedding, pooled = fresh(x)
        fixture["inference.embedding"] = f32(embedding)
        fixture["inference.logits"] = f32(fresh.classifier()(pooled))
        torch.testing.assert_close(fresh.classifier()(pooled), fresh.net(x))
    metadata = {"seed": str(seed), "vanishing": json.dumps(vanishing)}
    save_file(fixture, HERE / f"{name}.safetensors", metadata=metadata)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["ops", "running", "resnet18", "mobilenet_v2"]
    for what in wanted:
        name, _, seed = what.partition("=")
        if name in ("ops", "running"):
            {"ops": write_ops, "running": write_running}[name]()
        else:
            write_network(name, int(seed) if seed else None)
