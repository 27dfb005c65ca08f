"""Keras' ResNet-50 as an ONNX image encoder, out of a TensorFlow.js model folder.

Keras' network takes BGR from 0 to 255 with the mean taken out. Its first convolution is rewritten for
RGB with ImageNet's mean and deviation taken out, exact but for a mean that differs by 0.005 of 255.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import ModelProto

from graph import Graph
from images import folded_conv, outputs, pixels, pool

# Name, blocks, stride of the first block.
STAGES = (("2", 3, 1), ("3", 4, 2), ("4", 6, 2), ("5", 3, 2))
LAST_BLOCK = "5c"
EPSILON = 1e-3
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def build(folder: Path) -> tuple[ModelProto, np.ndarray]:
    """(Encoder of width 2048, ImageNet classifier [1000, 2048])."""
    weights = load(folder)
    first = weights["conv1/kernel"][:, :, ::-1] * (255 * DEVIATION)[:, None]
    weights["conv1/kernel"] = first
    net = _ResNet(Graph(), weights)
    value = net.conv_bn(pixels(net.graph), "conv1", "bn_conv1", stride=2)
    value = net.graph.op("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    before = value
    for stage, blocks, stride in STAGES:
        for letter in "abcdef"[:blocks]:
            first, name = letter == "a", f"{stage}{letter}"
            before = net.block(value, name, stride if first else 1, shortcut=first)
            value = net.graph.op("Relu", before, name="tokens" if name == LAST_BLOCK else None)
    classifier = weights["fc1000/kernel"].T
    pool(net.graph, before, name="features")
    outputs(net.graph, classifier.shape[1])
    return net.graph.model("image", "Keras' ResNet-50 without its classifier"), classifier


def load(folder: Path) -> dict[str, np.ndarray]:
    """All weights by name: the manifest gives names and shapes, the shards follow one another."""
    weights = {}
    for group in json.loads((folder / "model.json").read_text())["weightsManifest"]:
        data = np.frombuffer(b"".join((folder / shard).read_bytes() for shard in group["paths"]), np.float32)
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            weights[entry["name"]] = data[:count].reshape(entry["shape"])
            data = data[count:]
        if data.size:
            raise ValueError(f"{folder}: {data.size} numbers are left over")
    return weights


class _ResNet:
    """Bottleneck blocks with the stride on the first 1x1 convolution, weights looked up by Keras' names."""

    def __init__(self, graph: Graph, weights: dict[str, np.ndarray]) -> None:
        self.graph = graph
        self.weights = weights

    def conv_bn(self, value: str, conv: str, norm: str, stride: int = 1, *, relu: bool = True) -> str:
        weight = self.weights
        scale = weight[f"{norm}/gamma"] / np.sqrt(weight[f"{norm}/moving_variance"] + EPSILON)
        shift = weight[f"{norm}/beta"] + (weight[f"{conv}/bias"] - weight[f"{norm}/moving_mean"]) * scale
        kernel = weight[f"{conv}/kernel"].transpose(3, 2, 0, 1)
        value = folded_conv(self.graph, value, kernel, scale, shift, stride=stride)
        return self.graph.op("Relu", value) if relu else value

    def block(self, value: str, name: str, stride: int = 1, *, shortcut: bool = False) -> str:
        """1x1, 3x3, 1x1, added to the input or to its projection: the sum before its activation."""
        names = [(f"res{name}_branch{branch}", f"bn{name}_branch{branch}") for branch in ("2a", "2b", "2c", "1")]
        inner = self.conv_bn(value, *names[0], stride)
        inner = self.conv_bn(inner, *names[1])
        inner = self.conv_bn(inner, *names[2], relu=False)
        if shortcut:
            value = self.conv_bn(value, *names[3], stride, relu=False)
        return self.graph.op("Add", value, inner)
