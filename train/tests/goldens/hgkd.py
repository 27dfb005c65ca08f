"""Writes what a masked ResNet-18 with its decoder and the H-GKD loss must compute, from PyTorch and torchvision in f64: hgkd.safetensors.

    python hgkd.py

needs torch, torchvision, numpy and safetensors. Prints how far PyTorch's own f32 is from its f64.

The network: torchvision's resnet18 with every batch normalization and pool over visible positions (`sparse`), LGD's projection head, and
the UNet decoder (`Decoder`), for images of 64 x 96: cells 2 x 3, tokens 8 x 12. Weights: `formula(seed, NAME, shape)`, names as in
train/src/student/. Inputs, all by `spread` of make_goldens.py (whose Stream is that of train/src/rng.rs):

    images   [4, 64, 96, 3]    spread(seed, "images", ..., 2.0)
    tokens   [4, 8, 12, 16]    spread(seed, "tokens", ..., 1.5)
    feature  [4, 512]          spread(seed, "feature", ..., 2.0): the target of the raw pooled feature

Loss: hidden + BETA visible + LAMBDA similarity + KDEP raw, the first three as in train/src/objective/hgkd.rs, and raw the mean squared
error of the raw pooled feature (before the last ReLU, over visible positions). The file, f32:

    t [4, 24], queue [10, 24]           unit rows, given
    mask [4, 2, 3]                      1 where visible, given
    loss, hidden, visible, similarity, raw [1]
    embedding [4, 24], output [4, 8, 12, 16]    (the decoder's tokens)
    d_embedding, d_output               the gradient of the loss in them
    pooled.*, raw_pooled.*
    gradient.NAME.*                     of the loss; not those listed in "vanishing"
    after.NAME.*                        running statistics after this one forward pass

.* is .full with all values when there are at most 32, else .norm, .sample and .projections: see students.py. Metadata: seed; vanishing, a
JSON list; beta, lambda, kdep; f32_error, PyTorch's own worst relative error of a gradient in f32.
"""

import json

import torch
import torch.nn.functional as F
import torchvision
from make_goldens import HERE, f32, spread, summary
from safetensors.numpy import save_file

BATCH, HEIGHT, WIDTH, DIM = 4, 64, 96, 24
CELLS, GRID, TOKEN_DIM, QUEUE = (2, 3), (8, 12), 16, 10
BETA, LAMBDA, KDEP, EPS = 0.7, 1.3, 0.5, 1e-6
# One to five of six cells are visible.
VISIBLE = [[[1, 0, 0], [0, 0, 0]], [[0, 1, 1], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]], [[1, 1, 1], [0, 1, 1]]]
LARGEST_ERROR = 2e-5


def formula(seed, name, shape):
    """The value of every tensor; repeated in the tests."""
    if name.endswith("running_mean"):
        return spread(seed, name, shape, 0.1)
    if name.endswith("running_var"):
        return spread(seed, name, shape, 0.5, 1.0)
    if len(shape) == 4:
        return spread(seed, name, shape, (6.0 / (shape[0] * shape[2] * shape[3])) ** 0.5)
    if len(shape) == 2:
        return spread(seed, name, shape, (1.0 / shape[1]) ** 0.5)
    return spread(seed, name, shape, 0.3, 0.0 if name.endswith(("bias", "token")) else 1.0)


class Masked:
    """The mask at the size of any map."""

    def __init__(self, dtype):
        self.cells = torch.tensor(VISIBLE, dtype=dtype)[:, None]

    def like(self, x):
        return F.interpolate(self.cells, size=x.shape[2:], mode="nearest")

    def mean(self, x):
        """Over the visible positions of each image."""
        visible = self.like(x)
        return (x * visible).sum((2, 3)) / visible.sum((2, 3))


class MaskedNorm(torch.nn.BatchNorm2d):
    """Statistics of the visible positions of the batch; zero at the others."""

    def forward(self, x):
        visible = self.masked.like(x).bool()[:, 0]
        seen = F.batch_norm(
            x.permute(0, 2, 3, 1)[visible], self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )
        return torch.zeros_like(x).permute(0, 2, 3, 1).index_put((visible,), seen).permute(0, 3, 1, 2)


