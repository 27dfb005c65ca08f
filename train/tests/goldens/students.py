"""Writes what the students must compute, from torchvision in f64: student_NAME.safetensors, one file for each architecture.

    python students.py [resnet18] [resnet34] [resnet50] [mobilenet_v2] [mobilenet_v3_large] [efficientnet_b0]
                       [mobilenet_v3_large_lgd] [efficientnet_b0_lgd]

needs torch, torchvision, numpy and safetensors; without arguments all are written. Prints for each how far PyTorch's own f32 is
from its f64.

Weights come from a formula that the tests repeat (`formula`; the generator is that of train/src/rng.rs, by way of
make_goldens.py), but for two kinds, so that f32 differs from f64 in its last digits only:
- Biases that feed an activation with a kink. A value within rounding of a kink is on one side in f64 and may be on the other
  in f32, and then a whole summand of the gradient is missing. Each channel's bias is shifted by at most `REACH` of the channel's
  spread to where the values near the kinks leave the widest gap. These biases are stored.
- The last normalization's weight of each residual branch, `DAMPING` times the formula's: at random weights every normalized
  layer amplifies what was rounded before it, and deep networks lose two digits that way.

The network: `torchvision.models.NAME(num_classes=10)`, dropout and stochastic depth 0. Those that end in _lgd are torchvision's,
rebuilt into the published forms (`published`). Every tensor under torchvision's name:

    "given.TENSOR" where the file has it, else formula(seed, TENSOR, shape in torchvision's order, OIHW),
    that times DAMPING if metadata's JSON list "damped" holds TENSOR

Input: spread(seed, "images", [batch, height, width, 3], 2.0), thus NHWC. seed, batch, height, width: metadata.
Upstream gradient of the pooled feature: spread(seed, "upstream", [batch, width of the feature], 1.0); the functional is their
product, summed. The pooled feature is what the classifier takes before dropout (960 wide in mobilenet_v3_large, 1280 in
mobilenet_v3_large_lgd).

The file, f32 throughout:

    given.TENSOR                 a moved bias
    inference.pooled             [2, d], running statistics as given, the first two images
    inference.logits             [2, 10], the same through the whole classifier
    train.pooled                 [batch, d], batch statistics
    gradient.TENSOR.*            of the functional, batch statistics; no classifier; not those listed in "vanishing"
    after.TENSOR.*               running_mean and running_var after this one forward pass

where .* is .full with all values when there are at most 32, else

    .norm [1]            L2
    .sample [16]         values at floor(u * count), u from Stream::named(seed, "gradient.TENSOR.sample"), row-major in OIHW
    .projections [4]     products with vectors 2u - 1, u from Stream::named(seed, "gradient.TENSOR.direction0") and so on

Metadata beside the above: "vanishing" is a JSON list of the tensors whose gradient is nought (shifts that a later normalization
takes away); "f32_error" PyTorch's own worst relative error of a gradient in f32; "batch_norm" the JSON of [epsilon, momentum].
"""

import json
import sys

import numpy as np
import torch
import torchvision
from make_goldens import HERE, f32, spread, summary
from safetensors.numpy import save_file

BATCH, SIDE, CLASSES, INFERRED = 8, 64, 10, 2
WIDTHS = {"efficientnet_b0": 96, "efficientnet_b0_lgd": 96}
NAMES = ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0"]
NAMES += ["mobilenet_v3_large_lgd", "efficientnet_b0_lgd"]
REACH = 0.1
DAMPING = 0.25
LEAST_POOL_GAP = 1e-5
LARGEST_ERROR = 2e-5
KINKS = {
    torch.nn.ReLU: (0.0,),
    torch.nn.ReLU6: (0.0, 6.0),
    torch.nn.Hardswish: (-3.0, 3.0),
    torch.nn.Hardsigmoid: (-3.0, 3.0),
}


