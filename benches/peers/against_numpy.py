"""Compares a bench of `lgd-bank` with a numpy program: alternating runs, the same numbers and threads, medians as JSON lines."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "third_party/venv/bin/python"


def parser(name: str, description: str | None, sizes: dict[str, int]) -> argparse.ArgumentParser:
    """The command line: rows, `sizes` with their defaults, threads, runs."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for size, default in ({"rows": 50_000} | sizes | {"threads": 2, "runs": 5}).items():
        made.add_argument(f"--{size}", type=int, default=default)
    made.add_argument("--no-memory", action="store_true", help="omit the second line")
    made.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / f"lgd-{name}-bench")
    return made


def compare(
    name: str,
    args: argparse.Namespace,
    sizes: list[str],
    inputs: Callable[[dict], list[str]],
    check: Callable[[dict, dict], None] = lambda ours, theirs: None,
) -> None:
    """Prints one line for seconds, and one for our peak memory at `args.rows` and at ten times as many.

    `name` is the bench and, with `_numpy.py`, the peer; `sizes` are options of ours; `inputs` makes the peer's options out of our
    line, which names the data; `check` ends the program where the two found different things.
    """
    options = [text for size in sizes for text in (f"--{size}", str(getattr(args, size)))]
    common = ["--threads", str(args.threads)]

    def ours(rows: int) -> dict:
        bench = ["cargo", "bench", "-q", "-p", "lgd-bank", "--bench", name, "--", "--rows", str(rows)]
        return last_json([*bench, *options, *common, "--data", str(args.data)])

    made = ours(args.rows)  # makes the data, and warms the page cache

    def numpy() -> dict:
        peer = [str(PYTHON), f"benches/peers/{name}_numpy.py", *inputs(made)]
        return last_json([*peer, *common, "--out", str(args.data / "numpy")])

    pairs = [(ours(args.rows), numpy()) for _ in range(args.runs)]
    for pair in pairs:
        check(*pair)
    print(json.dumps(seconds(made["case"], pairs) | {"hardware": hardware(args.threads)}), flush=True)
    if not args.no_memory:
        ours(10 * args.rows)  # makes its data, which takes memory too
        small, large = ours(args.rows)["peak_bytes"], ours(10 * args.rows)["peak_bytes"]
        line = {
            "case": f"{name}, peak memory at {args.rows} and {10 * args.rows} rows", "ours": large, "peer": small,
            "ratio": round(small / large, 3), "unit": "bytes", "runs": 1, "hardware": hardware(args.threads),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


def seconds(case: str, pairs: list[tuple[dict, dict]]) -> dict:
    """Medians, all runs, and the stages of the last pair."""
    mine, theirs = ([pair[side]["seconds"] for pair in pairs] for side in (0, 1))
    ours, peer = statistics.median(mine), statistics.median(theirs)
    line = {
        "case": case, "ours": round(ours, 3), "peer": round(peer, 3), "ratio": round(peer / ours, 3), "unit": "s", "runs": len(pairs),
        "ours_all": [round(value, 3) for value in mine], "peer_all": [round(value, 3) for value in theirs],
    }  # fmt: skip
    return line | {f"{side}_stages": said["stages"] for side, said in zip(("ours", "peer"), pairs[-1], strict=True) if "stages" in said}


def hardware(threads: int) -> str:
    """The processor and the threads used."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{models[0] if models else platform.machine()}, {threads} threads"


def last_json(command: list[str]) -> dict:
    """The last line that a command prints."""
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])
