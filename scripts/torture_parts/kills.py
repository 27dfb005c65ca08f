"""Kills at random moments, resumes, and compares every byte."""

from __future__ import annotations

import random
import signal
import time

from .world import Job, Tally, World, difference, pick_signal, run, start, wait

#: Most kills of one artifact before it may be finished.
MOST = 4


def strike(world: World, job: Job, draw: random.Random, name: str) -> list[tuple[str | None, str]]:
    """Kills a job up to `MOST` times, finishes it, and says of every kill whether the artifact survived."""
    out = world.scratch(name) / job.name
    struck: list[str] = []
    problem: str | None = None
    for _ in range(draw.randint(1, MOST)):
        moment = draw.uniform(0.0, 1.1 * job.seconds)
        which = pick_signal(draw)
        struck.append(f"{which.name} at {moment:.3f} s")
        since = time.monotonic()
        process = start(job.command(out, *((job.resume or job.overwrite) if out.exists() else [])))
        time.sleep(moment)
        process.send_signal(which)
        ended = wait(process, since)
        if ended.code is None:
            problem = "hung after the signal"
        elif ended.code == 0:
            break
        elif ended.code not in ((-which,) if which == signal.SIGKILL else (75, -which)):
            problem = f"ended with {ended.code}: {ended.output[-400:]}"
        if problem is None and job.folder and out.exists():
            verified = run(["verify", out])
            if verified.code == 0 and (wrong := difference(out, job.reference)) and ".tmp" not in wrong:
                problem = f"an unfinished artifact is called intact: {wrong}"
        if problem:
            break
    if problem is None:
        again = (job.resume or job.overwrite) if out.exists() else []
        ended = run(job.command(out, *again))
        done = ended.code == 0 or "finished" in ended.output
        problem = difference(out, job.reference) if done else f"cannot go on: {ended.output[-400:]}"
    return [(problem, f"{job.name}, {', '.join(struck)}") for _ in struck]


def torture(world: World, draw: random.Random, until: float, name: str) -> Tally:
    """Kills jobs until the time is over."""
    tally = Tally()
    jobs = list(world.jobs.values())
    while time.monotonic() < until:
        for problem, recipe in strike(world, draw.choice(jobs), draw, name):
            tally.add(problem, recipe)
    return tally
