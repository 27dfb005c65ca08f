"""Stages the pages under out/docs/pages and builds the book with MkDocs in strict mode.

MkDocs takes one folder of pages, but README.md and its neighbors are at the root, where readers look for them. Staging
copies the root's pages and docs/ into one folder and rewrites relative links to match:

    README.md            [x](docs/teachers.md)      ->  README.md            [x](teachers.md)
    docs/teachers.md     [x](../ARCHITECTURE.md)    ->  teachers.md          [x](ARCHITECTURE.md)
    docs/decisions/a.md  [x](../../README.md)       ->  decisions/a.md       [x](../README.md)

Strict mode fails for a link to a page, file or heading that does not exist, and for a page that is missing from the
navigation.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from .core import DOCS, OUT, ROOT, pages, say

LICENSES = ("LICENSE-MIT", "LICENSE-APACHE")
# ](TARGET or ](TARGET#heading, not a URL.
LINK = re.compile(r"(\]\()([^)\s:]+)")
# The words that scripts/docs reads from a fence; MkDocs wants the language alone.
FENCE = re.compile(r"^```(?:(sh|python) run|(torch) run|(text) output)$", re.MULTILINE)


def build() -> list[str]:
    """Stages and builds the book; returns what is wrong with it."""
    stage = OUT / "pages"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(DOCS, stage)
    for name in LICENSES:
        shutil.copy(ROOT / name, stage / name)
    for page in pages():
        target = stage / (page.relative_to(DOCS) if page.is_relative_to(DOCS) else page.name)
        target.write_text(staged(page))
    mkdocs = ROOT / "third_party/docs-venv/bin/mkdocs"
    # Not with --quiet: it hides warnings from --strict too.
    command = [mkdocs, "build", "--strict", "--config-file", ROOT / "mkdocs.yml"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    say(f"built {(OUT / 'book/index.html').relative_to(ROOT)}")
    return []


def staged(page: Path) -> str:
    """The text of a page with its links and fences as MkDocs needs them."""
    text = FENCE.sub(lambda match: "```" + ("python" if match[2] else match[1] or match[3]), page.read_text())
    if page.parent == ROOT:
        return LINK.sub(lambda match: match[1] + match[2].removeprefix("docs/"), text)
    up = "../" * len(page.relative_to(DOCS).parts)
    return LINK.sub(lambda match: match[1] + (match[2][3:] if match[2].startswith(up) else match[2]), text)