class MaskedPool(torch.nn.MaxPool2d):
    def forward(self, x):
        y = super().forward(x)
        return y * self.masked.like(y)


def sparse(net, masked):
    """Exchanges normalizations and pools for masked ones."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(parent, name, MaskedNorm(child.num_features))
            elif isinstance(child, torch.nn.MaxPool2d):
                setattr(parent, name, MaskedPool(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, torch.nn.ReLU):
                setattr(parent, name, torch.nn.ReLU())
    for module in net.modules():
        if isinstance(module, (MaskedNorm, MaskedPool)):
            module.masked = masked


class Fill(torch.nn.Module):
    def __init__(self, width, side, masked):
        super().__init__()
        self.norm, self.masked = MaskedNorm(width), masked
        self.norm.masked = masked
        self.token = torch.nn.Parameter(torch.zeros(width))
        self.conv = torch.nn.Conv2d(width, width, side, padding=side // 2, bias=False)

    def forward(self, x):
        return self.conv(torch.where(self.masked.like(x) > 0, self.norm(x), self.token[:, None, None]))


class Up(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.transposed = torch.nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.conv1 = torch.nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(outputs)
        self.relu6 = torch.nn.ReLU6()
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn2(self.conv2(self.relu6(self.bn1(self.conv1(self.transposed(x))))))


class Decoder(torch.nn.Module):
    def __init__(self, masked):
        super().__init__()
        self.fill32, self.fill16, self.fill8 = Fill(512, 1, masked), Fill(256, 3, masked), Fill(128, 3, masked)
        self.up16, self.up8 = Up(512, 256), Up(256, 128)
        self.tokens = torch.nn.Conv2d(128, TOKEN_DIM, 1)

    def forward(self, at8, at16, at32):
        x = self.up16(self.fill32(at32)) + self.fill16(at16)
        x = self.up8(x) + self.fill8(at8)
        return self.tokens(x).permute(0, 2, 3, 1)


class Student(torch.nn.Module):
    def __init__(self, seed, dtype):
        super().__init__()
        self.masked = Masked(dtype)
        self.net = torchvision.models.resnet18()
        self.net.fc = torch.nn.Identity()
        sparse(self.net, self.masked)
        self.head = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, DIM))
        self.decoder = Decoder(self.masked)
        self.to(dtype).train()
        with torch.no_grad():
            for name, tensor in self.named():
                tensor.copy_(formula(seed, name, tuple(tensor.shape)).to(dtype))
        # The map before the last activation: what the last block's ReLU is given last.
        self.net.layer4[-1].relu.register_forward_pre_hook(self.keep)

    def keep(self, _, inputs):
        self.raw = inputs[0]

    def named(self):
        """All tensors under the student's names."""
        for name, tensor in self.state_dict(keep_vars=True).items():
            if not name.endswith("num_batches_tracked"):
                yield name.removeprefix("net."), tensor

    def forward(self, images):
        n = self.net
        x = n.maxpool(n.relu(n.bn1(n.conv1(images * self.masked.like(images)))))
        at8 = n.layer2(n.layer1(x))
        at16 = n.layer3(at8)
        at32 = n.layer4(at16)
        pooled = self.masked.mean(at32)
        embedding = F.normalize(self.head(pooled), dim=1)
        return pooled, embedding, self.masked.mean(self.raw), self.decoder(at8, at16, at32)


def unit(seed, name, rows, dtype):
    return f32_again(F.normalize(spread(seed, name, (rows, DIM), 1.0).double(), dim=1)).to(dtype)


def f32_again(x):
    return x.to(torch.float32)


def pearson(a, b):
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1) + EPS**2).sqrt()


