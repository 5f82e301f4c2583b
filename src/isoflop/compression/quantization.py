"""Post-training quantization of an ONNX classifier to INT8, in the format of ONNX Runtime's integer kernels on CPUs.

Static quantization in QDQ format (pairs of QuantizeLinear and DequantizeLinear): activations UINT8 by tensor, weights
INT8 by output channel. INT8 activations ran at 0.9 times the speed of float, UINT8 activations at 3 times. The
calibration method with the smallest error gives the ranges of the activations, and layers that cost more accuracy than
allowed stay in float.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from isoflop.compression.calibration import calibration_images
from isoflop.compression.int8.dynamic import linear_layers, with_dynamic_ranges
from isoflop.compression.int8.fusion import fused
from isoflop.compression.int8.ranges import Inputs, Method, Ranges, activation_ranges
from isoflop.compression.int8.static import WEIGHTED, nodes_to_quantize, with_ranges, without_layers
from isoflop.compression.int8.trial import Layer, Trial
from isoflop.data.arrays import Split
from isoflop.evaluation.scores import accuracy
from isoflop.inference.benchmarking import time_in_turns
from isoflop.inference.onnx_files import Floats, GraphIO, open_classifier, open_session, read_graph
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.runtime.terminal import printable

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Activations = Literal["static", "dynamic"]
Agreement = Callable[[Floats, npt.NDArray[Any]], float]

_FEW = 16  # calibration inputs where the exact ranges do not matter
_SAME = 1e-3  # error of the logits that a rewritten float graph may have
_TIMING = 50, 3, 3.0  # repeats, warmup, seconds
_CLEARLY_FASTER = 0.95  # static ranges are kept otherwise: a prediction then depends on no other image of its batch
_BETWEEN_LINEAR = {"Erf", "Gelu", "LayerNormalization"}  # operators of a transformer or a ConvNeXt


class Quantize(Section):
    """Section ``quantize``. Activations are ``static``: all layers in INT8, ranges from calibration; or ``dynamic``:
    linear layers in INT8, ranges computed in every run over its whole batch, everything between them in float.
    ``auto`` tries ``dynamic`` on transformers only, and takes it if it is measured to be faster on this machine.

    The methods ``percentile`` and ``auto`` (tries all three methods) read ``percentile``.

    ``max_accuracy_drop`` (0.01: one percentage point) is relative to the same graph in float, on the validation split.
    ``portable`` limits weights to 7 bits for x86 processors without VNNI, whose 16-bit sums would saturate otherwise.
    """

    activations: Literal["auto", "static", "dynamic"]  # when their ranges are found; auto: the faster, see above
    method: Literal["auto", "minmax", "percentile", "entropy"]  # of calibration; auto: the one with the smallest error
    percentile: float = Field(gt=50, le=100)  # percentage of the activations to cover; the others are clipped
    calibration_images: int = Field(ge=1, le=1_000_000)  # training images, balanced over the classes
    max_accuracy_drop: float = Field(ge=0, le=1)  # largest drop in validation accuracy; above it layers return to float
    keep_last_layer_float: bool  # the head; in INT8 it writes float logits
    portable: bool  # limit weights to 7 bits, see above


@dataclass(frozen=True)
class Quantized:
    """A graph in INT8 and how it was made."""

    graph: ModelProto
    activations: Activations
    method: Method | Literal["dynamic"]  # of calibration; dynamic: none
    ranges: Ranges
    errors: Mapping[str, float]  # by method: relative RMS error of the logits on the calibration inputs, all in INT8
    layers: list[Layer]
    float_accuracy: float
    accuracy: float
    kept_within: bool  # the drop in accuracy is at most the allowed one
    candidates_ms: Mapping[str, float] = field(default_factory=dict)  # latency by kind of activations, if compared

    def calibration(self, images: int) -> dict[str, object]:
        """Content of the calibration file: the ranges of the activations, found on ``images`` images."""
        ends = {name: list(values) for name, values in self.ranges.items()}
        return {"method": self.method, "images": images, "ranges": ends}

    def facts(self) -> dict[str, Any]:
        """Content of ``metrics/quantize-VARIANT.json``."""
        return {
            "activations": self.activations,
            "candidates_ms": {name: round(value, 5) for name, value in self.candidates_ms.items()},
            "method": self.method,
            "errors": {name: float(f"{error:.6g}") for name, error in self.errors.items()},
            "float_val_accuracy": round(self.float_accuracy, 6),
            "val_accuracy": round(self.accuracy, 6),
            "within_max_accuracy_drop": self.kept_within,
            "layers_in_float": sum(not layer.int8 for layer in self.layers),
            "layers": [asdict(layer) | {"error": float(f"{layer.error:.6g}")} for layer in self.layers],
        }


def quantize(
    source: Path, train: Split, val: Split, params: Quantize, *, target: Path, calibration: Path, metrics: Path
) -> dict[str, Any]:
    """Quantize the ONNX classifier ``source``; return the content of ``metrics``. The same inputs give the same bytes.

    The metadata is kept. Everything before the first layer with weights stays in float, and so does the softmax.

    Args:
        train: the calibration images come from this split.
        val: the accuracy is measured on this split.
        target: the INT8 graph.
        calibration: JSON with the ranges of the activations.
        metrics: JSON with the method, its errors, the accuracies and the sensitivity of each layer.

    Raises:
        UserError: isoflop did not export ``source``, it has no layer to quantize, or a split has no images or images of
            another shape.
    """
    classifier = open_classifier(source)
    shape = (classifier.image_size, classifier.image_size, classifier.channels)
    for split, noun, purpose in ((train, "training", "calibrate"), (val, "validation", "evaluate")):
        if not len(split) or split.images.shape[1:] != shape:
            raise UserError(
                f"quantize: got {len(split)} {noun} images of shape {list(split.images.shape[1:])} to {purpose} "
                f"{source} on, expected at least one of shape {list(shape)}"
            )
    images_NHWC = calibration_images(train.images, train.labels, params.calibration_images)
    found = quantize_graph(
        read_graph(source), classifier.graph_io, images_NHWC, val.images, val.labels, params, called=str(source)
    )
    target.write_bytes(found.graph.SerializeToString(deterministic=True))
    write_json(calibration, found.calibration(len(images_NHWC)))
    facts = found.facts()
    write_json(metrics, facts)
    return facts


def quantize_graph(
    graph: ModelProto,
    graph_io: GraphIO,
    calibration_N: Inputs,
    validation_N: Inputs,
    labels_N: npt.NDArray[Any],
    params: Quantize,
    *,
    called: str,
    agreement: Agreement = accuracy,
) -> Quantized:
    """An INT8 graph whose accuracy on ``validation_N`` is at most ``params.max_accuracy_drop`` below the float graph's.

    Of the calibration methods, the one with the smallest error of the logits on the calibration inputs is taken. If all
    layers in INT8 lose more than the allowed accuracy, the most sensitive layers return to float: as few as bisection
    finds. If the drop is still too large with a single INT8 layer left, ``kept_within`` is false.

    Args:
        called: name of the graph in error messages.
        agreement: share of the outputs [N, K] that agree with ``labels_N``; by default the accuracy.

    Raises:
        UserError: the graph has no layer to quantize, or its logits are not finite.
    """

    def measured(outputs_NK: Floats) -> float:
        return agreement(outputs_NK, labels_N)

    work = Trial(graph, graph_io, calibration_N, validation_N, measured, params.max_accuracy_drop, called)
    if params.activations == "static" or (params.activations == "auto" and not _is_transformer(graph)):
        return _static(work, params)
    dynamic = _dynamic(work, params)
    if params.activations == "dynamic":
        return dynamic
    return _faster(dynamic, work, params)


def _static(work: Trial, params: Quantize) -> Quantized:
    graph, nodes = work.graph, _static_nodes(work, params)
    layers = [node for node in graph.graph.node if node.name in set(nodes) and node.op_type in WEIGHTED]
    if not layers:
        raise UserError(f"{work.called}: got no layer to quantize, expected a Conv, Gemm or MatMul with weights")
    methods: Sequence[Method] = get_args(Method) if params.method == "auto" else (params.method,)
    tried = activation_ranges(graph, nodes, work.graph_io, work.calibration_N, methods, params.percentile)
    int8 = {name: with_ranges(graph, ranges, nodes, params.portable) for name, ranges in tried.items()}
    errors: dict[str, float] = {name: work.error(candidate) for name, candidate in int8.items()}
    method = min(tried, key=lambda name: errors[name])

    def without(floats: Sequence[NodeProto]) -> ModelProto:
        kept = without_layers(graph, nodes, floats)
        return with_ranges(graph, tried[method], kept, params.portable) if floats else int8[method]

    alone = work.layer_errors(graph, layers, tried[method], params.portable)
    found, described, reached = work.within(without, graph, layers, alone)
    within = reached >= work.least_accuracy
    return Quantized(found, "static", method, tried[method], errors, described, work.float_accuracy, reached, within)


def _dynamic(work: Trial, params: Quantize) -> Quantized:
    graph = _rewritten(work)
    layers = linear_layers(graph, params.keep_last_layer_float)
    if not layers:
        raise UserError(
            f"{work.called}: got no linear layer (Gemm or MatMul with weights), which dynamic ranges need; fix: "
            "quantize.activations: static"
        )

    def without(floats: Sequence[NodeProto]) -> ModelProto:
        names = {node.name for node in floats}
        return with_dynamic_ranges(graph, [node.name for node in layers if node.name not in names], params.portable)

    names = [node.name for node in layers]
    alone = work.layer_errors(graph, layers, _extremes(work, graph, names), params.portable)
    errors = {"dynamic": work.error(without([]))}
    found, described, reached = work.within(without, graph, layers, alone)
    within = reached >= work.least_accuracy
    return Quantized(found, "dynamic", "dynamic", {}, errors, described, work.float_accuracy, reached, within)


def _rewritten(work: Trial) -> ModelProto:
    """The float graph with fused attention, or as it is if the rewrite fails or changes the logits."""
    try:
        found = fused(work.graph, work.graph_io, work.calibration_N)
        return found if found is not None and work.error(found) < _SAME else work.graph
    except Exception as error:  # of onnxscript's patterns and of ONNX Runtime, on graphs that they do not expect
        why = " ".join(str(error).split())[:200]
        print(
            printable(f"warning: {work.called}: attention is not fused ({type(error).__name__}: {why})"),
            file=sys.stderr,
        )
        return work.graph


def _faster(dynamic: Quantized, work: Trial, params: Quantize) -> Quantized:
    """The faster of both kinds of activations, among those that lose at most the allowed accuracy.

    Static ranges are calibrated only if all layers in INT8 are fast enough: layers that return to float cost time.
    """
    nodes = _static_nodes(work, params)
    fastest = with_ranges(work.graph, _extremes(work, work.graph, nodes), nodes, params.portable)
    if dynamic.kept_within and _is_faster(milliseconds := _latencies(work, fastest, dynamic.graph)):
        return replace(dynamic, candidates_ms=milliseconds)
    static = _static(work, params)
    if static.kept_within != dynamic.kept_within:
        return static if static.kept_within else dynamic
    if not static.kept_within:
        return max(static, dynamic, key=lambda found: found.accuracy)
    milliseconds = _latencies(work, static.graph, dynamic.graph)
    return replace(dynamic if _is_faster(milliseconds) else static, candidates_ms=milliseconds)


def _latencies(work: Trial, static: ModelProto, dynamic: ModelProto) -> dict[str, float]:
    """Median latencies in ms for the smallest batch on one thread, timed in turns."""
    sessions = [open_session(graph.SerializeToString(), threads=1) for graph in (static, dynamic)]
    one = replace(work.graph_io, batch=work.graph_io.batch if work.graph_io.is_fixed else 1)
    batch, _ = next(one.batches(work.calibration_N))
    times = time_in_turns(sessions, {work.graph_io.input_name: batch}, *_TIMING)
    return {name: float(np.median(taken)) for name, taken in zip(get_args(Activations), times, strict=True)}


def _is_faster(milliseconds: Mapping[str, float]) -> bool:
    return milliseconds["dynamic"] < _CLEARLY_FASTER * milliseconds["static"]


def _static_nodes(work: Trial, params: Quantize) -> list[str]:
    return without_layers(work.graph, nodes_to_quantize(work.graph, params.keep_last_layer_float), [])


def _extremes(work: Trial, graph: ModelProto, nodes: Sequence[str]) -> Ranges:
    few_N = work.calibration_N[:_FEW]
    return activation_ranges(graph, nodes, work.graph_io, few_N, ["minmax"], percentile=100.0)["minmax"]


def _is_transformer(graph: ModelProto) -> bool:
    """Return whether float operators without INT8 kernels lie between linear layers."""
    kinds = {node.op_type for node in graph.graph.node}
    return bool(kinds & _BETWEEN_LINEAR) and bool(linear_layers(graph, keep_last_float=True))
