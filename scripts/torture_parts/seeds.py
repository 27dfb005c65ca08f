"""Valid files of every kind that `lgd` reads, small: seeds of scripts/torture and scripts/fuzz."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

#: Lists of names, by file name.
NAMES = {
    "names.txt": "cat\ndog\nship\nfrog",
    "names.csv": 'name,synonyms\n"cat",kitty\ndog,"hound; puppy"\n',
    "names.json": json.dumps({"cat": ["kitty"], "dog": []}),
    "index.json": json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}),
    "names.jsonl": '{"name": "cat"}\n{"name": "dog"}\n',
    "names.yaml": "- cat\n- dog\n",
}
TEMPLATES = "a photo of a {}.\nthe {}\n"


def pictures() -> dict[str, bytes]:
    """A valid file of every format and of many of their kinds."""
    draw = np.random.default_rng(0)
    rgb = Image.fromarray(draw.integers(0, 256, (24, 20, 3)).astype("u1"))
    files: dict[str, bytes] = {}

    def save(name: str, image: Image.Image, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, **options)
        files[name] = stream.getvalue()

    save("rgb.png", rgb, format="PNG")
    save("palette.png", rgb.quantize(16), format="PNG")
    save("deep.png", Image.fromarray(draw.integers(0, 65536, (9, 9)).astype("u2")), format="PNG")
    save("baseline.jpg", rgb, format="JPEG", quality=80)
    save("progressive.jpg", rgb, format="JPEG", progressive=True)
    save("cmyk.jpg", rgb.convert("CMYK"), format="JPEG")
    save("gray.jpg", rgb.convert("L"), format="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    save("lossy.webp", rgb, format="WEBP")
    save("lossless.webp", rgb.convert("RGBA"), format="WEBP", lossless=True)
    save("frames.gif", rgb.quantize(8), format="GIF", save_all=True, append_images=[rgb.rotate(90).quantize(8)])
    save("plain.bmp", rgb, format="BMP")
    save("palette.bmp", rgb.quantize(16), format="BMP")
    save("plain.ppm", rgb, format="PPM")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        save(f"{compression}.tiff", rgb, format="TIFF", compression=compression)
    return files


def archive() -> bytes:
    """A small TAR archive with labels, captions, a long name and a PAX header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, (name, bytes_) in enumerate(pictures().items()):
            for member, content in ((f"{number:03}{Path(name).suffix}", bytes_), (f"{number:03}.cls", b"1"), (f"{number:03}.txt", b"a cat")):
                entry = tarfile.TarInfo(member if number else "long" * 40 + member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def table(compression: str) -> bytes:
    """A small Parquet file with images, labels and captions."""
    images = [{"bytes": bytes_, "path": name} for name, bytes_ in pictures().items()]
    columns = {"image": images, "label": [number % 3 for number in range(len(images))], "caption": ["a cat"] * len(images)}
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, compression=compression, row_group_size=5)
    return stream.getvalue()


def listing(folder: Path, separator: str) -> bytes:
    """A list of the pictures, some names in quotes."""
    stream = io.StringIO()
    rows = csv.writer(stream, delimiter=separator, lineterminator="\n")
    rows.writerow(["path", "label"])
    for number, name in enumerate(pictures()):
        rows.writerow([str(folder / name), f"class {number % 3}" if number % 2 else 'say "cat", please'])
    return stream.getvalue().encode()


#: Files that describe a teacher, in the order of the target `teacher` (fuzz/src/lib.rs).
TEACHER = {
    "teacher.toml": '[image]\nmodel = "image.onnx"\nsize = 224\nmean = [0.5, 0.5, 0.5]\n\n[text]\nmodel = "text.onnx"\npad_id = 0\n',
    "config.json": '{"model_type": "clip", "vision_config": {"image_size": 224}, "text_config": {"max_position_embeddings": 77}}',
    "preprocessor_config.json": '{"crop_size": {"height": 224, "width": 224}, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], '
    '"image_std": [0.5, 0.5, 0.5], "resample": 3, "rescale_factor": 0.00392, "size": {"shortest_edge": 224}}',
    "processor_config.json": '{"image_processor": {"size": {"height": 224, "width": 224}, "resample": 2}}',
    "open_clip_config.json": '{"model_cfg": {"embed_dim": 512, "text_cfg": {"context_length": 77}}, '
    '"preprocess_cfg": {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "resize_mode": "squash"}}',
    "tokenizer_config.json": '{"model_max_length": 77, "pad_token": "!", "do_lower_case": true}',
    "special_tokens_map.json": '{"pad_token": {"content": "<pad>"}}',
    "pooling.json": '{"pooling_mode_mean_tokens": true, "word_embedding_dimension": 384}',
}


