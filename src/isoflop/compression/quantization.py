"""Post-training quantization of an ONNX classifier to INT8, in the form whose kernels ONNX Runtime has on CPUs.

Static, as pairs of QuantizeLinear and DequantizeLinear: activations uint8 by tensor, weights int8 by output channel.
Signed activations ran at 0.9 times the speed of float where unsigned ones reached 3. The ranges of activations are
found by the method with the least error, and layers that lose more accuracy than allowed stay in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import Field

from isoflop.compression.calibration import Inputs, Method, Ranges, activation_ranges, calibration_images, silence
from isoflop.data.arrays import Labels, Split
from isoflop.inference.onnx_files import GraphIO, open_classifier, outputs_of, read_graph
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.runtime.progress import tracked

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_EXACT = 1e-9  # a drop of 0.01 may be 1 - 0.99, which is more in binary
_WEIGHTED = ("Conv", "Gemm", "MatMul")
# What runs on 8 bits between two layers with weights, where float would cost a conversion each way
_BETWEEN = ("Add", "MaxPool", "Relu")


class Quantize(Section):
    """Section ``quantize``. ``percentile`` is read by the method of that name, and by ``auto``, which tries all three.

    ``max_accuracy_drop`` (0.01: one percentage point) is against the same graph in float, on the validation split.
    ``portable`` keeps weights to 7 bits, for x86 processors without VNNI, whose 16-bit sums would saturate.
    """

    method: Literal["auto", "minmax", "percentile", "entropy"]  # of finding ranges; auto: the best of three
    percentile: float = Field(gt=50, le=100)  # of the activations; what lies beyond is clipped
    calibration_images: int = Field(ge=1)  # training images, of each class as many
    max_accuracy_drop: float = Field(ge=0, le=1)  # share of the validation images; layers stay in float until it holds
    keep_last_layer_float: bool  # the head, whose logits would tie in 8 bits
    portable: bool  # weights of 7 bits


@dataclass(frozen=True)
class Layer:
    """A layer with weights: the error of the logits, relative to their size (rms), with that layer alone in 8 bits."""

    name: str  # of its weights
    kind: str
    error: float
    int8: bool


@dataclass(frozen=True)
class Quantized:
    """A graph in 8 bits and how it came about."""

    graph: ModelProto
    method: Method
    ranges: Ranges
    errors: dict[
        Method, float
    ]  # of the logits on the calibration inputs, relative (rms), by method, all layers in 8 bits
    layers: list[Layer]
    float_accuracy: float
    accuracy: float
    kept_within: bool  # the allowed drop

    def calibration(self, images: int) -> dict[str, object]:
        """The ranges that the graph was made with, found on so many images: what the calibration file says."""
        ends = {name: list(values) for name, values in self.ranges.items()}
        return {"method": self.method, "images": images, "ranges": ends}

    def facts(self) -> dict[str, object]:
        """What ``metrics/quantize-VARIANT.json`` says."""
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
) -> None:
    """Quantize the ONNX classifier ``source``, calibrated on images of ``train``; the same inputs, the same bytes.

    The metadata stays, and the layers from the input pixels to the first weights stay float, as does softmax.

    Args:
        target: the graph in 8 bits; calibration: JSON of the ranges that it was made with; metrics: JSON of how.

    Raises:
        UserError: ``source`` is not ours, has no layer to quantize, or a split has no images or others.
    """
    classifier = open_classifier(source)
    shape = (classifier.image_size, classifier.image_size, classifier.channels)
    for split, noun, purpose in ((train, "training", "calibrate"), (val, "validation", "judge")):
        if not len(split) or split.images.shape[1:] != shape:
            raise UserError(
                f"quantize: found {len(split)} {noun} images of {list(split.images.shape[1:])} to {purpose} "
                f"{source} on, expected some of {list(shape)}"
            )
    images_NHWC = calibration_images(train.images, train.labels, params.calibration_images)
    found = quantize_graph(
        read_graph(source), classifier.graph_io, images_NHWC, val.images, val.labels, params, called=str(source)
    )
    target.write_bytes(found.graph.SerializeToString(deterministic=True))
    write_json(calibration, found.calibration(len(images_NHWC)))
    write_json(metrics, found.facts())


def quantize_graph(
    graph: ModelProto,
    graph_io: GraphIO,
    calibration_N: Inputs,
    judged_N: Inputs,
    labels_N: Labels,
    params: Quantize,
    *,
    called: str,
) -> Quantized:
    """A graph in 8 bits whose accuracy on ``judged_N`` is at most ``params.max_accuracy_drop`` below that in float.

    Each method's ranges are tried on the calibration inputs, and the one whose logits are off least is taken. Where all
    layers in 8 bits lose more than allowed, they go back to float one by one, the one first that by itself does most
    harm. Where none but one is left and it still loses too much, ``kept_within`` says so.

    Raises:
        UserError: the graph, ``called`` so, has no layer to quantize, or gives no numbers.
    """
    nodes = _without(graph, nodes_to_quantize(graph, params.keep_last_layer_float), [])
    layers = [node for node in graph.graph.node if node.name in set(nodes) and node.op_type in _WEIGHTED]
    if not layers:
        raise UserError(f"{called}: found no layer to quantize, expected a Conv, Gemm or MatMul with weights")
    expected_NK = outputs_of(graph, graph_io, calibration_N)
    if not np.isfinite(expected_NK).all():
        raise UserError(f"{called}: found logits that are not finite for the calibration images, expected numbers")

    def error(quantized: ModelProto) -> float:
        off_NK = outputs_of(quantized, graph_io, calibration_N) - expected_NK
        return float(np.sqrt((off_NK**2).mean() / max(float((expected_NK**2).mean()), 1e-30)))

    methods: Sequence[Method] = get_args(Method) if params.method == "auto" else (params.method,)
    tried = {
        name: activation_ranges(graph, nodes, graph_io, calibration_N, name, params.percentile) for name in methods
    }
    errors = {name: error(with_ranges(graph, ranges, nodes, params.portable)) for name, ranges in tried.items()}
    method = min(methods, key=errors.__getitem__)
    alone = {
        node.name: error(with_ranges(graph, tried[method], [node.name], params.portable))
        for node in tracked(layers, "sensitivity", "layers")
    }

    def accuracy(judged: ModelProto) -> float:
        return float((outputs_of(judged, graph_io, judged_N).argmax(1) == labels_N).mean())

    float_accuracy = accuracy(graph)
    floats: list[NodeProto] = []
    worst_first = sorted(layers, key=lambda node: -alone[node.name])
    for worst in tracked([None, *worst_first[:-1]], "layers back to float until it is accurate enough", "layers"):
        floats += [worst] if worst else []
        whole = with_ranges(graph, tried[method], _without(graph, nodes, floats), params.portable)
        reached = accuracy(whole)
        if within := float_accuracy - reached <= params.max_accuracy_drop + _EXACT:
            break
    found = [Layer(node.input[1], node.op_type, alone[node.name], node not in floats) for node in layers]
    return Quantized(whole, method, tried[method], errors, found, float_accuracy, reached, within)


def nodes_to_quantize(graph: ModelProto, keep_last_layer_float: bool) -> list[str]:
    """Names of the nodes to quantize: layers with weights, and what lies between them and has 8-bit kernels.

    The last layer is the one that gives the logits: quantized, they tie.
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
    """``graph`` with the named nodes in 8 bits. The metadata stays."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = type(graph)()
    copy.CopyFrom(graph)  # the quantizer works in place
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
    quantizer.model.topological_sort()  # it appends the nodes that it adds
    quantized: ModelProto = quantizer.model.model
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(graph.metadata_props)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _has_weights(node: NodeProto, weights: set[str]) -> bool:
    return node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] in weights


def _without(graph: ModelProto, nodes: Sequence[str], floats: Sequence[NodeProto]) -> list[str]:
    """The nodes less those layers, and less what lies between two of them and would cost conversions for nothing."""
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
