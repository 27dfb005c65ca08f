"""Two commands that write to one folder at the same time: one is refused, or they behave as if one had run after the other."""

from __future__ import annotations

import random
import time

from .world import Ended, Job, Tally, World, difference, run, start, wait


def clash(world: World, pair: list[Job], draw: random.Random, name: str) -> tuple[str | None, str]:
    """Runs both, and says what is wrong with the outcome."""
    folder = world.scratch(name) / "artifact"
    flags = [draw.choice([job.overwrite, job.overwrite, job.resume or job.overwrite, []]) for job in pair]
    if draw.random() < 0.5:
        # Something to overwrite.
        run(draw.choice(pair).command(folder))
    gap = draw.choice([0.0, draw.uniform(0.0, 0.04), draw.uniform(0.0, max(job.seconds for job in pair))])
    processes = []
    for job, more in zip(pair, flags):
        processes.append((start(job.command(folder, *more)), time.monotonic()))
        time.sleep(gap if len(processes) == 1 else 0.0)
    ended: list[Ended] = [wait(process, since) for process, since in processes]
    recipe = " and ".join(" ".join([job.name, *more]) for job, more in zip(pair, flags)) + f", {1000 * gap:.0f} ms apart"
    for end in ended:
        if problem := end.crash():
            return problem, recipe
    return outcome(world, pair, folder, ended), recipe


def outcome(world: World, pair: list[Job], folder, ended: list[Ended]) -> str | None:
    """What is wrong with the folder after both have ended."""
    verified = run(["verify", folder])
    done = [job for job, end in zip(pair, ended) if end.code == 0]
    equal = [job for job in world.jobs.values() if job.folder and difference(folder, job.reference) is None]
    if verified.code == 0 and not equal:
        return f"exit codes {[end.code for end in ended]}, intact, but mixed: {difference(folder, pair[0].reference)}"
    if done and verified.code != 0:
        return f"exit codes {[end.code for end in ended]}, but not intact: {verified.output[-300:]}"
    if done and not any(job in equal for job in done):
        return f"holds {equal[0].name}, which was not the last to succeed"
    return None


def torture(world: World, draw: random.Random, until: float, name: str) -> Tally:
    """Lets pairs clash until the time is over. Equal jobs are a pair too."""
    tally = Tally()
    jobs = [job for job in world.jobs.values() if job.folder]
    quick = [job for job in jobs if job.name != "train"]
    while time.monotonic() < until:
        pair = draw.choices(quick if draw.random() < 0.8 else jobs, k=2)
        tally.add(*clash(world, pair, draw, name))
    return tally
