"""The photographs of the parity test: odd sizes, 1/f noise with edges, gradients and saturated colors.

They are made once and committed: `python photographs.py` writes them again, but another version of libjpeg may write other
bytes, and the goldens belong to the committed files.
"""

from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parent / "photos"

# (width, height, suffix). Extreme ratios, sides below and above every model's input, odd differences.
SIZES = [(40, 40, "png"), (41, 57, "png"), (400, 300, "jpg"), (300, 399, "jpg"), (127, 94, "jpg"), (93, 127, "png"),
         (224, 224, "jpg"), (223, 225, "jpg"), (256, 256, "jpg"), (255, 191, "jpg"), (64, 48, "png"), (49, 65, "png"),
         (400, 40, "jpg"), (40, 397, "jpg"), (333, 77, "jpg"), (77, 334, "jpg"), (150, 101, "jpg"), (101, 151, "jpg"),
         (199, 200, "jpg"), (320, 213, "jpg")]


def pink(rng, width, height):
    """Noise whose amplitude falls with frequency, as in photographs, in -1..1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    falling = 1 / np.maximum(np.hypot(fy, fx), 1 / max(width, height))
    noise = np.fft.ifft2(falling * np.exp(2j * np.pi * rng.random((height, width)))).real
    return noise / np.abs(noise).max()


def photograph(number, width, height):
    """Pixels `[height, width, 3]`, u8."""
    rng = np.random.default_rng([14, number])
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    slope = rng.normal(size=(3, 2))
    image = np.stack([128 + 90 * (a * (x - 0.3) + b * (y - 0.3)) for a, b in slope], -1)
    image += 70 * np.stack([pink(rng, width, height) for _ in range(3)], -1)
    for _ in range(4):  # Saturated shapes with hard edges.
        color = rng.choice([0.0, 255.0], 3) + rng.normal(0, 6, 3)
        cx, cy, angle = rng.random() * x.max(), rng.random() * y.max(), rng.random() * np.pi
        long, short = rng.uniform(0.1, 0.5), rng.uniform(0.03, 0.2)
        u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = np.abs(u) < long / 2
        inside &= np.abs(v) < short / 2
        if rng.random() < 0.5:
            inside = (u / long) ** 2 + (v / short) ** 2 < 0.25
        image[inside] = 0.2 * image[inside] + 0.8 * color
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def names():
    """File names, in order."""
    return [f"{number:02}-{width}x{height}.{suffix}" for number, (width, height, suffix) in enumerate(SIZES)]


def read():
    """The committed photographs as Pillow images, in order."""
    return [Image.open(PHOTOS / name).convert("RGB") for name in names()]


if __name__ == "__main__":
    PHOTOS.mkdir(exist_ok=True)
    for number, (name, (width, height, suffix)) in enumerate(zip(names(), SIZES)):
        image = Image.fromarray(photograph(number, width, height))
        image.save(PHOTOS / name, **({"quality": 90} if suffix == "jpg" else {"optimize": True}))
