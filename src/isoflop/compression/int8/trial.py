"""Measurements of graphs with some layers in INT8, and the fewest layers in float by bisection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isoflop.compression.int8.ranges import Inputs, Ranges
from isoflop.compression.int8.sensitivity import layer_errors
from isoflop.compression.layer_words import layer_words
from isoflop.inference.onnx_files import Floats, GraphIO, outputs_of
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SENSITIVITY_INPUTS = 16  # at most; of the calibration inputs
_EXACT = 1e-9  # 1 - 0.99 is more than 0.01 in binary


@dataclass(frozen=True)
class Layer:
    """A layer with weights, and the relative RMS error of what it computes with only this layer in INT8."""

    name: str  # of its weight tensor
    kind: str
    error: float
    int8: bool
    words: str  # what it is, for people


class Trial:
    """A float graph, the inputs to calibrate and to evaluate on, and measurements of INT8 graphs on them.

    Args:
        measured: accuracy of the outputs [N, K] for ``validation_N``.
        called: name of the graph in error messages.

    Raises:
        UserError: the logits of the float graph are not finite.
    """

    def __init__(
        self,
        graph: ModelProto,
        graph_io: GraphIO,
        calibration_N: Inputs,
        validation_N: Inputs,
        measured: Callable[[Floats], float],
        max_accuracy_drop: float,
        called: str,
    ) -> None:
        self.graph, self.graph_io, self.calibration_N, self.called = graph, graph_io, calibration_N, called
        self._validation_N, self._measured = validation_N, measured
        self._float_NK = outputs_of(graph, graph_io, calibration_N)
        if not np.isfinite(self._float_NK).all():
            raise UserError(f"{called}: got logits that are not finite on the calibration images, expected finite ones")
        self.float_accuracy = self.accuracy(graph)
        self.least_accuracy = self.float_accuracy - max_accuracy_drop - _EXACT

    def accuracy(self, candidate: ModelProto) -> float:
        return self._measured(outputs_of(candidate, self.graph_io, self._validation_N))

    def error(self, candidate: ModelProto) -> float:
        """RMS error of a graph's logits on the calibration inputs, relative to the float logits."""
        difference_NK = outputs_of(candidate, self.graph_io, self.calibration_N) - self._float_NK
        return float(np.sqrt((difference_NK**2).mean() / max(float((self._float_NK**2).mean()), 1e-30)))

    def layer_errors(
        self, graph: ModelProto, layers: Sequence[NodeProto], ranges: Ranges, portable: bool
    ) -> dict[str, float]:
        return layer_errors(graph, layers, ranges, self.graph_io, self.calibration_N[:_SENSITIVITY_INPUTS], portable)

    def within(
        self,
        without: Callable[[Sequence[NodeProto]], ModelProto],
        graph: ModelProto,
        layers: Sequence[NodeProto],
        errors: Mapping[str, float],
    ) -> tuple[ModelProto, list[Layer], float]:
        """The INT8 graph with the fewest layers in float that is accurate enough, its layers, and its accuracy.

        Args:
            without: makes the INT8 graph with the given layers in float.
            graph: the float graph that ``without`` starts from.
        """
        sensitive_first = sorted(layers, key=lambda node: -errors[node.name])
        found, count, reached = fewest_floats(
            lambda count: without(sensitive_first[:count]), len(layers), self.accuracy, self.least_accuracy
        )
        floats = {node.name for node in sensitive_first[:count]}
        words = layer_words(graph, [node.name for node in layers])
        described = [
            Layer(node.input[1], node.op_type, errors[node.name], node.name not in floats, words[node.name])
            for node in layers
        ]
        return found, described, reached


def fewest_floats(
    with_floats: Callable[[int], ModelProto], layers: int, measured: Callable[[ModelProto], float], least: float
) -> tuple[ModelProto, int, float]:
    """The graph with the fewest layers in float whose accuracy is at least ``least``, their number, and its accuracy.

    Bisection: more layers in float are taken to be more accurate. Without such a graph, one with a single INT8 layer.
    """
    best = (candidate := with_floats(0)), 0, measured(candidate)
    if best[2] >= least or layers == 1:
        return best
    low, high = 0, layers - 1  # too few layers in float; enough, if the graph with a single INT8 layer is
    best = (candidate := with_floats(high)), high, measured(candidate)
    while best[2] >= least and high - low > 1:
        middle = (low + high) // 2
        candidate = with_floats(middle)
        if (reached := measured(candidate)) >= least:
            best, high = (candidate, middle, reached), middle
        else:
            low = middle
    return best
