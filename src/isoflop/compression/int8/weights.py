"""Weights in INT8: symmetric, one scale per output channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LARGEST, _LARGEST_PORTABLE = 127, 63  # with 8 bits, with 7 bits
_TINY = 1e-30


def output_axis(layer: NodeProto, axes: int) -> int:
    """Axis of the output channels in a layer's weights."""
    if layer.op_type == "Conv":
        return 0
    transposed = any(item.name == "transB" and item.i for item in layer.attribute)
    return 0 if transposed else axes - 1


def to_int8(
    weights: npt.NDArray[np.float32], axis: int, portable: bool
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return the weights in INT8 and their scales, with as many axes; the product of both approximates the weights."""
    others = tuple(index for index in range(weights.ndim) if index != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scale = np.maximum(largest / (_LARGEST_PORTABLE if portable else _LARGEST), np.float32(_TINY)).astype(np.float32)
    return np.round(weights / scale).astype(np.int8), scale


def drop_unread_weights(graph: ModelProto) -> None:
    """Remove the weights that no node reads."""
    read = {name for node in graph.graph.node for name in node.input} | {item.name for item in graph.graph.output}
    kept = [item for item in graph.graph.initializer if item.name in read]
    kept = [type(item).FromString(item.SerializeToString()) for item in kept]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
