"""Data, caches, banks, and the training of a method."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from cifar10 import CLASSES, OTHER_NAMES, TEMPLATE

from .steps import HELD_OUT_PER_CLASS, ROOT, TRAIN_PER_CLASS, Workshop, digest, image_list, run

TEACHER = ROOT / "third_party/teacher"
# At 128 pixels the teacher has a grid of 4 x 4 tokens, which H-GKD's decoder reaches from the 2 x 2 cells of the student. On 2,000
# held-out training images the teacher's zero-shot accuracy is 60.4% at 128, 61.5% at 160, 60.9% at 192, 57.4% at 256.
TEACHER_SIDE = 128
STUDENT_SIDE = 64
STUDENT = ["--student", "resnet18", "--size", str(STUDENT_SIDE)]
BATCH = 128
STUDENT_DIM = 512
TOKEN_DIM = 128
QUEUE = 4096

# The ten names with kinds from ImageNet, on whose names the teacher's text encoder was fitted. ImageNet has no deer.
RICH_NAMES = {
    "airplane": ["airliner", "military aircraft"],
    "automobile": ["sports car", "convertible", "station wagon", "minivan"],
    "bird": ["American robin", "jay", "goldfinch", "house finch", "ostrich"],
    "cat": ["tabby cat", "Persian cat", "Siamese cat", "Egyptian Mau"],
    "deer": ["gazelle", "impala (antelope)", "hartebeest"],
    "dog": ["Golden Retriever", "Beagle", "Chihuahua", "German Shepherd Dog", "Cocker Spaniel"],
    "frog": ["tree frog", "American bullfrog", "tailed frog"],
    "horse": ["common sorrel horse"],
    "ship": ["container ship", "ocean liner", "schooner", "aircraft carrier"],
    "truck": ["moving van", "garbage truck", "semi-trailer truck", "fire truck", "pickup truck"],
}  # fmt: skip


def imagenet_names() -> list[str]:
    """The thousand names of ImageNet's classes."""
    return (ROOT / "third_party/clip/imagenet_names.txt").read_text().splitlines()


# Lists of names, or names with their synonyms.
NAMES = {
    "ten": lambda: CLASSES,
    "thirty": lambda: CLASSES + OTHER_NAMES,
    "other": lambda: OTHER_NAMES,
    "rich": lambda: RICH_NAMES,
    "thousand": imagenet_names,
    "ten-and-thousand": lambda: CLASSES + [name for name in imagenet_names() if name not in CLASSES],
}


@dataclass(frozen=True)
class Data:
    """Images and their cache."""

    images: Path
    cache: Path


@dataclass(frozen=True)
class Method:
    """Settings of a method."""

    objective: str
    # Flags of `lgd train` with their values.
    options: dict[str, str | Path] = field(default_factory=dict)
    # Names to train with, the teacher's temperature in their bank, and whether KDEP's targets are needed.
    names: str | None = None
    tau_t: str | None = None
    kdep: bool = False

    def having(self, **options: str | Path) -> Method:
        """A copy with other values of flags: `tau_s` is --tau-s."""
        return replace(self, options=self.options | {f"--{name.replace('_', '-')}": value for name, value in options.items()})

    def learning(self, names: str, tau_t: str | None = None) -> Method:
        """A copy with another bank of names."""
        return replace(self, names=names, tau_t=tau_t)

    def settings(self) -> dict:
        """The settings as recorded in a row."""
        options = {flag: value if isinstance(value, str) else value.name for flag, value in self.options.items()}
        named = {"names": self.names, "bank_tau_t": self.tau_t}
        return {"objective": self.objective, "options": options} | {key: value for key, value in named.items() if value}


