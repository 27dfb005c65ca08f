"""The test images of Pillow's source archive, and Pillow's decoding of each: the corpus of `data/tests/odd_images.rs`."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path, PurePosixPath

from .core import REQUIREMENTS, SCRIPTS, THIRD_PARTY, fingerprint, is_complete, make_folder, run, say, scratch, timed
from .environments import VENV, python_of

FOLDER = THIRD_PARTY / "odd-images"
REFERENCE = SCRIPTS / "setup_parts" / "odd_images_reference.py"
# A few photographs of up to 10 MB would be most of the corpus and show nothing new.
MAX_BYTES = 2_000_000


def setup_odd_images() -> None:
    """`third_party/odd-images/files/NAME`, `expected/NAME.png` where Pillow reads it, and `expected.json`."""
    requirements = REQUIREMENTS / "odd-images.txt"
    mark = fingerprint(requirements, REQUIREMENTS / "venv.txt", REFERENCE, str(MAX_BYTES))
    if is_complete(FOLDER, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            run([*command, "--no-binary=pillow", "--dest", str(downloads), "--requirement", str(requirements)])
            [archive] = downloads.glob("*.tar.gz")
            (target / "files").mkdir()
            _unpack(archive, target / "files")
        say("odd-images", "decodes them with Pillow")
        run([python_of(VENV), REFERENCE, target])

    with timed("odd-images"):
        say("odd-images", "fetches Pillow's source archive (47 MB)")
        make_folder(FOLDER, mark, fill)


def _unpack(archive: Path, folder: Path) -> None:
    """Copy the files directly in Tests/images that are not too large."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.parts[1:-1] == ("Tests", "images") and member.isfile() and member.size <= MAX_BYTES:
                (folder / path.name).write_bytes(tar.extractfile(member).read())
