"""Steps that are done once: each leaves a JSON file with its settings and its result."""

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
HELD_OUT_PER_CLASS = 500
TRAIN_PER_CLASS = 5000
INTERRUPTED = 75


class Stopped(Exception):
    """The time that was given is over."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    name: str
    per_class: int
    test_per_class: int | None
    epochs: int
    # Seeds of LGD and SEED, and of the rest.
    seeds: tuple[int, ...]
    other_seeds: tuple[int, ...]
    # Epochs tried one after the other by the long run; it ends when held-out images say that more is no better.
    long_epochs: tuple[int, ...]
    views: int


def say(text: str) -> None:
    """To standard error."""
    print(text, file=sys.stderr, flush=True)


def image_list(split: str, first: int, last: int | None, per_class: int | None) -> list[str]:
    """Rows `path,label`: of every class the first `per_class` images whose position in the class lies in `first..last`."""
    rows = []
    for name in CLASSES:
        rows += [f"{image},{name}" for image in images_of(split, name)[first:last][:per_class]]
    return rows


class Workshop:
    """Runs steps, keeps what they found, and knows when to stop."""

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
        """Seconds until the end, if there is one."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def step(self, name: str, settings: dict, work: Callable[[], dict]) -> dict:
        """The result of `work`, from its file where it was done with the same settings."""
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
        """What an lgd command prints; it is interrupted when the time is over."""
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
            raise SystemExit(f"evidence: lgd {command[0]} ended with exit code {process.returncode}")
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
        """The folder of the run `name`, resumed where it was interrupted, or of an equal one."""
        settings = {"cache": digest((cache / "cache.json").read_text()), "options": [self._portable(option) for option in options]}
        # Bits differ between devices; a missing key stands for the CPU.
        settings |= {} if self.device == "cpu" else {"device": self.device}
        name = self._trained(settings) or name
        out = self.out / "runs" / f"{name}-{digest(json.dumps(settings))[:8]}"
        command = ["train", "--cache", cache, "--images", images, "--device", self.device, *options, "--out", out, "--resume"]
        self.step(f"train-{name}", settings, lambda: self.lgd(*command))
        return out

    def _trained(self, settings: dict) -> str | None:
        """The name under which the same training was finished before."""
        for path in sorted((self.out / "steps").glob("train-*.json")):
            if json.loads(path.read_text())["settings"] == settings:
                return path.stem.removeprefix("train-")
        return None

    def _portable(self, option: str | Path) -> str:
        """A path with the content it stands for: a list, cache or bank made anew is another one."""
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
    """A command that must succeed."""
    result = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=subprocess.DEVNULL)
    if result.returncode != 0:
        raise SystemExit(f"evidence: {name} ended with exit code {result.returncode}")


def digest(text: str) -> str:
    """A name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def commit() -> str:
    """The checkout's, with a mark where it was changed."""
    result = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def hardware(device: str) -> str:
    """The processor, and the device where it is another."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
    return processor if device == "cpu" else f"{processor}, {device}"
