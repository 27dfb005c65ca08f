"""Folders that are either complete or absent, and the messages of `scripts/setup`.

Everything is fetched into `third_party/`. A finished folder has a file `.complete` with a fingerprint
of the pins it was made from. If the fingerprint matches, a second run does nothing; if a pin changed
or the file is missing, the folder is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
REQUIREMENTS = SCRIPTS / "requirements"
THIRD_PARTY = ROOT / "third_party"
STAMP = ".complete"
TEMPORARY = ".tmp."


class SetupError(Exception):
    """A part could not be made. The message says why, and how to fix it if there is a fix."""


def say(part: str, message: str) -> None:
    """Print a message to stderr; stdout is for data."""
    print(f"setup: {part}: {message}", file=sys.stderr, flush=True)


def fingerprint(*inputs: Path | str) -> str:
    """SHA-256 over the given strings and the contents of the given files."""
    digest = hashlib.sha256()
    for item in inputs:
        content = item.read_bytes() if isinstance(item, Path) else item.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def is_complete(folder: Path, mark: str) -> bool:
    """Whether `folder` is complete and was made from these pins."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text().strip() == mark


def make_folder(folder: Path, mark: str, fill: Callable[[Path], None]) -> None:
    """Fill a temporary sibling with `fill`, stamp it, and rename it to `folder`."""
    work = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    try:
        fill(work)
        (work / STAMP).write_text(mark + "\n")
        work.chmod(0o755)
        remove(folder)
        work.rename(folder)
    finally:
        remove(work)


def make_in_place(folder: Path, mark: str, fill: Callable[[Path], None]) -> None:
    """Fill `folder` itself and stamp it last: for content that a rename would break, such as a venv."""
    remove(folder)
    fill(folder)
    (folder / STAMP).write_text(mark + "\n")


def remove(folder: Path) -> None:
    """Remove a folder if it exists. The stamp goes first, so a partial folder never looks complete."""
    (folder / STAMP).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def run(command: Sequence[str | os.PathLike[str]], cwd: Path | None = None) -> str:
    """Run a command and return its stdout. If it fails, raise with the end of its output."""
    words = [os.fspath(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SetupError(f"`{words[0]}` was not found\nhint: install it, then run scripts/setup again") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise SetupError(f"`{' '.join(words)}` failed with exit code {done.returncode}:\n{tail}")
    return done.stdout


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder on the same disk as `third_party/`, removed afterwards."""
    THIRD_PARTY.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=THIRD_PARTY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the lock of `third_party/`: two set-ups at once must not fetch twice.

    Temporary folders found while holding the lock are leftovers of a killed set-up and are removed.
    """
    THIRD_PARTY.mkdir(exist_ok=True)
    with (THIRD_PARTY / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting", "another set-up is running")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in THIRD_PARTY.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover)
        yield


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Print how long the enclosed work took."""
    start = time.monotonic()
    yield
    say(part, f"done in {time.monotonic() - start:.1f} s")
