"""The rows of the table, in order of dependency. Each is measured once on the test images."""

from __future__ import annotations

import re
from dataclasses import replace

from . import choices
from .setup import STUDENT_SIDE, Bench, Method, Student, all_images, centered, prepare, share_of_labels
from .steps import HELD_OUT_PER_CLASS, TRAIN_PER_CLASS, Scale, Workshop

SMALL = Scale("small", 2000, None, 10, (0, 1, 2), (0,), (10, 20, 40, 80), 4)
FULL = Scale("full", TRAIN_PER_CLASS - HELD_OUT_PER_CLASS, None, 100, (0, 1, 2), (0, 1, 2), (100, 200, 400), 8)
SMOKE = Scale("smoke", 40, 10, 1, (0,), (0,), (1,), 2)

SHARES = {"1": 0.01, "10": 0.1, "100": 1.0}
EMBEDDED, POOLED = "zero-shot,knn,linear", "knn,linear"


def everything(workshop: Workshop) -> None:
    """Prepares data, makes choices on held-out images, and trains and measures all rows."""
    scale, bench = workshop.scale, prepare(workshop)
    lgd, seed, many = choices.lgd(bench, "ten"), choices.seed(bench), choices.lgd(bench, "ten-and-thousand")
    choices.names(bench, lgd, many)
    choices.richness(bench, lgd, seed)
    for number in scale.seeds:
        row(bench, f"LGD, {lgd.names} names", lgd, number)
        row(bench, "SEED", seed, number)
    row(bench, "untrained", lgd, 0, epochs=0)
    kdep = choices.kdep(bench)
    for number in scale.other_seeds:
        row(bench, "KDEP", kdep, number, protocols=POOLED)
        row(bench, "LGD + KDEP", replace(lgd, objective="lgd,kdep", kdep=True), number)
    from_scratch = {label: supervised(bench, label) for label in SHARES}
    for number in scale.other_seeds:
        row(bench, "LGD, text only", lgd.having(alpha="0"), number)
        row(bench, "LGD, visual only", lgd.having(alpha="1"), number)
    row(bench, "LGD + SEED", choices.together(bench, lgd, seed), 0)
    retargeted(bench, lgd, many)
    choices.parts(bench, lgd, many)
    choices.slots(bench, many, seed)
    around_zero(bench, lgd, seed)
    hgkd = choices.hgkd(bench)
    for number in scale.other_seeds:
        encoder = row(bench, "H-GKD", hgkd, number)
        for label, method in from_scratch.items():
            labeled(bench, label, "H-GKD, fine-tuned", method.having(init=encoder.run / "student.safetensors"), number)
    long_run(bench, lgd, seed)


def row(bench: Bench, name: str, method: Method, seed: int, *, epochs: int | None = None, protocols: str = EMBEDDED) -> Student:
    """Trains a student, measures it on the test images, and records the row."""
    workshop = bench.workshop
    step = re.sub("[^a-z0-9]+", "-", f"{name}-{seed}".lower())
    student = bench.student(step, method, workshop.scale.epochs if epochs is None else epochs, seed)
    found = bench.judge(student, bench.test, "test", protocols)
    report = found["result"]
    line = {"scale": workshop.scale.name, "method": name, "seed": seed, "student": "resnet18", "size": STUDENT_SIDE, "epochs": student.epochs}
    line |= {"images": len(bench.train.images.read_text().splitlines()) - 1, "batch": bench.batch} | method.settings()
    line |= {"test_images": report["test"]["images"], "date": found["date"], "commit": found["commit"], "hardware": found["hardware"]}
    if report["zero_shot"]:
        shot = report["zero_shot"]
        line |= {"zero_shot": shot["student"], "teacher_zero_shot": shot["teacher"], "agreement": shot["agreement"]}
    if report["knn"]:
        line |= {"knn": report["knn"]["student"], "teacher_knn": report["knn"]["teacher"]}
    if report["labels"]:
        line["labels"] = report["labels"]["student"]
    labels = {share: f"probe_{label}" for label, share in SHARES.items()}
    line |= {labels[probe["fraction"]]: probe["student"] for probe in report["linear"]}
    if line not in workshop.rows:
        workshop.rows.append(line)
    return student


def supervised(bench: Bench, label: str) -> Method:
    """Trains from scratch with a share of the labels, at the learning rate chosen on held-out images."""
    epochs = epochs_for(bench, label, choices.short(bench.workshop))
    method = choices.supervised(share_of_labels(bench, label, SHARES[label]), epochs)
    for number in bench.workshop.scale.other_seeds:
        labeled(bench, label, "supervised", method, number)
    return method


def labeled(bench: Bench, label: str, name: str, method: Method, seed: int) -> None:
    """A row trained on a share of the labels and measured by its own classifier."""
    part = share_of_labels(bench, label, SHARES[label])
    epochs = epochs_for(bench, label, bench.workshop.scale.epochs)
    row(part, f"{name}, {label}% of labels", method, seed, epochs=epochs, protocols="labels")


def epochs_for(bench: Bench, label: str, epochs: int) -> int:
    """The number of epochs in which a share of the images gives the same number of samples."""
    per_class = bench.workshop.scale.per_class
    return round(epochs * per_class / max(2, round(SHARES[label] * per_class)))


def retargeted(bench: Bench, lgd: Method, many: Method) -> None:
    """The paper's exchange of texts: the same images, other names. Each student is measured on the ten names, whose labels are known,
    and compared with the teacher for each list of names, on held-out images.
    """
    methods = {"ten": lgd, "other": lgd.learning("other", lgd.tau_t), "thousand": many.learning("thousand", many.tau_t)}
    for names, method in methods.items():
        student = row(bench, f"LGD, {names} names", method, 0)
        for asked in methods:
            choices.held_out(bench, student, "agreement with the teacher", f"learnt {names}, asked for {asked}", "agreement", asked)


def around_zero(bench: Bench, lgd: Method, seed: Method) -> None:
    """LGD and SEED from a centered teacher, with the same seeds."""
    around = centered(bench)
    lgd, seed = choices.centering(around, lgd, seed)
    for number in bench.workshop.scale.seeds:
        row(around, f"LGD, {lgd.names} names, centred teacher", lgd, number)
        row(around, "SEED, centred teacher", seed, number)


def long_run(bench: Bench, lgd: Method, seed: Method) -> None:
    """LGD on all training images except those held out, with increasing epochs until held-out accuracy stops improving."""
    whole, tried = all_images(bench), bench.workshop.scale.long_epochs

    def judged(name: str, method: Method, epochs: int) -> float:
        student = whole.student(f"{name}-{epochs}", method, epochs, 0)
        return choices.held_out(whole, student, "epochs", f"{name}, {epochs}", "zero-shot")

    best, most = 0, float("-inf")
    for epochs in tried:
        found, before = judged("lgd", lgd, epochs), most
        if found > most:
            best, most = epochs, found
        # The standard error of a share of 5,000 images is about 0.7 points.
        if found < before + 0.5:
            break
    row(whole, "LGD, all images", lgd, 0, epochs=best)
    judged("seed", seed, tried[0])
