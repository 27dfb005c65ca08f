"""The synthetic photograph that the goldens of this folder show."""

import numpy as np
from PIL import Image


def scene(width, height, seed):
    """Gradients, discs and edges with a little noise: something to blur, resize and tint."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [
        110 + 90 * np.sin(x / width * (3 + c) + c) * np.cos(y / height * (4 - c)) for c in range(3)
    ]
    pixels = np.stack(planes, -1)
    for _ in range(12):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1, 1 + min(width, height) / 4)
        pixels[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    pixels += rng.normal(0, 3, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
