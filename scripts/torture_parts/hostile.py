"""Hostile bytes for every parser: each must end in a result or an error, without a crash, a hang or a bomb.

ONNX graphs are not among them: ONNX Runtime runs them as programs (SECURITY.md).
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from .seeds import NAMES, TEMPLATES, archive, listing, pictures, table
from .world import Tally, World, run

#: Files per command where a command takes many.
MANY = 250
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mutate(good: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Changes bytes in one to four places, as fuzzers do."""
    bytes_ = bytearray(good)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(bytes_) + 1)
        kind = draw.randrange(8)
        if kind == 0 and at < len(bytes_):
            bytes_[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            width = draw.choice([1, 2, 4, 8])
            value = draw.choice(INTERESTING) & ((1 << 8 * width) - 1)
            bytes_[at : at + width] = value.to_bytes(width, draw.choice(["little", "big"]))
        elif kind == 2:
            del bytes_[at : at + draw.choice([1, 4, 64, 1024])]
        elif kind == 3:
            bytes_[at:at] = bytes_[at : at + draw.choice([1, 4, 64, 1024])] * draw.choice([1, 2, 16])
        elif kind == 4:
            bytes_ = bytes_[:at]
        elif kind == 5:
            bytes_[at : at + 64] = draw.randbytes(draw.choice([1, 8, 64]))
        elif kind == 6:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            bytes_[at : at + 256] = other[start : start + 256]
        else:
            digits = [place for place, byte in enumerate(bytes_) if 48 <= byte <= 57]
            if digits:
                place = draw.choice(digits)
                bytes_[place : place + 1] = draw.choice([b"-1", b"1e400", b"99999999999999999999", b"NaN", b"0.5", b"null"])
    return bytes(bytes_)


class Corpus:
    """Valid files, and for every kind of file the command that reads it."""

    def __init__(self, world: World) -> None:
        self.world = world
        folder = world.folder / "pictures"
        folder.mkdir(exist_ok=True)
        self.pictures = pictures()
        for name, bytes_ in self.pictures.items():
            (folder / name).write_bytes(bytes_)
        made = world.folder / "made"
        files: list[tuple[str, bytes, Callable[[Path, Path], list[str | Path]]]] = [
            ("images.tar", archive(), self._images),
            ("snappy.parquet", table("snappy"), self._images),
            ("zstd.parquet", table("zstd"), self._images),
            ("list.csv", listing(folder, ","), self._images),
            ("list.tsv", listing(folder, "\t"), self._images),
            ("list.jsonl", "".join(json.dumps({"path": str(folder / n), "label": 1}) + "\n" for n in self.pictures).encode(), self._images),
            *((name, text.encode(), self._names) for name, text in NAMES.items()),
            ("templates.txt", TEMPLATES.encode(), self._templates),
            ("tokenizer.json", (world.teacher / "tokenizer.json").read_bytes(), self._teacher),
            ("teacher.toml", (world.teacher / "teacher.toml").read_bytes(), self._teacher),
            ("cache.json", (made / "cache/cache.json").read_bytes(), self._artifact(made / "cache")),
            ("bank.json", (made / "bank/bank.json").read_bytes(), self._artifact(made / "bank")),
            ("bank.safetensors", (made / "bank/bank.safetensors").read_bytes(), self._artifact(made / "bank")),
            ("views-00000.parquet", (made / "cache/views-00000.parquet").read_bytes(), self._artifact(made / "cache")),
            ("run.json", (made / "train/run.json").read_bytes(), self._artifact(made / "train")),
            ("init.safetensors", (made / "train/student.safetensors").read_bytes()[:60000], self._init),
            ("config.toml", (made / "train/config.toml").read_bytes(), self._config),
        ]
        self.files = files
        self.goods = [bytes_ for _, bytes_, _ in files]

    def _images(self, file: Path, scratch: Path) -> list[str | Path]:
        options = ["--views", "1", "--threads", "1", "--image-field", "image"] if file.suffix == ".parquet" else ["--views", "1"]
        return ["extract", "--images", file, "--teacher", self.world.teacher, *options, "--out", scratch / "out"]

    def _names(self, file: Path, scratch: Path) -> list[str | Path]:
        cache = self.world.jobs["cache"].reference
        return ["bank", "--cache", cache, "--teacher", self.world.teacher, "--categories", file, "--out", scratch / "out"]

    def _templates(self, file: Path, scratch: Path) -> list[str | Path]:
        return [*self._names(self.world.names, scratch), "--templates", file]

    def _teacher(self, file: Path, scratch: Path) -> list[str | Path]:
        folder = scratch / "teacher"
        shutil.copytree(self.world.teacher, folder)
        shutil.copyfile(file, folder / file.name)
        return ["teacher", folder]

    def _artifact(self, whole: Path) -> Callable[[Path, Path], list[str | Path]]:
        def command(file: Path, scratch: Path) -> list[str | Path]:
            folder = scratch / "artifact"
            shutil.copytree(whole, folder)
            shutil.copyfile(file, folder / file.name)
            return ["inspect", folder]

        return command

    def _init(self, file: Path, scratch: Path) -> list[str | Path]:
        return [*self.world.jobs["train"].words, "--init", file, "--out", scratch / "out"]

    def _config(self, file: Path, scratch: Path) -> list[str | Path]:
        return ["train", "--config", file, "--epochs", "0", "--out", scratch / "out"]

    def one(self, draw: random.Random, scratch: Path) -> tuple[str | None, str]:
        """One hostile file, and one command that reads it."""
        name, good, command = draw.choice(self.files)
        file = scratch / name
        file.write_bytes(mutate(good, self.goods, draw))
        ended = run(command(file, scratch))
        return self._kept(file, ended.crash())

    def many(self, draw: random.Random, scratch: Path) -> list[tuple[str | None, str]]:
        """Hostile pictures in one folder, and one command that reads them all."""
        folder = scratch / "pictures"
        folder.mkdir()
        goods = list(self.pictures.values())
        for number in range(MANY):
            name, good = draw.choice(list(self.pictures.items()))
            (folder / f"{number:04}-{name}").write_bytes(mutate(good, goods, draw))
        ended = run([*self._images(folder, scratch), "--max-rejects", "1"])
        problem, recipe = self._kept(folder, ended.crash())
        # One crash hides the rest: only the first picture of the folder counts as tried.
        return [(None, recipe)] * MANY if problem is None else [(problem, recipe)]

    def _kept(self, file: Path, problem: str | None) -> tuple[str | None, str]:
        """Keeps the file that did harm, and names it in the recipe."""
        if problem is None:
            return None, file.name
        kept = self.world.folder / "found"
        kept.mkdir(exist_ok=True)
        target = kept / f"{time.monotonic_ns()}-{file.name}"
        (shutil.copytree if file.is_dir() else shutil.copyfile)(file, target)
        return problem, str(target)


def torture(world: World, draw: random.Random, until: float, name: str) -> Tally:
    """Feeds hostile files until the time is over."""
    tally, corpus = Tally(), Corpus(world)
    while time.monotonic() < until:
        scratch = world.scratch(name)
        results = corpus.many(draw, scratch) if draw.random() < 0.1 else [corpus.one(draw, scratch)]
        for problem, recipe in results:
            tally.add(problem, recipe)
    return tally
