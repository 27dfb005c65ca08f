"""Choices and comparisons by short runs, measured on held-out training images."""

from __future__ import annotations

from dataclasses import replace

from .setup import QUEUE, Bench, Method, Student
from .steps import Workshop, say

RATES = ("0.03", "0.1", "0.3")
# Supervised training needs lower rates: of RATES the lowest is the best.
SUPERVISED_RATES = ("0.01", "0.03", "0.1")
STUDENT_TAUS = ("0.05", "0.1", "0.2")
# The published temperature of the teacher, and one at which more than the positive entry has weight.
TEACHER_TAUS = ("0.01", "0.05")


def short(workshop: Workshop) -> int:
    """Epochs of a short run."""
    return max(1, workshop.scale.epochs * 3 // 10)


def compare(bench: Bench, choice: str, protocol: str, candidates: dict[str, Method], epochs: int | None = None) -> Method:
    """Trains each candidate, records its accuracy on held-out images, and returns the best."""
    found = {}
    for label, method in candidates.items():
        step = f"choice-{choice}-{label}".replace(", ", "-")
        trained = bench.student(step, method, epochs or short(bench.workshop), 0)
        found[label] = held_out(bench, trained, choice, label, protocol)
    best = max(found, key=found.get)
    say(f"   {choice}: {found}; best: {best}")
    return candidates[best]


def held_out(bench: Bench, student: Student, choice: str, label: str, protocol: str, names: str = "ten") -> float:
    """Measures a student on held-out images and records the figure."""
    evaluated = bench.judge(student, bench.held_out, f"held-out-{protocol}-{names}", protocol, names)
    figures = evaluated["result"][protocol.replace("-", "_")]
    row = {"scale": bench.workshop.scale.name, "choice": f"{bench.prefix}{choice}", "candidate": label, "protocol": protocol, "judged_by": names, "epochs": student.epochs}
    row |= {"judged_images": evaluated["result"]["test"]["images"], "seed": student.seed} | student.method.settings()
    row |= {key: figures[key] for key in ("student", "teacher", "agreement") if figures.get(key) is not None}
    bench.workshop.choices.append(row | {"commit": evaluated["commit"], "date": evaluated["date"]})
    return figures["student"]


def over(method: Method, flag: str, values: tuple[str, ...]) -> dict[str, Method]:
    """The method with each value of a flag."""
    return {f"{flag.replace('_', '-')}-{value}": method.having(**{flag: value}) for value in values}


def lgd(bench: Bench, names: str) -> Method:
    """Chooses the learning rate, then the student's temperature, then the teacher's."""
    family = "lgd" if names == "ten" else f"lgd-{names}"
    method = compare(bench, family, "zero-shot", over(Method("lgd", names=names), "lr", RATES))
    method = compare(bench, f"{family}-tau-s", "zero-shot", over(method, "tau_s", STUDENT_TAUS))
    published, softer = TEACHER_TAUS
    taus = {f"tau-t-{published}": method, f"tau-t-{softer}": method.learning(names, softer)}
    return compare(bench, f"{family}-tau-t", "zero-shot", taus)


def seed(bench: Bench) -> Method:
    """The same choices as for LGD."""
    method = compare(bench, "seed", "zero-shot", over(Method("seed", {"--queue": str(QUEUE)}), "lr", RATES))
    method = compare(bench, "seed-tau-s", "zero-shot", over(method, "tau_s", STUDENT_TAUS))
    published, softer = TEACHER_TAUS
    taus = {f"tau-t-{published}": method, f"tau-t-{softer}": method.having(tau_t=softer)}
    return compare(bench, "seed-tau-t", "zero-shot", taus)


def kdep(bench: Bench) -> Method:
    """Chooses the learning rate."""
    return compare(bench, "kdep", "knn", over(Method("kdep", kdep=True), "lr", RATES))


def hgkd(bench: Bench) -> Method:
    """Chooses the learning rate."""
    return compare(bench, "hgkd", "knn", over(Method("hgkd", {"--queue": str(QUEUE)}), "lr", RATES))


def supervised(bench: Bench, epochs: int) -> Method:
    """Chooses the learning rate, with the labels of this bench."""
    return compare(bench, "supervised", "labels", over(Method("supervised"), "lr", SUPERVISED_RATES), epochs)


def names(bench: Bench, few: Method, many: Method) -> None:
    """Tests whether the number of names explains the gap to SEED: all at the settings of the ten, the thousand also at their own."""
    candidates = {names: few.learning(names, few.tau_t) for names in ("ten", "thirty", "ten-and-thousand")}
    compare(bench, "lgd-names", "zero-shot", candidates | {"ten-and-thousand, tuned": many})


def together(bench: Bench, lgd: Method, seed: Method) -> Method:
    """LGD + SEED: tries the settings of each."""
    both = {
        "as-lgd": replace(lgd, objective="lgd,seed", options=seed.options | lgd.options),
        "as-seed": replace(lgd, objective="lgd,seed", options=lgd.options | seed.options),
    }
    return compare(bench, "lgd+seed", "zero-shot", both)


def parts(bench: Bench, lgd: Method, many: Method) -> None:
    """Compares the terms of LGD with few and with many names, and the paper's moving visual bank."""
    for family, method in (("lgd-parts", lgd), (f"lgd-{many.names}-parts", many)):
        compare(bench, family, "zero-shot", over(method, "alpha", ("0", "0.5", "1")) | over(method, "vsb", ("ema",)))


def richness(bench: Bench, lgd: Method, seed: Method) -> None:
    """Tests whether the quality of the texts explains the gap: students of plain names, of names with synonyms that the teacher knows,
    and of no names, each measured with both lists and by kNN.
    """
    methods = {"lgd, ten": lgd, "lgd, rich": lgd.learning("rich", lgd.tau_t), "seed": seed}
    for label, method in methods.items():
        student = bench.student(f"choice-richness-{label}".replace(", ", "-"), method, short(bench.workshop), 0)
        for asked in ("ten", "rich"):
            held_out(bench, student, "richness", f"{label}, asked for {asked}", "zero-shot", asked)
        held_out(bench, student, "richness", label, "knn")


def slots(bench: Bench, many: Method, seed: Method) -> None:
    """Tests whether the number of comparison targets explains the gap: SEED with queues as short as LGD's banks, and LGD's visual
    term with a thousand prototypes at SEED's settings.
    """
    queues = {f"seed, {length}": seed.having(queue=length) for length in ("16", "128", "1024")} | {f"seed, {QUEUE}": seed}
    options = {flag: value for flag, value in seed.options.items() if flag != "--queue"}
    visual = {f"visual, {many.names}": replace(many, options=options).having(alpha="1")}
    compare(bench, "slots", "zero-shot", queues | visual)


def centering(around: Bench, lgd: Method, seed: Method) -> tuple[Method, Method]:
    """Tests whether the common direction of the teacher's embeddings explains the gap. Similarities of a centered teacher spread wider,
    so the temperature is chosen again.
    """
    both = (("lgd", lgd), ("seed", seed))
    lgd, seed = (compare(around, name, "zero-shot", over(method, "tau_s", STUDENT_TAUS)) for name, method in both)
    return lgd, seed
