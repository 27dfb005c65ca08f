"""Measures the teacher's zero-shot accuracy on CIFAR-10's test images, with Pillow and ONNX Runtime alone.

    third_party/venv/bin/python scripts/teacher/check.py [--teacher DIR] [--images DIR] [--skip N] [--limit N]

The recipe of the teacher was chosen by looking at the first 2,000 test images: they are left out.
Prints one JSON line; exits with 1 when the accuracy is below FLOOR, which means a broken teacher.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import texts

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "a photo of a {}."
BATCH = 32
FLOOR = 0.55
RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def main() -> int:
    """Encode the names, then the images, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=ROOT / "third_party/teacher")
    parser.add_argument("--images", type=Path, default=ROOT / "third_party/cifar10/test")
    parser.add_argument("--skip", type=int, default=2000, help="leave out the first N images (2000)")
    parser.add_argument("--limit", type=int, help="use at most N images")
    args = parser.parse_args()
    config = tomllib.loads((args.teacher / "teacher.toml").read_text())
    names = sorted(folder.name for folder in args.images.iterdir() if folder.is_dir())
    files = sorted(args.images.glob("*/*.png"), key=lambda path: path.stem)[args.skip :][: args.limit]
    if not files:
        print(f"{args.images}: no images are left after the first {args.skip}", file=sys.stderr)
        return 1
    prototypes = encode_names(args.teacher, config["text"], names)
    start = time.perf_counter()
    embeddings = encode_images(args.teacher, config["image"], files)
    seconds = time.perf_counter() - start
    labels = np.array([names.index(path.parent.name) for path in files])
    hits = (embeddings @ prototypes.T).argmax(axis=1) == labels
    accuracy = float(hits.mean())
    result = {
        "images": len(files),
        "skipped": args.skip,
        "zero_shot": round(accuracy, 4),
        "standard_error": round(float(np.sqrt(accuracy * (1 - accuracy) / len(files))), 4),
        "by_class": {name: round(float(hits[labels == index].mean()), 3) for index, name in enumerate(names)},
        "images_per_second": round(len(files) / seconds, 1),
    }
    print(json.dumps(result))
    return 0 if accuracy >= FLOOR else 1


def encode_names(teacher: Path, config: dict, names: list[str]) -> np.ndarray:
    """[C, D] text embeddings, one template."""
    tokenizer = texts.load_tokenizer(teacher / config["tokenizer"])
    return texts.encode(session(teacher / config["model"]), tokenizer, [TEMPLATE.format(name) for name in names])


def encode_images(teacher: Path, config: dict, files: list[Path]) -> np.ndarray:
    """[N, D] image embeddings of the whole images, resized to a square."""
    encoder = session(teacher / config["model"])
    rows = []
    for start in range(0, len(files), BATCH):
        batch = np.stack([pixels(path, config) for path in files[start : start + BATCH]])
        rows.append(encoder.run([config["output"]], {config["input"]: batch})[0])
    return np.concatenate(rows)


def pixels(path: Path, config: dict) -> np.ndarray:
    """[3, size, size] f32, normalized."""
    side = config["size"]
    image = Image.open(path).convert("RGB").resize((side, side), RESAMPLE[config["resample"]])
    values = np.asarray(image, np.float32) / 255
    values = (values - np.float32(config["mean"])) / np.float32(config["std"])
    return values.transpose(2, 0, 1)


def session(model: Path) -> onnxruntime.InferenceSession:
    """A session on the CPU."""
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    sys.exit(main())
