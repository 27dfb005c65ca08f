"""What is trained, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .steps import (
    CLASSES, HELD_OUT_PER_CLASS, ROOT, TEMPLATE, TRAIN_PER_CLASS, Scale, Workshop, digest, image_list, run, say,
)  # fmt: skip

TEACHER = ROOT / "third_party/teacher"
# At 128 pixels the teacher has a grid of 4 x 4 tokens, which H-GKD's decoder reaches from the 2 x 2 cells of the student. On 2,000
# held-out training images its zero-shot is 60.4% there, 61.5% at 160, 60.9% at 192, 57.4% at 256.
TEACHER_SIDE = 128
STUDENT_SIDE = 64
STUDENT = ["--student", "resnet18", "--size", str(STUDENT_SIDE), "--batch", "128"]
STUDENT_DIM = 512
TOKEN_DIM = 128
QUEUE = 4096
SHARES = {"1": 0.01, "10": 0.1, "100": 1.0}

SMALL = Scale("small", 2000, None, 10, (0, 1, 2), (0,), (20, 40, 80), 4)
FULL = Scale("full", TRAIN_PER_CLASS - HELD_OUT_PER_CLASS, None, 100, (0, 1, 2), (0, 1, 2), (100, 200, 400), 8)
SMOKE = Scale("smoke", 40, 10, 1, (0,), (0,), (1,), 2)

# Other words for the same pictures: finer ones, and some that should find nothing.
OTHER_NAMES = [
    "airliner", "fighter jet", "propeller plane", "sports car", "sedan", "pickup truck", "fire engine", "songbird",
    "ostrich", "kitten", "tabby cat", "puppy", "hunting dog", "stag", "fawn", "tree frog", "toad", "pony", "sailing boat",
    "container ship",
]  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Images with their cache."""

    images: Path
    cache: Path


@dataclass(frozen=True)
class Bench:
    """Everything that rows are made from."""

    train: Data
    held_out: Data
    test: Data
    # Banks of names on the training cache, by what they name; and KDEP's targets.
    banks: dict[str, Path]
    kdep: Path


def everything(workshop: Workshop) -> None:
    """Every step in turn: data, choices on held-out images, then the rows on the test images."""
    bench = prepare(workshop)
    chosen = choose(workshop, bench)
    centring(workshop, bench, chosen)
    distilled(workshop, bench, chosen)
    supervised(workshop, bench, chosen)
    retargeted(workshop, bench, chosen)
    long_run(workshop, chosen)


def teacher_at(workshop: Workshop, side: int) -> Path:
    """The demo's teacher with another input side."""
    folder = workshop.out / f"teacher-{side}"
    folder.mkdir(exist_ok=True)
    for path in TEACHER.iterdir():
        if path.is_file() and path.name != "teacher.toml":
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path)
    text = (TEACHER / "teacher.toml").read_text()
    sized = "\n".join(f"size = {side}" if line.startswith("size = ") else line for line in text.splitlines()) + "\n"
    (folder / "teacher.toml").write_text(sized)
    return folder


def data(workshop: Workshop, teacher: Path, name: str, rows: list[str], *options: str) -> Data:
    """A list of images and its cache."""
    images = workshop.list_of(name, rows)
    return Data(images, workshop.extract(name, images, teacher, *options))


def training_options(views: int) -> list[str]:
    """How a cache for training is extracted."""
    return ["--views", str(views), "--policy", "crop-flip", "--store-views", "raw", "--store-size", str(STUDENT_SIDE)]


def prepare(workshop: Workshop) -> Bench:
    """Caches and banks."""
    scale, teacher = workshop.scale, teacher_at(workshop, TEACHER_SIDE)
    columns = ["--features", "--tokens", f"svd:{TOKEN_DIM}"]
    train = data(workshop, teacher, "train", image_list("train", 0, -HELD_OUT_PER_CLASS, scale.per_class), *training_options(scale.views), *columns)
    held_out = data(workshop, teacher, "held-out", image_list("train", -HELD_OUT_PER_CLASS, None, scale.test_per_class))
    test = data(workshop, teacher, "test", image_list("test", 0, None, scale.test_per_class))
    imagenet = (ROOT / "third_party/clip/imagenet_names.txt").read_text().splitlines()
    names = {"ten": CLASSES, "thirty": CLASSES + OTHER_NAMES, "other": OTHER_NAMES, "thousand": imagenet}
    names["ten-and-thousand"] = CLASSES + [name for name in imagenet if name not in CLASSES]
    banks = {name: bank_of_names(workshop, name, train.cache, teacher, words) for name, words in names.items()}
    kdep = workshop.bank("kdep", train.cache, "--target", "kdep", "--dim", str(STUDENT_DIM))
    return Bench(train, held_out, test, banks, kdep)


