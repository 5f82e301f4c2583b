"""Post-training quantization of an ONNX classifier to INT8, in the format of ONNX Runtime's integer kernels on CPUs.

Static quantization in QDQ format (pairs of QuantizeLinear and DequantizeLinear): activations UINT8 by tensor, weights
INT8 by output channel. INT8 activations ran at 0.9 times the speed of float, UINT8 activations at 3 times. The
calibration method with the smallest error gives the ranges of the activations, and layers that cost more accuracy than
allowed stay in float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from isoflop.compression.calibration import Inputs, Method, Ranges, activation_ranges, calibration_images, silence
from isoflop.compression.layer_words import layer_words
from isoflop.data.arrays import Split
from isoflop.evaluation.scores import accuracy
from isoflop.inference.onnx_files import Floats, GraphIO, open_classifier, outputs_of, read_graph
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.runtime.progress import tracked

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Agreement = Callable[[Floats, npt.NDArray[Any]], float]

_EXACT = 1e-9  # 1 - 0.99 is more than 0.01 in binary
_WEIGHTED = ("Conv", "Gemm", "MatMul")
# Operators that have INT8 kernels: between two INT8 layers, a float one would cost a conversion each way
_BETWEEN = ("Add", "MaxPool", "Relu")


class Quantize(Section):
    """Section ``quantize``. The methods ``percentile`` and ``auto`` (tries all three methods) read ``percentile``.

    ``max_accuracy_drop`` (0.01: one percentage point) is relative to the same graph in float, on the validation split.
    ``portable`` limits weights to 7 bits for x86 processors without VNNI, whose 16-bit sums would saturate otherwise.
    """

    method: Literal["auto", "minmax", "percentile", "entropy"]  # of calibration; auto: the one with the smallest error
    percentile: float = Field(gt=50, le=100)  # percentage of the activations to cover; the others are clipped
    calibration_images: int = Field(ge=1, le=1_000_000)  # training images, balanced over the classes
    max_accuracy_drop: float = Field(ge=0, le=1)  # largest drop in validation accuracy; above it layers return to float
    keep_last_layer_float: bool  # the head: in INT8 many of its logits would be equal
    portable: bool  # limit weights to 7 bits, see above


@dataclass(frozen=True)
class Layer:
    """A layer with weights, and the relative RMS error of the logits with only this layer in INT8."""

    name: str  # of its weight tensor
    kind: str
    error: float
    int8: bool
    words: str  # what it is, for people


@dataclass(frozen=True)
class Quantized:
    """A graph in INT8 and how it was made."""

    graph: ModelProto
    method: Method
    ranges: Ranges
    errors: dict[Method, float]  # relative RMS error of the logits on the calibration inputs, all layers in INT8
    layers: list[Layer]
    float_accuracy: float
    accuracy: float
    kept_within: bool  # the drop in accuracy is at most the allowed one

    def calibration(self, images: int) -> dict[str, object]:
        """Content of the calibration file: the ranges of the activations, found on ``images`` images."""
        ends = {name: list(values) for name, values in self.ranges.items()}
        return {"method": self.method, "images": images, "ranges": ends}

    def facts(self) -> dict[str, Any]:
        """Content of ``metrics/quantize-VARIANT.json``."""
        return {
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
    layers in INT8 lose more than the allowed accuracy, layers return to float one by one, the most sensitive first. If
    the drop is still too large with a single INT8 layer left, ``kept_within`` is false.

    Args:
        called: name of the graph in error messages.
        agreement: share of the outputs [N, K] that agree with ``labels_N``; by default the accuracy.

    Raises:
        UserError: the graph has no layer to quantize, or its logits are not finite.
    """
    nodes = _without(graph, nodes_to_quantize(graph, params.keep_last_layer_float), [])
    layers = [node for node in graph.graph.node if node.name in set(nodes) and node.op_type in _WEIGHTED]
    if not layers:
        raise UserError(f"{called}: got no layer to quantize, expected a Conv, Gemm or MatMul with weights")
    error = _logit_error(graph, graph_io, calibration_N, called)
    tried = _ranges_by_method(graph, nodes, graph_io, calibration_N, params)
    errors = {name: error(with_ranges(graph, ranges, nodes, params.portable)) for name, ranges in tried.items()}
    method = min(tried, key=errors.__getitem__)
    alone = {
        node.name: error(with_ranges(graph, tried[method], [node.name], params.portable))
        for node in tracked(layers, "measuring the sensitivity", "layers")
    }

    def measured(candidate: ModelProto) -> float:
        return agreement(outputs_of(candidate, graph_io, validation_N), labels_N)

    float_accuracy, most_sensitive_first = measured(graph), sorted(layers, key=lambda node: -alone[node.name])
    attempts = [most_sensitive_first[:floats] for floats in range(len(layers))]  # layers in float, at first none
    for floats in tracked(attempts, "measuring the accuracy, layers return to float", "layers"):
        int8 = with_ranges(graph, tried[method], _without(graph, nodes, floats), params.portable)
        reached = measured(int8)
        if within := float_accuracy - reached <= params.max_accuracy_drop + _EXACT:
            break
    words = layer_words(graph, [node.name for node in layers])
    described = [
        Layer(node.input[1], node.op_type, alone[node.name], node not in floats, words[node.name]) for node in layers
    ]
    return Quantized(int8, method, tried[method], errors, described, float_accuracy, reached, within)


