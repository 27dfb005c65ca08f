"""Writes the recorded rows to files, and prints them as the tables of docs/evidence.md."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from .steps import ROOT, Workshop

RESULTS = ROOT / "benches/results"
EVIDENCE = RESULTS / "evidence.json"
CHOICES = RESULTS / "evidence-choices.json"
FIGURES = {
    "zero_shot": "zero-shot", "knn": "kNN-20", "probe_1": "probe 1%", "probe_10": "probe 10%", "probe_100": "probe 100%",
    "labels": "own classifier", "agreement": "same choice as the teacher",
}  # fmt: skip


def record(workshop: Workshop, finished: bool) -> None:
    """Replaces the recorded rows and choices of this scale. A call that was stopped replaces only the rows that it reached."""
    for path, fresh in ((EVIDENCE, workshop.rows), (CHOICES, workshop.choices)):
        if not fresh:
            continue
        replaced = {identity(row) for row in fresh}
        kept = [
            row for row in recorded(path)
            if row["scale"] != workshop.scale.name or (not finished and identity(row) not in replaced)
        ]  # fmt: skip
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in fresh + kept) + "\n]\n")


def identity(row: dict) -> tuple:
    """The key of a row: everything except its figures."""
    return tuple(row.get(key) for key in ("scale", "method", "seed", "images", "epochs", "choice", "candidate", "protocol", "judged_by"))


def recorded(path: Path) -> list[dict]:
    """The rows in a file."""
    return json.loads(path.read_text()) if path.exists() else []


def markdown(rows: list[dict], choices: list[dict]) -> str:
    """Tables of the rows and of the choices."""
    return "\n\n".join(part for part in (methods(rows), comparisons(choices)) if part)


def methods(rows: list[dict]) -> str:
    """One line per method: the mean over its seeds, with the standard deviation if there are several."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["scale"], row["method"], row["images"], row["epochs"]), []).append(row)
    body, teachers = [], {"zero-shot": set(), "kNN-20": set()}
    for (_, method, images, epochs), group in groups.items():
        cells = [method, str(len(group)), f"{images:,} x {epochs:,}"]
        cells += [figure([row[key] for row in group if row.get(key) is not None]) for key in FIGURES]
        body.append(cells)
        for name, key in (("zero-shot", "teacher_zero_shot"), ("kNN-20", "teacher_knn")):
            teachers[name] |= {round(row[key], 1) for row in group if row.get(key) is not None}
    told = [f"{name} {', '.join(map(str, sorted(values)))}" for name, values in teachers.items() if values]
    after = f"\n\nThe teacher: {'; '.join(told)}." if told else ""
    return lines(["method", "seeds", "images x epochs", *FIGURES.values()], body) + after


def comparisons(choices: list[dict]) -> str:
    """One line per candidate of each choice."""
    seen: dict[tuple, list[str]] = {}
    for row in choices:
        options = [f"{flag.removeprefix('--')} {value}" for flag, value in row["options"].items()]
        options += [f"{key.replace('_', ' ')} {row[key]}" for key in ("names", "bank_tau_t") if key in row]
        figures = [figure([row[key]]) if key in row else "" for key in ("student", "teacher")]
        cells = [row["choice"], row["candidate"], row["objective"], ", ".join(options), f"{row['epochs']:,}", row["protocol"], *figures]
        seen[row["scale"], row["choice"], row["candidate"]] = cells
    return lines(["choice", "candidate", "objective", "options", "epochs", "judged by", "student", "teacher"], list(seen.values()))


def lines(head: list[str], body: list[list[str]]) -> str:
    """A table; empty without rows."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)) if body else ""


def figure(values: list[float]) -> str:
    """The mean, with the standard deviation of several values."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
