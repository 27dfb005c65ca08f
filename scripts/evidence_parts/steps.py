"""Resumable steps: each leaves a JSON file with its settings and its result."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cifar10 import CLASSES, images_of

ROOT = Path(__file__).resolve().parents[2]
LGD = ROOT / "target/release/lgd"
os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / "third_party/onnxruntime/libonnxruntime.so"))
HELD_OUT_PER_CLASS = 500
TRAIN_PER_CLASS = 5000
INTERRUPTED = 75


class Stopped(Exception):
    """The time limit is reached."""


@dataclass(frozen=True)
class Scale:
    """Sizes of data and runs."""

    name: str
    per_class: int
    test_per_class: int | None
    epochs: int
    # Seeds of LGD and SEED, and of all other methods.
    seeds: tuple[int, ...]
    other_seeds: tuple[int, ...]
    # Epochs that the long run tries in order, until held-out accuracy stops improving.
    long_epochs: tuple[int, ...]
    views: int


def say(text: str) -> None:
    """Prints a message to stderr."""
    print(text, file=sys.stderr, flush=True)


def image_list(split: str, first: int, last: int | None, per_class: int | None) -> list[str]:
    """Rows `path,label`: for every class, the first `per_class` of the images at positions `first..last`."""
    rows = []
    for name in CLASSES:
        rows += [f"{image},{name}" for image in images_of(split, name)[first:last][:per_class]]
    return rows


class Workshop:
    """Runs steps, records their results, and stops at the time limit."""

    def __init__(self, scale: Scale, device: str, minutes: float | None) -> None:
        self.scale = scale
        self.device = device
        self.out = ROOT / "out/evidence" / scale.name
        self.rows: list[dict] = []
        self.choices: list[dict] = []
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        for part in ("steps", "runs", "banks", "lists"):
            (self.out / part).mkdir(parents=True, exist_ok=True)
        self._prepare()

    def _prepare(self) -> None:
        run("set-up", ROOT / "scripts/setup", "runtime", "venv", "clip", "cifar10", "teacher")
        features = ["--features", "cuda"] if self.device != "cpu" else []
        run("build", "cargo", "build", "--release", "--locked", "-p", "lgd", *features)

    def left(self) -> float | None:
        """Seconds until the time limit, or None without one."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def step(self, name: str, settings: dict, work: Callable[[], dict]) -> dict:
        """Runs `work`, unless its file holds a result with the same settings; returns the step."""
        path = self.out / "steps" / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            if found["settings"] == settings:
                return found
        left = self.left()
        if left is not None and left <= 0:
            raise Stopped(f"before {name}")
        say(f"\n== {name}")
        started = time.monotonic()
        result = work()
        found = {
            "name": name, "settings": settings, "result": result, "seconds": round(time.monotonic() - started, 1),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), "commit": commit(), "hardware": hardware(self.device),
        }  # fmt: skip
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(found, indent=2) + "\n")
        temporary.replace(path)
        say(f"   {found['seconds']} s")
        return found

    def list_of(self, name: str, rows: list[str]) -> Path:
        """The CSV list `name`."""
        path = self.out / "lists" / f"{name}.csv"
        path.write_text("path,label\n" + "\n".join(rows) + "\n")
        return path

    def lgd(self, *command: str | Path) -> dict:
        """Runs an lgd command and returns its report; interrupts it at the time limit."""
        line = [str(LGD), *(str(part) for part in command)]
        say("   " + " ".join(line).replace(f"{ROOT}/", ""))
        process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            output, _ = process.communicate(timeout=None if self.left() is None else max(self.left(), 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate()
        if process.returncode == INTERRUPTED:
            raise Stopped(f"in lgd {command[0]}")
        if process.returncode != 0:
            raise SystemExit(f"evidence: lgd {command[0]} failed with exit code {process.returncode}")
        return json.loads(output)

    def extract(self, name: str, images: Path, teacher: Path, *options: str) -> Path:
        """The cache `name`."""
        out = self.out / f"cache-{name}"
        command = ["extract", "--teacher", teacher, "--images", images, "--with-center", "--center-fraction", "1", *options]
        settings = {"images": digest(images.read_text()), "teacher": (teacher / "teacher.toml").read_text(), "options": list(options)}
        self.step(f"extract-{name}", settings, lambda: self.lgd(*command, "--out", out, "--overwrite"))
        return out

    def bank(self, name: str, cache: Path, *options: str | Path) -> Path:
        """The bank `name`."""
        out = self.out / "banks" / name
        texts = [Path(option).read_text() if isinstance(option, Path) and option.is_file() else str(option) for option in options]
        settings = {"cache": digest((cache / "cache.json").read_text()), "options": [digest(text) for text in texts]}
        self.step(f"bank-{name}", settings, lambda: self.lgd("bank", "--cache", cache, *options, "--out", out, "--overwrite"))
        return out

    def train(self, name: str, cache: Path, images: Path, *options: str | Path) -> Path:
        """Trains the run `name`, resuming it if it was interrupted; returns its folder, or that of an equal run."""
        settings = {"cache": digest((cache / "cache.json").read_text()), "options": [self._portable(option) for option in options]}
        # Bits differ between devices; a missing key means the CPU.
        settings |= {} if self.device == "cpu" else {"device": self.device}
        name = self._trained(settings) or name
        out = self.out / "runs" / f"{name}-{digest(json.dumps(settings))[:8]}"
        command = ["train", "--cache", cache, "--images", images, "--device", self.device, *options, "--out", out, "--resume"]
        self.step(f"train-{name}", settings, lambda: self.lgd(*command))
        return out

    def _trained(self, settings: dict) -> str | None:
        """The name of a finished training with the same settings."""
        for path in sorted((self.out / "steps").glob("train-*.json")):
            if json.loads(path.read_text())["settings"] == settings:
                return path.stem.removeprefix("train-")
        return None

    def _portable(self, option: str | Path) -> str:
        """An option as text; a path to a list, cache or bank includes a digest of its content."""
        text = str(option).replace(f"{self.out}/", "")
        if not isinstance(option, Path):
            return text
        told = [option / manifest for manifest in ("cache.json", "bank.json", "kdep.json")] + [option] * (option.suffix == ".csv")
        return text + "".join(f"@{digest(path.read_text())[:16]}" for path in told if path.exists())

    def evaluate(self, name: str, run_folder: Path, *options: str | Path) -> dict:
        """The evaluation `name` of a run."""
        manifest = digest((run_folder / "run.json").read_text())
        settings = {"run": manifest, "options": [self._portable(option) for option in options]}
        return self.step(f"eval-{name}", settings, lambda: self.lgd("eval", "--json", "--run", run_folder, *options))


def run(name: str, *command: str | Path) -> None:
    """Runs a command that must succeed."""
    result = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=subprocess.DEVNULL)
    if result.returncode != 0:
        raise SystemExit(f"evidence: {name} failed with exit code {result.returncode}")


def digest(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def commit() -> str:
    """The commit of the checkout, marked if the checkout has changes."""
    result = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def hardware(device: str) -> str:
    """The processor, and the training device if it is another."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
    return processor if device == "cpu" else f"{processor}, {device}"
