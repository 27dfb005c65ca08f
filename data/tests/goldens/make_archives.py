"""TAR archives in the formats that Python's tarfile writes: the same members, each of which holds its own name.

    python make_archives.py        writes archive-ustar.tar, archive-gnu.tar and archive-pax.tar beside this file
"""

import io
import tarfile
from pathlib import Path

LONG = "one-of-four-folders-on-the-way/" * 4
MEMBERS = [f"images/b/{LONG}3.jpg", "images/b/2.JPEG", "images/a/1.png", "images/a/zwölf.webp", "images/a/notes.md", "images/a/.hidden.png"]


def main() -> None:
    """Write the archives."""
    for name, kind in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(Path(__file__).with_name(f"archive-{name}.tar"), "w", format=kind) as archive:
            folder = tarfile.TarInfo("./images/a")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for member in MEMBERS:
                info, content = tarfile.TarInfo(f"./{member}"), member.encode()
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("./images/b/link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "2.JPEG"
            archive.addfile(link)


if __name__ == "__main__":
    main()
