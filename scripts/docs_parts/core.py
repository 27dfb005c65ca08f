"""Where the pages are, and how messages are printed."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out/docs"
DOCS = ROOT / "docs"


def pages() -> list[Path]:
    """Every page: the Markdown files at the root, then those below docs/."""
    return sorted(ROOT.glob("*.md")) + sorted(DOCS.rglob("*.md"))


def say(text: str) -> None:
    """Print a message to stderr."""
    print(f"docs: {text}", file=sys.stderr, flush=True)
