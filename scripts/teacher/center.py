"""A teacher whose image embeddings are centered: less their mean over a cache, and of length 1 again.

    third_party/venv/bin/python scripts/teacher/center.py --teacher DIR --cache DIR --out DIR

Embeddings of an ImageNet classifier share a large common direction, which takes up most of every similarity. The text encoder
is left as it is: the demo's is fitted to centered vectors already. Everything but the image encoder is linked to.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet
from onnx import helper, numpy_helper

from graph import save

OUTPUT = "image_embeds"


def main() -> None:
    """Read the mean, append two nodes, link the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--teacher", "--cache", "--out"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.teacher.iterdir():
        if path.name not in ("image.onnx", "teacher.toml"):
            (args.out / path.name).unlink(missing_ok=True)
            (args.out / path.name).symlink_to(path.resolve())
    shift = mean(args.cache)
    settings = (args.teacher / "teacher.toml").read_text()
    # Another mean is another teacher.
    name = f"centred-{hashlib.sha256(shift.tobytes()).hexdigest()[:8]}-"
    (args.out / "teacher.toml").write_text(settings.replace('name = "', f'name = "{name}', 1))
    save(centered(onnx.load(args.teacher / "image.onnx"), shift), args.out / "image.onnx")


def mean(cache: Path) -> np.ndarray:
    """The mean embedding of all views."""
    total, rows = 0.0, 0
    for shard in sorted(cache.glob("views-*.parquet")):
        column = pyarrow.parquet.read_table(shard, columns=["embedding"])["embedding"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(column), -1)
        total, rows = total + values.sum(axis=0), rows + len(values)
    return (total / rows).astype(np.float32)


def centered(model: onnx.ModelProto, shift: np.ndarray) -> onnx.ModelProto:
    """The model with `image_embeds` less `shift`, normalized."""
    graph = model.graph
    for node in graph.node:
        names = [f"{OUTPUT}_raw" if name == OUTPUT else name for name in node.output]
        del node.output[:]
        node.output.extend(names)
    graph.initializer.append(numpy_helper.from_array(shift, "embedding_mean"))
    graph.node.append(helper.make_node("Sub", [f"{OUTPUT}_raw", "embedding_mean"], [f"{OUTPUT}_centred"]))
    graph.node.append(helper.make_node("LpNormalization", [f"{OUTPUT}_centred"], [OUTPUT], axis=-1, p=2))
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
