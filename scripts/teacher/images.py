"""What the image encoders have in common, as pieces of ONNX graphs.

    pixel_values [batch, 3, height, width] f32  ->  image_embeds [batch, D] f32, L2-normalised
                                                    features     [batch, D] f32, as pooled

Batch normalisation is folded into the convolution before it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graph import Graph


def pixels(graph: Graph) -> str:
    """The input `pixel_values`, RGB with ImageNet's mean and deviation taken out."""
    return graph.input("pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"])


def embed(graph: Graph, value: str, width: int) -> None:
    """Global average pooling and L2 normalisation: the outputs `image_embeds` and `features`."""
    features = graph.op("Flatten", graph.op("GlobalAveragePool", value), name="features")
    graph.op("LpNormalization", features, name="image_embeds", axis=-1, p=2)
    graph.output("image_embeds", ["batch", width])
    graph.output("features", ["batch", width])


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