def _ranges_by_method(
    graph: ModelProto, nodes: Sequence[str], graph_io: GraphIO, inputs_N: Inputs, params: Quantize
) -> dict[Method, Ranges]:
    methods: Sequence[Method] = get_args(Method) if params.method == "auto" else (params.method,)
    return {name: activation_ranges(graph, nodes, graph_io, inputs_N, name, params.percentile) for name in methods}


def _logit_error(graph: ModelProto, graph_io: GraphIO, inputs_N: Inputs, called: str) -> Callable[[ModelProto], float]:
    """A function of a quantized graph: the RMS error of its logits on ``inputs_N``, relative to the float logits."""
    float_NK = outputs_of(graph, graph_io, inputs_N)
    if not np.isfinite(float_NK).all():
        raise UserError(f"{called}: got logits that are not finite on the calibration images, expected finite ones")

    def error(quantized: ModelProto) -> float:
        difference_NK = outputs_of(quantized, graph_io, inputs_N) - float_NK
        return float(np.sqrt((difference_NK**2).mean() / max(float((float_NK**2).mean()), 1e-30)))

    return error


def nodes_to_quantize(graph: ModelProto, keep_last_layer_float: bool) -> list[str]:
    """Names of the nodes to quantize: layers with weights, and the nodes with INT8 kernels that follow them.

    The last layer computes the logits; in INT8 many of them would be equal.
    """
    weights = {item.name for item in graph.graph.initializer}
    weighted = [node for node in graph.graph.node if _has_weights(node, weights)]
    last = weighted[-1].name if weighted and keep_last_layer_float else None
    reached: set[str] = set()  # tensors that follow a layer with weights
    chosen = []
    for node in graph.graph.node:  # in topological order
        layer = _has_weights(node, weights)
        after = any(name in reached for name in node.input)
        if layer or after:
            reached.update(node.output)
        if node.name != last and (layer or (after and node.op_type in _BETWEEN)):
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
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(graph.metadata_props)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _has_weights(node: NodeProto, weights: set[str]) -> bool:
    return node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] in weights


def _without(graph: ModelProto, nodes: Sequence[str], floats: Sequence[NodeProto]) -> list[str]:
    """``nodes`` without the layers ``floats`` and without the nodes between them: those would cost conversions."""
    names = {node.name for node in floats}
    made_by = {output: node for node in graph.graph.node for output in node.output}
    kept = [name for name in nodes if name not in names]
    by_name = {node.name: node for node in graph.graph.node}
    for name in list(kept):
        node = by_name[name]
        sources = [made_by.get(tensor) for tensor in node.input]
        if node.op_type in _BETWEEN and all(source is None or source.name not in kept for source in sources):
            kept.remove(name)
    return kept
