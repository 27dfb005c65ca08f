"""A headless Chromium for scripts/report-check, from an npm package: no root, 0.2 GB unpacked.

The package carries Chromium, the few libraries that small systems lack, and a font, each compressed with Brotli, which
Node.js unpacks.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from .core import THIRD_PARTY, fingerprint, is_complete, make_folder, run, scratch, timed
from .packages import NpmPackage, npm_archive, unpack_npm

FOLDER = THIRD_PARTY / "browser"
PACKAGE = NpmPackage(
    "@sparticuz/chromium",
    "153.0.0",
    "sha512-jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA==",
)
UNPACK = """
const fs = require("fs"), zlib = require("zlib");
fs.writeFileSync(process.argv[2], zlib.brotliDecompressSync(fs.readFileSync(process.argv[1])));
"""
# The package's own names folders of its cloud.
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"""


def setup_browser() -> None:
    """`third_party/browser/`: `chromium`, its libraries in `lib/`, and a font."""
    mark = fingerprint(PACKAGE.version, PACKAGE.integrity, Path(__file__))
    if is_complete(FOLDER, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            package = unpack_npm(npm_archive(PACKAGE, downloads), downloads)
            unpack(package / "bin/chromium.br", target / "chromium")
            (target / "chromium").chmod(0o755)
            for name in ("al2023", "swiftshader", "fonts"):
                archive = downloads / f"{name}.tar"
                unpack(package / f"bin/{name}.tar.br", archive)
                with tarfile.open(archive) as tar:
                    tar.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            (target / "fonts.conf").write_text(FONTS)
            shutil.copy(package / "LICENSE", target / "LICENSE")

    with timed("browser"):
        make_folder(FOLDER, mark, fill)


def unpack(source: Path, target: Path) -> None:
    """Undo Brotli."""
    run(["node", "-e", UNPACK, str(source), str(target)])
