"""What the image encoders have in common, as pieces of ONNX graphs.

    pixel_values [batch, 3, height, width] f32  ->  image_embeds [batch, D] f32, pooled and L2-normalized
                                                    features     [batch, D] f32, pooled before the last activation
                                                    tokens       [batch, D, rows, columns] f32, the last feature map

The size is free: rows and columns are a 32nd of height and width, rounded up. Batch normalization is folded into the
convolution before it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graph import Graph


def pixels(graph: Graph) -> str:
    """The input `pixel_values`, RGB with ImageNet's mean and deviation taken out."""
    return graph.input("pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"])


def pool(graph: Graph, value: str, name: str | None = None) -> str:
    """The mean of a feature map, [batch, D]."""
    return graph.op("Flatten", graph.op("GlobalAveragePool", value), name=name)


def outputs(graph: Graph, width: int) -> None:
    """The three outputs. The values `tokens` and `features` are there already; the embedding is made of the tokens."""
    graph.op("LpNormalization", pool(graph, "tokens"), name="image_embeds", axis=-1, p=2)
    graph.output("image_embeds", ["batch", width])
    graph.output("features", ["batch", width])
    graph.output("tokens", ["batch", width, "rows", "columns"])


def folded_conv(
    graph: Graph,
    value: str,
    kernel: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    stride: int = 1,
    pads: list[int] | None = None,
    groups: int = 1,
) -> str:
    """A convolution (kernel OIHW) followed by a per-channel `scale` and `shift`, as one node."""
    side = kernel.shape[2]
    kernel = kernel * scale[:, None, None, None]
    return graph.op(
        "Conv",
        value,
        graph.f32(kernel),
        graph.f32(shift),
        kernel_shape=[side, side],
        strides=[stride, stride],
        pads=pads if pads is not None else [(side - 1) // 2] * 4,
        group=groups,
    )
