"""Decodes every file of `FOLDER/files` with Pillow, for comparison.

    python odd_images_reference.py FOLDER

FOLDER/expected/NAME.png   convert("RGB") after ImageOps.exif_transpose of FOLDER/files/NAME, if Pillow reads it
FOLDER/expected.json       {NAME: {"format": Pillow's name of the format or null, "read": whether it was decoded}}

Files of formats that `lgd` does not read are identified, not decoded.
"""

import json
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageOps

READ = {"JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"}


def main() -> None:
    """Write the expected images and the list of verdicts."""
    folder = Path(sys.argv[1])
    (folder / "expected").mkdir()
    warnings.simplefilter("ignore")
    verdicts = {}
    for path in sorted((folder / "files").iterdir()):
        verdict = verdicts[path.name] = {"format": None, "read": False}
        try:
            with Image.open(path) as image:
                verdict["format"] = image.format
                if image.format in READ:
                    pixels = ImageOps.exif_transpose(image).convert("RGB")
                    pixels.save(folder / "expected" / f"{path.name}.png", compress_level=1)
                    verdict["read"] = True
        except Exception:  # whatever a decoder of Pillow raises on damaged data
            continue
    (folder / "expected.json").write_text(json.dumps(verdicts, indent=1) + "\n")


if __name__ == "__main__":
    main()
