"""`target/software-gpu`: a GPU made of software, built from `tests/software-gpu` (see the README there).

    target/software-gpu/
        plain/          libcuda.so.1, libcublas.so.13, libcudnn.so.9, libcurand.so.10 and kernels-*.so
        sanitized/      the same, libcuda.so.1 and the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
        programs/       lgd, gpu_engine_check and the tests `ops` and `numerics` with the feature `cuda`

A fingerprint of its sources and flags is stored beside each library, which is rebuilt only if the fingerprint changes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import cuda, cuda_archives
from .core import ROOT, SCRIPTS, SetupError, exclusive, fingerprint, run, say, timed

SOURCES = ROOT / "tests/software-gpu"
PARTS = SCRIPTS / "setup_parts"
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
HOME = TARGET / "software-gpu"
PROGRAMS = HOME / "programs"
OWN_KERNELS = ROOT / "train/cuda/kernels"
# Those of Candle's kernels that tensors use; the others are convolutions and quantized products.
CANDLE_KERNELS = ("affine", "binary", "cast", "fill", "indexing", "reduce", "sort", "ternary", "unary")
CUDA_BINARIES = {"lgd": "lgd", "examples/gpu_engine_check": "gpu_engine_check"}
# The suites that run on a GPU. Everything else of the crates is built with the features that the programs have.
CUDA_TESTS = ("ops", "numerics")

# AVX2 and FMA: without them `fmaf` is a slow function. Products and sums stay apart unless the source says `fmaf`.
ARCHITECTURE = ("-march=x86-64-v3", "-ffp-contract=off", "-g1")
# Kernels read vectors through pointers to other types, as CUDA allows.
PLAIN = ("-O2", "-fno-strict-aliasing", *ARCHITECTURE)
SANITIZED = (
    "-O1",
    "-fno-strict-aliasing",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr",
    *ARCHITECTURE,
)
# cuBLAS and cuDNN check their own ranges and do most of the arithmetic.
FAST = ("-O3", *ARCHITECTURE)
COMPILE = ("g++", "-std=c++17", "-fPIC", "-fvisibility=hidden")

KERNEL = re.compile(r"SOFTGPU_KERNEL\s+void\s+(\w+)\s*\(")
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+([\w\s]+?)\s*(\w+)\[\];")
STUB = """#include <stdio.h>
#include <stdlib.h>
#define MISSING(NAME) __attribute__((weak, visibility("default"))) int NAME(void) {                        \\
        fputs("software-gpu: " #NAME " is not implemented\\n", stderr); abort(); }
"""


@dataclass(frozen=True)
class Library:
    """One of NVIDIA's libraries: its file, the module of the crate that binds its functions, and its sources."""

    file: str
    module: str
    sources: tuple[str, ...]


DEVICE = Library("libcuda.so.1", "driver", ("device/*.cpp", "driver/*.cpp"))
LIBRARIES = (
    Library("libcublas.so.13", "cublas", ("libraries/cublas.cpp",)),
    Library("libcudnn.so.9", "cudnn", ("libraries/cudnn/*.cpp",)),
    Library("libcurand.so.10", "curand", ("libraries/curand.cpp",)),
)


@dataclass(frozen=True)
class Build:
    """A folder of libraries and the flags that its kernels are compiled with."""

    folder: Path
    flags: tuple[str, ...]

    @property
    def include(self) -> tuple[str, ...]:
        toolkit = cuda.FOLDER / "toolkit/include"
        return (f"-I{toolkit}", f"-I{toolkit / 'cccl'}")

    def make(self, file: str, inputs: Sequence[Path | str], fill: Callable[[Path], None]) -> None:
        """Make one library with `fill`, unless it was made from exactly these inputs."""
        target, stamp = self.folder / file, self.folder / f".{file}.made-from"
        mark = fingerprint(*inputs, Path(__file__), *self.flags)
        if target.is_file() and stamp.is_file() and stamp.read_text() == mark:
            return
        with tempfile.TemporaryDirectory(prefix=".tmp.", dir=self.folder) as work:
            fill(Path(work) / file)
            stamp.unlink(missing_ok=True)
            (Path(work) / file).replace(target)
        stamp.write_text(mark)
        say("software-gpu", f"{self.folder.name}/{file}")


def build_of(*, sanitized: bool) -> Build:
    """Where the libraries lie, and how they are compiled."""
    return Build(HOME / "sanitized", SANITIZED) if sanitized else Build(HOME / "plain", PLAIN)


def setup_libraries(*, sanitized: bool) -> Path:
    """Make all libraries; returns their folder."""
    with exclusive():
        cuda.setup_cuda()
    build = build_of(sanitized=sanitized)
    build.folder.mkdir(parents=True, exist_ok=True)
    crates = _crates("cudarc", "candle-kernels")
    # Everything else is linked with it.
    library(build, DEVICE, crates["cudarc"])
    jobs = [lambda one=one: library(build, one, crates["cudarc"]) for one in LIBRARIES]
    jobs += [lambda one=one: own_kernels(build, one) for one in sorted(OWN_KERNELS.glob("*.cu"))]
    candle = crates["candle-kernels"] / "src"
    jobs += [lambda one=one: candle_kernels(build, candle / f"{one}.cu") for one in CANDLE_KERNELS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()
    return build.folder


def library(build: Build, one: Library, cudarc: Path) -> None:
    """Compile one of NVIDIA's libraries. A function that cudarc binds and that is not implemented says so and aborts."""
    sources = [path for pattern in one.sources for path in sorted(SOURCES.glob(pattern))]
    bindings = cudarc / "src" / one.module / "sys" / "mod.rs"
    headers = sorted(SOURCES.rglob("*.h"))
    functions = sorted(set(cuda_archives.FUNCTION.findall(bindings.read_text())) - cuda_archives.NOT_OF_CUDA)
    flags, link = (build.flags, ["-ldl"]) if one is DEVICE else (FAST, [f"-L{build.folder}", f"-l:{DEVICE.file}"])

    def fill(target: Path) -> None:
        stubs = target.with_name("stubs.c")
        stubs.write_text(STUB + "".join(f"MISSING({name})\n" for name in functions))
        run(["gcc", "-O1", "-fPIC", "-c", stubs, "-o", stubs.with_suffix(".o")])
        command = [*COMPILE, "-Wall", "-Wextra", "-shared", f"-Wl,-soname,{one.file}", *flags, *build.include]
        run([*command, "-o", target, *sources, stubs.with_suffix(".o"), *link, "-lpthread"])

    build.make(one.file, [*sources, *headers, *functions, *flags], fill)


def own_kernels(build: Build, source: Path) -> None:
    """Compile one of the product's files of kernels, whose parameter lists `train/cuda/src/launch.rs` ends in nulls."""
    kernels(build, source, f"kernels-lgd-{source.stem}.so", null_terminated=True)


def candle_kernels(build: Build, source: Path) -> None:
    """Compile one of Candle's files of kernels."""
    kernels(build, source, f"kernels-candle-{source.stem}.so", null_terminated=False)


def kernels(build: Build, source: Path, file: str, *, null_terminated: bool) -> None:
    """Compile a .cu file for the CPU, with a constructor that registers its kernels."""
    language = SOURCES / "include/cuda_language.h"
    command = [*COMPILE, "-w", "-x", "c++", "-include", language, f"-I{source.parent}", *build.include]
    command.append(f"-DSOFTGPU_NULL_TERMINATED={str(null_terminated).lower()}")

    def fill(target: Path) -> None:
        text = DYNAMIC_SHARED.sub(r"\1 *\2 = static_cast<\1 *>(softgpu_dynamic_shared());", source.read_text())
        listed = _compile([*command, "-DSOFTGPU_LIST_KERNELS", "-E", "-P", "-"], text, source)
        names = KERNEL.findall(listed)
        if not names:
            raise SetupError(f"{source}: no kernels were found in it")
        text = f'#line 1 "{source}"\n{text}\n__attribute__((constructor)) static void softgpu_register_all() {{\n'
        text += "".join(f"    SOFTGPU_REGISTER({name})\n" for name in names) + "}\n"
        link = ["-shared", f"-L{build.folder}", f"-l:{DEVICE.file}", "-Wl,-z,defs"]
        _compile([*command, *build.flags, "-", "-o", target, *link], text, source)

    headers = [language, SOURCES / "device/kernels.h", *sorted(source.parent.glob("*.cuh"))]
    build.make(file, [source, *headers, *map(str, command)], fill)


def _compile(command: Sequence[str | Path], text: str, source: Path) -> str:
    done = subprocess.run([os.fspath(word) for word in command], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{source} does not compile for the CPU:\n" + "\n".join(done.stderr.splitlines()[:20]))
    return done.stdout


def _crates(*names: str) -> dict[str, Path]:
    """Folders of crates, in the versions that the lock file names."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    found = {one["name"]: Path(one["manifest_path"]).parent for one in json.loads(run(command, cwd=ROOT))["packages"]}
    for name in names:
        if name not in found:
            raise SetupError(f"Cargo.lock names no crate {name}")
    return found


def setup_programs() -> Path:
    """Build the programs that run on a GPU, and copy them where no build without the feature `cuda` replaces them."""
    with exclusive():
        cuda.setup_cuda()
    packages = ["--release", "--locked", "-p", "lgd", "-p", "lgd-train", "-p", "lgd-cuda", "--features", "cuda,tensorrt"]
    build = ["cargo", "build", *packages, "--lib", "--bins", "--examples"]
    tests = ["cargo", "test", *packages, "--no-run", "--message-format=json-render-diagnostics"]
    tests += [word for name in CUDA_TESTS for word in ("--test", name)]
    script = '. "$0" && exec "$@"'
    with timed("software-gpu: programs"):
        for command in (build, tests):
            environment = ["bash", "-c", script, cuda.ENVIRONMENT, *command]
            done = subprocess.run(environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                raise SetupError("the programs do not build")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    programs = {name: TARGET / "release" / built for built, name in CUDA_BINARIES.items()}
    for name, built in (programs | test_programs(done.stdout)).items():
        # Renamed, because a program that runs cannot be written to.
        shutil.copy(built, PROGRAMS / f".{name}")
        (PROGRAMS / f".{name}").replace(PROGRAMS / name)
    return PROGRAMS


def test_programs(messages: str) -> dict[str, Path]:
    """The programs that `cargo test --no-run` names in its messages, by the names of the tests."""
    artifacts = [one for one in map(json.loads, messages.splitlines()) if one.get("executable")]
    return {one["target"]["name"]: Path(one["executable"]) for one in artifacts}


def environment(folder: Path, *, sanitized: bool) -> dict[str, str]:
    """The variables with which a program finds the libraries in `folder`."""
    variables = dict(os.environ)
    # The tests of one program share its only device.
    variables.setdefault("RUST_TEST_THREADS", "1")
    # Where the tests find their goldens.
    variables.setdefault("CARGO_MANIFEST_DIR", str(ROOT / "train"))
    others = variables.get("LD_LIBRARY_PATH")
    variables["LD_LIBRARY_PATH"] = f"{folder}:{others}" if others else str(folder)
    if sanitized:
        runtimes = [run(["gcc", f"-print-file-name=lib{name}.so"]).strip() for name in ("asan", "ubsan")]
        variables["LD_PRELOAD"] = ":".join(runtimes)
        # The program itself is not compiled with the sanitizer: its leaks and its odd stacks are no concern.
        variables.setdefault("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0:quarantine_size_mb=256")
        variables.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
    return variables
