"""Deliberate mistakes, one at a time, and whether the checks on the software GPU notice them.

A mutant of a kernel is one library, compiled anew, beside links to all others. A mutant of the host's code is built by cargo in
a copy of the sources, `target/software-gpu/mutants`, whose fat binaries are empty: the software GPU does not read them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from . import cuda, software_gpu
from .core import ROOT, SetupError, run, say

LIST = software_gpu.SOURCES / "mutants.toml"
COPY = software_gpu.HOME / "mutants"
CHECK = ("ops",)
# Tried one after the other until one notices.
MODES = (
    {},
    {"SOFTGPU_ORDER": "reverse"},
    {"SOFTGPU_STREAMS": "lazy"},
    {"SOFTGPU_STREAMS": "random:1"},
    {"SOFTGPU_ORDER": "shuffle:1"},
    {"SOFTGPU_STREAMS": "random:2"},
)
SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """One mistake, by the keys of `mutants.toml`."""

    name: str
    file: str
    find: str
    replace: str
    checks: tuple[str, ...] = CHECK
    sanitized: bool = False
    ci: bool = False

    def text(self) -> str:
        """The file with the mistake in it."""
        path = ROOT / "train/cuda" / self.file
        text = path.read_text()
        if text.count(self.find) != 1:
            raise SetupError(f"{LIST}: {self.name!r}: its text occurs {text.count(self.find)} times in {path}, expected once")
        return text.replace(self.find, self.replace)


def mutants(names: list[str], *, only_ci: bool) -> list[Mutant]:
    """The list, or those whose names hold one of `names`."""
    entries = tomllib.loads(LIST.read_text())["mutant"]
    every = [Mutant(**{**entry, "checks": tuple(entry.get("checks", CHECK))}) for entry in entries]
    chosen = [one for one in every if (one.ci or not only_ci) and (not names or any(name in one.name for name in names))]
    if not chosen:
        raise SetupError(f"{LIST}: no mutant is called {' or '.join(names)}")
    return chosen


def survivors(chosen: list[Mutant]) -> list[str]:
    """Run the checks on each mutant; the names of those that nothing noticed."""
    shutil.rmtree(COPY / "libraries", ignore_errors=True)
    survived = []
    for mutant in chosen:
        started = time.monotonic()
        is_kernel = mutant.file.startswith("kernels/")
        folder = kernel_libraries(mutant) if is_kernel else software_gpu.setup_libraries(sanitized=False)
        programs = software_gpu.PROGRAMS if is_kernel else host_program(mutant)
        noticed = first_notice(mutant, folder, programs)
        verdict = f"noticed: {noticed}" if noticed else "NOT NOTICED"
        say("mutants", f"{mutant.name}: {verdict} ({time.monotonic() - started:.0f} s)")
        if not noticed:
            survived.append(mutant.name)
    return survived


def first_notice(mutant: Mutant, folder: Path, programs: Path) -> str | None:
    """The first sign that a check, in one of the modes, finds the mistake."""
    program, *arguments = mutant.checks
    for mode in MODES:
        variables = software_gpu.environment(folder, sanitized=mutant.sanitized) | mode | {"SOFTGPU_STRICT": "1"}
        # What a test of the product would say when it hangs.
        try:
            done = subprocess.run(
                [programs / program, *arguments], env=variables, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no end in {SECONDS} s"
        if done.returncode != 0:
            signs = ("FAILED", "FAULT", "runtime error", "ERROR: AddressSanitizer", "error")
            lines = [line for line in (done.stdout + done.stderr).splitlines() if any(sign in line for sign in signs)]
            where = ", ".join(f"{name}={value}" for name, value in mode.items()) or "forward"
            return f"{where}: exit code {done.returncode}: {lines[0].strip()[:120] if lines else 'no message'}"
    return None


def kernel_libraries(mutant: Mutant) -> Path:
    """A folder of libraries in which those that the file goes into have the mistake."""
    whole = software_gpu.build_of(sanitized=mutant.sanitized)
    software_gpu.setup_libraries(sanitized=mutant.sanitized)
    folder, kernels = COPY / "libraries", COPY / "kernels"
    for old in (folder, kernels):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(software_gpu.OWN_KERNELS, kernels)
    changed = kernels / Path(mutant.file).name
    changed.write_text(mutant.text())
    sources = sorted(kernels.glob("*.cu")) if changed.suffix == ".cuh" else [changed]
    rebuilt = {f"kernels-lgd-{source.stem}.so" for source in sources}
    for library in whole.folder.glob("*.so*"):
        if library.name not in rebuilt:
            (folder / library.name).symlink_to(library)
    build = software_gpu.Build(folder, whole.flags)
    for source in sources:
        software_gpu.own_kernels(build, source)
    return folder


def host_program(mutant: Mutant) -> Path:
    """A folder with the program built from a copy of the sources that has the mistake."""
    sources = COPY / "sources"
    files = run(["git", "ls-files", "-z", "Cargo.toml", "Cargo.lock", "*/Cargo.toml", "*.rs", "train/cuda"], cwd=ROOT)
    for name in filter(None, files.split("\0")):
        text, target = (ROOT / name).read_bytes(), sources / name
        if name == f"train/cuda/{mutant.file}":
            text = mutant.text().encode()
        # Unchanged files keep their times, so that cargo builds only what changed.
        if not target.exists() or target.read_bytes() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)
    variables = os.environ | {
        "CARGO_TARGET_DIR": str(COPY / "target"),
        "CUDA_HOME": str(cuda.FOLDER / "toolkit"),
        "NVCC": str(software_gpu.PARTS / "empty_nvcc.py"),
        "CUDA_COMPUTE_CAP": cuda.COMPUTE_CAPABILITY,
        "PATH": f"{cuda.FOLDER / 'toolkit/bin'}:{os.environ['PATH']}",
    }
    name = mutant.checks[0]
    command = ["cargo", "test", "--no-run", "--release", "--locked", "-p", "lgd-cuda", "--features", "cuda", "--test", name]
    command.append("--message-format=json-render-diagnostics")
    done = subprocess.run(command, cwd=sources, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{mutant.name!r} does not build:\n{done.stderr[-2000:]}")
    programs = COPY / "programs"
    programs.mkdir(exist_ok=True)
    shutil.copy(software_gpu.test_programs(done.stdout)[name], programs / name)
    return programs