@dataclass(frozen=True)
class Bench:
    """A teacher, images for training and evaluation, and their banks, made on demand."""

    workshop: Workshop
    # Prefix of the names of steps: tells several benches apart.
    prefix: str
    teacher: Path
    train: Data
    held_out: Data
    test: Data
    batch: int = BATCH

    def bank(self, names: str, tau_t: str | None = None) -> Path:
        """The bank of a list of names on the training cache."""
        path = write_names(self.workshop.out / "lists", names)
        options = ["--categories", path, "--teacher", self.teacher, "--template", TEMPLATE, "--prompts", self.workshop.out / "prompts"]
        name, tau = f"{self.prefix}{names}", ["--tau-t", tau_t] if tau_t else []
        return self.workshop.bank(f"{name}-tau-{tau_t}" if tau_t else name, self.train.cache, *options, *tau)

    def kdep(self) -> Path:
        """KDEP's targets for the training cache."""
        return self.workshop.bank(f"{self.prefix}kdep", self.train.cache, "--target", "kdep", "--dim", str(STUDENT_DIM))

    def student(self, name: str, method: Method, epochs: int, seed: int) -> Student:
        """Trains a student on the training cache."""
        banks = [self.bank(method.names, method.tau_t)] if method.names else []
        banks += [self.kdep()] if method.kdep else []
        options = [*STUDENT, "--batch", str(self.batch), "--objective", method.objective]
        options += [part for flag in method.options.items() for part in flag] + [part for bank in banks for part in ("--bank", bank)]
        options += ["--epochs", str(epochs), "--seed", str(seed)]
        run = self.workshop.train(f"{self.prefix}{name}", self.train.cache, self.train.images, *options)
        return Student(name, method, epochs, seed, run)

    def judge(self, student: Student, images: Data, name: str, protocols: str, names: str = "ten") -> dict:
        """Evaluates a student on `images`; returns the finished step."""
        wanted = protocols.split(",")
        options = ["--images", images.images, "--cache", images.cache, "--protocol", protocols, "--seed", str(student.seed)]
        options += ["--bank", self.bank(names)] if {"zero-shot", "agreement"} & set(wanted) else []
        options += ["--train-images", self.train.images, "--train-cache", self.train.cache] if {"knn", "linear"} & set(wanted) else []
        return self.workshop.evaluate(f"{name}-{self.prefix}{student.name}", student.run, *options)


@dataclass(frozen=True)
class Student:
    """A trained student."""

    name: str
    method: Method
    epochs: int
    seed: int
    run: Path


def write_names(folder: Path, names: str) -> Path:
    """Writes a list of names, with synonyms if it has them, to a file."""
    listed = NAMES[names]()
    synonyms = isinstance(listed, dict)
    path = folder / (f"{names}.json" if synonyms else f"{names}.txt")
    path.write_text(json.dumps(listed) if synonyms else "\n".join(dict.fromkeys(listed)) + "\n")
    return path


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
    """The bench of all rows except the long run's."""
    scale, teacher = workshop.scale, teacher_at(workshop, TEACHER_SIDE)
    columns = ["--features", "--tokens", f"svd:{TOKEN_DIM}"]
    train = data(workshop, teacher, "train", image_list("train", 0, -HELD_OUT_PER_CLASS, scale.per_class), *training_options(scale.views), *columns)
    held_out = data(workshop, teacher, "held-out", image_list("train", -HELD_OUT_PER_CLASS, None, scale.test_per_class))
    test = data(workshop, teacher, "test", image_list("test", 0, None, scale.test_per_class))
    return Bench(workshop, "", teacher, train, held_out, test)


def all_images(bench: Bench) -> Bench:
    """The bench with all training images except those held out."""
    scale = bench.workshop.scale
    per_class = scale.per_class if scale.name == "smoke" else TRAIN_PER_CLASS - HELD_OUT_PER_CLASS
    rows = image_list("train", 0, -HELD_OUT_PER_CLASS, per_class)
    train = data(bench.workshop, bench.teacher, "all", rows, *training_options(scale.views))
    return replace(bench, prefix="all-", train=train)


def share_of_labels(bench: Bench, label: str, share: float) -> Bench:
    """The bench with the first images of each class, and proportionally more views."""
    scale = bench.workshop.scale
    per_class = max(2, round(share * scale.per_class))
    if per_class >= scale.per_class:
        return bench
    views = min(64, scale.views * scale.per_class // per_class)
    train = data(bench.workshop, bench.teacher, f"train-{label}", image_list("train", 0, None, per_class), *training_options(views))
    # Whole batches: the last, incomplete batch of an epoch is dropped.
    return replace(bench, prefix=f"share-{label}-", train=train, batch=min(BATCH, 5 * per_class))


def centered(bench: Bench) -> Bench:
    """The bench with a teacher from whose embeddings the mean over the training images is subtracted."""
    workshop, teacher = bench.workshop, bench.workshop.out / "teacher-centred"
    script = ["-B", ROOT / "scripts/teacher/center.py", "--teacher", bench.teacher, "--cache", bench.train.cache, "--out", teacher]
    settings = {"cache": digest((bench.train.cache / "cache.json").read_text()), "script": digest(script[1].read_text())}
    workshop.step("teacher-centred", settings, lambda: run("centring", ROOT / "third_party/venv/bin/python", *script) or {})

    def extracted(name: str, of: Data, *options: str) -> Data:
        return Data(of.images, workshop.extract(name, of.images, teacher, *options))

    train = extracted("centred", bench.train, *training_options(workshop.scale.views))
    held_out, test = extracted("centred-held-out", bench.held_out), extracted("centred-test", bench.test)
    return replace(bench, prefix="centred-", teacher=teacher, train=train, held_out=held_out, test=test)
