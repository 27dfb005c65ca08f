"""Static archives in place of the CUDA libraries, which load the real ones on first call.

A program linked against `libcuda.so` does not start on a machine without a driver. Linked against
these archives it starts everywhere: each function is a trampoline that looks the real one up when it
is first called and jumps there from then on. Where a library is absent its functions return an error
code that the caller already understands ("no device", "not initialized").

Which functions there are is read from the crate that binds them, in the version that is built. x86-64,
the System V calling convention: the trampoline keeps every register that can carry an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .core import SetupError, run


@dataclass(frozen=True)
class Library:
    """One CUDA library: the crate's module, the files to look for, and what absence answers."""

    name: str
    module: str
    files: tuple[str, ...]
    absent: int


LIBRARIES = (
    Library("cuda", "driver", ("libcuda.so.1",), 100),  # CUDA_ERROR_NO_DEVICE
    Library("cublas", "cublas", ("libcublas.so.13", "libcublas.so.12"), 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    Library("cublasLt", "cublaslt", ("libcublasLt.so.13", "libcublasLt.so.12"), 1),
    Library("curand", "curand", ("libcurand.so.10",), 101),  # CURAND_STATUS_NOT_INITIALIZED
    Library("nvrtc", "nvrtc", ("libnvrtc.so.13", "libnvrtc.so.12"), 11),  # NVRTC_ERROR_INTERNAL_ERROR
    Library("cudnn", "cudnn", ("libcudnn.so.9",), 1001),  # CUDNN_STATUS_NOT_INITIALIZED
    Library("nccl", "nccl", ("libnccl.so.2",), 3),  # ncclInternalError
)
FUNCTION = re.compile(r"^pub unsafe fn (\w+)\(", re.MULTILINE)
# The crate's own helpers, found by the same pattern.
NOT_OF_CUDA = {"culib", "is_culib_present"}
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax")
VECTORS = range(8)


def build(cudarc: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Write one archive for each library into `folder`; yields its name and how many functions it has."""
    for library in LIBRARIES:
        source = cudarc / "src" / library.module / "sys" / "mod.rs"
        functions = sorted(set(FUNCTION.findall(source.read_text())) - NOT_OF_CUDA)
        if not functions:
            raise SetupError(f"{source}: binds no functions")
        _archive(library, functions, folder)
        yield f"lib{library.name}.a", len(functions)


def _archive(library: Library, functions: list[str], folder: Path) -> None:
    sources = {
        folder / f"{library.name}_calls.S": _assembly(library, functions),
        folder / f"{library.name}_load.c": _loader(library),
    }
    objects = []
    for source, text in sources.items():
        source.write_text(text)
        compiled = source.with_suffix(".o")
        run(["gcc", "-O2", "-fPIC", "-ffunction-sections", "-c", source, "-o", compiled])
        objects.append(compiled)
    run(["ar", "rcs", folder / f"lib{library.name}.a", *objects])
    for path in [*sources, *objects]:
        path.unlink()


def _assembly(library: Library, functions: list[str]) -> str:
    lines = ['\t.section .note.GNU-stack,"",@progbits']
    for name in functions:
        lines.append(_trampoline(library, name))
    lines.append(_resolver_call(library))
    return "\n".join(lines) + "\n"


def _trampoline(library: Library, name: str) -> str:
    """Jump through the slot; while it is empty, push the function's name and its slot and go the long way."""
    return f"""\
\t.section .text.{name},"ax",@progbits
\t.globl {name}
\t.type {name},@function
{name}:
\tmovq .Lslot_{name}(%rip),%r11
\ttestq %r11,%r11
\tje 1f
\tjmp *%r11
1:\tleaq .Lname_{name}(%rip),%r11
\tpushq %r11
\tleaq .Lslot_{name}(%rip),%r11
\tpushq %r11
\tjmp __lazy_{library.name}_call
\t.size {name},.-{name}
\t.section .data.{name},"aw",@progbits
\t.balign 8
.Lslot_{name}:\t.quad 0
.Lname_{name}:\t.asciz "{name}\""""


def _resolver_call(library: Library) -> str:
    """With the slot, the name and the caller's address on the stack: resolve, restore all, and jump."""
    saved = len(ARGUMENTS) + 1  # and %rbp
    lines = [f'\t.section .text.__lazy_{library.name}_call,"ax",@progbits', f"__lazy_{library.name}_call:"]
    lines += [f"\tpushq %{register}" for register in ARGUMENTS]
    lines += ["\tpushq %rbp", "\tmovq %rsp,%rbp", f"\tsubq ${16 * len(VECTORS)},%rsp", "\tandq $-16,%rsp"]
    lines += [f"\tmovups %xmm{i},{16 * i}(%rsp)" for i in VECTORS]
    lines += [f"\tmovq {8 * saved}(%rbp),%rsi", f"\tmovq {8 * saved + 8}(%rbp),%rdi"]
    lines += [f"\tcall __lazy_{library.name}_resolve", "\tmovq %rax,%r11"]
    lines += [f"\tmovups {16 * i}(%rsp),%xmm{i}" for i in VECTORS]
    lines += ["\tmovq %rbp,%rsp", "\tpopq %rbp"]
    lines += [f"\tpopq %{register}" for register in reversed(ARGUMENTS)]
    lines += ["\taddq $16,%rsp", "\tjmp *%r11"]
    return "\n".join(lines)


def _loader(library: Library) -> str:
    files = ", ".join(f'"{name}"' for name in library.files)
    return f"""\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int absent(void) {{ return {library.absent}; }}

static void load(void) {{
    static const char *files[] = {{ {files} }};
    for (unsigned i = 0; i < sizeof files / sizeof *files && !library; i++)
        library = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL);
    if (!library && getenv("LGD_CUDA_VERBOSE"))
        fprintf(stderr, "cuda: %s\\n", dlerror());
}}

__attribute__((visibility("hidden"))) void *__lazy_{library.name}_resolve(const char *name, void **slot) {{
    pthread_once(&once, load);
    void *function = library ? dlsym(library, name) : 0;
    if (!function)
        function = (void *)absent;
    __atomic_store_n(slot, function, __ATOMIC_RELEASE);
    return function;
}}
"""
