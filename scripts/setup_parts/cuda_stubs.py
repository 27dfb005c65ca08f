"""Empty stand-ins for the CUDA libraries that a CUDA build of PyTorch is linked against.

On a machine without a GPU none of their functions is ever called, yet the loader wants every
symbol to exist. Each stub defines exactly the symbols that PyTorch's own libraries leave undefined,
every one a function that returns an error code. They lie beside PyTorch's libraries, where its
run-time search path finds them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .core import run

# Libraries whose symbols carry a version named after the library itself.
VERSIONED = (
    "libcusparse.so.12",
    "libcufft.so.11",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcudnn.so.9",
    "libcusolver.so.11",
)
# Libraries whose symbols carry no version: told by their prefix.
PREFIXED = {
    "libcufile.so.0": "cuFile",
    "libcusparseLt.so.0": "cusparseLt",
    "libnccl.so.2": "nccl",
    "libcurand.so.10": "curand",
}


def build(site_packages: Path) -> list[str]:
    """Compile the stubs into PyTorch's library folder; nothing to do for a CPU-only build."""
    folder = site_packages / "torch" / "lib"
    if not (folder / "libtorch_cuda.so").exists():
        return []
    undefined = set()
    for library in sorted(folder.glob("lib*.so")):
        undefined.update(_undefined_symbols(library))
    for name in VERSIONED:
        symbols = {symbol for symbol, version in undefined if version.startswith(name)}
        _compile(folder, name, symbols, versioned=True)
    for name, prefix in PREFIXED.items():
        symbols = {symbol for symbol, version in undefined if not version and symbol.startswith(prefix)}
        _compile(folder, name, symbols, versioned=False)
    return [*VERSIONED, *PREFIXED]


def _undefined_symbols(library: Path) -> Iterator[tuple[str, str]]:
    """(symbol, version) of everything `library` expects others to define; the version may be empty."""
    for line in run(["readelf", "--dyn-syms", "--wide", library]).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[6] == "UND":
            symbol, _, version = fields[7].partition("@")
            yield symbol, version.lstrip("@")


def _compile(folder: Path, name: str, symbols: set[str], *, versioned: bool) -> None:
    source = folder / f"{name}.c"
    exports = folder / f"{name}.map"
    source.write_text("".join(f"int {symbol}(void) {{ return 1; }}\n" for symbol in sorted(symbols) if _is_c(symbol)))
    command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", source, "-o", folder / name, f"-Wl,-soname,{name}"]
    if versioned:
        exports.write_text(f"{name} {{ global: *; }};\n")
        command.append(f"-Wl,--version-script={exports}")
    run(command)
    source.unlink()
    exports.unlink(missing_ok=True)


def _is_c(symbol: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", symbol) is not None
