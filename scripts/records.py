"""Appends measured figures to benches/results, one JSON line each."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

from evidence_parts.steps import hardware

RESULTS = Path(__file__).resolve().parent.parent / "benches/results"


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the flag `--out`."""
    parser.add_argument("--out", type=Path, help='file to append to, "-" for none (default: benches/results/NAME-DATE.jsonl)')


def record(name: str, lines: list[dict], out: Path | None) -> None:
    """Appends lines, with date and hardware, to `out` or to benches/results/NAME-DATE.jsonl."""
    if str(out) == "-":
        return
    today = datetime.date.today().isoformat()
    with (out or RESULTS / f"{name}-{today}.jsonl").open("a") as file:
        for line in lines:
            file.write(json.dumps(line | {"date": today, "hardware": hardware("cpu")}) + "\n")
