"""Names with probabilities for images, by an exported student: Pillow and ONNX Runtime. The peer of benches/peers/predict."""

from __future__ import annotations

import argparse
import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import onnxruntime
from PIL import Image

TOP, TAU, FRACTION = 5, 0.2, 0.875


def pixels(path: Path, side: int) -> numpy.ndarray:
    """The center crop of an image, [3, S, S], 0 to 1: the shortest side to S / 0.875, the central S x S pixels."""
    image = Image.open(path).convert("RGB")
    length = round(side / FRACTION)
    scale = length / min(image.size)
    width, height = (max(length, int(length * size / min(image.size))) for size in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    box = tuple(edge / scale for edge in (left, top, left + side, top + side))
    image = image.resize((side, side), Image.Resampling.BICUBIC, box)
    return numpy.asarray(image, numpy.float32).transpose(2, 0, 1) / 255


def main() -> None:
    """Predict all images and print the throughput."""
    parser = argparse.ArgumentParser()
    for name in ("student", "images", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("threads", "batch", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.student, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names = json.loads(metadata.get("lgd.categories") or metadata["names"])
    side = session.get_inputs()[0].shape[-1]
    session.run(["scores"], {"images": numpy.zeros((args.batch, 3, side, side), numpy.float32)})

    started = time.perf_counter()
    paths = sorted(args.images.iterdir())
    batches = [paths[first : first + args.batch] for first in range(0, len(paths), args.batch)]
    pool = ThreadPoolExecutor(args.workers) if args.workers else None

    def load(batch: list[Path]) -> list:
        """The images of a batch: arrays, or futures of them."""
        return [pool.submit(pixels, path, side) if pool else pixels(path, side) for path in batch]

    with args.out.open("w") as file:
        writer = csv.writer(file)
        ahead = load(batches[0])
        for number, batch in enumerate(batches):
            images, ahead = ahead, load(batches[number + 1]) if pool and number + 1 < len(batches) else None
            images = numpy.stack([image.result() if pool else image for image in images])
            (scores,) = session.run(["scores"], {"images": images})
            if not pool and number + 1 < len(batches):
                ahead = load(batches[number + 1])
            mass = numpy.exp((scores - scores.max(1, keepdims=True)) / TAU)
            shares = mass / mass.sum(1, keepdims=True)
            for path, row in zip(batch, shares):
                best = numpy.argsort(-row, kind="stable")[:TOP]
                writer.writerow([path, *(value for at in best for value in (names[at], row[at]))])
    print(json.dumps({"images_per_second": len(paths) / (time.perf_counter() - started)}))


main()
