"""Static quantization in QDQ format: pairs of QuantizeLinear and DequantizeLinear, activations UINT8 by tensor, weights
INT8 by output channel. INT8 activations ran at 0.9 times the speed of float, UINT8 activations at 3 times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from isoflop.compression.calibration import silence
from isoflop.compression.int8.ranges import Ranges
from isoflop.compression.int8.weights import drop_unread_weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

WEIGHTED = ("Conv", "Gemm", "MatMul")
# Operators that have INT8 kernels: between two INT8 layers, a float one would cost a conversion each way
_BETWEEN = ("Add", "Clip", "MaxPool", "Relu")


def nodes_to_quantize(graph: ModelProto, keep_last_layer_float: bool) -> list[str]:
    """Names of the nodes to quantize: layers with weights, and the nodes with INT8 kernels between them."""
    weights = {item.name for item in graph.graph.initializer}
    weighted = [node for node in graph.graph.node if has_weights(node, weights)]
    last = weighted[-1].name if weighted else None
    reached: set[str] = set()  # tensors that follow a layer with weights
    chosen: list[str] = []
    for node in graph.graph.node:  # in topological order
        layer = has_weights(node, weights)
        after = any(name in reached for name in node.input)
        if layer or after:
            reached.update(node.output)
        if node.name == last:
            return chosen if keep_last_layer_float else [*chosen, node.name]
        if layer or (after and node.op_type in _BETWEEN):
            chosen.append(node.name)
    return chosen


def with_ranges(graph: ModelProto, ranges: Ranges, nodes: Sequence[str], portable: bool) -> ModelProto:
    """A copy of ``graph`` with the named nodes in INT8 and the same metadata."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = type(graph)()
    copy.CopyFrom(graph)  # the quantizer changes its input
    ends = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    kinds = sorted({node.op_type for node in copy.graph.node if node.name in set(nodes)})
    with silence():
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=portable,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ends),
            nodes_to_quantize=list(nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=kinds,
            extra_options={},
        )
        quantizer.quantize_model()
    quantizer.model.topological_sort()  # the quantizer appends its nodes at the end
    quantized: ModelProto = quantizer.model.model
    _keep_logits_float(quantized)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(graph.metadata_props)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _keep_logits_float(quantized: ModelProto) -> None:
    """Remove the conversion to INT8 and back after the last layer, if that is a Gemm or MatMul in INT8.

    Its kernel then writes the sums in float; in INT8 many logits would be equal.
    """
    nodes = quantized.graph.node
    layer = next((node for node in reversed(nodes) if node.op_type in WEIGHTED), None)
    if layer is None or layer.op_type == "Conv":
        return
    entries = [node for node in nodes if layer.output[0] in node.input]
    exits = [node for node in nodes if entries[:1] and entries[0].output[0] in node.input]
    if [node.op_type for node in (*entries, *exits)] == ["QuantizeLinear", "DequantizeLinear"]:
        layer.output[0] = exits[0].output[0]
        nodes.remove(exits[0])
        nodes.remove(entries[0])
        drop_unread_weights(quantized)


def has_weights(node: NodeProto, weights: set[str]) -> bool:
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights


def without_layers(graph: ModelProto, nodes: Sequence[str], floats: Sequence[NodeProto]) -> list[str]:
    """``nodes`` without the layers ``floats``, and without nodes between layers that would then cost conversions.

    A node between layers stays if an INT8 node computes one of its inputs, and INT8 nodes compute all of them or an
    INT8 layer reads its output. A residual sum of a transformer, which only float norms read, is thus in float.
    """
    names = {node.name for node in floats}
    kept = [name for name in nodes if name not in names]
    by_name = {node.name: node for node in graph.graph.node}
    constants = {item.name for item in graph.graph.initializer}
    read: set[str] = set()  # tensors that an INT8 layer reads, directly or through nodes between layers
    for name in reversed(kept):
        node = by_name[name]
        if node.op_type in WEIGHTED or any(output in read for output in node.output):
            read.update(node.input)
    int8: set[str] = set()  # tensors that an INT8 node computes
    for name in list(kept):
        node = by_name[name]
        inputs = [tensor in int8 for tensor in node.input if tensor not in constants]
        if node.op_type in _BETWEEN and not (any(inputs) and (all(inputs) or node.output[0] in read)):
            kept.remove(name)
        else:
            int8.update(node.output)
    return kept
