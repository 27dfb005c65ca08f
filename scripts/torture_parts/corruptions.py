"""Damages artifacts, exchanges their files and replaces files in use: `lgd verify` and the next command must notice."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

from .world import Job, Tally, World, content, difference, run, start, wait

#: An artifact, and the jobs that read it.
READERS = {
    "cache": ("bank", "bank-kdep", "train"),
    "cache-with-pixels": ("bank-of-pixels", "train-from-pixels"),
    "bank": ("train",),
    "train": ("export.onnx", "embed.npy"),
}
MANIFESTS = ("cache.json", "bank.json", "kdep.json", "run.json")


def files_of(folder: Path) -> list[Path]:
    """The files of an artifact that its manifest vouches for, and the manifest."""
    [manifest] = [folder / name for name in MANIFESTS if (folder / name).exists()]
    text = manifest.read_text()
    listed = [file for file in sorted(folder.rglob("*")) if file.is_file() and f'"{file.name}"' in text]
    return [*listed, manifest]


def flip(bytes_: bytearray, draw: random.Random) -> str:
    """Changes one bit."""
    at = draw.randrange(len(bytes_))
    bytes_[at] ^= 1 << draw.randrange(8)
    return f"flips a bit of byte {at}"


def blank(bytes_: bytearray, draw: random.Random) -> str:
    """Zeroes a region, as a sector that was never written."""
    at = draw.randrange(len(bytes_))
    end = min(len(bytes_), at + draw.choice([16, 512, 4096]))
    bytes_[at:end] = bytes(end - at)
    return f"zeroes bytes {at} to {end}"


def cut(bytes_: bytearray, draw: random.Random) -> str:
    """Cuts the file."""
    at = draw.randrange(len(bytes_))
    del bytes_[at:]
    return f"cuts at byte {at}"


def extend(bytes_: bytearray, draw: random.Random) -> str:
    """Appends bytes."""
    bytes_ += draw.randbytes(draw.choice([1, 8, 4096]))
    return "appends bytes"


def damage(world: World, folder: Path, draw: random.Random) -> str:
    """Changes one file of the artifact, or gives it another's content; says what was done."""
    file = draw.choice(files_of(folder))
    name = file.relative_to(folder)
    kind = draw.randrange(6)
    if kind == 4:
        file.unlink()
        return f"{name}: removes it"
    if kind == 5:
        donors = [*files_of(folder), *(path for job in world.jobs.values() if job.folder for path in files_of(job.reference))]
        others = [path for path in donors if path.suffix == file.suffix and path.read_bytes() != file.read_bytes()]
        if others:
            donor = draw.choice(others)
            shutil.copyfile(donor, file)
            return f"{name}: puts {donor.parent.name}/{donor.name} in its place"
    bytes_ = bytearray(file.read_bytes())
    if not bytes_:
        bytes_ += b"x"
        what = "appends a byte"
    else:
        what = draw.choice([flip, flip, blank, cut, extend])(bytes_, draw)
    file.write_bytes(bytes_)
    return f"{name}: {what}"


def same_words(folder: Path, reference: Path) -> bool:
    """Whether the artifacts say the same: a manifest may be spaced in another way."""
    for one in files_of(reference):
        other = folder / one.relative_to(reference)
        if not other.exists():
            return False
        if other.read_bytes() == one.read_bytes():
            continue
        if one.name not in MANIFESTS:
            return False
        try:
            if json.loads(other.read_bytes()) != json.loads(one.read_bytes()):
                return False
        except ValueError:
            return False
    return True


def at_rest(world: World, draw: random.Random, name: str) -> tuple[str | None, str] | None:
    """Damages a finished artifact; None if the damage says nothing else than before."""
    victim = draw.choice(list(READERS))
    folder = world.scratch(name) / victim
    reference = world.jobs[victim].reference
    shutil.copytree(reference, folder)
    recipe = f"{victim}/{damage(world, folder, draw)}"
    if same_words(folder, reference):
        return None
    verified = run(["verify", folder])
    if problem := verified.crash():
        return f"verify {problem}", recipe
    if verified.code == 0:
        # With another's manifest, the folder may hold all of that artifact: it is intact, and has that one's hash.
        whole = any(job.folder and same_words(folder, job.reference) for job in world.jobs.values())
        return None if whole else "verify calls it intact", recipe
    reader = draw.choice(READERS[victim])
    if reader.startswith("train") and draw.random() < 0.7:
        return None, recipe  # A training takes fifty times as long as the rest.
    return used(world, victim, folder, reader, name), recipe


def redirected(world: World, victim: str, folder: Path, reader: str) -> Job:
    """The job that reads the damaged artifact in place of the whole one."""
    job = world.jobs[reader]
    words = [folder if word == world.jobs[victim].reference else word for word in job.words]
    return Job(reader, words, [], [], folder=job.folder, reference=job.reference)


def used(world: World, victim: str, folder: Path, reader: str, name: str) -> str | None:
    """Runs a command on the damaged artifact: an error, or the same result as from the whole one."""
    job = redirected(world, victim, folder, reader)
    out = folder.parent / "out" / job.name
    out.parent.mkdir()
    ended = run(job.command(out))
    if problem := ended.crash():
        return f"{reader} {problem}"
    if ended.code == 0 and (wrong := unlike(out, job)):
        return f"{reader} succeeds and {wrong}"
    return None


def unlike(out: Path, job: Job) -> str | None:
    """What differs from the reference beside the folders that a manifest names."""
    if not job.folder:
        return difference(out, job.reference)
    got, expected = content(out), content(job.reference)
    for said in (got, expected):
        for manifest in ("run.json",):
            if manifest in said:
                said[manifest].pop("bank_dir", None)
        said.pop("config.toml", None)
    wrong = sorted(key for key in got.keys() | expected.keys() if got.get(key) != expected.get(key))
    return f"differs in {', '.join(wrong)}" if wrong else None


def in_use(world: World, draw: random.Random, name: str) -> tuple[str | None, str]:
    """Replaces or cuts files of a cache or bank while a training reads them."""
    scratch = world.scratch(name)
    victim = draw.choice(["bank", "cache"])
    folder = scratch / victim
    shutil.copytree(world.jobs[victim].reference, folder)
    job = redirected(world, victim, folder, "train")
    out = scratch / "run"
    since = time.monotonic()
    process = start(job.command(out))
    moment = draw.uniform(0.0, world.jobs["train"].seconds)
    time.sleep(moment)
    donor = world.jobs["bank-backwards" if victim == "bank" else "cache-of-others"].reference
    what = draw.choice(["copies another's files over them", "cuts them", "moves another's files into their place"])
    for file in sorted(folder.glob("*.parquet")):
        if what.startswith("cuts"):
            os.truncate(file, file.stat().st_size // 2)
        elif what.startswith("copies"):
            shutil.copyfile(donor / file.name, file)  # the same inode
        else:
            shutil.copyfile(donor / file.name, scratch / "new")
            (scratch / "new").rename(file)
    ended = wait(process, since)
    recipe = f"{victim} in use: {what} after {moment:.3f} s"
    if problem := ended.crash():
        return problem, recipe
    if ended.code == 0 and (wrong := unlike(out, job)):
        return f"train succeeds and {wrong}", recipe
    return None, recipe


def torture(world: World, draw: random.Random, until: float, name: str) -> Tally:
    """Damages artifacts until the time is over."""
    tally = Tally()
    while time.monotonic() < until:
        result = in_use(world, draw, name) if draw.random() < 0.05 else at_rest(world, draw, name)
        if result is not None:
            tally.add(*result)
    return tally
