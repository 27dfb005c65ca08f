"""The peer of `benches/peers/online_lgd`: a PyTorch student, with the teacher run in every step.

    third_party/torch-venv/bin/python benches/peers/online_lgd_torch.py --teacher DIR --cache DIR --bank DIR
        [--student resnet18] [--side 64] [--batch 128] [--threads 2]

One process. A step reads the batch's files with Pillow, renders each image's view at the teacher's and the student's size, runs
the teacher, updates the visual bank (LGKA's moving average, as published), and trains the student with the LGD loss and SGD.
Views come from the cache's table, so both sides see the same pixels; nothing else of the cache is read. The text bank is the
one given.

Prints one JSON line with the variants tried at the start and the one chosen. Then, for each input line "run SECONDS", trains for
at least that long, in whole steps, and prints {"images", "seconds", "parts": {...}}. Exits at the end of its input.

What makes the peer fast:
- The teacher runs in ONNX Runtime or in PyTorch (frozen and optimized for inference, channels last), in batches of 32 or whole:
  the fastest on this machine. The same for the student's memory layout.
- A thread renders the next batch during training. Pillow releases the interpreter lock while it works.
- The teacher's batch normalizations are folded in its ONNX file, also for PyTorch; fused SGD; gradients set to None.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# PyTorch has its own environment; the other packages are in third_party/venv, for the same Python.
sys.path += [str(path) for path in (ROOT / "third_party/venv").glob("lib/python*/site-packages")]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from train_step_torch import ALPHA, DECAY, MOMENTUM, TAU_S, Student  # noqa: E402

TAU_T, BANK_MOMENTUM, LEARNING_RATE = 0.01, 0.999, 0.01
SMALL_BATCH = 32
Encoder = Callable[[Tensor], Tensor]


class View(NamedTuple):
    """An image and its view."""

    path: str
    box: tuple[float, float, float, float]
    flip: bool


class Images:
    """The batches: the cache's views, rendered at two sizes."""

    def __init__(self, args: argparse.Namespace) -> None:
        teacher = tomllib.loads((args.teacher / "teacher.toml").read_text())["image"]
        self.sides = (teacher["size"], args.side)
        self.mean, self.std = (torch.tensor(teacher[key])[:, None, None] for key in ("mean", "std"))
        self.batch = args.batch
        self.epochs = views(args.cache)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless (teacher's pixels, student's pixels): whole batches, each epoch in a new order and with the next views."""
        shuffle = random.Random(0)
        with ThreadPoolExecutor(1) as pool:
            pending = None
            for rows in itertools.cycle(self.epochs):
                order = shuffle.sample(rows, len(rows))
                for start in range(0, len(order) - self.batch + 1, self.batch):
                    following = pool.submit(self.render, order[start : start + self.batch])
                    if pending is not None:
                        yield pending.result()
                    pending = following

    def render(self, rows: list[View]) -> tuple[Tensor, Tensor]:
        """Both sizes of a batch, NCHW f32, normalized."""
        pixels = [np.empty((len(rows), side, side, 3), np.uint8) for side in self.sides]
        for index, view in enumerate(rows):
            with Image.open(view.path) as file:
                image = file.convert("RGB")
            for out, side in zip(pixels, self.sides, strict=True):
                shown = image.resize((side, side), Image.Resampling.BICUBIC, view.box)
                out[index] = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else shown
        return tuple(
            ((torch.from_numpy(values).permute(0, 3, 1, 2).float() / 255) - self.mean) / self.std for values in pixels
        )


def views(cache: Path) -> list[list[View]]:
    """The views of all images, by view index."""
    columns = ["key", "view", "width", "height", "center_fraction", "crop_x", "crop_y", "crop_w", "crop_h", "flip"]
    epochs = defaultdict(list)
    for shard in sorted(cache.glob("views-*.parquet")):
        for row in parquet.read_table(shard, columns=columns).to_pylist():
            if row["crop_x"] is None:
                side = row["center_fraction"] * min(row["width"], row["height"])
                x, y, w, h = (row["width"] - side) / 2, (row["height"] - side) / 2, side, side
            else:
                x, y, w, h = (row[f"crop_{key}"] for key in "xywh")
            epochs[row["view"]].append(View(row["key"], (x, y, x + w, y + h), row["flip"]))
    return [epochs[view] for view in sorted(epochs)]


class OnnxNetwork(nn.Module):
    """The teacher's graph with PyTorch's operations."""

    def __init__(self, path: Path, output: str) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self.output, self.input = output, graph.input[0].name
        self.nodes = list(graph.node)
        self.weights = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in graph.initializer}

    def forward(self, x: Tensor) -> Tensor:
        """The embeddings."""
        values = {self.input: x.contiguous(memory_format=torch.channels_last)} | self.weights
        for node in self.nodes:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = self.apply_node(node.op_type, [values[name] for name in node.input], attributes)
        return values[self.output]

    @staticmethod
    def apply_node(kind: str, inputs: list[Tensor], attributes: dict) -> Tensor:
        """One node."""
        pads = attributes.get("pads", [0, 0, 0, 0])
        if kind in ("Conv", "MaxPool") and pads[:2] != pads[2:]:
            raise SystemExit(f"the teacher pads a {kind} unevenly: {pads}")
        if kind == "Conv":
            return F.conv2d(*inputs, stride=attributes["strides"], padding=pads[:2], groups=attributes["group"])
        if kind == "MaxPool":
            return F.max_pool2d(inputs[0], attributes["kernel_shape"], attributes["strides"], pads[:2])
        simple = {
            "Relu": torch.relu,
            "Add": torch.add,
            "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
            "Flatten": lambda x: x.flatten(1),
            "LpNormalization": lambda x: F.normalize(x, dim=-1),
        }
        if kind not in simple:
            raise SystemExit(f"the teacher has a node of kind {kind}, which is not implemented here")
        return simple[kind](*inputs)


def encoders(args: argparse.Namespace) -> dict[str, Encoder]:
    """The teacher in each variant to try."""
    settings = tomllib.loads((args.teacher / "teacher.toml").read_text())["image"]
    path, side = args.teacher / settings["model"], settings["size"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def by_runtime(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([settings["output"]], {settings["input"]: x.numpy()})[0])

    def by_torch(batch: int) -> Encoder:
        network = OnnxNetwork(path, settings["output"]).eval()
        with torch.inference_mode():
            traced = torch.jit.freeze(torch.jit.trace(network, torch.zeros(batch, 3, side, side)))
            return torch.jit.optimize_for_inference(traced)

    def split(encoder: Encoder) -> Encoder:
        return lambda x: torch.cat([encoder(part) for part in x.split(SMALL_BATCH)])

    tried = {"onnxruntime": by_runtime, "torch": by_torch(args.batch)}
    if args.batch > SMALL_BATCH and args.batch % SMALL_BATCH == 0:
        tried |= {
            f"onnxruntime by {SMALL_BATCH}": split(by_runtime),
            f"torch by {SMALL_BATCH}": split(by_torch(SMALL_BATCH)),
        }
    return tried


class VisualBank:
    """LGKA's moving average: rows are random at first, then the mean embedding of each category's views."""

    def __init__(self, tsb: Tensor) -> None:
        self.tsb = tsb
        self.rows = F.normalize(torch.randn(tsb.shape), dim=-1)
        self.seen = torch.zeros(len(tsb), dtype=torch.bool)

    def update(self, t: Tensor) -> None:
        """Updates the rows of the categories in this batch, after its logits are computed."""
        category = (t @ self.tsb.T).argmax(-1)
        sums = torch.zeros_like(self.rows).index_add_(0, category, t)
        counts = torch.bincount(category, minlength=len(self.rows))
        present = counts > 0
        means = sums[present] / counts[present, None]
        weight = torch.where(self.seen[present], BANK_MOMENTUM, 0.0)[:, None]
        self.rows[present] = weight * self.rows[present] + (1 - weight) * means
        self.seen |= present


class Original:
    """The training loop of the peer."""

    def __init__(self, args: argparse.Namespace, encode: Encoder, layout: torch.memory_format) -> None:
        torch.manual_seed(0)
        tsb = load_file(args.bank / "bank.safetensors")["tsb"]
        self.encode, self.layout, self.bank = encode, layout, VisualBank(tsb)
        self.student = Student(args.student, tsb.shape[1]).to(memory_format=layout).train()
        self.sgd = torch.optim.SGD(self.student.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=DECAY, fused=True)
        self.parts: dict[str, float] = defaultdict(float)

    def step(self, teacher_pixels: Tensor, student_pixels: Tensor) -> float:
        """One step; returns the loss."""
        start = time.perf_counter()
        with torch.inference_mode():
            t = self.encode(teacher_pixels)
        t = t.clone()
        middle = time.perf_counter()
        s = self.student(student_pixels.contiguous(memory_format=self.layout))
        loss = self.loss(s, t)
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        self.sgd.step()
        self.bank.update(t)
        self.parts["teacher"] += middle - start
        self.parts["student"] += time.perf_counter() - middle
        return loss.item()

    def loss(self, s: Tensor, t: Tensor) -> Tensor:
        """alpha L_vis + (1 - alpha) L_tex, with the teacher's distributions computed here."""
        tsb, vsb = self.bank.tsb, self.bank.rows
        text = torch.softmax(t @ tsb.T / TAU_T, -1), s @ tsb.T
        positive = (t * t).sum(-1, keepdim=True), (s * t).sum(-1, keepdim=True)
        visual = torch.softmax(torch.cat([positive[0], t @ vsb.T], 1) / TAU_T, -1), torch.cat([positive[1], s @ vsb.T], 1)
        term = lambda p, logits: -(p * F.log_softmax(logits / TAU_S, -1)).sum(-1).mean()
        return ALPHA * term(*visual) + (1 - ALPHA) * term(*text)


