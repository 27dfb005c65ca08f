"""The Python environments: `venv` for the demo and tests, `torch-venv` for goldens and peers, `docs-venv` for the book, `moto-venv`
for the tests of object stores."""

from __future__ import annotations

import platform
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from . import cuda_stubs
from .core import REQUIREMENTS, THIRD_PARTY, fingerprint, is_complete, make_in_place, say, timed
from .packages import pip_install

VENV = THIRD_PARTY / "venv"
TORCH_VENV = THIRD_PARTY / "torch-venv"
DOCS_VENV = THIRD_PARTY / "docs-venv"
MOTO_VENV = THIRD_PARTY / "moto-venv"


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def setup_venv() -> None:
    """numpy, onnx, ONNX Runtime, Pillow, pyarrow, polars, DuckDB and the other packages that scripts import."""
    environment("venv", VENV, [REQUIREMENTS / "venv.txt"])


def setup_docs() -> None:
    """MkDocs with the Material theme, which `scripts/docs` builds the book with."""
    environment("docs", DOCS_VENV, [REQUIREMENTS / "docs.txt"])


def setup_moto() -> None:
    """moto, an S3-compatible server, which the tests of object stores start on loopback."""
    environment("moto", MOTO_VENV, [REQUIREMENTS / "moto.txt"])


def setup_torch() -> None:
    """PyTorch and torchvision for the CPU.

    On x86-64 Linux the registry's wheel of PyTorch is a CUDA build, and importing it requires gigabytes
    of CUDA libraries. Only the two that are called during import are installed; the others are stubs.
    """

    environment("torch", TORCH_VENV, [REQUIREMENTS / "torch.txt"], stub_cuda)


def stub_cuda(folder: Path) -> None:
    """Writes stubs of the CUDA libraries into an environment that has the packages of torch.txt."""
    for stub in cuda_stubs.build(site_packages(folder)):
        say("torch", f"writes a stub of {stub}")


def site_packages(folder: Path) -> Path:
    """Where an environment keeps its packages."""
    return next(folder.glob("lib/python*/site-packages"))


def environment(part: str, folder: Path, requirements: Sequence[Path], finish: Callable[[Path], None] | None = None) -> None:
    """Makes an environment with the packages of requirements files with hashes, unless `folder` has them."""
    # A venv contains its own path and its Python: a moved checkout needs a new one.
    mark = fingerprint(*requirements, platform.python_version(), str(folder))
    if is_complete(folder, mark):
        return

    def fill(target: Path) -> None:
        venv.create(target, with_pip=False, symlinks=True)
        for file in requirements:
            pip_install(python_of(target), file)
        if finish is not None:
            finish(target)

    with timed(part):
        say(part, f"installs {', '.join(file.name for file in requirements)} into {folder.relative_to(THIRD_PARTY.parent)}")
        make_in_place(folder, mark, fill)
