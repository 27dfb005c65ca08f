"""torchvision's MobileNetV2 as an ONNX image encoder, out of its `.pth` file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto

import checkpoint
from graph import Graph
from images import folded_conv, outputs, pixels, pool

# torchvision's MobileNetV2: expansion, channels, blocks, stride of the first block.
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
EPSILON = 1e-5


def build(weights_file: Path) -> tuple[ModelProto, np.ndarray]:
    """(Encoder of width 1280, ImageNet classifier [1000, 1280])."""
    weights = checkpoint.load(weights_file)
    net = _MobileNet(Graph(), weights)
    value = net.conv_bn(pixels(net.graph), "features.0.0", "features.0.1", stride=2)
    channels, block = 32, 1
    for expansion, out, count, first_stride in MOBILENET_STAGES:
        for index in range(count):
            stride = first_stride if index == 0 else 1
            value = net.block(value, f"features.{block}.conv", channels, out, expansion, stride)
            channels, block = out, block + 1
    last = (f"features.{block}.0", f"features.{block}.1")
    net.conv_bn(value, *last, name="tokens")
    net.linear_bn(pool(net.graph, value), *last, name="features")
    classifier = weights["classifier.1.weight"]
    outputs(net.graph, classifier.shape[1])
    return net.graph.model("image", "torchvision's MobileNetV2 without its classifier"), classifier


class _MobileNet:
    """The blocks of torchvision's MobileNetV2, weights looked up by torchvision's names."""

    def __init__(self, graph: Graph, weights: dict[str, np.ndarray]) -> None:
        self.graph = graph
        self.weights = weights
        self.zero = graph.f32(0.0)
        self.six = graph.f32(6.0)

    def conv_bn(
        self,
        value: str,
        conv: str,
        norm: str,
        stride: int = 1,
        groups: int = 1,
        *,
        relu6: bool = True,
        name: str | None = None,
    ) -> str:
        scale, shift = self.affine(norm)
        kernel = self.weights[f"{conv}.weight"]
        value = folded_conv(self.graph, value, kernel, scale, shift, stride=stride, groups=groups)
        return self.graph.op("Clip", value, self.zero, self.six, name=name) if relu6 else value

    def linear_bn(self, mean: str, conv: str, norm: str, name: str) -> str:
        """What a 1x1 convolution makes of a map's mean, which is the mean of what it makes of the map.

        Taken from the map itself, the mean would keep the convolution and its activation from being computed as one.
        """
        scale, shift = self.affine(norm)
        kernel = self.weights[f"{conv}.weight"][:, :, 0, 0] * scale[:, None]
        return self.graph.op("Gemm", mean, self.graph.f32(kernel), self.graph.f32(shift), transB=1, name=name)

    def affine(self, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of a batch normalization."""
        weight = self.weights
        scale = weight[f"{norm}.weight"] / np.sqrt(weight[f"{norm}.running_var"] + EPSILON)
        return scale, weight[f"{norm}.bias"] - weight[f"{norm}.running_mean"] * scale

    def block(self, value: str, name: str, channels: int, out: int, expansion: int, stride: int) -> str:
        """An inverted residual: widen (unless the expansion is 1), depthwise, narrow, add if the shapes agree."""
        inner, wide, layer = value, channels * expansion, 0
        if expansion != 1:
            inner = self.conv_bn(inner, f"{name}.0.0", f"{name}.0.1")
            layer = 1
        inner = self.conv_bn(inner, f"{name}.{layer}.0", f"{name}.{layer}.1", stride, groups=wide)
        inner = self.conv_bn(inner, f"{name}.{layer + 1}", f"{name}.{layer + 2}", relu6=False)
        return self.graph.op("Add", value, inner) if stride == 1 and channels == out else inner
