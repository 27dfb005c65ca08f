"""ONNX Runtime's shared library, out of its Python wheel."""

from __future__ import annotations

from pathlib import Path

from .core import REQUIREMENTS, THIRD_PARTY, SetupError, fingerprint, is_complete, make_folder, say, scratch, timed
from .packages import copy_member, members, pip_wheels

CPU = THIRD_PARTY / "onnxruntime"
GPU = THIRD_PARTY / "onnxruntime-gpu"
LIBRARY = "libonnxruntime.so"
NOTICES = ("LICENSE", "ThirdPartyNotices.txt")


def setup_cpu() -> None:
    """`third_party/onnxruntime/libonnxruntime.so`."""
    _setup("runtime", CPU, REQUIREMENTS / "runtime.txt")


def setup_gpu() -> None:
    """`third_party/onnxruntime-gpu/libonnxruntime.so`, with the CUDA and TensorRT providers beside it."""
    _setup("runtime-gpu", GPU, REQUIREMENTS / "runtime-gpu.txt")


def _setup(part: str, folder: Path, requirements: Path) -> None:
    mark = fingerprint(requirements)
    if is_complete(folder, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            [wheel] = pip_wheels(requirements, downloads)
            _copy_libraries(wheel, target)

    with timed(part):
        say(part, f"extracts ONNX Runtime's library from the wheel of {requirements.name}")
        make_folder(folder, mark, fill)


def _copy_libraries(wheel: Path, target: Path) -> None:
    for member in members(wheel):
        name = member.rpartition("/")[2]
        if name.startswith(LIBRARY):
            # In the wheel the name ends in the version; programs look for the plain name.
            copy_member(wheel, member, target / LIBRARY)
        elif name.startswith("libonnxruntime_providers_") or name in NOTICES:
            copy_member(wheel, member, target / name)
    if not (target / LIBRARY).exists():
        raise SetupError(f"{wheel.name}: has no {LIBRARY}")
