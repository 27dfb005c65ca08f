"""A small builder of ONNX graphs: nodes are added in order, names are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 9


class Graph:
    """Collects nodes and weights, and writes them as a checked model."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: list[str | int]) -> str:
        """An input of the model; a string in the shape is a free dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[str | int]) -> None:
        """Makes the value `name`, of f32, an output of the model."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def weight(self, values: np.ndarray) -> str:
        """A constant, in the dtype it has."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def f32(self, values: np.ndarray | float) -> str:
        """A constant in f32."""
        return self.weight(np.asarray(values, dtype=np.float32))

    def i64(self, *values: int) -> str:
        """A vector of i64, as shapes and axes want it."""
        return self.weight(np.array(values, dtype=np.int64))

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        """A node with one output; returns the name of that output."""
        return self.ops(kind, *inputs, outputs=[name or f"t{len(self._nodes)}"], **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: list[str], **attributes: object) -> list[str]:
        """A node with several outputs; returns their names."""
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def model(self, name: str, about: str) -> onnx.ModelProto:
        """The finished model, checked."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], doc_string=about)
        model.ir_version = IR_VERSION
        model.producer_name = "lgd scripts/teacher"
        onnx.checker.check_model(model, full_check=True)
        return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes the model, the same bytes every time."""
    path.write_bytes(model.SerializeToString(deterministic=True))
