#!/usr/bin/env python3
"""Checksums of Pillow's color changes over all 2^24 colors: `colors.json`, for the tests of `src/render/color.rs`.

    third_party/venv/bin/python data/tests/goldens/make_colors.py

The image has every color once, 4,096 x 4,096. Each change is what torchvision's `adjust_*` does with a Pillow image. A checksum is the
sum over all bytes of byte x weight modulo 2^64; the weight of byte i is (i x 2654435761 + 12345) modulo 2^32.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageEnhance

SIDE = 4096


def every_color() -> Image.Image:
    numbers = np.arange(1 << 24, dtype=np.uint32)
    channels = [(numbers >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)]
    return Image.fromarray(np.stack(channels, axis=-1).reshape(SIDE, SIDE, 3))


def rotated(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = np.array(hue) + np.array(int(turns * 255) % 256).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def gray(image: Image.Image, _: float) -> Image.Image:
    return Image.merge("RGB", [image.convert("L")] * 3)


CHANGES = {
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "hue": rotated,
    "gray": gray,
}
AMOUNTS = {
    "brightness": [0.6, 1.39, 0.0, 3.5],
    "contrast": [0.6, 1.39, 0.0, 3.5],
    "saturation": [0.6, 1.39, 0.0, 3.5],
    "hue": [0.1, -0.1, 0.0, 0.037, -0.5, 0.5],
    "gray": [0.0],
}


def checksum(image: Image.Image) -> int:
    values = np.asarray(image, dtype=np.uint64).ravel()
    weights = (np.arange(len(values), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(12345)) & np.uint64(0xFFFFFFFF)
    return int((values * weights).sum(dtype=np.uint64))


def main() -> None:
    image = every_color()
    cases = [
        {"change": change, "amount": amount, "checksum": checksum(CHANGES[change](image, amount))}
        for change, amounts in AMOUNTS.items()
        for amount in amounts
    ]
    golden = {"pillow": PIL.__version__, "cases": cases}
    Path(__file__).with_name("colors.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
