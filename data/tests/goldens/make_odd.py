"""Writes `odd/`: images as other programs write them, and what Pillow decodes from each.

    python make_odd.py        (Pillow 13.0.0, numpy 2)

odd/read/NAME          an encoded image; odd/read/NAME.png is convert("RGB") after ImageOps.exif_transpose, except where
                       the reference is the documented rule (16 bits and floats, which Pillow clips)
odd/rejected/REASON-N  not an image that can be read, for this reason
"""

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from make_scene import scene

HERE = Path(__file__).parent
READ, REJECTED = HERE / "odd" / "read", HERE / "odd" / "rejected"
WIDTH, HEIGHT = 37, 23


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def write(name, data, pixels=None):
    """Stores a readable file, with Pillow's pixels or the given ones."""
    (READ / name).write_bytes(data)
    if pixels is None:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    Image.fromarray(np.ascontiguousarray(pixels)).save(READ / f"{name}.png", optimize=True)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def segments(jpeg):
    """The segments before the first scan as (marker, bytes), and the rest."""
    at, found = 2, []
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        found.append((jpeg[at + 1], jpeg[at:end]))
        at = end
    return found, jpeg[at:]


def joined(parts, rest):
    return b"\xff\xd8" + b"".join(body for _, body in parts) + rest


def without(jpeg, *markers):
    parts, rest = segments(jpeg)
    return joined([part for part in parts if part[0] not in markers], rest)


def before_frame(jpeg, added):
    parts, rest = segments(jpeg)
    at = next(index for index, (marker, _) in enumerate(parts) if marker in (0xC0, 0xC2))
    return joined([*parts[:at], (0, added), *parts[at:]], rest)


def before_scan(jpeg, added):
    parts, rest = segments(jpeg)
    return joined([*parts, (0, added)], rest)


def renamed(jpeg, old, new):
    """Renames the components in frame header and scan header."""
    parts, rest = segments(jpeg)
    rename = dict(zip(old, new))
    out = []
    for marker, body in parts:
        if marker in (0xC0, 0xC2):
            body = bytearray(body)
            for at in range(10, len(body), 3):
                body[at] = rename[body[at]]
        out.append((marker, bytes(body)))
    rest = bytearray(rest)
    for at in range(5, 5 + 2 * rest[4], 2):
        rest[at] = rename[rest[at]]
    return joined(out, bytes(rest))


