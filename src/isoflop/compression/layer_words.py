"""Layers of an ONNX graph in words: names of weights such as ``onnx::Conv_193`` tell a reader nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_GROUP = ", "  # between a layer's kind and number, and its size


def layer_words(graph: ModelProto, names: Collection[str]) -> dict[str, str]:
    """Return words for the named nodes, in the order of the graph: ``3×3 convolution 2, 16 to 32 channels``."""
    shapes = {item.name: list(item.dims) for item in graph.graph.initializer}
    numbers: Counter[str] = Counter()
    words = {}
    for node in graph.graph.node:
        if node.name in set(names):
            kind, size = _kind(node, shapes.get(node.input[1], []))
            numbers[kind] += 1
            words[node.name] = f"{kind} {numbers[kind]}{_GROUP}{size}"
    return words


def group_of(words: str) -> str:
    """Return the kind of a layer from its words, without its number: ``3×3 convolution``."""
    return words.partition(_GROUP)[0].rpartition(" ")[0]


def _kind(node: NodeProto, shape: list[int]) -> tuple[str, str]:
    attributes = {item.name: item.i for item in node.attribute}
    if node.op_type == "Conv" and len(shape) > 2:
        group = attributes.get("group", 1)
        kernel = "×".join(map(str, shape[2:]))
        if group > 1 and shape[1] == 1:
            return f"{kernel} depthwise convolution", f"{shape[0]} channels"
        return f"{kernel} {'grouped ' if group > 1 else ''}convolution", f"{shape[1] * group} to {shape[0]} channels"
    if len(shape) == 2:
        wide, narrow = shape if not attributes.get("transB") else shape[::-1]
        return "linear layer", f"{wide} to {narrow} features"
    return "matrix product", "×".join(map(str, shape)) or "unknown size"
