"""A small world to torture: pictures, a teacher of a few kilobytes, and the artifacts that an undisturbed `lgd` makes of them."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LGD = ROOT / "target/release/lgd"
ONNXRUNTIME = ROOT / "third_party/onnxruntime/libonnxruntime.so"
CLASSES = ("cat", "dog", "ship", "frog")
SIDE, WIDTH = 32, 16
#: Seconds after which a command hangs. The longest one takes about three.
PATIENCE = 60
#: Address space of a command on hostile input, in bytes.
ADDRESS_SPACE = 8 << 30
#: Exit codes of a command that says what happened: done, rejects, usage, artifact, interrupted.
CLEAN = (0, 1, 2, 3, 75)


@dataclass
class Tally:
    """What happened in one part: tries, tries that ended well, and a recipe for each that did not."""

    tried: int = 0
    well: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, problem: str | None, recipe: str) -> None:
        """Count one try. `problem`: what was wrong."""
        self.tried += 1
        if problem is None:
            self.well += 1
        else:
            self.failures.append(f"{recipe}: {problem}")


@dataclass
class Ended:
    """How a command ended. `code` is negative for a signal, None if it hung."""

    code: int | None
    output: str
    seconds: float

    def crash(self) -> str | None:
        """What is wrong with the way it ended, whatever it was given; None if it ended with a word."""
        if self.code is None:
            return f"hung for {PATIENCE} s"
        if self.code not in CLEAN:
            return f"ended with {self.code}: {self.output[-600:]}"
        if self.code in (2, 3) and "error:" not in self.output:
            return f"exit code {self.code} without a word"
        if any(ord(letter) < 32 and letter not in "\n\t\r" for letter in self.output):
            return f"prints control characters: {self.output[-300:]!r}"
        return None


def environment(**more: str) -> dict[str, str]:
    """The variables of every command."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LD_", "TORTURE_"))}
    return {**kept, "ORT_DYLIB_PATH": str(ONNXRUNTIME), "NO_COLOR": "1", **more}


def limit_memory() -> None:
    """In the child: an address space that a bomb exceeds at once, and no core files."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def start(arguments: list[str | Path], **variables: str) -> subprocess.Popen[str]:
    """Starts `lgd` without waiting."""
    command = [str(word) for word in (LGD, *arguments)]
    return subprocess.Popen(
        command,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        preexec_fn=limit_memory,
    )


def wait(process: subprocess.Popen[str], since: float) -> Ended:
    """Waits for the end of a command, and kills it if it hangs."""
    try:
        output, _ = process.communicate(timeout=PATIENCE)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        code = None
    return Ended(code, output, time.monotonic() - since)


def run(arguments: list[str | Path], **variables: str) -> Ended:
    """Runs `lgd` to its end."""
    since = time.monotonic()
    return wait(start(arguments, **variables), since)


@dataclass
class Job:
    """A command that makes one artifact."""

    name: str
    words: list[str | Path]
    #: Flag that continues an unfinished artifact; none if the command starts again by itself.
    resume: list[str]
    #: Flag that replaces a finished one.
    overwrite: list[str]
    #: Whether the artifact is a folder with a manifest, which `lgd verify` takes.
    folder: bool = True
    reference: Path = Path()
    seconds: float = 0.0

    def command(self, out: Path, *more: str) -> list[str | Path]:
        """The command that writes to `out`."""
        return [*self.words, "--out", out, *more]


#: Files of a run that hold times, or that are made of such files and belong to no manifest.
VOLATILE = ("metrics.csv", "report.html", "inputs.json", "eval.json", ".lock")
#: What differs between two equal trainings in metrics.jsonl.
CLOCKS = ("time", "images_per_second", "data_wait", "seconds", "holdout_seconds")


def content(path: Path) -> dict[str, object]:
    """What an artifact says, without the times of the process that wrote it: equal for equal work."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    said: dict[str, object] = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = str(file.relative_to(path))
        if name in VOLATILE or file.name.startswith("events.out.") or name.startswith("checkpoints/"):
            continue
        if name == "metrics.jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            said[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        elif name == "run.json":
            manifest = json.loads(file.read_text())
            manifest.pop("blake3")
            manifest["files"] = [entry for entry in manifest["files"] if entry["name"] != "metrics.jsonl"]
            said[name] = manifest
        else:
            said[name] = file.read_bytes()
    return said


def difference(path: Path, reference: Path) -> str | None:
    """The names of files that differ; None if there are none."""
    got, expected = content(path), content(reference)
    if path.is_file():
        return None if list(got.values()) == list(expected.values()) else f"{path.name} differs"
    wrong = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
    return f"differs from the undisturbed artifact in {', '.join(wrong)}" if wrong else None


