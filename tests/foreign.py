"""Small classifiers as other tools write them, for tests of ``isoflop compress``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIDE, CLASSES = 24, 4
SHAPE: list[Any] = ["n", 3, SIDE, SIDE]

Arrays = dict[str, npt.NDArray[Any]]


def weights() -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (32, 16, 3, 3), "b2": (32,), "w3": (CLASSES, 32),
              "b3": (CLASSES,), "w4": (CLASSES, 32, 1, 1), "w5": (1, 32)}  # fmt: skip
    return {name: (0.2 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


LINEAR = [node("Flatten", "g", "f"), node("Gemm", "f w3 b3", "y", transB=1)]


def classifier(
    tail: list[NodeProto],
    *,
    shape: list[Any] | None = None,
    outputs: dict[str, list[Any] | None] | None = None,
    extra: Arrays | None = None,
    opset: int = 18,
    ir_version: int = 8,
) -> ModelProto:
    """Two convolutions and a pooling whose output ``g`` [n, 32, 1, 1] the nodes ``tail`` turn into scores ``y``."""
    nodes = [node("Conv", "x w1 b1", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"),
             node("Conv", "r w2 b2", "d", pads=[1, 1, 1, 1]), node("Relu", "d", "s"),
             node("GlobalAveragePool", "s", "g"), *tail]  # fmt: skip
    used = {name for item in nodes for name in item.input}
    constants = {name: value for name, value in (weights() | (extra or {})).items() if name in used}
    kind = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", kind, shape or SHAPE)]
    if ir_version < 4:  # weights are inputs, too
        inputs += [helper.make_tensor_value_info(name, kind, value.shape) for name, value in constants.items()]
    leaves = [
        helper.make_tensor_value_info(name, kind, axes) for name, axes in (outputs or {"y": ["n", CLASSES]}).items()
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "theirs", inputs, leaves, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
