"""Seven photographs that Python packages carry, for `benches/peers/extract_python`."""

from __future__ import annotations

from pathlib import Path

from .core import REQUIREMENTS, THIRD_PARTY, fingerprint, is_complete, make_folder, scratch, timed
from .packages import copy_member, pip_wheels

FOLDER = THIRD_PARTY / "photos"
MEMBERS = {
    "scikit_image": [
        *(f"skimage/data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")),
        "scikit_image-0.25.2.dist-info/LICENSE.txt",
    ],
    "scikit_learn": [
        *(f"sklearn/datasets/images/{name}" for name in ("china.jpg", "flower.jpg", "README.txt")),
        "scikit_learn-1.7.2.dist-info/licenses/COPYING",
    ],
}


def setup_photos() -> None:
    """`third_party/photos/`: the photographs, and the licenses of both packages."""
    requirements = REQUIREMENTS / "photos.txt"
    mark = fingerprint(requirements, Path(__file__))
    if is_complete(FOLDER, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            for wheel in pip_wheels(requirements, downloads):
                package = wheel.name.split("-")[0]
                for member in MEMBERS[package]:
                    name = Path(member).name
                    copy_member(wheel, member, target / (name if "/data" in member or "/images" in member else f"{package}-{name}"))

    with timed("photos"):
        make_folder(FOLDER, mark, fill)
