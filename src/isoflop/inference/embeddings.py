"""Embeddings of images: the input of the layer that computes the scores, as one more output of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.inference.foreign_io import METADATA_KEY, read_foreign_io
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from onnx import GraphProto

_LAYERS = ("Gemm", "MatMul", "Conv", "MatMulIntegerToFloat")


def with_embeddings(content: bytes, scores: str, file: Path) -> tuple[bytes, str]:
    """Return the ONNX model ``content`` with the input of its last layer as an output, and the name of that output.

    Args:
        scores: name of the output with the scores, unless the metadata of ``isoflop compress`` names another one.

    Raises:
        UserError: no layer with weights computes the scores.
    """
    import onnx

    model = onnx.load_model_from_string(content, format="protobuf")
    metadata = {item.key: item.value for item in model.metadata_props}
    if METADATA_KEY in metadata:
        scores = read_foreign_io(metadata[METADATA_KEY], file).output_name
    tensor = _before_last_layer(model.graph, scores)
    if tensor is None:
        raise UserError(
            f"{file}: got no layer with weights before {scores!r}, expected one whose input is the embedding"
        )
    if tensor not in [item.name for item in model.graph.output]:
        model.graph.output.append(onnx.ValueInfoProto(name=tensor))  # ONNX Runtime infers its type
    return model.SerializeToString(), tensor


def _before_last_layer(graph: GraphProto, scores: str) -> str | None:
    made_by = {name: node for node in graph.node for name in node.output}
    tensor: str | None = scores
    for _ in range(len(graph.node)):
        node = made_by.get(tensor or "")
        if node is None or not node.input:
            return None
        if node.op_type in _LAYERS:
            return str(node.input[0])
        tensor = node.input[0]
    return None