def columns() -> bytes:
    """A shard of a cache with embeddings of width 16, as `lgd extract` lays it out."""
    values = np.linspace(-1.0, 1.0, 8 * 16, dtype="f2")
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(values), 16)
    stream = io.BytesIO()
    pq.write_table(pa.table({"embedding": embeddings}), stream, compression="none", use_dictionary=False)
    return stream.getvalue()


def weights() -> bytes:
    """A safetensors file with one tensor."""
    header = json.dumps({"conv1.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(24)


def tokenizers() -> dict[str, bytes]:
    """A tokenizer of every model that the library knows, with a part of every kind around it."""
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "photo", "of", "cat", "##s", "at"])}
    letters = {letter: number for number, letter in enumerate(["<unk>", *"acfhopt", "ph", "ca", "cat</w>"])}
    special = {"id": 0, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    around = {
        "added_tokens": [special],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[PAD]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[PAD]": {"id": "[PAD]", "ids": [0], "tokens": ["[PAD]"]}},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    }
    replace = {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False}
    models = {
        "word-level": ({"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}, {}),
        "word-piece": (
            {"type": "WordPiece", "vocab": words, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
            around,
        ),
        "bpe": (
            {"type": "BPE", "vocab": letters, "merges": ["p h", "c a"], "unk_token": "<unk>", "end_of_word_suffix": "</w>"},
            {"normalizer": replace, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]}},
        ),
        "unigram": (
            {"type": "Unigram", "vocab": [["<unk>", 0.0], ["\u2581a", -1.0], ["cat", -2.0]], "unk_id": 0, "byte_fallback": False},
            {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}},
        ),
    }
    return {f"{name}.json": json.dumps({"version": "1.0", "model": model, **more}).encode() for name, (model, more) in models.items()}


def checkpoint() -> bytes:
    """The entries of a checkpoint other than the student's: three rows in a queue of eight, at step 3."""
    entries = {
        "loop/epoch_loss": ("F64", np.array([1.0, 2.5])),
        "loop/step": ("I64", np.array([3])),
        "objective/queue.next": ("U32", np.array([3], "u4")),
        "objective/queue.rows": ("U32", np.array([5, 0, 2], "u4")),
    }
    header, data = {}, b""
    for name, (dtype, values) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def of_targets() -> dict[str, dict[str, bytes]]:
    """The seeds of fuzz targets, by file name. A first byte selects the kind of file where a target has several.

    Those of manifests are kept in fuzz/corpus: real ones, without their hash.
    """
    lists = {"list.csv": listing(Path("images"), ","), "list.tsv": listing(Path("images"), "\t")}
    lists["list.jsonl"] = b'{"path": "a.png", "label": "cat"}\n{"path": "b.png", "label": 3}\n'
    lists["list.txt"] = b"a.png 0\nb.png 1\n"
    forms = {"txt": 0, "csv": 1, "json": 2, "jsonl": 3, "yaml": 4}
    names = {name: bytes([forms[name.split(".")[1]]]) + text.encode() for name, text in NAMES.items()}
    return {
        "images": pictures(),
        "tar": {"images.tar": archive()},
        "parquet": {f"{compression}.parquet": table(compression) for compression in ("none", "snappy", "zstd", "gzip")},
        "lists": {name: bytes([kind]) + text for kind, (name, text) in enumerate(lists.items())},
        "categories": names,
        "templates": {"templates.txt": TEMPLATES.encode()},
        "teacher": {name: bytes([kind]) + text.encode() for kind, (name, text) in enumerate(TEACHER.items())},
        "tokenizer": tokenizers(),
        "checkpoints": {"queue.safetensors": checkpoint()},
        "columns": {"views.parquet": columns()},
        "weights": {"one.safetensors": weights()},
    }
