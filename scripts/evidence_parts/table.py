"""Rows to files and to the table of README.md."""

from __future__ import annotations

import json
import statistics

from .steps import ROOT, Workshop

RESULTS = ROOT / "benches/results"
EVIDENCE = RESULTS / "evidence.json"
CHOICES = RESULTS / "evidence-choices.json"
FIGURES = {
    "zero_shot": "zero-shot", "agreement": "agrees with the teacher", "knn": "kNN-20", "probe_1": "probe 1%", "probe_10": "probe 10%",
    "probe_100": "probe 100%", "top1": "own classes",
}  # fmt: skip


def record(workshop: Workshop) -> None:
    """Puts the rows and choices of this scale in the place of those that the files hold of it."""
    for path, fresh in ((EVIDENCE, workshop.rows), (CHOICES, workshop.choices)):
        if not fresh:
            continue
        name = workshop.scale.name
        kept = [row for row in (json.loads(path.read_text()) if path.exists() else []) if row.get("scale") != name]
        rows = kept + [row | {"scale": name} for row in fresh]
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def recorded() -> list[dict]:
    """The rows on file."""
    return json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else []


def markdown(rows: list[dict]) -> str:
    """One line for each method, the mean over its seeds, with the deviation where there are several."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["scale"], row["method"], row["images"], row["epochs"]), []).append(row)
    head = ["method", "seeds", "images x epochs", *FIGURES.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    teachers: dict[str, set] = {"zero-shot": set(), "kNN-20": set()}
    for (_, method, images, epochs), group in groups.items():
        cells = [method, str(len(group)), f"{images} x {epochs}"]
        cells += [figure([row[key] for row in group if row.get(key) is not None]) for key in FIGURES]
        lines.append("| " + " | ".join(cells) + " |")
        for name, key in (("zero-shot", "teacher_zero_shot"), ("kNN-20", "teacher_knn")):
            teachers[name] |= {round(row[key], 1) for row in group if row.get(key) is not None}
    told = [f"{name} {', '.join(map(str, sorted(values)))}" for name, values in teachers.items() if values]
    return "\n".join([*lines, "", f"The teacher: {'; '.join(told)}." if told else ""])


def figure(values: list[float]) -> str:
    """Mean, and deviation of several."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"