def jpegs(image, gray):
    whole = encoded(image, "JPEG", quality=92, subsampling=0)
    bare = without(whole, 0xE0)
    tables = whole.index(b"\xff\xdb")
    bare_gray = without(encoded(gray, "JPEG", quality=92), 0xE0)
    stray = whole[:tables] + bytes(range(1, 7)) + whole[tables:]
    progressive = encoded(image, "JPEG", quality=92, progressive=True)
    second = progressive.index(b"\xff\xc4", progressive.index(b"\xff\xda"))
    rgb = encoded(image, "JPEG", quality=92, keep_rgb=True)
    for name, data in {
        "stray": stray,
        "stray-between-scans": progressive[:second] + b"\1\2\3" + progressive[second:],
        "comment-between-scans": progressive[:second] + segment(0xFE, b"hello") + progressive[second:],
        "fill": whole[:tables] + b"\xff\xff" + whole[tables:],
        "two-in-one": whole + bare_gray,
        "gray-adobe": before_frame(bare_gray, adobe(0)),
        "gray-adobe-late": before_scan(bare_gray, adobe(0)),
        "gray-adobe-ycbcr": before_frame(bare_gray, adobe(1)),
        "rgb-adobe-letters": before_frame(without(rgb, 0xE0, 0xEE), adobe(0)),
        "rgb-letters": without(rgb, 0xE0, 0xEE),
        "rgb-letters-with-jfif": before_frame(without(rgb, 0xEE), segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")),
        "rgb-adobe": before_frame(renamed(without(rgb, 0xE0, 0xEE), b"RGB", b"\1\2\3"), adobe(0)),
        "rgb-adobe-late": before_scan(renamed(without(rgb, 0xE0, 0xEE), b"RGB", b"\1\2\3"), adobe(0)),
        "ycbcr-letters": before_frame(renamed(bare, b"\1\2\3", b"RGB"), adobe(1)),
        "ycbcr-from-zero": renamed(bare, b"\1\2\3", b"\0\1\2"),
        "adobe-ycck-of-three": before_frame(bare, adobe(2)),
        "adobe-seven": before_frame(bare, adobe(7)),
        "restart-rows": encoded(image, "JPEG", quality=92, restart_marker_rows=1),
        "gray-restart-rows": encoded(gray, "JPEG", quality=92, restart_marker_rows=1),
        "411": encoded(image, "JPEG", quality=92, subsampling="4:1:1"),
    }.items():
        write(f"{name}.jpg", data)
    frame = bare_gray.index(b"\xff\xc0")
    write("gray-2x2.jpg", bare_gray[: frame + 11] + b"\x22" + bare_gray[frame + 12 :])
    mpo = io.BytesIO()
    image.save(mpo, "MPO", save_all=True, append_images=[image.rotate(180)], quality=92)
    write("two-views.mpo", mpo.getvalue())
    damaged_jpegs(whole, tables)


def damaged_jpegs(whole, tables):
    frame = whole.index(b"\xff\xc0")
    middle = len(whole) - 300
    broken = whole[:middle] + b"\xff\x00" * 20 + whole[middle + 40 :]

    def patched(offset, value):
        return whole[: frame + offset] + value + whole[frame + offset + len(value) :]

    rejects("corrupt", [broken, broken[:tables] + bytes(range(1, 7)) + broken[tables:], whole[:2] + whole])
    rejects("truncated", [whole[:-2], whole[:middle], whole[:tables] + b"\1\2\3" + whole[tables:middle]])
    codings = [b"\xc3", b"\xc5", b"\xc9", b"\xca", b"\xcb", b"\xcd"]
    unsupported = [patched(1, coding) for coding in codings] + [patched(4, b"\x0c"), patched(5, b"\0\0")]
    rejects("unsupported", unsupported)


def rejects(reason, files):
    start = len(list(REJECTED.glob(f"{reason}-*")))
    for number, data in enumerate(files, start):
        (REJECTED / f"{reason}-{number:02}").write_bytes(data)


def tiff(pixels, tags, *, big=False, order="<", strip=None):
    """A TIFF with one strip of data, or given strips."""
    strips = strip if strip is not None else [pixels]
    word, count, size = ("Q", "Q", 16) if big else ("L", "H", 8)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HH", 8, 0) if big else b""
    offset = size
    offsets = []
    for data in strips:
        offsets.append(offset)
        offset += len(data) + len(data) % 2
    body = b"".join(data + b"\0" * (len(data) % 2) for data in strips)
    tags = dict(tags)
    places, lengths = (324, 325) if 322 in tags else (273, 279)
    tags[places], tags[lengths] = ("L", offsets), ("L", [len(data) for data in strips])
    width = 8 if big else 4
    entries, extra = b"", b""
    start = offset + struct.calcsize(order + count) + len(tags) * (20 if big else 12) + struct.calcsize(order + word)
    for tag, (kind, values) in sorted(tags.items()):
        value = struct.pack(order + kind * len(values), *values)
        entries += struct.pack(order + "HH" + word, tag, {"H": 3, "L": 4}[kind], len(values))
        if len(value) <= width:
            entries += value.ljust(width, b"\0")
        else:
            entries += struct.pack(order + word, start + len(extra))
            extra += value + b"\0" * (len(value) % 2)
    directory = struct.pack(order + count, len(tags)) + entries + struct.pack(order + word, 0)
    return head + struct.pack(order + word, offset) + body + directory + extra


def plain_tags(bits, photometric, channels, **more):
    tags = {256: ("L", [WIDTH]), 257: ("L", [HEIGHT]), 258: ("H", [bits] * channels), 259: ("H", [1]),
            262: ("H", [photometric]), 277: ("H", [channels]), 278: ("L", [HEIGHT])}
    return tags | {int(tag[1:]): value for tag, value in more.items()}


def tiffs(image, gray):
    rgb, levels = np.asarray(image), np.asarray(gray)
    alpha = np.linspace(0, 255, WIDTH * HEIGHT).astype(np.uint8).reshape(HEIGHT, WIDTH)
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(alpha))
    for name, source, options in [
        ("lzw", image, {"compression": "tiff_lzw"}), ("deflate", image, {"compression": "tiff_adobe_deflate"}),
        ("packbits", image, {"compression": "packbits"}), ("jpeg", image, {"compression": "jpeg", "quality": 95}),
        ("palette", image.quantize(32), {}), ("palette-lzw", image.quantize(200), {"compression": "tiff_lzw"}),
        ("gray-alpha", rgba.convert("LA"), {}), ("bits", image.convert("1"), {}),
        ("group4", image.convert("1"), {"compression": "group4"}), ("cmyk-lzw", image.convert("CMYK"), {"compression": "tiff_lzw"}),
        ("big", image, {"big_tiff": True}), ("ycbcr-jpeg", image.convert("YCbCr"), {"compression": "jpeg", "quality": 95}),
    ]:
        write(f"{name}.tif", encoded(source, "TIFF", **options))
    for order in "<>":
        end = "le" if order == "<" else "be"
        write(f"rgb-{end}.tif", tiff(rgb.tobytes(), plain_tags(8, 2, 3), order=order))
        write(f"big-{end}.tif", tiff(rgb.tobytes(), plain_tags(8, 2, 3), order=order, big=True), rgb)  # Pillow lacks one of them
        write(f"white-is-zero-{end}.tif", tiff(levels.tobytes(), plain_tags(8, 0, 1), order=order))
        deep = np.random.default_rng(3).integers(0, 65536, rgb.shape).astype(order + "u2")
        write(f"rgb16-{end}.tif", tiff(deep.tobytes(), plain_tags(16, 2, 3), order=order), np.round(deep / 257).astype(np.uint8))
        unit = (rgb / 255).astype(order + "f4")
        floats = plain_tags(32, 2, 3, t339=("H", [3] * 3))
        write(f"rgb-float-{end}.tif", tiff(unit.tobytes(), floats, order=order), rgb)
    gray3 = np.stack([levels] * 3, -1)
    write("gray-float.tif", encoded(Image.fromarray(levels.astype(np.float32) / 255), "TIFF"), gray3)
    double = plain_tags(64, 1, 1, t339=("H", [3]))
    write("gray-double.tif", tiff((levels / 255).astype("<f8").tobytes(), double), gray3)
    planes = [np.ascontiguousarray(rgb[..., c]).tobytes() for c in range(3)]
    write("planar.tif", tiff(None, plain_tags(8, 2, 3, t284=("H", [2])), strip=planes))
    tiles = [np.pad(rgb, ((0, 9), (0, 11), (0, 0)))[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
    tags = plain_tags(8, 2, 3, t322=("L", [16]), t323=("L", [16]))
    del tags[278]
    write("tiled.tif", tiff(None, tags, strip=tiles))
    extra = np.dstack([rgb, alpha]).tobytes()
    for kind, name in [(0, "unused"), (2, "alpha")]:
        write(f"rgb-{name}.tif", tiff(extra, plain_tags(8, 2, 4, t338=("H", [kind]))))
    multiplied = np.dstack([rgb // 2, np.full_like(alpha, 127)]).tobytes()
    write("rgb-associated.tif", tiff(multiplied, plain_tags(8, 2, 4, t338=("H", [1]))))
    five = np.dstack([rgb, alpha, alpha]).tobytes()
    write("rgb-two-extra.tif", tiff(five, plain_tags(8, 2, 5, t338=("H", [2, 0]))))
    for bits in (2, 4):
        small = levels >> (8 - bits)
        write(f"gray{bits}.tif", tiff(packed(small, bits), plain_tags(bits, 1, 1)))
    write("bits-inverted-order.tif", tiff(packed(levels >> 7, 1, "little"), plain_tags(1, 1, 1, t266=("H", [2]))))
    ramp = [65535 * i // 15 for i in range(16)]
    colors = ("H", ramp + ramp[::-1] + [32768] * 16)
    write("palette4.tif", tiff(packed(levels >> 4, 4), plain_tags(4, 3, 1, t320=colors)))
    damaged = bytearray(encoded(image, "TIFF", compression="jpeg", quality=95))
    middle = damaged.index(b"\xff\xda") + 200
    damaged[middle : middle + 20] = b"\xff\0" * 10
    rejects("corrupt", [bytes(damaged)])
    # Integers of 32 bits and floats of another scale state no white; CIE L*a*b* and Group 3 fax are not read.
    lab = tiff(rgb.tobytes(), plain_tags(8, 8, 3))
    fax = encoded(image.convert("1"), "TIFF", compression="group3")
    zstd = encoded(image, "TIFF", compression="zstd")
    rejects("unsupported", [encoded(gray.convert(mode), "TIFF") for mode in "IF"] + [lab, fax, zstd])


def packed(values, bits, order="big"):
    """Rows of samples of a few bits, each row starting at a byte."""
    digits = (values[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1, bitorder=order).tobytes()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, color, rows, extra=b"", interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pngs(image, gray):
    levels, rgb = np.asarray(gray), np.asarray(image)
    palette = chunk(b"PLTE", bytes(np.random.default_rng(5).integers(0, 256, 48, dtype=np.uint8)))
    clear = chunk(b"tRNS", bytes([255, 0, 128]))
    for bits in (1, 2, 4):
        small = levels >> (8 - bits)
        stride = -(-WIDTH * bits // 8)
        data = packed(small, bits)
        rows = b"".join(b"\0" + data[at : at + stride] for at in range(0, len(data), stride))
        write(f"gray{bits}.png", png(WIDTH, HEIGHT, bits, 0, rows))
        write(f"palette{bits}.png", png(WIDTH, HEIGHT, bits, 3, rows, palette))
        write(f"palette{bits}-clear.png", png(WIDTH, HEIGHT, bits, 3, rows, palette + clear))
    clear = chunk(b"tRNS", struct.pack(">HHH", *map(int, rgb[3, 4])))
    plain = b"".join(b"\0" + row.tobytes() for row in rgb)
    write("rgb-clear-color.png", png(WIDTH, HEIGHT, 8, 2, plain, clear))
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in rgb[y::dy, x::dx] if row.size)
    write("interlaced.png", png(WIDTH, HEIGHT, 8, 2, rows, interlaced=1))
    exif = Image.Exif()
    exif[0x0112] = 6
    digits = exif.tobytes().hex()
    lines = "".join(f"\n{digits[at : at + 72]}" for at in range(0, len(digits), 72))
    profile = f"\nexif\n{len(digits) // 2:8}{lines}\n".encode()
    for kind, body in [(b"zTXt", b"\0" + zlib.compress(profile)), (b"tEXt", profile)]:
        text = chunk(kind, b"Raw profile type exif\0" + body)
        write(f"exif-in-{kind.decode()}.png", png(WIDTH, HEIGHT, 8, 2, plain, text))
    write("animated.png", encoded(image, "PNG", save_all=True, append_images=[image.rotate(180)], duration=100))


def pnms(image, gray):
    size = f"{WIDTH} {HEIGHT}"
    for most in (1, 15, 100, 254):
        small, colors = np.asarray(gray).astype(int) * most // 255, np.asarray(image).astype(int) * most // 255
        write(f"max-{most}.pgm", f"P5\n{size}\n{most}\n".encode() + small.astype(np.uint8).tobytes())
        write(f"max-{most}.ppm", f"P6\n{size}\n{most}\n".encode() + colors.astype(np.uint8).tobytes())
        write(f"ascii-{most}.pgm", f"P2\n{size}\n{most}\n{' '.join(map(str, small.ravel()))}\n".encode())
    bits = (np.asarray(gray) < 128).astype(int)
    write("ascii.pbm", f"P1 {size}\n{' '.join(map(str, bits.ravel()))}\n".encode())
    wide = np.random.default_rng(6).integers(0, 65536, (HEIGHT, WIDTH, 3))
    levels = np.round(wide / 257).astype(np.uint8)
    write("wide.ppm", f"P6 {size} 65535\n".encode() + wide.astype(">u2").tobytes(), levels)


def bmps(image):
    for name, colors in [("palette", 256), ("palette4", 16)]:
        whole = encoded(image.quantize(colors), "BMP")
        # The offset of the palette where that of the pixels belongs.
        write(f"{name}-offset.bmp", whole[:10] + struct.pack("<I", 54) + whole[14:])


def gifs(image):
    plain = encoded(image.quantize(17), "GIF")
    clear = encoded(image.quantize(17), "GIF", transparency=3)
    for name, data in [("plain", plain), ("clear", clear)]:
        place = data.index(b",\0\0\0\0")
        moved = data[: place + 1] + struct.pack("<HH", 5, 9) + data[place + 5 :]
        larger = moved[:6] + struct.pack("<HH", 60, 50) + moved[10:]
        write(f"partial-{name}.gif", larger)
        write(f"beyond-screen-{name}.gif", moved)


def webp_chunks(data):
    at = 12
    while at < len(data):
        size = struct.unpack("<I", data[at + 4 : at + 8])[0]
        yield data[at : at + 4], data[at : at + 8 + size + size % 2]
        at += 8 + size + size % 2


def riff(chunks):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webps(image):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    alpha = image.convert("RGBA")
    alpha.putalpha(image.convert("L"))
    for name, whole in {
        "lossless": encoded(image, "WEBP", lossless=True, exif=exif), "lossy": encoded(image, "WEBP", quality=90, exif=exif),
        "lossy-alpha": encoded(alpha, "WEBP", quality=90, exif=exif, exact=True),
    }.items():
        chunks = list(webp_chunks(whole))
        write(f"{name}-stripped.webp", riff(data for kind, data in chunks if kind != b"EXIF"))
        odd = b"PSAI" + struct.pack("<I", 3) + b"8BI\0"
        write(f"{name}-psai.webp", riff(b"".join([data, odd]) if kind == b"VP8X" else data for kind, data in chunks))
        write(f"{name}-trailing.webp", whole + b"\0" * 7)
        promised = bytearray(whole)
        promised[20] |= 0x20 | 0x08 | 0x04  # profile, EXIF and XMP
        write(f"{name}-promised.webp", bytes(promised))
    frames = [image, image.rotate(180)]
    for name, options in [("lossy", {"quality": 90}), ("lossless", {"lossless": True})]:
        whole = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=100, exif=exif, **options)
        write(f"animated-{name}-stripped.webp", riff(data for kind, data in webp_chunks(whole) if kind != b"EXIF"))
    clear = [Image.new("RGBA", (WIDTH, HEIGHT)), Image.new("RGBA", (WIDTH, HEIGHT))]
    for frame in clear:
        frame.paste(image.crop((5, 5, 20, 15)), (6, 8))
    write("animated-partial.webp", encoded(clear[0], "WEBP", save_all=True, append_images=clear[1:], duration=100, lossless=True))


def orientations(image):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        write(f"exif-{orientation}.png", encoded(image, "PNG", exif=exif))
        write(f"exif-{orientation}.webp", encoded(image, "WEBP", exif=exif, lossless=True))
        write(f"orientation-{orientation}.tif", tiff(np.asarray(image).tobytes(), plain_tags(8, 2, 3, t274=("H", [orientation]))))
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    whole = encoded(image, "JPEG", quality=92)
    write("xmp-6.jpg", before_frame(whole, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)))


def main():
    shutil.rmtree(HERE / "odd", ignore_errors=True)
    READ.mkdir(parents=True)
    REJECTED.mkdir()
    image = scene(WIDTH, HEIGHT, 1)
    gray = image.convert("L")
    jpegs(image, gray)
    tiffs(image, gray)
    pngs(image, gray)
    bmps(image)
    pnms(image, gray)
    gifs(image)
    webps(image)
    orientations(image)


if __name__ == "__main__":
    main()
