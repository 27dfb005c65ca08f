"""Writes the image fixtures of this folder, what Pillow decodes from them, and reference renderings by Pillow and torchvision.

    python make_goldens.py        (Pillow 13.0.0, torchvision 0.23.0, torch 2.8.0, numpy 2)

decode/NAME          an encoded image; decode/NAME.png is Pillow's convert("RGB") after ImageOps.exif_transpose
render/CASE.png      what torchvision makes of scene.png and others under the view in cases.json
rgb.raw              the pixels of decode/rgb.png, so that not everything leans on a PNG decoder
normalized.f32       ToTensor and Normalize (CLIP) of colors.png, [3, 64, 64] little-endian floats
"""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from make_scene import scene

HERE = Path(__file__).parent
DECODE, RENDER = HERE / "decode", HERE / "render"
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, width, height, bits, color, rows, extra=b""):
    """For what Pillow cannot write: 16 bits a channel, and headers that lie."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def expect(name, pixels=None):
    """Records what must come out of decode/NAME."""
    if pixels is None:
        pixels = ImageOps.exif_transpose(Image.open(DECODE / name)).convert("RGB")
    pixels.save(DECODE / f"{name}.png", optimize=True)


def decode_fixtures():
    image = scene(37, 23, 1)
    (HERE / "rgb.raw").write_bytes(np.asarray(image).tobytes())
    gray = image.convert("L")
    palette = image.quantize(17)
    alpha = image.convert("RGBA")
    ramp = np.linspace(0, 255, 37 * 23).astype(np.uint8).reshape(23, 37)
    alpha.putalpha(Image.fromarray(ramp))
    clear = palette.copy()
    clear.info["transparency"] = 3
    plain = {
        "rgb.png": (image, {}), "gray.png": (gray, {}), "gray-1bit.png": (image.convert("1"), {}),
        "gray-alpha.png": (alpha.convert("LA"), {}), "rgba.png": (alpha, {}), "palette.png": (palette, {}),
        "palette-4bit.png": (image.quantize(13), {"bits": 4}), "palette-transparent.png": (palette, {"transparency": 3}),
        "rgb.bmp": (image, {}), "palette.bmp": (palette, {}), "gray.bmp": (gray, {}),
        "palette.gif": (palette, {}), "transparent.gif": (palette, {"transparency": 3}),
        "rgb.tiff": (image, {"compression": "tiff_lzw"}), "gray.tiff": (gray, {}), "rgba.tiff": (alpha, {}),
        "cmyk.tiff": (image.convert("CMYK"), {}),
        "lossless.webp": (image, {"lossless": True}), "lossy.webp": (image, {"quality": 90}),
        "alpha.webp": (alpha, {"lossless": True, "exact": True}), "rgb.ppm": (image, {}), "gray.pgm": (gray, {}),
        "bits.pbm": (image.convert("1"), {}),
        "444.jpg": (image, {"subsampling": 0}), "420.jpg": (image, {"subsampling": 2}), "422.jpg": (image, {"subsampling": 1}),
        "gray.jpg": (gray, {}), "progressive.jpg": (image, {"progressive": True}),
        "restarts.jpg": (image, {"restart_marker_blocks": 2}), "cmyk.jpg": (image.convert("CMYK"), {"quality": 95}),
    }
    for name, (source, options) in plain.items():
        source.save(DECODE / name, **options)
        expect(name)
    other = scene(37, 23, 2)
    image.save(DECODE / "animated.gif", save_all=True, append_images=[other], duration=100)
    expect("animated.gif")
    image.save(DECODE / "animated.webp", save_all=True, append_images=[other], duration=100, lossless=True)
    expect("animated.webp")
    ascii_pixels = " ".join(str(v) for v in np.asarray(image).ravel())
    (DECODE / "ascii.ppm").write_text(f"P3\n# a comment\n37 23\n255\n{ascii_pixels}\n")
    expect("ascii.ppm")
    # Adobe's other form: the same file declared YCCK.
    cmyk = bytearray((DECODE / "cmyk.jpg").read_bytes())
    adobe = cmyk.index(b"Adobe")
    cmyk[adobe + 11] = 2
    (DECODE / "ycck.jpg").write_bytes(cmyk)
    expect("ycck.jpg")
    # Without the marker that says how the inks are meant.
    start = adobe - 4
    bare = cmyk[:start] + cmyk[start + 2 + int.from_bytes(cmyk[start + 2:start + 4], "big"):]
    (DECODE / "cmyk-unmarked.jpg").write_bytes(bare)
    expect("cmyk-unmarked.jpg")
    shutil.copy(DECODE / "rgb.png", DECODE / "png-named.JPEG")
    expect("png-named.JPEG")
    sixteen_bits()
    orientations(image)


def sixteen_bits():
    """Reference: the nearest 8-bit level, round(v / 257)."""
    rng = np.random.default_rng(3)
    for name, color, channels in [("gray16.png", 0, 1), ("rgb16.png", 2, 3), ("rgba16.png", 6, 4)]:
        values = rng.integers(0, 65536, (23, 37, channels), dtype=np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        write_png(DECODE / name, 37, 23, 16, color, rows)
        levels = np.round(values / 257.0).astype(np.uint8)[..., : 3 if channels > 1 else 1]
        expect(name, Image.fromarray(np.broadcast_to(levels, (23, 37, 3)).copy()))
    values = rng.integers(0, 65536, (23, 37), dtype=np.uint16)
    Image.fromarray(values).save(DECODE / "gray16.tiff")
    levels = np.round(values / 257.0).astype(np.uint8)
    expect("gray16.tiff", Image.fromarray(np.stack([levels] * 3, -1)))


def orientations(image):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"exif-{orientation}.jpg"
        image.save(DECODE / name, exif=exif, subsampling=0, quality=95)
        expect(name)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ["exif-6.png", "exif-6.webp", "exif-6.tiff"]:
        image.save(DECODE / name, exif=exif, **({"lossless": True} if name.endswith("webp") else {}))
        expect(name)


def bombs():
    write_png(HERE / "bomb.png", 60_000, 60_000, 8, 2, b"\0" * 64)
    write_png(HERE / "long.png", 100_000, 2, 8, 0, b"\0" * 64)


FILTERS = {
    "nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC, "lanczos": InterpolationMode.LANCZOS,
}
ADJUST = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]


def permutations():
    from itertools import permutations as all_of
    return list(all_of(range(4)))


def f32(value):
    return float(np.float32(value))


def reference(image, view, size, resample):
    filter_ = FILTERS[resample]
    if "box" in view:
        x, y, w, h = view["box"]
        image = F.resized_crop(image, y, x, h, w, [size, size], filter_)
    else:
        image = F.center_crop(F.resize(image, round(size / view["center"]), filter_), [size, size])
    if "jitter" in view:
        # A hue of None is one that ColorJitter does not change.
        factors = [None if v is None else f32(v) for v in view["jitter"]]
        for step in permutations()[view["order"]]:
            image = image if factors[step] is None else ADJUST[step](image, factors[step])
    if "lighting" in view:
        levels = np.asarray(image, np.float32) + np.float32(255) * np.asarray(view["lighting"], np.float32)
        image = Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))
    if view.get("gray"):
        image = F.rgb_to_grayscale(image, 3)
    if "blur" in view:
        radius = f32(np.float32(view["blur"]) * (np.float32(size) / np.float32(224)))
        if view.get("true_gaussian"):
            image = F.gaussian_blur(image, 23, radius)
        else:
            image = image.filter(ImageFilter.GaussianBlur(radius))
    return F.hflip(image) if view.get("flip") else image


def render_cases():
    landscape, portrait = "scene-161x113.png", "scene-113x161.png"
    exact = {"box": [40, 20, 64, 64]}  # no resizing: whatever follows must be exact
    for resample in FILTERS:
        yield f"shrink-{resample}", landscape, {"box": [3, 5, 150, 101]}, 48, resample
        yield f"enlarge-{resample}", landscape, {"box": [37, 11, 29, 41]}, 64, resample
        yield f"mixed-{resample}", portrait, {"box": [0, 10, 113, 40]}, 64, resample
        yield f"center-{resample}", landscape, {"center": 0.875}, 56, resample
    yield "center-portrait", portrait, {"center": 0.875}, 63, "bicubic"
    yield "center-whole", portrait, {"center": 1.0}, 64, "bilinear"
    yield "center-small", landscape, {"center": 0.5}, 48, "bilinear"
    yield "center-enlarge", "tiny-7x5.png", {"center": 0.875}, 50, "bicubic"
    yield "one-pixel", landscape, {"box": [80, 50, 1, 1]}, 8, "bicubic"
    yield "copy", landscape, exact, 64, "bilinear"
    for name, jitter in {
        "darker": (0.6, 1, 1, 0), "brighter": (1.37, 1, 1, 0), "flatter": (1, 0.63, 1, 0), "starker": (1, 1.4, 1, 0),
        "paler": (1, 1, 0.61, 0), "richer": (1, 1, 1.39, 0), "hue-up": (1, 1, 1, 0.083), "hue-down": (1, 1, 1, -0.1),
    }.items():
        yield f"jitter-{name}", landscape, {**exact, "jitter": jitter, "order": 0}, 64, "bilinear"
        yield f"colors-{name}", "colors.png", {"box": [0, 0, 64, 64], "jitter": jitter, "order": 0}, 64, "bilinear"
    for order in [1, 7, 14, 23]:
        jitter = (1.2, 0.7, 1.3, -0.06)
        yield f"order-{order}", landscape, {**exact, "jitter": jitter, "order": order}, 64, "bilinear"
    yield "gray", landscape, {**exact, "gray": True}, 64, "bilinear"
    yield "flip", landscape, {**exact, "flip": True}, 64, "bilinear"
    for sigma in [0.1, 0.9, 2.0, 7.0, 60.0]:
        yield f"blur-{sigma}", landscape, {**exact, "blur": sigma}, 64, "bilinear"
    for sigma in [0.5, 1.0, 2.0]:
        view = {"box": [0, 0, 113, 113], "blur": sigma * 224 / 113}
        yield f"blur-torchvision-{sigma}", landscape, {**view, "true_gaussian": True}, 113, "bilinear"
    # Shifts of -1.5 to 3 standard deviations, and one that leaves the range of levels.
    slight = {"jitter": (1.07, 0.93, 1.1, None), "order": 13}
    yield "lighting", landscape, {**exact, "lighting": (0.0187, -0.0093, 0.0041)}, 64, "bilinear"
    yield "lighting-colors", "colors.png", {"box": [0, 0, 64, 64], "lighting": (-0.12, 0.3, 0.001)}, 64, "bilinear"
    yield "lighting-kdep", portrait, {**exact, **slight, "lighting": (-0.006, -0.0058, -0.0061), "flip": True}, 64, "bilinear"
    everything = {"jitter": (0.8, 1.3, 0.7, 0.09), "order": 9, "blur": 1.6, "flip": True}
    yield "everything", landscape, {"box": [11, 7, 120, 97], **everything}, 96, "bilinear"
    yield "everything-gray", portrait, {"box": [2, 31, 99, 108], **everything, "gray": True}, 96, "bicubic"


def main():
    for folder in (DECODE, RENDER):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    decode_fixtures()
    bombs()
    rng = np.random.default_rng(4)
    images = {
        "scene-161x113.png": scene(161, 113, 5), "scene-113x161.png": scene(113, 161, 6), "tiny-7x5.png": scene(7, 5, 7),
        "colors.png": Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)),
    }
    for name, image in images.items():
        image.save(HERE / name, optimize=True)
    scene(500, 375, 8).save(HERE / "photo-500x375.jpg", quality=85)
    cases = []
    for name, source, view, size, resample in render_cases():
        reference(images[source], view, size, resample).save(RENDER / f"{name}.png", optimize=True)
        view.pop("true_gaussian", None)
        cases.append({"name": name, "image": source, "size": size, "resample": resample, **view})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")
    normalized = T.Normalize(*CLIP)(T.ToTensor()(images["colors.png"]))
    (HERE / "normalized.f32").write_bytes(normalized.numpy().astype("<f4").tobytes())


if __name__ == "__main__":
    main()
