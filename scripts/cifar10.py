"""CIFAR-10 as the demo and the evidence use it: class names, and the images that may be measured on."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "third_party/cifar10"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Other names for the same images: finer kinds of a class, and some that should match nothing.
OTHER_NAMES = [
    "airliner", "fighter jet", "propeller plane", "sports car", "sedan", "pickup truck", "fire engine", "songbird",
    "ostrich", "kitten", "tabby cat", "puppy", "hunting dog", "stag", "fawn", "tree frog", "toad", "pony", "sailing boat",
    "container ship",
]  # fmt: skip
TEMPLATE = "a photo of a {}."
# The demo's teacher was designed with the first 2,000 test images, so nothing is measured on them.
FIRST_TEST_IMAGE = 2000


def images_of(split: str, name: str) -> list[Path]:
    """The images of a class that may be measured on, in order."""
    images = sorted((FOLDER / split / name).glob("*.png"))
    return [image for image in images if split != "test" or int(image.stem) >= FIRST_TEST_IMAGE]
