"""TAR archives in the formats that Python's tarfile writes, and two of GNU tar with a file that has holes.

    python make_archives.py        writes archive-*.tar beside this file; needs GNU tar for the last two

Every member of the first three holds its own name.
"""

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LONG = "one-of-four-folders-on-the-way/" * 4
MEMBERS = [f"images/b/{LONG}3.jpg", "images/b/2.JPEG", "images/a/1.png", "images/a/zwölf.webp", "images/a/notes.md", "images/a/.hidden.png"]
FORMATS = (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT))


def add(archive: tarfile.TarFile, member: str) -> None:
    """A member that holds its own name."""
    info, content = tarfile.TarInfo(f"./{member}"), member.encode()
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def link(archive: tarfile.TarFile, member: str, kind: bytes, target: str) -> None:
    """A link."""
    info = tarfile.TarInfo(f"./{member}")
    info.type, info.linkname = kind, target
    archive.addfile(info)


def formats() -> None:
    """The same members in every format."""
    for name, kind in FORMATS:
        with tarfile.open(HERE / f"archive-{name}.tar", "w", format=kind) as archive:
            folder = tarfile.TarInfo("./images/a")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for member in MEMBERS:
                add(archive, member)
            link(archive, "images/b/link.jpg", tarfile.SYMTYPE, "2.JPEG")
            link(archive, "images/ä/hard.jpg", tarfile.LNKTYPE, "./images/b/2.JPEG")
            add(archive, "images/ö/2.jpg")


def holes() -> None:
    """A file that is mostly hole before one that is not, by GNU tar."""
    for kind in ("gnu", "pax"):
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder, "images/cat")
            images.mkdir(parents=True)
            with Path(images, "holes.png").open("wb") as file:
                file.seek(1 << 20)
                file.write(b"end")
            Path(images, "whole.png").write_text("whole")
            when = ["--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--pax-option=delete=atime,delete=ctime"]
            subprocess.run(["tar", "-S", f"--format={kind}", *when[: 5 if kind == "gnu" else 6], "-C", folder, "-cf", HERE / f"archive-holes-{kind}.tar", "images"], check=True)


if __name__ == "__main__":
    formats()
    holes()