def losses(student, seed, dtype):
    """Everything that the file holds but the gradients."""
    images = spread(seed, "images", (BATCH, HEIGHT, WIDTH, 3), 2.0).to(dtype).permute(0, 3, 1, 2)
    tokens = spread(seed, "tokens", (BATCH, *GRID, TOKEN_DIM), 1.5).to(dtype)
    feature = spread(seed, "feature", (BATCH, 512), 2.0).to(dtype)
    t, queue = unit(seed, "t", BATCH, dtype), unit(seed, "queue", QUEUE, dtype)
    pooled, embedding, raw_pooled, output = student(images)
    shown = student.masked.like(output.permute(0, 3, 1, 2))[:, 0] > 0
    errors = (output - tokens).square()
    terms = dict(
        hidden=errors[~shown].mean(), visible=errors[shown].mean(), raw=(raw_pooled - feature).square().mean(),
        similarity=(1 - pearson(embedding @ queue.T, t @ queue.T)).mean(),
    )  # fmt: skip
    loss = terms["hidden"] + BETA * terms["visible"] + LAMBDA * terms["similarity"] + KDEP * terms["raw"]
    scalars = {name: term.reshape(1) for name, term in dict(loss=loss, **terms).items()}
    mask = student.masked.cells[:, 0]
    small = dict(t=t, queue=queue, mask=mask, embedding=embedding, output=output, **scalars)
    return loss, small, dict(pooled=pooled, raw_pooled=raw_pooled)


def run(seed, dtype):
    student = Student(seed, dtype)
    loss, small, large = losses(student, seed, dtype)
    ends = ["embedding", "output"]
    [small[name].retain_grad() for name in ends]
    loss.backward()
    return student, small | {f"d_{name}": small[name].grad for name in ends}, large


def nearest_kink(seed):
    """How near any visible input of an activation comes to a kink."""
    student, near = Student(seed, torch.float64), []

    def watch(module, inputs):
        x = inputs[0]
        if x.dim() == 4 and isinstance(module, torch.nn.ReLU):
            x = x.permute(0, 2, 3, 1)[student.masked.like(x).bool()[:, 0]]
        kinks = (0.0, 6.0) if isinstance(module, torch.nn.ReLU6) else (0.0,)
        near.append(min((x - kink).abs().min().item() for kink in kinks))

    for module in student.modules():
        if isinstance(module, (torch.nn.ReLU, torch.nn.ReLU6)):
            module.register_forward_pre_hook(watch)
    with torch.no_grad():
        losses(student, seed, torch.float64)
    return min(near)


def gradients(student):
    return {name: p.grad.double() for name, p in student.named() if p.requires_grad}


def compare(seed):
    """PyTorch's own f32 against f64, per tensor; the gradients that vanish; and the f64 run."""
    exact_run = run(seed, torch.float64)
    exact, rounded = gradients(exact_run[0]), gradients(run(seed, torch.float32)[0])
    vanishing = [name for name, gradient in exact.items() if gradient.norm() < 1e-12]
    errors = {name: ((rounded[name] - g).norm() / g.norm()).item() for name, g in exact.items() if name not in vanishing}
    return errors, vanishing, exact_run


def choose_seed(tries=40, finalists=6):
    """Of the seeds whose activations stay farthest from their kinks, the one where rounding matters least."""
    margins = sorted(((nearest_kink(seed), seed) for seed in range(tries)), reverse=True)[:finalists]
    return min((max(compare(seed)[0].values()), margin, seed) for margin, seed in margins)


def main():
    worst, margin, seed = choose_seed()
    _, vanishing, (student, small, large) = compare(seed)
    print(f"seed {seed}, nearest kink {margin:.1e}, vanishing: {vanishing}, PyTorch's own f32: {worst:.1e}")
    if worst > LARGEST_ERROR:
        raise RuntimeError(f"PyTorch's own f32 is {worst:.1e} off: no test can be sharper than that")
    fixture = {name: f32(value) for name, value in small.items()}
    brief = lambda name, tensor: summary(seed, name, tensor, full=32, directions=4, picks=16)
    for name, value in large.items():
        fixture |= brief(name, value)
    for name, gradient in gradients(student).items():
        if name not in vanishing:
            fixture |= brief(f"gradient.{name}", gradient)
    for name, tensor in student.named():
        if "running" in name:
            fixture |= brief(f"after.{name}", tensor)
    metadata = dict(seed=seed, vanishing=json.dumps(vanishing), beta=BETA, kdep=KDEP, f32_error=f"{worst:.1e}")
    metadata["lambda"] = LAMBDA
    path = HERE / "hgkd.safetensors"
    save_file(fixture, path, metadata={key: str(value) for key, value in metadata.items()})
    path.chmod(0o644)
    print(f"{path.stat().st_size / 1000:.0f} kB; loss {small['loss'].item():.4f}")


if __name__ == "__main__":
    main()
