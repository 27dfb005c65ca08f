"""`third_party/cuda`: what compiles and links the GPU code on a machine without CUDA and without a GPU.

    third_party/cuda/
        toolkit/        nvcc, headers and the static runtime, out of NVIDIA's wheels; CUDA_HOME
        toolkit/lib/    beside the runtime, archives that load the real CUDA libraries on first call
        nvcc            nvcc in front of which Candle's quantized kernels are left out; NVCC
        env.sh          to be sourced before cargo
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from . import cuda_archives
from .core import (
    REQUIREMENTS,
    ROOT,
    SCRIPTS,
    THIRD_PARTY,
    SetupError,
    fingerprint,
    is_complete,
    make_folder,
    run,
    say,
    scratch,
    timed,
)
from .packages import pip_wheels

FOLDER = THIRD_PARTY / "cuda"
ENVIRONMENT = FOLDER / "env.sh"
PARTS = SCRIPTS / "setup_parts"
WRAPPER = PARTS / "cuda_nvcc.py"
# What the kernels are compiled for when nobody says otherwise: Hopper, with PTX for others (train/cuda/build.rs).
COMPUTE_CAPABILITY = "90"


def setup_cuda() -> None:
    """Fill `third_party/cuda`."""
    requirements = REQUIREMENTS / "cuda.txt"
    cudarc = _cudarc()
    mark = fingerprint(requirements, Path(cuda_archives.__file__), WRAPPER, Path(__file__), str(FOLDER), cudarc.name)
    if is_complete(FOLDER, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            for wheel in pip_wheels(requirements, downloads):
                _unpack(wheel, target)
        (target / "nvidia" / "cu13").rename(target / "toolkit")
        shutil.rmtree(target / "nvidia")
        _finish_libraries(target / "toolkit" / "lib", cudarc)
        shutil.copy(WRAPPER, target / "nvcc")
        (target / "nvcc").chmod(0o755)
        (target / "env.sh").write_text(_environment())

    with timed("cuda"):
        say("cuda", "takes nvcc and its headers out of NVIDIA's wheels (104 MB to fetch)")
        make_folder(FOLDER, mark, fill)


def _cudarc() -> Path:
    """The source of the crate that binds the CUDA libraries, in the version the lock file names."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    for package in json.loads(run(command, cwd=ROOT))["packages"]:
        if package["name"] == "cudarc":
            return Path(package["manifest_path"]).parent
    raise SetupError("Cargo.lock names no crate cudarc")


def _unpack(wheel: Path, target: Path) -> None:
    """Unpack a wheel's toolkit; zip archives keep the executable bit only where it is asked for."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if not member.filename.startswith("nvidia/") or member.is_dir():
                continue
            path = Path(archive.extract(member, target))
            if "/bin/" in member.filename:
                path.chmod(0o755)


def _finish_libraries(folder: Path, cudarc: Path) -> None:
    """Static runtime only, and the archives that stand for the libraries of the driver and of the user's environment."""
    for shared in folder.glob("libcudart.so*"):
        shared.unlink()
    (folder / "libcudart.a").symlink_to("libcudart_static.a")
    for archive, symbols in cuda_archives.build(cudarc, folder):
        say("cuda", f"{archive}: {symbols} functions, loaded on first call")


def _environment() -> str:
    toolkit = FOLDER / "toolkit"
    return (
        "# Sourced before cargo, this makes the feature `cuda` compile and link.\n"
        f'export CUDA_HOME="{toolkit}"\n'
        f'export CUDA_COMPUTE_CAP="${{CUDA_COMPUTE_CAP:-{COMPUTE_CAPABILITY}}}"\n'
        f'export NVCC="{FOLDER / "nvcc"}"\n'
        f'export PATH="{toolkit / "bin"}:$PATH"\n'
    )
