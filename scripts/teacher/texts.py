"""The text encoder all-MiniLM-L6-v2 (a BERT of 6 layers) as an ONNX graph, out of its safetensors file.

    input_ids, attention_mask [batch, tokens] i64  ->  text_embeds [batch, 384] f32, L2-normalized

The weights come in f16 and are stored in f32: an int8 export would be smaller, but it scales each
activation by the largest in its batch, so that a prompt's embedding would depend on its neighbors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto
from safetensors.numpy import load_file

from graph import Graph

WIDTH = 384
HEADS = 12
LAYERS = 6
NORM_EPSILON = 1e-12
MASKED = float(np.finfo(np.float32).min)
CONTEXT_LENGTH = 64


def minilm(weights_file: Path) -> ModelProto:
    """MiniLM with mean pooling."""
    bert = _Bert({name: value.astype(np.float32) for name, value in load_file(weights_file).items()})
    graph = bert.graph
    ids = graph.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    mask = graph.input("attention_mask", TensorProto.INT64, ["batch", "tokens"])
    kept = graph.op("Cast", mask, to=TensorProto.FLOAT)
    hidden = bert.embeddings(ids)
    bias = bert.attention_bias(kept)
    for layer in range(LAYERS):
        hidden = bert.layer(hidden, bias, f"encoder.layer.{layer}")
    value = _mean_pool(graph, hidden, kept)
    graph.op("LpNormalization", value, name="text_embeds", axis=-1, p=2)
    graph.output("text_embeds", ["batch", WIDTH])
    return graph.model("text", "all-MiniLM-L6-v2, mean-pooled")


def _mean_pool(graph: Graph, hidden: str, kept: str) -> str:
    """The mean over the tokens that are kept, L2-normalized (so that the sum does as well)."""
    row = graph.op("Unsqueeze", kept, graph.i64(1))
    total = graph.op("Squeeze", graph.op("MatMul", row, hidden), graph.i64(1))
    return graph.op("LpNormalization", total, axis=-1, p=2)


class _Bert:
    """BERT's layers, weights looked up by the names of the published checkpoint."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.graph = Graph()
        self.weights = weights
        head = WIDTH // HEADS
        self.split_shape = self.graph.i64(0, 0, 3 * HEADS, head)
        self.merge_shape = self.graph.i64(0, 0, WIDTH)
        self.scale = self.graph.f32(1.0 / np.sqrt(head))

    def embeddings(self, ids: str) -> str:
        """Word, position and segment embeddings, normalized; every token is of segment 0."""
        graph, weights = self.graph, self.weights
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        places = graph.f32(weights["embeddings.position_embeddings.weight"] + segment)
        count = graph.op("Shape", ids, start=1, end=2)
        places = graph.op("Slice", places, graph.i64(0), count, graph.i64(0))
        words = graph.op("Gather", graph.f32(weights["embeddings.word_embeddings.weight"]), ids)
        return self.norm(graph.op("Add", words, places), "embeddings.LayerNorm")

    def attention_bias(self, kept: str) -> str:
        """[batch, 1, 1, tokens]: 0 where a token is kept, else the smallest f32."""
        graph = self.graph
        dropped = graph.op("Sub", graph.f32(1.0), kept)
        return graph.op("Unsqueeze", graph.op("Mul", dropped, graph.f32(MASKED)), graph.i64(1, 2))

    def layer(self, hidden: str, bias: str, name: str) -> str:
        """Attention and the two-layer perceptron, each added to its input and then normalized."""
        graph = self.graph
        mixed = self.linear(self.attention(hidden, bias, f"{name}.attention.self"), f"{name}.attention.output.dense")
        hidden = self.norm(graph.op("Add", hidden, mixed), f"{name}.attention.output.LayerNorm")
        wide = graph.op("Gelu", self.linear(hidden, f"{name}.intermediate.dense"))
        mixed = self.linear(wide, f"{name}.output.dense")
        return self.norm(graph.op("Add", hidden, mixed), f"{name}.output.LayerNorm")

    def attention(self, hidden: str, bias: str, name: str) -> str:
        """Query, key and value as one product, split into heads."""
        graph, weights = self.graph, self.weights
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        kernel = np.concatenate([weights[f"{part}.weight"].T for part in parts], axis=1)
        shift = np.concatenate([weights[f"{part}.bias"] for part in parts])
        joint = graph.op("Add", graph.op("MatMul", hidden, graph.f32(kernel)), graph.f32(shift))
        heads = graph.op("Transpose", graph.op("Reshape", joint, self.split_shape), perm=[0, 2, 1, 3])
        names = [f"{name}.{part}" for part in ("q", "k", "v")]
        query, key, value = graph.ops("Split", heads, outputs=names, axis=1, num_outputs=3)
        key = graph.op("Transpose", key, perm=[0, 1, 3, 2])
        scores = graph.op("MatMul", graph.op("Mul", query, self.scale), key)
        shares = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", shares, value), perm=[0, 2, 1, 3])
        return graph.op("Reshape", mixed, self.merge_shape)

    def linear(self, value: str, name: str) -> str:
        graph = self.graph
        product = graph.op("MatMul", value, graph.f32(self.weights[f"{name}.weight"].T))
        return graph.op("Add", product, graph.f32(self.weights[f"{name}.bias"]))

    def norm(self, value: str, name: str) -> str:
        graph = self.graph
        weight, shift = (graph.f32(self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return graph.op("LayerNormalization", value, weight, shift, axis=-1, epsilon=NORM_EPSILON)
