"""Runs the fenced blocks of the pages and compares their output with the recorded one.

    ```sh run          bash, with target/release and third_party/venv/bin on PATH, and ORT_DYLIB_PATH set
    ```python run      the Python of third_party/venv
    ```torch run       the Python of third_party/torch-venv, which has PyTorch and torchvision
    ```text output     stdout and stderr of the block before it

Blocks run in order, in a scratch folder that looks like the root of the repository: it links to `scripts`, `extract` (for
the teachers of its tests) and `third_party`, so the commands also work as printed from the root of a checkout. docs/first-hour.md and README.md start
from an empty folder; every other page starts from a copy of what docs/first-hour.md left behind.

A block fails if its exit code is not 0. Its output must equal the recorded one after both have been filtered: numbers
with a decimal point, throughputs, remaining times, hashes, sizes and counts of views per name are masked, because they depend on the
processor or on time; runs of blanks are one blank; the progress lines that `lgd` prints every 30 s are dropped. `...` in
a recorded output stands for any text.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .core import DOCS, OUT, ROOT, pages, say

FIRST = DOCS / "first-hour.md"
README = ROOT / "README.md"
VENV, TORCH_VENV = ROOT / "third_party/venv/bin", ROOT / "third_party/torch-venv/bin"
BLOCK = re.compile(r"^```(?P<info>(?:sh|python|torch) run|text output)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRESS = re.compile(r"^\w+: \d+/\d+ \w+, .*\n", re.MULTILINE)
FILTERS = [
    (PROGRESS, ""),
    (re.compile(r"\b[0-9a-f]{16,}\b"), "HASH"),
    (re.compile(r"\d[\d,]*\.\d+(?:e[+-]?\d+)?"), "NUMBER"),
    (re.compile(r"\b\d+(?= (?:images|views|img)/s)|(?<=\blr )\d+\b|(?<=\bwait )\d+(?=%)|(?<=\beta )\d+[smhd]"), "NUMBER"),
    (re.compile(r'("(?:count|bytes)": )\d+|\d[\d,]*(?= \([a-z])'), r"\1COUNT"),
    (re.compile(r"[ \t]+"), " "),
]


@dataclass(frozen=True)
class Block:
    """One fenced block: its language or "output", its text, and where the text is in the page."""

    kind: str
    body: str
    start: int
    end: int


def check(wanted: list[Path], *, write: bool) -> list[str]:
    """Runs the snippets of the pages in `wanted`, or of all pages; returns what went wrong."""
    chosen = [page.resolve() for page in wanted] or [page for page in pages() if blocks(page)]
    first = OUT / "run" / FIRST.stem
    problems = run_page(FIRST, fresh(first), write)
    for page in chosen:
        if page == FIRST:
            continue
        folder = OUT / "run" / page.stem
        fresh(folder) if page == README else again(first, folder)
        problems += run_page(page, folder, write)
    return problems


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that run, and the recorded outputs."""
    def block(match: re.Match[str]) -> Block:
        language, mode = match["info"].split()
        return Block("output" if mode == "output" else language, match["body"], match.start("body"), match.end("body"))

    return [block(match) for match in BLOCK.finditer(page.read_text())]


def fresh(folder: Path) -> Path:
    """An empty folder that looks like the root of the repository."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("scripts", "third_party", "extract"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def again(first: Path, folder: Path) -> Path:
    """A copy of a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(first, folder, symlinks=True)
    return folder


def run_page(page: Path, folder: Path, write: bool) -> list[str]:
    """Runs a page's blocks in `folder` until one fails; returns what went wrong."""
    name, started = page.relative_to(ROOT), time.monotonic()
    text, shift, problems = page.read_text(), 0, []
    for code, recorded in paired(blocks(page)):
        line = page.read_text()[: code.start].count("\n") + 1
        done = run(code, folder)
        if done.returncode != 0:
            problems.append(f"{name}:{line}: exit code {done.returncode}\n{code.body}\n{done.stdout}")
            break
        if recorded is None or matches(recorded.body, done.stdout):
            continue
        if write:
            output = PROGRESS.sub("", done.stdout).strip("\n") + "\n"
            text = text[: recorded.start + shift] + output + text[recorded.end + shift :]
            shift += len(output) - len(recorded.body)
        else:
            problems.append(f"{name}:{line}: another output:\n{difference(recorded.body, done.stdout)}")
    if write:
        page.write_text(text)
    say(f"{name}: {len(blocks(page))} blocks in {time.monotonic() - started:.1f} s")
    return problems


def paired(found: list[Block]) -> Iterator[tuple[Block, Block | None]]:
    """Each block that runs, with the recorded output that follows it."""
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.kind != "output":
            yield block, after if after is not None and after.kind == "output" else None


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs one block; its stdout and stderr are one text, as on a terminal."""
    python = {"python": VENV / "python", "torch": TORCH_VENV / "python"}.get(block.kind)
    command = ["bash", "-euo", "pipefail", "-c", block.body] if python is None else [python, "-c", block.body]
    path = f"{ROOT / 'target/release'}:{VENV}:{os.environ['PATH']}"
    runtime = str(ROOT / "third_party/onnxruntime/libonnxruntime.so")
    environment = os.environ | {"PATH": path, "LC_ALL": "C.UTF-8", "RUST_BACKTRACE": "0", "ORT_DYLIB_PATH": runtime}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.run(command, cwd=folder, env=environment, text=True, check=False, **pipes)


def matches(recorded: str, output: str) -> bool:
    """Whether an output is the recorded one, after filtering."""
    pattern = re.escape(filtered(recorded)).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, filtered(output), re.DOTALL) is not None


def difference(recorded: str, output: str) -> str:
    """What differs between two outputs after filtering, as a unified diff."""
    lines = (filtered(text).splitlines() for text in (recorded, output))
    return "\n".join(difflib.unified_diff(*lines, "recorded", "now", lineterm=""))


def filtered(text: str) -> str:
    """The text with everything masked that depends on the machine."""
    for pattern, mask in FILTERS:
        text = pattern.sub(mask, text)
    return text.strip()
