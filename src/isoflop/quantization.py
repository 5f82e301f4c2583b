"""Post-training quantization of an ONNX classifier to INT8, in the form whose kernels ONNX Runtime has on CPUs.

Static, as pairs of QuantizeLinear and DequantizeLinear: activations uint8 by tensor, weights int8 by output channel.
Signed activations ran at 0.9 times the speed of float where unsigned ones reached 3.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from isoflop.arrays import Images, Labels, Split
from isoflop.errors import UserError
from isoflop.onnx_files import INPUT, LOGITS, open_classifier, read_graph
from isoflop.params import Section

if TYPE_CHECKING:
    from onnx import ModelProto

_BATCH = 32  # images whose activations are held at once
_WEIGHTED = ("Conv", "Gemm", "MatMul")
# What runs on 8 bits between two layers with weights, where float would cost a conversion each way
_BETWEEN = ("Add", "MaxPool", "Relu")
# ONNX Runtime's default is 128 bins for 128 levels: nothing to choose, so its entropy is minmax. Its search is plain
# Python, quadratic in the bins: 2,048 take 10 times as long as 512 and gave no smaller error on any family.
_ENTROPY = {"num_bins": 512, "num_quantized_bins": 128, "symmetric": False}


class Quantize(Section):
    """Section ``quantize``. ``percentile`` is read by the method of that name alone.

    ``portable`` keeps weights to 7 bits, for x86 processors without VNNI, whose 16-bit sums would saturate.
    """

    method: Literal["minmax", "percentile", "entropy"]
    percentile: float = Field(gt=50, le=100)
    calibration_images: int = Field(ge=1)
    keep_last_layer_float: bool
    portable: bool


def quantize(source: Path, train: Split, params: Quantize, target: Path) -> None:
    """Quantize the ONNX classifier ``source``, calibrated on images of ``train``; the same inputs, the same bytes.

    The metadata stays, and the layers from the input pixels to the first weights stay float, as does softmax.

    Raises:
        UserError: ``source`` is not ours, has no layer to quantize, or ``train`` has no images or another shape.
    """
    classifier = open_classifier(source)
    shape = (classifier.image_size, classifier.image_size, classifier.channels)
    if not len(train) or train.images.shape[1:] != shape:
        raise UserError(
            f"quantize: found {len(train)} training images of {list(train.images.shape[1:])} to calibrate "
            f"{source} on, expected some of {list(shape)}"
        )
    graph = read_graph(source)
    nodes = nodes_to_quantize(graph, params.keep_last_layer_float)
    if not nodes:
        raise UserError(f"{source}: found no layer to quantize, expected a Conv, Gemm or MatMul with weights")
    images_NHWC = calibration_images(train.images, train.labels, params.calibration_images)
    quantized = _quantized(graph, _ranges(graph, nodes, images_NHWC, params), nodes, params.portable)
    target.write_bytes(quantized.SerializeToString(deterministic=True))


def calibration_images(images_NHWC: Images, labels_N: Labels, count: int) -> Images:
    """The ``count`` images (or all) that calibrate: the first of each class, the second of each, and so on."""
    order = np.argsort(labels_N, kind="stable")
    starts = np.searchsorted(labels_N[order], labels_N[order])
    rank_N = np.empty(len(order), np.int64)  # of an image within its class
    rank_N[order] = np.arange(len(order)) - starts
    chosen = np.sort(np.lexsort((labels_N, rank_N))[:count])  # ascending: a memory map is read in order
    picked: Images = images_NHWC[chosen]
    return picked


def nodes_to_quantize(graph: ModelProto, keep_last_layer_float: bool) -> list[str]:
    """Names of the nodes to quantize: layers with weights, and what lies between them and has 8-bit kernels.

    The last layer is the one that gives the logits: quantized, they tie.
    """
    weights = {item.name for item in graph.graph.initializer}
    reached: set[str] = set()  # tensors that follow a layer with weights
    chosen = []
    for node in graph.graph.node:  # in topological order
        weighted = node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] in weights
        after = any(name in reached for name in node.input)
        if weighted or after:
            reached.update(node.output)
        if keep_last_layer_float and LOGITS in node.output:
            continue
        if weighted or (after and node.op_type in _BETWEEN):
            chosen.append(node.name)
    return chosen


class _Reader:
    """Hands one batch to a calibrator of ONNX Runtime, which keeps all that it is handed until it has no more."""

    def __init__(self, batch_BHWC: npt.NDArray[np.uint8]) -> None:
        self._batches: Iterator[dict[str, Any]] = iter([{INPUT: batch_BHWC}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _ranges(graph: ModelProto, nodes: list[str], images_NHWC: Images, params: Quantize) -> Any:
    """What each activation ranges over on the calibration images (onnxruntime's TensorsData), in constant memory."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    method, options = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": params.percentile, "symmetric": False}),
        "entropy": (CalibrationMethod.Entropy, _ENTROPY),
    }[params.method]
    kinds = sorted({node.op_type for node in graph.graph.node if node.name in set(nodes)})
    with tempfile.TemporaryDirectory() as scratch, _silence():
        source = Path(scratch) / "float.onnx"
        source.write_bytes(graph.SerializeToString())
        augmented = str(Path(scratch) / "augmented.onnx")
        calibrator = create_calibrator(
            source, kinds, augmented_model_path=augmented, calibrate_method=method, extra_options=options
        )
        for start in range(0, len(images_NHWC), _BATCH):
            calibrator.collect_data(_Reader(np.ascontiguousarray(images_NHWC[start : start + _BATCH])))
        return calibrator.compute_data()


def _quantized(graph: ModelProto, ranges: Any, nodes: list[str], portable: bool) -> ModelProto:
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    metadata = {item.key: item.value for item in graph.metadata_props}
    kinds = sorted({node.op_type for node in graph.graph.node if node.name in set(nodes)})
    with _silence():
        quantizer = QDQQuantizer(
            graph,
            per_channel=True,
            reduce_range=portable,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=kinds,
            extra_options={},
        )
        quantizer.quantize_model()
    quantizer.model.topological_sort()  # it appends the nodes that it adds
    quantized: ModelProto = quantizer.model.model
    del quantized.metadata_props[:]
    for key, value in metadata.items():
        quantized.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing of what onnxruntime's quantizer prints."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