def save_graph(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> None:
    """Writes an ONNX graph."""
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_teacher(folder: Path) -> Path:
    """A teacher with both towers: means of the pixels, and of the words' vectors, projected."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    tensor = helper.make_tensor_value_info
    node = helper.make_node
    save_graph(
        folder / "image.onnx",
        [
            node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            node("Flatten", ["pooled"], ["features"]),
            node("Gemm", ["features", "weight"], ["image_embeds"]),
        ],
        [tensor("pixels", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [tensor("image_embeds", TensorProto.FLOAT, ["n", WIDTH]), tensor("features", TensorProto.FLOAT, ["n", 48])],
        {"weight": draw.normal(size=(48, WIDTH)).astype("f4")},
    )
    words = ["[PAD]", "[UNK]", "a", "photo", "of", "the", *CLASSES]
    save_graph(
        folder / "text.onnx",
        [
            node("Gather", ["table", "input_ids"], ["vectors"]),
            node("ReduceMean", ["vectors"], ["text_embeds"], axes=[1], keepdims=0),
        ],
        [tensor("input_ids", TensorProto.INT64, ["n", "t"])],
        [tensor("text_embeds", TensorProto.FLOAT, ["n", WIDTH])],
        {"table": draw.normal(size=(len(words), WIDTH)).astype("f4")},
    )
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "teacher.toml").write_text(
        f'[image]\nmodel = "image.onnx"\ninput = "pixels"\noutput = "image_embeds"\nfeatures = "features"\nsize = {SIDE}\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n\n"
        '[text]\nmodel = "text.onnx"\noutput = "text_embeds"\ncontext_length = 16\npad_id = 0\n'
    )
    return folder


def make_images(folder: Path, *, seed: int, per_class: int = 24) -> Path:
    """Pictures of colored noise in a folder per class; another seed gives others."""
    draw = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for image in range(per_class):
            coarse = draw.integers(0, 256, (5, 5, 3)).astype("u1")
            coarse[..., number % 3] //= 2
            picture = Image.fromarray(coarse).resize((40, 36), Image.Resampling.BICUBIC)
            picture.save(folder / name / f"{image:03}.png")
    return folder


class World:
    """Folders with inputs and undisturbed artifacts, and the jobs that make these."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.teacher = make_teacher(folder / "teacher")
        self.images = make_images(folder / "images", seed=0)
        self.others = make_images(folder / "others", seed=1)
        self.names = folder / "names.txt"
        self.names.write_text("\n".join(CLASSES) + "\n")
        self.backwards = folder / "backwards.txt"
        self.backwards.write_text("\n".join(reversed(CLASSES)) + "\n")
        self.jobs = {job.name: job for job in self._jobs()}
        for job in self.jobs.values():
            self.make(job)

    def _extract(self, name: str, images: Path, *more: str) -> Job:
        words: list[str | Path] = ["extract", "--images", images, "--teacher", self.teacher, "--views", "2", "--features"]
        words += ["--shard-samples", "8", "--batch", "8", "--threads", "2", *more]
        return Job(name, words, ["--resume"], ["--overwrite"])

    def _jobs(self) -> list[Job]:
        made = self.folder / "made"
        cache, bank, run = made / "cache", made / "bank", made / "train"
        again: list[str] = []
        text: list[str | Path] = ["--teacher", self.teacher, "--cache", cache]
        with_pixels: list[str | Path] = ["--teacher", self.teacher, "--cache", made / "cache-with-pixels"]
        settings = ["--student", "mobilenet_v2", "--size", "32", "--epochs", "3", "--batch", "24", "--checkpoint-steps", "2"]
        settings += ["--threads", "2"]
        train: list[str | Path] = ["train", "--cache", cache, "--bank", bank, "--images", self.images, *settings]
        from_pixels: list[str | Path] = ["train", *with_pixels[2:], "--bank", made / "bank-of-pixels", *settings]
        one = next(iter(sorted((self.images / "cat").iterdir())))
        return [
            self._extract("cache", self.images),
            self._extract("cache-of-others", self.others),
            self._extract("cache-with-pixels", self.images, "--store-views", "raw", "--store-size", "32"),
            Job("bank", ["bank", *text, "--categories", self.names], again, ["--overwrite"]),
            Job("bank-backwards", ["bank", *text, "--categories", self.backwards], again, ["--overwrite"]),
            Job("bank-kdep", ["bank", "--target", "kdep", "--cache", cache, "--dim", "32"], again, ["--overwrite"]),
            Job("bank-of-pixels", ["bank", *with_pixels, "--categories", self.names], again, ["--overwrite"]),
            Job("train", train, ["--resume"], ["--overwrite"]),
            Job("train-from-pixels", from_pixels, ["--resume"], ["--overwrite"]),
            Job("export.onnx", ["export", "--run", run], again, ["--overwrite"], folder=False),
            Job("embed.npy", ["embed", "--run", run, one], again, ["--overwrite"], folder=False),
        ]

    def make(self, job: Job) -> None:
        """The undisturbed artifact of a job, and how long it takes."""
        job.reference = self.folder / "made" / job.name
        job.reference.parent.mkdir(exist_ok=True)
        ended = run(job.command(job.reference))
        if ended.code != 0:
            raise SystemExit(f"{job.name} fails without being tortured: {ended.output}")
        job.seconds = ended.seconds

    def scratch(self, name: str) -> Path:
        """An empty folder for one try."""
        folder = self.folder / "scratch" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def pick_signal(draw: random.Random) -> signal.Signals:
    """One of the signals that end a process."""
    return draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