def best(tried: dict[str, Callable[[], object]], rounds: int = 3) -> tuple[str, dict[str, float]]:
    """The fastest variant, and the best time of each; variants alternate."""
    seconds = dict.fromkeys(tried, float("inf"))
    for name in [*tried, *(list(tried) * rounds)]:
        start = time.perf_counter()
        tried[name]()
        seconds[name] = min(seconds[name], time.perf_counter() - start)
    return min(seconds, key=seconds.get), seconds


def prepare(args: argparse.Namespace, first: tuple[Tensor, Tensor]) -> tuple[Original, dict]:
    """The fastest teacher and student, and the variants tried."""
    teachers = encoders(args)
    with torch.inference_mode():
        teacher, teacher_seconds = best({name: lambda e=e: e(first[0]) for name, e in teachers.items()})
        outputs = [encode(first[0]) for encode in teachers.values()]
    worst = max((output - outputs[0]).abs().max().item() for output in outputs)
    if worst > 1e-3:
        raise SystemExit(f"the teacher's embeddings differ by {worst} between variants")
    known = outputs[0].clone()
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    loops = {name: Original(args, lambda _: known, layout) for name, layout in layouts.items()}
    layout, student_seconds = best({name: lambda loop=loop: loop.step(*first) for name, loop in loops.items()})
    rate = lambda seconds: {name: round(args.batch / value, 2) for name, value in seconds.items()}
    chosen = {
        "teacher": teacher, "teacher_images_per_second": rate(teacher_seconds), "student_layout": layout,
        "student_images_per_second": rate(student_seconds), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    return Original(args, teachers[teacher], layouts[layout]), chosen


def main() -> None:
    """Choose the fastest variant, then train on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--teacher", "--cache", "--bank"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    batches = iter(Images(args))
    loop, chosen = prepare(args, next(batches))
    loop.step(*next(batches))
    print(json.dumps(chosen), flush=True)
    for line in sys.stdin:
        limit, images = float(line.split()[1]), 0
        loop.parts = defaultdict(float)
        start = now = time.perf_counter()
        while now - start < limit:
            loss = loop.step(*next(batches))
            images += args.batch
            now = time.perf_counter()
        parts = loop.parts | {"waiting for images": now - start - sum(loop.parts.values())}
        answer = {"images": images, "seconds": now - start, "loss": loss, "parts": parts}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