def formula(seed, name, shape):
    """The value of every tensor: uniform, kaiming by fan-in for convolutions; repeated in the tests."""
    if name.endswith("running_mean"):
        return spread(seed, name, shape, 0.1)
    if name.endswith("running_var"):
        return spread(seed, name, shape, 0.5, 1.0)
    if len(shape) == 4:
        return spread(seed, name, shape, (6.0 / (shape[1] * shape[2] * shape[3])) ** 0.5)
    if len(shape) == 2:
        return spread(seed, name, shape, (3.0 / shape[1]) ** 0.5)
    return spread(seed, name, shape, 0.3, 0.0 if name.endswith("bias") else 1.0)


class Same(torch.nn.Conv2d):
    """A convolution with TensorFlow's "same" padding."""

    def forward(self, x):
        sides = []
        for axis in (3, 2):
            size, taps, stride = x.shape[axis], self.kernel_size[axis - 2], self.stride[axis - 2]
            total = max((-(-size // stride) - 1) * stride + taps - size, 0)
            sides += [total // 2, total - total // 2]
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, sides), self.weight, self.bias, self.stride, 0, 1, self.groups)


class GateFirst(torchvision.ops.SqueezeExcitation):
    """Squeeze-and-excitation before the activation of the convolution that it follows.

    A gate is positive, so it moves no value across a kink at 0. Values beyond hard-swish's kinks at 3 are rare here.
    """

    def forward(self, x):
        return self.after(super().forward(x))


def published(name, classes=CLASSES):
    """The network that SEED's and LGD's code trains, with torchvision's names where it has the layer."""
    net = getattr(torchvision.models, name.removesuffix("_lgd"))(num_classes=classes)
    epsilon, momentum = (1e-3, 0.01) if name == "efficientnet_b0_lgd" else (1e-5, 0.1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps, module.momentum = epsilon, momentum
        if isinstance(module, torch.nn.Conv2d) and name == "efficientnet_b0_lgd":
            module.__class__ = Same
    net.neck, net.classifier, net.fc = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Linear(1280, classes)
    net.forward = lambda images: net.fc(net.neck(net.features(images).mean((2, 3))))
    if name == "efficientnet_b0_lgd":
        return net
    for block in net.features[1:-1]:
        gate = next((at for at, part in enumerate(block.block) if isinstance(part, torchvision.ops.SqueezeExcitation)), None)
        if gate is not None:
            block.block[gate].__class__ = GateFirst
            block.block[gate].after, block.block[gate - 1][2] = block.block[gate - 1][2], torch.nn.Identity()
    net.neck = torch.nn.Sequential(torch.nn.Linear(960, 1280), torch.nn.Hardswish())
    return net


class Student:
    """A torchvision network in some precision, with the weights of the formula."""

    def __init__(self, name, seed, dtype, given):
        self.name, self.seed, self.dtype = name, seed, dtype
        make = published if name.endswith("_lgd") else lambda name: getattr(torchvision.models, name)(num_classes=CLASSES)
        self.net = make(name).to(dtype)
        self.damped = damped(self.net)
        for module in self.net.modules():
            if isinstance(module, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
                module.p = 0.0
            if hasattr(module, "inplace"):
                module.inplace = False
        with torch.no_grad():
            for key, tensor in self.named():
                value = given[key] if key in given else formula(seed, key, tuple(tensor.shape))
                tensor.copy_((DAMPING * value if key in self.damped else value).to(dtype))
        self.images = spread(seed, "images", (BATCH, SIDE, WIDTHS.get(name, SIDE), 3), 2.0).to(dtype).permute(0, 3, 1, 2)

    def named(self):
        """All tensors by torchvision's names."""
        for key, tensor in self.net.state_dict(keep_vars=True).items():
            if not key.endswith("num_batches_tracked"):
                yield key, tensor

    def learned(self):
        """The backbone's parameters."""
        return {key: p for key, p in self.named() if p.requires_grad and not key.startswith(("fc.", "classifier."))}

    def pooled(self, images):
        n = self.net
        if self.name.startswith("resnet"):
            x = n.maxpool(n.relu(n.bn1(n.conv1(images))))
            return n.layer4(n.layer3(n.layer2(n.layer1(x)))).mean((2, 3))
        return getattr(n, "neck", torch.nn.Identity())(n.features(images).mean((2, 3)))

    def classify(self, pooled):
        return self.net.fc(pooled) if hasattr(self.net, "fc") else self.net.classifier(pooled)

    def gradients(self):
        """(Pooled features, gradients) of one forward and backward pass with batch statistics."""
        self.net.train()
        pooled = self.pooled(self.images)
        upstream = spread(self.seed, "upstream", tuple(pooled.shape), 1.0).to(self.dtype)
        (pooled * upstream).sum().backward()
        return pooled.detach(), {key: p.grad.double() for key, p in self.learned().items()}


def kinks_of(module):
    """The kinks of an activation, or of the one behind a gate, in what the module is given."""
    if isinstance(module, GateFirst):
        return (0.0,) if isinstance(module.after, torch.nn.ReLU) else ()
    return KINKS.get(type(module), ())


def widest_gap(values, kinks):
    """The shift that brings `values` (one channel's) farthest from all kinks, and that distance, within the reach."""
    reach = REACH * values.std()
    blocked = np.sort(np.concatenate([kink - values for kink in kinks]))
    blocked = blocked[(blocked > -2 * reach) & (blocked < 2 * reach)]
    edges = np.concatenate([[-2 * reach], blocked, [2 * reach]])
    middles = np.clip((edges[1:] + edges[:-1]) / 2, -reach, reach)
    # How far each middle, clipped to the reach, is from its neighbors; negative if the gap lies outside.
    distances = np.minimum(middles - edges[:-1], edges[1:] - middles)
    best = distances.argmax()
    return middles[best], distances[best]


def damped(net):
    """The names of the weights of every residual branch's last normalization."""
    norms = lambda block: [key for key, module in block.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    residual = lambda block: getattr(block, "use_res_connect", type(block).__name__ in ("BasicBlock", "Bottleneck"))
    last = lambda block: [key for key in norms(block) if not key.startswith("downsample")][-1]
    return [f"{path}.{last(block)}.weight" for path, block in net.named_modules() if residual(block)]


def move_biases(student):
    """Moves the biases that feed kinks, layer by layer in one forward pass; returns them and the smallest distance left."""
    names = {id(p): key for key, p in student.named()}
    moved, distances, last = {}, [], []

    def remember(module, *_):
        if getattr(module, "bias", None) is not None:
            last[:] = [module.bias]

    def shift(module, inputs):
        x, bias = inputs[0], last[0]
        columns = x.transpose(0, 1).flatten(1).numpy()
        found = [widest_gap(column, kinks_of(module)) for column in columns]
        new = (bias.numpy() + np.array([delta for delta, _ in found])).astype(np.float32)
        delta = torch.from_numpy(new).double() - bias
        bias.copy_(torch.from_numpy(new))
        moved[names[id(bias)]] = torch.from_numpy(new)
        distances.append(min(distance for _, distance in found))
        return x + delta.reshape(1, -1, *[1] * (x.dim() - 2))

    behind = {id(module.after) for module in student.net.modules() if isinstance(module, GateFirst)}
    for module in student.net.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(remember)
        if kinks_of(module) and id(module) not in behind:
            module.register_forward_pre_hook(shift)
    with torch.no_grad():
        student.net.train()
        student.pooled(student.images)
    return moved, min(distances, default=np.inf)


def pool_gap(student):
    """The least distance between the two largest values of a max-pool window, where they are not nought."""
    gaps = [np.inf]

    def measure(module, inputs):
        x = inputs[0]
        padded = torch.nn.functional.pad(x, [module.padding] * 4, value=-1.0)
        windows = padded.unfold(2, module.kernel_size, module.stride).unfold(3, module.kernel_size, module.stride)
        top = windows.flatten(4).topk(2).values
        difference = (top[..., 0] - top[..., 1])[top[..., 0] > 0]
        gaps.append(difference.min().item())

    hooks = [m.register_forward_pre_hook(measure) for m in student.net.modules() if isinstance(m, torch.nn.MaxPool2d)]
    with torch.no_grad():
        student.net.train()
        student.pooled(student.images)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def settle(name):
    """(Seed, moved biases, nearest kink, nearest tie) of the first seed that keeps max-pooling's choices apart."""
    for seed in range(8):
        given, distance = move_biases(Student(name, seed, torch.float64, {}))
        gap = pool_gap(Student(name, seed, torch.float64, given))
        if gap > LEAST_POOL_GAP:
            return seed, given, distance, gap
    raise RuntimeError(f"{name}: no seed keeps max-pooling's choices apart")


def relative(value, exact):
    return ((value - exact).norm() / exact.norm()).item()


def write(name):
    seed, given, distance, gap = settle(name)
    student = Student(name, seed, torch.float64, given)
    single = Student(name, seed, torch.float32, given)
    with torch.no_grad():
        inferred = student.net.eval() and student.pooled(student.images[:INFERRED])
        logits = student.classify(inferred)
        torch.testing.assert_close(logits, student.net(student.images[:INFERRED]))
        rounded_logits = single.net.eval()(single.images[:INFERRED])
    pooled, exact = student.gradients()
    rounded_pooled, rounded = single.gradients()
    vanishing = [key for key, gradient in exact.items() if gradient.norm() < 1e-10 * exact[weight_of(key)].norm()]
    errors = {key: relative(rounded[key], exact[key]) for key in exact if key not in vanishing}
    noise = [(rounded[key].norm() / exact[weight_of(key)].norm()).item() for key in vanishing]
    worst = max(errors, key=errors.get)
    after = {key: tensor for key, tensor in student.named() if "running" in key}
    rounded_after = dict(single.named())
    statistics = max(relative(rounded_after[key].double(), tensor) for key, tensor in after.items())
    print(
        f"{name}: seed {seed}, nearest kink {distance:.1e}, nearest tie in a pool {gap:.1e}, {len(vanishing)} gradients vanish\n"
        f"    PyTorch's own f32: logits {relative(rounded_logits.double(), logits):.1e},"
        f" pooled {relative(rounded_pooled.double(), pooled):.1e}, statistics {statistics:.1e},\n"
        f"    gradients at worst {errors[worst]:.1e} ({worst}), median {np.median(list(errors.values())):.1e},"
        f" vanishing ones {max(noise, default=0.0):.1e}; logits' size {logits.std():.2g}"
    )
    if errors[worst] > LARGEST_ERROR:
        raise RuntimeError(f"{name}: PyTorch's own f32 is {errors[worst]:.1e} off: no test can be sharper than that")
    fixture = {f"given.{key}": f32(value) for key, value in given.items()}
    fixture |= {"inference.pooled": f32(inferred), "inference.logits": f32(logits), "train.pooled": f32(pooled)}
    for key, gradient in exact.items():
        if key not in vanishing:
            fixture |= summary(seed, f"gradient.{key}", gradient, full=32, directions=4, picks=16)
    for key, tensor in after.items():
        fixture |= summary(seed, f"after.{key}", tensor, full=32, directions=4, picks=16)
    norms = {(m.eps, m.momentum) for m in student.net.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    (norm,) = norms
    metadata = dict(
        seed=seed, batch=BATCH, height=SIDE, width=WIDTHS.get(name, SIDE), batch_norm=json.dumps(norm),
        vanishing=json.dumps(vanishing), damped=json.dumps(student.damped), f32_error=f"{errors[worst]:.1e}",
    )  # fmt: skip
    path = HERE / f"student_{name}.safetensors"
    save_file(fixture, path, metadata={key: str(value) for key, value in metadata.items()})
    path.chmod(0o644)
    print(f"    {path.stat().st_size / 1000:.0f} kB")


def weight_of(key):
    """The weight beside a bias."""
    return key.removesuffix("bias") + "weight" if key.endswith(".bias") else key


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        write(wanted)
