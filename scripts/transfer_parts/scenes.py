"""Scenes composed of images of CIFAR-10 on textured backgrounds, with the category of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96
OBJECTS = (1, 2)
OBJECT_SIDE = (40, 64)
# Share of the smaller box that another may cover.
OVERLAP = 0.2
BACKGROUND = 0


@dataclass(frozen=True)
class Scenes:
    """Composed scenes."""

    # RGB, u8 [N, 3, SIDE, SIDE].
    pixels: np.ndarray
    # Category of every pixel: 0 is the background, 1 the first class; u8 [N, SIDE, SIDE].
    masks: np.ndarray
    # Per scene, rows of category, left, top, right, bottom in pixels.
    boxes: list[list[tuple[int, int, int, int, int]]]


def compose(images: Sequence[Sequence[Path]], count: int, seed: int) -> Scenes:
    """`count` scenes of the images of each class; the same for the same arguments."""
    random = np.random.default_rng(seed)
    pixels = np.empty((count, 3, SIDE, SIDE), np.uint8)
    masks = np.empty((count, SIDE, SIDE), np.uint8)
    boxes = []
    for number in range(count):
        scene, mask = Image.fromarray(background(random)), Image.new("L", (SIDE, SIDE), BACKGROUND)
        placed: list[tuple[int, int, int, int, int]] = []
        for _ in range(random.integers(OBJECTS[0], OBJECTS[1] + 1)):
            side = int(random.integers(OBJECT_SIDE[0], OBJECT_SIDE[1] + 1))
            box = free_box(random, side, placed)
            if box is None:
                continue
            category = int(random.integers(len(images)))
            path = images[category][random.integers(len(images[category]))]
            with Image.open(path) as image:
                thing = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            shape = outline(random, side)
            scene.paste(thing, box[:2], shape)
            mask.paste(category + 1, box[:2], shape)
            placed.append((category + 1, *box))
        pixels[number] = np.asarray(scene).transpose(2, 0, 1)
        masks[number] = np.asarray(mask)
        boxes.append(placed)
    return Scenes(pixels, masks, boxes)


def background(random: np.random.Generator) -> np.ndarray:
    """Colored noise of three scales, u8 [SIDE, SIDE, 3]."""
    total = np.zeros((SIDE, SIDE, 3))
    for cells, weight in ((2, 40), (8, 25), (SIDE, 10)):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        total += weight * (np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 127.5 - 1)
    return (total + random.integers(60, 196, 3)).clip(0, 255).astype(np.uint8)


def outline(random: np.random.Generator, side: int) -> Image.Image:
    """An object's shape: a square, a square with round corners, or an ellipse; 255 inside."""
    shape = Image.new("L", (side, side), 0)
    draw, corners = ImageDraw.Draw(shape), (0, 0, side - 1, side - 1)
    match random.integers(3):
        case 0:
            draw.rectangle(corners, 255)
        case 1:
            draw.rounded_rectangle(corners, side // 4, 255)
        case _:
            draw.ellipse(corners, 255)
    return shape


def free_box(random: np.random.Generator, side: int, placed: list[tuple[int, int, int, int, int]]) -> tuple[int, int, int, int] | None:
    """A place that others hardly cover, or none after a few attempts."""
    for _ in range(20):
        left, top = (int(at) for at in random.integers(0, SIDE - side + 1, 2))
        box = (left, top, left + side, top + side)
        if all(covered(box, other[1:]) <= OVERLAP for other in placed):
            return box
    return None


def covered(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Area of the intersection over that of the smaller box."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(width, 0) * max(height, 0) / smaller
