"""Sensitivity of all layers in one run: the error that each one's INT8 input and weights add to the float graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from isoflop.compression.int8.ranges import Inputs, Probe, Ranges
from isoflop.compression.int8.weights import output_axis, to_int8
from isoflop.inference.onnx_files import GraphIO

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LEVELS = 255  # steps of UINT8
_TINY = 1e-30


def layer_errors(
    graph: ModelProto, layers: Sequence[NodeProto], ranges: Ranges, graph_io: GraphIO, inputs_N: Inputs, portable: bool
) -> dict[str, float]:
    """Relative RMS error of what each layer computes, by node name, if only this layer has INT8 input and weights.

    Each layer is computed twice from the float activations, once with its input and weights rounded to INT8. The error
    is relative to the layer's output, or to the sum of the residual connection that the output enters: a branch that
    adds little to its sum harms little.

    Args:
        ranges: of the inputs of the layers.
    """
    probed = type(graph)()
    probed.CopyFrom(graph)
    for layer in layers:
        _add_branch(probed, layer, ranges, _signal(graph, layer), portable)
    names = [f"{layer.name}/{end}" for layer in layers for end in ("noise", "signal")]
    sums = dict.fromkeys(names, 0.0)
    for values in Probe(probed, names, graph_io).batches(inputs_N, "measuring the sensitivity of all layers"):
        for name, value in values.items():
            sums[name] += float(value)
    return {
        layer.name: float(np.sqrt(sums[f"{layer.name}/noise"] / max(sums[f"{layer.name}/signal"], _TINY)))
        for layer in layers
    }


def _add_branch(probed: ModelProto, layer: NodeProto, ranges: Ranges, signal: str, portable: bool) -> None:
    """Append a copy of ``layer`` with INT8 input and weights, and the sums of squares NAME/noise and NAME/signal."""
    from onnx import helper, numpy_helper

    names = {key: f"{layer.name}/{key}" for key in ("input", "weights", "int8", "change", "noise", "signal")}
    weight = next(item for item in probed.graph.initializer if item.name == layer.input[1])
    rounded, step = to_int8(numpy_helper.to_array(weight), output_axis(layer, len(weight.dims)), portable)
    probed.graph.initializer.append(numpy_helper.from_array((rounded * step).astype(np.float32), names["weights"]))
    _round(probed, layer.input[0], names["input"], ranges)
    copy = type(layer)()
    copy.CopyFrom(layer)
    copy.name = names["int8"]
    copy.input[:] = [names["input"], names["weights"], *layer.input[2:]]
    copy.output[:] = [names["int8"]]
    probed.graph.node.extend(
        [
            copy,
            helper.make_node("Sub", [names["int8"], layer.output[0]], [names["change"]]),
            helper.make_node("ReduceSumSquare", [names["change"]], [names["noise"]], keepdims=0),
            helper.make_node("ReduceSumSquare", [signal], [names["signal"]], keepdims=0),
        ]
    )


def _round(probed: ModelProto, tensor: str, rounded: str, ranges: Ranges) -> None:
    """Append nodes that compute ``rounded``, ``tensor`` rounded to UINT8."""
    from onnx import helper, numpy_helper

    low, high = min(ranges[tensor][0], 0.0), max(ranges[tensor][1], 0.0)
    scale = np.float32(max((high - low) / _LEVELS, _TINY))
    parameters = [f"{rounded}/scale", f"{rounded}/zero"]
    probed.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(scale), parameters[0]),
            numpy_helper.from_array(np.array(round(-low / float(scale)), np.uint8), parameters[1]),
        ]
    )
    probed.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{rounded}/uint8"]),
            helper.make_node("DequantizeLinear", [f"{rounded}/uint8", *parameters], [rounded]),
        ]
    )


def _signal(graph: ModelProto, layer: NodeProto) -> str:
    """The sum of the residual connection that the layer's output enters directly or after its bias, else its output."""
    constants = {item.name for item in graph.graph.initializer}
    tensor = str(layer.output[0])
    while True:
        readers = [node for node in graph.graph.node if tensor in node.input]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return tensor
        others = [name for name in readers[0].input if name != tensor]
        tensor = str(readers[0].output[0])
        if not others or others[0] not in constants:
            return tensor
