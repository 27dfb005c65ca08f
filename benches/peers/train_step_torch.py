"""PyTorch's half of `benches/peers/train_step`: a process that runs training steps on request.

    third_party/torch-venv/bin/python benches/peers/train_step_torch.py ARCH BATCH SIDE THREADS [--variant V] [--device D]

The step equals that of train/benches/train_step.rs on the same shapes: torchvision's network without its classifier, LGD's
projection head (Linear, ReLU, Linear to 512, L2), the LGD loss over 64 categories from given distributions, backward, and SGD
with momentum 0.9 and weight decay 1e-4. One random batch, on the device from the start.

Prints "ready" after the first two steps. For each input line "steps N" it runs N steps and prints one line of JSON:
{"seconds": [N numbers], "cpu_seconds": [N numbers], "peak_rss_mb", "baseline_rss_mb" (after its imports), "torch"}, and on a GPU
also "peak_device_mb" and "device". Exits at the end of its input.

What makes PyTorch fast here: gradients set to None instead of zeroed, fused SGD, no anomaly or profiling modes. The driver runs
each memory layout and takes the better one. On a GPU: autocast to bf16, channels last, cuDNN's search for the fastest algorithm,
TF32 for the remaining f32. Seconds are measured between events on the device, without a stop at each step.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import torchvision
except ImportError:
    torchvision = None

BASELINE_RSS = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

CATEGORIES, DIM = 64, 512
ALPHA, TAU_S = 0.5, 0.2
LEARNING_RATE, MOMENTUM, DECAY, DROPOUT = 0.01, 0.9, 1e-4, 0.2
WARM_UP = 2
VARIANTS = ("contiguous", "channels_last", "compiled", "compiled-max-autotune")


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions, as torchvision has it."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """relu(branch + identity)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet18() -> nn.Sequential:
    """ResNet-18 up to its pooled feature, for machines without torchvision."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [BasicBlock(inputs, width, stride), BasicBlock(width, width, 1)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def backbone(architecture: str) -> tuple[nn.Module, int, float]:
    """(Network up to the pooled feature, the feature's width, dropout before the head)."""
    if torchvision is None:
        if architecture != "resnet18":
            raise SystemExit(f"torchvision is missing: {architecture} cannot be built, resnet18 can")
        return resnet18(), 512, 0.0
    net = getattr(torchvision.models, architecture)()
    if architecture.startswith("resnet"):
        width, net.fc = net.fc.in_features, nn.Identity()
        return net, width, 0.0
    last = net.classifier[0] if architecture == "mobilenet_v3_large" else net.classifier[-1]
    net.classifier = nn.Identity()
    return net, last.in_features, DROPOUT


class Student(nn.Module):
    """The backbone with LGD's projection head."""

    def __init__(self, architecture: str, dim: int = DIM) -> None:
        super().__init__()
        self.backbone, width, dropout = backbone(architecture)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim], unit vectors."""
        return F.normalize(self.head(self.dropout(self.backbone(x))), dim=-1)


class Objective(nn.Module):
    """The LGD loss for given distributions."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.register_buffer("tsb", torch.randn(CATEGORIES, DIM))
        self.register_buffer("vsb", torch.randn(CATEGORIES, DIM))
        self.register_buffer("teacher", torch.randn(batch, DIM))
        self.register_buffer("text", torch.full((batch, CATEGORIES), 1 / CATEGORIES))
        self.register_buffer("visual", torch.full((batch, CATEGORIES + 1), 1 / (CATEGORIES + 1)))

    def forward(self, s: Tensor) -> Tensor:
        """alpha L_vis + (1 - alpha) L_tex."""
        s = s.float()
        text = s @ self.tsb.T / TAU_S
        visual = torch.cat([(s * self.teacher).sum(-1, keepdim=True), s @ self.vsb.T], 1) / TAU_S
        text_loss = -(self.text * F.log_softmax(text, -1)).sum(-1).mean()
        visual_loss = -(self.visual * F.log_softmax(visual, -1)).sum(-1).mean()
        return ALPHA * visual_loss + (1 - ALPHA) * text_loss


def make_step(args: argparse.Namespace) -> Callable[[], None]:
    """Returns a function that runs one training step."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    layout = torch.contiguous_format if args.variant == "contiguous" else torch.channels_last
    student = Student(args.architecture).to(device, memory_format=layout).train()
    objective = Objective(args.batch).to(device)
    images = torch.randn(args.batch, 3, args.side, args.side, device=device).to(memory_format=layout)
    sgd = torch.optim.SGD(student.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=DECAY, fused=True)
    half = device.type == "cuda"

    def loss() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            s = student(images)
        return objective(s)

    compiled = args.variant.startswith("compiled")
    if compiled:
        loss = torch.compile(loss, mode="max-autotune" if args.variant.endswith("autotune") else None)

    def step() -> None:
        if compiled:
            torch.compiler.cudagraph_mark_step_begin()
        sgd.zero_grad(set_to_none=True)
        loss().backward()
        sgd.step()

    return step


def on_cpu(step: Callable[[], None], count: int) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of each step."""
    seconds, cpu_seconds = [], []
    for _ in range(count):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    return seconds, cpu_seconds


def on_gpu(step: Callable[[], None], count: int) -> tuple[list[float], list[float]]:
    """Device seconds between the ends of successive steps, and processor seconds of the host."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    cpu = time.process_time()
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    seconds = [a.elapsed_time(b) / 1000 for a, b in zip(events, events[1:], strict=False)]
    return seconds, [(time.process_time() - cpu) / count] * count


def main() -> None:
    """Prepare, then run steps on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture")
    for name in ("batch", "side", "threads"):
        parser.add_argument(name, type=int)
    parser.add_argument("--variant", choices=VARIANTS, default="channels_last")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    step = make_step(args)
    measure = on_gpu if args.device.startswith("cuda") else on_cpu
    measure(step, WARM_UP)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, cpu_seconds = measure(step, int(line.split()[1]))
        answer = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "baseline_rss_mb": BASELINE_RSS / 1024,
            "torch": torch.__version__,
        }
        if measure is on_gpu:
            answer["peak_device_mb"] = torch.cuda.max_memory_reserved() / 2**20
            answer["device"] = torch.cuda.get_device_name()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
