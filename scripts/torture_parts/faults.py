"""A disk that fails, is full, or loses its power: faults.c, preloaded into `lgd`."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from .world import Job, Tally, World, difference, run

KINDS = ("enospc", "eio", "short", "read-eio", "read-short", "power")
SOURCE = Path(__file__).with_name("faults.c")


def build(world: World) -> Path:
    """The library to preload."""
    library = world.folder / "faults.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}")
        command = ["cc", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o", partial, SOURCE, "-ldl", "-lpthread"]
        subprocess.run([str(word) for word in command], check=True)
        partial.rename(library)
    return library


def variables(world: World, kind: str, at: int | None, log: Path, job: Job, out: Path) -> dict[str, str]:
    """The settings of the library: writes below the output fail, or reads of all artifacts."""
    root = world.folder / "made" if kind.startswith("read") else out.parent
    told = {"LD_PRELOAD": str(build(world)), "TORTURE_ROOT": str(root), "TORTURE_KIND": kind, "TORTURE_LOG": str(log)}
    return told if at is None else {**told, "TORTURE_AT": str(at)}


def after_power_loss(log: Path, draw: random.Random) -> str:
    """Changes the files as a disk may have them: data not flushed is lost or zero, the last renames did not happen."""
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    renames = [line[1:] for line in lines if line[0] == "renamed"]
    undone = draw.randint(0, len(renames))
    told = [f"{undone} of {len(renames)} renames lost"]
    for kind, *rest in lines:
        if kind != "dirty" or not (file := Path(rest[0])).is_file():
            continue
        size, synced = file.stat().st_size, int(rest[1])
        fate = draw.choice(["kept", "cut", "zero"])
        told.append(f"{file.name} {fate}")
        if fate != "kept" and size > synced:
            with file.open("r+b") as handle:
                handle.truncate(synced)
                handle.truncate(synced if fate == "cut" else size)
    for source, target, *backup in reversed(renames[len(renames) - undone :]):
        if Path(target).exists():
            os.rename(target, source)
        if backup and backup[0]:
            os.rename(backup[0], target)
    return ", ".join(told)


class Faults:
    """How many calls of each kind a job makes, measured once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: dict[tuple[str, bool], int] = {}

    def count(self, job: Job, kind: str, scratch: Path) -> int:
        """Calls of an undisturbed job that could fail."""
        key = (job.name, kind.startswith("read"))
        if key not in self.calls:
            log, out = scratch / "count.log", scratch / "count" / job.name
            out.parent.mkdir()
            ended = run(job.command(out), **variables(self.world, "read" if key[1] else "enospc", None, log, job, out))
            if ended.code != 0:
                raise SystemExit(f"{job.name} fails under the library: {ended.output}")
            self.calls[key] = int(log.read_text())
        return self.calls[key]

    def strike(self, draw: random.Random, name: str) -> tuple[str | None, str] | None:
        """Lets one call of one job fail; then the job must end with an error and be able to go on."""
        scratch = self.world.scratch(name)
        job, kind = draw.choice(list(self.world.jobs.values())), draw.choice(KINDS)
        calls = self.count(job, kind, scratch)
        if calls == 0:
            return None
        at, log = draw.randrange(calls), scratch / "fault.log"
        out = scratch / "out" / job.name
        out.parent.mkdir()
        recipe = f"{job.name}: {kind} at call {at} of {calls}"
        ended = run(job.command(out), **variables(self.world, kind, at, log, job, out))
        if kind == "power":
            if ended.code == 137:
                recipe += f" ({after_power_loss(log, draw)})"
        elif problem := ended.crash():
            return problem, recipe
        if ended.code == 0:
            return difference(out, job.reference), recipe
        if job.folder and out.exists() and run(["verify", out]).code == 0 and difference(out, job.reference):
            return "an unfinished artifact is called intact", recipe
        if not job.folder and out.exists() and difference(out, job.reference):
            return "an unfinished file has its final name", recipe
        again = (job.resume or job.overwrite) if out.exists() else []
        ended = run(job.command(out, *again))
        if ended.code != 0 and "finished" not in ended.output:
            return f"cannot go on: {ended.output[-400:]}", recipe
        return difference(out, job.reference), recipe


def torture(world: World, draw: random.Random, until: float, name: str) -> Tally:
    """Lets calls fail until the time is over."""
    tally, faults = Tally(), Faults(world)
    while time.monotonic() < until:
        if (result := faults.strike(draw, name)) is not None:
            tally.add(*result)
    shutil.rmtree(world.folder / "scratch" / name, ignore_errors=True)
    return tally