def bank_of_names(workshop: Workshop, name: str, cache: Path, teacher: Path, words: list[str]) -> Path:
    """A bank of `words`, each once."""
    path = workshop.out / "lists" / f"{name}.txt"
    path.write_text("\n".join(dict.fromkeys(words)) + "\n")
    prompts = workshop.out / "prompts"
    return workshop.bank(name, cache, "--categories", path, "--teacher", teacher, "--template", TEMPLATE, "--prompts", prompts)


@dataclass(frozen=True)
class Method:
    """How a method's students are trained."""

    objective: str
    options: tuple[str, ...] = ()
    # Names of the banks of names it learns from, and whether it needs KDEP's.
    bank: str | None = None
    kdep: bool = False

    def arguments(self, bench: Bench) -> list[str | Path]:
        """For `lgd train`, epochs and seed aside."""
        banks = [bench.banks[self.bank]] if self.bank else []
        banks += [bench.kdep] if self.kdep else []
        return ["--objective", self.objective, *self.options, *(part for bank in banks for part in ("--bank", bank))]

    def having(self, *options: str, bank: str | None = None) -> Method:
        """The same with more options, or another bank."""
        return Method(self.objective, (*self.options, *options), bank or self.bank, self.kdep)


def train(workshop: Workshop, bench: Bench, name: str, method: Method, epochs: int, seed: int) -> tuple[Path, dict]:
    """One student on the training cache."""
    options = [*STUDENT, *method.arguments(bench), "--epochs", str(epochs), "--seed", str(seed)]
    return workshop.train(name, bench.train.cache, bench.train.images, *options)


def judge_held_out(workshop: Workshop, bench: Bench, name: str, run: Path, protocol: str) -> float:
    """One figure on held-out training images."""
    options = ["--images", bench.held_out.images, "--cache", bench.held_out.cache, "--protocol", protocol]
    options += ["--bank", bench.banks["ten"]] if protocol == "zero-shot" else []
    options += ["--train-images", bench.train.images] if protocol == "knn" else []
    report = workshop.evaluate(f"held-out-{name}", run, *options)["result"]
    return report["labels"]["student"] if protocol == "labels" else report[protocol.replace("-", "_")]["student"]


def choose(workshop: Workshop, bench: Bench) -> dict[str, Method]:
    """Settings of each method by short runs, judged on held-out training images, one setting after the other."""
    short = max(1, workshop.scale.epochs * 3 // 10)

    def best(family: str, protocol: str, candidates: dict[str, Method]) -> Method:
        found = {}
        for label, method in candidates.items():
            name = f"choice-{family}-{label}"
            run, report = train(workshop, bench, name, method, short, 0)
            found[label] = judge_held_out(workshop, bench, name, run, protocol)
            workshop.choices.append(
                {"choice": family, "candidate": label, "epochs": short, protocol: found[label], "commit": report["commit"], "date": report["date"]}
            )
        winner = max(found, key=found.get)
        say(f"   {family}: {found}; taken: {winner}")
        return candidates[winner]

    def rates(method: Method, *values: str) -> dict[str, Method]:
        return {f"lr-{value}": method.having("--lr", value) for value in values}

    lgd = best("lgd", "zero-shot", rates(Method("lgd", bank="ten"), "0.03", "0.1", "0.3"))
    lgd = best("lgd-tau", "zero-shot", {f"tau-{tau}": lgd.having("--tau-s", tau) for tau in ("0.1", "0.2")})
    lgd = best("lgd-names", "zero-shot", {name: lgd.having(bank=name) for name in ("ten", "thirty", "ten-and-thousand")})
    seed = best("seed", "zero-shot", rates(Method("seed", ("--queue", str(QUEUE))), "0.03", "0.1", "0.3"))
    seed = best("seed-tau", "zero-shot", {f"tau-{tau}": seed.having("--tau-s", tau) for tau in ("0.1", "0.2")})
    kdep = best("kdep", "knn", rates(Method("kdep", kdep=True), "0.03", "0.1", "0.3"))
    labels = best("supervised", "labels", rates(Method("supervised"), "0.03", "0.1"))
    hgkd = best("hgkd", "knn", rates(Method("hgkd", ("--queue", str(QUEUE))), "0.03", "0.1"))
    both = Method("lgd,kdep", lgd.options, lgd.bank, kdep=True)
    return {"lgd": lgd, "seed": seed, "kdep": kdep, "supervised": labels, "hgkd": hgkd, "lgd+kdep": both}


def centring(workshop: Workshop, bench: Bench, chosen: dict[str, Method]) -> None:
    """LGD and SEED with a teacher whose embeddings are centred, beside the same short runs without, on held-out images."""
    short = max(1, workshop.scale.epochs * 3 // 10)
    plain, teacher = teacher_at(workshop, TEACHER_SIDE), workshop.out / "teacher-centred"
    script = ["-B", ROOT / "scripts/teacher/center.py", "--teacher", plain, "--cache", bench.train.cache, "--out", teacher]
    settings = {"cache": digest((bench.train.cache / "cache.json").read_text())}
    workshop.step("teacher-centred", settings, lambda: run("centring", ROOT / "third_party/venv/bin/python", *script) or {})
    cache = workshop.extract("centred", bench.train.images, teacher, *training_options(workshop.scale.views))
    banks = {name: bank_of_names(workshop, f"centred-{name}", cache, teacher, names_of(workshop, name)) for name in {"ten", chosen["lgd"].bank}}
    centred = Bench(Data(bench.train.images, cache), Data(bench.held_out.images, Path()), bench.test, banks, Path())
    for name in ("lgd", "seed"):
        for label, where in (("plain", bench), ("centred", centred)):
            step = f"centring-{name}-{label}"
            trained, report = train(workshop, where, step, chosen[name], short, 0)
            options = ["--images", bench.held_out.images, "--center-fraction", "1", "--protocol", "zero-shot", "--bank", where.banks["ten"]]
            found = workshop.evaluate(f"held-out-{step}", trained, *options)["result"]["zero_shot"]["student"]
            workshop.choices.append(
                {"choice": f"centring, {name}", "candidate": label, "epochs": short, "zero-shot": found, "date": report["date"]}
            )


def names_of(workshop: Workshop, name: str) -> list[str]:
    """The names of a bank that was made before."""
    return (workshop.out / "lists" / f"{name}.txt").read_text().splitlines()


def judge(workshop: Workshop, bench: Bench, run: Path, row: dict, protocols: str) -> None:
    """Measures a finished student on the test images, once, and keeps the row."""
    name = f"{row['method']}-{row['seed']}"
    options = ["--images", bench.test.images, "--cache", bench.test.cache, "--protocol", protocols]
    options += ["--bank", bench.banks["ten"]] if "zero-shot" in protocols else []
    options += ["--train-images", bench.train.images, "--train-cache", bench.train.cache] if "knn" in protocols else []
    found = workshop.evaluate(name, run, *options)
    report = found["result"]
    row |= {"test_images": report["test"]["images"], "date": found["date"], "commit": found["commit"], "hardware": found["hardware"]}
    if report.get("zero_shot"):
        shot = report["zero_shot"]
        row |= {"zero_shot": shot["student"], "teacher_zero_shot": shot["teacher"], "agreement": shot["agreement"]}
    if report.get("knn"):
        row |= {"knn": report["knn"]["student"], "teacher_knn": report["knn"]["teacher"]}
    if report.get("labels"):
        row["top1"] = report["labels"]["student"]
    names = {share: f"probe_{name}" for name, share in SHARES.items()}
    row |= {names[probe["fraction"]]: probe["student"] for probe in report.get("linear") or []}
    workshop.rows.append(row)


def new_row(workshop: Workshop, method: str, seed: int, epochs: int, images: int, report: dict, settings: Method) -> dict:
    """What a row says of its training."""
    return {
        "method": method, "seed": seed, "scale": workshop.scale.name, "student": "resnet18", "size": STUDENT_SIDE, "epochs": epochs,
        "images": images, "seconds": report["seconds"], "images_per_second": round(report["result"]["images_per_second"], 1),
        "objective": settings.objective, "options": list(settings.options), "bank": settings.bank,
    }  # fmt: skip


def distilled(workshop: Workshop, bench: Bench, chosen: dict[str, Method]) -> None:
    """The rows that learn from the teacher alone."""
    scale, lgd = workshop.scale, chosen["lgd"]
    zero_shot, features = "zero-shot,knn,linear", "knn,linear"
    plan: list[tuple[str, Method, int, tuple[int, ...], str]] = [
        ("untrained", lgd, 0, scale.other_seeds, zero_shot),
        ("lgd", lgd, scale.epochs, scale.seeds, zero_shot),
        ("seed", chosen["seed"], scale.epochs, scale.seeds, zero_shot),
        ("lgd-text", lgd.having("--alpha", "0"), scale.epochs, scale.other_seeds, zero_shot),
        ("lgd-visual", lgd.having("--alpha", "1"), scale.epochs, scale.other_seeds, zero_shot),
        ("kdep", chosen["kdep"], scale.epochs, scale.other_seeds, features),
        ("lgd+kdep", chosen["lgd+kdep"], scale.epochs, scale.other_seeds, zero_shot),
        ("hgkd", chosen["hgkd"], scale.epochs, scale.other_seeds, zero_shot),
    ]
    for method, settings, epochs, seeds, protocols in plan:
        for seed in seeds:
            run, report = train(workshop, bench, f"{method}-{seed}", settings, epochs, seed)
            row = new_row(workshop, method, seed, epochs, 10 * scale.per_class, report, settings)
            judge(workshop, bench, run, row, protocols)


def supervised(workshop: Workshop, bench: Bench, chosen: dict[str, Method]) -> None:
    """From scratch with 1%, 10% and 100% of the labels, and H-GKD's encoder fine-tuned with them."""
    scale, teacher = workshop.scale, teacher_at(workshop, TEACHER_SIDE)
    settings = chosen["supervised"]
    for label, share in SHARES.items():
        per_class = max(2, round(share * scale.per_class))
        # The same number of steps whatever the number of images; fewer images are seen in more views.
        epochs = round(scale.epochs * scale.per_class / per_class)
        part = bench.train
        if per_class < scale.per_class:
            views = min(64, scale.views * scale.per_class // per_class)
            part = data(workshop, teacher, f"train-{label}", image_list("train", 0, None, per_class), *training_options(views))
        for seed in scale.other_seeds:
            source = workshop.scale.seeds[0] if seed not in scale.seeds else seed
            encoder, _ = train(workshop, bench, f"hgkd-{source}", chosen["hgkd"], scale.epochs, source)
            starts = {"supervised": [], "hgkd-tuned": ["--init", encoder / "student.safetensors"]}
            for start, init in starts.items():
                method = f"{start}-{label}"
                batch = ["--batch", str(min(128, 10 * per_class // 2 * 2))]
                options = [*STUDENT[:-2], *batch, "--objective", settings.objective, *settings.options, *init]
                options += ["--epochs", str(epochs), "--seed", str(seed)]
                run, report = workshop.train(f"{method}-{seed}", part.cache, part.images, *options)
                row = new_row(workshop, method, seed, epochs, 10 * per_class, report, settings)
                judge(workshop, bench, run, row, "labels,knn,linear")


def retargeted(workshop: Workshop, bench: Bench, chosen: dict[str, Method]) -> None:
    """The paper's exchange of texts: the same images, banks of other names, zero-shot on the ten names."""
    for bank in ("ten", "other", "thousand"):
        settings = chosen["lgd"].having(bank=bank)
        method = f"lgd-names-{bank}"
        run, report = train(workshop, bench, f"{method}-0", settings, workshop.scale.epochs, 0)
        row = new_row(workshop, method, 0, workshop.scale.epochs, 10 * workshop.scale.per_class, report, settings)
        judge(workshop, bench, run, row, "zero-shot,knn,linear")


def long_run(workshop: Workshop, chosen: dict[str, Method]) -> None:
    """LGD on all training images but those held out, longer and longer, until held-out images say that it no longer helps."""
    scale, teacher = workshop.scale, teacher_at(workshop, TEACHER_SIDE)
    per_class = scale.per_class if scale.name == "smoke" else TRAIN_PER_CLASS - HELD_OUT_PER_CLASS
    all_images = data(workshop, teacher, "all", image_list("train", 0, -HELD_OUT_PER_CLASS, per_class), *training_options(scale.views))
    settings = chosen["lgd"]
    bank = bank_of_names(workshop, f"all-{settings.bank}", all_images.cache, teacher, names_of(workshop, settings.bank))
    ten = bank_of_names(workshop, "all-ten", all_images.cache, teacher, CLASSES)
    held_out = Data(workshop.out / "lists/held-out.csv", workshop.out / "cache-held-out")
    test = Data(workshop.out / "lists/test.csv", workshop.out / "cache-test")
    bench = Bench(all_images, held_out, test, {settings.bank or "ten": bank, "ten": ten}, Path())
    last, finished = float("-inf"), None
    for epochs in scale.long_epochs:
        name = f"lgd-all-{epochs}"
        run, report = train(workshop, bench, name, settings, epochs, 0)
        found = judge_held_out(workshop, bench, name, run, "zero-shot")
        workshop.choices.append({"choice": "epochs on all images", "candidate": epochs, "zero-shot": found, "date": report["date"]})
        finished = (run, report, epochs)
        # The standard error of a share of 5,000 images is about 0.7 points.
        if found < last + 0.5:
            break
        last = found
    run, report, epochs = finished
    judge(workshop, bench, run, new_row(workshop, "lgd-all", 0, epochs, 10 * per_class, report, settings), "zero-shot,knn,linear")
